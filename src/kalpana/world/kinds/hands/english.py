"""English captions of hands."""

from __future__ import annotations

import random
from collections.abc import Sequence

from kalpana.world import grammar_en
from kalpana.world.defaults import background_said, look_said, skin_said
from kalpana.world.kinds.hands.anatomy import COUNTING, Raised, count, digits_of, usual
from kalpana.world.scene import Hand, Scene

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


def english_caption(scene: Scene, hands: Sequence[Hand], form: str, rng: random.Random) -> str:
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
    names = ENGLISH_NAMES.get(digits_of(hand), ())
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
