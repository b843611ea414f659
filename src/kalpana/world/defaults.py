"""Defaults of the world: the value of every visible property that a caption leaves unsaid.

A small model answers an unsaid property with the mean of what it was shown. So whatever a caption does not name has one usual
value: the house style, the drawing's own facing, most often a plain background, no rotation, a medium size. Any other value is
drawn in a fixed share of the scenes and always said.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace
from functools import cache

from kalpana.world import atlas
from kalpana.world.lexicon import lexicon, sprites_of
from kalpana.world.scene import BACKDROPS, COLORS, DARK_PLACES, LOOKS, PLACES, Background, Group

# The house style is the first of these that draws every group of a scene in its colour; the first one draws all core classes.
STYLE_ORDER = (
    "fluent-emoji-flat",
    "noto",
    "twemoji",
    "fluent-emoji",
    "fluent-3d",
    "noto-v1",
    "streamline-emojis",
)
OTHER_STYLE = 0.25  # share of scenes in another style than the house style; their captions name it
FACING = 0.25  # share of groups whose facing is said, half of them mirrored, where the drawings have a facing
BACKGROUNDS = {"flat": 0.48, "gradient": 0.22, "place": 0.30}
PLACE_SAID = 0.7  # share of short and natural captions that name the place; of those that name none, nine in ten are plain
LOOK, OTHER_LOOK = "flat", 0.4  # of hands and puppets; another look is said
SKIN, OTHER_SKIN = "yellow", 0.5  # of hands and puppets; another skin is said
CLASHES = {
    "white": {"white"},
    "black": {"black", "dark blue"},
    "pink": {"pink"},
    "yellow": {"yellow"},
    "blue": {"dark blue"},
}


def sprite_of(concept: str, style: str, color: str | None = None) -> int | None:
    """The atlas row that draws a concept in a style, recolourable where a colour is asked for; None if there is none."""
    rows = sprites_of(concept).get(style, ())
    return next((row for row in rows if color is None or atlas.load().sprites[row].recolor), None)


def styles_of(groups: Sequence[Group]) -> tuple[str, ...]:
    """The styles that draw every group in its colour and with its facing, the house style first."""
    return tuple(style for style in STYLE_ORDER if all(_draws(style, group) for group in groups))


def _draws(style: str, group: Group) -> bool:
    drawn = sprite_of(group.concept, style, group.color) is not None
    return drawn and (group.facing is None or own_facing(group.concept, style) is not None)


def house_style(groups: Sequence[Group]) -> str | None:
    """The style that a caption of these groups means when it names none."""
    return next(iter(styles_of(groups)), None)


def choose_style(
    rng: random.Random, groups: Sequence[Group], other: float = OTHER_STYLE
) -> str | None:
    """The house style, or with chance ``other`` another one; None where no style draws all groups in their colours."""
    styles = styles_of(groups)
    if len(styles) > 1 and rng.random() < other:
        return rng.choice(styles[1:])
    return styles[0] if styles else None


def choose_facing(rng: random.Random, group: Group, style: str) -> Group:
    """The group, with a facing to be said in a share of the cases, where the style's drawing of it has one."""
    if own_facing(group.concept, style) and rng.random() < FACING:
        return replace(group, facing=rng.choice(("left", "right")))
    return group


def own_facing(concept: str, style: str) -> str | None:
    """Where the drawing of a concept in a style faces, "left" or "right"; None where it faces the viewer, or nobody checked."""
    known = lexicon()[concept]
    rows = sprites_of(concept).get(style, ())
    return known.facing if rows and atlas.load().sprites[rows[0]].id not in known.front else None


def mirrored(group: Group, style: str) -> bool:
    """Whether the drawing must be mirrored to face as the group says."""
    return group.facing is not None and group.facing != own_facing(group.concept, style)


def choose_look(rng: random.Random) -> str:
    """How a figure is drawn: the usual look, or another one, which its caption says."""
    return (
        rng.choice([look for look in LOOKS if look != LOOK]) if rng.random() < OTHER_LOOK else LOOK
    )


def choose_skin(rng: random.Random, skins: Sequence[str]) -> str:
    """The skin of a figure: the usual one, or another one, which its caption says."""
    return (
        rng.choice([skin for skin in skins if skin != SKIN]) if rng.random() < OTHER_SKIN else SKIN
    )


def background_kind(rng: random.Random) -> str:
    """ "flat", "gradient" or "place", in their shares."""
    return rng.choices(list(BACKGROUNDS), list(BACKGROUNDS.values()))[0]


def background_for(rng: random.Random, colors: set[str | None]) -> Background:
    """A background against which objects of these colours can be seen."""
    kind = background_kind(rng)
    if kind == "place":
        hidden = DARK_PLACES if "black" in colors else ()
        return Background(
            kind, rng.choice([p for p in PLACES if p not in hidden]), rng.randrange(1 << 30)
        )
    bad = set().union(*(CLASHES.get(color, set()) for color in colors if color))
    return Background(
        kind, rng.choice([b for b in BACKDROPS if b not in bad]), rng.randrange(1 << 30)
    )


def background_said(rng: random.Random, background: Background, form: str) -> bool:
    """Whether a caption of this form names the background: a dense one always, others a place more often than a plain colour."""
    if form == "dense":
        return True
    return rng.random() < (
        PLACE_SAID if background.kind == "place" else 0.25 if form == "short" else 0.4
    )


def style_said(rng: random.Random, groups: Sequence[Group], style: str | None) -> bool:
    """Whether a short or natural caption names the style: always if it is not the house style, else now and then."""
    return style is not None and (style != house_style(groups) or rng.random() < 0.1)


def look_said(rng: random.Random, look: str) -> bool:
    """Whether a short or natural caption names the look of a figure: always if it is not the usual one, else now and then."""
    return look != LOOK or rng.random() < 0.1


def skin_said(rng: random.Random, skin: str) -> bool:
    """Whether a short or natural caption names the skin of a figure: always if it is not the usual one, else now and then."""
    return skin != SKIN or rng.random() < 0.25


def choose_color(rng: random.Random, concept: str, share: float) -> str | None:
    """One of COLORS in a share of the cases, where some style can draw the concept in it."""
    return rng.choice(COLORS) if _recolorable(concept) and rng.random() < share else None


@cache
def _recolorable(concept: str) -> bool:
    return any(sprite_of(concept, style, COLORS[0]) is not None for style in STYLE_ORDER)
