"""Sprite tiles of objects: rows of the atlas and procedural drawings, behind one interface.

Every tile is SIDE x SIDE with its content centred; the longer side of the content is SIDE - 2
pixels.
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
    """Width and height of the content as shares of its longer side: one of them is 1.

    Solids and corrupted sprites count as square.
    """
    if isinstance(art, Sign):
        return signs.extent(art)
    if isinstance(art, Hand | Puppet):
        return figures.extent(_figure(art))
    if isinstance(art, Solid | Broken):
        return 1.0, 1.0  # room for any rotation of a solid, or for two sprites
    sprite = atlas.load().sprites[art]
    return sprite.width, sprite.height


def half(item: SceneObject) -> tuple[float, float]:
    """Half the width and half the height of an unrotated object, in the unit square."""
    width, height = extent(item.sprite)
    return item.size * width / 2, item.size * height / 2


def box(item: SceneObject) -> Box:
    """Bounding box of an unrotated object."""
    across, down = half(item)
    return item.x - across, item.y - down, item.x + across, item.y + down


def covered(behind: Box, front: Box) -> float:
    """The share of the box ``behind`` that the box ``front`` covers."""
    w = min(behind[2], front[2]) - max(behind[0], front[0])
    h = min(behind[3], front[3]) - max(behind[1], front[1])
    return max(w, 0) * max(h, 0) / ((behind[2] - behind[0]) * (behind[3] - behind[1]))


def draw(objects: Sequence[SceneObject], device: torch.device | str = "cpu") -> Tensor:
    """Tiles of the objects (n, 4, SIDE, SIDE) in [0, 1], recoloured where the object has a colour.

    RGB, not premultiplied, then alpha.
    """
    out = torch.empty(len(objects), 4, atlas.SIDE, atlas.SIDE, device=device)
    for draw_all, kind in (
        (_sprites, int),
        (_signs, Sign),
        (_figures, Hand | Puppet),
        (_solids, Solid),
        (_broken, Broken),
    ):
        indices = [i for i, item in enumerate(objects) if isinstance(item.sprite, kind)]
        if len(indices) == len(objects):
            return draw_all(objects, device)
        if indices:
            tiles = draw_all([objects[i] for i in indices], device)
            for i, tile in zip(indices, tiles, strict=True):
                out[i] = tile
    return out


def _sprites(objects: Sequence[SceneObject], device: torch.device | str) -> Tensor:
    rows = torch.tensor([item.sprite for item in objects])
    rgba = atlas.load().pixels.index_select(0, rows).to(device).float().div_(255)
    recolored = [i for i, item in enumerate(objects) if item.color is not None]
    if recolored:
        colors = torch.tensor(
            [COLORS.index(item.color) for item in objects if item.color is not None]
        )
        indices = torch.tensor(recolored)
        chosen = rgba.index_select(0, indices.to(device))
        tiles = atlas.recolor(chosen, rows[indices], colors)
        for i, tile in zip(recolored, tiles, strict=True):
            rgba[i] = tile
    return rgba


def _signs(objects: Sequence[SceneObject], device: torch.device | str) -> Tensor:
    tiles = [signs.tile(item.sprite) for item in objects if isinstance(item.sprite, Sign)]
    return torch.stack(tiles).to(device).float().div_(255)


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
    """Masks of the recoloured surface of each tile: (n, 1, SIDE, SIDE) in [0, 1].

    0 everywhere for objects in their own colours.
    """
    out = torch.zeros(len(objects), 1, atlas.SIDE, atlas.SIDE, device=device)
    indices = [i for i, item in enumerate(objects) if item.color is not None]
    if indices:
        rows = torch.tensor([objects[i].sprite for i in indices])
        art = atlas.load()
        mask = art.masks[art.mask_row[rows]].float() / 255 * (art.pixels[rows, 3].float() / 255)
        out[torch.tensor(indices, device=device), 0] = mask.to(device)
    return out


def _figure(art: Hand | Puppet) -> figures.Figure:
    """The strokes of a hand or puppet."""
    return hands.figure(art) if isinstance(art, Hand) else puppets.figure(art)
