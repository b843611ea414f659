"""Shared data types, and the conventions that all packages follow.

- time ``t`` runs from 1 (noise) to 0 (data): ``x_t = alpha(t) * x0 + sigma(t) * eps``;
  for flow ``alpha = 1 - t, sigma = t``
- pixels are float in [-1, 1], shape ``b c h w``; videos ``b f c h w``; tokens ``b l``;
  features ``b l d``
- latents are ``b c h w`` with roughly zero mean and unit variance; the autoencoder owns its scale
  and shift
- guidance 1 is off; ``seed`` 0 is a seed (ask ``seed is None``)
- ``network(x_t, t, cond) -> prediction`` · ``denoise(x_t, t) -> x0`` ·
  ``step(denoise, x, t, s, history, noise) -> x``

Shape letters: b batch, f frames, c channels, h w pixels, l tokens, d width, n heads.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

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

    @property
    def device(self) -> Any:
        return self.ids.device

    @staticmethod
    def cat(*parts: Tokens) -> Tokens:
        """The rows of several texts, one after another, padded on the right to the longest."""
        import torch
        from torch.nn.functional import pad

        length = max((part.ids.shape[1] for part in parts), default=0)

        def rows(name: str) -> Tensor:
            values = (getattr(part, name) for part in parts)
            return torch.cat([pad(each, (0, length - each.shape[1])) for each in values])

        return Tokens(rows("ids"), rows("mask"))


@dataclass(frozen=True)
class Cond:
    """The conditioning of a network, b rows of each field that is given; a network states which
    fields it reads.

    - ``tokens``: the text
    - ``null`` (b,) bool: True at rows without text, label and embedding (classifier-free guidance)
    - ``label`` (b,) int64: class ids
    - ``embedding`` (b, d): a CLIP image embedding
    - ``known`` (b, c + 1, h, w) or (b, f, c + 1, h, w): given latents, and their mask (1: given)
    - ``control``: maps in pixels (b, 4, h, w) by kind, such as "edges": RGB in [-1, 1], and the
      strength of the map as a constant channel, 0 in rows without it
    - ``style`` (1, c + 1, h, w): latents of a style reference, noised as the sample is, and its
      strength as a constant channel; one for all rows
    - ``camera`` (b, f, 4): x, y, log zoom and roll of each frame
    - ``seconds`` (b, f): time of each latent frame in its video
    - ``until`` and ``guidance``, (b,) or (1,) for all rows: the time to which a two-time network
      steps, and the scale of the guidance that is built into it
    """

    tokens: Tokens | None = None
    null: Tensor | None = None
    label: Tensor | None = None
    embedding: Tensor | None = None
    known: Tensor | None = None
    control: dict[str, Tensor] | None = None
    style: Tensor | None = None
    camera: Tensor | None = None
    seconds: Tensor | None = None
    until: Tensor | None = None
    guidance: Tensor | None = None

    def __len__(self) -> int:
        """The number of rows, 0 for the empty condition."""
        return next((len(each) for each in self._given().values()), 0)

    def to(self, device: Any) -> Cond:
        """The condition on a device."""
        return self._map(lambda each: each.to(device))

    def dropped(self) -> Cond:
        """The condition that guidance moves away from: every row is null, so that it has no text,
        label and embedding; known latents, control maps and the camera stay.

        Raises ValueError for the empty condition, which has no rows.
        """
        return replace(self, null=self._null() | True)

    @staticmethod
    def cat(*parts: Cond) -> Cond:
        """The rows of several conditions, one after another; shorter texts are padded.

        ``null`` counts as False where it is not given. Raises ValueError where another field is
        given in some parts only.
        """
        import torch

        given = [part._given() for part in parts]
        names = {name for fields in given for name in fields} - {"null"}
        for name in sorted(names):
            if any(name not in fields for fields in given):
                raise ValueError(f"{name} is given in some conditions only: give it in all or none")

        def rows(name: str) -> Tensor:
            return torch.cat([fields[name] for fields in given])

        texts = [part.tokens for part in parts if part.tokens is not None]
        any_null = any(part.null is not None for part in parts)
        maps = {name.removeprefix("control."): rows(name) for name in names if "." in name}
        return Cond(
            tokens=Tokens.cat(*texts) if texts else None,
            null=torch.cat([part._null() for part in parts]) if any_null else None,
            control=maps or None,
            **{name: rows(name) for name in names if name != "tokens" and "." not in name},
        )

    def _null(self) -> Tensor:
        """The null rows (b,) bool, False where they are not given."""
        import torch

        first = next(iter(self._given().values()), None)
        if first is None:
            raise ValueError(
                "an empty Cond has no rows: give it tokens (any, with null=True, for no text)"
            )
        none = torch.zeros(len(self), dtype=torch.bool, device=first.device)
        return none if self.null is None else self.null

    def _given(self) -> dict[str, Any]:
        """The fields that are given, each control map under the name "control.KIND"."""
        fields = {name: getattr(self, name) for name in self.__dataclass_fields__}
        maps = {f"control.{kind}": each for kind, each in (fields.pop("control") or {}).items()}
        return {name: each for name, each in (fields | maps).items() if each is not None}

    def _map(self, function: Callable[[Any], Any]) -> Cond:
        """The condition with a function applied to each field that is given."""
        fields = {name: getattr(self, name) for name in self.__dataclass_fields__}
        control = fields.pop("control")
        return Cond(
            control=control and {kind: function(each) for kind, each in control.items()},
            **{name: each if each is None else function(each) for name, each in fields.items()},
        )


class Codec(Protocol):
    """A model that turns pixels into the latents (or image tokens) of another model, and back.

    Pixels are (b, 3, h, w) in [-1, 1], with sides that are multiples of ``factor``; a codec of
    videos has pixels (b, f, 3, h, w). Decoded pixels may be slightly outside [-1, 1].
    """

    @property
    def factor(self) -> int:
        """Number of pixels, along each side, that one latent stands for."""
        ...

    def shape(self, height: int, width: int, frames: int = 1) -> tuple[int, ...]:
        """Shape of the latents of one picture or video, without the batch."""
        ...

    def encode(self, pixels: Tensor, /) -> Tensor: ...
    def decode(self, latents: Tensor, /) -> Tensor: ...
    def preview(self, latents: Tensor, /) -> Tensor:
        """Pixels of latents for a preview, in [-1, 1], which may be smaller."""
        ...


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

    def save(self, path: str | PathLike[str], *, metadata: bool = True) -> Output:
        """Writes the media with its receipt embedded; the output with the path that was written,
        which is PATH-2, PATH-3 … if the file exists. ``metadata`` False leaves the receipt out.

        The suffix sets the format: .png, .webp or .jpg for an image; .mp4, .webp, .gif or .png (a
        sheet of all frames) for a video. Raises KalpanaError for another suffix.
        """
        from kalpana.media import save, save_video

        if isinstance(self.media, Video):
            frames, fps = self.media.frames, self.media.fps
            written = save_video(frames, fps, Path(path), self.receipt, metadata=metadata)
        else:
            written = save(self.media, Path(path), self.receipt, metadata=metadata)
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
