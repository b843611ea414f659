"""Multi-object scenes without captions, for training verifiers.

Captioned scenes have one or two objects. These have up to 25 objects (one for each cell of a grid)
of uniformly chosen classes, or up to four hands or puppets, so that a verifier sees many examples
in one picture. Generators never train on them. They therefore include the combinations that are
held out from generators, which a verifier must recognise.
"""

from __future__ import annotations

import random
from dataclasses import replace
from functools import cache

from kalpana.world import atlas
from kalpana.world.defaults import (
    STYLE_ORDER,
    background_for,
    background_kind,
    choose_color,
    choose_style,
)
from kalpana.world.kinds import hands, puppets
from kalpana.world.lexicon import Concept, lexicon, sprites_of
from kalpana.world.sample import scene_of
from kalpana.world.scene import (
    BACKDROPS,
    COLORS,
    LOOKS,
    PLACES,
    RELATIONS,
    STYLES,
    Art,
    Background,
    Group,
    Scene,
    SceneObject,
)

SIDES = {1: 0.14, 2: 0.34, 3: 0.34, 4: 0.13, 5: 0.05}  # grid cells a side: probability
HOUSE = 0.4  # share in the house style, the style of most pictures that a verifier will see
TAIL = 0.12  # share of objects that are not of a core class
EMPTY = 0.1  # share of cells without an object
ASKEW = 0.2  # share of objects at any angle, as in videos
PAINTED = 0.75  # share of recolourable objects that are recoloured
FLAWED = 0.4  # share of hands with a flaw


@cache
def _drawn(style: str) -> tuple[tuple[Concept, ...], tuple[Concept, ...]]:
    """The core classes that a style has sprites of, and the other such concepts."""
    drawn = [concept for concept in lexicon().values() if style in sprites_of(concept.id)]
    core = tuple(concept for concept in drawn if concept.core)
    return core, tuple(concept for concept in drawn if not concept.core)


def sample(rng: random.Random, side: int = 0) -> Scene:
    """Random scene of objects of one style on a jittered ``side`` x ``side`` grid.

    ``side`` 0 chooses 1 to 5 (see SIDES). Some objects are recoloured to one of the ten colours.
    """
    style, side = _style(rng), side or rng.choices(list(SIDES), list(SIDES.values()))[0]
    core, tail = _drawn(style)
    art, objects, groups = atlas.load().sprites, list[SceneObject](), list[Group]()
    for cell in range(side * side):
        if rng.random() < EMPTY and cell:
            continue
        concept = rng.choice(tail if rng.random() < TAIL else core)
        rows = sprites_of(concept.id)[style]
        paintable = [row for row in rows if art[row].recolor]
        color = rng.choice(COLORS) if paintable and rng.random() < PAINTED else None
        row = rng.choice(paintable if color else rows)
        turned = rng.random()
        if turned < ASKEW:
            angle = rng.uniform(-180, 180)
        elif turned < ASKEW + 0.25:
            angle = rng.uniform(-10, 10)
        else:
            angle = 0.0
        share, flip = rng.uniform(0.55, 1.05), rng.random() < 0.5
        objects.append(_put(rng, row, cell, side, share, angle, flip, color, len(groups)))
        groups.append(Group(concept.id, color=color))
    rng.shuffle(objects)  # random occlusion order
    background = background_for(rng, {group.color for group in groups})
    return Scene(tuple(objects), tuple(groups), background, None, style)


def _style(rng: random.Random) -> str:
    return STYLE_ORDER[0] if rng.random() < HOUSE else rng.choice(STYLES)


def sample_rows(rng: random.Random) -> Scene:
    """Random scene of 1 to 8 objects of one core class, or of 1 to 5 of each of two, for counting.

    Two classes are side by side or one above the other.
    """
    while True:
        concepts = rng.sample([c for c in lexicon().values() if c.core], rng.choice((1, 1, 2)))
        most = 8 if len(concepts) == 1 else 5
        groups = tuple(
            Group(c.id, rng.randint(1, most), choose_color(rng, c.id, PAINTED)) for c in concepts
        )
        style = choose_style(rng, groups, 1 - HOUSE)
        if not style:
            continue
        relation = rng.choice(RELATIONS[:4]) if len(groups) == 2 else None
        scene = scene_of(rng, groups, relation, style=style)
        if scene is not None:
            return scene


def sample_hands(rng: random.Random) -> Scene:
    """Random scene of one or four hands of one skin and look, some of them flawed."""
    side = rng.choice((1, 2))
    cast = [
        hands.one_flawed(rng) if rng.random() < FLAWED else hands.one(rng)
        for _ in range(side * side)
    ]
    cast = [replace(hand, skin=cast[0].skin, look=cast[0].look) for hand in cast]
    turns = [rng.uniform(-15, 15) if rng.random() < 0.6 else 0.0 for _ in cast]
    objects = [
        _put(rng, hand, k, side, rng.uniform(0.7, 1.0), turns[k], rng.random() < 0.5, None, k)
        for k, hand in enumerate(cast)
    ]
    return Scene(tuple(objects), (Group("hand"),) * len(cast), hands.background(rng, cast[0]))


def sample_figures(rng: random.Random) -> Scene:
    """Random scene of one to four puppets in one look, each with its own clothes and pose."""
    side, look = rng.choice((1, 2)), rng.choice(LOOKS)
    kind = background_kind(rng)
    background = Background(
        kind, rng.choice(PLACES if kind == "place" else BACKDROPS), rng.randrange(1 << 30)
    )
    tries = (puppets.one(rng, "train", look) for _ in range(12 * side * side))
    cast = [puppet for puppet in tries if puppets.stands_out(puppet, background)][: side * side]
    objects = [
        _put(rng, puppet, k, side, rng.uniform(0.8, 1.0), 0.0, rng.random() < 0.5, None, k)
        for k, puppet in enumerate(cast)
    ]
    return Scene(
        tuple(objects), tuple(Group("puppet", color=puppet.shirt) for puppet in cast), background
    )


def _put(
    rng: random.Random,
    art: Art,
    cell: int,
    side: int,
    share: float,
    angle: float,
    flip: bool,
    color: str | None,
    group: int,
) -> SceneObject:
    """The object at a random position in its cell; ``share``: its longer side over the cell's."""
    slack = max(0.0, 1 - share) / 2
    x, y = ((k + 0.5 + rng.uniform(-slack, slack)) / side for k in (cell % side, cell // side))
    return SceneObject(art, x, y, share / side, angle, flip, color, group)
