"""Depth scenes: two objects, one that partly occludes the other or one near and one far.

Objects cast soft shadows. The nearer object is larger, lower in the picture and drawn later. The
scene states the depths, the order of occlusion and the full box of an occluded object.
"""

from __future__ import annotations

import random
from functools import cache

from kalpana.world import atlas, sprites
from kalpana.world.defaults import (
    background_for,
    choose_color,
    choose_facing,
    choose_style,
    mirrored,
    sprites_for,
)
from kalpana.world.lexicon import Concept, lexicon
from kalpana.world.scene import DEPTH_RELATIONS, Group, Scene, SceneObject
from kalpana.world.splits import belongs

HIDDEN = (0.12, 0.45)  # share of the box behind that the box in front may cover
HORIZON = 0.42  # y of the ground at infinite distance


def sample(rng: random.Random, split: str = "train") -> Scene:
    """Random scene of two objects of core classes in one style; ``groups[0]`` is the nearer one."""
    while True:
        scene = _sample(rng)
        if scene is not None and belongs(scene, split):
            return scene


@cache
def _core() -> tuple[Concept, ...]:
    return tuple(concept for concept in lexicon().values() if concept.core)


def _sample(rng: random.Random) -> Scene | None:
    relation = rng.choice(DEPTH_RELATIONS)
    groups = [
        Group(concept.id, color=choose_color(rng, concept.id, 0.6))
        for concept in rng.sample(_core(), 2)
    ]
    if groups[0].color is not None and groups[0].color == groups[1].color:
        return None
    style = choose_style(rng, groups)
    if style is None:
        return None
    groups = [choose_facing(rng, group, style) for group in groups]
    rows = sprites_for(groups, style)
    near, far = (_overlapping if relation == "in front of" else _apart)(rng)
    objects = []
    for index, (x, foot, size, depth) in ((1, far), (0, near)):
        sprite, group = rows[index], groups[index]
        y = foot - size * atlas.load().sprites[sprite].height / 2
        flip = mirrored(group, style)
        objects.append(
            SceneObject(sprite, x, y, size, 0.0, flip, group.color, index, depth, shadow=True)
        )
    if not all(_inside(item) for item in objects):
        return None
    covered = sprites.covered(sprites.box(objects[0]), sprites.box(objects[1]))
    low, high = HIDDEN if relation == "in front of" else (0.0, 0.0)
    if not low <= covered <= high:
        return None
    background = background_for(rng, {group.color for group in groups})
    return Scene(tuple(objects), tuple(groups), background, relation, style)


Spot = tuple[float, float, float, float]  # x, foot, size, depth


def _overlapping(rng: random.Random) -> tuple[Spot, Spot]:
    """Random spots of the nearer object and of the one behind it.

    The overlap is left to chance: the caller rejects scenes whose overlap is outside HIDDEN.
    """
    foot = rng.uniform(0.66, 0.8)
    back = (rng.uniform(0.35, 0.65), foot, rng.uniform(0.5, 0.68), rng.uniform(0.55, 0.7))
    front = (
        back[0] + rng.uniform(-0.35, 0.35),
        foot + rng.uniform(0.08, 0.18),
        rng.uniform(0.38, 0.55),
        rng.uniform(0.2, 0.4),
    )
    return front, back


def _apart(rng: random.Random) -> tuple[Spot, Spot]:
    """Random spots of a near and a far object on one ground plane in perspective.

    Size and distance below the horizon are both proportional to 1 / z.
    """
    z, ground = rng.uniform(2.2, 3.2), rng.uniform(0.44, 0.5)
    side = rng.choice((-1, 1))
    near = (0.5 + side * rng.uniform(0.12, 0.24), HORIZON + ground, rng.uniform(0.5, 0.62), 0.25)
    far = (
        0.5 - side * rng.uniform(0.18, 0.36),
        HORIZON + ground / z,
        rng.uniform(0.5, 0.62) / z,
        0.25 * z,
    )
    return near, far


def _inside(item: SceneObject) -> bool:
    x0, y0, x1, y1 = sprites.box(item)
    return min(x0, y0) >= 0.01 and max(x1, y1) <= 0.99
