"""Classifier-free guidance, autoguidance and loss guidance, as wrappers of a denoiser.

Samplers and networks need no code for any of them.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from kalpana.diffusion.denoiser import Denoise, Denoiser
from kalpana.types import Cond


def guide(
    denoiser: Denoiser,
    cond: Cond,
    scale: float = 1.0,
    interval: tuple[float, float] = (0.0, 1.0),
    negative: Cond | None = None,
    rescale: float = 0.0,
) -> Denoise:
    """Classifier-free guidance (Ho & Salimans 2022): ``denoise(x_t, t) -> x0`` under ``cond``.

    ``cond`` has b rows. Guidance is away from ``cond.dropped()``, the null condition, or from
    ``negative`` (b rows) where one is given. ``scale`` 1 is off. Only times in ``(low, high]`` are
    guided: early guidance reduces variety and late guidance has no effect (Kynkäänniemi et al.
    2024). In that interval the network runs once on 2b rows, the conditional rows first; outside
    it, and with scale 1, once on b rows. ``rescale`` is that of ``rescaled``. A network whose
    condition holds its ``guidance`` has it built in, and runs once on b rows.

    Raises ValueError where ``scale`` is not 1 and ``cond`` is empty.
    """

    def alone(x_t: Tensor, t: Tensor) -> Tensor:
        return denoiser(x_t, t, cond)

    if scale == 1 or cond.guidance is not None:
        return Denoise(denoiser.schedule, alone)
    low, high = interval
    both = Cond.cat(cond, cond.dropped() if negative is None else negative)

    def guided(x_t: Tensor, t: Tensor) -> Tensor:
        if not low < t <= high:
            return alone(x_t, t)
        x0, x0_other = denoiser(torch.cat((x_t, x_t)), t, both).chunk(2)
        # Ho & Salimans 2022, eq. 6 with w = scale - 1. It is affine, so it holds for x0 as for eps.
        return rescaled(x0_other + scale * (x0 - x0_other), x0, rescale)

    return Denoise(denoiser.schedule, guided)


def rescaled(guided: Tensor, x0: Tensor, share: float) -> Tensor:
    """A guided estimate with its standard deviation moved towards that of the conditional estimate
    ``x0``, row by row, against the excess of contrast of strong guidance.

    Lin et al. 2023, eq. 15 and 16, where ``share`` is phi; 0 is off. They rescale v, which at pure
    noise is -x0; here it is x0 at every time.
    """
    if share == 0:
        return guided
    ratio = x0.flatten(1).std(1) / guided.flatten(1).std(1)
    return guided * (1 + share * (ratio - 1)).reshape(-1, *[1] * (x0.ndim - 1))


def clipped(denoise: Denoise, limit: float) -> Denoise:
    """Static thresholding (Ho et al. 2020; Saharia et al. 2022, section 2.3): every estimate of x0
    clipped to the range of the data, [-limit, limit]. Near noise the error of a predicted eps is
    divided by alpha, and the estimate is out of range without it."""

    def estimate(x_t: Tensor, t: Tensor) -> Tensor:
        return denoise(x_t, t).clamp(-limit, limit)

    return Denoise(denoise.schedule, estimate)


def autoguide(
    denoise: Denoise,
    weak: Denoise,
    scale: float,
    interval: tuple[float, float] = (0.0, 1.0),
    rescale: float = 0.0,
) -> Denoise:
    """Autoguidance (Karras et al. 2024, eq. 4): the estimate of a network, moved away from that of
    a weaker one, which is smaller or less trained. ``scale`` 1 is off; ``interval`` and ``rescale``
    are those of ``guide``.

    ``denoise`` and ``weak`` follow the same schedule and have the same condition.
    """
    low, high = interval

    def guided(x_t: Tensor, t: Tensor) -> Tensor:
        x0 = denoise(x_t, t)
        if scale == 1 or not low < t <= high:
            return x0
        x0_weak = weak(x_t, t)
        return rescaled(x0_weak + scale * (x0 - x0_weak), x0, rescale)

    return Denoise(denoise.schedule, guided)


def loss_guidance(
    denoise: Denoise, score: Callable[[Tensor], Tensor], weight: float = 1.0
) -> Denoise:
    """Denoiser whose x0 estimate is shifted along the gradient of a score, towards higher scores.

    ``score(x0) -> (b,)`` is any differentiable function of (b, ...). The shift is that of
    classifier guidance, ``eps' = eps - weight * sigma * gradient`` (Dhariwal & Nichol 2021,
    algorithm 2), that is ``x0' = x0 + weight * sigma^2 / alpha * gradient``, with the score taken
    at the estimate (Bansal et al. 2023, forward guidance).

    The gradient is with respect to x_t. It passes through the denoiser and costs one backward pass.
    By Tweedie's formula the shift is then the covariance of x0 given x_t, times the gradient at x0:
    it moves only in directions in which the data vary, and it vanishes with the noise. It is exact
    for a linear score and Gaussian data. For a non-linear score the shift is too large, since the
    estimate is used in place of x0.

    Where alpha is 0, x_t carries no information about x0, and the estimate is unchanged.
    Raises ValueError where ``score`` does not return one number a row.
    """

    def guided(x_t: Tensor, t: Tensor) -> Tensor:
        alpha, sigma = denoise.schedule.alpha(t), denoise.schedule.sigma(t)
        if alpha == 0:
            return denoise(x_t, t)
        with torch.enable_grad():
            start = x_t.detach().requires_grad_()
            x0 = denoise(start, t)
            scores = score(x0)
            if scores.shape != (len(x_t),):
                raise ValueError(
                    f"score() gave {tuple(scores.shape)}: give one number a row, ({len(x_t)},)"
                )
            (gradient,) = torch.autograd.grad(scores.sum(), start)
        return x0.detach() + weight * sigma**2 / alpha * gradient

    return Denoise(denoise.schedule, guided)
