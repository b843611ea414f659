"""Hands as strokes: a palm, a wrist and five fingers, each raised or folded over the palm."""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

from kalpana.world.figures import RGB, SKINS, Figure, Stroke
from kalpana.world.scene import Hand

Raised = tuple[bool, bool, bool, bool, bool]  # thumb, index, middle, ring and little finger


def raised_of(digits: str) -> Raised:
    """The raised fingers, from five digits 0 or 1, thumb first."""
    thumb, index, middle, ring, little = (digit == "1" for digit in digits)
    return thumb, index, middle, ring, little


FLAWS = ("extra finger", "fused fingers", "missing finger")
# For each count: the raised fingers, from the thumb on, and their relative frequency among people.
GESTURES = (
    {"00000": 1},
    {"01000": 6, "10000": 4, "00001": 1},
    {"01100": 7, "11000": 3, "10001": 1, "01001": 1},
    {"01110": 7, "11100": 3, "00111": 1, "11001": 1},
    {"01111": 8, "11110": 1},
    {"11111": 1},
)
THUMBS_UP = raised_of("10000")
COUNTING = {  # gestures that stand for a number
    raised_of(digits) for digits in ("01000", "01100", "11000", "01110", "11100", "01111", "11111")
}


@dataclass(frozen=True)
class _Finger:
    """Geometry of a finger: base (x, y), direction, length and radius; the palm is 1 wide.

    ``angle`` is in degrees clockwise from up.
    """

    x: float
    y: float
    angle: float
    length: float
    radius: float
    raised: bool = True
    thumb: bool = False


_THUMB = _Finger(-0.33, 0.12, -52, 0.68, 0.145, thumb=True)
_LONG = (
    _Finger(-0.40, -0.36, -15, 0.80, 0.126),
    _Finger(-0.135, -0.44, -5, 0.92, 0.130),
    _Finger(0.135, -0.42, 6, 0.85, 0.126),
    _Finger(0.39, -0.30, 18, 0.68, 0.114),
)
HEEL = 0.26  # y of the lower end of the palm's bones


def count(hand: Hand) -> int:
    """Number of raised fingers, without the flaw: the flaw makes the picture differ from it."""
    return sum(hand.raised)


def usual(hand: Hand) -> bool:
    """Whether the hand has the most frequent gesture of its count."""
    gestures = GESTURES[count(hand)]
    return digits_of(hand) == max(gestures, key=lambda digits: gestures[digits])


def flaws_of(raised: Sequence[bool]) -> tuple[str, ...]:
    """The flaws that are possible with these raised fingers."""
    neighbours = any(a and b for a, b in itertools.pairwise(raised[1:]))
    possible = (True, neighbours, any(raised))
    return tuple(flaw for flaw, fits in zip(FLAWS, possible, strict=True) if fits)


@lru_cache(maxsize=1024)
def figure(hand: Hand) -> Figure:
    """Strokes of a hand, back to front, with the palm to the viewer and the thumb on the left.

    The "thumbs up" gesture is rotated by about 80 degrees, so that the thumb points up.
    Raises: ValueError where the flaw is not possible with the raised fingers.
    """
    flaws = flaws_of(hand.raised)
    if hand.flaw and hand.flaw not in flaws:
        raise ValueError(
            f"a hand that raises {hand.raised} cannot show {hand.flaw!r}: {', '.join(flaws)}"
        )
    rng = random.Random(hand.seed)
    thumb, fingers = _posed(hand, rng)
    skin = SKINS[hand.skin]
    palm = _palm(fingers, skin)
    digits = _flawed([thumb, *fingers], hand.flaw, rng)
    strokes = palm + [_up(finger, skin) for finger in digits if finger.raised]
    # The folded thumb is over the other fingers. Without outlines, each folded finger has a shadow
    # on its right.
    layers = [_down(finger, skin) for finger in reversed(digits) if not finger.raised]
    if hand.look != "outlined":
        layers = [layer for folded in layers for layer in (_shadow(folded, skin), folded)]
    strokes += [
        replace(stroke, part=part) for part, layer in enumerate(layers, 1) for stroke in layer
    ]
    upright = hand.raised != THUMBS_UP or hand.flaw
    return tuple(strokes if upright else _turned(strokes, 80 + rng.uniform(-6, 6)))


