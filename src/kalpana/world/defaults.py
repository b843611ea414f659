"""Defaults of the world: the value of each visible property that a caption does not state.

A small model renders an unstated property as the mean of its training data. Each unstated property
therefore has one default: the house style, the drawing's own facing, a plain background (most
often), no rotation, a medium size. Any other value occurs in a fixed share of the scenes, and the
caption states it.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace
from functools import cache

from kalpana.world import atlas
from kalpana.world.lexicon import lexicon, sprites_of
from kalpana.world.scene import BACKDROPS, COLORS, DARK_PLACES, LOOKS, PLACES, Background, Group

# The house style of a scene is the first of these that draws every group in its colour.
# The first entry draws all core classes.
STYLE_ORDER = (
    "fluent-emoji-flat",
    "noto",
    "twemoji",
    "fluent-emoji",
    "fluent-3d",
    "noto-v1",
    "streamline-emojis",
)
OTHER_STYLE = 0.25  # share of scenes not in the house style; their captions name the style
# Share of groups with a stated facing, half of them mirrored, where the drawings have a facing.
FACING = 0.4
BACKGROUNDS = {"flat": 0.48, "gradient": 0.22, "place": 0.30}
# Share of the short and natural captions of a place that name it. Of the captions that name no
# place, nine in ten have a plain background.
PLACE_SAID = 0.7
# Default look and skin of hands and puppets, and the share of any other, which the caption states.
LOOK, OTHER_LOOK = "flat", 0.4
SKIN, OTHER_SKIN = "yellow", 0.5
CLASHES = {  # object colour: backgrounds on which it is hard to see
    "white": {"white"},
    "black": {"black", "dark blue"},
    "pink": {"pink"},
    "yellow": {"yellow"},
    "blue": {"dark blue"},
}


def sprite_of(concept: str, style: str, color: str | None = None) -> int | None:
    """Atlas row that draws a concept in a style, or None; recolourable if ``color`` is given."""
    rows = sprites_of(concept).get(style, ())
    return next((row for row in rows if color is None or atlas.load().sprites[row].recolor), None)


def sprites_for(groups: Sequence[Group], style: str) -> list[int]:
    """The atlas row of each group in a style; a group that the style does not draw is left out."""
    rows = (sprite_of(group.concept, style, group.color) for group in groups)
    return [row for row in rows if row is not None]


def styles_of(groups: Sequence[Group]) -> tuple[str, ...]:
    """Styles that draw every group in its colour and with its facing, the house style first."""
    return tuple(style for style in STYLE_ORDER if all(_draws(style, group) for group in groups))


def _draws(style: str, group: Group) -> bool:
    """Whether a style draws the group in its colour and with its facing."""
    drawn = sprite_of(group.concept, style, group.color) is not None
    return drawn and (group.facing is None or own_facing(group.concept, style) is not None)


def house_style(groups: Sequence[Group]) -> str | None:
    """Default style of these groups, for a caption that names no style; None if no style fits."""
    return next(iter(styles_of(groups)), None)


def choose_style(
    rng: random.Random, groups: Sequence[Group], other: float = OTHER_STYLE
) -> str | None:
    """Random style of a scene: the house style, or another with probability ``other``.

    None if no style draws all groups in their colours.
    """
    styles = styles_of(groups)
    if len(styles) > 1 and rng.random() < other:
        return rng.choice(styles[1:])
    return styles[0] if styles else None


def choose_facing(rng: random.Random, group: Group, style: str) -> Group:
    """The group, with a random stated facing in a share FACING of the cases.

    Unchanged if the style's drawing of it has no facing.
    """
    if own_facing(group.concept, style) and rng.random() < FACING:
        return replace(group, facing=rng.choice(("left", "right")))
    return group


def own_facing(concept: str, style: str) -> str | None:
    """Facing of a concept's drawing in a style: "left" or "right".

    None if the drawing faces the viewer or its facing has not been checked.
    """
    known = lexicon()[concept]
    rows = sprites_of(concept).get(style, ())
    return known.facing if rows and atlas.load().sprites[rows[0]].id not in known.front else None


def mirrored(group: Group, style: str) -> bool:
    """Whether the drawing must be mirrored to have the facing that the group states."""
    return group.facing is not None and group.facing != own_facing(group.concept, style)


def choose_look(rng: random.Random) -> str:
    """Random look of a figure: LOOK, or another in a share OTHER_LOOK, which the caption states."""
    return (
        rng.choice([look for look in LOOKS if look != LOOK]) if rng.random() < OTHER_LOOK else LOOK
    )


def choose_skin(rng: random.Random, skins: Sequence[str]) -> str:
    """Random skin of a figure: SKIN, or another in a share OTHER_SKIN, which the caption states."""
    return (
        rng.choice([skin for skin in skins if skin != SKIN]) if rng.random() < OTHER_SKIN else SKIN
    )


def background_kind(rng: random.Random) -> str:
    """Random kind of background, "flat", "gradient" or "place", with the shares BACKGROUNDS."""
    return rng.choices(list(BACKGROUNDS), list(BACKGROUNDS.values()))[0]


def background_for(rng: random.Random, colors: set[str | None]) -> Background:
    """Random background on which objects of these colours are visible; None: own colours."""
    kind = background_kind(rng)
    if kind == "place":
        hidden = DARK_PLACES if "black" in colors else ()
        return Background(
            kind, rng.choice([p for p in PLACES if p not in hidden]), rng.randrange(1 << 30)
        )
    clashing = set().union(*(CLASHES.get(color, set()) for color in colors if color))
    return Background(
        kind, rng.choice([b for b in BACKDROPS if b not in clashing]), rng.randrange(1 << 30)
    )


def background_said(rng: random.Random, background: Background, form: str) -> bool:
    """Whether a caption of this form names the background.

    A dense caption always does; the other forms name a place more often than a plain colour.
    """
    if form == "dense":
        return True
    return rng.random() < (
        PLACE_SAID if background.kind == "place" else 0.25 if form == "short" else 0.4
    )


def style_said(rng: random.Random, groups: Sequence[Group], style: str | None) -> bool:
    """Whether a short or natural caption names the style.

    Always if it is not the house style, else with probability 0.1; never if ``style`` is None.
    """
    return style is not None and (style != house_style(groups) or rng.random() < 0.1)


def look_said(rng: random.Random, look: str) -> bool:
    """Whether a short or natural caption names the look of a figure.

    Always if it is not LOOK, else with probability 0.1.
    """
    return look != LOOK or rng.random() < 0.1


def skin_said(rng: random.Random, skin: str) -> bool:
    """Whether a short or natural caption names the skin of a figure.

    Always if it is not SKIN, else with probability 0.25.
    """
    return skin != SKIN or rng.random() < 0.25


def choose_color(rng: random.Random, concept: str, share: float) -> str | None:
    """Random colour of COLORS with probability ``share``, else None.

    None if no style can recolour the concept.
    """
    return rng.choice(COLORS) if _recolorable(concept) and rng.random() < share else None


@cache
def _recolorable(concept: str) -> bool:
    return any(sprite_of(concept, style, COLORS[0]) is not None for style in STYLE_ORDER)
