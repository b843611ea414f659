"""DetectorVerifier: a verifier that decodes a detector's maps into detections and reads signs.

Each colour is estimated twice. The network marks the pixels that carry a given colour, and their
median in CIELAB is compared with the ten paints. If the median lies between two paints, the
network's own prediction decides, provided that it is one of the two.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from kalpana.evaluate.verifiers.observations import Detection, Observation, Reader, Reading, iou
from kalpana.hub.weights import load_module
from kalpana.models import reader
from kalpana.models.detector import Detector, Maps
from kalpana.train.detector_labels import OTHER, SIGN, labels
from kalpana.world.crops import strips
from kalpana.world.kinds import puppets
from kalpana.world.lexicon import lexicon
from kalpana.world.recolor import PAINTS, lab
from kalpana.world.scene import COLORS
from kalpana.world.sprites import Box

SIDE = 128  # pictures are resized to this many pixels a side
FLOOR = 0.1  # least score of a detection
MARGIN = 8.0  # CIELAB units by which the nearest paint must be nearer than the next
# Least probability of a given colour. It is low, because a picture does not show whether a rose is
# red by request or by nature.
HINT = 0.05
SURE = 0.4  # least score of a hand, a figure or a sign to be reported
MOST = 24  # detections per picture


@dataclass(frozen=True)
class DetectorVerifier:
    """Verifier made of a detector and optional sign readers, of which the first one counts."""

    net: Detector = field(repr=False)
    readers: tuple[Reader, ...] = ()

    @classmethod
    def load(cls, folder: Path, device: torch.device | str = "cpu") -> DetectorVerifier:
        """Verifier in a folder: detector.safetensors and, if present, reader.safetensors.

        Raises KalpanaError if a file is missing, damaged or of another family.
        """
        net = load_module(
            folder / "detector.safetensors",
            "detector",
        )
        path = folder / "reader.safetensors"
        if not path.exists():
            return cls(net.to(device))
        read = load_module(path, "reader")
        return cls(net.to(device), (own(read.to(device)),))

    @torch.inference_mode()
    def look(self, pixels: Tensor) -> list[Observation]:
        """Observations of pictures (b, 3, h, w) in [-1, 1]; other sizes are resized to SIDE."""
        device = next(self.net.parameters()).device
        pixels = pixels.to(device).float()
        if pixels.shape[-2:] != (SIDE, SIDE):
            pixels = F.interpolate(pixels, (SIDE, SIDE), mode="bicubic", antialias=True)
            pixels = pixels.clamp(-1, 1)
        maps: Maps = self.net(pixels.contiguous(memory_format=torch.channels_last))
        found = [self._detections(maps, pixels[i], i) for i in range(len(pixels))]
        return [
            sorted_out(objects, readings)
            for objects, readings in zip(found, self._readings(pixels, found), strict=True)
        ]

    def _readings(self, pixels: Tensor, found: list[list[Detection]]) -> list[tuple[Reading, ...]]:
        """Readings of the signs of each picture by each reader, words from left to right."""
        boards = [
            (i, item.box)
            for i, objects in enumerate(found)
            for item in ordered(objects)
            if item.concept == SIGN
        ]
        places, boxes = [i for i, _ in boards], [box for _, box in boards]
        texts = [
            (reader, reader.read(pixels[places], boxes) if boards else [])
            for reader in self.readers
        ]
        return [
            tuple(
                Reading(
                    tuple(word for k, word in zip(places, words, strict=True) if k == i),
                    reader.title,
                    reader.alike,
                )
                for reader, words in texts
            )
            for i in range(len(found))
        ]

    def _detections(self, maps: Maps, pixels: Tensor, i: int) -> list[Detection]:
        """Detections in picture i, by descending score.

        An ambiguous object is listed under each plausible label.
        """
        heat, (found, kinds, rows, columns) = maps.heat[i].sigmoid(), peaks(maps.heat[i].sigmoid())
        sure = found * maps.whole[i, 0].sigmoid()[rows, columns]
        objects: list[tuple[float, int, int, int, Box]] = []
        for k in sure.argsort(descending=True).tolist():
            row, column = int(rows[k]), int(columns[k])
            left, top, right, bottom = maps.reach[i, :, row, column].tolist()
            cells = heat.shape[-1]
            box = (
                (column + 0.5 - left) / cells,
                (row + 0.5 - top) / cells,
                (column + 0.5 + right) / cells,
                (row + 0.5 + bottom) / cells,
            )
            if sure[k] < FLOOR or len(objects) == MOST:
                break
            if all(iou(box, other) < 0.5 for _, kind, *_, other in objects if kind == kinds[k]):
                objects.append((float(sure[k]), int(kinds[k]), row, column, box))
        size = pixels.shape[-2:]
        painted = F.interpolate(maps.painted[i : i + 1].sigmoid(), size, mode="bilinear")[0, 0]
        painted = painted > 0.5
        picture = (pixels.movedim(0, -1).cpu().numpy() + 1) / 2
        return [
            Detection(
                self._name(maps, i, kind, row, column),
                score,
                box,
                self._color(maps, i, row, column, box, painted, picture),
                None
                if maps.facing is None
                else (None, "left", "right")[int(maps.facing[i, :, row, column].argmax())],
            )
            for score, kind, row, column, box in objects
        ]

    def _name(self, maps: Maps, i: int, kind: int, row: int, column: int) -> str:
        """Concept or label of a detection; OTHER is resolved to a rare concept by its embedding."""
        if labels()[kind] != OTHER:
            return labels()[kind]
        return rare()[int((self.net.names @ maps.embedding[i, :, row, column]).argmax())]

    def _color(
        self,
        maps: Maps,
        i: int,
        row: int,
        column: int,
        box: Box,
        painted: Tensor,
        picture: np.ndarray,
    ) -> str | None:
        """Colour of a detection, None if it has no given colour or the colour is unclear."""
        probability, color = maps.color[i, :, row, column].float().softmax(0)[1:].max(0)
        if probability < HINT:
            return None
        x0, y0, x1, y1 = (round(edge * SIDE) for edge in box)
        inside = np.s_[max(y0, 0) : y1, max(x0, 0) : x1]
        return nearest(lab(picture[inside][painted.cpu().numpy()[inside]]), COLORS[int(color)])


def own(net: reader.Reader) -> Reader:
    """Reader that uses the verifier's own network."""
    return Reader(
        "the verifier's reader",
        lambda pixels, boxes: [word for word, _ in net.words(strips(pixels, boxes))],
    )


