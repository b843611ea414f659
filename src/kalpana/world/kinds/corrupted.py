"""Corrupted sprites: negatives for the detector, corrupted in the ways in which generators fail.

Corruptions: two heads (a sprite joined with its mirror image), two classes or two styles blended or
quilted, parts missing or doubled, the right outline with a wrong inside, melted sprites, blobs of
the right colour. Training data of generators contains none of them.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from kalpana.world import atlas
from kalpana.world.atlas import SIDE
from kalpana.world.lexicon import sprites_of
from kalpana.world.scene import Broken, Scene

# Least mean change of the premultiplied pixels over the sprite's area: below it, a sprite still
# counts as intact.
LEAST = 0.15
# Attempts to find a corruption that changes the sprite: a ball's mirror image is a ball.
TRIES = 6


def draw(broken: Sequence[Broken], device: torch.device | str = "cpu") -> Tensor:
    """Tiles (n, 4, SIDE, SIDE) of the sprites in [0, 1]: RGB (not premultiplied), then alpha."""
    return torch.stack([_draw(one) for one in broken]).to(device)


def change(broken: Broken) -> float:
    """Distance of a corrupted sprite from the intact one.

    The mean absolute difference of premultiplied pixels, divided by the intact sprite's area.
    """
    intact = _premultiplied(_tile(broken.sprite))
    difference = (_premultiplied(_draw(broken)) - intact).abs().mean()
    return float(difference / intact[3].mean().clamp(min=0.01))


def _tile(row: int) -> Tensor:
    return atlas.load().pixels[row].float() / 255


def _draw(broken: Broken) -> Tensor:
    rng = Generator().manual_seed(broken.seed)
    return WAYS[broken.way](_tile(broken.sprite), _tile(broken.other), rng)


def _patchwork(one: Tensor, two: Tensor, rng: Generator) -> Tensor:
    """Smooth patches of two sprites, quilted."""
    mix = (4 * _field(rng, 4) + 0.5).clamp(0, 1)
    return one * mix + two * (1 - mix)


def _half(one: Tensor, two: Tensor, rng: Generator) -> Tensor:
    """One side of the sprite, after a straight cut near the centre."""
    x, y = torch.meshgrid(torch.linspace(-1, 1, SIDE), torch.linspace(-1, 1, SIDE), indexing="xy")
    angle = 6.2832 * _chance(rng)
    keep = (x * torch.cos(angle) + y * torch.sin(angle) < 0.15 * _chance(rng)).float()
    return torch.cat((one[:3], one[3:] * keep))


def _melted(one: Tensor, two: Tensor, rng: Generator) -> Tensor:
    """The sprite warped and blurred, its outline included."""
    return _straight(F.avg_pool2d(_warped(_premultiplied(one), 0.55, rng)[None], 5, 1, 2)[0])


def _scrambled(one: Tensor, two: Tensor, rng: Generator) -> Tensor:
    """The sprite's 3 x 3 parts in random order."""
    cells = one.unflatten(1, (3, SIDE // 3)).unflatten(3, (3, SIDE // 3))
    parts = cells.permute(1, 3, 0, 2, 4).flatten(0, 1)  # 9 4 s/3 s/3
    order = torch.randperm(9, generator=rng)
    return parts[order].unflatten(0, (3, 3)).permute(2, 0, 3, 1, 4).flatten(3, 4).flatten(1, 2)


def _mirrored(one: Tensor, two: Tensor, rng: Generator) -> Tensor:
    """One side of a sprite joined with its mirror image: an animal with two heads, or with none."""
    reach = round(SIDE * (0.5 + 0.12 * float(_chance(rng))))
    # Most drawings face left: without the flip, the result has two heads.
    side = _premultiplied(one if float(_chance(rng)) < 0.7 else one.flip(2))
    x = torch.arange(SIDE)
    near = side * ((reach - x) / 3).clamp(0, 1)
    far = (side.flip(2)) * ((x - (SIDE - 1 - reach)) / 3).clamp(0, 1)
    return _straight(near + far * (1 - near[3:]))


def _blended(one: Tensor, two: Tensor, rng: Generator) -> Tensor:
    """Two half-transparent sprites, one over the other."""
    share = 0.35 + 0.3 * _chance(rng)
    mean = share * _premultiplied(one) + (1 - share) * _premultiplied(two)
    alpha = (1.8 * mean[3:]).clamp(0, 1)
    return torch.cat((_straight(mean)[:3], alpha))


def _missing(one: Tensor, two: Tensor, rng: Generator) -> Tensor:
    """The sprite with holes and missing parts."""
    return torch.cat((one[:3], one[3:] * (6 * (_field(rng, 4) + 0.2)).clamp(0, 1)))


def _doubled(one: Tensor, two: Tensor, rng: Generator) -> Tensor:
    """The sprite over a copy of itself, shifted by 18 to 33 % of its size."""
    angle, far = 6.2832 * _chance(rng), SIDE * (0.18 + 0.15 * _chance(rng))
    down, across = round(float(far * torch.sin(angle))), round(float(far * torch.cos(angle)))
    front, back = (
        _shifted(_premultiplied(one), sign * down // 2, sign * across // 2) for sign in (1, -1)
    )
    return _straight(front + back * (1 - front[3:]))


def _outline(one: Tensor, two: Tensor, rng: Generator) -> Tensor:
    """The right outline with a wrong inside: the sprite's own pixels, or another's, warped."""
    source = _premultiplied(one if float(_chance(rng)) < 0.5 else two)
    inside = _warped(source, 0.9, rng)
    around = F.avg_pool2d(inside[None], 31, 1, 15)[0]
    for _ in range(2):  # transparent parts are filled with the colours around them
        around = F.avg_pool2d(around[None], 31, 1, 15)[0]
    fill = torch.cat((_straight(around)[:3], torch.ones_like(around[3:])))
    filled = inside + (1 - inside[3:]) * fill
    return torch.cat((F.avg_pool2d(filled[None, :3], 3, 1, 1)[0].clamp(0, 1), one[3:]))


def _blob(one: Tensor, two: Tensor, rng: Generator) -> Tensor:
    """A blob with the sprite's position, size and colours."""
    size = 2 * int(7 + 5 * _chance(rng)) + 1
    soft = _warped(_premultiplied(one), 0.25, rng)[None]
    for _ in range(2):
        soft = F.avg_pool2d(soft, size, 1, size // 2, count_include_pad=True)
    alpha = (6 * (soft[0, 3:] - 0.4) + 0.5).clamp(0, 1)
    return torch.cat((_straight(soft[0])[:3], alpha))


WAYS: dict[str, Callable[[Tensor, Tensor, Generator], Tensor]] = {
    "patchwork": _patchwork,
    "half": _half,
    "melted": _melted,
    "scrambled": _scrambled,
    "mirrored": _mirrored,
    "blended": _blended,
    "missing": _missing,
    "doubled": _doubled,
    "outline": _outline,
    "blob": _blob,
}
# Relative frequency of a corruption; 1 where it is not listed.
SHARES = {"mirrored": 3.0, "blended": 2.0, "outline": 2.0, "doubled": 1.5}


def _chance(rng: Generator) -> Tensor:
    """A random number in [0, 1)."""
    return torch.rand((), generator=rng)


def _premultiplied(tile: Tensor) -> Tensor:
    return torch.cat((tile[:3] * tile[3:], tile[3:]))


def _straight(tile: Tensor) -> Tensor:
    """The tile with straight alpha (premultiplication undone)."""
    return torch.cat((tile[:3] / tile[3:].clamp(min=1e-3), tile[3:])).clamp(0, 1)


def _shifted(tile: Tensor, down: int, across: int) -> Tensor:
    """The tile shifted by whole pixels, transparent where it was uncovered."""
    theta = torch.tensor([[[1.0, 0.0, -2 * across / SIDE], [0.0, 1.0, -2 * down / SIDE]]])
    return F.grid_sample(
        tile[None],
        F.affine_grid(theta, [1, 4, SIDE, SIDE], align_corners=False),
        align_corners=False,
    )[0]


def _warped(tile: Tensor, far: float, rng: Generator) -> Tensor:
    """The tile warped by a smooth random field of about ``far`` half sides."""
    line = torch.linspace(-1, 1, SIDE)
    grid = torch.stack(torch.meshgrid(line, line, indexing="xy"), -1)
    grid = grid + far * torch.stack((_field(rng, 5), _field(rng, 5)), -1)
    return F.grid_sample(tile[None], grid[None], align_corners=True)[0]


def _field(rng: torch.Generator, cells: int) -> Tensor:
    """Smooth noise (SIDE, SIDE) of about unit variance, from a ``cells`` x ``cells`` lattice."""
    coarse = torch.randn(1, 1, cells, cells, generator=rng)
    return F.interpolate(coarse, (SIDE, SIDE), mode="bicubic", align_corners=True)[0, 0]


def breaking(scene: Scene, rng: random.Random, share: float = 0.6) -> Scene:
    """The scene with some sprites corrupted, each with probability ``share``.

    At least one is corrupted if the scene has any; the relation is dropped.
    """
    rows = [k for k, item in enumerate(scene.objects) if isinstance(item.sprite, int)]
    if not rows:
        return scene
    chosen = {k for k in rows if rng.random() < share} or {rng.choice(rows)}
    objects = list(scene.objects)
    for k in chosen:
        item = objects[k]
        assert isinstance(item.sprite, int)
        objects[k] = replace(item, sprite=one(item.sprite, rng), color=None)
    return Scene(tuple(objects), scene.groups, scene.background, None, scene.style)


def one(sprite: int, rng: random.Random) -> Broken:
    """A sprite with a random corruption that changes it by more than LEAST."""
    art = atlas.load().sprites
    for _ in range(TRIES):
        way = rng.choices(list(WAYS), [SHARES.get(way, 1.0) for way in WAYS])[0]
        other = rng.randrange(len(art))
        if way in ("blended", "patchwork") and rng.random() < 0.5:
            # Mixed with another artist's sprite of the same concept.
            alike = [
                rows[0]
                for style, rows in sprites_of(art[sprite].concept).items()
                if _artist(style) != _artist(art[sprite].style)
            ]
            other = rng.choice(alike) if alike else other
        broken = Broken(way, sprite, other, rng.randrange(1 << 30))
        if change(broken) > LEAST:
            return broken
    return Broken("scrambled", sprite, sprite, rng.randrange(1 << 30))


def _artist(style: str) -> str:
    """The artist of a style: the first word of its name."""
    return style.split("-")[0]
