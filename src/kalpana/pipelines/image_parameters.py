"""Image parametrisations for optimisation: codes of a VQGAN, latents of an autoencoder, pixels, or
a grid of few colours.

A canvas (pixray: a drawer) defines which parameters are optimised, how they are initialised, and
how they are rendered. It holds no state of a picture; that is the latent.
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
from kalpana.hub.card import CARD, find_model, model_folders, read_card
from kalpana.hub.public import hashed
from kalpana.hub.weights import files_of, find_device, load_module
from kalpana.media import to_images
from kalpana.models import vae, vqgan
from kalpana.types import KalpanaError

Latent = tuple[Tensor, ...]  # the parameters of one picture


class Canvas(Protocol):
    """Interface of an image parametrisation: ``about`` identifies it, as JSON types; the sides of a
    picture are multiples of ``factor``; ``scale`` is the standard deviation of the numbers of a
    latent, by which the learning rate is multiplied."""

    @property
    def about(self) -> dict[str, Any]: ...
    @property
    def factor(self) -> int: ...
    @property
    def scale(self) -> float: ...

    def noise(self, width: int, height: int, generator: Generator, /) -> Latent:
        """A random latent, sampled with a generator on the CPU."""
        ...

    def trace(self, pixels: Tensor, /) -> Latent:
        """The encoding of a picture: the latent whose rendering is close to pixels (1, 3, h, w)."""
        ...

    def render(self, latent: Latent, /) -> Tensor:
        """Pixels (1, 3, h, w), possibly a little outside [-1, 1], differentiable by every part of
        the latent."""
        ...

    def project(self, latent: Latent, /) -> None:
        """Project a latent, in place, onto the valid range; called after every step, without
        gradients."""
        ...


@dataclass(frozen=True)
class Codes:
    """Codes of a VQGAN: each cell of the grid is quantised to the nearest code, with the
    straight-through gradient. With ``straight`` False the latents are decoded unquantised.
    ``fingerprint`` is the hash of the weights."""

    model: vqgan.VQGAN
    fingerprint: str
    straight: bool = True

    def __post_init__(self) -> None:
        if not self.straight and isinstance(self.model.quantiser, vqgan.FSQ):
            raise KalpanaError(
                "the numbers of FSQ are always rounded: "
                "leave out straight=False, or take a VQGAN that has a codebook"
            )

    @property
    def about(self) -> dict[str, Any]:
        return {"name": "vqgan", "sha256": self.fingerprint, "straight": self.straight}

    @property
    def factor(self) -> int:
        return self.model.config.factor

    @property
    def scale(self) -> float:
        indices = torch.arange(self.model.quantiser.size, device=self._device)
        return float(self.model.quantiser.codes(indices[None, None]).std())

    @property
    def _device(self) -> torch.device:
        return self.model.last.device

    def noise(self, width: int, height: int, generator: Generator) -> Latent:
        shape = 1, height // self.factor, width // self.factor
        indices = torch.randint(self.model.quantiser.size, shape, generator=generator)
        return (self.model.quantiser.codes(indices.to(self._device)),)

    @torch.no_grad()
    def trace(self, pixels: Tensor) -> Latent:
        latents, quantiser = (
            self.model.encode_latents(pixels.to(self._device)),
            self.model.quantiser,
        )
        return (latents if isinstance(quantiser, vqgan.FSQ) else quantiser(latents).codes,)

    def render(self, latent: Latent) -> Tensor:
        (codes,) = latent
        return self.model.decode_latents(
            self.model.quantiser(codes).codes if self.straight else codes
        )

    def project(self, latent: Latent) -> None:
        (codes,), quantiser = latent, self.model.quantiser
        if isinstance(quantiser, vqgan.FSQ):
            return  # FSQ bounds its numbers itself
        if quantiser.unit:
            codes.copy_(F.normalize(codes, dim=1))
        else:
            low, high = (bound[:, None, None] for bound in quantiser.vectors.aminmax(dim=0))
            codes.clamp_(low, high)


@dataclass(frozen=True)
class Latents:
    """Latents of a VAE, decoded directly. ``fingerprint`` is the hash of the weights."""

    model: vae.VAE
    fingerprint: str
    # Latents are clamped to this many standard deviations; the decoder was trained on none beyond.
    reach: float = 3.0
    factor: int = field(default=8, init=False)
    scale: float = field(default=1.0, init=False)

    @property
    def about(self) -> dict[str, Any]:
        return {"name": "vae", "sha256": self.fingerprint, "reach": self.reach}

    def noise(self, width: int, height: int, generator: Generator) -> Latent:
        shape = 1, self.model.config.latent, height // self.factor, width // self.factor
        latents = torch.randn(shape, generator=generator, dtype=torch.float32)
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
    """Pixels, in square cells of ``cell`` pixels a side."""

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
        noise = torch.randn(
            1, 3, height // self.cell, width // self.cell, generator=generator, dtype=torch.float32
        )
        return (noise * self.scale,)

    def trace(self, pixels: Tensor) -> Latent:
        return (F.avg_pool2d(pixels, self.cell),)

    def render(self, latent: Latent) -> Tensor:
        return _repeat(latent[0], self.cell)

    def project(self, latent: Latent) -> None:
        latent[0].clamp_(-1, 1)


@dataclass(frozen=True)
class Palette:
    """Square cells of ``cell`` pixels a side in ``colours`` colours, which are optimised too. A
    latent is logits (1, colours, rows, columns) and the colours (1, colours, 3). A cell has its
    likeliest colour, with the straight-through gradient of the softmax mixture."""

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
            1,
            self.colours,
            height // self.cell,
            width // self.cell,
            generator=generator,
            dtype=torch.float32,
        )
        return logits, torch.rand(
            1, self.colours, 3, generator=generator, dtype=torch.float32
        ) * 2 - 1

    def trace(self, pixels: Tensor) -> Latent:
        (small,) = to_images(F.avg_pool2d(pixels, self.cell))
        quantised = small.quantize(self.colours, Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE)
        found = (
            torch.tensor(quantised.getpalette(), dtype=torch.float32).view(-1, 3)[: self.colours]
            / 127.5
            - 1
        )
        # Grey fills the palette of a picture with fewer colours.
        colours = F.pad(found, (0, 0, 0, self.colours - len(found)))
        indices = torch.from_numpy(np.array(quantised)).long()
        return 2.0 * F.one_hot(indices, self.colours).permute(2, 0, 1)[None], colours[None]

    def render(self, latent: Latent) -> Tensor:
        logits, colours = latent
        soft = logits.softmax(1)
        hard = F.one_hot(logits.argmax(1), self.colours).movedim(-1, 1).to(soft)
        weights = hard + (soft - soft.detach())  # the value of hard, the gradient of soft
        return _repeat(torch.einsum("bkhw,bkc->bchw", weights, colours), self.cell)

    def project(self, latent: Latent) -> None:
        logits, colours = latent
        # Clamped, so that the gradient of no colour vanishes.
        logits.sub_(logits.amax(1, keepdim=True)).clamp_(min=-4)
        colours.clamp_(-1, 1)


def _at_least(name: str, value: int, least: int) -> None:
    if value < least:
        raise KalpanaError(f"{name} is {value}: write {least} or more")


def _repeat(x: Tensor, times: int) -> Tensor:
    """Nearest-neighbour enlargement of (b, c, h, w) by the factor ``times``."""
    return x.repeat_interleave(times, 2).repeat_interleave(times, 3)


def perlin(width: int, height: int, generator: Generator, octaves: int = 4) -> Tensor:
    """Perlin noise in colour (1, 3, h, w), scaled so that the largest absolute value is 1 (Perlin
    2002). The first octave has a lattice of half the shorter side; each further one is twice as
    fine and half as strong."""
    side = min(width, height)
    noise = torch.stack(
        [lattice(width, height, side / 2**k, generator) / 2**k for k in range(1, octaves + 1)]
    ).sum(0)
    return (noise / noise.abs().amax().clamp(min=1e-6))[None]


def lattice(width: int, height: int, side: float, generator: Generator) -> Tensor:
    """One octave of Perlin noise (3, h, w): 0 at the points of a lattice of ``side`` pixels, where
    the gradients are unit vectors of random direction."""
    y, x = (torch.arange(each, dtype=torch.float32) / side for each in (height, width))
    row, column = y.long(), x.long()
    angle = (
        2
        * math.pi
        * torch.rand(
            3, int(row[-1]) + 2, int(column[-1]) + 2, generator=generator, dtype=torch.float32
        )
    )
    dy, dx = (y - row)[:, None], (x - column)[None]

    def corner(down: int, right: int) -> Tensor:
        direction = angle[:, row + down][:, :, column + right]  # 3 h w
        return direction.sin() * (dy - down) + direction.cos() * (dx - right)

    above, below = (corner(down, 0).lerp(corner(down, 1), _fade(dx)) for down in (0, 1))
    return above.lerp(below, _fade(dy))


def _fade(t: Tensor) -> Tensor:
    """Perlin's quintic interpolation from 0 to 1; the first two derivatives are 0 at both ends."""
    return t**3 * (t * (6 * t - 15) + 10)


