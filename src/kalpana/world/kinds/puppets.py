"""Puppets: jointed figures in clearly distinct poses, one alone or two side by side.

A pose is a small table of bone directions. Forward kinematics from the hip gives the joints, and
round-ended bars along the bones give the body. The joints are therefore known exactly, in the
figure's own units (``joints``) and in the picture (``placed``).
"""

from __future__ import annotations

import math
import random
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, lru_cache

import numpy as np

from kalpana.world import figures, grammar_en, grammar_hi, places
from kalpana.world.defaults import FACING as FACING_SHARE
from kalpana.world.defaults import (
    SKIN,
    background_kind,
    background_said,
    choose_look,
    choose_skin,
    look_said,
    skin_said,
)
from kalpana.world.figures import RGB, SKINS, Figure, Stroke
from kalpana.world.recolor import PAINTS, lab
from kalpana.world.scene import BACKDROPS, COLORS, Background, Group, Puppet, Scene, SceneObject
from kalpana.world.scene import PLACES as PLACE_NAMES

Point = tuple[float, float]
Joints = dict[str, Point]
Member = tuple[Puppet, Group]  # of a scene's cast
Arm = tuple[float, float]  # upper arm, forearm
Leg = tuple[float, float, float]  # thigh, shin, and the foot from the shin

# --------------------------------------------------------------------------------------- the poses


@dataclass(frozen=True)
class Pose:
    """Bone directions of a pose in degrees: 0 points down, 90 to the right of the picture, 180 up.

    ``lean`` and ``nod`` turn the torso and the head from upright to the right. Left and right are
    the puppet's own: in a frontal view its left is on the right of the picture. In a ``side`` view
    it faces right, with its right limbs nearer to the camera.
    """

    left_arm: Arm
    right_arm: Arm
    left_leg: Leg
    right_leg: Leg
    lean: float = 0
    nod: float = 0
    side: bool = False
    point: bool = False  # with the left index finger

    @property
    def symmetric(self) -> bool:
        return self == _frontal(self.left_arm, self.left_leg, self.lean)


def _frontal(arm: Arm, leg: Leg, lean: float = 0) -> Pose:
    """Symmetric pose in a frontal view: the right limbs mirror the left ones."""
    return Pose(arm, (-arm[0], -arm[1]), leg, (-leg[0], -leg[1], -leg[2]), lean, lean)


POSES = {
    "standing": _frontal((16, 8), (7, 4, 55)),
    "waving": Pose((16, 8), (-112, -168), (7, 4, 55), (-7, -4, -55)),
    "arms up": _frontal((152, 170), (7, 4, 55)),
    "arms out": _frontal((92, 90), (7, 4, 55)),
    "hands on hips": _frontal((60, -54), (15, 10, 50)),
    "jumping": _frontal((128, 145), (62, -22, 20)),
    "dancing": Pose((70, 130), (-125, -200), (58, 42, 35), (-8, -2, -60), lean=-10, nod=8),
    "stretching": Pose((150, 128), (160, 118), (14, 10, 50), (-14, -10, -50), lean=24, nod=30),
    "balancing": Pose((98, 94), (-98, -94), (75, -68, 40), (-2, 0, -55)),
    "handstand": _frontal((-24, -4), (204, 198, 10), lean=180),
    "pointing": Pose((92, 90), (-6, 4), (4, 0, 90), (-10, -8, 90), nod=2, side=True, point=True),
    "namaste": Pose((30, 146), (18, 140), (3, 0, 90), (-5, -4, 90), lean=5, nod=14, side=True),
    "walking": Pose((34, 52), (-32, -10), (-20, -42, 90), (30, 14, 95), lean=4, nod=4, side=True),
    "running": Pose((56, 150), (-66, 30), (-38, -118, 90), (72, 6, 85), lean=20, nod=10, side=True),
    "kicking": Pose((62, 84), (-58, -40), (-8, -2, 90), (98, 92, 80), lean=-18, nod=-6, side=True),
    "kneeling": Pose((-4, 10), (34, 62), (2, -88, 6), (88, 0, 90), lean=2, nod=4, side=True),
    "sitting": Pose((-34, -22), (44, 76), (94, 90, 80), (130, 22, 75), lean=-12, nod=-4, side=True),
    "crawling": Pose((14, 2), (-10, -2), (14, -80, 0), (-10, -88, 0), lean=80, nod=40, side=True),
    "bowing": Pose((-36, -22), (-44, -30), (4, 1, 90), (-3, -3, 90), lean=58, nod=78, side=True),
    "lying down": Pose(
        (78, 92), (92, 98), (96, 90, 80), (118, 60, 80), lean=-90, nod=-86, side=True
    ),
}


@dataclass(frozen=True)
class _Body:
    """Proportions and colours of one puppet; lengths are relative to a torso of about 1."""

    torso: float
    arm: float  # upper arm; the forearm is a little shorter
    leg: float  # thigh; the shin is a little shorter
    head: float  # radius
    girth: float
    hair: RGB
    cut: str
    shoes: RGB


HAIR = (
    (0.17, 0.12, 0.10),
    (0.33, 0.20, 0.12),
    (0.48, 0.24, 0.12),
    (0.62, 0.62, 0.64),
    (0.86, 0.68, 0.36),
)
CUTS = ("short", "short", "bun", "long")
SHOES = ((0.42, 0.28, 0.22), (0.36, 0.37, 0.44), (0.92, 0.90, 0.88))
NECK, HAND, FOOT = 0.10, 0.10, 0.19
JITTER = 4.0  # degrees, of every bone
FAR = 0.80  # brightness of the limbs on the far side


