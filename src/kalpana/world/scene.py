"""The scene graph: what a picture contains, said exactly, before anything is drawn.

Positions are in the unit square, x to the right and y down, (0, 0) the top left corner; ``size`` is the length of the
longer side of a sprite's content as a share of the picture's side.
"""

from __future__ import annotations

from dataclasses import dataclass

COLORS = ("red", "orange", "yellow", "green", "blue", "purple", "pink", "brown", "black", "white")
STYLES = ("fluent-3d", "fluent-emoji", "fluent-emoji-flat", "noto", "noto-v1", "twemoji", "streamline-emojis")
RELATIONS = ("left of", "right of", "above", "below", "next to", "on")
SIZES = ("small", "large")
PLACES = ("meadow", "beach", "mountains", "room", "night")  # mountains: at sunset; room: indoors; night: under stars
BACKDROPS = ("white", "black", "gray", "light blue", "light green", "beige", "lavender", "pink", "yellow", "dark blue")


@dataclass(frozen=True)
class Thing:
    """One drawn sprite: where it is, how it is turned, and which noun phrase of the scene it belongs to."""

    sprite: int  # row of the atlas
    x: float  # centre
    y: float
    size: float
    angle: float = 0.0  # degrees, counter-clockwise
    flip: bool = False
    color: str | None = None  # one of COLORS when recoloured, None for the sprite's own colours
    group: int = 0


@dataclass(frozen=True)
class Group:
    """One noun phrase: ``count`` things of one ``concept`` (a lexicon id), perhaps of one colour and one named size."""

    concept: str
    count: int = 1
    color: str | None = None
    size: str | None = None  # one of SIZES, relative to the usual size; None when not worth saying


@dataclass(frozen=True)
class Background:
    """``kind`` "flat" or "gradient" with a ``name`` from BACKDROPS (gradient: the colour at the top), or "place" with one of PLACES."""

    kind: str
    name: str
    seed: int = 0  # small variations: shade, horizon, hills, stars


@dataclass(frozen=True)
class Scene:
    """A picture as data. ``things`` are in drawing order, back to front. With two groups, ``relation`` says how
    groups[0] stands to groups[1] ("left of": groups[0] is to the left of groups[1]), or is None for mere company."""

    things: tuple[Thing, ...]
    groups: tuple[Group, ...]
    background: Background
    relation: str | None = None
    style: str | None = None  # one of STYLES, shared by every thing
