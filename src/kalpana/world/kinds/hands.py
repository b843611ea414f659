"""Hands with raised fingers: one hand, or two side by side, in common gestures from 0 to 5 fingers.

A hand is a palm, a wrist and five fingers, each raised or folded over the palm, so that every
counted finger is visible. Flawed hands (an extra, a missing or two fused fingers) are sampled only
by ``sample_flawed`` and ``one_flawed``: a verifier learns to reject them.
"""

from __future__ import annotations

import itertools
import math
import random
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

from kalpana.world import figures, grammar_en, grammar_hi, places
from kalpana.world.defaults import (
    background_kind,
    background_said,
    choose_look,
    choose_skin,
    look_said,
    skin_said,
)
from kalpana.world.figures import RGB, SKINS, Figure, Stroke
from kalpana.world.scene import (
    BACKDROPS,
    DARK_PLACES,
    PLACES,
    Background,
    Group,
    Hand,
    Scene,
    SceneObject,
)

Raised = tuple[bool, bool, bool, bool, bool]  # thumb, index, middle, ring and little finger


def _raised(digits: str) -> Raised:
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
THUMBS_UP = _raised("10000")
COUNTING = {  # gestures that stand for a number
    _raised(digits) for digits in ("01000", "01100", "11000", "01110", "11100", "01111", "11111")
}
PAIRS = 0.15  # share of pictures with two hands
CLASHES = {  # places with too little contrast to a skin, unless the hand is outlined
    "yellow": (),
    "pale": ("beach", "room", "lounge"),
    "tan": ("beach", "room", "lounge"),
    "brown": ("mountains", "room", "lounge"),
    "dark": ("mountains", "night", "city"),
}
MARGIN = 0.02  # of the picture's side


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
    return _digits(hand) == max(gestures, key=lambda digits: gestures[digits])


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


def sample(rng: random.Random, split: str = "train") -> Scene:
    """Random scene of one hand, or of two side by side.

    About a tenth of all combinations of gesture, skin and look occur in the split "unseen" only.
    """
    while True:
        hands = [one(rng) for _ in range(2 if rng.random() < PAIRS else 1)]
        if len(hands) == 2:  # both hands are of one person
            hands[1] = replace(hands[1], skin=hands[0].skin, look=hands[0].look)
        if any(held_out(hand) for hand in hands) == (split == "unseen"):
            return _scene(rng, hands)


def sample_flawed(rng: random.Random) -> Scene:
    """Random scene of one flawed hand; its caption describes the hand without the flaw."""
    return _scene(rng, [one_flawed(rng)])


def held_out(hand: Hand) -> bool:
    """Whether this combination of gesture, skin and look is held out for the split "unseen"."""
    return zlib.crc32(repr((hand.raised, hand.skin, hand.look)).encode()) % 10 == 0


def one(rng: random.Random) -> Hand:
    """Random hand; all counts of fingers have the same probability."""
    gestures = rng.choice(GESTURES)
    digits = rng.choices(list(gestures), list(gestures.values()))[0]
    skin, look = choose_skin(rng, tuple(SKINS)), choose_look(rng)
    return Hand(_raised(digits), skin, look, rng.randrange(1 << 30))


def one_flawed(rng: random.Random) -> Hand:
    """Random hand with a flaw; all flaws have the same probability."""
    flaw = rng.choice(FLAWS)
    while flaw not in flaws_of((hand := one(rng)).raised):
        pass
    return replace(hand, flaw=flaw)


def _scene(rng: random.Random, hands: Sequence[Hand]) -> Scene:
    width = 1 / len(hands)
    objects = [
        _place(rng, hand, k * width, (k + 1) * width, k == 1, k) for k, hand in enumerate(hands)
    ]
    groups = tuple(Group("hand") for _ in hands)
    relation = "left of" if len(hands) == 2 else None
    return Scene(tuple(objects), groups, background(rng, hands[0]), relation)


