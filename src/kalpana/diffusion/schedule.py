"""Noise schedules and timesteps.

``x_t = alpha(t) * x0 + sigma(t) * eps``, from t = 1 (noise) to t = 0 (data).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from math import pi
from typing import Literal, Protocol

import torch
from torch import Tensor


class Schedule(Protocol):
    """Noise schedule: two elementwise functions of time.

    They are exact at the ends: alpha(0) = 1, sigma(0) = 0, sigma(1) = 1. alpha(1) may be 0. Only a
    discrete process may end with some of its data left, sigma(1) < 1.
    """

    def alpha(self, t: Tensor) -> Tensor: ...

    def sigma(self, t: Tensor) -> Tensor: ...


@dataclass(frozen=True)
class Flow:
    """Flow matching schedule, straight lines from noise to data: alpha = 1 - t, sigma = t.

    Lipman et al. 2023, eq. 22 with sigma_min = 0. Their time is 1 - t.
    """

    def alpha(self, t: Tensor) -> Tensor:
        return 1 - t

    def sigma(self, t: Tensor) -> Tensor:
        return t


@dataclass(frozen=True)
class Cosine:
    """Variance-preserving cosine schedule: alpha = cos(pi t / 2), sigma = sin(pi t / 2).

    Nichol & Dhariwal 2021, eq. 17 with offset 0.
    """

    def alpha(self, t: Tensor) -> Tensor:
        return torch.sin((1 - t) * pi / 2)  # the cosine, with alpha(1) exactly 0 and not -4e-8

    def sigma(self, t: Tensor) -> Tensor:
        return torch.sin(t * pi / 2)


@dataclass(frozen=True)
class Discrete:
    """Variance-preserving schedule of a process of ``steps`` noising steps (Ho et al. 2020).

    Time t is step t * steps, and alpha(t)^2 is linear between steps. The betas rise linearly, or
    their square roots do ("scaled_linear", Rombach et al. 2022). ``zero_snr`` rescales alpha so
    that alpha(1) is 0 (Lin et al. 2024, algorithm 1).
    """

    beta_start: float = 0.00085
    beta_end: float = 0.012
    betas: Literal["linear", "scaled_linear"] = "scaled_linear"
    zero_snr: bool = False
    steps: int = 1000

    def alpha(self, t: Tensor) -> Tensor:
        return self._at(t, _powers(self)[0])

    def sigma(self, t: Tensor) -> Tensor:
        return self._at(t, _powers(self)[1])

    def _at(self, t: Tensor, powers: Tensor) -> Tensor:
        """Root of ``powers`` (steps + 1,), interpolated at times t."""
        powers, step = powers.to(t), self.steps * t
        low = step.floor().clamp(0, self.steps - 1)
        index = low.long()
        return torch.lerp(powers[index], powers[index + 1], step - low).sqrt()


@lru_cache(maxsize=8)
def _powers(schedule: Discrete) -> tuple[Tensor, Tensor]:
    """alpha^2 and sigma^2 after 0, 1, ... noising steps: (steps + 1,) float64 each."""
    start, end, steps = schedule.beta_start, schedule.beta_end, schedule.steps
    if schedule.betas == "scaled_linear":
        betas = torch.linspace(start**0.5, end**0.5, steps, dtype=torch.float64) ** 2
    else:
        betas = torch.linspace(start, end, steps, dtype=torch.float64)
    alphas = (1 - betas).cumprod(0).sqrt()
    if schedule.zero_snr:
        alphas = (alphas - alphas[-1]) * alphas[0] / (alphas[0] - alphas[-1])
    alphas = torch.cat((alphas.new_ones(1), alphas))
    return alphas**2, 1 - alphas**2


SCHEDULES: dict[str, Schedule] = {
    "flow": Flow(),
    "cosine": Cosine(),
    "linear": Discrete(0.0001, 0.02, "linear"),
    "scaled-linear": Discrete(),
    "scaled-linear-zero-snr": Discrete(zero_snr=True),
}


def levels(schedule: Schedule, t: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
    """Alpha and sigma at times ``t`` (b,), shaped (b, 1, ...) to broadcast over ``x`` (b, ...)."""
    t = t.reshape(-1, *[1] * (x.ndim - 1))
    return schedule.alpha(t), schedule.sigma(t)


def times(steps: int, shift: float = 1.0) -> Tensor:
    """Timesteps of a sampler, from 1 down to 0: (steps + 1,) float64 on the CPU.

    ``shift`` above 1 puts more of the steps near noise, as larger pictures need (Esser et al. 2024,
    eq. 23; SD3 uses 3). Each element is a 0-d tensor, which combines with an x of any device and
    dtype without moving or promoting it.
    """
    t = torch.linspace(1, 0, steps + 1, dtype=torch.float64)
    # shift t / (1 + (shift - 1) t), written so that it is exactly 1 at t = 1.
    return shift * t / (shift * t + (1 - t))
