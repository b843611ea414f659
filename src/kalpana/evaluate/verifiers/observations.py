"""What a verifier says it sees in a picture, in the words of the world, and what is truly there, in the same words."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from torch import Tensor

from kalpana.train.detector_labels import facing
from kalpana.world import sprites
from kalpana.world.kinds import hands
from kalpana.world.scene import Hand, Puppet, Scene, Sign
from kalpana.world.sprites import Box


@dataclass(frozen=True)
class Detection:
    """One thing: its ``concept`` (a lexicon id), how sure that is (``score`` in [0, 1]), its ``box``, and its ``color``, one of COLORS,
    None where it has none of them or where the verifier cannot tell; ``facing`` "left" or "right", None where it faces the viewer or
    the verifier cannot tell."""

    concept: str
    score: float
    box: Box
    color: str | None = None
    facing: str | None = None


@dataclass(frozen=True)
class Reading:
    """What one reader, called ``by``, says is written, sign by sign from left to right. ``alike``: it takes 0 for O and 1 for I, so that
    these are not told apart when its words are judged."""

    words: tuple[str, ...]
    by: str = ""
    alike: bool = False


@dataclass(frozen=True)
class Observation:
    """Everything seen in one picture. None means that the verifier abstains, or was not asked."""

    objects: tuple[Detection, ...] = ()  # what may be two things stands here as both
    fingers: tuple[int, ...] | None = None  # of each whole hand, from left to right
    readings: tuple[Reading, ...] = ()  # of each reader; the first one counts
    poses: tuple[str, ...] | None = None  # of each figure, from left to right

    def read_by(self, k: int) -> Observation:
        """The same with the words of reader k alone, if there is one."""
        return replace(self, readings=self.readings[k : k + 1])


@dataclass(frozen=True)
class Reader:
    """Whoever reads words: ``read(pixels, boxes)`` gives what is written in box k of picture k (b, 3, h, w). For ``alike`` see Reading."""

    name: str
    read: Callable[[Tensor, Sequence[Box]], list[str]]
    alike: bool = False

    @property
    def title(self) -> str:
        return f"{self.name} (0 as O, 1 as I)" if self.alike else self.name


class Verifier(Protocol):
    """Whatever can look at pictures."""

    def look(self, pixels: Tensor) -> list[Observation]:
        """What is in each of the pictures (b, 3, h, w), in [-1, 1]."""
        ...


def truth(scene: Scene) -> Observation:
    """What is in a scene, with whole boxes and certainty: what a verifier without error would see."""
    objects, order = [], sorted(scene.objects, key=lambda item: item.x)
    for item in scene.objects:
        if isinstance(item.sprite, int):
            objects.append(
                Detection(
                    scene.groups[item.group].concept,
                    1.0,
                    sprites.box(item),
                    item.color,
                    facing(scene, item) or None,
                )
            )
    return Observation(
        tuple(objects),
        tuple(
            hands.count(item.sprite)
            for item in order
            if isinstance(item.sprite, Hand) and not item.sprite.flaw
        ),
        (Reading(tuple(item.sprite.text for item in order if isinstance(item.sprite, Sign))),),
        tuple(item.sprite.pose for item in order if isinstance(item.sprite, Puppet)),
    )


def best(objects: Sequence[Detection], concept: str) -> list[Detection]:
    """The detections of a concept, surest first."""
    return sorted(
        (item for item in objects if item.concept == concept), key=lambda item: -item.score
    )


def surest(objects: Sequence[Detection]) -> list[Detection]:
    """The detections, surest first, without those that stand where a surer one of another concept does."""
    kept: list[Detection] = []
    for item in sorted(objects, key=lambda item: -item.score):
        if all(item.concept == other.concept or iou(item.box, other.box) < 0.5 for other in kept):
            kept.append(item)
    return kept


def iou(a: Box, b: Box) -> float:
    """Intersection over union."""
    w, h = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    inner = max(w, 0.0) * max(h, 0.0)
    return inner / max((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - inner, 1e-9)
