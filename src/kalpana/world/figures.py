"""Vector figures (hands, puppets): round-ended bars painted from their signed distance fields.

A figure is a tuple of strokes, back to front, in arbitrary units. Strokes with the same ``part``
form one body: their union has one outline. This module is independent of the kinds of figure.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from kalpana.world.atlas import SIDE

# sRGB in [0, 1].
SKINS = {
    "yellow": (1.00, 0.80, 0.27),
    "pale": (0.98, 0.83, 0.71),
    "tan": (0.87, 0.67, 0.48),
    "brown": (0.65, 0.44, 0.30),
    "dark": (0.42, 0.28, 0.20),
}
OUTLINE = 0.022  # thickness of the line around a part, as a share of the figure's longer side
LINE = (0.16, 0.12, 0.14)  # colour of that line

RGB = tuple[float, float, float]


@dataclass(frozen=True)
class Stroke:
    """A round-ended bar from (ax, ay) to (bx, by) with end radii ``ra`` and ``rb``.

    A dot if both ends coincide. x points right and y down.
    """

    ax: float
    ay: float
    bx: float
    by: float
    ra: float
    rb: float
    color: RGB
    part: int = 0  # strokes of one part are adjacent in the figure


Figure = tuple[Stroke, ...]


def bounds(figure: Figure) -> tuple[float, float, float, float]:
    """Bounding box (x0, y0, x1, y1) of a figure, in its own units."""
    ends = [(s.ax, s.ay, s.ra) for s in figure] + [(s.bx, s.by, s.rb) for s in figure]
    return (
        min(x - r for x, _, r in ends),
        min(y - r for _, y, r in ends),
        max(x + r for x, _, r in ends),
        max(y + r for _, y, r in ends),
    )


def scale(figure: Figure) -> tuple[float, float, float]:
    """Map (cx, cy, k) from the figure's units to its tile: ``tile = (point - (cx, cy)) * k``.

    Tile coordinates run from -0.5 to 0.5 along the longer side.
    """
    x0, y0, x1, y1 = bounds(figure)
    return (x0 + x1) / 2, (y0 + y1) / 2, 1 / max(x1 - x0, y1 - y0)


def extent(figure: Figure) -> tuple[float, float]:
    """Width and height of a figure as shares of its longer side."""
    x0, y0, x1, y1 = bounds(figure)
    longer = max(x1 - x0, y1 - y0)
    return (x1 - x0) / longer, (y1 - y0) / longer


def paint(
    figures: Sequence[Figure], looks: Sequence[str], device: torch.device | str = "cpu"
) -> Tensor:
    """Tiles of the figures (n, 4, SIDE, SIDE) in [0, 1]: RGB, not premultiplied, then alpha.

    ``looks`` are values of scene.LOOKS. Painted on the CPU for every device, because parts are too
    small to gain from a GPU.
    """
    return torch.from_numpy(
        np.stack([_paint(figure, look) for figure, look in zip(figures, looks, strict=True)])
    ).to(device)


def _paint(figure: Figure, look: str) -> np.ndarray:
    """Tile (4, SIDE, SIDE) of one figure; each part is painted only in its own bounding box."""
    (cx, cy, k), pixels = scale(figure), SIDE - 2
    bars = np.array(
        [
            ((s.ax - cx) * k, (s.ay - cy) * k, (s.bx - cx) * k, (s.by - cy) * k, s.ra * k, s.rb * k)
            for s in figure
        ],
        np.float32,
    )
    colors = np.array([s.color for s in figure], np.float32)
    # The corners of each bar's bounding box, then in pixels with half a pixel for the soft edge.
    low = np.minimum(bars[:, :2] - bars[:, 4:5], bars[:, 2:4] - bars[:, 5:])
    high = np.maximum(bars[:, :2] + bars[:, 4:5], bars[:, 2:4] + bars[:, 5:])
    starts = np.floor(low * pixels + SIDE / 2 - 0.5).astype(int).clip(0)
    stops = np.ceil(high * pixels + SIDE / 2 + 0.5).astype(int)
    line = (np.arange(SIDE, dtype=np.float32) + 0.5 - SIDE / 2) / pixels
    rgb, alpha = np.zeros((3, SIDE, SIDE), np.float32), np.zeros((SIDE, SIDE), np.float32)
    changes = [i for i in range(1, len(figure)) if figure[i].part != figure[i - 1].part]
    for part in (slice(first, last) for first, last in pairwise((0, *changes, len(figure)))):
        (x0, y0), (x1, y1) = starts[part].min(0), stops[part].max(0)
        y, x = line[y0:y1, None], line[x0:x1]
        distance, color = _nearest(bars[part], colors[part], y, x)
        body = (0.5 - distance * pixels).clip(0, 1)  # the edge is one pixel soft
        if look == "shaded":
            # Light from the upper left, brighter away from the edge.
            light = (-distance * 6).clip(0, 0.5) * 0.5 - 0.12 + 0.25 * (-x - y)
            lighter = color + (1 - color) * light.clip(max=0.5)
            color = np.where(light > 0, lighter, color * (1 + light.clip(min=-0.4)))
        if look == "outlined":
            offset = abs(distance + OUTLINE / 2) * pixels
            rim = (0.5 - offset + OUTLINE / 2 * pixels).clip(0, 1) * body
            color = color + (np.array(LINE, np.float32)[:, None, None] - color) * rim
        below, covered = rgb[:, y0:y1, x0:x1], alpha[y0:y1, x0:x1]
        below += (color - below) * body
        covered += (1 - covered) * body
    return np.concatenate((rgb / alpha.clip(1e-4), alpha[None]))  # rgb is premultiplied until here


def _nearest(
    bars: np.ndarray, colors: np.ndarray, y: np.ndarray, x: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Signed distance (h, w) to the nearest bar, negative inside, and that bar's colour.

    ``bars`` (k, 6), ``colors`` (k, 3), ``y`` (h, 1), ``x`` (w,). The colour is (3, h, w), or
    (3, 1, 1) if all bars have the same colour.
    """
    ax, ay, bx, by, ra, rb = bars.T[:, :, None, None]  # each k 1 1
    right, down, dx, dy = x - ax, y - ay, bx - ax, by - ay
    along = ((right * dx + down * dy) / (dx * dx + dy * dy).clip(1e-9)).clip(0, 1)  # k h w
    off_x, off_y = right - along * dx, down - along * dy
    # sqrt and lerp stay in torch: numpy rounds differently, which would change existing images.
    to_axis = torch.from_numpy(off_x * off_x + off_y * off_y).sqrt_()
    radius = torch.lerp(*(torch.from_numpy(each) for each in (ra, rb, along)))
    distance = (to_axis - radius).numpy()
    if (colors == colors[0]).all():
        return distance.min(0), colors[0, :, None, None]
    return distance.min(0), colors.T[:, distance.argmin(0)]