def _place(
    rng: random.Random, hand: Hand, left: float, right: float, flip: bool, group: int
) -> SceneObject:
    """The hand at a random position, completely between ``left`` and ``right``."""
    width, height = figures.extent(figure(hand))
    room_w, room_h = right - left - 2 * MARGIN, 1 - 2 * MARGIN
    size = min(rng.uniform(0.6, 0.9), room_w / width, room_h / height)
    half_w, half_h = size * width / 2 + MARGIN, size * height / 2 + MARGIN
    x, y = rng.uniform(left + half_w, right - half_w), rng.uniform(half_h, 1 - half_h)
    return SceneObject(hand, x, y, size, 0.0, flip, group=group)


def background(rng: random.Random, hand: Hand) -> Background:
    """Random background with enough contrast to the hand."""
    kind = background_kind(rng)
    outlined = hand.look == "outlined"
    if kind == "place":
        fit = [
            p for p in PLACES if p not in CLASHES[hand.skin] or (outlined and p not in DARK_PLACES)
        ]
        return Background(kind, rng.choice(fit), rng.randrange(1 << 30))
    # Least RGB distance. Outlines are dark, so they help little around dark skin.
    enough = 0.45 if hand.skin == "dark" else 0.2 if outlined else 0.27
    # Shares of white in the backdrop; a gradient has at least 0.6 at its lighter end.
    fades = (0.0, 0.3, 0.6) if kind == "gradient" else (0.0,)

    def contrast(name: str) -> float:
        tints = ([c + (0.97 - c) * t for c in places.COLORS[name]] for t in fades)
        return min(math.dist(SKINS[hand.skin], tint) for tint in tints)

    backdrops = [name for name in BACKDROPS if contrast(name) > enough]
    return Background(kind, rng.choice(backdrops), rng.randrange(1 << 30))


def caption(scene: Scene, language: str, form: str, rng: random.Random) -> str:
    """Caption of a hand scene, in English ("en") or Hindi.

    It gives each hand's count of raised fingers by number or by the gesture's name, and in some
    captions skin, look and background.
    """
    hands = [item.sprite for item in scene.objects if isinstance(item.sprite, Hand)]
    return (_english if language == "en" else _hindi)(scene, hands, form, rng)


# ----------------------------------------------------------------------------------------- English
# {hand} is "a brown hand"; {skin} is "brown " or empty; the article of a gesture's name is added
# afterwards. The first PLAIN patterns are the short form.

