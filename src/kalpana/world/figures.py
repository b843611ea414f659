"""Drawn figures: hands and puppets as round-ended bars, painted a batch at a time from their distance fields.

A figure is a tuple of strokes in any units, back to front. Strokes of one ``part`` are one body: they melt together and
share one outline. Nothing here knows what a hand is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

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
TOGETHER = 4  # figures painted at once on a CPU: what fits its caches

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


def paint(figures: Sequence[Figure], looks: Sequence[str], device: torch.device | str = "cpu") -> Tensor:
    """The figures as (n, 4, SIDE, SIDE) in [0, 1], RGB not premultiplied, then alpha; ``looks`` are of LOOKS."""
    n, most = len(figures), max(len(figure) for figure in figures)
    if n > TOGETHER and torch.device(device).type == "cpu":
        parts = range(0, n, TOGETHER)
        return torch.cat([paint(figures[k : k + TOGETHER], looks[k : k + TOGETHER], device) for k in parts])
    rows = torch.zeros(n, most, 9)
    ends = torch.zeros(n, most, dtype=torch.bool)  # the last stroke of a part
    for i, figure in enumerate(figures):
        cx, cy, k = scale(figure)
        rows[i, : len(figure)] = torch.tensor(
            [((s.ax - cx) * k, (s.ay - cy) * k, (s.bx - cx) * k, (s.by - cy) * k, s.ra * k, s.rb * k, *s.color) for s in figure]
        )
        owners = [s.part for s in figure] + [None]
        ends[i, : len(figure)] = torch.tensor([a != b for a, b in pairwise(owners)])
    rows, ends = rows.to(device), ends.to(device)
    outlined, shaded = (torch.tensor([look == name for look in looks], device=device).view(n, 1, 1) for name in ("outlined", "shaded"))

    line = (torch.arange(SIDE, device=device) + 0.5 - SIDE / 2) / (SIDE - 2)
    y, x = line.view(1, SIDE, 1), line.view(1, 1, SIDE)
    rgb, alpha = torch.zeros(n, 3, SIDE, SIDE, device=device), torch.zeros(n, SIDE, SIDE, device=device)
    far = torch.full((n, SIDE, SIDE), 9.0, device=device)
    inside, hue = far, torch.zeros(n, 3, SIDE, SIDE, device=device)
    for k in range(most):
        ax, ay, bx, by, ra, rb = rows[:, k, :6, None, None].unbind(1)  # each n 1 1
        along = (((x - ax) * (bx - ax) + (y - ay) * (by - ay)) / ((bx - ax) ** 2 + (by - ay) ** 2).clamp(min=1e-9)).clamp(0, 1)
        away = ((x - ax - along * (bx - ax)) ** 2 + (y - ay - along * (by - ay)) ** 2).sqrt() - torch.lerp(ra, rb, along)
        nearer = away < inside
        inside = torch.where(nearer, away, inside)
        hue = torch.where(nearer.unsqueeze(1), rows[:, k, 6:, None, None], hue)
        if not ends[:, k].any():
            continue
        end = ends[:, k].view(n, 1, 1)
        # Half a pixel of softness at each edge; light comes from the upper left, by the slope of the distance.
        body = (0.5 - inside * (SIDE - 2)).clamp(0, 1) * end
        rim = (0.5 - (inside + OUTLINE / 2).abs() * (SIDE - 2) + OUTLINE / 2 * (SIDE - 2)).clamp(0, 1) * body * outlined
        light = torch.where(shaded, (-inside * 6).clamp(0, 0.5) * 0.5 - 0.12 + 0.25 * (-x - y), 0.0).unsqueeze(1)
        color = torch.where(light > 0, hue + (1 - hue) * light.clamp(max=0.5), hue * (1 + light.clamp(min=-0.4)))
        color = color + (torch.tensor(LINE, device=device).view(1, 3, 1, 1) - color) * rim.unsqueeze(1)
        rgb = rgb + (color - rgb) * body.unsqueeze(1)
        alpha = alpha + (1 - alpha) * body
        inside = torch.where(end, far, inside)
    return torch.cat((rgb / alpha.clamp(min=1e-4).unsqueeze(1), alpha.unsqueeze(1)), 1)  # layers add up premultiplied
