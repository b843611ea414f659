"""Drawing of puppets: round-ended bars along the bones, and the joints in the picture."""

from __future__ import annotations

import math
from functools import lru_cache

from kalpana.world import figures
from kalpana.world.figures import RGB, SKINS, Figure, Stroke
from kalpana.world.kinds.puppets.skeleton import (
    FOOT,
    HAND,
    Joints,
    Point,
    build,
    cached_joints,
    end_of,
)
from kalpana.world.recolor import PAINTS
from kalpana.world.scene import Puppet, SceneObject

FAR = 0.80  # brightness of the limbs on the far side


def placed(item: SceneObject) -> Joints:
    """Joint positions of an object's puppet in the unit square of the picture.

    Left and right are the puppet's own as pictured: a mirror image raises the other hand, so with
    ``flip`` the names change sides.
    """
    assert isinstance(item.sprite, Puppet)
    cx, cy, k = figures.scale(figure(item.sprite))
    cos, sin = math.cos(math.radians(item.angle)), math.sin(math.radians(item.angle))
    out = {}
    for name, (x, y) in cached_joints(item.sprite).items():
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


Bar = tuple[Point, Point, float, float, RGB]  # from, to, radius at either end, colour
Layer = list[Bar]  # bars that are drawn as one shape


@lru_cache(maxsize=1024)
def figure(puppet: Puppet) -> Figure:
    """The puppet's strokes, back to front."""
    _, pose = build(puppet)
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
    body, pose = build(puppet)
    at, skin, g = cached_joints(puppet), SKINS[puppet.skin], body.girth
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
    body, pose = build(puppet)
    at, color, g = cached_joints(puppet), PAINTS[puppet.trousers][:3], body.girth
    hip, knee, ankle = (at[f"{side} {part}"] for part in ("hip", "knee", "ankle"))
    shin, turn = (pose.left_leg if side == "left" else pose.right_leg)[1:]
    heel = end_of(ankle, shin + turn, -0.04)
    toe = end_of(ankle, shin + turn, FOOT if pose.side else 0.7 * FOOT)
    return [
        (heel, toe, 0.11 * g, 0.09 * g, body.shoes),
        (hip, knee, 0.17 * g, 0.135 * g, color),
        (knee, _between(knee, ankle, 0.85), 0.13 * g, 0.105 * g, color),
    ]


def _neck(puppet: Puppet) -> Layer:
    at = cached_joints(puppet)
    return [(at["neck"], at["head"], 0.09, 0.09, SKINS[puppet.skin])]


def _trunk(puppet: Puppet) -> Layer:
    """Bars of the torso: one in a side view; shoulders, flanks and middle in a frontal view."""
    body, pose = build(puppet)
    at, color, g = cached_joints(puppet), PAINTS[puppet.shirt][:3], body.girth
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
    body, pose = build(puppet)
    r, skin, centre = body.head, SKINS[puppet.skin], cached_joints(puppet)["head"]
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