PLAIN = 5
ENGLISH = (
    "{hand} showing {n} {fingers}",
    "{hand} with {n} raised {fingers}",
    "{hand} holding up {n} {fingers}",
    "{hand} with {n} {fingers} up",
    "{hand} with {n} {fingers} raised",
    "{hand} raising {n} {fingers}",
    "{hand} that shows {n} {fingers}",
    "{hand} with exactly {n} {fingers} up",
    "{hand} sticking up {n} {fingers}",
    "{n} {fingers} held up by {hand}",
    "{n} raised {fingers} on {hand}",
    "{n} {fingers} of {hand} raised",
    "{hand}, {n} {fingers} raised",
    "{hand}: {n} {fingers} up",
)
ENGLISH_FOLDED = (  # not for an open hand
    "{hand} with {n} {fingers} held up and the rest folded",
    "{hand} with only {n} {fingers} up",
)
ENGLISH_LOOSE = (
    "{n} {fingers} held up",
    "{n} {fingers} up",
    "{n} raised {fingers}",
    "holding up {n} {fingers}",
    "showing {n} {fingers}",
)
ENGLISH_SENTENCES = (
    "{hand} shows {n} {fingers}.",
    "{hand} is holding up {n} {fingers}.",
    "There is {hand} with {n} raised {fingers}.",
    "The picture shows {hand} with {n} {fingers} up.",
    "{n} {fingers} of {hand} {are} raised.",
)
ENGLISH_SIGNED = (
    "{hand} showing the number {n}",
    "{hand} counting to {n}",
    "{hand} signing the number {n}",
)
ENGLISH_NAMES = {
    "00000": (
        "{skin}fist",
        "closed {skin}fist",
        "clenched {skin}fist",
        "{skin}hand closed into a fist",
        "{skin}hand with no fingers raised",
        "{skin}hand making a fist",
        "{skin}hand with all fingers folded",
    ),
    "10000": (
        "{skin}thumbs up",
        "{skin}thumbs-up",
        "{skin}hand giving a thumbs up",
        "{skin}hand with the thumb up",
        "{skin}thumbs-up sign",
        "{skin}thumb pointing up",
    ),
    "01000": (
        "{skin}hand pointing up",
        "{skin}index finger pointing up",
        "{skin}hand with its index finger up",
        "{skin}hand pointing upwards",
        "raised {skin}index finger",
    ),
    "00001": (
        "{skin}hand with its little finger up",
        "{skin}hand with a raised pinky",
        "raised {skin}pinky",
    ),
    "01100": (
        "{skin}peace sign",
        "{skin}victory sign",
        "{skin}V sign",
        "{skin}hand making a peace sign",
        "{skin}hand making a victory sign",
        "{skin}hand making the V sign",
    ),
    "11000": (
        "{skin}hand making an L",
        "{skin}hand making an L shape",
        "{skin}hand with thumb and index finger out",
    ),
    "10001": (
        "{skin}call me sign",
        "{skin}hand making a call me sign",
        "{skin}shaka sign",
        "{skin}hand with thumb and pinky out",
    ),
    "01001": (
        "{skin}hand making the sign of the horns",
        "{skin}rock on sign",
        "{skin}hand making a rock on sign",
    ),
    "11001": ("{skin}hand making the I love you sign", "{skin}I love you hand sign"),
    "01111": (
        "{skin}hand with all fingers up but the thumb",
        "{skin}hand with the thumb folded in",
    ),
    "11111": (
        "open {skin}hand",
        "{skin}hand with all fingers spread",
        "open {skin}palm",
        "{skin}hand with all five fingers spread",
        "wide open {skin}hand",
        "{skin}high five",
        "raised {skin}hand with open fingers",
    ),
}
ENGLISH_SKINS = {
    "yellow": ("yellow", "yellow", "bright yellow", "yellow-skinned"),
    "pale": ("pale", "light-skinned", "fair-skinned", "pale-skinned"),
    "tan": ("tan", "tan-skinned", "tanned"),
    "brown": ("brown", "brown", "brown-skinned"),
    "dark": ("dark brown", "dark-skinned", "dark"),
}
ENGLISH_LOOKS = {  # look: (noun phrases for a picture, phrases for its manner)
    "flat": (
        ("a flat drawing", "a flat illustration"),
        ("in a flat style", "flat style", "drawn flat"),
    ),
    "outlined": (
        ("an outlined drawing", "an outlined cartoon"),
        ("in an outlined style", "outlined", "drawn in outlines"),
    ),
    "shaded": (
        ("a shaded drawing", "a shaded illustration"),
        ("in a shaded style", "shaded", "softly shaded"),
    ),
}
ENGLISH_PAIRS = (  # the first two name no sides
    "{a} and {b}",
    "two hands: {a} and {b}",
    "{a} on the left and {b} on the right",
    "{b} on the right and {a} on the left",
    "two hands, {a} on the left and {b} on the right",
    "{a} to the left of {b}",
    "{b} to the right of {a}",
    "on the left {a}, on the right {b}",
)


def _english(scene: Scene, hands: Sequence[Hand], form: str, rng: random.Random) -> str:
    dense = form == "dense"
    skin = ""
    if dense or skin_said(rng, hands[0].skin):
        skin = rng.choice(ENGLISH_SKINS[hands[0].skin]) + " "
    medium, manner = (rng.choice(words) for words in ENGLISH_LOOKS[hands[0].look])
    if len(hands) == 2:
        a, b = (_english_hand(hand, form, skin, True, rng) for hand in hands)
        text = rng.choice(ENGLISH_PAIRS[2:] if dense else ENGLISH_PAIRS).format(a=a, b=b)
    else:
        text = _english_hand(hands[0], form, skin, False, rng)
    where, what = grammar_en.surroundings(scene.background, rng, text)
    if dense:
        where = where.removeprefix(", ")
        return rng.choice(
            (
                f"{grammar_en.capital(text)}, {where}, {manner}.",
                f"{grammar_en.capital(medium)} of {text}, {where}.",
                f"{grammar_en.capital(medium)} of {text}. The background is {what}.",
                f"{grammar_en.capital(text)}, {manner}. The background is {what}.",
                f"The background is {what}. {grammar_en.capital(text)}, {manner}.",
            )
        )
    where = where if background_said(rng, scene.background, form) else ""
    look = look_said(rng, hands[0].look)
    if text.endswith("."):
        setting = f" The background is {what}." if where else ""
        return grammar_en.capital(text) + setting + (f" It is {medium}." if look else "")
    if text.startswith(("a ", "an ")):
        if look and rng.random() < 0.5:
            text, look = f"{medium} of {text}", False
        elif not look and rng.random() < 0.15:
            text = rng.choice((*grammar_en.PICTURES, "draw")) + " " + text
    if where and not where.startswith(","):
        where = rng.choice((" ", ", ")) + where
    return text + where + (f", {manner}" if look else "")


