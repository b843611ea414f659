"""Distillation of the image transformer to few steps: a two-time student learns the mean velocity
of the paths of its frozen teacher under guidance (SplitMeanFlow, Guo et al. 2025).

Targets need forward passes only: two of the teacher, and one of the student for rows with a step.
A derivative with respect to time (a JVP, as in MeanFlow) would cost five times as much as a pass.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Generator, Tensor

from kalpana.diffusion.denoiser import Process
from kalpana.diffusion.guidance import guide
from kalpana.diffusion.mean_flow import mean_velocity, split_target, to_next
from kalpana.diffusion.samplers import SAMPLERS, State, sample
from kalpana.diffusion.schedule import times
from kalpana.hub.weights import files_of, fingerprint, load_module, read_process
from kalpana.models.turbo_dit import TurboDiT
from kalpana.train import data_cache
from kalpana.train.diffusion import DiffusionBatch, DiffusionTask, noise_times
from kalpana.train.flow import LatentData, LatentRecipe
from kalpana.train.loop import compile_blocks
from kalpana.train.recipe import located
from kalpana.train.task import Metrics, noise
from kalpana.types import Cond, KalpanaError, Tokens

STEPS = 4  # of the pictures of a sheet
PROCESS = Process("flow", "x0")  # the only one that has a mean velocity in the form of x0


class TurboRecipe(LatentRecipe):
    """Recipe of a model of few steps."""

    refuses: ClassVar = {
        "schedule": f"a mean velocity is that of {PROCESS.schedule}",
        "prediction": f"a mean velocity is that of {PROCESS.prediction}",
        "aux_weight": "a student has no auxiliary head",
        **dict.fromkeys(
            ("timesteps", "min_snr_gamma"), "a student has times and a weight of its own"
        ),
    }

    family: Literal["turbo"] = "turbo"
    image_model: Path = Field(
        description="weights of the image transformer that is the teacher, and from which the "
        "student starts, such as weights/default/control_dit.safetensors"
    )
    guidance: tuple[float, float] = Field(
        default=(1.0, 8.0), description="least and greatest guidance that it learns"
    )
    interval: tuple[float, float] = Field(
        default=(0.2, 0.9), description="times, from above the first to the second, of guidance"
    )
    same_time_share: float = Field(
        default=0.5,
        ge=0,
        le=1,
        description="share of the samples with a step of length 0, whose target is the velocity",
    )
    end_share: float = Field(
        default=0.25,
        ge=0,
        le=1,
        description="share of the other samples whose step starts at pure noise, and share of "
        "those whose step ends at data",
    )
    own_share: float = Field(
        default=0.5,
        ge=0,
        le=1,
        description="share of the samples, rising to it linearly over the run, that lie on the "
        "student's own path from noise instead of being noised data",
    )
    first_split: float = Field(
        default=0.5,
        gt=0,
        lt=1,
        description="at the start of the run, the part of a step over which the velocity of the "
        "teacher counts as constant; the rest is by the student",
    )
    last_split: float = Field(
        default=0.125, gt=0, lt=1, description="the same part at the end of the run"
    )
    loss_floor: float = Field(
        default=0.1,
        gt=0,
        description="added to the squared error by which a sample's loss is divided, so that all "
        "samples weigh about the same (MeanFlow)",
    )

    def problems(self) -> Iterator[tuple[str, str]]:
        yield from super().problems()
        low, high = self.guidance
        if not 1 <= low <= high:
            yield "guidance", "write two numbers from 1 on, the smaller first"
        low, high = self.interval
        if not 0 <= low < high <= 1:
            yield "interval", "write two times from 0 to 1, the smaller first"


class TurboTask(DiffusionTask):
    """Regression of the student's mean velocity on that of the guided teacher."""

    recipe: TurboRecipe
    data: LatentData

    def __init__(
        self, recipe: TurboRecipe, device: torch.device, progress: data_cache.Progress
    ) -> None:
        vae = load_module(located(recipe.vae), "vae").to(device)
        path = located(recipe.image_model)
        if Process(**read_process(path)) != PROCESS:
            raise KalpanaError(
                f"recipe {recipe.name}: field 'image_model': {recipe.image_model} was trained for "
                "another process than x0 of flow: name such weights"
            )
        self.teacher = load_module(path, "flow").to(device).requires_grad_(False)
        self.teacher_files = {file.name: fingerprint(file) for file in files_of(path)}
        if recipe.compile:
            compile_blocks(self.teacher)
        model = TurboDiT.widen(self.teacher, **{"aux_outputs": 0} | recipe.model)
        config = model.config
        data = LatentData(recipe, vae, config.length, config.patch, device, progress)
        super().__init__(recipe, device, model, data)

    @property
    def provenance(self) -> dict[str, object]:
        """What the weights say of their teacher."""
        return {"teacher": self.teacher_files}

    def cond(self, batch: DiffusionBatch, null: Tensor | None = None) -> Cond:
        return Cond(tokens=batch.tokens, null=null)

    def loss(
        self, batch: DiffusionBatch, rng: Generator, progress: float
    ) -> tuple[Tensor, Metrics]:
        """The loss, in which every sample weighs about the same. Where errors are above the
        ``loss_floor`` it is near 1 and hardly falls: the metrics hold the errors themselves, of all
        samples, of those with s = t (the velocity) and of those with a step."""
        error, same = self.errors(batch, rng, progress)
        loss = error / (error.detach() + self.recipe.loss_floor)
        metrics = {"error": error.mean().item()}
        for name, rows in (("velocity_error", same), ("step_error", ~same)):
            if rows.any():
                metrics[name] = error[rows].mean().item()
        return loss.mean(), metrics

    def dev_errors(self, batch: DiffusionBatch, rng: Generator) -> Tensor:
        return self.errors(batch, rng, 1.0)[0]

    def errors(
        self, batch: DiffusionBatch, rng: Generator, progress: float
    ) -> tuple[Tensor, Tensor]:
        """Mean squared errors (b,) of the mean velocity, and the rows (b,) with s = t."""
        recipe, x0, b = self.recipe, batch.x0.float(), len(batch.x0)
        t, s = step_times(b, rng, recipe.same_time_share, recipe.end_share)
        scale = torch.empty(b).uniform_(*recipe.guidance, generator=rng)
        null = torch.rand(b, generator=rng) < recipe.caption_dropout
        own = torch.rand(b, generator=rng) < recipe.own_share * progress
        t, s, eps = t.to(x0), s.to(x0), noise(x0, rng)
        null, scale, own = (each.to(self.device) for each in (null, scale, own))
        cond = replace(self.cond(batch, null), guidance=scale)
        with torch.no_grad():
            x_t = torch.lerp(x0, eps, t[:, None, None, None])
            if len(rows := own.nonzero()[:, 0]):
                ones, until = torch.ones_like(t[rows]), t[rows]
                velocity = self._mean_velocity(eps[rows], ones, until, rows_of(cond, rows))
                x_t[rows] = eps[rows] - (1 - until)[:, None, None, None] * velocity
            target = self._target(x_t, t, s, cond, progress)
        # Weights cast without a gradient must not be used again below.
        torch.clear_autocast_cache()
        error = self._mean_velocity(x_t, t, s, cond) - target
        return error.square().flatten(1).mean(1), s == t

    def _target(self, x_t: Tensor, t: Tensor, s: Tensor, cond: Cond, progress: float) -> Tensor:
        """Target of the mean velocity from t to s (b,)."""
        first, last = self.recipe.first_split, self.recipe.last_split
        target = self._velocity(x_t, t, cond)
        if len(rows := (s < t).nonzero()[:, 0]):
            part = rows_of(cond, rows)
            target[rows] = split_target(
                target[rows],
                lambda x, t, s: self._mean_velocity(x, t, s, part),
                x_t[rows],
                t[rows],
                s[rows],
                first + (last - first) * progress,
            )
        return target

    def _mean_velocity(self, x_t: Tensor, t: Tensor, s: Tensor, cond: Cond) -> Tensor:
        """Mean velocity of the student from t to s."""
        x0 = self.network(x_t, t, replace(cond, until=s)).float()
        return mean_velocity(x0, x_t, t)

    def _velocity(self, x_t: Tensor, t: Tensor, cond: Cond) -> Tensor:
        """Velocity of the teacher, guided by ``cond.guidance`` within the interval."""
        assert cond.guidance is not None
        both = Cond.cat(cond, cond.dropped())
        twice = torch.cat((x_t, x_t)), torch.cat((t, t))
        x0, x0_null = self.teacher(*twice, both).float().chunk(2)
        low, high = self.recipe.interval
        scale = torch.where((low < t) & (t <= high), cond.guidance, 1.0)[:, None, None, None]
        return mean_velocity(x0_null + scale * (x0 - x0_null), x_t, t)

    def sampling(self, x: Tensor, cond: Cond) -> Iterator[State]:
        timesteps, scale = times(STEPS), x.new_full((1,), sum(self.recipe.guidance) / 2)
        denoiser = self.process.denoiser(to_next(self.network, timesteps))
        denoise = guide(denoiser, replace(cond, guidance=scale))
        return sample(denoise, x, timesteps, SAMPLERS["euler"])


def step_times(
    count: int, rng: Generator, same_share: float, end_share: float
) -> tuple[Tensor, Tensor]:
    """Times t and s (count,) of steps from t down to s, with s = t in a share of them. Of the
    others a share starts at 1, and one ends at 0, which a sampling does and logit-normal times do
    not reach."""
    one, two = noise_times(count, rng), noise_times(count, rng)
    same, first, last = torch.rand(3, count, generator=rng)
    t = torch.where(first < end_share, 1.0, torch.maximum(one, two))
    s = torch.where(last < end_share, 0.0, torch.minimum(one, two))
    same_time = same < same_share
    return torch.where(same_time, one, t), torch.where(same_time, one, s)


def rows_of(cond: Cond, rows: Tensor) -> Cond:
    """Some rows of a condition of a text with guidance."""
    assert cond.tokens is not None and cond.null is not None and cond.guidance is not None
    tokens = Tokens(cond.tokens.ids[rows], cond.tokens.mask[rows])
    return Cond(tokens, cond.null[rows], guidance=cond.guidance[rows])
