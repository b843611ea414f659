"""Random scenes of one puppet, or of two side by side."""

from __future__ import annotations

import random
import zlib
from collections.abc import Sequence
from functools import cache

import numpy as np

from kalpana.world import figures, places
from kalpana.world.defaults import FACING as FACING_SHARE
from kalpana.world.defaults import background_kind, choose_look, choose_skin
from kalpana.world.figures import RGB, SKINS
from kalpana.world.kinds.puppets.drawing import figure
from kalpana.world.kinds.puppets.skeleton import FACING, POSES
from kalpana.world.recolor import PAINTS, lab
from kalpana.world.scene import BACKDROPS, COLORS, Background, Group, Puppet, Scene, SceneObject
from kalpana.world.scene import PLACES as PLACE_NAMES

MARGIN = 0.02  # of the picture's side
SIZES = (0.55, 0.95)  # longer side of a puppet, as a share of the picture's side
PLACE_COLORS: dict[str, tuple[RGB, ...]] = {  # main colours behind a puppet
    "meadow": ((0.66, 0.84, 0.98), (0.45, 0.72, 0.33)),
    "beach": ((0.69, 0.87, 0.99), (0.22, 0.62, 0.77), (0.92, 0.82, 0.60)),
    "mountains": ((0.60, 0.38, 0.44), (0.22, 0.15, 0.30)),
    "room": ((0.86, 0.85, 0.80), (0.62, 0.43, 0.27)),
    "night": ((0.06, 0.09, 0.22), (0.06, 0.11, 0.13)),
    "garden": ((0.21, 0.45, 0.22), (0.52, 0.76, 0.38)),
    "city": ((0.24, 0.17, 0.38), (0.10, 0.10, 0.22)),
    "lounge": ((0.90, 0.89, 0.86), (0.30, 0.50, 0.55), (0.62, 0.36, 0.34), (0.70, 0.56, 0.42)),
}
_CONTRAST, _SKIN_CONTRAST = 36, 20  # least CIELAB distances, of clothes and of skin


def split_of(pose: str, shirt: str, trousers: str) -> str:
    """The split of a pose in these clothes: 80 % train, 10 % dev, 10 % test, by a hash."""
    slot = zlib.crc32(f"{pose}/{shirt}/{trousers}".encode()) % 10
    return "dev" if slot == 0 else "test" if slot == 1 else "train"


def sample(rng: random.Random, split: str = "train") -> Scene:
    """Random scene of one puppet (80 %), or of two side by side.

    Each combination of pose and clothes belongs to one split; "unseen" stands for test.
    """
    wanted, count = "test" if split == "unseen" else split, 1 if rng.random() < 0.8 else 2
    while True:
        scene = _sample(rng, wanted, count)
        if scene is not None:
            return scene


def _sample(rng: random.Random, split: str, count: int) -> Scene | None:
    kind = background_kind(rng)
    name = rng.choice(PLACE_NAMES if kind == "place" else BACKDROPS)
    background = Background(kind, name, rng.randrange(1 << 30))
    look = choose_look(rng)
    cast = [one(rng, split, look) for _ in range(count)]
    if not all(stands_out(puppet, background) for puppet in cast):
        return None
    if count == 1:
        group = _turned(rng, cast[0])
        return Scene((_alone(rng, cast[0], group, kind == "place"),), (group,), background)
    if len({(puppet.pose, puppet.shirt, puppet.trousers) for puppet in cast}) == 1:
        return None
    first = rng.randrange(2)  # index, from the left, of the puppet that the caption names first
    objects = _side_by_side(rng, cast, (first, 1 - first))
    groups = tuple(Group("puppet", color=puppet.shirt) for puppet in (cast[first], cast[1 - first]))
    relation = "right of" if first else "left of"
    return Scene(objects, groups, background, relation) if objects else None


