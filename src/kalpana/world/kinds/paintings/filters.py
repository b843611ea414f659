"""Image filters and seeded noise fields of the painting media.

Blurs are sums of shifted slices: faster here than pooling, and bit-identical for any batch size.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor

from kalpana.world.recolor import LUMA


class Noise:
    """Random fields of a batch from one generator a row: each call returns the next field."""

    def __init__(self, seeds: Sequence[int], like: Tensor) -> None:
        self.generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        self.like = like

    def __call__(self, cells: int, side: int | None = None) -> Tensor:
        """Random field (n, 1, side, side): uniform in [-1, 1] on a lattice, interpolated between.

        The lattice has ``cells`` points a side.
        """
        side = side or self.like.shape[-1]
        rows = [torch.rand(cells, cells, generator=generator) for generator in self.generators]
        if cells != side:
            weights = _spread(cells, side)
            rows = [weights @ row @ weights.T for row in rows]
        return torch.stack(rows)[:, None].to(self.like) * 2 - 1


@cache
def _spread(cells: int, side: int) -> Tensor:
    """Weights (side, cells) of cubic interpolation."""
    identity = torch.eye(cells)[None, None]
    return F.interpolate(identity, size=(side, cells), mode="bicubic", align_corners=False)[0, 0]


def whole_radius(radius: float) -> int:
    """The radius in whole pixels, at least 1."""
    return max(1, round(radius))


def luma_of(x: Tensor) -> Tensor:
    """Luma (n, 1, h, w) of pictures (n, 3, h, w)."""
    return LUMA[0] * x[:, :1] + LUMA[1] * x[:, 1:2] + LUMA[2] * x[:, 2:]


def box_blur(x: Tensor, radius: int) -> Tensor:
    """Box blur: the mean over a square of side 2 radius + 1 pixels."""
    return box_filter(F.pad(x, (radius,) * 4, mode="replicate"), 2 * radius + 1)


def box_filter(x: Tensor, size: int) -> Tensor:
    """Box filter without padding: the mean over each square of side ``size`` pixels."""
    h, w = x.shape[-2] - size + 1, x.shape[-1] - size + 1
    for axis, length in ((2, h), (3, w)):
        total = x.narrow(axis, 0, length).clone()
        for k in range(1, size):
            total += x.narrow(axis, k, length)
        x = total
    return x.div_(size**2)


def gaussian_blur(x: Tensor, sigma: float) -> Tensor:
    """Approximate Gaussian blur of ``sigma`` pixels, computed at a quarter of the resolution."""
    side = x.shape[-1]
    small = F.interpolate(x, scale_factor=0.25, mode="area")
    radius = whole_radius(sigma / 4)
    for _ in range(2):
        small = box_blur(small, radius)
    return F.interpolate(small, size=(side, side), mode="bilinear", align_corners=False)


def gradient(x: Tensor) -> tuple[Tensor, Tensor]:
    """Central differences (dx, dy) to the right and down, in values per pixel."""
    p = F.pad(x, (1, 1, 1, 1), mode="replicate")
    return (p[..., 1:-1, 2:] - p[..., 1:-1, :-2]) / 2, (p[..., 2:, 1:-1] - p[..., :-2, 1:-1]) / 2


def slope(x: Tensor) -> Tensor:
    """Gradient magnitude (n, 1, h, w), the maximum over channels.

    The maximum, not the luma's gradient, so that two hues of equal lightness have an outline too.
    """
    dx, dy = gradient(x)
    return (dx * dx + dy * dy).amax(1, keepdim=True).sqrt() * max(1.0, x.shape[-1] / 128)


def kuwahara(x: Tensor, radius: int) -> Tensor:
    """Kuwahara filter: smooth regions with sharp edges.

    The mean of the four squares that have the pixel at a corner, each weighted by the inverse cube
    of its luma variance.
    """
    h, w = x.shape[-2:]
    p = F.pad(x, (radius,) * 4, mode="replicate")
    mean = box_filter(torch.cat((p, luma_of(p).square()), 1), radius + 1)
    mean, square = mean[:, :3], mean[:, 3:]
    weight = (square - luma_of(mean).square()).clamp(min=0).add(2e-4).pow(-3)
    total, weights = torch.zeros_like(x), torch.zeros_like(x[:, :1])
    for i in (0, radius):
        for j in (0, radius):
            each = weight[..., i : i + h, j : j + w]
            total += mean[..., i : i + h, j : j + w] * each
            weights += each
    return total / weights


def warp(x: Tensor, right: Tensor, down: Tensor) -> Tensor:
    """Picture warped by offsets: each pixel is read ``right`` and ``down`` pixels away.

    The offsets are (n, 1, h, w) each.
    """
    return sample_lattice(x, torch.arange(x.shape[-1], device=x.device) + 0.5, right, down)


def sample_lattice(x: Tensor, line: Tensor, right: Tensor, down: Tensor) -> Tensor:
    """Colours at the lattice ``line`` x ``line``, moved by offsets (n, 1, g, g), all in pixels."""
    side = x.shape[-1]
    grid = torch.stack((line + right[:, 0], line.view(-1, 1) + down[:, 0]), 3) * (2 / side) - 1
    return F.grid_sample(x, grid, padding_mode="border", align_corners=False)


def hatching(x: Tensor, degrees: float, period: float, wobble: Tensor) -> Tensor:
    """Parallel lines (n, 1, h, w): 1 at the centre of a line and 0 between two lines.

    ``period`` in pixels; ``wobble`` (n, 1, h, w) shifts the lines, in pixels.
    """
    side = x.shape[-1]
    line, angle = torch.arange(side, device=x.device) + 0.5, math.radians(degrees)
    across = line * math.cos(angle) + line.view(-1, 1) * math.sin(angle) + wobble
    return 0.5 + 0.5 * torch.sin(across * (2 * math.pi / max(period, 3)))


def border_distance(x: Tensor) -> Tensor:
    """Distance (1, 1, h, w) of each pixel from the nearest border, in pixels."""
    side = x.shape[-1]
    line = torch.arange(side, device=x.device) + 0.5
    line = torch.minimum(line, side - line)
    return torch.minimum(line, line.view(-1, 1)).view(1, 1, side, side)
