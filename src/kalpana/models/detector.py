"""The detector behind the verifiers: what is where, in which colour, and whether it is any object at all.

After CenterNet (Zhou et al. 2019, "Objects as Points"): every object is a peak on a map of its class at a quarter of the picture's
side; beside the peak the map says how far the box reaches to each side, which colour the object has been given, which
pixels carry that colour, an embedding that names rarer concepts, and whether the thing is whole and real.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor

STRIDE = 4


@dataclass(frozen=True)
class Config:
    classes: int = 108  # labels
    colors: int = 11  # none, and the ten
    concepts: int = 1600  # that one label stands for, told apart by the embedding
    embedding: int = 48
    fine: int = 48  # width at a quarter of the side
    coarse: int = 80  # width at an eighth
    deep: int = 80  # width at a sixteenth
    depth: tuple[int, int, int, int] = (
        1,
        2,
        2,
        2,
    )  # blocks: down at a quarter, an eighth and a sixteenth, and up at an eighth
    facing: bool = False  # whether it says where things face
    depthwise: bool = False  # blocks of 7x7 depthwise convolutions (ConvNeXt, Liu et al. 2022) instead of residual ones


class Residual(nn.Module):
    """x + norm(conv(relu(norm(conv(x))))), then relu (He et al. 2016)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.one, self.two = (nn.Conv2d(width, width, 3, padding=1, bias=False) for _ in range(2))
        self.norm_one, self.norm_two = nn.BatchNorm2d(width), nn.BatchNorm2d(width)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(x + self.norm_two(self.two(F.relu(self.norm_one(self.one(x))))))


class Depthwise(nn.Module):
    """x + pointwise(gelu(pointwise(norm(depthwise 7x7)))), twice as wide inside (Liu et al. 2022)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.spread = nn.Conv2d(width, width, 7, padding=3, groups=width, bias=False)
        self.norm = nn.BatchNorm2d(width)
        self.up, self.down = nn.Conv2d(width, 2 * width, 1), nn.Conv2d(2 * width, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast(
            x.device.type, enabled=False
        ):  # on a CPU, its way back takes three times as long in bfloat16
            spread = self.spread(x.float())
        return x + self.down(F.gelu(self.up(self.norm(spread))))


@dataclass(frozen=True)
class Maps:
    """What the network says at every cell, at a quarter of the side: ``heat`` (b, classes, h, w) logits; ``reach`` (b, 4, h, w), from the
    cell's middle to the left, top, right and bottom of the box, in cells; ``color`` (b, colors, h, w) logits; ``painted`` (b, 1, h, w)
    logits: is this of the colour its object was given; ``embedding`` (b, embedding, h, w); ``whole`` (b, 1, h, w) logits; ``shows``
    (b, 1 + classes, h, w) logits: what the cell shows, 0 being the background. The last is there to be learned: a thing has one middle,
    but many cells that tell what it is. ``facing`` (b, 3, h, w) logits: to the viewer, left, right; None in networks that do not say."""

    heat: Tensor
    reach: Tensor
    color: Tensor
    painted: Tensor
    embedding: Tensor
    whole: Tensor
    shows: Tensor
    facing: Tensor | None = None


class Detector(nn.Module):
    """Pixels (b, 3, h, w) in [-1, 1], h and w multiples of 16, to Maps."""

    def __init__(self, config: Config | None = None) -> None:
        super().__init__()
        self.config = c = config or Config()
        block = Depthwise if c.depthwise else Residual

        def blocks(width: int, n: int) -> nn.Sequential:
            return nn.Sequential(*[block(width) for _ in range(n)])

        def shrink(a: int, b: int) -> nn.Sequential:
            return nn.Sequential(
                nn.Conv2d(a, b, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(b), nn.ReLU()
            )

        self.stem = nn.Sequential(
            nn.PixelUnshuffle(2), shrink(12, c.fine), blocks(c.fine, c.depth[0])
        )  # b fine h/4 w/4
        self.eighth = nn.Sequential(shrink(c.fine, c.coarse), blocks(c.coarse, c.depth[1]))
        self.sixteenth = nn.Sequential(shrink(c.coarse, c.deep), blocks(c.deep, c.depth[2]))
        self.lift = nn.Conv2d(c.deep, c.coarse, 1)
        self.up = blocks(c.coarse, c.depth[3])
        self.grow = nn.Sequential(
            nn.Conv2d(c.coarse, 4 * c.fine, 1), nn.PixelShuffle(2)
        )  # b fine h/4 w/4
        self.parts = (c.classes, 4, c.colors, 1, c.embedding, 1, 1 + c.classes)
        self.head = nn.Conv2d(c.fine, sum(self.parts), 1)
        self.facing = nn.Conv2d(c.fine, 3, 1) if c.facing else None
        self.names = nn.Parameter(
            0.1 * self.head.weight.new_empty(c.concepts, c.embedding).normal_()
        )  # of the tail's concepts
        nn.init.constant_(self.head.bias[: c.classes], -4.0)  # type: ignore[index]
        nn.init.constant_(self.head.bias[c.classes : c.classes + 4], math.log(4))  # type: ignore[index]

    def forward(self, pixels: Tensor) -> Maps:
        fine = self.stem(pixels)
        eighth = self.eighth(fine)
        sixteenth = self.sixteenth(eighth)
        eighth = self.up(eighth + F.interpolate(self.lift(sixteenth), scale_factor=2.0))
        features = F.relu(fine + self.grow(eighth))
        heat, reach, color, painted, embedding, whole, shows = (
            self.head(features).contiguous().split(self.parts, 1)
        )
        facing = self.facing(features).contiguous() if self.facing else None
        # The reach is an exponential, so that a small error of a large box is as small (FCOS, Tian et al. 2019).
        return Maps(
            heat, reach.float().clamp(-4, 4).exp(), color, painted, embedding, whole, shows, facing
        )