def _posed(hand: Hand, rng: random.Random) -> tuple[_Finger, list[_Finger]]:
    """The thumb and the four other fingers of a hand, with random variations."""
    spread = rng.uniform(0.95, 1.2)
    length = rng.uniform(0.94, 1.08)
    thickness = rng.uniform(0.94, 1.05)
    if sum(hand.raised[1:]) == 2:
        spread *= rng.uniform(1.0, 1.5)  # two raised fingers spread more easily

    def vary(finger: _Finger, raised: bool, spread: float) -> _Finger:
        return replace(
            finger,
            angle=finger.angle * spread + rng.uniform(-1.5, 1.5),
            length=finger.length * length * rng.uniform(0.97, 1.03),
            radius=finger.radius * thickness,
            raised=raised,
        )

    thumb = vary(_THUMB, hand.raised[0], rng.uniform(0.9, 1.1))
    if hand.raised == THUMBS_UP:
        thumb = replace(thumb, angle=-80 + rng.uniform(-5, 5))
    return thumb, [
        vary(finger, raised, spread) for finger, raised in zip(_LONG, hand.raised[1:], strict=True)
    ]


def _flawed(fingers: list[_Finger], flaw: str | None, rng: random.Random) -> list[_Finger]:
    """The thumb and the other fingers with a flaw applied."""
    if flaw == "missing finger":
        lost = rng.choice([finger for finger in fingers if finger.raised])
        return [finger for finger in fingers if finger is not lost]
    if flaw == "extra finger":
        thumb, *long = fingers
        at = rng.randint(1, 3)
        length = (long[at - 1].length + long[at].length) / 2
        long.insert(at, replace(long[at], length=length, raised=True))
        positions = [k / 4 for k in range(5)]  # 0 to 1, along the upper edge of the palm
        spread = [
            replace(
                finger,
                x=0.84 * t - 0.42,
                y=-0.33 - 0.4 * t * (1 - t),
                angle=46 * t - 20,
                radius=0.88 * finger.radius,
            )
            for finger, t in zip(long, positions, strict=True)
        ]
        return [thumb, *spread]
    if flaw == "fused fingers":
        k = rng.choice([k for k in (1, 2, 3) if fingers[k].raised and fingers[k + 1].raised])
        one, two = fingers[k : k + 2]
        x, y, angle = (one.x + two.x) / 2, (one.y + two.y) / 2, (one.angle + two.angle) / 2
        fused = _Finger(x, y, angle, max(one.length, two.length), 1.6 * one.radius)
        return [*fingers[:k], fused, *fingers[k + 2 :]]
    return fingers


def _palm(fingers: Sequence[_Finger], skin: RGB) -> list[Stroke]:
    bones = [
        Stroke(finger.x, finger.y, 0.5 * finger.x, HEEL, 0.97 * finger.radius, 0.25, skin)
        for finger in fingers
    ]
    return [
        Stroke(0, 0.3, 0, 0.74, 0.32, 0.27, skin),
        Stroke(-0.2, HEEL, -0.33, 0.06, 0.25, 0.19, skin),
        *bones,
    ]


def _up(finger: _Finger, skin: RGB) -> Stroke:
    """A raised finger."""
    angle = math.radians(finger.angle)
    tip = finger.x + math.sin(angle) * finger.length, finger.y - math.cos(angle) * finger.length
    return Stroke(finger.x, finger.y, *tip, finger.radius, 0.86 * finger.radius, skin)


def _down(finger: _Finger, skin: RGB) -> list[Stroke]:
    """A folded finger with its tip on the palm; a folded thumb lies across the palm."""
    x, y, r = finger.x, finger.y, finger.radius
    if finger.thumb:
        color, bend = _shade(skin, 0.95), (x + 0.16, y - 0.02)
        return [
            Stroke(x - 0.02, y + 0.22, *bend, 1.1 * r, r, color),
            Stroke(*bend, x + 0.4, y - 0.08, r, 0.85 * r, color),
        ]
    return [Stroke(x, y, 0.96 * x, y + 0.42, 1.04 * r, 1.04 * r, _shade(skin, 0.9))]


def _shadow(folded: Sequence[Stroke], skin: RGB) -> list[Stroke]:
    """The shadow of a folded finger: its strokes, darker and shifted to the lower right."""
    dark = _shade(skin, 0.62)
    return [
        replace(s, ax=s.ax + 0.035, bx=s.bx + 0.035, ay=s.ay + 0.02, by=s.by + 0.03, color=dark)
        for s in folded
    ]


def _shade(color: RGB, by: float) -> RGB:
    return color[0] * by, color[1] * by, color[2] * by


def _turned(strokes: Sequence[Stroke], degrees: float) -> list[Stroke]:
    """The strokes rotated clockwise around the origin."""
    c, s = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    return [
        replace(
            k,
            ax=c * k.ax - s * k.ay,
            ay=s * k.ax + c * k.ay,
            bx=c * k.bx - s * k.by,
            by=s * k.bx + c * k.by,
        )
        for k in strokes
    ]


def digits_of(hand: Hand) -> str:
    """The raised fingers as five digits 0 or 1, thumb first: a key of GESTURES and of the names."""
    return "".join("1" if up else "0" for up in hand.raised)