@lru_cache(maxsize=1024)
def _build(puppet: Puppet) -> tuple[_Body, Pose]:
    """The puppet's body, which depends on its seed alone, and its pose with jitter."""
    rng = random.Random(puppet.seed)
    body = _Body(
        torso=0.92 * rng.uniform(0.95, 1.05),
        arm=0.46 * rng.uniform(0.94, 1.06),
        leg=0.60 * rng.uniform(0.94, 1.06),
        head=0.29 * rng.uniform(0.93, 1.07),
        girth=rng.uniform(0.92, 1.10),
        hair=rng.choice(HAIR),
        cut=rng.choice(CUTS),
        shoes=rng.choice(SHOES),
    )
    pose = POSES[puppet.pose]
    turn = [rng.uniform(-JITTER, JITTER) for _ in range(10)]
    return body, Pose(
        (pose.left_arm[0] + turn[0], pose.left_arm[1] + turn[1]),
        (pose.right_arm[0] + turn[2], pose.right_arm[1] + turn[3]),
        (pose.left_leg[0] + turn[4], pose.left_leg[1] + turn[5], pose.left_leg[2]),
        (pose.right_leg[0] + turn[6], pose.right_leg[1] + turn[7], pose.right_leg[2]),
        pose.lean + turn[8] / 2,
        pose.nod + turn[9],
        pose.side,
        pose.point,
    )


def joints(puppet: Puppet) -> Joints:
    """Joint positions in the figure's own units.

    Names: head (its centre), neck, and left and right shoulder, elbow, wrist, hip, knee and ankle;
    left and right as in ``Pose``.
    """
    return dict(_joints(puppet))


@lru_cache(maxsize=1024)
def _joints(puppet: Puppet) -> Joints:
    body, pose = _build(puppet)
    across = math.cos(math.radians(pose.lean)), math.sin(math.radians(pose.lean))
    neck = _go((0.0, 0.0), 180 - pose.lean, body.torso)
    chest = _go(neck, -pose.lean, 0.13)
    at = {"head": _go(neck, 180 - pose.nod, NECK + 0.9 * body.head), "neck": neck}
    shoulder, hip = (0.03, 0.02) if pose.side else (0.25 * body.girth, 0.14 * body.girth)
    for name, sign, arm, leg in (
        ("left", 1, pose.left_arm, pose.left_leg),
        ("right", -1, pose.right_arm, pose.right_leg),
    ):
        at[f"{name} shoulder"] = (
            chest[0] + sign * shoulder * across[0],
            chest[1] + sign * shoulder * across[1],
        )
        at[f"{name} elbow"] = _go(at[f"{name} shoulder"], arm[0], body.arm)
        at[f"{name} wrist"] = _go(at[f"{name} elbow"], arm[1], 0.9 * body.arm)
        at[f"{name} hip"] = sign * hip * across[0], sign * hip * across[1]
        at[f"{name} knee"] = _go(at[f"{name} hip"], leg[0], body.leg)
        at[f"{name} ankle"] = _go(at[f"{name} knee"], leg[1], 0.95 * body.leg)
    return at


def placed(item: SceneObject) -> Joints:
    """Joint positions of an object's puppet in the unit square of the picture.

    Left and right are the puppet's own as pictured: a mirror image raises the other hand, so with
    ``flip`` the names change sides.
    """
    assert isinstance(item.sprite, Puppet)
    cx, cy, k = figures.scale(figure(item.sprite))
    cos, sin = math.cos(math.radians(item.angle)), math.sin(math.radians(item.angle))
    out = {}
    for name, (x, y) in _joints(item.sprite).items():
        x, y = (x - cx) * k * (-1 if item.flip else 1), (y - cy) * k
        out[_other(name) if item.flip else name] = (
            item.x + item.size * (cos * x + sin * y),
            item.y + item.size * (cos * y - sin * x),
        )
    return out


def _other(name: str) -> str:
    """The name of the same joint on the other side."""
    side, _, part = name.partition(" ")
    return {"left": f"right {part}", "right": f"left {part}"}.get(side, name)


def _go(start: Point, direction: float, length: float) -> Point:
    """The end of a bone from ``start``; direction in degrees as in ``Pose``."""
    turn = math.radians(direction)
    return start[0] + length * math.sin(turn), start[1] + length * math.cos(turn)


# ---------------------------------------------------------------------------------------- the body

Bar = tuple[Point, Point, float, float, RGB]  # from, to, radius at either end, colour
Layer = list[Bar]  # bars that are drawn as one shape


@lru_cache(maxsize=1024)
def figure(puppet: Puppet) -> Figure:
    """The puppet's strokes, back to front."""
    _, pose = _build(puppet)
    left, right = (_arm(puppet, side) for side in ("left", "right"))
    if pose.side:
        layers = [
            _dim(left),
            _dim(_leg(puppet, "left")),
            _leg(puppet, "right"),
            _neck(puppet),
            _trunk(puppet),
            *_head(puppet),
            right,
        ]
    else:  # bare arms are behind the body; the short sleeves are one shape with the shirt
        bare, sleeves = left[:-1], [left[-1], right[-1]]
        legs = [_leg(puppet, "right"), _leg(puppet, "left")]
        layers = [bare, right[:-1], *legs, _neck(puppet), _trunk(puppet) + sleeves, *_head(puppet)]
    return tuple(
        Stroke(*a, *b, ra, rb, color, part)
        for part, layer in enumerate(layers)
        for a, b, ra, rb, color in layer
    )


def _dim(layer: Layer) -> Layer:
    return [
        (a, b, ra, rb, (FAR * color[0], FAR * color[1], FAR * color[2]))
        for a, b, ra, rb, color in layer
    ]


def _between(a: Point, b: Point, share: float) -> Point:
    return a[0] + share * (b[0] - a[0]), a[1] + share * (b[1] - a[1])


def _beyond(a: Point, b: Point, length: float) -> Point:
    """The point on the line from a to b that is ``length`` beyond b."""
    return _between(a, b, 1 + length / math.dist(a, b))


