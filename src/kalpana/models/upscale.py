"""Super-resolution for display: a picture two or four times larger each way, with clean edges.

Real-ESRGAN's compact network (Wang et al. 2021; SRVGGNetCompact in its repository): 3x3 convolutions at the small size, the last of
which says for every pixel how the 4x4 block in its place differs from it. On flat areas its colours are up to 8/255 wrong; so colours
are compared at the small size and the difference put back (back-projection, Irani and Peleg 1991).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor

RIM = 8  # pixels, at the small size


@dataclass(frozen=True)
class Config:
    width: int = 64
    depth: int = 16  # convolutions between the first and the last
    factor: int = 4


class Upscaler(nn.Module):
    """Pixels (b, 3, h, w) in [-1, 1] to pixels (b, 3, 4h, 4w) in [-1, 1]. Whole pictures at once: 512 px takes 0.3 GB."""

    def __init__(self, config: Config | None = None) -> None:
        super().__init__()
        self.config = c = config or Config()
        self.body = nn.Sequential(nn.Conv2d(3, c.width, 3, padding=1), nn.PReLU(c.width))
        for _ in range(c.depth):
            self.body.extend([nn.Conv2d(c.width, c.width, 3, padding=1), nn.PReLU(c.width)])
        self.body.append(nn.Conv2d(c.width, 3 * c.factor**2, 3, padding=1))

    def forward(self, pixels: Tensor, scale: int | None = None) -> Tensor:
        """The picture ``scale`` times larger; ``scale`` divides the network's factor, which it is when None: 4, 2 or 1."""
        factor = self.config.factor
        scale = factor if scale is None else scale
        if scale < 1 or factor % scale:
            raise ValueError(
                f"scale {scale} does not divide {factor}: try {factor} or {factor // 2}"
            )
        # The network was trained on [0, 1]; its zero padding stains the outermost pixels by up to 20/255, so it gets a rim to spoil.
        small = F.pad((pixels + 1) / 2, (RIM,) * 4, mode="replicate")
        large = F.pixel_shuffle(self.body(small), factor) + F.interpolate(
            small, scale_factor=factor
        )  # b 3 4h 4w
        # The mean over 3x3 is colour; what is finer may be noise that the network rightly removed, and stays removed.
        drift = F.avg_pool2d(
            small - F.avg_pool2d(large.clamp(0, 1), factor),
            3,
            stride=1,
            padding=1,
            count_include_pad=False,
        )
        large = large.clamp(0, 1) + F.interpolate(drift, scale_factor=factor, mode="bilinear")
        large = F.pad(large, (-RIM * factor,) * 4)  # the rim is cut off again
        return F.avg_pool2d(large.clamp(0, 1), factor // scale) * 2 - 1
