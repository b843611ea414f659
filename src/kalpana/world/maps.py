"""Boxes, outlines and depth maps from object masks, and edge maps from pixels."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor


def boxes(masks: Tensor) -> Tensor:
    """Tight boxes (n, 4) of masks (n, h, w): x0 y0 x1 y1, ends excluded; zeros for empty masks."""
    ends = []
    for axis in (1, 2):  # over rows, then over columns
        occupied = masks.any(axis)  # n w, then n h
        line = torch.arange(occupied.shape[1])
        start = torch.where(occupied, line, occupied.shape[1]).amin(1)
        stop = torch.where(occupied, line + 1, 0).amax(1)
        ends.append((torch.where(occupied.any(1), start, 0), stop))
    (x0, x1), (y0, y1) = ends
    return torch.stack((x0, y0, x1, y1), 1)


def depth(masks: Tensor, depths: Sequence[float]) -> Tensor:
    """Depth map (h, w): 0 at the camera, 1 at the background.

    ``masks`` (n, h, w) bool are the visible parts of the objects, ``depths`` their n depths.
    """
    far = torch.tensor(depths, dtype=torch.float32).view(-1, 1, 1)
    return torch.where(masks, far, 0.0).sum(0) + (~masks.any(0)).float()


def outlines(masks: Tensor) -> Tensor:
    """Outlines between objects, and between objects and background: (h, w) bool, one pixel wide.

    ``masks`` (n, h, w) bool are the visible parts of the objects in drawing order. An outline lies
    inside the nearer of the two.
    """
    owner = (masks * torch.arange(1, len(masks) + 1).view(-1, 1, 1)).sum(0)  # 0 is the background
    line = torch.zeros_like(owner, dtype=torch.bool)
    for axis in (0, 1):
        differ = owner.diff(dim=axis) != 0
        length = owner.shape[axis] - 1
        low, high = owner.narrow(axis, 0, length), owner.narrow(axis, 1, length)
        line.narrow(axis, 0, length).logical_or_(differ & (low > high))
        line.narrow(axis, 1, length).logical_or_(differ & (high > low))
    return line


def edges(pixels: Tensor, threshold: float = 0.25) -> Tensor:
    """Edge map (b, h, w) bool of any images (b, 3, h, w) in [-1, 1].

    A pixel is an edge where the largest Sobel gradient of its channels (Sobel 1968) is over
    ``threshold`` and is a local maximum across the edge. The gradient's unit is a full step from
    black to white.
    """
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

    horizontal = dx.abs() > dy.abs()  # gradient along the row: compare with left and right
    before = torch.where(horizontal, beside(0, -1), beside(-1, 0))
    after = torch.where(horizontal, beside(0, 1), beside(1, 0))
    return (strength > threshold) & (strength >= before) & (strength > after)