def _arm(puppet: Puppet, side: str) -> Layer:
    """Bars of one arm: upper arm, forearm and hand, then the sleeve."""
    body, pose = _build(puppet)
    at, skin, g = _joints(puppet), SKINS[puppet.skin], body.girth
    shoulder, elbow, wrist = (at[f"{side} {part}"] for part in ("shoulder", "elbow", "wrist"))
    bars: Layer = [
        (shoulder, elbow, 0.095 * g, 0.09 * g, skin),
        (elbow, wrist, 0.09 * g, 0.075 * g, skin),
        (wrist, _beyond(elbow, wrist, HAND), 0.085 * g, 0.095 * g, skin),
    ]
    if pose.point and side == "left":
        bars.append((wrist, _beyond(elbow, wrist, HAND + 0.17), 0.05, 0.035, skin))
    shirt = PAINTS[puppet.shirt][:3]
    return [*bars, (shoulder, _between(shoulder, elbow, 0.62), 0.135 * g, 0.125 * g, shirt)]


def _leg(puppet: Puppet, side: str) -> Layer:
    """Bars of one leg: shoe, thigh, shin."""
    body, pose = _build(puppet)
    at, color, g = _joints(puppet), PAINTS[puppet.trousers][:3], body.girth
    hip, knee, ankle = (at[f"{side} {part}"] for part in ("hip", "knee", "ankle"))
    shin, turn = (pose.left_leg if side == "left" else pose.right_leg)[1:]
    heel = _go(ankle, shin + turn, -0.04)
    toe = _go(ankle, shin + turn, FOOT if pose.side else 0.7 * FOOT)
    return [
        (heel, toe, 0.11 * g, 0.09 * g, body.shoes),
        (hip, knee, 0.17 * g, 0.135 * g, color),
        (knee, _between(knee, ankle, 0.85), 0.13 * g, 0.105 * g, color),
    ]


def _neck(puppet: Puppet) -> Layer:
    at = _joints(puppet)
    return [(at["neck"], at["head"], 0.09, 0.09, SKINS[puppet.skin])]


def _trunk(puppet: Puppet) -> Layer:
    """Bars of the torso: one in a side view; shoulders, flanks and middle in a frontal view."""
    body, pose = _build(puppet)
    at, color, g = _joints(puppet), PAINTS[puppet.shirt][:3], body.girth
    hem = _between(at["neck"], (0.0, 0.0), 0.92)
    if pose.side:
        chest = _between(at["neck"], (0.0, 0.0), 0.22)
        return [(chest, hem, 0.2 * g, 0.18 * g, color)]
    bars: Layer = [(at["left shoulder"], at["right shoulder"], 0.13 * g, 0.13 * g, color)]
    for side in ("left", "right"):
        waist = _between(hem, at[f"{side} hip"], 0.9)
        bars.append((at[f"{side} shoulder"], waist, 0.145 * g, 0.16 * g, color))
    return [*bars, (_between(at["neck"], hem, 0.2), hem, 0.25 * g, 0.22 * g, color)]


def _head(puppet: Puppet) -> list[Layer]:
    """Layers of the head, back to front: hair, face, eyes, mouth, rotated by the pose's nod."""
    body, pose = _build(puppet)
    r, skin, centre = body.head, SKINS[puppet.skin], _joints(puppet)["head"]
    cos, sin = math.cos(math.radians(pose.nod)), math.sin(math.radians(pose.nod))

    def spot(x: float, y: float) -> Point:
        """A point of the upright head, given in head radii from the centre."""
        return centre[0] + r * (x * cos - y * sin), centre[1] + r * (x * sin + y * cos)

    def bar(a: Point, b: Point, ra: float, rb: float, color: RGB) -> Bar:
        return spot(*a), spot(*b), r * ra, r * rb, color

    back = -0.1 if pose.side else 0.0
    hair: Layer = [bar((back, -0.08), (back, -0.08), 1.0, 1.0, body.hair)]
    if body.cut == "bun":
        hair.append(bar((4 * back, -1.15), (4 * back, -1.15), 0.34, 0.34, body.hair))
    if body.cut == "long":
        ends = (-0.72,) if pose.side else (-0.78, 0.78)
        hair += [bar((x, 0.0), (x, 0.85), 0.3, 0.22, body.hair) for x in ends]
    dark = figures.LINE
    if pose.side:
        nose = bar((0.9, 0.16), (1.0, 0.2), 0.14, 0.1, skin)
        face = [bar((0.14, 0.1), (0.14, 0.1), 0.84, 0.84, skin), nose]
        eye = [bar((0.52, -0.02), (0.52, 0.08), 0.11, 0.11, dark)]
        mouth = [bar((0.52, 0.52), (0.74, 0.46), 0.05, 0.05, dark)]
        return [hair, face, eye, mouth]
    face = [bar((0.0, 0.14), (0.0, 0.14), 0.84, 0.84, skin)]
    eyes = [[bar((x, 0.0), (x, 0.1), 0.11, 0.11, dark)] for x in (-0.34, 0.34)]
    mouth = [
        bar((-0.2, 0.5), (0.0, 0.57), 0.05, 0.05, dark),
        bar((0.0, 0.57), (0.2, 0.5), 0.05, 0.05, dark),
    ]
    return [hair, face, *eyes, mouth]


# --------------------------------------------------------------------------------------- the scene

