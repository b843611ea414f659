"""Drawn figures: hands and puppets as round-ended bars, painted from their distance fields.

A figure is a tuple of strokes in any units, back to front. Strokes of one ``part`` are one body: they melt together and
share one outline. Nothing here knows what a hand is.
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
LINE = (0.16, 0.12, 0.14)

RGB = tuple[float, float, float]


@dataclass(frozen=True)
class Stroke:
    """A bar from (ax, ay) to (bx, by), round at its ends, ``ra`` thick (its radius) at one and ``rb`` at the other; a dot when
    both ends are one. x runs right and y down."""

    ax: float
    ay: float
    bx: float
    by: float
    ra: float
    rb: float
    color: RGB
    part: int = 0  # strokes of a part follow each other


Figure = tuple[Stroke, ...]


def bounds(figure: Figure) -> tuple[float, float, float, float]:
    """The box x0, y0, x1, y1 around a figure, in its own units."""
    ends = [(s.ax, s.ay, s.ra) for s in figure] + [(s.bx, s.by, s.rb) for s in figure]
    return (
        min(x - r for x, _, r in ends),
        min(y - r for _, y, r in ends),
        max(x + r for x, _, r in ends),
        max(y + r for _, y, r in ends),
    )


def scale(figure: Figure) -> tuple[float, float, float]:
    """The map from the figure's units to its tile: ``tile = (point - (cx, cy)) * k`` runs from -0.5 to 0.5 along the longer side.
    Returned as (cx, cy, k)."""
    x0, y0, x1, y1 = bounds(figure)
    return (x0 + x1) / 2, (y0 + y1) / 2, 1 / max(x1 - x0, y1 - y0)


def extent(figure: Figure) -> tuple[float, float]:
    """Width and height as shares of the longer side."""
    x0, y0, x1, y1 = bounds(figure)
    longer = max(x1 - x0, y1 - y0)
    return (x1 - x0) / longer, (y1 - y0) / longer


def paint(
    figures: Sequence[Figure], looks: Sequence[str], device: torch.device | str = "cpu"
) -> Tensor:
    """The figures as (n, 4, SIDE, SIDE) in [0, 1], RGB not premultiplied, then alpha; ``looks`` are of LOOKS. The
    processor paints them for every device: a part is too small to be worth more."""
    return torch.from_numpy(
        np.stack([_paint(figure, look) for figure, look in zip(figures, looks, strict=True)])
    ).to(device)


def _paint(figure: Figure, look: str) -> np.ndarray:
    """One figure (4, SIDE, SIDE), part over part, each in the rows and columns that it can reach."""
    (cx, cy, k), pixels = scale(figure), SIDE - 2
    bars = np.array(
        [
            ((s.ax - cx) * k, (s.ay - cy) * k, (s.bx - cx) * k, (s.by - cy) * k, s.ra * k, s.rb * k)
            for s in figure
        ],
        np.float32,
    )
    hues = np.array([s.color for s in figure], np.float32)
    low = np.minimum(
        bars[:, :2] - bars[:, 4:5], bars[:, 2:4] - bars[:, 5:]
    )  # the corners of the box around each bar
    high = np.maximum(bars[:, :2] + bars[:, 4:5], bars[:, 2:4] + bars[:, 5:])
    starts = (
        np.floor(low * pixels + SIDE / 2 - 0.5).astype(int).clip(0)
    )  # half a pixel more for the soft edge
    stops = np.ceil(high * pixels + SIDE / 2 + 0.5).astype(int)
    line = (np.arange(SIDE, dtype=np.float32) + 0.5 - SIDE / 2) / pixels
    rgb, alpha = np.zeros((3, SIDE, SIDE), np.float32), np.zeros((SIDE, SIDE), np.float32)
    changes = [i for i in range(1, len(figure)) if figure[i].part != figure[i - 1].part]
    for some in (slice(first, last) for first, last in pairwise((0, *changes, len(figure)))):
        (x0, y0), (x1, y1) = starts[some].min(0), stops[some].max(0)
        y, x = line[y0:y1, None], line[x0:x1]
        inside, hue = _nearest(bars[some], hues[some], y, x)
        # Half a pixel of softness at each edge; light comes from the upper left, by the slope of the distance.
        body = (0.5 - inside * pixels).clip(0, 1)
        if look == "shaded":
            light = (-inside * 6).clip(0, 0.5) * 0.5 - 0.12 + 0.25 * (-x - y)
            hue = np.where(
                light > 0, hue + (1 - hue) * light.clip(max=0.5), hue * (1 + light.clip(min=-0.4))
            )
        if look == "outlined":
            rim = (0.5 - abs(inside + OUTLINE / 2) * pixels + OUTLINE / 2 * pixels).clip(
                0, 1
            ) * body
            hue = hue + (np.array(LINE, np.float32)[:, None, None] - hue) * rim
        below, covered = rgb[:, y0:y1, x0:x1], alpha[y0:y1, x0:x1]
        below += (hue - below) * body
        covered += (1 - covered) * body
    return np.concatenate((rgb / alpha.clip(1e-4), alpha[None]))  # layers add up premultiplied


def _nearest(
    bars: np.ndarray, hues: np.ndarray, y: np.ndarray, x: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """How far the points are from the nearest of the bars (h, w), less than 0 inside of it, and its colour (3, h, w) or (3, 1, 1)."""
    ax, ay, bx, by, ra, rb = bars.T[:, :, None, None]  # each k 1 1
    right, down, dx, dy = x - ax, y - ay, bx - ax, by - ay
    along = ((right * dx + down * dy) / (dx * dx + dy * dy).clip(1e-9)).clip(0, 1)  # k h w
    off_x, off_y = right - along * dx, down - along * dy
    # These two round in torch's own way, which the pictures of the world have always had.
    distance = torch.from_numpy(off_x * off_x + off_y * off_y).sqrt_()
    away = (distance - torch.lerp(*(torch.from_numpy(each) for each in (ra, rb, along)))).numpy()
    if (hues == hues[0]).all():
        return away.min(0), hues[0, :, None, None]
    return away.min(0), hues.T[:, away.argmin(0)]
