"""Checkpoints: the state that an exact resume needs, in one safetensors file.

Batches and noise are functions of the step, so the state is the model, the averaged weights, the
optimizers and the step.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from kalpana.hub.weights import current_name, files_of, fingerprint
from kalpana.media import atomic
from kalpana.train.recipe import Recipe, located, saved_recipe
from kalpana.types import KalpanaError
from kalpana.world.world import VERSION

# Fields that change nothing that is learned.
FREE = ("name", "compile", "log_every", "sample_every", "save_every")


@dataclass
class State:
    """Mutable state of a run."""

    model: nn.Module
    ema: dict[str, Tensor]  # averaged weights, with the names of the model's state
    optimizers: Sequence[Optimizer]
    step: int = 0
    seconds: float = 0.0  # training time so far


def save(path: Path, state: State, recipe: Recipe) -> None:
    """Write a checkpoint atomically: if the process is killed, the previous file stays intact."""
    tensors = {f"model.{name}": value for name, value in state.model.state_dict().items()}
    tensors |= {f"ema.{name}": value for name, value in state.ema.items()}
    for k, optimizer in enumerate(state.optimizers):
        for i, values in optimizer.state_dict()["state"].items():
            tensors |= {
                f"optimizer.{k}.{i}.{name}": torch.as_tensor(value)
                for name, value in values.items()
            }
    header = {
        "format": "kalpana-checkpoint",
        "step": str(state.step),
        "seconds": str(state.seconds),
        "recipe": recipe.model_dump_json(),
        "files": json.dumps(fingerprints(recipe)),
        "data": VERSION,
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    for left in path.parent.glob(f".{path.name}.*.part"):  # by a process that was killed
        left.unlink(missing_ok=True)
    try:
        with atomic(path) as temporary:
            safetensors.torch.save_file(
                {name: value.contiguous().clone() for name, value in tensors.items()},
                temporary,
                header,
            )
    except (OSError, safetensors.SafetensorError) as error:
        raise KalpanaError(f"cannot write the checkpoint {path}: {error}") from None


def load(path: Path, state: State, recipe: Recipe) -> None:
    """Load a checkpoint into ``state``.

    Raises KalpanaError if the file is broken or from another recipe or another version of the
    world.
    """
    try:
        with safetensors.safe_open(path, "pt") as file:
            header = file.metadata() or {}
            names = file.keys()  # safe_open is no mapping
            tensors = {current_name(name): file.get_tensor(name) for name in names}
    except (OSError, safetensors.SafetensorError) as error:
        raise KalpanaError(
            f"the checkpoint {path} is broken ({error}): "
            "delete it to start again, or put an older copy in its place"
        ) from None
    if header.get("format") != "kalpana-checkpoint":
        raise KalpanaError(f"{path} is not a checkpoint of a training run")
    if header["data"] != VERSION:
        raise KalpanaError(
            f"{path} was trained on version {header['data']} of the world, and this is {VERSION}: "
            "train into another folder"
        )
    changed = differences(header, recipe)
    if changed:
        raise KalpanaError(
            f"{path} was made by a recipe that differs in {', '.join(changed)}: "
            "undo that, or train into another folder"
        )

    def part(prefix: str) -> dict[str, Tensor]:
        return {
            name.removeprefix(prefix): value
            for name, value in tensors.items()
            if name.startswith(prefix)
        }

    state.model.load_state_dict(part("model."))
    for name, value in part("ema.").items():
        state.ema[name].copy_(value)
    for k, optimizer in enumerate(state.optimizers):
        values: dict[int, dict[str, Tensor]] = {}
        for name, value in part(f"optimizer.{k}.").items():
            i, _, key = name.partition(".")
            values.setdefault(int(i), {})[key] = value
        optimizer.load_state_dict({**optimizer.state_dict(), "state": values})
        for parameter, moments in optimizer.state.items():
            for key, value in moments.items():
                # Fused kernels expect the parameter's memory layout (channels last).
                if value.shape == parameter.shape:
                    moments[key] = torch.empty_like(parameter).copy_(value)
    state.step, state.seconds = int(header["step"]), float(header["seconds"])


def differences(header: Mapping[str, str], recipe: Recipe) -> list[str]:
    """Fields of a recipe that change what is learned and differ from those of a checkpoint with
    this header. Files are compared by their content."""
    old = saved_recipe(json.loads(header["recipe"]))
    if type(old) is not type(recipe):
        return ["family"]
    before, now = (each.model_dump(mode="json", exclude=set(FREE)) for each in (old, recipe))
    if "files" in header:  # not in those of earlier versions
        before |= json.loads(header["files"])
        now |= fingerprints(recipe)
    return [name for name in now if before[name] != now[name]]


def fingerprints(recipe: Recipe) -> dict[str, list[str]]:
    """SHA-256 of the files that each field of a recipe names."""
    return {
        name: _hashes(value)
        for name in type(recipe).model_fields
        if isinstance(value := getattr(recipe, name), Path)
    }


def _hashes(path: Path) -> list[str]:
    """SHA-256 of the files that a path stands for: weights, or what is in a folder."""
    path = located(path)
    files = sorted(path.iterdir()) if path.is_dir() else files_of(path)
    return [_hash(file, file.stat().st_mtime_ns) for file in files if file.is_file()]


@lru_cache
def _hash(file: Path, changed: int) -> str:
    return fingerprint(file)
