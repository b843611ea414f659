"""Denoiser: converts a network's prediction (x0, eps, v or flow) to an estimate of x0.

A network may be trained to predict the data, the noise, or a mixture of both. Given x_t, alpha and
sigma, each of them determines x0. The denoiser hides the kind of prediction from samplers and
guidance, as k-diffusion's ``Denoiser`` does.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from kalpana.diffusion.schedule import SCHEDULES, Schedule, levels
from kalpana.types import Cond, KalpanaError


class Prediction(NamedTuple):
    """One kind of prediction, as a pair of functions.

    ``target(x0, eps, alpha, sigma)`` is the regression target in training.
    ``x0(p, x_t, alpha, sigma)`` converts a prediction ``p`` to an estimate of x0.
    """

    target: Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]
    x0: Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]


PREDICTIONS = {
    "x0": Prediction(
        target=lambda x0, eps, alpha, sigma: x0,
        x0=lambda p, x_t, alpha, sigma: p,
    ),
    # Ho et al. 2020, eq. 15. Where alpha is 0, x_t carries no information about x0, and the
    # estimate is 0, the mean of latents.
    "eps": Prediction(
        target=lambda x0, eps, alpha, sigma: eps,
        x0=lambda p, x_t, alpha, sigma: torch.where(alpha > 0, (x_t - sigma * p) / alpha, 0.0),
    ),
    # Salimans & Ho 2022, appendix D. The divisor is 1 for a variance-preserving schedule.
    "v": Prediction(
        target=lambda x0, eps, alpha, sigma: alpha * eps - sigma * x0,
        x0=lambda p, x_t, alpha, sigma: (alpha * x_t - sigma * p) / (alpha**2 + sigma**2),
    ),
    # Lipman et al. 2023, eq. 23, with time reversed. The divisor is 1 for the flow schedule.
    "flow": Prediction(
        target=lambda x0, eps, alpha, sigma: eps - x0,
        x0=lambda p, x_t, alpha, sigma: (x_t - sigma * p) / (alpha + sigma),
    ),
}


@dataclass(frozen=True)
class Process:
    """Diffusion process that a network was trained for, as the metadata of its weights states it:
    ``schedule`` is a key of SCHEDULES or a Schedule, ``prediction`` a key of PREDICTIONS.

    Raises KalpanaError for another name.
    """

    schedule: str | Schedule = "flow"
    prediction: str = "x0"

    def __post_init__(self) -> None:
        for field, names in (("schedule", SCHEDULES), ("prediction", PREDICTIONS)):
            value = getattr(self, field)
            if (isinstance(value, str) or field == "prediction") and value not in names:
                raise KalpanaError(f"{field} {value!r} is unknown: write {', '.join(names)}")

    @property
    def levels(self) -> Schedule:
        """The schedule itself."""
        return SCHEDULES[self.schedule] if isinstance(self.schedule, str) else self.schedule

    def denoiser(self, network: Callable[[Tensor, Tensor, Cond], Tensor]) -> Denoiser:
        """Denoiser of a network that was trained for this process."""
        return Denoiser(network, self.levels, self.prediction)


@dataclass(frozen=True)
class Denoiser:
    """Network as ``denoiser(x_t, t, cond) -> x0``; ``prediction`` is a key of PREDICTIONS."""

    network: Callable[[Tensor, Tensor, Cond], Tensor]
    schedule: Schedule
    prediction: str = "x0"

    def __call__(self, x_t: Tensor, t: Tensor, cond: Cond) -> Tensor:
        """Estimate of x0, with the shape and dtype of ``x_t`` (b, ...).

        ``t`` is (b,), or 0-d: one time for all rows.
        """
        # At least fp32: in bf16, neighbouring times would round to the same value.
        t = t.to(x_t.device, torch.promote_types(x_t.dtype, torch.float32)).expand(len(x_t))
        p = self.network(x_t, t, cond)
        return PREDICTIONS[self.prediction].x0(p, x_t, *levels(self.schedule, t, x_t)).to(x_t.dtype)


@dataclass(frozen=True)
class Denoise:
    """``denoise(x_t, t) -> x0`` for one 0-d ``t``, with the condition bound, as samplers call it.

    ``schedule`` is the schedule that x_t follows.
    """

    schedule: Schedule
    estimate: Callable[[Tensor, Tensor], Tensor]

    def __call__(self, x_t: Tensor, t: Tensor) -> Tensor:
        return self.estimate(x_t, t)