MARGIN = 0.02  # of the picture's side
SIZES = (0.55, 0.95)  # longer side of a puppet, as a share of the picture's side
PLACE_COLORS: dict[str, tuple[RGB, ...]] = {  # main colours behind a puppet
    "meadow": ((0.66, 0.84, 0.98), (0.45, 0.72, 0.33)),
    "beach": ((0.69, 0.87, 0.99), (0.22, 0.62, 0.77), (0.92, 0.82, 0.60)),
    "mountains": ((0.60, 0.38, 0.44), (0.22, 0.15, 0.30)),
    "room": ((0.86, 0.85, 0.80), (0.62, 0.43, 0.27)),
    "night": ((0.06, 0.09, 0.22), (0.06, 0.11, 0.13)),
    "garden": ((0.21, 0.45, 0.22), (0.52, 0.76, 0.38)),
    "city": ((0.24, 0.17, 0.38), (0.10, 0.10, 0.22)),
    "lounge": ((0.90, 0.89, 0.86), (0.30, 0.50, 0.55), (0.62, 0.36, 0.34), (0.70, 0.56, 0.42)),
}
_CONTRAST, _SKIN_CONTRAST = 36, 20  # least CIELAB distances, of clothes and of skin


def split_of(pose: str, shirt: str, trousers: str) -> str:
    """The split of a pose in these clothes: 80 % train, 10 % dev, 10 % test, by a hash."""
    slot = zlib.crc32(f"{pose}/{shirt}/{trousers}".encode()) % 10
    return "dev" if slot == 0 else "test" if slot == 1 else "train"


def sample(rng: random.Random, split: str = "train") -> Scene:
    """Random scene of one puppet (80 %), or of two side by side.

    Each combination of pose and clothes belongs to one split; "unseen" stands for test.
    """
    wanted, count = "test" if split == "unseen" else split, 1 if rng.random() < 0.8 else 2
    while True:
        scene = _sample(rng, wanted, count)
        if scene is not None:
            return scene


def _sample(rng: random.Random, split: str, count: int) -> Scene | None:
    kind = background_kind(rng)
    name = rng.choice(PLACE_NAMES if kind == "place" else BACKDROPS)
    background = Background(kind, name, rng.randrange(1 << 30))
    look = choose_look(rng)
    cast = [one(rng, split, look) for _ in range(count)]
    if not all(stands_out(puppet, background) for puppet in cast):
        return None
    if count == 1:
        group = _turned(rng, cast[0])
        return Scene((_alone(rng, cast[0], group, kind == "place"),), (group,), background)
    if len({(puppet.pose, puppet.shirt, puppet.trousers) for puppet in cast}) == 1:
        return None
    first = rng.randrange(2)  # index, from the left, of the puppet that the caption names first
    objects = _side_by_side(rng, cast, (first, 1 - first))
    groups = tuple(Group("puppet", color=puppet.shirt) for puppet in (cast[first], cast[1 - first]))
    relation = "right of" if first else "left of"
    return Scene(objects, groups, background, relation) if objects else None


def one(rng: random.Random, split: str, look: str) -> Puppet:
    """Random puppet of a split in a look; its skin has _SKIN_CONTRAST to its clothes."""
    while True:
        pose = rng.choice(tuple(POSES))
        skin = choose_skin(rng, tuple(SKINS))
        shirt, trousers = rng.sample(COLORS, 2)
        if (
            split_of(pose, shirt, trousers) == split
            and min(_apart(SKINS[skin], PAINTS[c][:3]) for c in (shirt, trousers)) > _SKIN_CONTRAST
        ):
            return Puppet(pose, skin, shirt, trousers, look, rng.randrange(1 << 30))


def stands_out(puppet: Puppet, background: Background) -> bool:
    """Whether clothes and skin have enough contrast to the background."""
    if background.kind == "place":
        behind = PLACE_COLORS[background.name]
    else:
        r, g, b = places.COLORS[background.name]
        fades = (0.0, 0.3, 0.6) if background.kind == "gradient" else (0.0,)
        behind = tuple((r + t * (0.97 - r), g + t * (0.97 - g), b + t * (0.97 - b)) for t in fades)
    clothes = [PAINTS[name][:3] for name in (puppet.shirt, puppet.trousers)]
    return all(
        _apart(SKINS[puppet.skin], color) > _SKIN_CONTRAST
        and all(_apart(cloth, color) > _CONTRAST for cloth in clothes)
        for color in behind
    )


@cache
def _apart(one: RGB, two: RGB) -> float:
    """Distance of two sRGB colours in CIELAB."""
    return float(np.linalg.norm(lab(np.array(one)) - lab(np.array(two))))


# Poses that face right unless mirrored.
FACING = {pose for pose, table in POSES.items() if table.side and pose != "lying down"}


def _turned(rng: random.Random, puppet: Puppet) -> Group:
    """The group of a single puppet.

    FACING_SHARE of the puppets in a side view state their facing; half of these face left.
    """
    turned = puppet.pose in FACING and rng.random() < FACING_SHARE
    facing = rng.choice(("left", "right")) if turned else None
    return Group("puppet", color=puppet.shirt, facing=facing)


def _alone(rng: random.Random, puppet: Puppet, group: Group, grounded: bool) -> SceneObject:
    """The puppet at a random position inside the picture; ``grounded``: near its bottom edge."""
    width, height = figures.extent(figure(puppet))
    size = min(rng.uniform(*SIZES), (1 - 2 * MARGIN) / max(width, height))
    half_w, half_h = size * width / 2, size * height / 2
    low = 1 - MARGIN - half_h
    high = max(MARGIN + half_h, low - 0.12) if grounded else MARGIN + half_h
    x, y = rng.uniform(MARGIN + half_w, 1 - MARGIN - half_w), rng.uniform(high, low)
    return SceneObject(puppet, x, y, size, 0.0, group.facing == "left")


