"""Reconstruction metrics of pictures: PSNR and SSIM."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor


def psnr(square: float) -> float:
    """Peak signal-to-noise ratio in dB of the mean squared error ``square`` between pictures in
    [-1, 1], whose peak is 2."""
    return 10 * float(np.log10(4 / max(square, 1e-12)))


def ssim(a: Tensor, b: Tensor) -> Tensor:
    """Structural similarity (b,) of pictures (b, 3, h, w) in [-1, 1]; 1 for identical pictures.

    Computed per colour channel, with means, variances and covariance under a Gaussian of 1.5 px in
    windows of 11 px (Wang et al. 2004).
    """
    line = torch.exp(-((torch.arange(11, device=a.device) - 5) ** 2) / (2 * 1.5**2))
    line = line / line.sum()
    down, across = (  # band matrices, n - 10 by n
        torch.stack([F.pad(line, (i, n - 11 - i)) for i in range(n - 10)]) for n in a.shape[2:]
    )

    def mean(x: Tensor) -> Tensor:
        return down @ x @ across.T  # convolutions of one channel take far longer

    # In fp32, since a variance is a small difference of large numbers.
    with torch.autocast(a.device.type, enabled=False):
        x, y = a.float(), b.float()
        mx, my = mean(x), mean(y)
        vx, vy, both = mean(x * x) - mx**2, mean(y * y) - my**2, mean(x * y) - mx * my
        c1, c2 = 0.02**2, 0.06**2  # 1% and 3% of the range, which is 2
        ratio = (2 * mx * my + c1) * (2 * both + c2) / ((mx**2 + my**2 + c1) * (vx + vy + c2))
    return ratio.mean((1, 2, 3))
