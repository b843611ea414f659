"""What a network predicts, turned into what a sampler needs: an estimate of x0.

A network may be trained to predict the data, the noise, or a mixture of both; given x_t, alpha and sigma each says the same.
The denoiser knows which, so that samplers and guidance never ask (the idea of k-diffusion's ``Denoiser``).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from kalpana.diffusion.schedule import Schedule, levels
from kalpana.types import Cond


class Prediction(NamedTuple):
    """A thing to predict: ``target(x0, eps, alpha, sigma)`` is what training asks for, ``x0(p, x_t, alpha, sigma)`` reads it back."""

    target: Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]
    x0: Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]


PREDICTIONS = {
    "x0": Prediction(
        target=lambda x0, eps, alpha, sigma: x0,
        x0=lambda p, x_t, alpha, sigma: p,
    ),
    "eps": Prediction(  # Ho et al. 2020, eq. 15; where alpha is 0 the noise says nothing of x0, and the estimate is 0, the mean of latents
        target=lambda x0, eps, alpha, sigma: eps,
        x0=lambda p, x_t, alpha, sigma: torch.where(alpha > 0, (x_t - sigma * p) / alpha, 0.0),
    ),
    "v": Prediction(  # Salimans & Ho 2022, appendix D; the divisor is 1 for a variance-preserving schedule
        target=lambda x0, eps, alpha, sigma: alpha * eps - sigma * x0,
        x0=lambda p, x_t, alpha, sigma: (alpha * x_t - sigma * p) / (alpha**2 + sigma**2),
    ),
    "flow": Prediction(  # Lipman et al. 2023, eq. 23, time reversed; the divisor is 1 for the flow schedule
        target=lambda x0, eps, alpha, sigma: eps - x0,
        x0=lambda p, x_t, alpha, sigma: (x_t - sigma * p) / (alpha + sigma),
    ),
}


@dataclass(frozen=True)
class Denoiser:
    """A network seen as ``denoiser(x_t, t, cond) -> x0``, whatever it predicts (a key of PREDICTIONS)."""

    network: Callable[[Tensor, Tensor, Cond], Tensor]
    schedule: Schedule
    prediction: str = "x0"

    def __call__(self, x_t: Tensor, t: Tensor, cond: Cond) -> Tensor:
        """The estimate of x0, shape and precision of ``x_t`` (b, ...); ``t`` is (b,), or 0-d for all rows alike."""
        t = t.to(x_t.device, torch.promote_types(x_t.dtype, torch.float32)).expand(
            len(x_t)
        )  # bf16 would blur neighbouring times
        p = self.network(x_t, t, cond)
        return PREDICTIONS[self.prediction].x0(p, x_t, *levels(self.schedule, t, x_t)).to(x_t.dtype)


@dataclass(frozen=True)
class Denoise:
    """What a sampler is given: ``denoise(x_t, t) -> x0`` for one 0-d ``t``, everything else bound, and the schedule x_t follows."""

    schedule: Schedule
    estimate: Callable[[Tensor, Tensor], Tensor]

    def __call__(self, x_t: Tensor, t: Tensor) -> Tensor:
        return self.estimate(x_t, t)