def _side_by_side(
    rng: random.Random, cast: Sequence[Puppet], groups: Sequence[int]
) -> tuple[SceneObject, ...]:
    """Two puppets on one ground, about equally tall when upright; empty if they do not fit."""
    tall = rng.uniform(0.62, 0.95) / 2.9
    sizes = [
        min(max(tall / figures.scale(figure(puppet))[2], SIZES[0]), SIZES[1]) for puppet in cast
    ]
    extents = [figures.extent(figure(puppet)) for puppet in cast]
    boxes = [(size * w, size * h) for size, (w, h) in zip(sizes, extents, strict=True)]
    spare = 1 - 2 * MARGIN - sum(w for w, _ in boxes)
    if spare < 0.04:
        return ()
    gaps = sorted(rng.uniform(0, spare - 0.04) for _ in boxes)
    ground = rng.uniform(max(h for _, h in boxes) + MARGIN, 1 - MARGIN)
    offsets = (gaps[0], gaps[1] - gaps[0] + 0.04)
    objects, left = [], MARGIN
    for puppet, size, (w, h), gap, group in zip(cast, sizes, boxes, offsets, groups, strict=True):
        x, y = left + gap + w / 2, ground - h / 2
        objects.append(SceneObject(puppet, x, y, size, 0.0, False, None, group))
        left += gap + w
    return tuple(objects)


# ----------------------------------------------------------------------------------------- English

DOING = {  # verb phrases of a pose, to follow "is" or, if they begin with "with", a noun
    "standing": ("standing", "standing still", "standing upright", "standing straight"),
    "waving": ("waving", "waving", "waving hello", "waving a hand", "waving goodbye"),
    "arms up": (
        "raising both arms",
        "holding both arms up",
        "with {their} arms up",
        "with both arms raised",
        "with {their} hands up",
    ),
    "arms out": (
        "spreading {their} arms wide",
        "holding both arms out to the sides",
        "with arms spread wide",
        "with {their} arms out",
    ),
    "hands on hips": (
        "resting {their} hands on {their} hips",
        "with hands on hips",
        "with {their} hands on {their} hips",
    ),
    "jumping": ("jumping", "jumping", "jumping in the air", "jumping for joy", "leaping up"),
    "dancing": ("dancing", "dancing", "dancing happily", "doing a dance"),
    "stretching": (
        "stretching",
        "stretching to the side",
        "stretching sideways",
        "doing a side stretch",
    ),
    "balancing": ("balancing on one leg", "balancing", "keeping {their} balance on one leg"),
    "handstand": ("doing a handstand", "performing a handstand", "upside down in a handstand"),
    "pointing": (
        "pointing",
        "pointing at something",
        "pointing ahead",
        "pointing into the distance",
    ),
    "namaste": (
        "saying namaste",
        "greeting with folded hands",
        "making a namaste gesture",
        "with palms pressed together",
    ),
    "walking": ("walking", "walking", "walking along", "taking a walk", "strolling"),
    "running": ("running", "running", "running fast", "sprinting"),
    "kicking": ("kicking", "kicking high", "giving a kick", "kicking the air"),
    "kneeling": ("kneeling", "kneeling on one knee", "down on one knee"),
    "sitting": ("sitting", "sitting down", "sitting on the ground", "seated on the ground"),
    "crawling": ("crawling", "crawling on hands and knees", "on all fours"),
    "bowing": ("bowing", "bowing", "taking a bow", "bowing politely", "bowing down"),
    "lying down": ("lying down", "lying on {their} back", "lying on the ground"),
}
WHO = (  # (noun phrase, possessive)
    ("a person", "their"),
    ("a person", "their"),
    ("someone", "their"),
    ("a figure", "its"),
    ("a puppet", "its"),
)
# Poses whose captions say "to the left"; of the others they say "facing left".
MOVING = {"walking", "running", "crawling", "pointing"}
SKIN_WORDS = {
    "yellow": ("yellow", "yellow-skinned"),
    "pale": ("pale", "light-skinned", "fair-skinned"),
    "tan": ("tanned", "tan-skinned"),
    "brown": ("brown-skinned",),
    "dark": ("dark-skinned",),
}
PHRASES = (  # the first SURE patterns are plain noun phrases
    "{who}{wear} {doing}",
    "{who}{wear} {doing}",
    "{who} {doing}{dressed}",
    "{who}{wear} who is {being}",
    "{who}{wear} is {being}",
    "{bare}{wear} {doing}",
    "a picture of {who}{wear} {doing}",
    "a drawing of {who} {doing}{dressed}",
    "draw {who}{wear} {doing}",
    "please draw {who}{wear} {doing}",
    "{who}{wear} is {being}.",
    "{who} is {being}{dressed}.",
    "There is {who}{wear} {doing}.",
    "The picture shows {who}{wear} {doing}.",
    "Here we see {who}{wear} {doing}.",
)
SURE = 4
PAIRS = (
    "{a}, to the {side} of {b}",
    "{a}, {side} of {b}",
    "on the {side} {a}, on the {other} {b}",
    "{a} on the {side}, {b} on the {other}",
    "{b} on the {other} and {a} on the {side}",
    "{b}, to the {other} of {a}",
    "on the {other} {b}, and on the {side} {a}",
    "{a} and, to the {other}, {b}",
)
TOGETHER = (
    "{a} and {b}",
    "{a} next to {b}",
    "{a} and {b}, side by side",
    "There is {a} and there is {b}.",
)
MANNERS = {
    "flat": ("drawn in flat colors", "in a flat style", "drawn in a flat style"),
    "outlined": ("drawn with dark outlines", "in an outlined style", "drawn with bold outlines"),
    "shaded": ("drawn with soft shading", "in a shaded style", "drawn with light and shade"),
}


def caption(scene: Scene, language: str, form: str, rng: random.Random) -> str:
    """Caption of a puppet scene, in English ("en") or Hindi.

    It names each puppet's pose, in some captions its clothes, and the positions of two puppets.
    """
    objects = sorted(scene.objects, key=lambda item: item.group)
    cast = [
        (item.sprite, group)
        for item, group in zip(objects, scene.groups, strict=True)
        if isinstance(item.sprite, Puppet)
    ]
    return (_english if language == "en" else _hindi)(scene, cast, form, rng)