def _english_hand(hand: Hand, form: str, skin: str, paired: bool, rng: random.Random) -> str:
    """English noun phrase for one hand, or a sentence in the natural form."""
    n, dense = count(hand), form == "dense"
    names = ENGLISH_NAMES.get(_digits(hand), ())
    listed = not usual(hand)  # list the fingers: the count alone would suggest others
    if n == 0 or (not dense and names and rng.random() < (0.7 if listed else 0.4)):
        words = rng.choice(names).format(skin=skin)
        return f"{grammar_en.article(words)} {words}"
    noun = f"{grammar_en.article(skin or 'hand')} {skin}hand"
    if not dense and n < 5 and (listed or (form == "natural" and rng.random() < 0.2)):
        return f"{noun} with {_english_list(hand.raised)} {rng.choice(('up', 'raised', 'held up'))}"
    if form == "short" or paired:
        table = ENGLISH[:PLAIN]
    else:
        table = ENGLISH + (ENGLISH_FOLDED if n < 5 else ())
    if form == "natural" and not paired:
        loose = () if skin else ENGLISH_LOOSE
        signed = ENGLISH_SIGNED if hand.raised in COUNTING else ()
        table += ENGLISH_SENTENCES + loose + signed
    number = grammar_en.NUMERALS[n - 1] if rng.random() < 0.75 else str(n)
    fingers, are = ("finger", "is") if n == 1 else ("fingers", "are")
    text = rng.choice(table).format(hand=noun, n=number, fingers=fingers, are=are)
    if dense and n < 5 and (listed or rng.random() < 0.4):
        return f"{text} ({_english_list(hand.raised)})"
    return text


def _english_list(raised: Raised) -> str:
    """List of the raised fingers: "the index finger", "the thumb, index and middle fingers"."""
    fingers = ("thumb", "index", "middle", "ring", "little")
    names = [name for name, up in zip(fingers, raised, strict=True) if up]
    text = "the " + (", ".join(names[:-1]) + " and " if names[1:] else "") + names[-1]
    long = sum(raised[1:])
    return text + (" fingers" if long > 1 else " finger" if long else "")


def _digits(hand: Hand) -> str:
    """The raised fingers as five digits 0 or 1, thumb first: a key of GESTURES and of the names."""
    return "".join("1" if up else "0" for up in hand.raised)


# ------------------------------------------------------------------------------------------- Hindi
# {hand} is "एक भूरा हाथ" and {hand_o} the same before a postposition; {m} and {f} are the skin,
# agreeing with a masculine or feminine noun; {ek} is "एक " or empty; {u} is उँगली or उँगलियाँ and
# {u_o} the same before a postposition; {hai} agrees with {u}.

