"""Many unlike things in one picture, each in a place of its own: what no caption says, but a verifier learns much from at a time.

A scene of a caption has one thing or two; here are four to sixteen, of classes drawn evenly. No generator sees any, so
the combinations that are held out from generators are shown too: a verifier has to know them.
"""

from __future__ import annotations

import random
from functools import cache

from kalpana.world import atlas
from kalpana.world.lexicon import Concept, lexicon, sprites_of
from kalpana.world.sample import FLIPS, background_for
from kalpana.world.scene import COLORS, STYLES, Group, Scene, Thing

SIDES = {2: 0.4, 3: 0.45, 4: 0.15}  # places along each side, and how often
TAIL = 0.12  # share of things that are no core class
EMPTY = 0.1  # of places


@cache
def _drawn(style: str) -> tuple[tuple[Concept, ...], tuple[Concept, ...]]:
    """The core classes that a style draws, and the other concepts."""
    drawn = [concept for concept in lexicon().values() if style in sprites_of(concept.id)]
    return tuple(concept for concept in drawn if concept.core), tuple(concept for concept in drawn if not concept.core)


def sample(rng: random.Random) -> Scene:
    """A scene of unlike things in one style, on a loose square grid, some of them in one of the ten colours."""
    style, side = rng.choice(STYLES), rng.choices(list(SIDES), list(SIDES.values()))[0]
    core, tail = _drawn(style)
    art, things, groups = atlas.load().sprites, list[Thing](), list[Group]()
    for place in range(side * side):
        if rng.random() < EMPTY and place:
            continue
        concept = rng.choice(tail if rng.random() < TAIL else core)
        rows = sprites_of(concept.id)[style]
        paintable = [row for row in rows if art[row].recolor]
        color = rng.choice(COLORS) if paintable and rng.random() < 0.6 else None
        row = rng.choice(paintable if color else rows)
        size = rng.uniform(0.55, 1.05) / side
        slack = max(0.0, 1 / side - size) / 2
        x, y = ((k + 0.5) / side + rng.uniform(-slack, slack) for k in (place % side, place // side))
        angle = rng.uniform(-10, 10) if rng.random() < 0.25 else 0.0
        flip = concept.group.startswith(FLIPS) and rng.random() < 0.5
        things.append(Thing(row, x, y, size, angle, flip, color, len(groups)))
        groups.append(Group(concept.id, color=color))
    rng.shuffle(things)  # which of two that touch is in front
    return Scene(tuple(things), tuple(groups), background_for(rng, {group.color for group in groups}), None, style)