def _named(form: str, rng: random.Random) -> tuple[bool, bool]:
    """Whether the caption names the shirt and the trousers."""
    if form == "dense":
        return True, True
    shares = (50, 25, 10, 15) if form == "short" else (30, 20, 15, 35)
    return rng.choices(((False, False), (True, False), (False, True), (True, True)), shares)[0]


def _alike(cast: Sequence[Member]) -> bool:
    """Whether one phrase can describe both puppets: equal poses and the usual skin."""
    return cast[0][0].pose == cast[1][0].pose and all(puppet.skin == SKIN for puppet, _ in cast)


def _english(scene: Scene, cast: Sequence[Member], form: str, rng: random.Random) -> str:
    table: Sequence[str]
    if len(cast) == 1:
        if form == "dense":
            table = PHRASES[:SURE]
        elif form == "short":
            table = PHRASES[: SURE + 1]
        else:
            table = PHRASES
        text = _english_one(cast[0], rng.choice(table), form, rng)
    elif form != "dense" and _alike(cast) and rng.random() < 0.3:
        pattern = rng.choice(("two people {0}", "two figures {0}", "two people, both {0}"))
        text = pattern.format(_doing(cast[0], "their", rng))
    else:
        simple = [pattern for pattern in PHRASES[:SURE] if "{dressed}" not in pattern]
        a, b = (_english_one(member, rng.choice(simple), form, rng) for member in cast)
        table = PAIRS if form == "dense" or rng.random() < 0.6 else TOGETHER
        text = rng.choice(table).format(a=a, b=b, **grammar_en.SIDES[scene.relation or "left of"])
    where, what = grammar_en.surroundings(scene.background, rng, text)
    where, manner = where.removeprefix(", "), rng.choice(MANNERS[cast[0][0].look])
    if form == "dense":
        head = grammar_en.capital(text)
        return rng.choice(
            (
                f"{head}, {where}, {manner}.",
                f"{head}, {manner}, {where}.",
                f"{head}, {manner}. The background is {what}.",
                f"{head}. It is {manner}. The background is {what}.",
                f"The background is {what}. {head}, {manner}.",
            )
        )
    ground, look = background_said(rng, scene.background, form), look_said(rng, cast[0][0].look)
    if text.endswith("."):
        background = f" The background is {what}." if ground else ""
        return grammar_en.capital(text) + background + (f" It is {manner}." if look else "")
    return text + (f", {where}" if ground else "") + (f", {manner}" if look else "")


def _doing(member: Member, their: str, rng: random.Random, being: bool = False) -> str:
    """Verb phrase of a pose, with the facing if the group has one.

    ``being``: only phrases that can follow "is".
    """
    puppet, group = member
    phrases = [words for words in DOING[puppet.pose] if not (being and words.startswith("with "))]
    words = rng.choice(phrases).format(their=their)
    if group.facing is None:
        return words
    if puppet.pose in MOVING:
        return f"{words} to the {group.facing}"
    return f"{words} {rng.choice(grammar_en.FACING[group.facing][0])}"


def _english_one(member: Member, pattern: str, form: str, rng: random.Random) -> str:
    """English phrase or sentence for one puppet, from a pattern of PHRASES."""
    puppet, _ = member
    skin = rng.choice(SKIN_WORDS[puppet.skin]) if skin_said(rng, puppet.skin) else ""
    nouns = [entry for entry in WHO if not skin or entry[0].startswith("a ")]
    who, their = rng.choice(nouns)
    if skin:
        who = f"a {skin} {who.removeprefix('a ')}"
    being = _doing(member, their, rng, being=True)
    shirt, trousers = (
        rng.choice(grammar_en.COLORS.get(color, (color,)))
        for color in (puppet.shirt, puppet.trousers)
    )
    garments = (
        f"{grammar_en.article(shirt)} {shirt} {rng.choice(('shirt', 'shirt', 'T-shirt'))}",
        f"{trousers} {rng.choice(('trousers', 'trousers', 'pants'))}",
    )
    named = _named(form, rng)
    clothes = " and ".join(words for words, name in zip(garments, named, strict=True) if name)
    wear = rng.choice((" in ", " in ", " wearing ")) + clothes if clothes else ""
    dressed = rng.choice((", in ", ", wearing ", ", dressed in ")) + clothes if clothes else ""
    bare, doing = who.removeprefix("a "), _doing(member, their, rng)
    return pattern.format(who=who, bare=bare, wear=wear, dressed=dressed, being=being, doing=doing)


# ------------------------------------------------------------------------------------------- Hindi

