"""Clips-200: 200 prompts for object or camera motion, and the true videos that they describe.

Prompts are alternately English and Hindi. Words state ranges: where a prompt names a pace, the
speed of its video is in the world's range for that word.
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

from kalpana.evaluate.prompts import Prompt
from kalpana.evaluate.verifiers.observations import Detection, Observation
from kalpana.types import KalpanaError
from kalpana.world import maps
from kalpana.world import video as world
from kalpana.world.grammar import FORMS
from kalpana.world.render import Rendering, render
from kalpana.world.scene import Group
from kalpana.world.video import CAMERAS, DIRECTIONS, FAST, SLOW, VideoScene

SIDE = 64  # pixels: side of a true video
SHOWN = 0.4  # least visible share of an object that a verifier without error detects
PACES = {"slow": SLOW, "fast": FAST}


@dataclass(frozen=True)
class VideoPrompt:
    """A prompt for a video.

    ``language`` is "en" or "hi"; ``task`` is the event or the camera motion; ``video`` is one of
    the world that the text describes; ``pace`` is the named pace: "slow", "fast" or "" for none;
    ``number`` is the index in the suite.
    """

    text: str
    language: str
    task: str
    video: VideoScene
    pace: str
    number: int

    @property
    def groups(self) -> tuple[Group, ...]:
        """The groups of objects in the video."""
        return self.video.scene.groups

    def of(self, task: str) -> Prompt:
        """The prompt for a picture of the same contents, with a task for score.table."""
        return Prompt(self.text, self.language, task, self.groups, exact=True)


class _Preferring(random.Random):
    """A generator whose ``choice`` returns a wanted value if the sequence holds one."""

    wanted: tuple[Any, ...] = ()

    def choice(self, seq: Any) -> Any:
        found = next((want for want in self.wanted if want and want in seq), None)
        return found or super().choice(seq)


def load(dev: bool = False) -> list[VideoPrompt]:
    """The prompts of Clips-200 or of its dev split, alternately English and Hindi.

    Always the same.
    """
    return list(_load(dev))


@cache
def _load(dev: bool) -> tuple[VideoPrompt, ...]:
    prompts: dict[str, VideoPrompt] = {}
    asked: set[str] = set()
    for i, (task, wanted, pace, objects) in enumerate(_quotas()):
        language, form = ("en", "hi")[i % 2], "dense" if pace else FORMS[i // 2 % len(FORMS)]
        split = "dev" if dev else "test"
        rng = _Preferring(f"clips-200/{split}/{i}")
        words = random.Random(f"clips-200/{split}/{i}/words")
        rng.wanted = wanted
        while len(prompts) == i:
            video = world.sample(rng, split)
            contents = repr((video.event, video.word, video.scene.groups))
            # Videos of one group have no split of their own: a hash shares them between dev and
            # test.
            mine = len(video.scene.groups) > 1 or zlib.crc32(contents.encode()) % 2 == dev
            if (
                mine
                and contents not in asked
                and world.speed(video) == pace
                and len(video.scene.groups) == objects
            ):
                text = world.caption(video, language, form, words)
                prompts.setdefault(text, VideoPrompt(text, language, task, video, pace, i))
                asked.add(contents)
    return tuple(prompts.values())


def _quotas() -> Iterator[tuple[str, tuple[Any, ...], str, int]]:
    """For each prompt its task, the wanted values of its video, the pace, and the object count."""
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
            choices = words.get(event, ("",))
            objects = 2 if event in ("hide", "swap") else 1
            yield event, (event, choices[k * len(choices) // 12]), "", objects
    for word, k in itertools.product(CAMERAS, range(10)):
        # A horizontal pan would lose one of two objects side by side.
        single = word in ("pan left", "pan right")
        # With two objects a pan has parallax.
        yield word, ("camera", word), "", 1 if single else 1 + k // 2 % 2


@dataclass(frozen=True)
class Video:
    """A video: ``frames`` (t, 3, h, w) in [-1, 1], square, t at least 2, at ``fps`` a second.

    Raises KalpanaError for any other shape.
    """

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
                f"frames of shape {tuple(self.frames.shape)} at {self.fps} a second are no video: "
                "give (t, 3, h, w), t 2 or more, fps over 0"
            )
        if self.frames.shape[2] != self.frames.shape[3]:
            raise KalpanaError(
                f"a video of {self.frames.shape[3]}x{self.frames.shape[2]} pixels "
                "cannot be judged: give square frames"
            )


@lru_cache(8)
def _rendered(video: VideoScene) -> Rendering:
    """The frames of a video of the world with their masks."""
    return render(video.scenes(), SIDE, masks=True)


def truth(video: VideoScene) -> Video:
    """The video as the world renders it, at SIDE pixels."""
    return Video(_rendered(video).pixels, video.fps)


def truth_seen(video: VideoScene) -> list[Observation]:
    """The observations of a verifier without error, one for each frame.

    A box surrounds all of an object inside the picture, including its hidden parts. An object with
    more than 1 - SHOWN hidden or outside has no detection.
    """
    rendering = _rendered(video)
    assert rendering.whole is not None and rendering.masks is not None
    whole = torch.stack(rendering.whole).sum((2, 3))  # pixels inside the picture: t n
    zoom = torch.tensor([[item.size**2 for item in scene.objects] for scene in video.scenes()])
    full = (whole / zoom).amax(0) * zoom  # pixels if all of the object were inside
    shown = torch.stack(rendering.masks).sum((2, 3)) / full
    seen = []
    for k, scene in enumerate(video.scenes()):
        boxes = (maps.boxes(rendering.whole[k]) / SIDE).tolist()
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
