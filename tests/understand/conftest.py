"""A tiny analytic encoder: the share of a picture that is near each of eight colours.

Texts are colour names in English and Hindi, so that expected embeddings can be computed by hand.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

COLOURS = {
    "red": ("लाल", (220, 30, 30)),
    "green": ("हरा", (30, 160, 60)),
    "blue": ("नीला", (30, 60, 220)),
    "yellow": ("पीला", (240, 220, 40)),
    "purple": ("बैंगनी", (140, 40, 170)),
    "white": ("सफ़ेद", (250, 250, 250)),
    "black": ("काला", (10, 10, 10)),
    "grey": ("धूसर", (128, 128, 128)),
}
WORDS = {
    word: k for k, (english, (hindi, _)) in enumerate(COLOURS.items()) for word in (english, hindi)
}


@dataclass
class Colours:
    """Encoder by colours: ``looked`` counts the embedded pictures, ``named`` are English names."""

    named: ClassVar[tuple[str, ...]] = tuple(COLOURS)

    name: str = "colours"
    fingerprint: str = hashlib.sha256(repr(COLOURS).encode()).hexdigest()
    size: int = len(COLOURS)
    photographs: bool = True
    looked: int = field(default=0, compare=False)

    def images(self, pictures: list[Image.Image]) -> Tensor:
        self.looked += len(pictures)
        rows = []
        for picture in pictures:
            levels = np.array(picture.resize((16, 16)), dtype=np.float32)
            pixels = torch.from_numpy(levels).flatten(0, 1)  # 256 3
            palette = torch.tensor([shade for _, shade in COLOURS.values()], dtype=torch.float32)
            nearest = torch.cdist(pixels, palette).argmin(1)
            rows.append(torch.bincount(nearest, minlength=self.size).float())
        return F.normalize(torch.stack(rows) + 1e-3, dim=1)

    def texts(self, texts: list[str]) -> Tensor:
        rows = torch.full((len(texts), self.size), 1e-3)
        for row, text in zip(rows, texts, strict=True):
            for word in text.split():
                if word in WORDS:
                    row[WORDS[word]] += 1
        return F.normalize(rows, dim=1)

    def unknown(self, text: str) -> tuple[str, ...]:
        return tuple(word for word in text.split() if word not in WORDS)


@pytest.fixture
def colours() -> Colours:
    return Colours()


@pytest.fixture
def paint() -> Callable[..., Path]:
    """Function that saves a picture with one vertical band for each colour and returns its path."""

    def paint(path: Path, *names: str, size: tuple[int, int] = (32, 32), **options: object) -> Path:
        image = Image.new("RGB", size)
        for k, name in enumerate(names):
            left, right = (round(size[0] * edge / len(names)) for edge in (k, k + 1))
            image.paste(COLOURS[name][1], (left, 0, right, size[1]))
        path.parent.mkdir(parents=True, exist_ok=True)
        image.save(path, **options)  # type: ignore[arg-type]
        return path

    return paint