HINDI = (
    "{n} {u} दिखाता {hand}",
    "{hand} जिसकी {n} {u} उठी {hai}",
    "{n} उठी हुई {u_o} वाला {hand}",
    "{n} {u} उठाए {hand}",
    "{n} {u} दिखाता हुआ {hand}",
    "{n} {u} उठाए हुए {hand}",
    "{n} {u} खोले {hand}",
    "ठीक {n} {u} दिखाता {hand}",
    "{hand} जो {n} {u} दिखा रहा है",
    "{hand} जिसमें {n} {u} ऊपर {hai}",
    "{hand} जिसने {n} {u} उठाई {hai}",
    "{hand_o} की {n} उठी हुई {u}",
    "{hand_o} की {n} {u} ऊपर",
    "{hand}, {n} {u} ऊपर",
    "{n} {u} ऊपर किए {hand}",
)
HINDI_LOOSE = ("{n} {u} ऊपर", "{n} उठी हुई {u}", "ऊपर उठी {n} {u}", "हाथ की {n} {u} ऊपर")
HINDI_SENTENCES = (
    "{hand} {n} {u} दिखा रहा है।",
    "{hand_o} की {n} {u} उठी {hai}।",
    "{hand_o} ने {n} {u} उठाई {hai}।",
    "तस्वीर में {n} {u} दिखाता {hand} है।",
    "यहाँ {hand} है जिसकी {n} {u} ऊपर {hai}।",
)
HINDI_SIGNED = ("{n} का इशारा करता {hand}", "{hand_o} से {n} का इशारा", "{n} की संख्या दिखाता {hand}")
HINDI_NAMES = {
    "00000": (
        "{ek}{f}बंद मुट्ठी",
        "{ek}{f}मुट्ठी",
        "{ek}{f}भिंची हुई मुट्ठी",
        "{ek}{f}बँधी हुई मुट्ठी",
        "मुट्ठी बाँधे {hand}",
        "सभी उँगलियाँ मोड़े {hand}",
        "{hand} जिसकी कोई उँगली नहीं उठी है",
    ),
    "10000": (
        "{m}अंगूठा ऊपर",
        "ऊपर उठा {m}अंगूठा",
        "थम्स अप करता {hand}",
        "अंगूठा ऊपर किए {hand}",
        "थम्स अप का इशारा करता {hand}",
    ),
    "01000": (
        "ऊपर इशारा करता {hand}",
        "ऊपर की ओर इशारा करता {hand}",
        "तर्जनी उठाए {hand}",
        "ऊपर उठी {f}तर्जनी",
        "तर्जनी से ऊपर इशारा करता {hand}",
    ),
    "00001": ("छोटी उँगली उठाए {hand}", "कनिष्ठा उठाए {hand}", "{hand} जिसकी छोटी उँगली उठी है"),
    "01100": (
        "विजय का इशारा करता {hand}",
        "जीत का निशान बनाता {hand}",
        "शांति का इशारा करता {hand}",
        "{hand_o} से विजय चिह्न",
        "वी का निशान बनाता {hand}",
    ),
    "11000": ("एल का आकार बनाता {hand}", "अंगूठा और तर्जनी फैलाए {hand}"),
    "10001": (
        "फ़ोन का इशारा करता {hand}",
        "शाका का इशारा करता {hand}",
        "अंगूठा और छोटी उँगली फैलाए {hand}",
    ),
    "01001": ("रॉक का इशारा करता {hand}", "सींगों का इशारा करता {hand}"),
    "11001": ("आई लव यू का इशारा करता {hand}",),
    "01111": ("अंगूठे को छोड़कर सारी उँगलियाँ उठाए {hand}", "अंगूठा मोड़े और बाक़ी उँगलियाँ उठाए {hand}"),
    "11111": (
        "{ek}{m}खुला हाथ",
        "{ek}{m}फैला हुआ हाथ",
        "{ek}{f}खुली हथेली",
        "सभी उँगलियाँ फैलाए {hand}",
        "पाँचों उँगलियाँ खोले {hand}",
        "{hand} जिसकी सारी उँगलियाँ खुली हैं",
    ),
}
HINDI_FINGERS = ("अंगूठा", "तर्जनी", "मध्यमा", "अनामिका", "कनिष्ठा")
HINDI_SKINS = {
    "yellow": ("पीला",),
    "pale": ("गोरा",),
    "tan": ("गेहुँआ",),
    "brown": ("भूरा", "भूरा", "साँवला"),
    "dark": ("गहरा भूरा", "गहरा साँवला"),
}
HINDI_LOOKS = {
    "flat": ("सपाट शैली", "सपाट चित्र शैली"),
    "outlined": ("रेखांकित शैली", "रेखांकित कार्टून शैली"),
    "shaded": ("छायांकित शैली", "हल्की छाया वाली शैली"),
}
HINDI_PAIRS = (  # the first two name no sides
    "{a} और {b}",
    "दो हाथ: {a} और {b}",
    "बाईं ओर {a} और दाईं ओर {b}",
    "दाईं ओर {b} और बाईं ओर {a}",
    "बाएँ {a}, दाएँ {b}",
    "दो हाथ, बाईं तरफ़ {a} और दाईं तरफ़ {b}",
)


