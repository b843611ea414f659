"""Scene graph: the exact description of an image, from which it is rendered.

Positions are in the unit square: x points right, y points down, (0, 0) is the top left corner.
``size`` is the length of the longer side of a sprite's content as a share of the image side.
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
# "in front of": the first hides a part of the second.
# "nearer than": both are fully visible, the first is larger and lower.
DEPTH_RELATIONS = ("in front of", "nearer than")
SIZES = ("small", "large")
# mountains: at sunset; room: indoors, with a window; night: under stars; city: at night;
# lounge: a room with a sofa
PLACES = ("meadow", "beach", "mountains", "room", "night", "garden", "city", "lounge")
DARK_PLACES = ("night", "city")  # in which black and dark objects are hardly visible
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
    """A written word, on a board or as bare letters (``board`` None)."""

    text: str
    font: str  # a key of signs.FONTS
    ink: str  # one of COLORS
    board: str | None  # one of BACKDROPS


@dataclass(frozen=True)
class Hand:
    """A hand with raised fingers.

    ``flaw`` is None, or the malformation: "extra finger", "fused fingers" or "missing finger".
    Malformed hands are used only to train verifiers to reject them.
    """

    raised: tuple[bool, bool, bool, bool, bool]  # from the thumb to the little finger
    skin: str  # a key of figures.SKINS
    look: str  # one of LOOKS
    seed: int = 0  # small variations of proportion and angle
    flaw: str | None = None


@dataclass(frozen=True)
class Puppet:
    """A jointed figure, seen from the front or from the side, depending on its pose."""

    pose: str  # one of puppets.POSES
    skin: str  # a key of figures.SKINS
    shirt: str  # one of COLORS
    trousers: str  # one of COLORS
    look: str  # one of LOOKS
    seed: int = 0


@dataclass(frozen=True)
class Solid:
    """A textured 3D solid in perspective: a card with one face, or a cube with four and a lid."""

    shape: str  # "card" or "cube"
    face: int  # the row of the atlas shown on every face
    color: str  # of the faces, one of BACKDROPS
    yaw: float = 0.0  # degrees about the vertical axis; positive turns to the right, from the front
    pitch: float = 0.0  # degrees; positive tilts the top towards the camera


@dataclass(frozen=True)
class Broken:
    """A corrupted sprite: a negative example for the detector."""

    way: str  # one of corrupted.WAYS
    sprite: int  # a row of the atlas
    other: int  # the row of a second sprite, which some ways use
    seed: int


Art = int | Sign | Hand | Puppet | Solid | Broken  # a row of the atlas, or a procedural drawing


@dataclass(frozen=True)
class SceneObject:
    """One object of a scene: its sprite, its position and rotation, and its group."""

    sprite: Art
    x: float  # centre
    y: float
    size: float
    angle: float = 0.0  # degrees, counter-clockwise
    flip: bool = False
    color: str | None = None  # one of COLORS when recoloured, None for the sprite's own colours
    group: int = 0  # index in Scene.groups
    depth: float = 0.5  # 0 at the camera, 1 at the background
    shadow: bool = False  # a soft shadow under its foot


@dataclass(frozen=True)
class Group:
    """One noun phrase of a caption: ``count`` objects of one concept with the same properties."""

    concept: str  # an id of the lexicon
    count: int = 1
    color: str | None = None  # one of COLORS, or None: not stated
    size: str | None = None  # one of SIZES, relative to the default size; None: not stated
    facing: str | None = None  # "left" or "right" if stated; None: the facing of its drawing


# A camera view: x and y at the image centre, the zoom, and the rotation of the image in degrees.
View = tuple[float, float, float, float]
STILL: View = (0.5, 0.5, 1.0, 0.0)


@dataclass(frozen=True)
class Background:
    """Background of a scene: a flat colour, a vertical gradient or a place."""

    kind: str  # "flat", "gradient" or "place"
    name: str  # one of BACKDROPS (gradient: the colour at the top), or one of PLACES
    seed: int = 0  # small variations: shade, horizon, hills, stars
    view: View = STILL


@dataclass(frozen=True)
class Scene:
    """Complete description of an image.

    ``relation`` is the relation of groups[0] to groups[1] ("left of": groups[0] is to the left of
    groups[1]), or None if two groups are only shown together.
    """

    objects: tuple[SceneObject, ...]  # in drawing order, back to front
    groups: tuple[Group, ...]
    background: Background
    relation: str | None = None
    style: str | None = None  # one of STYLES, shared by all objects
    painting: str | None = None  # one of paintings.PAINTINGS, applied to the whole image
