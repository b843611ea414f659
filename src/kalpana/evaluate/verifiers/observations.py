"""Observations: a verifier's output for a picture, and the ground truth in the same form."""

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
    """Detected object: its concept, score, box, colour and facing.

    ``concept`` is a lexicon id, or a COCO class by a public detector, and ``score`` the confidence
    in [0, 1]. ``color`` is one of COLORS, None if the object has none of them or the verifier
    cannot tell. ``facing`` is "left" or "right", None if the object faces
    the viewer or the verifier cannot tell.
    """

    concept: str
    score: float
    box: Box
    color: str | None = None
    facing: str | None = None


@dataclass(frozen=True)
class Reading:
    """Words that one reader, named ``by``, reads on the signs of a picture, from left to right.

    ``alike``: the reader takes 0 for O and 1 for I, so that scoring does not distinguish these.
    """

    words: tuple[str, ...]
    by: str = ""
    alike: bool = False


@dataclass(frozen=True)
class Observation:
    """Output of a verifier for one picture. None: the verifier abstains, or was not asked."""

    objects: tuple[Detection, ...] = ()  # an ambiguous object is listed once per concept
    fingers: tuple[int, ...] | None = None  # raised ones of each whole hand, left to right
    readings: tuple[Reading, ...] = ()  # one per reader; the first one counts
    poses: tuple[str, ...] | None = None  # one per figure, left to right
    aspect: float = 1.0  # of the picture: its width by its height

    def read_by(self, k: int) -> Observation:
        """Copy with the reading of reader k alone, or without readings if there is no reader k."""
        return replace(self, readings=self.readings[k : k + 1])


@dataclass(frozen=True)
class Reader:
    """Word reader: ``read(pixels, boxes)`` returns the text in box k of picture k (b, 3, h, w).

    See Reading for ``alike``.
    """

    name: str
    read: Callable[[Tensor, Sequence[Box]], list[str]]
    alike: bool = False

    @property
    def title(self) -> str:
        """Name of the reader in tables."""
        return f"{self.name} (0 as O, 1 as I)" if self.alike else self.name


class Verifier(Protocol):
    """Interface of verifiers."""

    def look(self, pixels: Tensor) -> list[Observation]:
        """Observations of the pictures (b, 3, h, w), in [-1, 1]."""
        ...


def truth(scene: Scene) -> Observation:
    """Ground truth of a scene as an observation: whole boxes, scores of 1, no errors."""
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
    fingers = tuple(
        hands.count(item.sprite)
        for item in order
        if isinstance(item.sprite, Hand) and not item.sprite.flaw
    )
    words = tuple(item.sprite.text for item in order if isinstance(item.sprite, Sign))
    poses = tuple(item.sprite.pose for item in order if isinstance(item.sprite, Puppet))
    return Observation(tuple(objects), fingers, (Reading(words),), poses)


def best(objects: Sequence[Detection], concept: str) -> list[Detection]:
    """Detections of a concept, by descending score."""
    return sorted(
        (item for item in objects if item.concept == concept), key=lambda item: -item.score
    )


def surest(objects: Sequence[Detection]) -> list[Detection]:
    """Detections by descending score, without duplicates of another concept.

    A detection is dropped if its IoU with a surer one of another concept is 0.5 or more.
    """
    kept: list[Detection] = []
    for item in sorted(objects, key=lambda item: -item.score):
        if all(item.concept == other.concept or iou(item.box, other.box) < 0.5 for other in kept):
            kept.append(item)
    return kept


def iou(a: Box, b: Box) -> float:
    """Intersection over union of two boxes, in [0, 1]."""
    w, h = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    inner = max(w, 0.0) * max(h, 0.0)
    return inner / max((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - inner, 1e-9)
