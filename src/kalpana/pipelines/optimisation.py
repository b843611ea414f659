"""State of an optimisation: its latent, running mean and optimizer, saved to a file and resumed."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor
from torch.optim import Adam

from kalpana.errors import shorten
from kalpana.media import write
from kalpana.pipelines.image_parameters import Latent
from kalpana.types import KalpanaError

FORMAT = "kalpana-vqgan-clip"  # identifies a state file


@dataclass
class Run:
    """The state of an optimisation: the ``latent``, its running ``mean``, the optimizer with its
    moments, and the number of the last ``step`` done."""

    latent: Latent
    mean: Latent
    adam: Adam
    step: int = 0


def new_run(latent: Latent, rate: float) -> Run:
    """A run at step 0 from an initial latent, with learning rate ``rate``."""
    latent = tuple(part.detach().clone().requires_grad_() for part in latent)
    return Run(latent, tuple(part.detach().clone() for part in latent), Adam(latent, lr=rate))


def _tensors(run: Run) -> dict[str, Tensor]:
    """The tensors of a run to be saved, by name: latents, means and Adam's state."""
    tensors: dict[str, Tensor] = {}
    for k, (part, mean) in enumerate(zip(run.latent, run.mean, strict=True)):
        tensors |= {f"latent.{k}": part.detach(), f"mean.{k}": mean}
        tensors |= {
            f"adam.{k}.{name}": torch.as_tensor(value)
            for name, value in run.adam.state[part].items()
        }
    return tensors


def save_run(path: Path, run: Run, about: dict[str, Any]) -> None:
    """Write a state file: the tensors of a run, its step, and ``about``, the arguments of the
    run."""
    tensors = {name: value.cpu().contiguous() for name, value in _tensors(run).items()}
    header = {
        "format": FORMAT,
        "step": str(run.step),
        "about": json.dumps(about, ensure_ascii=False),
    }
    write(path, safetensors.torch.save(tensors, header))


def read_run(path: Path) -> tuple[dict[str, Any], int, dict[str, Tensor]] | None:
    """The contents of a state file: ``about``, step and tensors; None if there is no file. Raises
    KalpanaError if it is not a state file."""
    if not path.exists():
        return None
    try:
        with safetensors.safe_open(path, "pt") as file:
            header = file.metadata() or {}
            if header.get("format") == FORMAT:
                return (
                    json.loads(header["about"]),
                    int(header["step"]),
                    {name: file.get_tensor(name) for name in file.keys()},  # noqa: SIM118
                )
    except (OSError, safetensors.SafetensorError, KeyError, ValueError) as error:
        raise KalpanaError(
            f"the state {path} is damaged or none at all ({error}): "
            "delete it to begin again, or name another"
        ) from None
    raise KalpanaError(f"{path} is not the state of a picture by VQGAN+CLIP: name another file")


def resume(
    run: Run,
    path: Path,
    saved: tuple[dict[str, Any], int, dict[str, Tensor]],
    about: dict[str, Any],
    steps: int,
) -> None:
    """Restore a run from the contents of a state file. Raises KalpanaError if the state is of
    another picture, or has more steps than ``steps``."""
    before, step, tensors = _flatten(saved[0]), *saved[1:]
    now = _flatten(json.loads(json.dumps(about)))
    if changed := [name for name in {**before, **now} if before.get(name) != now.get(name)]:
        differences = "; ".join(
            f"{name} is {shorten(before.get(name))} there and {shorten(now.get(name))} here"
            for name in changed
        )
        raise KalpanaError(
            f"the state {path} is of another picture: {differences}; "
            "undo that, or name another file"
        )
    if step > steps:
        raise KalpanaError(
            f"the state {path} has {step} steps behind it, and {steps} are asked for: "
            f"write {step} or more"
        )
    for k, (part, mean) in enumerate(zip(run.latent, run.mean, strict=True)):
        part.data.copy_(tensors[f"latent.{k}"])
        mean.copy_(tensors[f"mean.{k}"])
    moments = {
        k: {
            name.split(".")[2]: value
            for name, value in tensors.items()
            if name.startswith(f"adam.{k}.")
        }
        for k in range(len(run.latent))
    }
    run.adam.load_state_dict({**run.adam.state_dict(), "state": moments})
    run.step = step


def _flatten(about: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """A flat copy of a nested dict, with names such as settings.ema."""
    flat: dict[str, Any] = {}
    for name, value in about.items():
        flat |= (
            _flatten(value, f"{prefix}{name}.")
            if isinstance(value, dict)
            else {f"{prefix}{name}": value}
        )
    return flat