# (before a noun: दौड़ता हुआ व्यक्ति, after one: व्यक्ति दौड़ रहा है). A phrase that begins with ने takes
# an ergative subject. Words marked * agree with the noun.
HINDI_DOING = {
    "standing": (
        ("खड़ा* हुआ*", "खड़ा* है"),
        ("सीधा* खड़ा*", "सीधा* खड़ा* है"),
        ("चुपचाप खड़ा*", "चुपचाप खड़ा* है"),
    ),
    "waving": (
        ("हाथ हिलाता* हुआ*", "हाथ हिला रहा* है"),
        ("अपना हाथ हिलाता*", "अपना हाथ हिला रहा* है"),
        ("हाथ हिलाकर अलविदा कहता*", "हाथ हिलाकर अलविदा कह रहा* है"),
    ),
    "arms up": (
        ("हाथ ऊपर किए हुए", "हाथ ऊपर किए हुए है"),
        ("दोनों हाथ ऊपर उठाए", "ने दोनों हाथ ऊपर उठा रखे हैं"),
        ("बाँहें ऊपर उठाए हुए", "बाँहें ऊपर उठाए हुए है"),
    ),
    "arms out": (
        ("बाँहें फैलाए हुए", "बाँहें फैलाए हुए है"),
        ("दोनों हाथ फैलाए", "ने दोनों हाथ फैला रखे हैं"),
        ("बाँहें दोनों ओर फैलाए", "ने बाँहें दोनों ओर फैला रखी हैं"),
    ),
    "hands on hips": (
        ("कमर पर हाथ रखे हुए", "कमर पर हाथ रखे हुए है"),
        ("कमर पर दोनों हाथ रखे", "ने कमर पर दोनों हाथ रखे हुए हैं"),
        ("हाथ कमर पर टिकाए हुए", "ने हाथ कमर पर टिका रखे हैं"),
    ),
    "jumping": (
        ("कूदता* हुआ*", "कूद रहा* है"),
        ("कूदता*", "कूद रहा* है"),
        ("हवा में उछलता* हुआ*", "हवा में उछल रहा* है"),
        ("छलाँग लगाता* हुआ*", "छलाँग लगा रहा* है"),
    ),
    "dancing": (
        ("नाचता* हुआ*", "नाच रहा* है"),
        ("नृत्य करता* हुआ*", "नृत्य कर रहा* है"),
        ("मस्ती में नाचता*", "मस्ती में नाच रहा* है"),
    ),
    "stretching": (
        ("अंगड़ाई लेता* हुआ*", "अंगड़ाई ले रहा* है"),
        ("स्ट्रेचिंग करता* हुआ*", "स्ट्रेचिंग कर रहा* है"),
        ("बदन को एक ओर तानता* हुआ*", "बदन को एक ओर तान रहा* है"),
    ),
    "balancing": (
        ("एक पैर पर संतुलन बनाता* हुआ*", "एक पैर पर संतुलन बना रहा* है"),
        ("एक पैर पर संतुलन बनाए हुए", "एक पैर पर संतुलन बनाए हुए है"),
        ("एक टाँग पर संतुलन साधता*", "एक टाँग पर संतुलन साध रहा* है"),
    ),
    "handstand": (
        ("हैंडस्टैंड करता* हुआ*", "हैंडस्टैंड कर रहा* है"),
        ("हाथों के बल उलटा* टिका* हुआ*", "हाथों के बल उलटा* टिका* हुआ* है"),
        ("उलटा* होकर हैंडस्टैंड करता*", "उलटा* होकर हैंडस्टैंड कर रहा* है"),
    ),
    "pointing": (
        ("इशारा करता* हुआ*", "इशारा कर रहा* है"),
        ("उँगली से इशारा करता*", "उँगली से इशारा कर रहा* है"),
        ("सामने इशारा करता* हुआ*", "सामने इशारा कर रहा* है"),
    ),
    "namaste": (
        ("नमस्ते करता* हुआ*", "नमस्ते कर रहा* है"),
        ("हाथ जोड़े हुए", "ने हाथ जोड़ रखे हैं"),
        ("हाथ जोड़कर अभिवादन करता*", "हाथ जोड़कर अभिवादन कर रहा* है"),
    ),
    "walking": (
        ("चलता* हुआ*", "चल रहा* है"),
        ("पैदल चलता*", "पैदल चल रहा* है"),
        ("टहलता* हुआ*", "टहल रहा* है"),
    ),
    "running": (
        ("दौड़ता* हुआ*", "दौड़ रहा* है"),
        ("तेज़ दौड़ता*", "तेज़ दौड़ रहा* है"),
        ("भागता* हुआ*", "भाग रहा* है"),
    ),
    "kicking": (
        ("लात मारता* हुआ*", "लात मार रहा* है"),
        ("किक मारता* हुआ*", "किक मार रहा* है"),
        ("हवा में लात मारता*", "हवा में लात मार रहा* है"),
    ),
    "kneeling": (
        ("एक घुटना टेके हुए", "एक घुटना टेके हुए है"),
        ("घुटना टेकता* हुआ*", "घुटना टेक रहा* है"),
        ("एक घुटना ज़मीन पर टेके", "ने एक घुटना ज़मीन पर टेक रखा है"),
    ),
    "sitting": (
        ("बैठा* हुआ*", "बैठा* हुआ* है"),
        ("ज़मीन पर बैठा*", "ज़मीन पर बैठा* है"),
        ("आराम से बैठा*", "आराम से बैठा* है"),
    ),
    "crawling": (
        ("रेंगता* हुआ*", "रेंग रहा* है"),
        ("घुटनों के बल रेंगता*", "घुटनों के बल रेंग रहा* है"),
        ("ज़मीन पर रेंगता* हुआ*", "ज़मीन पर रेंग रहा* है"),
    ),
    "bowing": (
        ("झुका* हुआ*", "झुका* हुआ* है"),
        ("झुककर प्रणाम करता* हुआ*", "झुककर प्रणाम कर रहा* है"),
        ("आदर से झुकता*", "आदर से झुक रहा* है"),
    ),
    "lying down": (
        ("लेटा* हुआ*", "लेटा* हुआ* है"),
        ("पीठ के बल लेटा*", "पीठ के बल लेटा* है"),
        ("ज़मीन पर लेटा*", "ज़मीन पर लेटा* है"),
    ),
}
HINDI_WHO = (("व्यक्ति", "m"), ("व्यक्ति", "m"), ("इंसान", "m"), ("कठपुतली", "f"), ("आकृति", "f"))
HINDI_SKINS = {
    "yellow": ("पीला*",),
    "pale": ("गोरा*",),
    "tan": ("गेहुँआ*",),
    "brown": ("साँवला*",),
    "dark": ("गहरा* साँवला*",),
}
# {np} दौड़ता हुआ व्यक्ति, {bent} दौड़ते हुए व्यक्ति, {clause} एक व्यक्ति दौड़ रहा है,
# {rel} एक व्यक्ति जो दौड़ रहा है
HINDI_PHRASES = (
    "{np}",
    "{np}",
    "{rel}",
    "{clause}",
    "{bent} {picture}",
    "{np} बनाओ",
    "{np} दिखाइए",
    "{clause}।",
    "तस्वीर में {clause}।",
    "चित्र में {np} है।",
    "यहाँ {clause}।",
)
HINDI_PAIRS = (
    "{ore} ओर {a}, {oore} ओर {b}",
    "{ore} तरफ़ {a} और {oore} तरफ़ {b}",
    "{oore} ओर {b} और {ore} ओर {a}",
    "{side} {a}, {other} {b}",
    "{bent_b} के {ore} ओर {a}",
    "{bent_a} के {oore} ओर {b}",
    "{bent_b} की {ore} तरफ़ {a}",
)
HINDI_TOGETHER = ("{a} और {b}", "{a} और {b}, साथ-साथ", "{bent_b} के पास {a}", "{bent_b} के साथ {a}")
HINDI_MANNERS = {
    "flat": ("सपाट शैली में", "सपाट रंगों में"),
    "outlined": ("रेखांकित शैली में", "गहरी रेखाओं वाली शैली में"),
    "shaded": ("छायांकित शैली में", "हल्की छाया वाली शैली में"),
}


