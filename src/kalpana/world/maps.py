"""Maps of what a picture holds, from the masks of its things: boxes, outlines and depth; and edges from the pixels alone."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor


def boxes(masks: Tensor) -> Tensor:
    """The tight boxes (n, 4: x0 y0 x1 y1, ends excluded; zeros where nothing is) of masks (n, h, w)."""
    ends = []
    for axis in (1, 2):  # over rows, then over columns
        seen = masks.any(axis)  # n w, then n h
        line = torch.arange(seen.shape[1])
        start = torch.where(seen, line, seen.shape[1]).amin(1)
        stop = torch.where(seen, line + 1, 0).amax(1)
        ends.append((torch.where(seen.any(1), start, 0), stop))
    (x0, x1), (y0, y1) = ends
    return torch.stack((x0, y0, x1, y1), 1)


def depth(masks: Tensor, depths: Sequence[float]) -> Tensor:
    """How far away each pixel is (h, w), 0 at the eye and 1 at the background, from what can be seen of things at these depths."""
    far = torch.tensor(depths, dtype=torch.float32).view(-1, 1, 1)
    return torch.where(masks, far, 0.0).sum(0) + (~masks.any(0)).float()


def outlines(masks: Tensor) -> Tensor:
    """Where one thing ends and another, or the background, begins: (h, w) bool, one pixel wide, on the nearer side of either."""
    owner = (masks * torch.arange(1, len(masks) + 1).view(-1, 1, 1)).sum(0)  # 0 is the background
    line = torch.zeros_like(owner, dtype=torch.bool)
    for axis in (0, 1):
        differ = owner.diff(dim=axis) != 0
        low, high = (
            owner.narrow(axis, 0, owner.shape[axis] - 1),
            owner.narrow(axis, 1, owner.shape[axis] - 1),
        )
        line.narrow(axis, 0, owner.shape[axis] - 1).logical_or_(differ & (low > high))
        line.narrow(axis, 1, owner.shape[axis] - 1).logical_or_(differ & (high > low))
    return line


def edges(pixels: Tensor, threshold: float = 0.25) -> Tensor:
    """Edges of pictures (b, 3, h, w) in [-1, 1], whoever made them: (b, h, w) bool, where the slope of any channel (Sobel 1968, in
    units of a full step from black to white) is over the threshold and is the largest across the edge."""
    kernel = torch.tensor([[-1.0, 0, 1], [-2, 0, 2], [-1, 0, 1]], device=pixels.device) / 8
    kernels = torch.stack((kernel, kernel.T)).unsqueeze(1)
    padded = F.pad(pixels.flatten(0, 1).unsqueeze(1), (1, 1, 1, 1), mode="replicate")
    dx, dy = F.conv2d(padded, kernels).unflatten(0, pixels.shape[:2]).unbind(2)  # b 3 h w each
    slope = torch.hypot(dx, dy)
    best = slope.argmax(1, keepdim=True)
    strength, dx, dy = (t.gather(1, best).squeeze(1) for t in (slope, dx, dy))
    around = F.pad(strength, (1, 1, 1, 1))
    h, w = strength.shape[-2:]

    def beside(y: int, x: int) -> Tensor:
        return around[:, 1 + y : 1 + y + h, 1 + x : 1 + x + w]

    flat = dx.abs() > dy.abs()  # the slope runs along the row: compare with left and right
    before = torch.where(flat, beside(0, -1), beside(-1, 0))
    after = torch.where(flat, beside(0, 1), beside(1, 0))
    return (strength > threshold) & (strength >= before) & (strength > after)
