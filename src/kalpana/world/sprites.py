"""What a thing looks like before it is placed: a row of the atlas, or something drawn to order.

Every tile is SIDE x SIDE with its content centred and its longer side filling SIDE - 2 pixels, whoever drew it.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from kalpana.world import atlas, figures
from kalpana.world.kinds import corrupted, hands, puppets, signs, solids
from kalpana.world.scene import COLORS, Art, Broken, Hand, Puppet, SceneObject, Sign, Solid

Box = tuple[float, float, float, float]  # x0, y0, x1, y1 in the unit square


def extent(art: Art) -> tuple[float, float]:
    """Width and height of the content as shares of its longer side: one of them is 1."""
    if isinstance(art, Sign):
        return signs.extent(art)
    if isinstance(art, Hand | Puppet):
        return figures.extent(_figure(art))
    if isinstance(art, Solid | Broken):
        return 1.0, 1.0  # what a whole turn, or two sprites, may need
    sprite = atlas.load().sprites[art]
    return sprite.width, sprite.height


def half(item: SceneObject) -> tuple[float, float]:
    """Half the width and half the height of an unturned thing in the unit square of the picture."""
    width, height = extent(item.sprite)
    return item.size * width / 2, item.size * height / 2


def box(item: SceneObject) -> Box:
    """Where an unturned thing is."""
    across, down = half(item)
    return item.x - across, item.y - down, item.x + across, item.y + down


def covered(behind: Box, front: Box) -> float:
    """The share of the box behind that the box in front covers."""
    w = min(behind[2], front[2]) - max(behind[0], front[0])
    h = min(behind[3], front[3]) - max(behind[1], front[1])
    return max(w, 0) * max(h, 0) / ((behind[2] - behind[0]) * (behind[3] - behind[1]))


def draw(objects: Sequence[SceneObject], device: torch.device | str = "cpu") -> Tensor:
    """The tiles of these things (n, 4, SIDE, SIDE) in [0, 1], in the colours asked for, RGB not premultiplied, then alpha."""
    out = torch.empty(len(objects), 4, atlas.SIDE, atlas.SIDE, device=device)
    for draw_all, kind in (
        (_sprites, int),
        (_signs, Sign),
        (_figures, Hand | Puppet),
        (_solids, Solid),
        (_broken, Broken),
    ):
        some = [i for i, item in enumerate(objects) if isinstance(item.sprite, kind)]
        if len(some) == len(objects):
            return draw_all(objects, device)
        if some:
            for i, tile in zip(some, draw_all([objects[i] for i in some], device), strict=True):
                out[i] = tile
    return out


def _sprites(objects: Sequence[SceneObject], device: torch.device | str) -> Tensor:
    rows = torch.tensor([item.sprite for item in objects])
    rgba = atlas.load().pixels.index_select(0, rows).to(device).float().div_(255)
    painted = [i for i, item in enumerate(objects) if item.color is not None]
    if painted:
        colors = torch.tensor(
            [COLORS.index(item.color) for item in objects if item.color is not None]
        )
        some = torch.tensor(painted)
        for i, tile in zip(
            painted,
            atlas.recolor(rgba.index_select(0, some.to(device)), rows[some], colors),
            strict=True,
        ):
            rgba[i] = tile
    return rgba


def _signs(objects: Sequence[SceneObject], device: torch.device | str) -> Tensor:
    return (
        torch.stack([signs.tile(item.sprite) for item in objects if isinstance(item.sprite, Sign)])
        .to(device)
        .float()
        .div_(255)
    )


def _figures(objects: Sequence[SceneObject], device: torch.device | str) -> Tensor:
    drawn = [item.sprite for item in objects if isinstance(item.sprite, Hand | Puppet)]
    return figures.paint([_figure(art) for art in drawn], [art.look for art in drawn], device)


def _solids(objects: Sequence[SceneObject], device: torch.device | str) -> Tensor:
    return solids.draw([item.sprite for item in objects if isinstance(item.sprite, Solid)], device)


def _broken(objects: Sequence[SceneObject], device: torch.device | str) -> Tensor:
    return corrupted.draw(
        [item.sprite for item in objects if isinstance(item.sprite, Broken)], device
    )


def painted(objects: Sequence[SceneObject], device: torch.device | str = "cpu") -> Tensor:
    """What of each tile carries the colour its thing was given: (n, 1, SIDE, SIDE) in [0, 1], 0 everywhere for things without one."""
    out = torch.zeros(len(objects), 1, atlas.SIDE, atlas.SIDE, device=device)
    some = [i for i, item in enumerate(objects) if item.color is not None]
    if some:
        rows = torch.tensor([objects[i].sprite for i in some])
        art = atlas.load()
        mask = art.masks[art.mask_row[rows]].float() / 255 * (art.pixels[rows, 3].float() / 255)
        out[torch.tensor(some, device=device), 0] = mask.to(device)
    return out


def _figure(art: Hand | Puppet) -> figures.Figure:
    return hands.figure(art) if isinstance(art, Hand) else puppets.figure(art)