def _hindi(scene: Scene, hands: Sequence[Hand], form: str, rng: random.Random) -> str:
    dense = form == "dense"
    skin = rng.choice(HINDI_SKINS[hands[0].skin]) if dense or skin_said(rng, hands[0].skin) else ""
    style = rng.choice(HINDI_LOOKS[hands[0].look])
    if len(hands) == 2:
        a, b = (_hindi_hand(hand, form, skin, True, rng) for hand in hands)
        text = rng.choice(HINDI_PAIRS[2:] if dense else HINDI_PAIRS).format(a=a, b=b)
    else:
        text = _hindi_hand(hands[0], form, skin, False, rng)
    where, what = grammar_hi.surroundings(scene.background, rng)
    where = where if background_said(rng, scene.background, form) else ""
    style = style if dense or look_said(rng, hands[0].look) else ""
    if text.endswith("।"):
        text += (f" पृष्ठभूमि: {what}।" if where else "") + (f" शैली: {style}।" if style else "")
    elif dense:
        text = rng.choice(
            (
                f"{where} {text}, {style} में।",
                f"{style} में {text}, {where}।",
                f"{text}। पृष्ठभूमि में {what} है। शैली: {style}।",
                f"पृष्ठभूमि में {what} है। {text}, {style} में।",
            )
        )
    else:
        if where and rng.random() < 0.5:
            text, where = f"{where} {text}", ""
        elif style and rng.random() < 0.5:
            text, style = f"{style} में {text}", ""
        text += (f", {where}" if where else "") + (f", {style} में" if style else "")
    return grammar_hi.casual(text) if rng.random() < 0.15 else text


def _hindi_hand(hand: Hand, form: str, skin: str, paired: bool, rng: random.Random) -> str:
    """Hindi noun phrase for one hand, or a clause or sentence where the form allows one."""
    n, dense = count(hand), form == "dense"
    ek = "एक " if rng.random() < 0.4 else ""
    skinned = rng.random() < 0.2  # भूरी त्वचा वाला, rather than भूरा

    def attribute(gender: str, oblique: bool = False) -> str:
        if not skin:
            return ""
        agreement = "f" if skinned else gender
        words = [grammar_hi.inflect(word, agreement, False, oblique) for word in skin.split()]
        if skinned:
            words += ["त्वचा", grammar_hi.inflect("वाला", gender, False, oblique)]
        return " ".join(words) + " "

    slots = {
        "hand": f"{ek}{attribute('m')}हाथ",
        "hand_o": f"{ek}{attribute('m', oblique=True)}हाथ",
        "m": attribute("m"),
        "f": attribute("f"),
        "ek": ek,
        "u": "उँगली" if n == 1 else "उँगलियाँ",
        "u_o": "उँगली" if n == 1 else "उँगलियों",
        "hai": "है" if n == 1 else "हैं",
    }
    names = HINDI_NAMES.get(_digits(hand), ())
    unusual = not usual(hand)
    if n == 0 or (not dense and names and rng.random() < (0.7 if unusual else 0.4)):
        return rng.choice(names).format(**slots)
    fingers = [name for name, up in zip(HINDI_FINGERS, hand.raised, strict=True) if up]
    listed = (", ".join(fingers[:-1]) + " और " if fingers[1:] else "") + fingers[-1]
    if not dense and n < 5 and (unusual or (form == "natural" and rng.random() < 0.2)):
        return f"{listed} उठाए {slots['hand']}"
    table = HINDI[:PLAIN] if form == "short" else HINDI
    if paired:  # noun phrases only: a clause would run into the phrase of the next hand
        table = tuple(pattern for pattern in table if pattern.endswith("{hand}"))
    elif form == "natural":
        loose = () if skin else HINDI_LOOSE
        signed = HINDI_SIGNED if hand.raised in COUNTING else ()
        table += HINDI_SENTENCES + loose + signed
    roll = rng.random()
    if roll < 0.75:
        number = grammar_hi.NUMERALS[n - 1]
    else:
        number = str(n) if roll < 0.92 else grammar_hi.DIGITS[n]
    text = rng.choice(table).format(n=number, **slots)
    return f"{text} ({listed})" if dense and n < 5 and (unusual or rng.random() < 0.4) else text
