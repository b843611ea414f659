"""Clips-200: two hundred prompts that ask for motion or for a move of the camera, and the true clips of the world that they describe.

English and Hindi by turns. Words say ranges: where a pace is named, the clip's speed is one that the world calls so.
"""

from __future__ import annotations

import itertools
import random
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import Any

import torch
from torch import Tensor

from kalpana.evaluate.suites import Prompt
from kalpana.evaluate.verifiers.observations import Detection, Observation
from kalpana.types import KalpanaError
from kalpana.world import maps
from kalpana.world import video as world
from kalpana.world.grammar import FORMS
from kalpana.world.render import Rendering, render
from kalpana.world.scene import Group
from kalpana.world.video import CAMERAS, DIRECTIONS, FAST, SLOW, Clip

SIDE = 64  # pixels of a true clip
SHOWN = 0.4  # share of a thing that must be seen for a verifier without error to see it
PACES = {"slow": SLOW, "fast": FAST}


@dataclass(frozen=True)
class ClipPrompt:
    """A prompt for a clip: its ``text``, in the ``language`` "en" or "hi", a ``clip`` of the world that it describes, and the ``pace``
    that it names: "slow", "fast" or "". ``task`` is the event, or the camera's move; ``number`` its place in the suite."""

    text: str
    language: str
    task: str
    clip: Clip
    pace: str
    number: int

    @property
    def groups(self) -> tuple[Group, ...]:
        return self.clip.scene.groups

    def of(self, task: str) -> Prompt:
        """What it asks of a picture, filed under a task: a row of score.table."""
        return Prompt(self.text, self.language, task, self.groups, exact=True)


class _Wanting(random.Random):
    """Chance that, whenever it may choose what is wanted, chooses that."""

    wanted: tuple[Any, ...] = ()

    def choice(self, seq: Any) -> Any:
        return next((want for want in self.wanted if want and want in seq), None) or super().choice(
            seq
        )


def load(dev: bool = False) -> list[ClipPrompt]:
    """The prompts of Clips-200, or of its dev twin, English and Hindi by turns; always the same."""
    return list(_load(dev))


@cache
def _load(dev: bool) -> tuple[ClipPrompt, ...]:
    prompts: dict[str, ClipPrompt] = {}
    asked: set[str] = set()
    for i, (task, wanted, pace, objects) in enumerate(_quotas()):
        language, form = ("en", "hi")[i % 2], "dense" if pace else FORMS[i // 2 % len(FORMS)]
        split = "dev" if dev else "test"
        rng, words = (
            _Wanting(f"clips-200/{split}/{i}"),
            random.Random(f"clips-200/{split}/{i}/words"),
        )
        rng.wanted = wanted
        while len(prompts) == i:
            clip = world.sample(rng, split)
            said = repr((clip.event, clip.word, clip.scene.groups))
            # Clips of one group have no split of their own: a hash shares them between dev and test.
            mine = len(clip.scene.groups) > 1 or zlib.crc32(said.encode()) % 2 == dev
            if (
                mine
                and said not in asked
                and world.speed(clip) == pace
                and len(clip.scene.groups) == objects
            ):
                text = world.caption(clip, language, form, words)
                prompts.setdefault(text, ClipPrompt(text, language, task, clip, pace, i))
                asked.add(said)
    return tuple(prompts.values())


def _quotas() -> Iterator[tuple[str, tuple[Any, ...], str, int]]:
    """For each prompt its task, what its clip must have, the pace, and the number of things."""
    for word, pace, _ in itertools.product(DIRECTIONS, ("slow", "fast", ""), range(2)):
        yield "move", ("move", word, PACES.get(pace)), pace, 1
    for word, pace, _ in itertools.product(("left", "right"), ("slow", "fast", ""), range(2)):
        yield "arc", ("arc", word, PACES.get(pace)), pace, 1
    words = {
        "turn": ("clockwise", "counter-clockwise"),
        "return": tuple(DIRECTIONS),
        "hide": ("left", "right"),
    }
    for event in ("bounce", "grow", "shrink", "turn", "return", "hide", "swap"):
        for k in range(12):
            some = words.get(event, ("",))
            yield (
                event,
                (event, some[k * len(some) // 12]),
                "",
                2 if event in ("hide", "swap") else 1,
            )
    for word, k in itertools.product(CAMERAS, range(10)):
        alone = word in (
            "pan left",
            "pan right",
        )  # of two things side by side, such a pan would lose one
        yield (
            word,
            ("camera", word),
            "",
            1 if alone else 1 + k // 2 % 2,
        )  # with two a pan has parallax


@dataclass(frozen=True)
class Video:
    """The ``frames`` (t, 3, h, w) of a clip in [-1, 1], square and at least two, and how many there are a second."""

    frames: Tensor
    fps: float

    def __post_init__(self) -> None:
        if (
            self.frames.ndim != 4
            or self.frames.shape[1] != 3
            or len(self.frames) < 2
            or not self.fps > 0
        ):
            raise KalpanaError(
                f"frames of shape {tuple(self.frames.shape)} at {self.fps} a second are no clip: give (t, 3, h, w), t 2 or more, fps over 0"
            )
        if self.frames.shape[2] != self.frames.shape[3]:
            raise KalpanaError(
                f"a clip of {self.frames.shape[3]}x{self.frames.shape[2]} pixels cannot be judged: give square frames"
            )


@lru_cache(8)
def _drawn(clip: Clip) -> Rendering:
    return render(clip.scenes(), SIDE, masks=True)


def truth(clip: Clip) -> Video:
    """The clip as the world draws it."""
    return Video(_drawn(clip).pixels, clip.fps)


def truth_seen(clip: Clip) -> list[Observation]:
    """What a verifier without error would see of each frame: the box of all of a thing that is in the picture, though something hides a
    part, unless more than 1 - SHOWN of the thing is hidden or outside."""
    drawn = _drawn(clip)
    assert drawn.whole is not None and drawn.masks is not None
    whole = torch.stack(drawn.whole).sum((2, 3))  # pixels inside the picture: t n
    zoom = torch.tensor([[item.size**2 for item in scene.objects] for scene in clip.scenes()])
    full = (whole / zoom).amax(0) * zoom  # pixels, were all of it inside
    shown = torch.stack(drawn.masks).sum((2, 3)) / full
    seen = []
    for k, scene in enumerate(clip.scenes()):
        boxes = (maps.boxes(drawn.whole[k]) / SIDE).tolist()
        objects = [
            Detection(
                scene.groups[item.group].concept,
                1.0,
                (box[0], box[1], box[2], box[3]),
                item.color,
            )
            for item, box, share in zip(scene.objects, boxes, shown[k].tolist(), strict=True)
            if share >= SHOWN
        ]
        seen.append(Observation(tuple(objects)))
    return seen
