"""Training of diffusion networks: any schedule, prediction, condition and data.

A family subclasses ``DiffusionTask`` with its own network and its own ``DiffusionData``.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import torch
from pydantic import Field
from torch import Generator, Tensor

from kalpana.diffusion.denoiser import PREDICTIONS, Process
from kalpana.diffusion.guidance import guide
from kalpana.diffusion.samplers import SAMPLERS, State, sample
from kalpana.diffusion.schedule import SCHEDULES, levels, times
from kalpana.train.recipe import CaptionedRecipe
from kalpana.train.task import (
    HELD_OUT,
    Metrics,
    add_auxiliary_loss,
    linear_decay,
    moved,
    noise,
)
from kalpana.types import Cond, Tokens

PART = 64  # held-out examples per evaluation batch
SHEET = 32  # pictures sampled for a sheet
GUIDANCE = 3.0  # for the pictures of a sheet
STEPS = 1000  # of a discrete process


class DiffusionRecipe(CaptionedRecipe):
    """Recipe of a diffusion network."""

    schedule: str = Field(default="flow", description=f"noise schedule: {', '.join(SCHEDULES)}")
    prediction: str = Field(
        default="x0", description=f"what the network predicts: {', '.join(PREDICTIONS)}"
    )

    timesteps: Literal["logit-normal", "discrete"] = Field(
        default="logit-normal",
        description="distribution of the times of the training: logit-normal, more of them near "
        "noise, or discrete, each of the 1000 steps of a process as often (Ho et al. 2020)",
    )
    min_snr_gamma: float | None = Field(
        default=None,
        gt=0,
        description="weight the squared error of x0 by min(SNR, gamma), such as 5 (Hang et al. "
        "2023); without it the error of the prediction is not weighted",
    )

    def problems(self) -> Iterator[tuple[str, str]]:
        yield from super().problems()
        for field, names in (("schedule", SCHEDULES), ("prediction", PREDICTIONS)):
            if (value := getattr(self, field)) not in names:
                yield field, f"{value!r} is not one of {', '.join(names)}"

    @property
    def process(self) -> Process:
        """Process that the network is trained for."""
        return Process(self.schedule, self.prediction)


@dataclass(frozen=True)
class DiffusionBatch:
    """Batch of a diffusion task: the data, and what the network reads of their condition."""

    x0: Tensor  # (b, ...): latents or pixels
    tokens: Tokens | None = None
    label: Tensor | None = None  # (b,)
    embedding: Tensor | None = None  # (b, d)
    control: dict[str, Tensor] | None = None  # maps (b, c, h, w) by kind
    known: Tensor | None = None  # (b, c + 1, h, w): given latents, and their mask
    layout: Tensor | None = None  # patch labels (b, 4, h, w), for the auxiliary loss


class DiffusionData(Protocol):
    """Data of a diffusion task."""

    def batch(self, step: int) -> DiffusionBatch: ...
    def held_out(self, rows: range) -> DiffusionBatch:
        """Examples of the dev split, of which there are HELD_OUT."""
        ...

    def decode(self, x0: Tensor) -> Tensor:
        """Pixels (b, 3, h, w) of data or samples (b, ...)."""
        ...


class DiffusionTask:
    """Regression of the network's prediction on its target (Ho et al. 2020; Lipman et al. 2023).

    The squared error is weighted by the recipe's ``min_snr_gamma``. Without it it is not weighted,
    with one exception: that of x0 under the flow schedule is weighted by 1/t^2, which equals the
    velocity error. A share ``caption_dropout`` of the rows has
    no condition. The network's attribute ``reads`` names the fields of ``Cond`` that it reads.
    """

    ahead = True

    def __init__(
        self, recipe: DiffusionRecipe, device: torch.device, model: Any, data: DiffusionData
    ) -> None:
        self.recipe, self.device = recipe, device
        self.model, self.data = model.to(device), data
        self.reads: tuple[str, ...] = self.network.reads
        self.process, self.schedule = recipe.process, recipe.process.levels

    @property
    def network(self) -> Any:
        """The network that predicts: the trained model, or one that it changes."""
        return self.model

    def batch(self, step: int) -> DiffusionBatch:
        return self.data.batch(step)

    def loss(
        self, batch: DiffusionBatch, rng: Generator, progress: float
    ) -> tuple[Tensor, Metrics]:
        x0, b = batch.x0.float(), len(batch.x0)
        t, eps = self.times(b, rng), noise(x0, rng)
        null = torch.rand(b, generator=rng) < self.recipe.caption_dropout
        cond = self.cond(batch, null.to(self.device))
        if not self.recipe.aux_weight:
            return self._error(x0, t.to(x0), eps, cond)[0].mean(), {}
        error, aux = self._error(x0, t.to(x0), eps, cond, with_aux=True)
        loss, weight = error.mean(), linear_decay(self.recipe.aux_weight, progress)
        return add_auxiliary_loss(loss, aux, batch.layout, weight, {"error": loss.item()})

    def cond(self, batch: DiffusionBatch, null: Tensor | None = None) -> Cond:
        """What the network reads of a batch, dropped in the rows where ``null`` (b,) is True."""
        if not self.reads:
            return Cond()
        return Cond(**{name: getattr(batch, name) for name in self.reads}, null=null)

    def _error(
        self, x0: Tensor, t: Tensor, eps: Tensor, cond: Cond, with_aux: bool = False
    ) -> tuple[Tensor, Tensor | None]:
        """Weighted mean squared errors (b,) at times t (b,), and the network's auxiliary outputs if
        asked for."""
        alpha, sigma = levels(self.schedule, t, x0)
        x_t, aux = alpha * x0 + sigma * eps, None
        if with_aux:
            prediction, aux = self.network.forward_with_aux(x_t, t, cond)
        else:
            prediction = self.network(x_t, t, cond)
        target = PREDICTIONS[self.process.prediction].target(x0, eps, alpha, sigma)
        error = prediction.float() - target
        if self.recipe.min_snr_gamma is not None:
            kind, gamma = self.process.prediction, self.recipe.min_snr_gamma
            error = error * min_snr_weight(kind, alpha, sigma, gamma).sqrt()
        elif self.process == Process("flow", "x0"):
            error = error / sigma
        return error.square().flatten(1).mean(1), aux

    def times(self, count: int, rng: Generator) -> Tensor:
        """Times (count,) in (0, 1] of the training, by the recipe's ``timesteps``."""
        return TIMESTEPS[self.recipe.timesteps](count, rng)

    def evaluate(self) -> tuple[Metrics, Tensor]:
        """Error on dev data; the sheet has samples for the conditions of the first of them."""
        rng = torch.Generator().manual_seed(0)
        metrics = {"dev_loss": self.dev_error(rng)}
        return metrics, self.samples(self.data.held_out(range(min(SHEET, HELD_OUT))), rng)

    def dev_error(self, rng: Generator) -> float:
        """Mean error on dev data."""
        errors = []
        for start in range(0, HELD_OUT, PART):
            batch = moved(
                self.data.held_out(range(start, min(start + PART, HELD_OUT))), self.device
            )
            errors.append(self.dev_errors(batch, rng))
        return torch.cat(errors).mean().item()

    def dev_errors(self, batch: DiffusionBatch, rng: Generator) -> Tensor:
        """Errors (b,) on a batch of dev data."""
        x0 = batch.x0.float()
        t, eps = self.times(len(x0), rng).to(x0), torch.randn(x0.shape, generator=rng).to(x0)
        return self._error(x0, t, eps, self.cond(batch))[0]

    def samples(self, batch: DiffusionBatch, rng: Generator) -> Tensor:
        """Pictures (b, 3, h, w) sampled for the conditions of a batch."""
        batch = moved(batch, self.device)
        x = torch.randn(batch.x0.shape, generator=rng).to(self.device)
        for state in self.sampling(x, self.cond(batch)):
            x = state.x
        return self.data.decode(x.float()).float()

    def sampling(self, x: Tensor, cond: Cond) -> Iterator[State]:
        """The sampling of a sheet, from noise ``x``."""
        scale = GUIDANCE if self.reads else 1.0
        denoise = guide(self.process.denoiser(self.network), cond, scale)
        return sample(denoise, x, times(20), SAMPLERS["dpmpp-2m"])

    def finish(self) -> None:
        """No final step."""


