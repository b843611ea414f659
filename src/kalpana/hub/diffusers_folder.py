"""Folders in the layout of the diffusers library: whether one is whole, and safe to load.

A folder holds model_index.json, which names the class of the pipeline and of each part, and a
folder for each part. All is checked before a weight is read, and before diffusers is imported:
weights have to be safetensors, and code that comes with them is refused.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from kalpana.hub.public import misfit, read_object
from kalpana.types import KalpanaError

INDEX, CONFIG, SCHEDULER = "model_index.json", "config.json", "scheduler_config.json"
PICKLES = (".bin", ".ckpt", ".pt", ".pth", ".pkl", ".msgpack", ".h5")
# Classes of parts that have no weights.
WITHOUT_WEIGHTS = re.compile(r"(Scheduler|Tokenizer\w*|Processor\w*|FeatureExtractor|Guider)$")
# A part that reports unsafe pictures as black ones; not loaded where the pipeline allows that.
CHECKERS = ("safety_checker",)
SHARD = re.compile(r"-(\d{5})-of-(\d{5})")


@dataclass(frozen=True)
class DiffusersFolder:
    """Contents of a folder: the class of its ``pipeline``, the library and class of its ``parts``,
    the names of the parts that are ``absent`` on purpose, its weight files, and the ``variant`` of
    their names, such as fp16."""

    path: Path
    pipeline: str
    parts: dict[str, tuple[str, str]]
    absent: tuple[str, ...]
    weights: tuple[Path, ...]
    variant: str | None


def holds(folder: Path) -> bool:
    """Whether a folder is in the layout of diffusers."""
    return (folder / INDEX).is_file()


def class_of(folder: Path) -> str:
    """Name of the pipeline class of a folder. Raises KalpanaError if it is code of its own."""
    path = folder / INDEX
    name = read_object(path).get("_class_name")
    if not isinstance(name, str):
        raise misfit(path, "_class_name", name, "only a class of diffusers can be loaded, no code")
    return name


def read(folder: Path) -> DiffusersFolder:
    """Contents of a folder. Raises KalpanaError, one line that names all files at fault, if it has
    code or pickled weights, or lacks a file."""
    pipeline, parts = class_of(folder), parts_of(folder)
    _refuse_code(folder, parts)
    missing, pickles = list[str](), list[str]()
    chosen = dict[str, tuple[Path, ...]]()
    for part, (_, kind) in parts.items():
        place = folder / part
        config = SCHEDULER if kind.endswith("Scheduler") else CONFIG
        has_weights = not WITHOUT_WEIGHTS.search(kind)
        if has_weights or config == SCHEDULER:
            missing += [] if (place / config).is_file() else [f"{part}/{config}"]
        elif not place.is_dir() or not any(place.iterdir()):
            missing.append(f"{part}/")
        if not has_weights:
            continue
        files = _names(place)
        names = weights_of(files)
        missing += [f"{part}/{name}" for name in lost_shards(names)]
        if not names:
            missing.append(f"{part}/*.safetensors")
            pickles += [f"{part}/{name}" for name in files if name.endswith(PICKLES)]
        chosen[part] = tuple(place / name for name in names)
    if missing:
        raise _lacks(folder, missing, pickles)
    weights = tuple(path for paths in chosen.values() for path in paths)
    variant = next((each for path in weights if (each := variant_of(path.name))), None)
    index = read_object(folder / INDEX)
    absent = tuple(name for name, value in index.items() if value == [None, None])
    return DiffusersFolder(folder, pipeline, parts, absent, weights, variant)


def parts_of(folder: Path) -> dict[str, tuple[str, str]]:
    """Library and class of each part that a folder's index names, without a safety checker.

    Raises KalpanaError for a part that is not a pair of names.
    """
    path, parts = folder / INDEX, dict[str, tuple[str, str]]()
    for name, value in read_object(path).items():
        if name.startswith("_") or not isinstance(value, list) or name in CHECKERS:
            continue
        if value == [None, None]:
            continue
        if len(value) != 2 or not all(isinstance(each, str) for each in value):
            raise misfit(path, name, value, 'it should be ["library", "class"]')
        if not re.fullmatch(r"\w+", name):
            raise misfit(path, name, value, "it is no name of a folder")
        parts[name] = (value[0], value[1])
    return parts


def weights_of(names: Iterable[str]) -> list[str]:
    """The weights to read among the names of the files of one part: those without a variant, or
    else of fp16, or else of the first variant."""
    files = sorted(name for name in names if name.endswith(".safetensors"))
    variants = dict[str, list[str]]()
    for name in files:
        variants.setdefault(variant_of(name) or "", []).append(name)
    for variant in ("", "fp16", *sorted(variants)):
        if variant in variants:
            return variants[variant]
    return []


def variant_of(name: str) -> str | None:
    """The variant in the name of a weight file: fp16 in model.fp16.safetensors."""
    _, _, variant = SHARD.sub("", name).removesuffix(".safetensors").partition(".")
    return variant or None


def lost_shards(names: Iterable[str]) -> list[str]:
    """Names of the shards that are missing beside others of the same weights."""
    here, lost = set(names), list[str]()
    for name in sorted(here):
        if found := SHARD.search(name):
            for k in range(1, int(found[2]) + 1):
                other = f"{name[: found.start()]}-{k:05}-of-{found[2]}{name[found.end() :]}"
                lost += [other] if other not in here and other not in lost else []
    return lost


def _names(place: Path) -> list[str]:
    return sorted(path.name for path in place.iterdir()) if place.is_dir() else []


def _refuse_code(folder: Path, parts: Iterable[str]) -> None:
    """Raises KalpanaError for a folder with Python files or configs that name some."""
    code = [file for place in ("", *parts) for file in (folder / place).glob("*.py")]
    if code:
        names = ", ".join(str(path.relative_to(folder)) for path in sorted(code))
        raise KalpanaError(
            f"{folder} comes with code, {names}, which is never run: take a model whose classes "
            "are those of diffusers and transformers, or delete what is not needed"
        )
    for part in parts:
        for name in (CONFIG, "tokenizer_config.json"):
            path = folder / part / name
            if path.is_file() and (value := read_object(path).get("auto_map")):
                raise misfit(path, "auto_map", value, "it names code, which is never run")


def _lacks(folder: Path, missing: list[str], pickles: list[str]) -> KalpanaError:
    """Error, to be raised, that names missing files, and pickles in their place."""
    hint = "fetch the model again, or put them there"
    if pickles:
        hint = (
            f"{', '.join(pickles)} are pickles, which can run code when they are read: where you "
            'trust them, write safetensors with python -c "from diffusers import DiffusionPipeline '
            f"as P; f = {str(folder)!r}; P.from_pretrained(f, use_safetensors=False)"
            '.save_pretrained(f)"'
        )
    return KalpanaError(f"{folder} lacks {', '.join(missing)}: {hint}")
