"""Stochastic samplers: solvers of the reverse SDE, which add noise in every step but the last.

Each takes ``noise``, a source of unit Gaussian noise. ``eta`` scales the added noise from 0, the
ODE, to 1. Formulas are written as in ``diffusion.solvers``.
"""

from __future__ import annotations

import torch
from torch import Tensor

from kalpana.diffusion.denoiser import Denoise
from kalpana.diffusion.schedule import Schedule, half_log_snr, time_at
from kalpana.diffusion.solvers import History, Noise, midpoint, predict_x0_eps, slope


def ddim(
    denoise: Denoise,
    x: Tensor,
    t: Tensor,
    s: Tensor,
    history: History,
    noise: Noise,
    eta: float = 0.0,
) -> Tensor:
    """DDIM step (Song et al. 2021, eq. 12 and 16), generalised to every schedule."""
    x0, eps = predict_x0_eps(denoise, x, t)
    return renoised(denoise.schedule, x0, eps, t, s, noise, eta)


def ddpm(
    denoise: Denoise, x: Tensor, t: Tensor, s: Tensor, history: History, noise: Noise
) -> Tensor:
    """DDPM step (Ho et al. 2020, eq. 6 and 7): a sample of q(x_s | x_t, x0), DDIM with eta 1."""
    return ddim(denoise, x, t, s, history, noise, eta=1.0)


def euler_a(
    denoise: Denoise,
    x: Tensor,
    t: Tensor,
    s: Tensor,
    history: History,
    noise: Noise,
    eta: float = 1.0,
) -> Tensor:
    """Ancestral Euler step of k-diffusion: an Euler step to less noise than at s, then fresh noise.

    It is the step of DDIM with the same eta.
    """
    return ddim(denoise, x, t, s, history, noise, eta)


def dpm2_a(
    denoise: Denoise,
    x: Tensor,
    t: Tensor,
    s: Tensor,
    history: History,
    noise: Noise,
    eta: float = 1.0,
) -> Tensor:
    """Ancestral DPM-Solver-2 step of k-diffusion: ``dpm2`` to less noise than at s, then fresh
    noise. Two calls of the denoiser. An ancestral Euler step from pure noise and to data.
    """
    schedule = denoise.schedule
    x0, eps = predict_x0_eps(denoise, x, t)
    if schedule.alpha(t) > 0 and schedule.sigma(s) > 0:
        # log(alpha / sigma) at the level that the deterministic part of the step goes down to
        down = half_log_snr(schedule, s) - torch.log(1 - _fresh(schedule, t, s, eta) ** 2) / 2
        m = time_at(schedule, (half_log_snr(schedule, t) + down) / 2)
        _, eps = predict_x0_eps(denoise, schedule.alpha(m) * x0 + schedule.sigma(m) * eps, m)
        x0 = (x - schedule.sigma(t) * eps) / schedule.alpha(t)
    return renoised(schedule, x0, eps, t, s, noise, eta)


def dpmpp_2m_sde(
    denoise: Denoise,
    x: Tensor,
    t: Tensor,
    s: Tensor,
    history: History,
    noise: Noise,
    eta: float = 1.0,
) -> Tensor:
    """SDE-DPM-Solver++(2M) step (Lu et al. 2022, appendix D, in the midpoint form of k-diffusion):
    second order, one call of the denoiser.
    """
    alpha, sigma = denoise.schedule.alpha, denoise.schedule.sigma
    x0 = denoise(x, t)
    x0 = x0 + slope(denoise, x0, t, s, history) / 2
    q = _snr_ratio(denoise.schedule, t, s)
    x = sigma(s) / sigma(t) * q**eta * x + alpha(s) * (1 - q ** (1 + eta)) * x0
    if eta == 0 or sigma(s) == 0:
        return x
    return x + sigma(s) * (1 - q ** (2 * eta)).sqrt() * noise(x)


def dpmpp_sde(
    denoise: Denoise,
    x: Tensor,
    t: Tensor,
    s: Tensor,
    history: History,
    noise: Noise,
    eta: float = 1.0,
) -> Tensor:
    """SDE-DPM-Solver++ step (Lu et al. 2022, in the single-step form of k-diffusion): an ancestral
    step to the midpoint, and the step from t repeated with the estimate there. Two calls of the
    denoiser. An ancestral Euler step from pure noise and to data.
    """
    schedule = denoise.schedule
    x0, eps = predict_x0_eps(denoise, x, t)
    if schedule.alpha(t) > 0 and schedule.sigma(s) > 0:
        m = midpoint(schedule, t, s)
        x0 = denoise(renoised(schedule, x0, eps, t, m, noise, eta), m)
        eps = (x - schedule.alpha(t) * x0) / schedule.sigma(t)
    return renoised(schedule, x0, eps, t, s, noise, eta)


def lcm(
    denoise: Denoise, x: Tensor, t: Tensor, s: Tensor, history: History, noise: Noise
) -> Tensor:
    """Multistep sampling of a consistency model (Luo et al. 2023, algorithm 3): the estimate of x0,
    noised afresh to the level of s."""
    x0 = denoise(x, t)
    sigma = denoise.schedule.sigma(s)
    return denoise.schedule.alpha(s) * x0 + sigma * noise(x) if sigma > 0 else x0


def renoised(
    schedule: Schedule, x0: Tensor, eps: Tensor, t: Tensor, s: Tensor, noise: Noise, eta: float
) -> Tensor:
    """x_s of the estimates (x0, eps) at t, with a part of eps replaced by fresh noise.

    With eta 1 and exact estimates it has the distribution of q(x_s | x_t, x0).
    """
    fresh = _fresh(schedule, t, s, eta)
    if fresh > 0 and schedule.sigma(s) > 0:
        eps = (1 - fresh**2).sqrt() * eps + fresh * noise(eps)
    return schedule.alpha(s) * x0 + schedule.sigma(s) * eps


def _fresh(schedule: Schedule, t: Tensor, s: Tensor, eta: float) -> Tensor:
    """Share of the noise at s that is fresh: sigma_up / sigma of k-diffusion, and for
    variance-preserving schedules DDIM's sigma (Song et al. 2021, eq. 16) / sigma(s)."""
    return eta * (1 - _snr_ratio(schedule, t, s) ** 2).sqrt()


def _snr_ratio(schedule: Schedule, t: Tensor, s: Tensor) -> Tensor:
    """exp(lambda(t) - lambda(s)), lambda = log(alpha / sigma); 0 from pure noise and to data."""
    alpha, sigma = schedule.alpha, schedule.sigma
    return sigma(s) * alpha(t) / (alpha(s) * sigma(t))
