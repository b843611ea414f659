"""Many unlike things in one picture, each in a place of its own: what no caption says, but a verifier learns much from at a time.

A scene of a caption has one thing or two; here are up to sixteen, of classes drawn evenly, or up to four hands or figures. No generator
sees any, so the combinations that are held out from generators are shown too: a verifier has to know them.
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

SIDES = {1: 0.14, 2: 0.34, 3: 0.34, 4: 0.13, 5: 0.05}  # places along each side, and how often
HOUSE = 0.4  # share in the house style, which most pictures that a verifier will see are in
TAIL = 0.12  # share of things that are no core class
EMPTY = 0.1  # of places
ASKEW = 0.2  # of things: turned to stand anyhow, as clips have them
PAINTED = 0.75  # of what can be
FLAWED = 0.4  # of hands


@cache
def _drawn(style: str) -> tuple[tuple[Concept, ...], tuple[Concept, ...]]:
    """The core classes that a style draws, and the other concepts."""
    drawn = [concept for concept in lexicon().values() if style in sprites_of(concept.id)]
    return tuple(concept for concept in drawn if concept.core), tuple(
        concept for concept in drawn if not concept.core
    )


def sample(rng: random.Random, side: int = 0) -> Scene:
    """A scene of unlike things in one style, on a loose square grid of ``side`` places along each side, any number of them by
    default; some of the things are in one of the ten colours."""
    style, side = _style(rng), side or rng.choices(list(SIDES), list(SIDES.values()))[0]
    core, tail = _drawn(style)
    art, objects, groups = atlas.load().sprites, list[SceneObject](), list[Group]()
    for place in range(side * side):
        if rng.random() < EMPTY and place:
            continue
        concept = rng.choice(tail if rng.random() < TAIL else core)
        rows = sprites_of(concept.id)[style]
        paintable = [row for row in rows if art[row].recolor]
        color = rng.choice(COLORS) if paintable and rng.random() < PAINTED else None
        row = rng.choice(paintable if color else rows)
        turned = rng.random()
        angle = (
            rng.uniform(-180, 180)
            if turned < ASKEW
            else rng.uniform(-10, 10)
            if turned < ASKEW + 0.25
            else 0.0
        )
        objects.append(
            _put(
                rng,
                row,
                place,
                side,
                rng.uniform(0.55, 1.05),
                angle,
                rng.random() < 0.5,
                color,
                len(groups),
            )
        )
        groups.append(Group(concept.id, color=color))
    rng.shuffle(objects)  # which of two that touch is in front
    return Scene(
        tuple(objects),
        tuple(groups),
        background_for(rng, {group.color for group in groups}),
        None,
        style,
    )


def _style(rng: random.Random) -> str:
    return STYLE_ORDER[0] if rng.random() < HOUSE else rng.choice(STYLES)


def sample_rows(rng: random.Random) -> Scene:
    """One to eight of one core class, or of two, side by side or one above the other: counts, small objects too."""
    while True:
        concepts = rng.sample([c for c in lexicon().values() if c.core], rng.choice((1, 1, 2)))
        most = 8 if len(concepts) == 1 else 5
        groups = tuple(
            Group(c.id, rng.randint(1, most), choose_color(rng, c.id, PAINTED)) for c in concepts
        )
        style = choose_style(rng, groups, 1 - HOUSE)
        scene = (
            scene_of(
                rng, groups, rng.choice(RELATIONS[:4]) if len(groups) == 2 else None, style=style
            )
            if style
            else None
        )
        if scene is not None:
            return scene


def sample_hands(rng: random.Random) -> Scene:
    """Up to four hands in one skin and look, some of them malformed."""
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
    """Up to four figures in unlike clothes and poses."""
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
    place: int,
    side: int,
    share: float,
    angle: float,
    flip: bool,
    color: str | None,
    group: int,
) -> SceneObject:
    """The thing somewhere in its place, of whose side its longer side has this share."""
    slack = max(0.0, 1 - share) / 2
    x, y = ((k + 0.5 + rng.uniform(-slack, slack)) / side for k in (place % side, place // side))
    return SceneObject(art, x, y, share / side, angle, flip, color, group)
