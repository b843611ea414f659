"""What a picture can be made of while it is optimised: codes of a VQGAN, latents of an autoencoder, pixels, or cells of a few colours.

A canvas (a drawer, in pixray) says which numbers make a picture, and how to begin with them. It keeps nothing of the picture itself.
"""

from __future__ import annotations

import difflib
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Generator, Tensor

from kalpana.hub import vqgan as public
from kalpana.hub.card import CARD, read_card, weights_dir
from kalpana.hub.public import hashed
from kalpana.hub.weights import files_of, find_device, load_module
from kalpana.media import to_images
from kalpana.models import vae, vqgan
from kalpana.types import KalpanaError

Latent = tuple[Tensor, ...]  # the numbers that make one picture


class Canvas(Protocol):
    """``about`` tells two of them apart, as JSON can hold it; a picture's sides are multiples of ``factor``; ``scale`` is the spread of a
    latent's numbers, by which a learning rate is multiplied."""

    @property
    def about(self) -> dict[str, Any]: ...
    @property
    def factor(self) -> int: ...
    @property
    def scale(self) -> float: ...

    def noise(self, width: int, height: int, generator: Generator, /) -> Latent:
        """A latent that means nothing yet, drawn by a generator on the CPU."""
        ...

    def trace(self, pixels: Tensor, /) -> Latent:
        """The latent that draws these pixels (1, 3, h, w) as nearly as can be."""
        ...

    def render(self, latent: Latent, /) -> Tensor:
        """Pixels (1, 3, h, w), perhaps a little outside [-1, 1], with a gradient for every part of the latent."""
        ...

    def project(self, latent: Latent, /) -> None:
        """Bring a latent, in place, back to where a picture can be: called after every step, without gradients."""
        ...


@dataclass(frozen=True)
class Codes:
    """A VQGAN's codes: each cell of the grid takes the code nearest to its latent, and hands on the gradient as if it were the latent
    itself. Where not ``straight``, the latents are decoded as they are. ``fingerprint`` is the hash of the weights."""

    model: vqgan.VQGAN
    fingerprint: str
    straight: bool = True

    def __post_init__(self) -> None:
        if not self.straight and isinstance(self.model.quantiser, vqgan.FSQ):
            raise KalpanaError(
                "the numbers of FSQ are always rounded: leave out straight=False, or take a VQGAN that has a codebook"
            )

    @property
    def about(self) -> dict[str, Any]:
        return {"name": "vqgan", "sha256": self.fingerprint, "straight": self.straight}

    @property
    def factor(self) -> int:
        return self.model.config.factor

    @property
    def scale(self) -> float:
        return float(
            self.model.quantiser.codes(
                torch.arange(self.model.quantiser.size, device=self._device)[None, None]
            ).std()
        )

    @property
    def _device(self) -> torch.device:
        return self.model.last.device

    def noise(self, width: int, height: int, generator: Generator) -> Latent:
        shape = 1, height // self.factor, width // self.factor
        return (
            self.model.quantiser.codes(
                torch.randint(self.model.quantiser.size, shape, generator=generator).to(
                    self._device
                )
            ),
        )

    @torch.no_grad()
    def trace(self, pixels: Tensor) -> Latent:
        latents, quantiser = self.model.look(pixels.to(self._device)), self.model.quantiser
        return (latents if isinstance(quantiser, vqgan.FSQ) else quantiser(latents).codes,)

    def render(self, latent: Latent) -> Tensor:
        (codes,) = latent
        return self.model.draw(self.model.quantiser(codes).codes if self.straight else codes)

    def project(self, latent: Latent) -> None:
        (codes,), quantiser = latent, self.model.quantiser
        if isinstance(quantiser, vqgan.FSQ):
            return  # which bounds them itself
        if quantiser.unit:
            codes.copy_(F.normalize(codes, dim=1))
        else:
            low, high = (bound[:, None, None] for bound in quantiser.vectors.aminmax(dim=0))
            codes.clamp_(low, high)


