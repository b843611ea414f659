"""Corrupted sprites: negatives for the detector, broken in the ways in which generators fail.

Two heads (a sprite joined with its mirror image), two classes or two styles blended or quilted, parts missing or doubled, the
right outline with a wrong inside, melted sprites, blobs of the right colour. No picture of the world that a generator learns from
holds any.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from kalpana.world import atlas
from kalpana.world.atlas import SIDE
from kalpana.world.lexicon import sprites_of
from kalpana.world.scene import Broken, Scene, SceneObject

LEAST = 0.15  # mean change of the premultiplied pixels, over the sprite's area, below which a sprite counts as whole still
TRIES = (
    6  # of ways to break a sprite that many ways leave as it was: a ball's mirror image is a ball
)


def draw(broken: Sequence[Broken], device: torch.device | str = "cpu") -> Tensor:
    """Their tiles (n, 4, SIDE, SIDE) in [0, 1], RGB not premultiplied, then alpha."""
    return torch.stack([_draw(one) for one in broken]).to(device)


def change(broken: Broken) -> float:
    """How far a broken sprite is from the whole one: the mean absolute difference of premultiplied pixels over the whole one's area."""
    whole = _premultiplied(_tile(broken.sprite))
    return float(
        (_premultiplied(_draw(broken)) - whole).abs().mean() / whole[3].mean().clamp(min=0.01)
    )


def _tile(row: int) -> Tensor:
    return atlas.load().pixels[row].float() / 255


def _draw(broken: Broken) -> Tensor:
    rng = Generator().manual_seed(broken.seed)
    return WAYS[broken.way](_tile(broken.sprite), _tile(broken.other), rng)


def _patchwork(one: Tensor, two: Tensor, rng: Generator) -> Tensor:
    """Smooth patches of two sprites."""
    mix = (4 * _field(rng, 4) + 0.5).clamp(0, 1)
    return one * mix + two * (1 - mix)


def _half(one: Tensor, two: Tensor, rng: Generator) -> Tensor:
    """One side of a straight cut."""
    x, y = torch.meshgrid(torch.linspace(-1, 1, SIDE), torch.linspace(-1, 1, SIDE), indexing="xy")
    angle = 6.2832 * _chance(rng)
    keep = (x * torch.cos(angle) + y * torch.sin(angle) < 0.15 * _chance(rng)).float()
    return torch.cat((one[:3], one[3:] * keep))


def _melted(one: Tensor, two: Tensor, rng: Generator) -> Tensor:
    """Warped and blurred, outline and all."""
    return _straight(F.avg_pool2d(_warped(_premultiplied(one), 0.55, rng)[None], 5, 1, 2)[0])