def load_canvas(
    name: str = "vqgan", folder: Path | None = None, device: str | None = None
) -> Canvas:
    """A canvas by name: vqgan, vae, pixels or palette. The first two use the weights shipped with
    Kalpana or those in ``folder``; a vqgan folder without a card is read as a public VQGAN.
    ``device`` None: a GPU if there is one, else the CPU.

    Raises KalpanaError if there is no such canvas or device, and as ``load_module`` and
    ``hub.vqgan.read``.
    """
    target = find_device(device)
    match name:
        case "vqgan":
            return _codes(folder, target)
        case "vae":
            path = (folder or find_model("default")) / "vae.safetensors"
            hashes = read_card(path.parent).files
            model = load_module(path, "vae", hashes)
            return Latents(model.to(target), hashed(files_of(path)))
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


def _codes(folder: Path | None, target: torch.device) -> Codes:
    """The canvas of the VQGAN in a folder (None: the shipped one)."""
    if folder is None and "vqgan" not in model_folders():
        raise KalpanaError(
            "no VQGAN comes with this version of Kalpana: "
            "name a folder with one in it, train one by recipes/vqgan.yaml, "
            "or take another canvas: vae, pixels, palette"
        )
    path = (folder or find_model("vqgan")) / "vqgan.safetensors"
    if not (path.parent / CARD).is_file():
        checkpoint = public.read(path.parent)
        return Codes(checkpoint.model.to(target), checkpoint.fingerprint)
    hashes = read_card(path.parent).files
    model = load_module(path, "vqgan", hashes)
    return Codes(model.to(target), hashed(files_of(path)))
