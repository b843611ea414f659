"""Noise schedules and timesteps.

``x_t = alpha(t) * x0 + sigma(t) * eps``, from t = 1 (noise) to t = 0 (data).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from math import atan, log, pi
from typing import Literal, Protocol

import numpy as np
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
    "linear-zero-snr": Discrete(0.0001, 0.02, "linear", zero_snr=True),
    "scaled-linear": Discrete(),
    "scaled-linear-zero-snr": Discrete(zero_snr=True),
}


def levels(schedule: Schedule, t: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
    """Alpha and sigma at times ``t`` (b,), shaped (b, 1, ...) to broadcast over ``x`` (b, ...)."""
    t = t.reshape(-1, *[1] * (x.ndim - 1))
    return schedule.alpha(t), schedule.sigma(t)


def half_log_snr(schedule: Schedule, t: Tensor) -> Tensor:
    """lambda(t) = log(alpha / sigma), which falls with time; infinite where alpha or sigma is 0."""
    return torch.log(schedule.alpha(t) / schedule.sigma(t))


def time_at(schedule: Schedule, level: Tensor) -> Tensor:
    """The time at which ``half_log_snr`` is ``level``, a finite float64, by bisection."""
    low, high = torch.zeros_like(level), torch.ones_like(level)
    for _ in range(53):
        t = (low + high) / 2
        above = half_log_snr(schedule, t) > level
        low, high = torch.where(above, t, low), torch.where(above, high, t)
    return (low + high) / 2


def times(steps: int, shift: float = 1.0) -> Tensor:
    """Timesteps of a sampler, from 1 down to 0: (steps + 1,) float64 on the CPU.

    ``shift`` above 1 puts more of the steps near noise, as larger pictures need (Esser et al. 2024,
    eq. 23; SD3 uses 3). Each element is a 0-d tensor, which combines with an x of any device and
    dtype without moving or promoting it.
    """
    t = torch.linspace(1, 0, steps + 1, dtype=torch.float64)
    return _shifted(t, shift)


# Spacings: timesteps of a sampler as those of ``times``, which is the uniform one. Those that are
# stated by time are shifted; those that are stated by noise level are not.
Spacing = Callable[[int, float, Schedule], Tensor]
LEVELS = 0.03, 15.0  # least and greatest sigma / alpha, those of Stable Diffusion


def uniform(steps: int, shift: float, schedule: Schedule) -> Tensor:
    """Equal steps of time, from pure noise to data: "trailing" of Lin et al. 2023, table 2."""
    return times(steps, shift)


def quadratic(steps: int, shift: float, schedule: Schedule) -> Tensor:
    """The squares of equal steps (Song et al. 2021, appendix D.2): more of them near data."""
    return _shifted(times(steps) ** 2, shift)


def beta(steps: int, shift: float, schedule: Schedule) -> Tensor:
    """Quantiles of the distribution Beta(0.6, 0.6) (Lee et al. 2024): more steps at both ends."""
    a, u = 0.6, times(steps).numpy()
    # The density of y^a for y up to 1/2, which has no singularity, and its integral.
    grid = np.linspace(0, 0.5**a, 4097)
    density = (1 - grid ** (1 / a)) ** (a - 1)
    mass = np.concatenate(([0.0], np.cumsum(density[1:] + density[:-1])))
    low = np.interp(np.minimum(u, 1 - u), mass / (2 * mass[-1]), grid) ** (1 / a)
    return _shifted(torch.from_numpy(np.where(u <= 0.5, low, 1 - low)), shift)


def karras(steps: int, shift: float, schedule: Schedule) -> Tensor:
    """Noise levels whose 7th roots have equal steps (Karras et al. 2022, eq. 5)."""
    low, high = (level ** (1 / 7) for level in _levels(schedule))
    return _at_levels(schedule, torch.linspace(high, low, steps, dtype=torch.float64) ** 7)


def exponential(steps: int, shift: float, schedule: Schedule) -> Tensor:
    """Noise levels whose logarithms have equal steps (Lu et al. 2022, uniform logSNR)."""
    low, high = (log(level) for level in _levels(schedule))
    return _at_levels(schedule, torch.linspace(high, low, steps, dtype=torch.float64).exp())


def kl_optimal(steps: int, shift: float, schedule: Schedule) -> Tensor:
    """Noise levels whose arcus tangents have equal steps (Sabour et al. 2024, theorem 3.1)."""
    low, high = (atan(level) for level in _levels(schedule))
    return _at_levels(schedule, torch.linspace(high, low, steps, dtype=torch.float64).tan())


def _shifted(t: Tensor, shift: float) -> Tensor:
    """Times with sigma / alpha of the flow schedule scaled by ``shift``, exact at both ends."""
    # shift t / (1 + (shift - 1) t), written so that it is exactly 1 at t = 1
    return shift * t / (shift * t + (1 - t))


def _levels(schedule: Schedule) -> tuple[float, float]:
    """The least and greatest noise level, not above that of the schedule at t = 1."""
    end = torch.ones((), dtype=torch.float64)
    return LEVELS[0], min(LEVELS[1], float(schedule.sigma(end) / schedule.alpha(end)))


def _at_levels(schedule: Schedule, levels: Tensor) -> Tensor:
    """Times (steps + 1,) of falling noise levels sigma / alpha, with the first moved to pure noise,
    and data at the end."""
    inner = time_at(schedule, -levels[1:].log())
    return torch.cat((inner.new_ones(1), inner, inner.new_zeros(1)))


SPACINGS: dict[str, Spacing] = {
    "uniform": uniform,
    "quadratic": quadratic,
    "beta": beta,
    "kl-optimal": kl_optimal,
    "karras": karras,
    "exponential": exponential,
}
