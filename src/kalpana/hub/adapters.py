"""Adapters (LoRA) in files: which model they were trained for, and models with them merged in."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import nn

from kalpana.families import FAMILIES
from kalpana.hub.card import find_model, read_card, write_card, write_hashes
from kalpana.hub.weights import (
    files_of,
    load_module,
    provenance,
    read_weights,
    save_tensors,
)
from kalpana.inputs import Adapter
from kalpana.models.lora import Adapted, LoRA, adapted
from kalpana.types import KalpanaError


def adapt(
    network: nn.Module, family: str, files: dict[str, str], adapters: Sequence[Adapter]
) -> tuple[Adapted, set[str], tuple[str, ...]]:
    """A network of a family with adapters; the words, in lower case, that stand for what they have
    learned; and warnings about those that were trained for other weights than ``files`` (SHA-256
    by name).

    Raises KalpanaError if an adapter cannot be read or does not fit the network.
    """
    loaded, words, warnings = [], set[str](), list[str]()
    for each in adapters:
        lora = _read(each)
        name = each.file.name
        if lora.config.base != family:
            raise KalpanaError(
                f"adapter {name} is for models of family {lora.config.base!r}, not {family!r}"
            )
        about = provenance(Path(each.file.path or ""))
        words |= words_of(about)
        trained = about.get("base", {})
        if not set(trained.values()) <= set(files.values()):
            warnings.append(
                f"adapter {name} was trained for other weights ({', '.join(trained)}) of the same "
                "shape: it may have less effect"
            )
        loaded.append((lora, each.strength))
    return adapted(network, loaded), words, tuple(warnings)


def words_of(provenance: Mapping[str, Any]) -> set[str]:
    """The words, in lower case, that stand for what an adapter of this provenance has learned."""
    return set(provenance.get("recipe", {}).get("word", "").casefold().split())


def _read(adapter: Adapter) -> LoRA:
    if adapter.file.path is None:
        raise KalpanaError("an adapter is read from its file: give its path")
    adapter.file.read()  # the file is where it was, and is the same
    lora: LoRA = load_module(Path(adapter.file.path), "lora")
    return lora


def merge(model: str, adapters: Sequence[Adapter], out: Path) -> Path:
    """Write the folder ``out``: a model, by name or folder, with adapters merged into its weights.

    Raises KalpanaError if ``out`` exists, and as ``adapt``.
    """
    folder = find_model(model)
    card = read_card(folder)
    family = FAMILIES[card.family]
    path = folder / family.file
    if out.exists():
        raise KalpanaError(f"{out} exists: name a new folder")
    if not family.file:
        raise KalpanaError(f"model {model!r} has no weights of its own")
    network = load_module(path, card.family, card.files)
    changed, *_ = adapt(network, card.family, card.files, adapters)
    weights = read_weights(path, card.family)
    merged = {each.file.name: [each.file.sha256, each.strength] for each in adapters}
    out.mkdir(parents=True)
    for file in sorted(folder.glob("*.safetensors")):
        if file not in files_of(path):
            shutil.copy(file, out)
    save_tensors(
        out / family.file,
        replace(
            weights,
            tensors=weights.tensors | changed.weights,
            provenance=weights.provenance | {"adapters": merged},
        ),
    )
    write_card(out, card.model_copy(update={"name": out.resolve().name}))
    write_hashes(out)
    return out
