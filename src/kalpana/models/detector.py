"""Object detector of the verifiers: class, box and colour of each object, and whether it is real.

After CenterNet (Zhou et al. 2019, "Objects as Points"): every object is a peak on the heatmap of
its class, at a quarter of the picture's side. Further maps predict, at the peak, the distances to
the sides of the box, the object's colour, the pixels that have this colour, an embedding for rarer
concepts, and whether the object is whole and real.
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
    concepts: int = 1600  # all in one label, distinguished by the embedding
    embedding: int = 48
    fine: int = 48  # width at a quarter of the side
    coarse: int = 80  # width at an eighth
    deep: int = 80  # width at a sixteenth
    # Blocks: down at a quarter, an eighth and a sixteenth, and up at an eighth.
    depth: tuple[int, int, int, int] = (1, 2, 2, 2)
    facing: bool = False  # predict the direction that objects face
    # Blocks of 7x7 depthwise convolutions (ConvNeXt, Liu et al. 2022) instead of residual ones.
    depthwise: bool = False


class Residual(nn.Module):
    """Residual block (He et al. 2016): relu(x + norm(conv(relu(norm(conv(x))))))."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.one, self.two = (nn.Conv2d(width, width, 3, padding=1, bias=False) for _ in range(2))
        self.norm_one, self.norm_two = nn.BatchNorm2d(width), nn.BatchNorm2d(width)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(x + self.norm_two(self.two(F.relu(self.norm_one(self.one(x))))))


class Depthwise(nn.Module):
    """ConvNeXt block (Liu et al. 2022), twice as wide inside.

    x + pointwise(gelu(pointwise(norm(depthwise(x))))), with a 7x7 depthwise convolution.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.spread = nn.Conv2d(width, width, 7, padding=3, groups=width, bias=False)
        self.norm = nn.BatchNorm2d(width)
        self.up, self.down = nn.Conv2d(width, 2 * width, 1), nn.Conv2d(2 * width, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        # In fp32: on a CPU, its backward pass takes three times as long in bf16.
        with torch.autocast(x.device.type, enabled=False):
            spread = self.spread(x.float())
        return x + self.down(F.gelu(self.up(self.norm(spread))))


@dataclass(frozen=True)
class Maps:
    """Output of the detector, with h and w a quarter of the picture's height and width.

    - ``heat`` (b, classes, h, w): logits of object centres
    - ``reach`` (b, 4, h, w): distances from the cell's middle to the left, top, right and bottom of
      the box, in cells
    - ``color`` (b, colors, h, w): logits of the object's colour
    - ``painted`` (b, 1, h, w): logits of the cell having the colour given to its object
    - ``embedding`` (b, embedding, h, w): embedding of the concept
    - ``whole`` (b, 1, h, w): logits of the object being whole and real
    - ``shows`` (b, 1 + classes, h, w): logits of the cell's class, 0 for the background. Auxiliary,
      for training only: an object has one centre, but many cells that show its class
    - ``facing`` (b, 3, h, w): logits of facing the viewer, left or right; None in networks without
      this output
    """

    heat: Tensor
    reach: Tensor
    color: Tensor
    painted: Tensor
    embedding: Tensor
    whole: Tensor
    shows: Tensor
    facing: Tensor | None = None


class Detector(nn.Module):
    """Object detector: pixels (b, 3, h, w) in [-1, 1], h and w multiples of 16, to Maps."""

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
        # Embeddings of the rarer concepts.
        names = self.head.weight.new_empty(c.concepts, c.embedding)
        self.names = nn.Parameter(0.1 * names.normal_())
        # At first, centres have a probability of 0.018 and boxes reach 4 cells to each side.
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
        # The network predicts the logarithm of the reach, so that its errors are relative to the
        # size of the box (FCOS, Tian et al. 2019).
        reach = reach.float().clamp(-4, 4).exp()
        return Maps(heat, reach, color, painted, embedding, whole, shows, facing)
