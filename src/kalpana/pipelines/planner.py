"""Layout planner: the glyph map of a quoted word in a prompt, from the layouts of the training
scenes. Of several layouts the one with the largest letters is taken, as small ones are illegible.
"""

from __future__ import annotations

import random
import re
from dataclasses import dataclass

from torch import Tensor

from kalpana.text.normalize import clean
from kalpana.world.controls import glyphs
from kalpana.world.kinds import signs
from kalpana.world.scene import Scene

QUOTED = re.compile(r"\"([^\"]+)\"")
BOARDS = re.compile(r"\b(sign|signboard|board|label|poster)\b|बोर्ड|लेबल|तख़्ती|पोस्टर", re.IGNORECASE)
SIDES = {"above": "above", "over": "above", "below": "below", "under": "below"}
HINDI_SIDES = {"ऊपर": "above", "नीचे": "below"}
WORD, HINDI = re.compile(r"\w+"), re.compile(r"[\u0900-\u097f]+")
LAYOUTS = 6  # drawn for a prompt, of which one is taken
OPPOSITE = {"above": "below", "below": "above"}


@dataclass(frozen=True)
class GlyphPlan:
    """The glyph map (3, side, side) in [0, 1] of a ``word``, and its ``box`` (left, top, right,
    bottom) as shares of the picture's sides."""

    word: str
    box: tuple[float, float, float, float]
    map: Tensor


def plan_glyphs(prompt: str, seed: int, side: int = 128) -> GlyphPlan | None:
    """The plan for the only quoted word of a prompt; None if there is none, there are several, or
    it is too long to be legible. Equal arguments give equal plans."""
    text = clean(prompt)
    quotes = list(QUOTED.finditer(text))
    if len(quotes) != 1:
        return None
    (quote,) = quotes
    word, around = quote[1].strip(), f"{text[: quote.start()]} {text[quote.end() :]}"
    rng = random.Random(f"{seed}/{text}")
    board = bool(BOARDS.search(around))
    drawn = [signs.layout(word, _side(text, quote), board, rng) for _ in range(LAYOUTS)]
    scenes = [(scene, _box(scene)) for scene in drawn if scene is not None]
    if not scenes:
        return None
    scene, box = max(scenes, key=lambda each: each[1][3] - each[1][1])
    return GlyphPlan(word, box, glyphs([scene], side)[0])


def _box(scene: Scene) -> tuple[float, float, float, float]:
    """Box of the sign of a scene, as shares of the picture's sides."""
    k, sign = signs.sign_of(scene)
    item, (width, height) = scene.objects[k], signs.extent(sign)
    half_w, half_h = item.size * width / 2, item.size * height / 2
    return item.x - half_w, item.y - half_h, item.x + half_w, item.y + half_h


def _side(text: str, quote: re.Match[str]) -> str | None:
    """Whether the quoted word is above or below something, as a prompt states it; None: neither."""
    before, after = text[: quote.start()].lower(), text[quote.end() :].lower()
    english = [[SIDES[w] for w in WORD.findall(part) if w in SIDES] for part in (before, after)]
    hindi = [
        [side for w in HINDI.findall(part) if (side := HINDI_SIDES.get(w))]
        for part in (before, after)
    ]
    if hindi[0]:  # बिल्ली के ऊपर "नमस्ते": the word is above
        return hindi[0][-1]
    if english[1]:  # the word "OPEN" above a cat
        return english[1][0]
    opposite = [*hindi[1][:1], *english[0][-1:]]  # "नमस्ते" के नीचे बिल्ली; a cat below "OPEN"
    return OPPOSITE[opposite[0]] if opposite else None
