"""Guidance: follow what the prompt changes, further than the network would. It wraps a denoiser; samplers and networks never hear of it."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import pad

from kalpana.diffusion.denoiser import Denoise, Denoiser
from kalpana.types import Cond, Tokens


def guide(
    denoiser: Denoiser, cond: Cond, scale: float = 1.0, interval: tuple[float, float] = (0.0, 1.0), negative: Cond | None = None
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
        return x0_other + scale * (x0 - x0_other)  # Ho & Salimans 2022, eq. 6 with w = scale - 1; affine, so on x0 as on eps

    return Denoise(denoiser.schedule, guided)


def _tokens(cond: Cond) -> Tokens:
    if cond.tokens is None:
        raise ValueError("guide() needs tokens in cond (and in negative): for the null condition give any tokens with null=True rows")
    return cond.tokens


def _null(cond: Cond) -> Tensor:
    tokens = _tokens(cond)
    return torch.zeros(len(tokens), dtype=torch.bool, device=tokens.ids.device) if cond.null is None else cond.null


def _stack(first: Cond, second: Cond) -> Cond:
    """Both conditions as rows of one batch, the shorter token rows padded on the right."""
    pair = _tokens(first), _tokens(second)
    length = max(tokens.ids.shape[1] for tokens in pair)

    def rows(*parts: Tensor) -> Tensor:
        return torch.cat([pad(part, (0, length - part.shape[1])) for part in parts])

    ids, mask = rows(*(tokens.ids for tokens in pair)), rows(*(tokens.mask for tokens in pair))
    return Cond(Tokens(ids, mask), torch.cat((_null(first), _null(second))))
