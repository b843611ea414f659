"""Renderer: batches of scenes to images and exact object masks, on any device.

Objects are drawn back to front, one layer at a time. The tiles of a layer are drawn as a batch.
Each tile is then warped by its affine map and blended alpha-over (Porter and Duff 1984,
premultiplied) in the rows and columns that it can cover. An image depends only on its scene, not
on its batch.
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

SHADOW = 0.45  # share of the light that a shadow removes at its centre
FADED = 3.1  # radius, in half-widths of the object, beyond which a shadow is below float rounding


@dataclass(frozen=True)
class Rendering:
    """Rendered images of b scenes.

    ``pixels`` (b, 3, h, w) in [-1, 1]. ``plain``: the same before any painting effect.
    ``whole``: for each scene the full masks (n_objects, h, w) bool, occluded parts included.
    ``painted`` (b, h, w) in [0, 1]: the pixels of recoloured surfaces.
    ``whole`` and ``painted`` are None unless masks were requested.
    """

    pixels: Tensor
    plain: Tensor
    whole: tuple[Tensor, ...] | None = None
    painted: Tensor | None = None

    @cached_property
    def masks(self) -> tuple[Tensor, ...] | None:
        """For each scene the visible masks (n_objects, h, w) bool; None without ``whole``."""
        return None if self.whole is None else tuple(visible(each) for each in self.whole)


def visible(whole: Tensor) -> Tensor:
    """Visible parts (n, h, w) of full masks (n, h, w) in drawing order."""
    over = whole.flip(0).cumsum(0).flip(0) - whole.long()  # number of later objects on a pixel
    return whole & (over == 0)


def render(
    scenes: Sequence[Scene],
    side: int = 128,
    masks: bool = False,
    device: torch.device | str = "cpu",
) -> Rendering:
    """Images of ``scenes`` at ``side`` x ``side`` pixels, with object masks if ``masks`` is set."""
    backgrounds = [scene.background for scene in scenes]
    canvas = places.paint(backgrounds, side, device)  # (b, 3, h, w) in [0, 1]
    mask_counts = [len(scene.objects) if masks else 0 for scene in scenes]
    whole = tuple(
        torch.zeros(count, side, side, dtype=torch.bool, device=device) for count in mask_counts
    )
    painted = torch.zeros(len(scenes) if masks else 0, side, side, device=device)
    for depth, level, indices in _layers(scenes, side):
        objects = [scenes[i].objects[depth] for i in indices]
        drawn, spots = _tiles(objects, level, device), _spots(objects, side, device)
        colored = sprites.painted(objects, device) if masks else None
        for k, (i, item, spot) in enumerate(zip(indices, objects, spots, strict=True)):
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
    """Batches to draw, from back to front, as (depth, level, indices of scenes).

    A batch holds the ``depth``-th object of each of these scenes; their tiles are halved ``level``
    times.
    """
    for depth in range(max((len(scene.objects) for scene in scenes), default=0)):
        levels = {
            i: _level(scene.objects[depth], side)
            for i, scene in enumerate(scenes)
            if len(scene.objects) > depth
        }
        for level in range(3):
            indices = [i for i, each in levels.items() if each == level]
            if indices:
                yield depth, level, indices


def _level(item: SceneObject, side: int) -> int:
    """Number of times to halve a tile before the warp, which avoids aliasing of small objects."""
    shrink = atlas.SIDE / max(item.size * side, 1)
    return 0 if shrink < 1.5 else 1 if shrink < 3 else 2


def _tiles(objects: Sequence[SceneObject], level: int, device: torch.device | str) -> Tensor:
    """Tiles (n, 4, s, s) with s = SIDE / 2**level: RGB, premultiplied, then alpha."""
    rgba = sprites.draw(objects, device)
    rgba[:, :3] *= rgba[:, 3:]
    if level == 1:  # equal to avg_pool2d, but much faster
        return (
            (rgba[..., ::2, ::2] + rgba[..., ::2, 1::2])
            .add_(rgba[..., 1::2, ::2])
            .add_(rgba[..., 1::2, 1::2])
            .div_(4)
        )
    return F.avg_pool2d(rgba, 4) if level else rgba


@dataclass(frozen=True)
class _Spot:
    """The window of an image that a tile can cover, and the map from its pixels to the tile.

    The tile coordinates (2, h, w) in [-1, 1] of the window's pixels are ``across + down + shift``.
    """

    rows: slice
    columns: slice
    across: Tensor  # 2 1 w: the term of the column
    down: Tensor  # 2 h 1: the term of the row
    shift: Tensor  # 2 1 1: the constant term


def _spots(
    objects: Sequence[SceneObject], side: int, device: torch.device | str
) -> Iterator[_Spot | None]:
    """The window of each object's tile; None if all of it is outside the image."""
    maps = _inverse(objects, device)
    line = torch.linspace(-1, 1, side, device=device) * (side - 1) / side  # the pixel centres
    across = maps[:, :, 0, None, None] * line
    down = maps[:, :, 1, None, None] * line.view(-1, 1)
    shift = maps[:, :, 2, None, None]
    for k, item in enumerate(objects):
        turn = math.radians(item.angle)
        # In pixels. The edge of the most reduced tile fades out over 2 pixels of SIDE.
        tile = item.size * side * (atlas.SIDE + 4) / (atlas.SIDE - 2)
        reach = tile / 2 * (abs(math.cos(turn)) + abs(math.sin(turn)))
        rows, columns = _span(item.y * side, reach, side), _span(item.x * side, reach, side)
        inside = rows.start < rows.stop and columns.start < columns.stop
        yield (
            _Spot(rows, columns, across[k, :, :, columns], down[k, :, rows], shift[k])
            if inside
            else None
        )


