"""EfficientNet-Lite0 as a feature network (Tan and Le 2019; Liu 2020).

Inverted bottlenecks without squeeze-and-excitation, with ReLU6. Batch norms are folded into the
convolutions. The Fréchet distance FD-lite0 uses its 1,280 pooled features.
"""

from __future__ import annotations

import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor

SIDE = 224
# Repeats, kernel, stride of the first, expansion, channels (Tan and Le 2019, table 1).
STAGES = (
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)
FEATURES = 1280


class Conv(nn.Conv2d):
    """Convolution with TensorFlow's SAME padding: an odd pixel goes to the right and the bottom."""

    def forward(self, input: Tensor) -> Tensor:
        pads: list[int] = []
        for axis in (-1, -2):
            size, kernel, stride = input.shape[axis], self.kernel_size[axis], self.stride[axis]
            total = max((-(-size // stride) - 1) * stride + kernel - size, 0)
            pads += [total // 2, total - total // 2]
        return F.conv2d(F.pad(input, pads), self.weight, self.bias, self.stride, groups=self.groups)


class Bottleneck(nn.Module):
    """Inverted bottleneck: 1x1 expansion, depthwise convolution, 1x1 projection to b channels.

    The input is added where the shape does not change.
    """

    def __init__(self, a: int, b: int, kernel: int, stride: int, expansion: int) -> None:
        super().__init__()
        wide = a * expansion
        self.widen = Conv(a, wide, 1) if expansion > 1 else None
        self.look = Conv(wide, wide, kernel, stride, groups=wide)
        self.narrow = Conv(wide, b, 1)
        self.stays = stride == 1 and a == b

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu6(self.widen(x)) if self.widen is not None else x
        y = self.narrow(F.relu6(self.look(y)))
        return x + y if self.stays else y


class Lite0(nn.Module):
    """Pictures (b, 3, h, w) in [-1, 1], of any size, to features (b, 1280).

    Pictures of another size are resized to SIDE pixels, without keeping their aspect ratio.
    """

    def __init__(self) -> None:
        super().__init__()
        self.stem = Conv(3, 32, 3, 2)
        blocks, width = [], 32
        for repeats, kernel, stride, expansion, channels in STAGES:
            for k in range(repeats):
                step = stride if k == 0 else 1
                blocks.append(Bottleneck(width, channels, kernel, step, expansion))
                width = channels
        self.blocks = nn.Sequential(*blocks)
        self.head = Conv(width, FEATURES, 1)

    def forward(self, pixels: Tensor) -> Tensor:
        if pixels.shape[-2:] != (SIDE, SIDE):
            pixels = F.interpolate(pixels, (SIDE, SIDE), mode="bicubic", antialias=True)
            pixels = pixels.clamp(-1, 1)
        x = ((pixels + 1) * 127.5 - 127.0) / 128.0  # the weights expect (byte - 127) / 128
        x = self.blocks(F.relu6(self.stem(x)))
        return F.relu6(self.head(x)).mean((2, 3))