@dataclass(frozen=True)
class Latents:
    """An autoencoder's latents, which are drawn as they are. ``fingerprint`` is the hash of the weights."""

    model: vae.VAE
    fingerprint: str
    reach: float = (
        3.0  # standard deviations, to which latents are kept: beyond, none was ever decoded
    )
    factor: int = field(default=8, init=False)
    scale: float = field(default=1.0, init=False)

    @property
    def about(self) -> dict[str, Any]:
        return {"name": "vae", "sha256": self.fingerprint, "reach": self.reach}

    def noise(self, width: int, height: int, generator: Generator) -> Latent:
        latents = torch.randn(
            1,
            self.model.config.latent,
            height // self.factor,
            width // self.factor,
            generator=generator,
        )
        return (latents.to(self.model.preview_bias.device),)

    @torch.no_grad()
    def trace(self, pixels: Tensor) -> Latent:
        return (self.model.encode(pixels.to(self.model.preview_bias.device)),)

    def render(self, latent: Latent) -> Tensor:
        return self.model.decode(latent[0])

    def project(self, latent: Latent) -> None:
        latent[0].clamp_(-self.reach, self.reach)


@dataclass(frozen=True)
class Pixels:
    """The pixels themselves, in squares of ``cell``."""

    cell: int = 1
    scale: float = field(default=0.5, init=False)

    def __post_init__(self) -> None:
        _at_least("cell", self.cell, 1)

    @property
    def about(self) -> dict[str, Any]:
        return {"name": "pixels", "cell": self.cell}

    @property
    def factor(self) -> int:
        return self.cell

    def noise(self, width: int, height: int, generator: Generator) -> Latent:
        return (
            torch.randn(1, 3, height // self.cell, width // self.cell, generator=generator)
            * self.scale,
        )

    def trace(self, pixels: Tensor) -> Latent:
        return (F.avg_pool2d(pixels, self.cell),)

    def render(self, latent: Latent) -> Tensor:
        return _enlarged(latent[0], self.cell)

    def project(self, latent: Latent) -> None:
        latent[0].clamp_(-1, 1)


@dataclass(frozen=True)
class Palette:
    """Squares of ``cell`` pixels, each of one of a few ``colours``, which are optimised too. A latent is logits (1, colours, rows, columns)
    and the colours (1, colours, 3): a square has the likeliest, and hands on the gradient as if it were their mixture."""

    colours: int = 8
    cell: int = 4
    scale: float = field(default=1.0, init=False)

    def __post_init__(self) -> None:
        _at_least("cell", self.cell, 1)
        if not 2 <= self.colours <= 256:
            raise KalpanaError(f"colours is {self.colours}: write from 2 to 256")

    @property
    def about(self) -> dict[str, Any]:
        return {"name": "palette", "colours": self.colours, "cell": self.cell}

    @property
    def factor(self) -> int:
        return self.cell

    def noise(self, width: int, height: int, generator: Generator) -> Latent:
        logits = torch.randn(
            1, self.colours, height // self.cell, width // self.cell, generator=generator
        )
        return logits, torch.rand(1, self.colours, 3, generator=generator) * 2 - 1

    def trace(self, pixels: Tensor) -> Latent:
        (small,) = to_images(F.avg_pool2d(pixels, self.cell))
        few = small.quantize(self.colours, Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE)
        found = torch.tensor(few.getpalette()).view(-1, 3)[: self.colours] / 127.5 - 1
        colours = F.pad(
            found, (0, 0, 0, self.colours - len(found))
        )  # a picture that has fewer is joined by grey
        chosen = torch.from_numpy(np.array(few)).long()
        return 2.0 * F.one_hot(chosen, self.colours).permute(2, 0, 1)[None], colours[None]

    def render(self, latent: Latent) -> Tensor:
        logits, colours = latent
        soft = logits.softmax(1)
        hard = F.one_hot(logits.argmax(1), self.colours).movedim(-1, 1).to(soft)
        chosen = hard + (soft - soft.detach())  # exactly the one, with the gradient of the other
        return _enlarged(torch.einsum("bkhw,bkc->bchw", chosen, colours), self.cell)

    def project(self, latent: Latent) -> None:
        logits, colours = latent
        logits.sub_(logits.amax(1, keepdim=True)).clamp_(min=-4)  # no colour is ever out of reach
        colours.clamp_(-1, 1)


def _at_least(name: str, value: int, least: int) -> None:
    if value < least:
        raise KalpanaError(f"{name} is {value}: write {least} or more")


def _enlarged(x: Tensor, times: int) -> Tensor:
    """Each pixel of (b, c, h, w) as a square of ``times``."""
    return x.repeat_interleave(times, 2).repeat_interleave(times, 3)


def perlin(width: int, height: int, generator: Generator, octaves: int = 4) -> Tensor:
    """Clouds of colour, (1, 3, h, w) from -1 to 1: gradient noise (Perlin 2002), first with a lattice of half the shorter side, then each
    time twice as fine and half as strong."""
    side = min(width, height)
    clouds = torch.stack(
        [lattice(width, height, side / 2**k, generator) / 2**k for k in range(1, octaves + 1)]
    ).sum(0)
    return (clouds / clouds.abs().amax().clamp(min=1e-6))[None]


def lattice(width: int, height: int, side: float, generator: Generator) -> Tensor:
    """One octave, (3, h, w): 0 at the points of a lattice of ``side`` pixels, with a slope there that points anywhere."""
    y, x = torch.arange(height) / side, torch.arange(width) / side
    row, column = y.long(), x.long()
    angle = 2 * math.pi * torch.rand(3, int(row[-1]) + 2, int(column[-1]) + 2, generator=generator)
    dy, dx = (y - row)[:, None], (x - column)[None]

    def corner(down: int, right: int) -> Tensor:
        around = angle[:, row + down][:, :, column + right]  # 3 h w
        return around.sin() * (dy - down) + around.cos() * (dx - right)

    above, below = (corner(down, 0).lerp(corner(down, 1), _fade(dx)) for down in (0, 1))
    return above.lerp(below, _fade(dy))


def _fade(t: Tensor) -> Tensor:
    """From 0 to 1, with no slope and no bend at either end."""
    return t**3 * (t * (6 * t - 15) + 10)


def load_canvas(
    name: str = "vqgan", folder: Path | None = None, device: str | None = None
) -> Canvas:
    """The canvas of a name: vqgan, vae, pixels or palette. The first two are of the weights that come with Kalpana, or of a ``folder``; a
    folder without a card is taken for a public VQGAN. ``device`` is a GPU where there is one, unless named.

    Raises KalpanaError where there is no such canvas or device, or as ``load_module`` and ``hub.vqgan.read``.
    """
    place = find_device(device)
    match name:
        case "vqgan":
            return _codes(folder, place)
        case "vae":
            path = (folder or weights_dir() / "default") / "vae.safetensors"
            model = load_module(
                path,
                "vae",
                lambda **config: vae.VAE(vae.Config(**config)),
                read_card(path.parent).files,
            )
            return Latents(model.to(place), hashed(files_of(path)))
        case "pixels":
            return Pixels()
        case "palette":
            return Palette()
    known = "vqgan", "vae", "pixels", "palette"
    close = difflib.get_close_matches(name, known, n=1)
    raise KalpanaError(
        f"there is no canvas {name!r}: "
        + (f"did you mean {close[0]!r}?" if close else f"write {', '.join(known)}")
    )


def _codes(folder: Path | None, place: torch.device) -> Codes:
    path = (folder or weights_dir() / "vqgan") / "vqgan.safetensors"
    if folder is None and not path.parent.is_dir():
        raise KalpanaError(
            f"no VQGAN comes with this version of Kalpana ({path} is missing): name a folder with one in it, train one by "
            "recipes/vqgan.yaml, or take another canvas: vae, pixels, palette"
        )
    if not (path.parent / CARD).is_file():
        checkpoint = public.read(path.parent)
        return Codes(checkpoint.model.to(place), checkpoint.fingerprint)
    model = load_module(
        path,
        "vqgan",
        lambda **config: vqgan.VQGAN(vqgan.Config(**config)),
        read_card(path.parent).files,
    )
    return Codes(model.to(place), hashed(files_of(path)))