def _scrambled(one: Tensor, two: Tensor, rng: Generator) -> Tensor:
    """Its nine parts in random order."""
    parts = (
        one.unflatten(1, (3, SIDE // 3))
        .unflatten(3, (3, SIDE // 3))
        .permute(1, 3, 0, 2, 4)
        .flatten(0, 1)
    )  # 9 4 s/3 s/3
    order = torch.randperm(9, generator=rng)
    return parts[order].unflatten(0, (3, 3)).permute(2, 0, 3, 1, 4).flatten(3, 4).flatten(1, 2)


def _mirrored(one: Tensor, two: Tensor, rng: Generator) -> Tensor:
    """One side of a sprite and its mirror image: an animal with two heads, or with none."""
    reach = round(SIDE * (0.5 + 0.12 * float(_chance(rng))))
    side = _premultiplied(
        one if float(_chance(rng)) < 0.7 else one.flip(2)
    )  # most drawings face left: the first has two heads
    x = torch.arange(SIDE)
    near = side * ((reach - x) / 3).clamp(0, 1)
    far = (side.flip(2)) * ((x - (SIDE - 1 - reach)) / 3).clamp(0, 1)
    return _straight(near + far * (1 - near[3:]))


def _blended(one: Tensor, two: Tensor, rng: Generator) -> Tensor:
    """Two sprites, both half transparent, on one another."""
    share = 0.35 + 0.3 * _chance(rng)
    mean = share * _premultiplied(one) + (1 - share) * _premultiplied(two)
    alpha = (1.8 * mean[3:]).clamp(0, 1)
    return torch.cat((_straight(mean)[:3], alpha))


def _missing(one: Tensor, two: Tensor, rng: Generator) -> Tensor:
    """With holes, and parts gone."""
    return torch.cat((one[:3], one[3:] * (6 * (_field(rng, 4) + 0.2)).clamp(0, 1)))


def _doubled(one: Tensor, two: Tensor, rng: Generator) -> Tensor:
    """The sprite over itself, a fifth or more of its size aside."""
    angle, far = 6.2832 * _chance(rng), SIDE * (0.18 + 0.15 * _chance(rng))
    down, across = round(float(far * torch.sin(angle))), round(float(far * torch.cos(angle)))
    front, back = (
        _shifted(_premultiplied(one), sign * down // 2, sign * across // 2) for sign in (1, -1)
    )
    return _straight(front + back * (1 - front[3:]))


def _outline(one: Tensor, two: Tensor, rng: Generator) -> Tensor:
    """The right outline with a wrong inside: its own parts warped, or those of another sprite."""
    source = _premultiplied(one if float(_chance(rng)) < 0.5 else two)
    inside = _warped(source, 0.9, rng)
    around = F.avg_pool2d(inside[None], 31, 1, 15)[0]
    for _ in range(2):  # where there is nothing, what is around it
        around = F.avg_pool2d(around[None], 31, 1, 15)[0]
    filled = inside + (1 - inside[3:]) * torch.cat(
        (_straight(around)[:3], torch.ones_like(around[3:]))
    )
    return torch.cat((F.avg_pool2d(filled[None, :3], 3, 1, 1)[0].clamp(0, 1), one[3:]))


def _blob(one: Tensor, two: Tensor, rng: Generator) -> Tensor:
    """A blob of the sprite's place, size and colours."""
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
SHARES = {
    "mirrored": 3.0,
    "blended": 2.0,
    "outline": 2.0,
    "doubled": 1.5,
}  # how often a way is tried, 1 where it is not named


def _chance(rng: Generator) -> Tensor:
    return torch.rand((), generator=rng)


def _premultiplied(tile: Tensor) -> Tensor:
    return torch.cat((tile[:3] * tile[3:], tile[3:]))


def _straight(tile: Tensor) -> Tensor:
    """The tile, not premultiplied any more."""
    return torch.cat((tile[:3] / tile[3:].clamp(min=1e-3), tile[3:])).clamp(0, 1)


def _shifted(tile: Tensor, down: int, across: int) -> Tensor:
    """The tile moved by so many pixels, nothing where it came from."""
    theta = torch.tensor([[[1.0, 0.0, -2 * across / SIDE], [0.0, 1.0, -2 * down / SIDE]]])
    return F.grid_sample(
        tile[None],
        F.affine_grid(theta, [1, 4, SIDE, SIDE], align_corners=False),
        align_corners=False,
    )[0]


def _warped(tile: Tensor, far: float, rng: Generator) -> Tensor:
    """The tile, its points moved by smooth noise of about ``far`` half sides."""
    line = torch.linspace(-1, 1, SIDE)
    grid = torch.stack(torch.meshgrid(line, line, indexing="xy"), -1)
    grid = grid + far * torch.stack((_field(rng, 5), _field(rng, 5)), -1)
    return F.grid_sample(tile[None], grid[None], align_corners=True)[0]


def _field(rng: torch.Generator, cells: int) -> Tensor:
    """Smooth noise (SIDE, SIDE) of about unit size, ``cells`` bumps to a side."""
    coarse = torch.randn(1, 1, cells, cells, generator=rng)
    return F.interpolate(coarse, (SIDE, SIDE), mode="bicubic", align_corners=True)[0, 0]


def breaking(scene: Scene, rng: random.Random, share: float = 0.6) -> Scene:
    """The scene with some of its objects broken, each with this chance, one at least if there is one."""
    rows = [k for k, item in enumerate(scene.objects) if isinstance(item.sprite, int)]
    if not rows:
        return scene
    chosen = {k for k in rows if rng.random() < share} or {rng.choice(rows)}
    objects = list(scene.objects)
    for k in chosen:
        item = objects[k]
        assert isinstance(item.sprite, int)
        art = one(item.sprite, rng)
        objects[k] = SceneObject(
            art,
            item.x,
            item.y,
            item.size,
            item.angle,
            item.flip,
            None,
            item.group,
            item.depth,
            item.shadow,
        )
    return Scene(tuple(objects), scene.groups, scene.background, None, scene.style)


def one(sprite: int, rng: random.Random) -> Broken:
    """A sprite broken in a way that shows."""
    art = atlas.load().sprites
    for _ in range(TRIES):
        way = rng.choices(list(WAYS), [SHARES.get(way, 1.0) for way in WAYS])[0]
        other = rng.randrange(len(art))
        if (
            way in ("blended", "patchwork") and rng.random() < 0.5
        ):  # with another artist's drawing of the same
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
    """Whose hand a style is: the first word of its name."""
    return style.split("-")[0]
