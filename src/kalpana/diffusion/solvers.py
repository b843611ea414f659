"""Deterministic solvers of the probability-flow ODE, from noise to data, one function each.

A solver is a step function, see ``diffusion.samplers``. Papers and k-diffusion write their formulas
for x / alpha as a function of the noise-to-signal ratio rho = sigma / alpha. Here they are written
for x itself, so that they hold for every schedule, and are finite where alpha is 0 and rho is
infinite.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from kalpana.diffusion.denoiser import Denoise
from kalpana.diffusion.schedule import Schedule, half_log_snr, time_at

NODES, WEIGHTS = np.polynomial.legendre.leggauss(8)  # Gauss-Legendre quadrature on [-1, 1]


class Past(NamedTuple):
    """A finished step: its start time ``t``, the sample ``x`` there, and its first estimate."""

    t: Tensor
    x: Tensor
    x0: Tensor


History = list[Past]
Noise = Callable[[Tensor], Tensor]  # unit Gaussian noise with the shape of its argument


def euler(
    denoise: Denoise, x: Tensor, t: Tensor, s: Tensor, history: History, noise: Noise
) -> Tensor:
    """Euler step: first order, one call of the denoiser.

    For the flow schedule it is ``x + (s - t) * velocity``; for others it is DDIM (Song et al.
    2021, eq. 12 with eta 0).
    """
    x0, eps = predict_x0_eps(denoise, x, t)
    return denoise.schedule.alpha(s) * x0 + denoise.schedule.sigma(s) * eps


def heun(
    denoise: Denoise, x: Tensor, t: Tensor, s: Tensor, history: History, noise: Noise
) -> Tensor:
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


def dpm2(
    denoise: Denoise, x: Tensor, t: Tensor, s: Tensor, history: History, noise: Noise
) -> Tensor:
    """DPM-Solver-2 step: second order, two calls of the denoiser (Lu et al. 2022, algorithm 1, in
    the form of k-diffusion): the midpoint method, with the midpoint at the mean of log(rho).

    An Euler step from pure noise, where log(rho) is infinite, and to data, where it is -infinite.
    """
    alpha, sigma = denoise.schedule.alpha, denoise.schedule.sigma
    x0, eps = predict_x0_eps(denoise, x, t)
    if alpha(t) > 0 and sigma(s) > 0:
        m = midpoint(denoise.schedule, t, s)
        _, eps = predict_x0_eps(denoise, alpha(m) * x0 + sigma(m) * eps, m)
        x0 = (x - sigma(t) * eps) / alpha(t)
    return alpha(s) * x0 + sigma(s) * eps


def dpmpp_2m(
    denoise: Denoise, x: Tensor, t: Tensor, s: Tensor, history: History, noise: Noise
) -> Tensor:
    """DPM-Solver++(2M) step: second order, one call of the denoiser (Lu et al. 2022, algorithm 2).

    It extrapolates x0 linearly over lambda = log(alpha / sigma).
    """
    x0 = denoise(x, t)
    return exponential_step(denoise.schedule, x, x0 + slope(denoise, x0, t, s, history) / 2, t, s)


def unipc(
    denoise: Denoise, x: Tensor, t: Tensor, s: Tensor, history: History, noise: Noise
) -> Tensor:
    """UniPC-2 step: third order, one call of the denoiser (Zhao et al. 2023, algorithms 1-2, B2).

    Its predictor is DPM-Solver++(2M). The estimate at t, which the predictor needs, first corrects
    the step that led to t.
    """
    x0 = denoise(x, t)
    predicted = x0 + slope(denoise, x0, t, s, history) / 2
    if history:
        x = _corrected(denoise, x, x0, t, history)
    return exponential_step(denoise.schedule, x, predicted, t, s)


def _corrected(denoise: Denoise, x: Tensor, x0: Tensor, t: Tensor, history: History) -> Tensor:
    """The sample at ``t`` after UniC, from the predicted sample ``x`` and the estimate there."""
    before, schedule = history[-1], denoise.schedule
    change = slope(denoise, before.x0, before.t, t, history[:-1])
    h = half_log_snr(schedule, t) - half_log_snr(schedule, before.t)
    decay = -torch.expm1(-h)
    # The solution of their eq. 10 for the weights of the change before the step, and of that in it.
    b1 = 1 / decay - 1 / h
    b2 = 1 / decay - 2 * b1 / h
    old, new = torch.zeros_like(h), torch.full_like(h, 0.5)
    if len(history) > 1:
        r = (half_log_snr(schedule, history[-2].t) - half_log_snr(schedule, before.t)) / h
        old = (b1 - b2) / (1 - r)
        new = b1 - old
    return x + schedule.alpha(t) * decay * (old * change + new * (x0 - before.x0) - change / 2)


def lms(
    denoise: Denoise, x: Tensor, t: Tensor, s: Tensor, history: History, noise: Noise
) -> Tensor:
    """Linear multistep method (Adams-Bashforth): fourth order, one call of the denoiser.

    The slope of x / alpha over rho is eps; it is extrapolated as a polynomial in rho.
    """
    return _adams_bashforth(denoise, x, t, s, history[-3:], lambda rho: rho, np.ones_like)


def deis(
    denoise: Denoise, x: Tensor, t: Tensor, s: Tensor, history: History, noise: Noise
) -> Tensor:
    """DEIS step (Zhang & Chen 2023, eq. 15): third order, one call of the denoiser.

    As ``lms``, but eps is extrapolated as a polynomial in log(rho). First order to data, where
    log(rho) is infinite.
    """
    if denoise.schedule.sigma(s) == 0:
        return euler(denoise, x, t, s, history, noise)
    return _adams_bashforth(denoise, x, t, s, history[-2:], np.log, np.exp)


def _adams_bashforth(
    denoise: Denoise,
    x: Tensor,
    t: Tensor,
    s: Tensor,
    history: History,
    scale: Callable[[np.ndarray], np.ndarray],
    density: Callable[[np.ndarray], np.ndarray],
) -> Tensor:
    """The step x_s / alpha_s = x_t / alpha_t + the integral of eps d(rho), where eps is the
    Lagrange polynomial in v = scale(rho) through the estimates at t and of ``history``, and d(rho)
    is density(v) dv.

    Estimates at pure noise, where rho is infinite, are left out, which is the limit of the formula.
    """
    alpha, sigma = denoise.schedule.alpha, denoise.schedule.sigma
    x0, eps = predict_x0_eps(denoise, x, t)
    if alpha(t) == 0:
        return alpha(s) * x0 + sigma(s) * eps
    past = [each for each in reversed(history) if alpha(each.t) > 0]
    slopes = [eps, *((each.x - alpha(each.t) * each.x0) / sigma(each.t) for each in past)]
    times = torch.stack([s, t, *(each.t for each in past)])
    end, *v = scale((sigma(times) / alpha(times)).numpy())
    nodes = v[0] + (end - v[0]) * (1 + NODES) / 2
    weights = (end - v[0]) / 2 * WEIGHTS * density(nodes)
    total = torch.zeros_like(x)
    for j, each in enumerate(slopes):
        others = [(nodes - w) / (v[j] - w) for k, w in enumerate(v) if k != j]
        total = (
            total + float((weights * np.prod([np.ones_like(nodes), *others], axis=0)).sum()) * each
        )
    return alpha(s) / alpha(t) * x + alpha(s) * total


def predict_x0_eps(denoise: Denoise, x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
    """Estimates (x0, eps) of both ends of the path through ``x`` at time ``t``."""
    x0 = denoise(x, t)
    return x0, (x - denoise.schedule.alpha(t) * x0) / denoise.schedule.sigma(t)


def slope(denoise: Denoise, x0: Tensor, t: Tensor, s: Tensor, history: History) -> Tensor:
    """Change of x0 from t to s, extrapolated linearly over lambda = log(alpha / sigma) from the
    step before; 0 without one, and where lambda(s) is infinite."""
    if not history or denoise.schedule.sigma(s) == 0:
        return torch.zeros_like(x0)
    before, start, end = (half_log_snr(denoise.schedule, u) for u in (history[-1].t, t, s))
    # 0 after a step from pure noise, where the first lambda is -infinite.
    return (x0 - history[-1].x0) * (end - start) / (start - before)


def exponential_step(schedule: Schedule, x: Tensor, x0: Tensor, t: Tensor, s: Tensor) -> Tensor:
    """Exact solution of the ODE from t to s for a constant estimate x0 (exponential integrator).

    alpha(s) * (1 - exp(-h)) with h = lambda(s) - lambda(t) is written without h, which may be
    infinite.
    """
    keep = schedule.sigma(s) / schedule.sigma(t)
    return keep * x + (schedule.alpha(s) - keep * schedule.alpha(t)) * x0


def midpoint(schedule: Schedule, t: Tensor, s: Tensor) -> Tensor:
    """The time at the mean of log(sigma / alpha) of two times."""
    return time_at(schedule, (half_log_snr(schedule, t) + half_log_snr(schedule, s)) / 2)