def noise_times(count: int, rng: Generator) -> Tensor:
    """Logit-normal times (count,) in (0, 1) (Esser et al. 2024, eq. 19), skewed towards noise:
    median 0.69, quartiles 0.53 and 0.81."""
    return torch.sigmoid(0.8 + 1.0 * torch.randn(count, generator=rng))


def discrete_times(count: int, rng: Generator) -> Tensor:
    """Times (count,) of the steps of a discrete process: 0.001, 0.002, ..., 1, uniformly."""
    return torch.randint(1, STEPS + 1, (count,), generator=rng) / STEPS


TIMESTEPS = {"logit-normal": noise_times, "discrete": discrete_times}


def min_snr_weight(prediction: str, alpha: Tensor, sigma: Tensor, gamma: float) -> Tensor:
    """Weight of the squared error of a prediction for which that of its x0 is weighted by
    min(SNR, gamma), with SNR = (alpha / sigma)^2 (Hang et al. 2023, section 3.4).

    For a variance-preserving schedule: min(SNR, gamma) of x0, over SNR of eps, over SNR + 1 of v.
    """
    snr = (alpha / sigma) ** 2
    if prediction == "eps":
        return (gamma / snr).clamp(max=1)  # 1 where alpha is 0
    x0 = PREDICTIONS[prediction].x0  # affine in the prediction
    slope = x0(torch.ones_like(alpha), torch.zeros_like(alpha), alpha, sigma)
    return snr.clamp(max=gamma) * slope**2