def ordered(found: list[Detection]) -> list[Detection]:
    """Detections with a score of SURE or more, from left to right."""
    return sorted(
        (item for item in found if item.score >= SURE),
        key=lambda item: item.box[0] + item.box[2],
    )


def sorted_out(found: list[Detection], readings: tuple[Reading, ...]) -> Observation:
    """Observation made of a picture's detections.

    Objects keep their order; hands and figures are listed from left to right.
    """
    sure = ordered(found)
    fingers = tuple(int(item.concept[0]) for item in sure if item.concept.endswith(" fingers"))
    poses = tuple(item.concept for item in sure if item.concept in puppets.POSES)
    return Observation(
        tuple(item for item in found if item.concept in lexicon()), fingers, readings, poses
    )


def peaks(heat: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Local maxima of ``heat`` (classes, h, w) above FLOOR, each in its 3x3 window and class.

    Returns the value, class, row and column of each peak: four tensors (n,).
    """
    top = heat == F.max_pool2d(heat[None], 3, 1, 1)[0]
    kinds, rows, columns = (top & (heat > FLOOR)).nonzero().unbind(1)
    return heat[kinds, rows, columns], kinds, rows, columns


def nearest(points: np.ndarray, predicted: str | None = None) -> str | None:
    """Paint nearest to the median of CIELAB points (n, 3).

    If two paints are about as near (see MARGIN): ``predicted`` if it is one of the two, else None.
    With fewer than four points: ``predicted``.
    """
    if len(points) < 4:
        return predicted
    distances = np.linalg.norm(_paints() - np.median(points, 0), axis=1)
    one, two = distances.argsort()[:2]
    if distances[two] - distances[one] >= MARGIN:
        return COLORS[one]
    return predicted if predicted in (COLORS[one], COLORS[two]) else None


@cache
def _paints() -> np.ndarray:
    """CIELAB colours of the ten paints (10, 3)."""
    return lab(np.array([PAINTS[color][:3] for color in COLORS]))


@cache
def rare() -> tuple[str, ...]:
    """Ids of the concepts outside the core classes, in the order of the detector's names."""
    return tuple(concept.id for concept in lexicon().values() if not concept.core)
