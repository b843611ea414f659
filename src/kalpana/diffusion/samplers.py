"""Solvers of the probability-flow ODE, from noise to data, behind one loop.

A solver is a function ``step(denoise, x, t, s, history) -> x`` from time t down to s. ``history``
holds (t, x0) of the steps before. So multistep solvers need no loop of their own, and progress,
previews and cancelling are written once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import torch
from torch import Tensor

from kalpana.diffusion.denoiser import Denoise

History = list[tuple[Tensor, Tensor]]
Sampler = Callable[[Denoise, Tensor, Tensor, Tensor, History], Tensor]


@dataclass(frozen=True)
class State:
    """State after step ``index`` (from 1) of ``total``.

    ``x`` is at the new time. ``x0`` is the estimate at the start of the step.
    """

    index: int
    total: int
    x: Tensor
    x0: Tensor


def sample(
    denoise: Denoise, x: Tensor, times: Tensor | Sequence[float], step: Sampler
) -> Iterator[State]:
    """Iterator over the State after each step, from ``times[0]`` down to ``times[-1]``.

    ``x`` (b, ...) is the sample at ``times[0]``. Closing the iterator cancels the sampling.
    """
    timesteps = torch.as_tensor(times, dtype=torch.float64, device="cpu")
    estimates: list[Tensor] = []
    history: History = []

    def record(x_t: Tensor, t: Tensor) -> Tensor:
        estimates.append(denoise(x_t, t))
        return estimates[-1]

    for index, (t, s) in enumerate(pairwise(timesteps), start=1):
        estimates.clear()
        x = step(replace(denoise, estimate=record), x, t, s, history)
        history.append((t, estimates[0]))
        yield State(index, len(timesteps) - 1, x, estimates[0])


def euler(denoise: Denoise, x: Tensor, t: Tensor, s: Tensor, history: History) -> Tensor:
    """Euler step: first order, one call of the denoiser.

    For the flow schedule it is ``x + (s - t) * velocity``; for others it is DDIM (Song et al.
    2021, eq. 12 with eta 0).
    """
    x0, eps = predict_x0_eps(denoise, x, t)
    return denoise.schedule.alpha(s) * x0 + denoise.schedule.sigma(s) * eps


def heun(denoise: Denoise, x: Tensor, t: Tensor, s: Tensor, history: History) -> Tensor:
    """Heun step: second order, two calls of the denoiser (Karras et al. 2022, algorithm 1).

    An Euler step to s, a second estimate there, and the step from t repeated with the mean of both
    slopes. Written as ``dx = x0 d(alpha) + eps d(sigma)``, which needs no derivative of the
    schedule and is finite where alpha is 0.
    """
    alpha, sigma = denoise.schedule.alpha, denoise.schedule.sigma
    x0, eps = predict_x0_eps(denoise, x, t)
    ahead = alpha(s) * x0 + sigma(s) * eps
    if sigma(s) == 0:  # no noise is left, so a second estimate would add nothing (their line 6)
        return ahead
    x0_ahead, eps_ahead = predict_x0_eps(denoise, ahead, s)
    return (
        x
        + (alpha(s) - alpha(t)) * (x0 + x0_ahead) / 2
        + (sigma(s) - sigma(t)) * (eps + eps_ahead) / 2
    )


def dpmpp_2m(denoise: Denoise, x: Tensor, t: Tensor, s: Tensor, history: History) -> Tensor:
    """DPM-Solver++(2M) step: second order, one call of the denoiser (Lu et al. 2022, algorithm 2).

    It extrapolates x0 linearly over lambda = log(alpha / sigma).
    """
    alpha, sigma = denoise.schedule.alpha, denoise.schedule.sigma
    x0 = denoise(x, t)
    slope = torch.zeros_like(x0)
    # First order without a previous step, or where lambda(s) is infinite.
    if history and sigma(s) > 0:
        before, x0_before = history[-1]
        lambda_before, lambda_t, lambda_s = (torch.log(alpha(u) / sigma(u)) for u in (before, t, s))
        # 0 after a step from pure noise, where lambda_before is -inf.
        slope = (x0 - x0_before) * (lambda_s - lambda_t) / (lambda_t - lambda_before)
    # alpha(s) * (exp(-h) - 1) is written as keep * alpha(t) - alpha(s), so that no infinite h
    # (= lambda_s - lambda_t) appears.
    keep = sigma(s) / sigma(t)
    return keep * x + (alpha(s) - keep * alpha(t)) * (x0 + slope / 2)


def predict_x0_eps(denoise: Denoise, x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
    """Estimates (x0, eps) of both ends of the path through ``x`` at time ``t``."""
    x0 = denoise(x, t)
    return x0, (x - denoise.schedule.alpha(t) * x0) / denoise.schedule.sigma(t)


SAMPLERS: dict[str, Sampler] = {"euler": euler, "heun": heun, "dpmpp-2m": dpmpp_2m}
