"""How much data and how much noise there is at time t: ``x_t = alpha(t) * x0 + sigma(t) * eps``, from t = 1 (noise) to t = 0 (data)."""

from __future__ import annotations

from dataclasses import dataclass
from math import pi
from typing import Protocol

import torch
from torch import Tensor


class Schedule(Protocol):
    """Two functions of time, elementwise, exact at the ends: alpha(0) = 1, sigma(0) = 0, sigma(1) = 1; alpha(1) may be 0."""

    def alpha(self, t: Tensor) -> Tensor: ...

    def sigma(self, t: Tensor) -> Tensor: ...


@dataclass(frozen=True)
class Flow:
    """Straight lines from noise to data: alpha = 1 - t, sigma = t (Lipman et al. 2023, eq. 22 with sigma_min = 0; their time is 1 - t)."""

    def alpha(self, t: Tensor) -> Tensor:
        return 1 - t

    def sigma(self, t: Tensor) -> Tensor:
        return t


@dataclass(frozen=True)
class Cosine:
    """The variance-preserving arc: alpha = cos(pi t / 2), sigma = sin(pi t / 2) (Nichol & Dhariwal 2021, eq. 17 with offset 0)."""

    def alpha(self, t: Tensor) -> Tensor:
        return torch.sin(
            (1 - t) * pi / 2
        )  # the cosine, written so that alpha(1) is 0 and not -4e-8

    def sigma(self, t: Tensor) -> Tensor:
        return torch.sin(t * pi / 2)


def levels(schedule: Schedule, t: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
    """Alpha and sigma at times ``t`` (b,), shaped (b, 1, ...) to broadcast over ``x`` (b, ...)."""
    t = t.reshape(-1, *[1] * (x.ndim - 1))
    return schedule.alpha(t), schedule.sigma(t)


def times(steps: int, shift: float = 1.0) -> Tensor:
    """The ``steps + 1`` times a sampler visits, from 1 down to 0: (steps + 1,) float64 on the CPU.

    ``shift`` above 1 spends more of the steps near noise, as larger pictures need (Esser et al. 2024, eq. 23; SD3 uses 3).
    Taken one by one they are 0-d tensors, which mix with x of any device and precision without moving or promoting it.
    """
    t = torch.linspace(1, 0, steps + 1, dtype=torch.float64)
    return (
        shift * t / (shift * t + (1 - t))
    )  # = shift t / (1 + (shift - 1) t), and exactly 1 at t = 1
