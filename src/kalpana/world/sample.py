"""Random scenes: first the content, then the layout, so that every relation holds by construction.

MIX favours the properties that models learn last (relations and colour binding). All randomness
comes from the given ``rng``.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

from kalpana.world import atlas
from kalpana.world.defaults import (
    OTHER_STYLE,
    background_for,
    choose_color,
    choose_facing,
    choose_style,
    house_style,
    mirrored,
    sprite_of,
    sprites_for,
)
from kalpana.world.lexicon import Concept, lexicon
from kalpana.world.scene import PLACES, RELATIONS, Background, Group, Scene, SceneObject
from kalpana.world.splits import SPLITS, belongs

MIX = {"place": 0.03, "single": 0.22, "count": 0.20, "relation": 0.38, "pair": 0.17}

Region = tuple[float, float, float, float]  # x0, y0, x1, y1 in the unit square


def sample_scene(
    rng: random.Random, split: str = "train", other_style: float = OTHER_STYLE
) -> Scene:
    """Random scene of a split: "train", "dev", "test" or "unseen".

    Scenes of "unseen" show a combination that the other splits never show. The scene is not in the
    house style with probability ``other_style``. Raises ValueError for an unknown split.
    """
    if split not in SPLITS:
        raise ValueError(f"split {split!r} is not one of {', '.join(SPLITS)}")
    while True:
        scene = _sample(rng, other_style)
        if scene is not None and belongs(scene, split):
            return scene


@dataclass(frozen=True)
class _Vocabulary:
    """The concepts by their use in scenes."""

    core: list[Concept]
    tail: list[Concept]  # all that are not core
    weights: list[float]  # sampling weights of the tail
    supports: list[Concept]
    resters: list[Concept]


@cache
def _vocabulary() -> _Vocabulary:
    concepts = list(lexicon().values())
    core, tail = [c for c in concepts if c.core], [c for c in concepts if not c.core]
    return _Vocabulary(
        core,
        tail,
        [c.weight for c in tail],
        [c for c in core if c.support],
        [c for c in core if c.can_rest],
    )


def _concept(rng: random.Random, tail: float) -> Concept:
    """Random concept: one of the tail with probability ``tail``, else a core class."""
    vocabulary = _vocabulary()
    return (
        rng.choices(vocabulary.tail, vocabulary.weights)[0]
        if vocabulary.tail and rng.random() < tail
        else rng.choice(vocabulary.core)
    )


def _sample(rng: random.Random, other_style: float) -> Scene | None:
    """One attempt at a random scene of any split; None if it is to be rejected."""
    kind = rng.choices(list(MIX), list(MIX.values()))[0]
    if kind == "place":
        return Scene((), (), Background("place", rng.choice(PLACES), rng.randrange(1 << 30)))
    relation = rng.choice(RELATIONS) if kind == "relation" else None
    if kind in ("single", "count"):
        concepts = [_concept(rng, tail=0.3 if kind == "single" else 0.1)]
    elif relation == "on":
        concepts = [rng.choice(_vocabulary().resters), rng.choice(_vocabulary().supports)]
    else:
        concepts = [_concept(rng, tail=0.1), _concept(rng, tail=0.1)]
    if len({concept.id for concept in concepts}) < len(concepts):
        return None
    groups: list[Group] = []
    for concept in concepts:
        color = choose_color(rng, concept.id, 0.8 if kind == "pair" else 0.6)
        several = kind == "relation" and relation != "on" and rng.random() < 0.2
        count = (
            rng.choices(range(2, 9), (20, 20, 18, 13, 11, 9, 9))[0]
            if kind == "count"
            else rng.randint(2, 3)
            if several
            else 1
        )
        size = rng.choice(("small", "large")) if kind == "single" and rng.random() < 0.25 else None
        if color is not None and groups and color == groups[0].color:
            return None
        groups.append(Group(concept.id, count, color, size))
    style = choose_style(rng, groups, other_style)
    if style is None:
        return None
    if kind == "pair" and rng.random() < 0.35:
        groups = [
            Group(g.concept, g.count, g.color, size)
            for g, size in zip(groups, rng.sample(("small", "large"), 2), strict=True)
        ]
    groups = [choose_facing(rng, group, style) for group in groups]
    background = background_for(rng, {group.color for group in groups})
    return _drawn(rng, tuple(groups), relation, style, background)


def scene_of(
    rng: random.Random,
    groups: tuple[Group, ...],
    relation: str | None = None,
    place: str | None = None,
    style: str | None = None,
) -> Scene | None:
    """Random scene of one or two given groups, or None if they cannot be drawn.

    The groups have different concepts. ``place`` None: a random background. ``style`` None: the
    house style. None is returned if no style, or not the given one, draws all groups in their
    colours. The relation "on" needs first an object that can rest, then a support.
    """
    chosen = style or house_style(groups)
    if chosen is None or any(
        sprite_of(group.concept, chosen, group.color) is None for group in groups
    ):
        return None
    unnamed = background_for(rng, {group.color for group in groups})
    background = Background("place", place, unnamed.seed) if place else unnamed
    return _drawn(rng, groups, relation, chosen, background)


def _drawn(
    rng: random.Random,
    groups: tuple[Group, ...],
    relation: str | None,
    style: str,
    background: Background,
) -> Scene:
    """Scene of the groups with a random layout, in the given style and on the given background."""
    sprites = sprites_for(groups, style)
    flips = [mirrored(group, style) for group in groups]
    return Scene(
        tuple(_place(rng, groups, sprites, flips, relation)), groups, background, relation, style
    )


def _place(
    rng: random.Random,
    groups: Sequence[Group],
    sprites: list[int],
    flips: list[bool],
    relation: str | None,
) -> list[SceneObject]:
    """Objects in drawing order, laid out so that the relation holds with a margin."""
    if relation == "on":
        return _rest(rng, groups, sprites, flips)
    if len(groups) == 1:
        return _fill(rng, 0, groups[0], sprites[0], _frame(rng, groups[0]), flips[0], framed=True)
    gap, split = 0.02, rng.uniform(0.42, 0.58)
    share = groups[0].count / (groups[0].count + groups[1].count)
    split += 0.25 * (share - 0.5)
    # Both groups share one band across the axis of the relation, so that the relation is clear.
    low = rng.uniform(0.05, 0.25)
    band = (low, low + 0.7)
    first: Region = (0.03, band[0], split - gap, band[1])
    second: Region = (split + gap, band[0], 0.97, band[1])
    layout = (
        relation
        if relation in ("left of", "right of", "above", "below")
        else rng.choice(("left of", "right of"))
    )
    if relation is None and rng.random() < 0.5:
        layout = rng.choice(("above", "below"))
    if layout in ("right of", "below"):
        first, second = second, first
    if layout in ("above", "below"):
        first, second = (_transpose(first), _transpose(second))
    return [
        item
        for i, region in enumerate((first, second))
        for item in _fill(rng, i, groups[i], sprites[i], region, flips[i])
    ]


def _transpose(region: Region) -> Region:
    """The region with x and y exchanged."""
    x0, y0, x1, y1 = region
    return y0, x0, y1, x1


def _frame(rng: random.Random, group: Group) -> Region:
    """Region of a single group: the whole image, or for one object a square of its named size."""
    if group.count > 1:
        return 0.02, 0.02, 0.98, 0.98
    side = {"small": rng.uniform(0.22, 0.36), "large": rng.uniform(0.88, 0.98)}.get(
        group.size or "", rng.uniform(0.6, 0.8)
    )
    x, y = rng.uniform(0.02, 0.98 - side), rng.uniform(0.02, 0.98 - side)
    return x, y, x + side, y + side


def _fill(
    rng: random.Random,
    index: int,
    group: Group,
    sprite: int,
    region: Region,
    flip: bool,
    framed: bool = False,
) -> list[SceneObject]:
    """The group's objects on a jittered grid of rows inside the region, without overlap.

    A ``framed`` region already has the group's named size. In any other region the named size is
    applied relative to the region.
    """
    x0, y0, x1, y1 = region
    width, height, n = x1 - x0, y1 - y0, group.count
    ideal = (n * height / width) ** 0.5
    rows = min(n, max(1, round(ideal)))
    # Objects in each row: one fixed arrangement for each count, the fuller rows on top.
    counts = [n // rows + (1 if r < n % rows else 0) for r in range(rows)]
    art = atlas.load().sprites[sprite]
    cell_w, cell_h = width / max(counts), height / rows
    fit = min(cell_w / art.width, cell_h / art.height)
    default = rng.uniform(0.74, 0.9) if n > 1 else rng.uniform(0.72, 0.94)
    named = {"small": 0.98 if framed else 0.55, "large": 0.98}
    size = fit * (named[group.size] if group.size and n == 1 else default)
    objects = []
    for r, count in enumerate(counts):
        for k in range(count):
            slack_x = max(0.0, width / count - size * art.width) * 0.35
            slack_y = max(0.0, cell_h - size * art.height) * 0.35
            x = x0 + width * (k + 0.5) / count + rng.uniform(-slack_x, slack_x)
            y = y0 + cell_h * (r + 0.5) + rng.uniform(-slack_y, slack_y)
            objects.append(
                SceneObject(
                    sprite, x, y, size * rng.uniform(0.95, 1.0), 0.0, flip, group.color, index
                )
            )
    return objects


def _rest(
    rng: random.Random, groups: Sequence[Group], sprites: list[int], flips: list[bool]
) -> list[SceneObject]:
    """Layout of the relation "on": the object of groups[0] rests on the support of groups[1].

    Its foot is at the lexicon's seat height, or else at the top of the support's alpha.
    """
    top, base = (atlas.load().sprites[sprite] for sprite in sprites)
    big = rng.uniform(0.56, 0.74) / max(base.width, 0.8 * base.height)
    small = rng.uniform(0.27, 0.38)
    dx = rng.uniform(-0.12, 0.12)  # in sizes of the support
    known = lexicon()[groups[1].concept].seat
    seat = known + rng.uniform(-0.04, 0.04) if known else _surface(sprites[1], dx) + 0.06
    # Height from the bottom of the support to the top of the object on it.
    above = small * top.height + (1 - seat) * big * base.height
    shrink = min(1.0, 0.92 / max(above, big * base.height))
    big, small, above = big * shrink, small * shrink, above * shrink
    base_h, top_h = big * base.height, small * top.height
    x = 0.5 + rng.uniform(-0.12, 0.12)
    y = 0.96 - base_h / 2 - rng.uniform(0, min(0.12, 0.94 - max(above, base_h)))
    foot = y - base_h / 2 + seat * base_h
    return [
        SceneObject(sprites[1], x, y, big, 0.0, flips[1], groups[1].color, 1),
        SceneObject(
            sprites[0], x + dx * big, foot - top_h / 2, small, 0.0, flips[0], groups[0].color, 0
        ),
    ]


def _surface(sprite: int, dx: float) -> float:
    """Height of a sprite's upper edge in one column, 0 the top of its content, 1 the bottom.

    The column lies ``dx`` to the right of the centre, in units of the sprite's longer side.
    """
    art = atlas.load()
    alpha = art.pixels[sprite, 3]
    column = alpha[:, int(atlas.SIDE / 2 + dx * (atlas.SIDE - 2))]
    rows = (column > 128).nonzero()
    first = float(rows[0]) if len(rows) else atlas.SIDE / 2
    height = art.sprites[sprite].height * (atlas.SIDE - 2)
    return (first - (atlas.SIDE - height) / 2) / height
