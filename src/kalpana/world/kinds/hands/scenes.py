"""Random scenes of one hand, or of two side by side."""

from __future__ import annotations

import math
import random
import zlib
from collections.abc import Sequence
from dataclasses import replace

from kalpana.world import figures, places
from kalpana.world.defaults import background_kind, choose_look, choose_skin
from kalpana.world.figures import SKINS
from kalpana.world.kinds.hands.anatomy import FLAWS, GESTURES, figure, flaws_of, raised_of
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

PAIRS = 0.15  # share of pictures with two hands
CLASHES = {  # places with too little contrast to a skin, unless the hand is outlined
    "yellow": (),
    "pale": ("beach", "room", "lounge"),
    "tan": ("beach", "room", "lounge"),
    "brown": ("mountains", "room", "lounge"),
    "dark": ("mountains", "night", "city"),
}
MARGIN = 0.02  # of the picture's side


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
    return Hand(raised_of(digits), skin, look, rng.randrange(1 << 30))


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
