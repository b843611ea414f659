"""Cutting boxes out of pictures and bringing them to one size, for whoever looks at one thing at a time."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor


def strips(
    pixels: Tensor,
    boxes: Tensor | Sequence[tuple[float, float, float, float]],
    height: int = 32,
    width: int = 128,
) -> Tensor:
    """Box k (x0, y0, x1, y1 in the unit square; it may reach outside) of picture k (b, 3, h, w), at one size (b, 3, height, width)."""
    edges = torch.as_tensor(boxes, dtype=torch.float32, device=pixels.device) * 2 - 1  # b 4
    x0, y0, x1, y1 = edges.unbind(1)
    zero = torch.zeros_like(x0)
    maps = torch.stack(
        (
            torch.stack(((x1 - x0) / 2, zero, (x0 + x1) / 2), 1),
            torch.stack((zero, (y1 - y0) / 2, (y0 + y1) / 2), 1),
        ),
        1,
    )  # b 2 3
    grid = F.affine_grid(maps, [len(pixels), 3, height, width], align_corners=False)
    return F.grid_sample(pixels, grid, padding_mode="border", align_corners=False)
