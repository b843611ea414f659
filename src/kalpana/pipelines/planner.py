"""Layout planner: control maps that follow from a prompt, by the layouts of the training scenes.

``plan_glyphs`` places the letters of a quoted word: of several layouts the one with the largest
letters is taken, as small ones are illegible. ``plan_layout`` places the objects that a prompt
counts and relates, as boxes: of several layouts the one whose smallest object is largest.
``planned`` is both for a request.
"""

from __future__ import annotations

import random
import re
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from kalpana.capabilities import Capabilities
from kalpana.request import PLANS, Request
from kalpana.text.normalize import clean
from kalpana.text.transliterate import transliterate
from kalpana.world.controls import box_map, glyphs, object_boxes
from kalpana.world.kinds import signs
from kalpana.world.layout import layout
from kalpana.world.lexicon import lexicon
from kalpana.world.scene import Scene

QUOTED = re.compile(r"\"([^\"]+)\"")
BOARDS = re.compile(r"\b(sign|signboard|board|label|poster)\b|बोर्ड|लेबल|तख़्ती|पोस्टर", re.IGNORECASE)
SIDES = {"above": "above", "over": "above", "below": "below", "under": "below"}
HINDI_SIDES = {"ऊपर": "above", "नीचे": "below"}
WORD, HINDI = re.compile(r"\w+"), re.compile(r"[\u0900-\u097f]+")
LAYOUTS = 6  # drawn for a prompt, of which one is taken
OPPOSITE = {"above": "below", "below": "above"}
STRENGTH = {"glyphs": 1.0, "boxes": 1.0}  # of a planned map
# Share of the denoising in which a planned map acts, from the first to the second.
WINDOW = {"glyphs": (0.0, 1.0), "boxes": (0.0, 1.0)}
NO_LAYOUT = (
    "it does not state one or two kinds of objects with their number, in words of the training "
    "captions, such as 'seven stars' or 'a rocket above the moon'"
)

Box = tuple[float, float, float, float]  # left, top, right, bottom as shares of the picture's sides


@dataclass(frozen=True)
class GlyphPlan:
    """The glyph map (3, side, side) in [0, 1] of a ``word``, and its ``box``."""

    word: str
    box: Box
    map: Tensor

    def facts(self) -> dict[str, Any]:
        """The plan as JSON types."""
        return {"word": self.word, "box": list(self.box)}


@dataclass(frozen=True)
class LayoutPlan:
    """The map (3, side, side) in [0, 1] of the ``boxes`` of objects, and the English ``names`` of
    the objects."""

    names: tuple[str, ...]
    boxes: tuple[Box, ...]
    map: Tensor

    def facts(self) -> list[dict[str, Any]]:
        """The plan as JSON types."""
        pairs = zip(self.names, self.boxes, strict=True)
        return [{"object": name, "box": list(box)} for name, box in pairs]


@dataclass(frozen=True)
class Planned:
    """What is planned for the pictures of a request: the ``maps`` by kind, (b, 4, h, w), RGB in
    [-1, 1] and the strength, which is 0 for a picture without a plan; and the ``facts`` of each
    picture for its receipt."""

    maps: dict[str, Tensor] = field(default_factory=dict)
    facts: tuple[dict[str, Any], ...] = ()


def planned(request: Request, able: Capabilities) -> Planned:
    """The plans of a resolved request for a model of these capabilities, one for each seed."""
    seeds, side = request.each_seed(), request.width or 0
    facts: list[dict[str, Any]] = [{} for _ in seeds]
    maps = dict[str, Tensor]()
    for kind in PLANS[request.plan]:
        if kind not in able.controls or _obstacle(kind, request, able):
            continue
        plan = plan_glyphs if kind == "glyphs" else plan_layout
        plans = [plan(request.prompt, seed, side) for seed in seeds]
        if not any(plans):
            continue
        maps[kind] = torch.stack([_row(kind, each, side) for each in plans])
        for own, each in zip(facts, plans, strict=True):
            own |= {} if each is None else {kind: each.facts()}
    return Planned(maps, tuple({"plan": each} if each else {} for each in facts))


def unplanned(request: Request, able: Capabilities) -> tuple[str, ...]:
    """Notes for the user on why a resolved request gets no layout, where it asks for one."""
    if "boxes" not in PLANS[request.plan]:
        return ()
    why = _obstacle("boxes", request, able)
    if why is None and plan_layout(request.prompt, request.each_seed()[0]) is None:
        why = f"of the prompt: {NO_LAYOUT}"
    return () if why is None else (f"plan: no layout is planned {why}",)


def _obstacle(kind: str, request: Request, able: Capabilities) -> str | None:
    """The reason for which no map of a kind is planned for a request, whatever its prompt."""
    given = [each.kind for each in request.control or ()]
    if given and (kind == "glyphs" or kind in given):
        return f"beside the control map of {given[0] if kind == 'glyphs' else kind} that is given"
    if request.image is not None:
        return "for a picture to start from"
    if request.size != able.sizes[0] or request.width != request.height:
        return f"at {request.size}, but at {able.sizes[0]}"
    return None


def _row(kind: str, plan: GlyphPlan | LayoutPlan | None, side: int) -> Tensor:
    """A planned map (4, side, side) as the network reads it; of strength 0 without a plan."""
    if plan is None:
        return torch.zeros(4, side, side)
    return F.pad(2 * plan.map - 1, (0, 0, 0, 0, 0, 1), value=STRENGTH[kind])


def plan_layout(prompt: str, seed: int, side: int = 128) -> LayoutPlan | None:
    """The boxes of the objects that a prompt states, in English or Hindi; None for a prompt that is
    not one or two counted kinds of objects in words of the grammar. Equal arguments give equal
    plans."""
    text = clean(prompt)
    if (spelled := transliterate(text)) is not None:
        text = spelled.text
    rng = random.Random(f"{seed}/{text}")
    drawn = [layout(text, rng) for _ in range(LAYOUTS)]
    scenes = [scene for scene in drawn if scene is not None]
    if not scenes:
        return None
    scene = max(scenes, key=lambda each: min(item.size for item in each.objects))
    boxes = object_boxes(scene, side)
    shares: list[Box] = [tuple((box / side).tolist()) for box in boxes]
    names = [lexicon()[scene.groups[item.group].concept].en for item in scene.objects]
    return LayoutPlan(tuple(names), tuple(shares), box_map(boxes, side).expand(3, -1, -1))


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


def _box(scene: Scene) -> Box:
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
