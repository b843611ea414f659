"""Ablation of a diffusion recipe: arms with some fields changed, trained at equal compute.

Arms have the same network, data, steps and batch. They are compared by what does not depend on the
prediction and its weight: the error of the x0 estimate at fixed signal-to-noise ratios on dev data,
the share of right pictures, and how widely the brightness of the pictures varies, which is too
little without zero terminal SNR (Lin et al. 2024).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml
from PIL import Image
from torch import Tensor

from kalpana.diffusion.schedule import levels, time_at
from kalpana.evaluate.prompts import Prompt
from kalpana.evaluate.sampling import quality, true_pictures
from kalpana.evaluate.verifiers.observations import Verifier
from kalpana.families import FAMILIES
from kalpana.hub.weights import find_device, load_module
from kalpana.media import to_pixels
from kalpana.pipelines import last
from kalpana.pipelines.diffusion import DiffusionPipeline
from kalpana.text.tokenizer import Tokenizer, Window
from kalpana.train.data_cache import silent
from kalpana.train.diffusion import DiffusionRecipe, DiffusionTask
from kalpana.train.flow import FlowTask
from kalpana.train.loop import make_task, train
from kalpana.train.recipe import read_recipe
from kalpana.train.task import HELD_OUT, moved
from kalpana.types import KalpanaError

LEVELS = -3.0, -1.5, 0.0, 1.5  # half log-SNRs, log(alpha / sigma), from noisy to clean
ROWS = 64  # dev examples of the error
EQUAL = "model", "steps", "batch", "num_images", "seed", "kind", "vae"  # the same in all arms


@dataclass(frozen=True)
class Arm:
    """Measurements of one arm: errors of x0 (mean square) at LEVELS, the share of the ``count``
    pictures that are ``right``, and the standard deviation of their mean brightness divided by that
    of true pictures."""

    name: str
    errors: tuple[float, ...]
    count: int
    right: float
    brightness: float


def read_arms(
    recipe: str | Path, arms: Sequence[str], **changes: Any
) -> dict[str, DiffusionRecipe]:
    """Recipes of the arms by their names: that of the file, and for each text such as
    ``prediction=eps,min_snr_gamma=5`` one with these fields changed.

    Raises KalpanaError for a text without "=", a field that makes the compute unequal, a recipe
    that is not of a latent diffusion network, and as ``read_recipe``.
    """
    found = dict[str, DiffusionRecipe]()
    for arm in ("base", *arms):
        fields = {} if arm == "base" else _fields(arm)
        read = read_recipe(recipe, **changes | fields)
        if not isinstance(read, DiffusionRecipe) or "vae" not in type(read).model_fields:
            raise KalpanaError(
                f"recipe {recipe} is of family {read.family}: an ablation takes that of a latent "
                "diffusion network, flow or unet"
            )
        found[arm] = read
    return found


def _fields(arm: str) -> dict[str, Any]:
    """Fields of an arm's text, their values read as YAML."""
    fields = {}
    for part in arm.split(","):
        name, equals, value = (each.strip() for each in part.partition("="))
        if not equals or not name:
            raise KalpanaError(f"--arm {arm!r}: write FIELD=VALUE, such as prediction=eps")
        if name in EQUAL:
            raise KalpanaError(
                f"--arm {arm!r}: field {name!r} is the same in all arms: leave it out"
            )
        fields[name] = yaml.safe_load(value)
    return fields


def ablate(
    recipes: Mapping[str, DiffusionRecipe],
    verifier: Verifier,
    prompts: Sequence[Prompt],
    out: Path,
    echo: Callable[[str], None],
    device: str | None = None,
    steps: int = 20,
) -> list[Arm]:
    """Measurements of each arm, which is trained in its own folder below ``out``; a run that is
    found there is resumed. ``steps`` are those of a picture."""
    rows = []
    true = true_pictures(prompts, 1)
    for name, recipe in recipes.items():
        echo(f"arm {name}")
        weights = train(recipe, out / name.replace("/", "_"), device=device, echo=echo)
        if weights is None:
            raise KeyboardInterrupt  # the run was stopped, and its checkpoint is saved
        task = make_task(recipe, find_device(device), silent)
        assert isinstance(task, FlowTask)
        task.model.load_state_dict(load_module(weights, recipe.family).state_dict())
        task.model.eval()
        model = pipeline_of(task)
        pictures = [
            [last(model.generate(each.text, seed=each.seeds(1)[0], steps=steps)).outputs[0].image]
            for each in prompts
        ]
        score = quality(name, verifier, None, prompts, pictures)
        spread = brightness(pictures) / brightness(true)
        rows.append(Arm(name, x0_errors(task), score.count, score.right, spread))
    return rows


def pipeline_of(task: FlowTask) -> DiffusionPipeline:
    """Pipeline of the network of a task, with the default capabilities of its family."""
    family = FAMILIES[task.recipe.family]
    assert family.capabilities is not None
    return DiffusionPipeline(
        name=task.recipe.name,
        family=family.name,
        capabilities=family.capabilities,
        files={},
        words=Window(Tokenizer.load(), task.data.length),
        network=task.network,
        codec=task.data.vae,
        process=task.process,
    )


@torch.no_grad()
def x0_errors(task: DiffusionTask) -> tuple[float, ...]:
    """Mean squared errors of the x0 estimate at LEVELS, of the first dev examples."""
    batch = moved(task.data.held_out(range(min(ROWS, HELD_OUT))), task.device)
    x0, cond = batch.x0.float(), task.cond(batch)
    eps = torch.randn(x0.shape, generator=torch.Generator().manual_seed(0)).to(x0)
    denoise = task.process.denoiser(task.network)
    wanted = torch.tensor(LEVELS, dtype=torch.float64)
    found = []
    for t in time_at(task.schedule, wanted):
        alpha, sigma = levels(task.schedule, t.expand(len(x0)).to(x0), x0)
        found.append(float((denoise(alpha * x0 + sigma * eps, t, cond) - x0).square().mean()))
    return tuple(found)


def brightness(pictures: Sequence[Sequence[Image.Image]]) -> float:
    """Standard deviation of the mean brightness of pictures, in [-1, 1]."""
    flat: Tensor = torch.stack([to_pixels([each]).mean() for row in pictures for each in row])
    return float(flat.std(unbiased=False))


def markdown(rows: Sequence[Arm]) -> str:
    """The table of the arms."""
    heads = " | ".join(f"x0 error at {level:g}" for level in LEVELS)
    lines = [
        f"| arm | {heads} | right, % | brightness |",
        f"|---|{'---:|' * len(LEVELS)}---:|---:|",
    ]
    for row in rows:
        errors = " | ".join(f"{error:.4f}" for error in row.errors)
        lines.append(f"| {row.name} | {errors} | {100 * row.right:.1f} | {row.brightness:.2f} |")
    note = (
        f"{rows[0].count} pictures each. Errors are at fixed log(alpha / sigma); brightness is its "
        "standard deviation over the pictures, that of true pictures being 1."
    )
    return "\n".join(lines) + f"\n\n{note}\n"