def _hindi(scene: Scene, cast: Sequence[Member], form: str, rng: random.Random) -> str:
    table: Sequence[str]
    if len(cast) == 1:
        if form == "dense":
            table = HINDI_PHRASES[:3]
        elif form == "short":
            table = HINDI_PHRASES[:5]
        else:
            table = HINDI_PHRASES
        text = rng.choice(table).format(
            **_hindi_one(cast[0], form, rng), picture=rng.choice(grammar_hi.PICTURES)
        )
    elif form != "dense" and _alike(cast) and rng.random() < 0.3:
        noun, gender = rng.choice(HINDI_WHO[:3])
        text = f"{_agree(rng.choice(HINDI_DOING[cast[0][0].pose])[0], gender, many=True)} दो {noun}"
    else:
        a, b = (_hindi_one(member, form, rng) for member in cast)
        table = HINDI_PAIRS if form == "dense" or rng.random() < 0.6 else HINDI_TOGETHER
        sides = grammar_hi.sides(scene.relation, rng)
        text = rng.choice(table).format(
            a=a["np"], b=b["np"], bent_a=a["bent"], bent_b=b["bent"], **sides
        )
    where, what = grammar_hi.surroundings(scene.background, rng)
    manner = rng.choice(HINDI_MANNERS[cast[0][0].look])
    if form == "dense":
        text = rng.choice(
            (
                f"{where} {text}, {manner}।",
                f"{text}, {where}, {manner}।",
                f"{text}, {manner}। पृष्ठभूमि में {what} है।",
                f"पृष्ठभूमि में {what} है। {text}, {manner}।",
            )
        )
    else:
        ground, look = background_said(rng, scene.background, form), look_said(rng, cast[0][0].look)
        if text.endswith("।"):
            background = f" पृष्ठभूमि में {what} है।" if ground else ""
            text += background + (f" चित्र {manner} है।" if look else "")
        else:
            text += (f", {where}" if ground else "") + (f", {manner}" if look else "")
    return grammar_hi.casual(text) if rng.random() < 0.15 else text


def _agree(words: str, gender: str, many: bool = False, oblique: bool = False) -> str:
    """The words with those marked * inflected for gender, number and case."""
    return " ".join(
        grammar_hi.inflect(w[:-1], gender, many, oblique) if w.endswith("*") else w
        for w in words.split()
    )


def _hindi_one(member: Member, form: str, rng: random.Random) -> dict[str, str]:
    """One puppet's phrases for the fields of HINDI_PHRASES."""
    puppet, group = member
    noun, gender = rng.choice(HINDI_WHO)
    phrases = [
        words
        for words in HINDI_DOING[puppet.pose]
        if not (group.facing and words[1].startswith("ने "))
    ]
    before, after = rng.choice(phrases)
    if group.facing:
        ore, _ = rng.choice(grammar_hi.LEFT if group.facing == "left" else grammar_hi.RIGHT)
        if puppet.pose in MOVING:
            turned = f"{ore} ओर"
        else:
            turned = grammar_hi.facing(group.facing, True, rng)
        before, after = f"{turned} {before}", f"{turned} {after}"
    if skin_said(rng, puppet.skin):
        noun = f"{rng.choice(HINDI_SKINS[puppet.skin])} {noun}"
    shirt, trousers = (
        grammar_hi.inflect(rng.choice(grammar_hi.COLORS[color]), "f", False)
        for color in (puppet.shirt, puppet.trousers)
    )
    garments = (
        f"{shirt} {rng.choice(('कमीज़', 'कमीज़', 'टी-शर्ट'))}",
        f"{trousers} {rng.choice(('पैंट', 'पैंट', 'पतलून'))}",
    )
    clothed = _named(form, rng)
    clothes = " और ".join(words for words, name in zip(garments, clothed, strict=True) if name)
    worn = f"{clothes} {rng.choice(('में', 'पहने', 'पहने हुए', 'वाला*'))} " if clothes else ""
    ergative = after.startswith("ने ")
    subject = _agree(f"{worn}एक {noun}", gender, oblique=ergative)
    finite = _agree(after, gender)
    named = f"{worn}{before} {rng.choice(('', 'एक '))}{noun}"
    return {
        "np": _agree(named, gender),
        "bent": _agree(named, gender, oblique=True),
        "clause": f"{subject} {finite}",
        "rel": f"{_agree(f'{worn}एक {noun}', gender)} {'जिस' if ergative else 'जो '}{finite}",
    }
