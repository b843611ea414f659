"""The renderer: scenes in, pictures and exact masks out, one batch at a time, on any device.

Every layer of a batch is drawn at once: recolour the sprites, warp them by their affine maps, blend alpha-over (Porter
and Duff 1984, premultiplied). A picture depends on its scene alone, never on the batch it was drawn in.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
import torch.nn.functional as F
from torch import Tensor

from kalpana.world import atlas, places, tiles
from kalpana.world.kinds import paintings
from kalpana.world.scene import Scene, Thing

SHADOW = 0.45  # how much darker it is right under a thing


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


def render(scenes: Sequence[Scene], side: int = 128, masks: bool = False, device: torch.device | str = "cpu") -> Rendering:
    """The pictures of ``scenes`` at ``side`` x ``side`` pixels, with the mask of every thing if asked for."""
    canvas = places.paint([scene.background for scene in scenes], side, device)  # (b, 3, h, w) in [0, 1]
    coverage: list[list[Tensor]] = [[] for _ in scenes]
    painted = torch.zeros(len(scenes), side, side, device=device) if masks else None
    for depth in range(max((len(scene.things) for scene in scenes), default=0)):
        rows = [i for i, scene in enumerate(scenes) if len(scene.things) > depth]
        # Sprites much smaller than the atlas's are drawn from its half or quarter copy, or they would shimmer.
        for level in range(3):
            some = [i for i in rows if _level(scenes[i].things[depth], side) == level]
            if not some:
                continue
            things, index = [scenes[i].things[depth] for i in some], torch.tensor(some, device=device)
            layer = _place(_tiles(things, level, device), things, side)  # (n, 4, h, w), premultiplied
            color, alpha = layer[:, :3], layer[:, 3:]
            if any(thing.shadow for thing in things):
                canvas[index] *= 1 - _shadows(things, side, device)
            canvas[index] = canvas[index] * (1 - alpha) + color
            if painted is not None:
                painted[index] = painted[index] * (1 - alpha[:, 0]) + _place(tiles.painted(things, device), things, side)[:, 0]
                for i, mask in zip(some, alpha[:, 0] > 0.5, strict=True):
                    coverage[i].append(mask)
    empty = torch.zeros(0, side, side, dtype=torch.bool, device=device)
    whole = tuple(torch.stack(each) if each else empty for each in coverage) if masks else None
    plain = canvas.clamp_(0, 1).mul_(2).sub_(1)
    pixels = paintings.paint(plain, [scene.painting for scene in scenes], [scene.background.seed for scene in scenes])
    return Rendering(pixels, plain, whole, painted)


def _level(thing: Thing, side: int) -> int:
    shrink = atlas.SIDE / max(thing.size * side, 1)
    return 0 if shrink < 1.5 else 1 if shrink < 3 else 2


def _tiles(things: Sequence[Thing], level: int, device: torch.device | str) -> Tensor:
    """Tiles (n, 4, s, s), RGB premultiplied, then alpha."""
    rgba = tiles.draw(things, device)
    rgba[:, :3] *= rgba[:, 3:]
    return F.avg_pool2d(rgba, 2**level) if level else rgba


def _place(tile: Tensor, things: Sequence[Thing], side: int) -> Tensor:
    """Tiles (n, c, s, s) where their things are in the picture: (n, c, side, side)."""
    grid = F.affine_grid(_inverse(things, tile.device), [len(things), tile.shape[1], side, side], align_corners=False)
    return F.grid_sample(tile, grid, align_corners=False)


def _shadows(things: Sequence[Thing], side: int, device: torch.device | str) -> Tensor:
    """How much darker it is under each thing's foot: (n, 1, h, w), a soft ellipse; 0 for a thing that casts no shadow."""
    rows = []
    for thing in things:
        width, height = tiles.extent(thing.sprite)
        rows.append((thing.x, thing.y + thing.size * height * 0.47, thing.size * width * 0.5, SHADOW * thing.shadow))
    x, y, reach, dark = torch.tensor(rows, device=device)[:, :, None, None].unbind(1)  # each n 1 1
    line = (torch.arange(side, device=device) + 0.5) / side
    away = ((line.view(1, 1, side) - x) / reach) ** 2 + ((line.view(1, side, 1) - y) / (0.22 * reach)) ** 2
    return (dark * torch.exp(-1.8 * away)).unsqueeze(1)


def _inverse(things: Sequence[Thing], device: torch.device | str) -> Tensor:
    """The maps (n, 2, 3) from picture to sprite coordinates, both in [-1, 1], that affine_grid asks for."""
    x, y, size, angle, flip = torch.tensor([(t.x, t.y, t.size, t.angle, -1.0 if t.flip else 1.0) for t in things], device=device).unbind(1)
    scale = (atlas.SIDE - 2) / atlas.SIDE / size  # the content, not the square, is ``size`` long
    cos, sin = torch.cos(torch.deg2rad(angle)) * scale, torch.sin(torch.deg2rad(angle)) * scale
    cx, cy = 2 * x - 1, 2 * y - 1
    # Counter-clockwise for the eye, y pointing down: sprite = flip · R · (picture - centre).
    top = torch.stack((cos * flip, -sin * flip, (-cos * cx + sin * cy) * flip), 1)
    bottom = torch.stack((sin, cos, -sin * cx - cos * cy), 1)
    return torch.stack((top, bottom), 1)
