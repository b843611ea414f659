"""Shared data types, and the conventions that all packages follow.

- time ``t`` runs from 1 (noise) to 0 (data): ``x_t = alpha(t) * x0 + sigma(t) * eps``;
  for flow ``alpha = 1 - t, sigma = t``
- pixels are float in [-1, 1], shape ``b c h w``; videos ``b f c h w``; tokens ``b l``;
  features ``b l d``
- latents are ``b c h w`` with roughly zero mean and unit variance; the autoencoder owns its scale
  and shift
- guidance 1 is off; ``seed`` 0 is a seed (ask ``seed is None``)
- ``network(x_t, t, cond) -> prediction`` · ``denoise(x_t, t) -> x0`` ·
  ``step(denoise, x, t, s, history) -> x``

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
    """Tokenised text: ``ids`` (b, l) int64, padded on the right, and ``mask`` (b, l), True at
    real tokens."""

    ids: Tensor
    mask: Tensor

    def to(self, device: Any) -> Tokens:
        return Tokens(self.ids.to(device), self.mask.to(device))

    def __len__(self) -> int:
        return self.ids.shape[0]


@dataclass(frozen=True)
class Cond:
    """The conditioning of a network: ``tokens`` (None: the null condition) and ``null`` (b,) bool,
    True at rows that use the null condition."""

    tokens: Tokens | None = None
    null: Tensor | None = None


@dataclass(frozen=True)
class Picture:
    """One generated picture: ``image`` (PIL, RGB), its ``seed``, the ``receipt`` from which it can
    be generated again, and the ``path`` of its file, if any."""

    image: Image
    seed: int
    receipt: dict[str, Any]
    path: Path | None = None


@dataclass(frozen=True)
class Result:
    """The result of a request, carried by its last Step: the pictures in the order requested, and
    the warnings for the user."""

    pictures: tuple[Picture, ...]
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class Step:
    """One step of a running request; ``index`` counts from 1 to ``total``.

    ``preview`` is the current x0 estimate as pixels (b, 3, h, w) in [-1, 1], or None. ``eta`` is
    the estimated time left in seconds, or None before it is known. ``result`` is set on the last
    Step only.
    """

    index: int
    total: int
    preview: Tensor | None = None
    eta: float | None = None
    stage: str = "denoise"
    result: Result | None = field(default=None, repr=False)


class KalpanaError(Exception):
    """An error that the user can correct; its message is one line that states the problem, where
    it is, and what to write instead."""
