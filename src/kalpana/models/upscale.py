"""Super-resolution for display: a picture two or four times larger each way, with sharp edges.

Real-ESRGAN's compact network (Wang et al. 2021; SRVGGNetCompact in its repository): 3x3
convolutions at the small size, the last of which predicts, for every pixel, the residual of the
4x4 block that replaces it. On flat areas its colours are wrong by up to 8/255. So the result is
downsampled, compared with the input, and corrected by the difference (back-projection, Irani and
Peleg 1991).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor

RIM = 8  # width of the padding that is cropped again, in pixels of the small size


@dataclass(frozen=True)
class Config:
    width: int = 64
    depth: int = 16  # convolutions between the first and the last
    factor: int = 4


class Upscaler(nn.Module):
    """Pixels (b, 3, h, w) in [-1, 1] to pixels (b, 3, 4h, 4w) in [-1, 1].

    There is no tiling: a picture of 512 px takes 0.3 GB of memory.
    """

    def __init__(self, config: Config | None = None) -> None:
        super().__init__()
        self.config = c = config or Config()
        self.body = nn.Sequential(nn.Conv2d(3, c.width, 3, padding=1), nn.PReLU(c.width))
        for _ in range(c.depth):
            self.body.extend([nn.Conv2d(c.width, c.width, 3, padding=1), nn.PReLU(c.width)])
        self.body.append(nn.Conv2d(c.width, 3 * c.factor**2, 3, padding=1))

    def forward(self, pixels: Tensor, scale: int | None = None) -> Tensor:
        """Picture ``scale`` times larger: 4, 2 or 1; None is the network's factor.

        Raises ValueError for a scale that does not divide the factor.
        """
        factor = self.config.factor
        scale = factor if scale is None else scale
        if scale < 1 or factor % scale:
            raise ValueError(
                f"scale {scale} does not divide {factor}: try {factor} or {factor // 2}"
            )
        # The network was trained on [0, 1]. Its zero padding changes the outermost pixels by up to
        # 20/255, so a rim is added and cropped again.
        small = F.pad((pixels + 1) / 2, (RIM,) * 4, mode="replicate")
        residual = F.pixel_shuffle(self.body(small), factor)  # b 3 4h 4w
        large = residual + F.interpolate(small, scale_factor=factor)
        # Only the mean over 3x3 pixels is corrected: finer differences may be noise that the
        # network rightly removed.
        error = small - F.avg_pool2d(large.clamp(0, 1), factor)
        drift = F.avg_pool2d(error, 3, stride=1, padding=1, count_include_pad=False)
        large = large.clamp(0, 1) + F.interpolate(drift, scale_factor=factor, mode="bilinear")
        large = F.pad(large, (-RIM * factor,) * 4)
        return F.avg_pool2d(large.clamp(0, 1), factor // scale) * 2 - 1
