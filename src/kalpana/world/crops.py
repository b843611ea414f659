"""Box crops of images at one size, for models that read one object or one line at a time."""

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
    """Crops (b, 3, height, width): box k of image k, bilinearly resampled.

    ``pixels`` (b, 3, h, w). ``boxes`` (b, 4) are (x0, y0, x1, y1) in the unit square; a box that
    reaches outside the image is filled with the image's border.
    """
    edges = torch.as_tensor(boxes, dtype=torch.float32, device=pixels.device) * 2 - 1  # b 4
    x0, y0, x1, y1 = edges.unbind(1)
    zero = torch.zeros_like(x0)
    affine = torch.stack(
        (
            torch.stack(((x1 - x0) / 2, zero, (x0 + x1) / 2), 1),
            torch.stack((zero, (y1 - y0) / 2, (y0 + y1) / 2), 1),
        ),
        1,
    )  # b 2 3
    grid = F.affine_grid(affine, [len(pixels), 3, height, width], align_corners=False)
    return F.grid_sample(pixels, grid, padding_mode="border", align_corners=False)
