"""The nouns that travel between the rooms, and the conventions every room keeps.

Said once, here:

- time ``t`` runs from 1 (noise) to 0 (data): ``x_t = alpha(t) * x0 + sigma(t) * eps``; for flow ``alpha = 1 - t, sigma = t``
- pixels are float in [-1, 1], shape ``b c h w``; clips ``b f c h w``; tokens ``b l``; features ``b l d``
- latents are ``b c h w`` with roughly zero mean and unit variance; the autoencoder owns its scale and shift
- guidance 1 is off; ``seed`` 0 is a seed (ask ``seed is None``)
- ``network(x_t, t, cond) -> prediction`` · ``denoise(x_t, t) -> x0`` · ``step(denoise, x, t, s, history) -> x``

Shape letters: b batch, f frames, c channels, h w pixels, l tokens, d width, n heads.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path

    from PIL.Image import Image
    from torch import Tensor


@dataclass(frozen=True)
class Tokens:
    """Text as a network reads it: ``ids`` (b, l) int64, padded on the right, and ``mask`` (b, l), True at real tokens."""

    ids: Tensor
    mask: Tensor

    def to(self, device: Any) -> Tokens:
        return Tokens(self.ids.to(device), self.mask.to(device))

    def __len__(self) -> int:
        return self.ids.shape[0]


@dataclass(frozen=True)
class Cond:
    """What a network is conditioned on. ``tokens`` None is the null condition; ``null`` (b,) bool nulls single rows."""

    tokens: Tokens | None = None
    null: Tensor | None = None


@dataclass(frozen=True)
class Picture:
    """One finished picture: ``image`` (PIL, RGB), its own ``seed``, and the ``receipt`` that replays it."""

    image: Image
    seed: int
    receipt: dict[str, Any]
    path: Path | None = None


@dataclass(frozen=True)
class Result:
    """What the last Step carries: the pictures in the order asked for, and everything the user should be told."""

    pictures: tuple[Picture, ...]
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class Step:
    """One beat of a running request; ``index`` counts from 1 to ``total``.

    ``preview`` is the current x0 estimate as pixels (b, 3, h, w) in [-1, 1], or None; ``eta`` is seconds left, or None
    before it can be known; ``result`` is set on the last Step and nowhere else.
    """

    index: int
    total: int
    preview: Tensor | None = None
    eta: float | None = None
    stage: str = "denoise"
    result: Result | None = field(default=None, repr=False)


class KalpanaError(Exception):
    """A mistake the user can mend: one line that says what was wrong, where, and what to write instead."""
