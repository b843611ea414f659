"""Checkpoints: everything a run needs to go on exactly as if it had never stopped, in one safetensors file.

Batches and noise are functions of the step, so model, averaged weights, optimizers and the step are all there is.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from kalpana.train.recipe import Recipe
from kalpana.types import KalpanaError
from kalpana.world.world import VERSION


@dataclass
class State:
    """What changes while a run goes on. ``ema`` has the names of the model's state."""

    model: nn.Module
    ema: dict[str, Tensor]
    optimizers: Sequence[Optimizer]
    step: int = 0
    seconds: float = 0.0  # of training so far


def save(path: Path, state: State, recipe: Recipe) -> None:
    """Write the checkpoint whole or not at all: a kill in the middle leaves the previous one as it was."""
    tensors = {f"model.{name}": value for name, value in state.model.state_dict().items()}
    tensors |= {f"ema.{name}": value for name, value in state.ema.items()}
    for k, optimizer in enumerate(state.optimizers):
        for i, values in optimizer.state_dict()["state"].items():
            tensors |= {
                f"optimizer.{k}.{i}.{name}": torch.as_tensor(value)
                for name, value in values.items()
            }
    about = {
        "format": "kalpana-checkpoint",
        "step": str(state.step),
        "seconds": str(state.seconds),
        "recipe": recipe.model_dump_json(),
        "data": VERSION,
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.part")
    safetensors.torch.save_file(
        {name: value.contiguous().clone() for name, value in tensors.items()}, beside, about
    )
    with beside.open("rb") as file:
        os.fsync(file.fileno())
    beside.replace(path)


def load(path: Path, state: State, recipe: Recipe) -> None:
    """Put a checkpoint back into ``state``. Raises KalpanaError if it is broken or belongs to another recipe."""
    try:
        with safetensors.safe_open(path, "pt") as file:
            about = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
    except (OSError, safetensors.SafetensorError) as error:
        raise KalpanaError(
            f"the checkpoint {path} is broken ({error}): delete it to start again, or put an older copy in its place"
        ) from None
    if about.get("format") != "kalpana-checkpoint":
        raise KalpanaError(f"{path} is not a checkpoint of a training run")
    if about["data"] != VERSION:
        raise KalpanaError(
            f"{path} learned from version {about['data']} of the world, and this is {VERSION}: train into another folder"
        )
    before, now = (
        each.model_dump(mode="json")
        for each in (Recipe.model_validate_json(about["recipe"]), recipe)
    )
    changed = [name for name in now if before[name] != now[name]]
    if changed:
        raise KalpanaError(
            f"{path} was made by a recipe that differs in {', '.join(changed)}: undo that, or train into another folder"
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
                if (
                    value.shape == parameter.shape
                ):  # laid out as the parameter (channels last), which fused kernels take for granted
                    moments[key] = torch.empty_like(parameter).copy_(value)
    state.step, state.seconds = int(about["step"]), float(about["seconds"])
