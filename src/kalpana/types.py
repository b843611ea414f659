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

from dataclasses import dataclass, field, replace
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kalpana.errors import KalpanaError as KalpanaError

if TYPE_CHECKING:
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
class Video:
    """A video: ``frames`` (PIL, RGB, of one size) at ``fps`` frames a second."""

    frames: tuple[Image, ...]
    fps: int


@dataclass(frozen=True)
class Output:
    """One generated image or video: its ``media`` (a PIL image in RGB, or a Video), its ``seed``,
    the ``receipt`` from which it can be generated again, and the ``path`` of its file, if any."""

    media: Image | Video
    seed: int
    receipt: dict[str, Any]
    path: Path | None = None

    @property
    def image(self) -> Image:
        """The image. Raises KalpanaError for a video."""
        if isinstance(self.media, Video):
            raise KalpanaError("this output is a video: its frames are in output.media.frames")
        return self.media

    def save(self, path: str | PathLike[str]) -> Output:
        """Writes the media with its receipt embedded; the output with the path that was written,
        which is PATH-2, PATH-3 … if the file exists.

        The suffix sets the format: .png, .webp or .jpg for an image, .mp4 for a video. Raises
        KalpanaError for another suffix.
        """
        from kalpana.media import save, save_video

        if isinstance(self.media, Video):
            written = save_video(self.media.frames, self.media.fps, Path(path), self.receipt)
        else:
            written = save(self.media, Path(path), self.receipt)
        return replace(self, path=written)


@dataclass(frozen=True)
class Result:
    """The result of a request, carried by its last Step: the outputs in the order requested, and
    the warnings for the user."""

    outputs: tuple[Output, ...]
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class Step:
    """One step of a running request; ``index`` counts from 1 to ``total``.

    ``preview`` is the current x0 estimate as pixels, (b, 3, h, w) or for videos (b, f, 3, h, w), in
    [-1, 1], or None. ``eta`` is
    the estimated time left in seconds, or None before it is known. ``result`` is set on the last
    Step only.
    """

    index: int
    total: int
    preview: Tensor | None = None
    eta: float | None = None
    stage: str = "denoise"
    result: Result | None = field(default=None, repr=False)
