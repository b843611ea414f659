"""A trained verifier: a detector's maps read as things with names, boxes and colours, and its signs by whoever reads words.

A colour is read twice. The network says which pixels carry a given colour; of those the median in CIELAB is compared with the ten
paints, and where it lies between two of them the network's own answer decides, if it is one of the two.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from kalpana.evaluate.verifiers.observations import Detection, Observation, Reader, Reading, iou
from kalpana.hub.weights import load_module
from kalpana.models import detector, reader
from kalpana.models.detector import Detector, Maps
from kalpana.train.detector_labels import OTHER, SIGN, labels
from kalpana.world.crops import strips
from kalpana.world.kinds import puppets
from kalpana.world.lexicon import lexicon
from kalpana.world.recolor import PAINTS, lab
from kalpana.world.scene import COLORS
from kalpana.world.sprites import Box

SIDE = 128  # pictures are looked at in this size
FLOOR = 0.1  # what is less sure than this is not even mentioned
MARGIN = 8.0  # CIELAB units that the nearest paint must be nearer than the next
HINT = 0.05  # how likely a colour must be; whether a red rose was painted red or grew so, nobody can see
SURE = 0.4  # what a hand or a figure must reach to be reported
MOST = 24  # things a picture


@dataclass(frozen=True)
class DetectorVerifier:
    """A verifier by a detector and, where signs are to be read, by readers, of which the first one counts."""

    net: Detector
    readers: tuple[Reader, ...] = ()

    @classmethod
    def load(cls, folder: Path, device: torch.device | str = "cpu") -> DetectorVerifier:
        """The verifier in a folder: detector.safetensors, and reader.safetensors if it is there. Raises KalpanaError where one is none."""
        net = load_module(
            folder / "detector.safetensors",
            "detector",
            lambda **config: Detector(detector.Config(**config)),
        )
        path = folder / "reader.safetensors"
        if not path.exists():
            return cls(net.to(device))
        read = load_module(path, "reader", lambda **config: reader.Reader(reader.Config(**config)))
        return cls(net.to(device), (own(read.to(device)),))

    @torch.inference_mode()
    def look(self, pixels: Tensor) -> list[Observation]:
        """What is in the pictures (b, 3, h, w) in [-1, 1]; other sizes are brought to SIDE first."""
        device = next(self.net.parameters()).device
        pixels = pixels.to(device).float()
        if pixels.shape[-2:] != (SIDE, SIDE):
            pixels = F.interpolate(pixels, (SIDE, SIDE), mode="bicubic", antialias=True).clamp(
                -1, 1
            )
        said: Maps = self.net(pixels.contiguous(memory_format=torch.channels_last))
        found = [self._things(said, pixels[i], i) for i in range(len(pixels))]
        return [
            sorted_out(objects, readings)
            for objects, readings in zip(found, self._readings(pixels, found), strict=True)
        ]

    def _readings(self, pixels: Tensor, found: list[list[Detection]]) -> list[tuple[Reading, ...]]:
        """What each reader says is written on the signs of each picture, from left to right."""
        boards = [
            (i, item.box)
            for i, objects in enumerate(found)
            for item in ordered(objects)
            if item.concept == SIGN
        ]
        places, boxes = [i for i, _ in boards], [box for _, box in boards]
        said = [(who, who.read(pixels[places], boxes) if boards else []) for who in self.readers]
        return [
            tuple(
                Reading(
                    tuple(word for k, word in zip(places, words, strict=True) if k == i),
                    who.title,
                    who.alike,
                )
                for who, words in said
            )
            for i in range(len(found))
        ]

    def _things(self, said: Maps, pixels: Tensor, i: int) -> list[Detection]:
        """Everything found in picture i, by label, surest first. One thing can stand there under two labels, if either may be right."""
        heat, (found, kinds, rows, columns) = said.heat[i].sigmoid(), peaks(said.heat[i].sigmoid())
        sure = found * said.whole[i, 0].sigmoid()[rows, columns]
        objects: list[tuple[float, int, int, int, Box]] = []
        for k in sure.argsort(descending=True).tolist():
            row, column = int(rows[k]), int(columns[k])
            left, top, right, bottom = said.reach[i, :, row, column].tolist()
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
        painted = (
            F.interpolate(said.painted[i : i + 1].sigmoid(), pixels.shape[-2:], mode="bilinear")[
                0, 0
            ]
            > 0.5
        )
        picture = (pixels.movedim(0, -1).cpu().numpy() + 1) / 2
        return [
            Detection(
                self._name(said, i, kind, row, column),
                score,
                box,
                self._color(said, i, row, column, box, painted, picture),
                None
                if said.facing is None
                else (None, "left", "right")[int(said.facing[i, :, row, column].argmax())],
            )
            for score, kind, row, column, box in objects
        ]

    def _name(self, said: Maps, i: int, kind: int, row: int, column: int) -> str:
        if labels()[kind] != OTHER:
            return labels()[kind]
        return rare()[int((self.net.names @ said.embedding[i, :, row, column]).argmax())]

    def _color(
        self,
        said: Maps,
        i: int,
        row: int,
        column: int,
        box: Box,
        painted: Tensor,
        picture: np.ndarray,
    ) -> str | None:
        chance, color = said.color[i, :, row, column].float().softmax(0)[1:].max(0)
        if chance < HINT:
            return None
        x0, y0, x1, y1 = (round(edge * SIDE) for edge in box)
        inside = np.s_[max(y0, 0) : y1, max(x0, 0) : x1]
        return nearest(lab(picture[inside][painted.cpu().numpy()[inside]]), COLORS[int(color)])


def own(net: reader.Reader) -> Reader:
    """The verifier's own reader, by this network."""
    return Reader(
        "the verifier's reader",
        lambda pixels, boxes: [word for word, _ in net.words(strips(pixels, boxes))],
    )