def one(rng: random.Random, split: str, look: str) -> Puppet:
    """Random puppet of a split in a look; its skin has _SKIN_CONTRAST to its clothes."""
    while True:
        pose = rng.choice(tuple(POSES))
        skin = choose_skin(rng, tuple(SKINS))
        shirt, trousers = rng.sample(COLORS, 2)
        if (
            split_of(pose, shirt, trousers) == split
            and min(_apart(SKINS[skin], PAINTS[c][:3]) for c in (shirt, trousers)) > _SKIN_CONTRAST
        ):
            return Puppet(pose, skin, shirt, trousers, look, rng.randrange(1 << 30))


def stands_out(puppet: Puppet, background: Background) -> bool:
    """Whether clothes and skin have enough contrast to the background."""
    if background.kind == "place":
        behind = PLACE_COLORS[background.name]
    else:
        r, g, b = places.COLORS[background.name]
        fades = (0.0, 0.3, 0.6) if background.kind == "gradient" else (0.0,)
        behind = tuple((r + t * (0.97 - r), g + t * (0.97 - g), b + t * (0.97 - b)) for t in fades)
    clothes = [PAINTS[name][:3] for name in (puppet.shirt, puppet.trousers)]
    return all(
        _apart(SKINS[puppet.skin], color) > _SKIN_CONTRAST
        and all(_apart(cloth, color) > _CONTRAST for cloth in clothes)
        for color in behind
    )


@cache
def _apart(one: RGB, two: RGB) -> float:
    """Distance of two sRGB colours in CIELAB."""
    return float(np.linalg.norm(lab(np.array(one)) - lab(np.array(two))))


def _turned(rng: random.Random, puppet: Puppet) -> Group:
    """The group of a single puppet.

    FACING_SHARE of the puppets in a side view state their facing; half of these face left.
    """
    turned = puppet.pose in FACING and rng.random() < FACING_SHARE
    facing = rng.choice(("left", "right")) if turned else None
    return Group("puppet", color=puppet.shirt, facing=facing)


def _alone(rng: random.Random, puppet: Puppet, group: Group, grounded: bool) -> SceneObject:
    """The puppet at a random position inside the picture; ``grounded``: near its bottom edge."""
    width, height = figures.extent(figure(puppet))
    size = min(rng.uniform(*SIZES), (1 - 2 * MARGIN) / max(width, height))
    half_w, half_h = size * width / 2, size * height / 2
    low = 1 - MARGIN - half_h
    high = max(MARGIN + half_h, low - 0.12) if grounded else MARGIN + half_h
    x, y = rng.uniform(MARGIN + half_w, 1 - MARGIN - half_w), rng.uniform(high, low)
    return SceneObject(puppet, x, y, size, 0.0, group.facing == "left")


def _side_by_side(
    rng: random.Random, cast: Sequence[Puppet], groups: Sequence[int]
) -> tuple[SceneObject, ...]:
    """Two puppets on one ground, about equally tall when upright; empty if they do not fit."""
    tall = rng.uniform(0.62, 0.95) / 2.9
    sizes = [
        min(max(tall / figures.scale(figure(puppet))[2], SIZES[0]), SIZES[1]) for puppet in cast
    ]
    extents = [figures.extent(figure(puppet)) for puppet in cast]
    boxes = [(size * w, size * h) for size, (w, h) in zip(sizes, extents, strict=True)]
    spare = 1 - 2 * MARGIN - sum(w for w, _ in boxes)
    if spare < 0.04:
        return ()
    gaps = sorted(rng.uniform(0, spare - 0.04) for _ in boxes)
    ground = rng.uniform(max(h for _, h in boxes) + MARGIN, 1 - MARGIN)
    offsets = (gaps[0], gaps[1] - gaps[0] + 0.04)
    objects, left = [], MARGIN
    for puppet, size, (w, h), gap, group in zip(cast, sizes, boxes, offsets, groups, strict=True):
        x, y = left + gap + w / 2, ground - h / 2
        objects.append(SceneObject(puppet, x, y, size, 0.0, False, None, group))
        left += gap + w
    return tuple(objects)
