"""The scene graph: what a picture contains, said exactly, before anything is drawn.

Positions are in the unit square, x to the right and y down, (0, 0) the top left corner; ``size`` is the length of the
longer side of a sprite's content as a share of the picture's side.
"""

from __future__ import annotations

from dataclasses import dataclass

COLORS = ("red", "orange", "yellow", "green", "blue", "purple", "pink", "brown", "black", "white")
STYLES = (
    "fluent-3d",
    "fluent-emoji",
    "fluent-emoji-flat",
    "noto",
    "noto-v1",
    "twemoji",
    "streamline-emojis",
)
RELATIONS = ("left of", "right of", "above", "below", "next to", "on")
DEPTH_RELATIONS = (
    "in front of",
    "nearer than",
)  # the first hides a part of the second; both in full view, the first larger and lower
SIZES = ("small", "large")
# mountains: at sunset; room: indoors, with a window; night: under stars; city: at night; lounge: a room with a sofa
PLACES = ("meadow", "beach", "mountains", "room", "night", "garden", "city", "lounge")
DARK_PLACES = ("night", "city")  # in which black things, and dark ones, are lost
LOOKS = ("flat", "outlined", "shaded")  # how figures (hands, puppets) are drawn
BACKDROPS = (
    "white",
    "black",
    "gray",
    "light blue",
    "light green",
    "beige",
    "lavender",
    "pink",
    "yellow",
    "dark blue",
)


@dataclass(frozen=True)
class Sign:
    """A word, written: on a board, or bare letters where ``board`` is None."""

    text: str
    font: str  # a key of signs.FONTS
    ink: str  # one of COLORS
    board: str | None  # one of BACKDROPS


@dataclass(frozen=True)
class Hand:
    """A hand that raises fingers: ``raised`` says which, from the thumb to the little finger. ``flaw`` is None, or what is wrong
    with it ("extra finger", "fused fingers", "missing finger"): such hands only ever teach a verifier what to refuse."""

    raised: tuple[bool, bool, bool, bool, bool]
    skin: str  # a key of figures.SKINS
    look: str  # one of LOOKS
    seed: int = 0  # small variations of proportion and angle
    flaw: str | None = None


@dataclass(frozen=True)
class Puppet:
    """A jointed figure in a ``pose`` (one of puppets.POSES), seen from the front or from the side as the pose asks."""

    pose: str
    skin: str  # a key of figures.SKINS
    shirt: str  # one of COLORS
    trousers: str  # one of COLORS
    look: str  # one of LOOKS
    seed: int = 0


@dataclass(frozen=True)
class Solid:
    """A textured solid seen by a camera in front of it: a "card" with one face, or a "cube" with four around it and a lid."""

    shape: str  # "card" or "cube"
    face: int  # the row of the atlas shown on every face
    color: str  # of the faces, one of BACKDROPS
    yaw: float = (
        0.0  # degrees about the upright axis; it turns to the right, as seen from the front
    )
    pitch: float = 0.0  # degrees; its top leans towards the eye


@dataclass(frozen=True)
class Broken:
    """A sprite broken in one of ``broken.WAYS``, perhaps with another: what a verifier must not take for a thing."""

    way: str
    sprite: int
    other: int
    seed: int


Art = int | Sign | Hand | Puppet | Solid | Broken  # a row of the atlas, or something drawn to order


@dataclass(frozen=True)
class SceneObject:
    """One drawn sprite: where it is, how it is turned, and which noun phrase of the scene it belongs to."""

    sprite: Art
    x: float  # centre
    y: float
    size: float
    angle: float = 0.0  # degrees, counter-clockwise
    flip: bool = False
    color: str | None = None  # one of COLORS when recoloured, None for the sprite's own colours
    group: int = 0
    depth: float = 0.5  # 0 at the eye, 1 as far as the background
    shadow: bool = False  # a soft shadow under its foot


@dataclass(frozen=True)
class Group:
    """One noun phrase: ``count`` things of one ``concept`` (a lexicon id), perhaps of one colour and one named size."""

    concept: str
    count: int = 1
    color: str | None = None
    size: str | None = None  # one of SIZES, relative to the usual size; None when not worth saying
    facing: str | None = None  # "left" or "right" where said, else as its drawing faces


View = tuple[
    float, float, float, float
]  # of a camera: the x and y in its middle, its zoom, and how far it turns the picture, in degrees
STILL: View = (0.5, 0.5, 1.0, 0.0)


@dataclass(frozen=True)
class Background:
    """``kind`` "flat" or "gradient" with a ``name`` from BACKDROPS (gradient: the colour at the top), or "place" with one of PLACES."""

    kind: str
    name: str
    seed: int = 0  # small variations: shade, horizon, hills, stars
    view: View = STILL


@dataclass(frozen=True)
class Scene:
    """A picture as data. ``things`` are in drawing order, back to front. With two groups, ``relation`` says how
    groups[0] stands to groups[1] ("left of": groups[0] is to the left of groups[1]), or is None for mere company."""

    objects: tuple[SceneObject, ...]
    groups: tuple[Group, ...]
    background: Background
    relation: str | None = None
    style: str | None = None  # one of STYLES, shared by every thing
    painting: str | None = None  # one of paintings.PAINTINGS, over everything
