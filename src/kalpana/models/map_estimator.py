"""Map estimator: from a picture to the control maps that could have steered it.

A small residual U-Net at a quarter and an eighth of the picture's side, with dilated blocks at the
coarse level so that a pixel sees the whole object (Yu and Koltun 2016). Each plane is a logit: of
an outline, of nearness (inverse depth), and of the three colours of the bones of people.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor

FACTOR = 8  # sides of a picture are multiples of this
PLANES = {"outlines": 1, "depth": 1, "pose": 3}


@dataclass(frozen=True)
class Config:
    fine: int = 48  # width at a quarter of the picture's side
    coarse: int = 96  # width at an eighth
    depth: int = 3  # blocks at the fine level, before and after the coarse one
    dilations: tuple[int, ...] = (1, 2, 4, 1, 2, 4)  # of the blocks at the coarse level


class Block(nn.Module):
    """Residual block: x + conv(silu(conv(silu(x)))), the identity at initialisation."""

    def __init__(self, width: int, dilation: int = 1) -> None:
        super().__init__()
        self.one = nn.Conv2d(width, width, 3, padding=dilation, dilation=dilation)
        self.two = nn.Conv2d(width, width, 3, padding=1)
        nn.init.zeros_(self.two.weight)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.two(F.silu(self.one(F.silu(x))))


class MapEstimator(nn.Module):
    """Pixels (b, 3, h, w) in [-1, 1] to the logits of maps by kind: ``outlines`` and ``depth``
    (b, 1, h, w), ``pose`` (b, 3, h, w). h and w are multiples of FACTOR."""

    def __init__(self, config: Config | None = None) -> None:
        super().__init__()
        self.config = c = config or Config()
        self.stem = nn.Sequential(nn.PixelUnshuffle(4), nn.Conv2d(48, c.fine, 3, padding=1))
        self.before = nn.Sequential(*[Block(c.fine) for _ in range(c.depth)])
        self.down = nn.Conv2d(c.fine, c.coarse, 4, stride=2, padding=1)
        self.middle = nn.Sequential(*[Block(c.coarse, each) for each in c.dilations])
        self.up = nn.Sequential(nn.Conv2d(c.coarse, 4 * c.fine, 1), nn.PixelShuffle(2))
        self.after = nn.Sequential(*[Block(c.fine) for _ in range(c.depth)])
        planes = sum(PLANES.values())
        self.head = nn.Sequential(nn.Conv2d(c.fine, 16 * planes, 3, padding=1), nn.PixelShuffle(4))

    def forward(self, pixels: Tensor) -> dict[str, Tensor]:
        x = self.before(self.stem(pixels))
        x = self.after(x + self.up(self.middle(self.down(x))))
        planes = self.head(x).split(list(PLANES.values()), 1)
        return dict(zip(PLANES, planes, strict=True))

    @torch.inference_mode()
    def maps(self, pixels: Tensor) -> dict[str, Tensor]:
        """Maps (b, 3, h, w) in [0, 1] by kind, of pictures of any size: they are resized so that
        the shorter side is 128 px, as in training, and the maps are resized back."""
        size = pixels.shape[-2:]
        scale = 128 / min(size)
        inner = [max(FACTOR, round(side * scale / FACTOR) * FACTOR) for side in size]
        small = F.interpolate(pixels, inner, mode="bicubic", antialias=True).clamp(-1, 1)
        found = {}
        for kind, logits in self(small).items():
            plane = logits.float().sigmoid().expand(-1, 3, -1, -1)
            if list(size) != inner:
                plane = F.interpolate(plane, size, mode="bilinear", antialias=True)
            found[kind] = plane
        return found