def ordered(found: list[Detection]) -> list[Detection]:
    """What is more likely there than not, from left to right."""
    return sorted(
        (item for item in found if item.score >= SURE),
        key=lambda item: item.box[0] + item.box[2],
    )


def sorted_out(found: list[Detection], readings: tuple[Reading, ...]) -> Observation:
    """Detections by label as what was seen: objects, and hands and figures from left to right."""
    sure = ordered(found)
    fingers = tuple(int(item.concept[0]) for item in sure if item.concept.endswith(" fingers"))
    poses = tuple(item.concept for item in sure if item.concept in puppets.POSES)
    return Observation(
        tuple(item for item in found if item.concept in lexicon()), fingers, readings, poses
    )


def peaks(heat: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The cells of ``heat`` (classes, h, w) where a class is stronger than anywhere around: its value, the class, row and column."""
    top = heat == F.max_pool2d(heat[None], 3, 1, 1)[0]
    kinds, rows, columns = (top & (heat > FLOOR)).nonzero().unbind(1)
    return heat[kinds, rows, columns], kinds, rows, columns


def nearest(points: np.ndarray, said: str | None = None) -> str | None:
    """The paint nearest to the median of CIELAB points (n, 3). Where two are about as near, that of them which is ``said``, else None;
    under four points are none, and what is ``said`` counts."""
    if len(points) < 4:
        return said
    away = np.linalg.norm(_paints() - np.median(points, 0), axis=1)
    one, two = away.argsort()[:2]
    if away[two] - away[one] >= MARGIN:
        return COLORS[one]
    return said if said in (COLORS[one], COLORS[two]) else None


@cache
def _paints() -> np.ndarray:
    return lab(np.array([PAINTS[color][:3] for color in COLORS]))


@cache
def rare() -> tuple[str, ...]:
    """The ids of the concepts that are no core class, in the order of the detector's names."""
    return tuple(concept.id for concept in lexicon().values() if not concept.core)
