"""The renderer: scenes in, pictures and exact masks out, one batch at a time, on any device.

Every layer of a batch is drawn at once: recolour the sprites, warp them by their affine maps, blend alpha-over (Porter
and Duff 1984, premultiplied). A picture depends on its scene alone, never on the batch it was drawn in.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from kalpana.world import atlas, places
from kalpana.world.scene import COLORS, Scene, Thing


@dataclass(frozen=True)
class Rendering:
    """``pixels`` (b, 3, h, w) in [-1, 1]; ``masks``: for each scene (n_things, h, w) bool, what can be seen of each thing."""

    pixels: Tensor
    masks: tuple[Tensor, ...] | None = None


def render(scenes: Sequence[Scene], side: int = 128, masks: bool = False, device: torch.device | str = "cpu") -> Rendering:
    """The pictures of ``scenes`` at ``side`` x ``side`` pixels, with the visible mask of every thing if asked for."""
    canvas = places.paint([scene.background for scene in scenes], side, device)  # (b, 3, h, w) in [0, 1]
    coverage: list[list[Tensor]] = [[] for _ in scenes]
    for depth in range(max((len(scene.things) for scene in scenes), default=0)):
        rows = [i for i, scene in enumerate(scenes) if len(scene.things) > depth]
        # Sprites much smaller than the atlas's are drawn from its half or quarter copy, or they would shimmer.
        for level in range(3):
            some = [i for i in rows if _level(scenes[i].things[depth], side) == level]
            if not some:
                continue
            layer = _draw([scenes[i].things[depth] for i in some], side, level, device)  # (n, 4, h, w), premultiplied
            color, alpha = layer[:, :3], layer[:, 3:]
            index = torch.tensor(some, device=device)
            canvas[index] = canvas[index] * (1 - alpha) + color
            if masks:
                for i, mask in zip(some, alpha[:, 0] > 0.5, strict=True):
                    coverage[i] = [below & ~mask for below in coverage[i]] + [mask]
    empty = torch.zeros(0, side, side, dtype=torch.bool, device=device)
    seen = tuple(torch.stack(each) if each else empty for each in coverage) if masks else None
    return Rendering(canvas.clamp_(0, 1).mul_(2).sub_(1), seen)


def _level(thing: Thing, side: int) -> int:
    shrink = atlas.SIDE / max(thing.size * side, 1)
    return 0 if shrink < 1.5 else 1 if shrink < 3 else 2


def _draw(things: Sequence[Thing], side: int, level: int, device: torch.device | str) -> Tensor:
    art = atlas.load()
    rows = torch.tensor([thing.sprite for thing in things])
    rgba = art.pixels[rows].to(device).float().div_(255)  # n 4 s s
    painted = torch.tensor([i for i, thing in enumerate(things) if thing.color is not None], dtype=torch.long)
    if len(painted):
        colors = torch.tensor([COLORS.index(thing.color) for thing in things if thing.color is not None])
        rgba[painted] = atlas.recolor(rgba[painted], rows[painted], colors)
    rgba[:, :3] *= rgba[:, 3:]
    if level:
        rgba = F.avg_pool2d(rgba, 2**level)
    return F.grid_sample(
        rgba, F.affine_grid(_inverse(things, device), [len(things), 4, side, side], align_corners=False), align_corners=False
    )


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
