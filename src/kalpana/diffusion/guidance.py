"""Guidance: follow what the prompt changes, further than the network would, or what raises a score. It wraps a denoiser; samplers and
networks never hear of it."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import pad

from kalpana.diffusion.denoiser import Denoise, Denoiser
from kalpana.types import Cond, Tokens


def guide(
    denoiser: Denoiser,
    cond: Cond,
    scale: float = 1.0,
    interval: tuple[float, float] = (0.0, 1.0),
    negative: Cond | None = None,
) -> Denoise:
    """``denoise(x_t, t) -> x0`` under ``cond`` (b rows of tokens), guided away from the null condition, or from ``negative`` (b rows).

    ``scale`` 1 is off; only times in ``(low, high]`` are guided (Kynkäänniemi et al. 2024: early guidance costs variety,
    late guidance does nothing). Guided, the network runs once on 2b rows, conditional first; else once on b rows.
    """

    def alone(x_t: Tensor, t: Tensor) -> Tensor:
        return denoiser(x_t, t, cond)

    if scale == 1:
        return Denoise(denoiser.schedule, alone)
    low, high = interval
    both = _stack(cond, negative or Cond(cond.tokens, torch.ones_like(_null(cond))))

    def guided(x_t: Tensor, t: Tensor) -> Tensor:
        if not low < t <= high:
            return alone(x_t, t)
        x0, x0_other = denoiser(torch.cat((x_t, x_t)), t, both).chunk(2)
        return x0_other + scale * (
            x0 - x0_other
        )  # Ho & Salimans 2022, eq. 6 with w = scale - 1; affine, so on x0 as on eps

    return Denoise(denoiser.schedule, guided)


def loss_guidance(
    denoise: Denoise, score: Callable[[Tensor], Tensor], weight: float = 1.0
) -> Denoise:
    """The denoiser with its estimate moved to where ``score(x0) -> (b,)``, any differentiable function of (b, ...), is larger.

    As a classifier guides, ``eps' = eps - weight * sigma * gradient`` (Dhariwal & Nichol 2021, algorithm 2), that is
    ``x0' = x0 + weight * sigma^2 / alpha * gradient``, here of the score of the estimate (Bansal et al. 2023, forward guidance). The
    gradient is with respect to x_t: it passes through the denoiser, which costs a pass backward, and which by Tweedie's formula makes
    the shift the covariance of x0 given x_t times the gradient at x0. So it goes only where data can go, and fades as the noise does.
    Exact for a linear score of Gaussian data; a score that bends is followed too far, as the estimate is taken for x0 itself.

    Where alpha is 0 the noise says nothing of x0, and the estimate stays.
    """

    def steered(x_t: Tensor, t: Tensor) -> Tensor:
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

    return Denoise(denoise.schedule, steered)


def _tokens(cond: Cond) -> Tokens:
    if cond.tokens is None:
        raise ValueError(
            "guide() needs tokens in cond (and in negative): for the null condition give any tokens with null=True rows"
        )
    return cond.tokens


def _null(cond: Cond) -> Tensor:
    tokens = _tokens(cond)
    return (
        torch.zeros(len(tokens), dtype=torch.bool, device=tokens.ids.device)
        if cond.null is None
        else cond.null
    )


def _stack(first: Cond, second: Cond) -> Cond:
    """Both conditions as rows of one batch, the shorter token rows padded on the right."""
    pair = _tokens(first), _tokens(second)
    length = max(tokens.ids.shape[1] for tokens in pair)

    def rows(*parts: Tensor) -> Tensor:
        return torch.cat([pad(part, (0, length - part.shape[1])) for part in parts])

    ids, mask = rows(*(tokens.ids for tokens in pair)), rows(*(tokens.mask for tokens in pair))
    return Cond(Tokens(ids, mask), torch.cat((_null(first), _null(second))))
