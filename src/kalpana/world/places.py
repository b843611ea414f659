"""Backgrounds: flat colours, gradients and eight simple places, painted in closed form by batch.

A painter is called as ``painter(name, u, y, x)``: ``name`` (b, 3) is the named colour, ``u`` eight
uniform random numbers (b, 1, 1) each, ``y`` and ``x`` the point of the scene under each pixel. It
returns colours that broadcast to (b, 3, h, w). A signed distance is positive inside a shape, in
units of the image side.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from kalpana.world.scene import STILL, Background, View

# sRGB in [0, 1], slightly muted for contrast with sprites.
COLORS = {
    "white": (0.98, 0.98, 0.98),
    "black": (0.07, 0.07, 0.08),
    "gray": (0.62, 0.63, 0.65),
    "light blue": (0.70, 0.85, 0.96),
    "light green": (0.74, 0.91, 0.73),
    "beige": (0.95, 0.89, 0.78),
    "lavender": (0.83, 0.78, 0.94),
    "pink": (0.98, 0.79, 0.85),
    "yellow": (0.99, 0.93, 0.58),
    "dark blue": (0.11, 0.17, 0.38),
}


def paint(
    backgrounds: Sequence[Background], side: int, device: torch.device | str = "cpu"
) -> Tensor:
    """Images of the backgrounds (b, 3, side, side) in [0, 1].

    Each depends only on its own Background, not on the batch.
    """
    line = (torch.arange(side, device=device) + 0.5) / side
    y, x = line.view(1, side, 1), line.view(1, 1, side)
    out = torch.empty(len(backgrounds), 3, side, side, device=device)
    painters: dict[str, Callable[..., Tensor]] = {"flat": _flat, "gradient": _gradient, **PLACES}
    kinds = [(b.name if b.kind == "place" else b.kind, b.view == STILL) for b in backgrounds]
    for kind, still in set(kinds):
        indices = [i for i, k in enumerate(kinds) if k == (kind, still)]
        at_y, at_x = (y, x) if still else look([backgrounds[i].view for i in indices], y, x)
        # Eight uniform numbers for each image, from its own seed: all the variation of a place.
        generators = [random.Random(backgrounds[i].seed) for i in indices]
        numbers = [[generator.random() for _ in range(8)] for generator in generators]
        u = torch.tensor(numbers, device=device)
        columns = [u[:, k].view(-1, 1, 1) for k in range(8)]
        name = torch.tensor(
            [COLORS.get(backgrounds[i].name, (0.0, 0.0, 0.0)) for i in indices], device=device
        )
        # Values that are constant along a row or a column have size 1 there until expand.
        painted = painters[kind](name, columns, at_y, at_x).clamp(0, 1)
        for i, image in zip(indices, painted.expand(len(indices), 3, -1, -1), strict=True):
            out[i] = image
    return out


def look(views: Sequence[View], y: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
    """Scene coordinates (row, column), each (b, h, w), of the image points (y, x) in each view."""
    cx, cy, zoom, angle = torch.tensor(views, device=y.device).T[:, :, None, None]
    cos, sin = torch.cos(torch.deg2rad(angle)) / zoom, torch.sin(torch.deg2rad(angle)) / zoom
    return cy + (x - 0.5) * sin + (y - 0.5) * cos, cx + (x - 0.5) * cos - (y - 0.5) * sin


def _rgb(color: Sequence[float], like: Tensor) -> Tensor:
    """The colour as a tensor (1, 3, 1, 1) on the device of ``like``."""
    return torch.tensor(color, device=like.device).view(1, 3, 1, 1)


def _ramp(top: Sequence[float], bottom: Sequence[float], y: Tensor) -> Tensor:
    """Vertical gradient (b, 3, h, w) from ``top`` at ``y`` (b, h, w) = 0 to ``bottom`` at 1."""
    y = y.clamp(0, 1).unsqueeze(1)
    return _rgb(top, y) * (1 - y) + _rgb(bottom, y) * y


def _over(below: Tensor, above: Tensor, where: Tensor) -> Tensor:
    """Blend of ``above`` over ``below`` inside a shape; its edge is one pixel soft.

    ``where`` (b, h, w) is the signed distance to the shape's edge.
    """
    alpha = (where * where.shape[1] + 0.5).clamp(0, 1).unsqueeze(1)
    return below * (1 - alpha) + above * alpha


def _flat(name: Tensor, u: list[Tensor], y: Tensor, x: Tensor) -> Tensor:
    """The named colour in a shade that varies by 3 %."""
    shade = 1 + 0.06 * (u[0] - 0.5)
    return name[:, :, None, None] * shade.unsqueeze(1)


def _gradient(name: Tensor, u: list[Tensor], y: Tensor, x: Tensor) -> Tensor:
    """Vertical gradient from the named colour at the top to a lighter one at the bottom."""
    top = name[:, :, None, None]
    bottom = top + (0.97 - top) * (0.45 + 0.3 * u[0]).unsqueeze(1)
    return torch.lerp(top, bottom, y.unsqueeze(1))


def _hills(u: Tensor, v: Tensor, x: Tensor) -> Tensor:
    """A sine of x in [-1, 1]: ``u`` sets the frequency, ``v`` the phase."""
    return torch.sin((2 + 3 * u) * x * 3.1416 + 6.28 * v)


def _meadow(name: Tensor, u: list[Tensor], y: Tensor, x: Tensor) -> Tensor:
    """Two rows of green hills under a blue sky."""
    horizon = 0.48 + 0.12 * u[0]
    sky = _ramp((0.45, 0.73, 0.96), (0.86, 0.95, 1.0), y / horizon)
    far = _ramp((0.55, 0.80, 0.45), (0.45, 0.72, 0.36), (y - horizon) * 4)
    near = _ramp((0.47, 0.76, 0.33), (0.30, 0.58, 0.22), (y - horizon) / (1 - horizon))
    ground = _over(sky, far, y - (horizon + 0.03 * _hills(u[1], u[2], x)))
    return _over(ground, near, y - (horizon + 0.10 + 0.03 * _hills(u[3], u[4], x)))


def _beach(name: Tensor, u: list[Tensor], y: Tensor, x: Tensor) -> Tensor:
    """Sky, sea with a white surf line, and sand."""
    horizon, shore = 0.36 + 0.10 * u[0], 0.58 + 0.10 * u[1]
    sky = _ramp((0.50, 0.78, 0.97), (0.88, 0.96, 1.0), y / horizon)
    sea = _ramp((0.10, 0.47, 0.72), (0.35, 0.77, 0.82), (y - horizon) / (shore - horizon))
    sand = _ramp((0.95, 0.87, 0.66), (0.88, 0.76, 0.52), (y - shore) / (1 - shore))
    wave = shore + 0.015 * _hills(u[2], u[3], x)
    wet = _over(_over(sky, sea, y - horizon), _rgb((0.96, 0.98, 0.98), y), y - wave)
    return _over(wet, sand, y - wave - 0.025)


def _ridge(u: Tensor, v: Tensor, x: Tensor, peaks: float) -> Tensor:
    """A jagged skyline in [0, 1]: the sum of two triangle waves of different periods."""
    one = (2 * ((x * peaks + v) % 1) - 1).abs()
    two = (2 * ((x * peaks * 2.3 + u) % 1) - 1).abs()
    return 0.75 * one + 0.25 * two


def _mountains(name: Tensor, u: list[Tensor], y: Tensor, x: Tensor) -> Tensor:
    """Two mountain ridges and a setting sun."""
    sky = _ramp((0.36, 0.24, 0.52), (0.98, 0.62, 0.30), y / 0.62)
    distance = ((x - 0.2 - 0.6 * u[0]) ** 2 + (y - 0.36 - 0.12 * u[1]) ** 2).sqrt()
    sun = _over(sky, _rgb((1.0, 0.88, 0.50), y), 0.10 - distance)
    far = _ramp((0.50, 0.31, 0.48), (0.62, 0.38, 0.44), (y - 0.4) * 3)
    near = _ramp((0.27, 0.18, 0.34), (0.17, 0.12, 0.25), (y - 0.5) * 2)
    back = _over(sun, far, y - (0.36 + 0.28 * _ridge(u[2], u[3], x, 1.6)))
    return _over(back, near, y - (0.58 + 0.22 * _ridge(u[4], u[5], x, 2.1)))


def _room(name: Tensor, u: list[Tensor], y: Tensor, x: Tensor) -> Tensor:
    """A wall with a window, a skirting board and a wooden floor."""
    floor = 0.66 + 0.10 * u[0]
    color = torch.stack(
        [torch.stack((0.80 + 0.14 * u[1], 0.80 + 0.10 * u[2], 0.72 + 0.16 * u[3]), 1)]
    ).squeeze(0)  # b 3 1 1
    wall = color.expand(-1, -1, y.shape[1], x.shape[2])
    left = 0.08 + 0.55 * u[4]
    frame = torch.minimum(0.15 - (x - left - 0.15).abs(), 0.14 - (y - 0.24).abs())
    pane = torch.minimum(0.13 - (x - left - 0.15).abs(), 0.12 - (y - 0.24).abs())
    wall = _over(wall, _rgb((0.98, 0.97, 0.94), y), frame)
    wall = _over(wall, _ramp((0.60, 0.82, 0.97), (0.85, 0.94, 0.99), (y - 0.12) * 4), pane)
    boards = _ramp((0.70, 0.50, 0.32), (0.55, 0.37, 0.22), (y - floor) / (1 - floor))
    skirting = _over(wall, _rgb((0.97, 0.95, 0.91), y), y - floor + 0.03)
    return _over(skirting, boards, y - floor)


def _night(name: Tensor, u: list[Tensor], y: Tensor, x: Tensor) -> Tensor:
    """A starry sky above dark ground."""
    sky = _ramp((0.03, 0.05, 0.16), (0.16, 0.20, 0.42), y / 0.8)
    # One star in each cell of a 6 x 6 lattice. A hash of the cell and u[0] gives its position
    # within the cell and its radius.
    cx, cy = (x * 6).floor(), (y * 6).floor()
    hashed = torch.frac((torch.sin(cx * 12.99 + cy * 78.23 + u[0] * 41.0) * 43758.5).abs())
    other = torch.frac(hashed * 57.3)
    dx, dy = x * 6 - cx - 0.2 - 0.6 * hashed, y * 6 - cy - 0.2 - 0.6 * other
    distance = (dx**2 + dy**2).sqrt() / 6
    radius = 0.006 + 0.006 * torch.frac(other * 31.7)
    star = _over(sky, _rgb((0.95, 0.95, 0.80), y), radius - distance)
    ground = _ramp((0.08, 0.14, 0.16), (0.04, 0.08, 0.10), (y - 0.75) * 4)
    return _over(star, ground, y - (0.78 + 0.06 * u[1] + 0.03 * _hills(u[2], u[3], x)))


def _chance(cell: Tensor, u: Tensor) -> Tensor:
    """A pseudo-random number in [0, 1) for each cell and image, by a cheap hash."""
    return torch.frac((torch.sin(cell * 12.99 + u * 41.0) * 43758.5).abs())


def _block(
    y: Tensor,
    x: Tensor,
    top: Tensor | float,
    bottom: Tensor | float,
    left: Tensor | float,
    right: Tensor | float,
) -> Tensor:
    """Signed distance to the edge of an upright rectangle with round corners, negative outside."""
    radius = 0.025
    dy = torch.maximum(top + radius - y, y - (bottom - radius)).clamp(min=0)
    dx = torch.maximum(left + radius - x, x - (right - radius)).clamp(min=0)
    return radius - (dx**2 + dy**2).sqrt()


def _garden(name: Tensor, u: list[Tensor], y: Tensor, x: Tensor) -> Tensor:
    """A lawn in front of a hedge, with a bed of round flowers along the bottom."""
    hedge, bed = 0.34 + 0.06 * u[0], 0.78 + 0.05 * u[1]
    sky = _ramp((0.58, 0.81, 0.97), (0.90, 0.96, 1.0), y / hedge)
    leaves = _ramp((0.24, 0.50, 0.24), (0.18, 0.40, 0.20), (y - hedge) * 6)
    lawn = _ramp((0.56, 0.80, 0.42), (0.45, 0.71, 0.33), (y - hedge - 0.16) * 2)
    waves = _hills(9 + 2 * u[2], u[3], x) + _hills(5 + 2 * u[3], u[2], x)
    ground = _over(sky, leaves, y - (hedge + 0.012 * waves))
    ground = _over(ground, lawn, y - hedge - 0.16)
    soil = _ramp((0.36, 0.56, 0.26), (0.30, 0.48, 0.22), (y - bed) * 4)
    ground = _over(ground, soil, y - bed - 0.01 * _hills(u[4], u[5], x))
    # Two rows of flowers, one flower in each eighth of the width, the second row shifted.
    for row, middle in enumerate((0.055, 0.15)):
        cell = (x * 8 + 0.5 * row).floor()
        chance = _chance(cell + 17 * row, u[6])
        dx = (x * 8 + 0.5 * row - cell - 0.35 - 0.3 * chance) / 8
        dy = y - bed - middle - 0.02 * torch.frac(chance * 7.1)
        distance = (dx**2 + dy**2).sqrt()
        hue = torch.frac(chance * 3.7 + u[7]).unsqueeze(1)
        petals = torch.where(
            hue < 0.34,
            _rgb((0.94, 0.42, 0.56), y),
            torch.where(hue < 0.67, _rgb((0.99, 0.84, 0.35), y), _rgb((0.97, 0.97, 0.98), y)),
        )
        ground = _over(ground, petals, 0.035 - distance)
        ground = _over(ground, _rgb((0.85, 0.55, 0.20), y), 0.012 - distance)
    return ground


def _city(name: Tensor, u: list[Tensor], y: Tensor, x: Tensor) -> Tensor:
    """Two rows of houses with lit windows under a dark sky, and a street."""
    street = 0.84 + 0.04 * u[0]
    scene = _ramp((0.06, 0.06, 0.20), (0.33, 0.22, 0.45), y / 0.7)
    for row, (wide, low, color, light) in enumerate(
        ((7, 0.52, (0.17, 0.16, 0.33), 0.35), (5, 0.66, (0.10, 0.10, 0.22), 0.6))
    ):
        place = x * wide + u[1 + row]
        house = place.floor()
        top = low - 0.28 * _chance(house + 31 * row, u[3 + row])
        within = torch.minimum(place - house - 0.04, house + 0.96 - place) / wide
        scene = _over(scene, _rgb(color, y), torch.minimum(y - top, within))
        at_x, at_y = (place - house) * 4, (y - top) * 18  # a window at each integer, three in a row
        lit = _chance(house * 7 + at_x.round() + 13 * at_y.round(), u[5 + row]) < light
        dx, dy = (at_x - at_x.round()).abs(), (at_y - at_y.round()).abs()
        pane = torch.minimum(0.26 - dx, 0.28 - dy) / 18
        shown = lit & (at_x.round() > 0) & (at_x.round() < 4) & (at_y.round() > 0)
        scene = _over(scene, _rgb((0.98, 0.83, 0.45), y), torch.where(shown, pane, -1.0))
    road = _ramp((0.20, 0.20, 0.27), (0.14, 0.14, 0.19), (y - street) * 5)
    return _over(scene, road, y - street)


def _lounge(name: Tensor, u: list[Tensor], y: Tensor, x: Tensor) -> Tensor:
    """A wall, a carpet and a sofa with two cushions."""
    floor, left = 0.68 + 0.05 * u[0], 0.10 + 0.12 * u[1]
    right, seat = left + 0.62 + 0.08 * u[2], floor - 0.08
    wall = torch.cat((0.86 + 0.10 * u[3], 0.84 + 0.10 * u[4], 0.80 + 0.12 * u[5]), 1)  # b 3 1
    scene = wall.unsqueeze(-1).expand(-1, -1, y.shape[1], x.shape[2])
    boards = _ramp((0.76, 0.62, 0.48), (0.64, 0.49, 0.36), (y - floor) / (1 - floor))
    scene = _over(scene, boards, y - floor)
    cloth = torch.where(
        u[6] < 0.5,
        torch.tensor((0.30, 0.50, 0.55), device=y.device),
        torch.tensor((0.62, 0.36, 0.34), device=y.device),
    )
    cloth = cloth.view(-1, 3, 1, 1)
    parts = (  # shade, top, bottom, left, right
        (0.90, seat - 0.20, floor + 0.04, left + 0.03, right - 0.03),
        (1.12, seat, floor + 0.07, left + 0.05, right - 0.05),
        (1.0, seat - 0.07, floor + 0.10, left, left + 0.09),
        (1.0, seat - 0.07, floor + 0.10, right - 0.09, right),
    )
    for shade, *edges in parts:
        scene = _over(scene, cloth * shade, _block(y, x, *edges))
    for cushion in (left + 0.14, right - 0.28):
        block = _block(y, x, seat - 0.12, seat + 0.01, cushion, cushion + 0.14)
        scene = _over(scene, _rgb((0.95, 0.88, 0.70), y), block)
    return scene


PLACES: dict[str, Callable[..., Tensor]] = {
    "meadow": _meadow,
    "beach": _beach,
    "mountains": _mountains,
    "room": _room,
    "night": _night,
    "garden": _garden,
    "city": _city,
    "lounge": _lounge,
}