def _span(middle: float, reach: float, side: int) -> slice:
    """The pixels within ``reach`` of ``middle``, clipped to the image."""
    return slice(max(math.floor(middle - reach), 0), max(min(math.ceil(middle + reach), side), 0))


def _place(tile: Tensor, spot: _Spot) -> Tensor:
    """The tile (c, s, s) warped into its window (c, h, w)."""
    points = spot.across + spot.down + spot.shift
    return F.grid_sample(tile[None], points.permute(1, 2, 0)[None], align_corners=False)[0]


def _cast_shadow(image: Tensor, item: SceneObject) -> None:
    """Darken the image (3, h, w) in place by a soft elliptical shadow under the object's foot."""
    side, (width, height) = image.shape[-1], sprites.extent(item.sprite)
    foot, half = item.y + item.size * height * 0.47, item.size * width * 0.5
    rows = _span(foot * side, FADED * 0.22 * half * side, side)
    columns = _span(item.x * side, FADED * half * side, side)
    x, y, reach, dark = torch.tensor(
        (item.x, foot, half, SHADOW * item.shadow), device=image.device
    )
    line = (torch.arange(side, device=image.device) + 0.5) / side
    squared = ((line[columns] - x) / reach) ** 2 + ((line[rows, None] - y) / (0.22 * reach)) ** 2
    image[:, rows, columns] *= 1 - dark * torch.exp(-1.8 * squared)


def _inverse(objects: Sequence[SceneObject], device: torch.device | str) -> Tensor:
    """Affine maps (n, 2, 3) from image to tile coordinates, both in [-1, 1]."""
    x, y, size, angle, flip = torch.tensor(
        [(t.x, t.y, t.size, t.angle, -1.0 if t.flip else 1.0) for t in objects], device=device
    ).unbind(1)
    scale = (atlas.SIDE - 2) / atlas.SIDE / size  # ``size`` is the length of the content, not tile
    cos, sin = torch.cos(torch.deg2rad(angle)) * scale, torch.sin(torch.deg2rad(angle)) * scale
    cx, cy = 2 * x - 1, 2 * y - 1
    # tile = flip · R · (image - centre), with y down; the angle is counter-clockwise as seen.
    top = torch.stack((cos * flip, -sin * flip, (-cos * cx + sin * cy) * flip), 1)
    bottom = torch.stack((sin, cos, -sin * cx - cos * cy), 1)
    return torch.stack((top, bottom), 1)
