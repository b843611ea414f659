"""The renderer: scenes in, pictures and exact masks out, one batch at a time, on any device.

Layer by layer, back to front: the tiles of a batch are drawn at once, then each is warped by its affine map and blended
alpha-over (Porter and Duff 1984, premultiplied) in the part of its picture that it can reach. A picture depends on its scene
alone, never on the batch it was drawn in.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
import torch.nn.functional as F
from torch import Tensor

from kalpana.world import atlas, places, sprites
from kalpana.world.kinds import paintings
from kalpana.world.scene import Scene, SceneObject

SHADOW = 0.45  # how much darker it is right under a thing
FADED = 3.1  # half-widths from its middle, a shadow is less than the rounding of a float


@dataclass(frozen=True)
class Rendering:
    """``pixels`` (b, 3, h, w) in [-1, 1]; ``plain``, the same before any painting; ``whole``: for each scene (n_things, h, w) bool,
    where each thing is, behind others too; ``masks``: the same of what can be seen of it. ``painted`` (b, h, w) in [0, 1]: what
    carries a colour that a thing was given."""

    pixels: Tensor
    plain: Tensor
    whole: tuple[Tensor, ...] | None = None
    painted: Tensor | None = None

    @cached_property
    def masks(self) -> tuple[Tensor, ...] | None:
        return None if self.whole is None else tuple(visible(each) for each in self.whole)


def visible(whole: Tensor) -> Tensor:
    """What can be seen of masks (n, h, w) drawn in this order."""
    over = whole.flip(0).cumsum(0).flip(0) - whole.long()  # how many later things cover a pixel
    return whole & (over == 0)


def render(
    scenes: Sequence[Scene],
    side: int = 128,
    masks: bool = False,
    device: torch.device | str = "cpu",
) -> Rendering:
    """The pictures of ``scenes`` at ``side`` x ``side`` pixels, with the mask of every thing if asked for."""
    canvas = places.paint(
        [scene.background for scene in scenes], side, device
    )  # (b, 3, h, w) in [0, 1]
    kept = [len(scene.objects) if masks else 0 for scene in scenes]
    whole = tuple(torch.zeros(count, side, side, dtype=torch.bool, device=device) for count in kept)
    painted = torch.zeros(len(scenes) if masks else 0, side, side, device=device)
    for depth, level, some in _layers(scenes, side):
        objects = [scenes[i].objects[depth] for i in some]
        drawn, spots = _tiles(objects, level, device), _spots(objects, side, device)
        colored = sprites.painted(objects, device) if masks else None
        for k, (i, item, spot) in enumerate(zip(some, objects, spots, strict=True)):
            if item.shadow:
                _cast_shadow(canvas[i], item)
            if spot is None:
                continue
            layer, window = _place(drawn[k], spot), (spot.rows, spot.columns)
            alpha = layer[3]
            canvas[i, :, *window].mul_(1 - alpha).add_(layer[:3])
            if colored is not None:
                painted[i, *window].mul_(1 - alpha).add_(_place(colored[k], spot)[0])
                whole[i][depth, *window] = alpha > 0.5
    plain = canvas.clamp_(0, 1).mul_(2).sub_(1)
    pixels = paintings.paint(
        plain, [scene.painting for scene in scenes], [scene.background.seed for scene in scenes]
    )
    return Rendering(pixels, plain, whole, painted) if masks else Rendering(pixels, plain)


def _layers(scenes: Sequence[Scene], side: int) -> Iterator[tuple[int, int, list[int]]]:
    """What is drawn at once, from back to front: things that are the ``depth``-th of their scenes and whose tiles are halved ``level``
    times, as (depth, level, scenes)."""
    for depth in range(max((len(scene.objects) for scene in scenes), default=0)):
        levels = {
            i: _level(scene.objects[depth], side)
            for i, scene in enumerate(scenes)
            if len(scene.objects) > depth
        }
        for level in range(3):
            some = [i for i, each in levels.items() if each == level]
            if some:
                yield depth, level, some


def _level(item: SceneObject, side: int) -> int:
    """How often a tile is halved first: a sprite drawn much smaller than the atlas has it would shimmer."""
    shrink = atlas.SIDE / max(item.size * side, 1)
    return 0 if shrink < 1.5 else 1 if shrink < 3 else 2


def _tiles(objects: Sequence[SceneObject], level: int, device: torch.device | str) -> Tensor:
    """Tiles (n, 4, s, s), RGB premultiplied, then alpha."""
    rgba = sprites.draw(objects, device)
    rgba[:, :3] *= rgba[:, 3:]
    if level == 1:  # as avg_pool2d, and much faster
        return (
            (rgba[..., ::2, ::2] + rgba[..., ::2, 1::2])
            .add_(rgba[..., 1::2, ::2])
            .add_(rgba[..., 1::2, 1::2])
            .div_(4)
        )
    return F.avg_pool2d(rgba, 4) if level else rgba


@dataclass(frozen=True)
class _Spot:
    """The rows and columns of the picture that a tile can reach, and the point (2, h, w) of the tile, in [-1, 1], under each pixel
    there: the sum of what its column adds (2, 1, w), its row (2, h, 1) and all (2, 1, 1)."""

    rows: slice
    columns: slice
    across: Tensor
    down: Tensor
    shift: Tensor


def _spots(
    objects: Sequence[SceneObject], side: int, device: torch.device | str
) -> Iterator[_Spot | None]:
    """Where each thing's tile comes to be; None where all of it is outside the picture."""
    maps = _inverse(objects, device)
    line = (
        torch.linspace(-1, 1, side, device=device) * (side - 1) / side
    )  # the middles of the pixels
    across, down, shift = (
        maps[:, :, 0, None, None] * line,
        maps[:, :, 1, None, None] * line.view(-1, 1),
        maps[:, :, 2, None, None],
    )
    for k, item in enumerate(objects):
        turn = math.radians(item.angle)
        tile = (
            item.size * side * (atlas.SIDE + 4) / (atlas.SIDE - 2)
        )  # pixels; the smallest copy's edge fades out over 2 of SIDE
        reach = tile / 2 * (abs(math.cos(turn)) + abs(math.sin(turn)))
        rows, columns = _span(item.y * side, reach, side), _span(item.x * side, reach, side)
        seen = rows.start < rows.stop and columns.start < columns.stop
        yield (
            _Spot(rows, columns, across[k, :, :, columns], down[k, :, rows], shift[k])
            if seen
            else None
        )


def _span(middle: float, reach: float, side: int) -> slice:
    """The pixels at most so far from the middle."""
    return slice(max(math.floor(middle - reach), 0), max(min(math.ceil(middle + reach), side), 0))


def _place(tile: Tensor, spot: _Spot) -> Tensor:
    """The tile (c, s, s) where it is in the picture: (c, h, w) of the rows and columns that it can reach."""
    points = spot.across + spot.down + spot.shift
    return F.grid_sample(tile[None], points.permute(1, 2, 0)[None], align_corners=False)[0]


def _cast_shadow(picture: Tensor, item: SceneObject) -> None:
    """Darken the picture (3, h, w) under the thing's foot by a soft ellipse."""
    side, (width, height) = picture.shape[-1], sprites.extent(item.sprite)
    foot, half = item.y + item.size * height * 0.47, item.size * width * 0.5
    rows, columns = (
        _span(foot * side, FADED * 0.22 * half * side, side),
        _span(item.x * side, FADED * half * side, side),
    )
    x, y, reach, dark = torch.tensor(
        (item.x, foot, half, SHADOW * item.shadow), device=picture.device
    )
    line = (torch.arange(side, device=picture.device) + 0.5) / side
    away = ((line[columns] - x) / reach) ** 2 + ((line[rows, None] - y) / (0.22 * reach)) ** 2
    picture[:, rows, columns] *= 1 - dark * torch.exp(-1.8 * away)


def _inverse(objects: Sequence[SceneObject], device: torch.device | str) -> Tensor:
    """The maps (n, 2, 3) from picture to sprite coordinates, both in [-1, 1]."""
    x, y, size, angle, flip = torch.tensor(
        [(t.x, t.y, t.size, t.angle, -1.0 if t.flip else 1.0) for t in objects], device=device
    ).unbind(1)
    scale = (atlas.SIDE - 2) / atlas.SIDE / size  # the content, not the square, is ``size`` long
    cos, sin = torch.cos(torch.deg2rad(angle)) * scale, torch.sin(torch.deg2rad(angle)) * scale
    cx, cy = 2 * x - 1, 2 * y - 1
    # Counter-clockwise for the eye, y pointing down: sprite = flip · R · (picture - centre).
    top = torch.stack((cos * flip, -sin * flip, (-cos * cx + sin * cy) * flip), 1)
    bottom = torch.stack((sin, cos, -sin * cx - cos * cy), 1)
    return torch.stack((top, bottom), 1)
