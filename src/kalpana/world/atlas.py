"""The sprite atlas: every picture of the art pack, cropped to its content and packed into WebP sheets.

``build`` turns the art pack into ``art/*.webp`` and ``art/atlas.jsonl`` once; ``load`` decodes them into one tensor.
A sprite's content is scaled so that its longer side fills SIDE - 2 pixels and centred in a SIDE x SIDE square, so the
size of a drawn thing is known without looking at pixels.
"""

from __future__ import annotations

import io
import json
import tarfile
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

SIDE = 96
COLUMNS = 20  # a sheet holds COLUMNS x COLUMNS sprites
ART = Path(__file__).parent / "art"


@dataclass(frozen=True)
class Sprite:
    """One row of the atlas: whose picture it is (``concept`` is the art pack's base), in which style, and its content's box."""

    id: str
    concept: str
    style: str
    width: float  # content width and height as shares of the longer side: one of them is 1
    height: float
    recolor: bool = False


@dataclass(frozen=True)
class Atlas:
    """``pixels`` (n, 4, SIDE, SIDE) uint8, RGB not premultiplied, then alpha; ``masks`` (m, SIDE, SIDE) uint8 says what a
    recolouring changes and ``mask_row`` (n,) gives a sprite's row in it or -1; ``sprites`` names each row of pixels."""

    pixels: Tensor
    masks: Tensor
    mask_row: Tensor
    sprites: tuple[Sprite, ...]


def fit(image: Image.Image) -> tuple[Image.Image, float, float]:
    """The content of an RGBA image, centred and filling SIDE - 2 pixels, and its width and height as shares of the longer side."""
    box = image.getchannel("A").point(lambda a: 255 if a > 8 else 0).getbbox() or (0, 0, *image.size)
    content = image.crop(box)
    scale = (SIDE - 2) / max(content.size)
    width, height = (max(1, round(side * scale)) for side in content.size)
    square = Image.new("RGBA", (SIDE, SIDE))
    # Resize premultiplied, or the colour hidden under alpha 0 bleeds into the edges.
    square.paste(content.convert("RGBa").resize((width, height), Image.Resampling.LANCZOS).convert("RGBA"), ((SIDE - width) // 2, (SIDE - height) // 2))
    return square, width / (SIDE - 2), height / (SIDE - 2)


def build(pack: Path, out: Path = ART, quality: int = 75) -> None:
    """Write the sheets and their index from an art pack: a folder with captions.jsonl and one STYLE.tar per style."""
    out.mkdir(parents=True, exist_ok=True)
    records = [json.loads(line) for line in (pack / "captions.jsonl").read_text(encoding="utf-8").splitlines()]
    rows, per_sheet = [], COLUMNS * COLUMNS
    for style in sorted({record["style"] for record in records}):
        mine = sorted((record for record in records if record["style"] == style), key=lambda record: record["id"])
        with tarfile.open(pack / f"{style}.tar") as tar:
            for start in range(0, len(mine), per_sheet):
                name = f"{style}-{start // per_sheet}.webp"
                sheet = Image.new("RGBA", (COLUMNS * SIDE, COLUMNS * SIDE))
                for i, record in enumerate(mine[start : start + per_sheet]):
                    file = tar.extractfile(record["file"])
                    assert file is not None, record["file"]
                    square, width, height = fit(Image.open(io.BytesIO(file.read())).convert("RGBA"))
                    sheet.paste(square, (i % COLUMNS * SIDE, i // COLUMNS * SIDE))
                    rows.append({"id": record["id"], "concept": record["base"], "style": style, "sheet": name, "cell": i, "width": round(width, 3), "height": round(height, 3)})
                sheet.save(out / name, "WEBP", quality=quality, alpha_quality=80, method=6)
    (out / "atlas.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


@cache
def load(folder: Path = ART) -> Atlas:
    """The whole atlas, decoded once (about 0.4 GB)."""
    rows = [json.loads(line) for line in (folder / "atlas.jsonl").read_text(encoding="utf-8").splitlines()]
    pixels = np.empty((len(rows), 4, SIDE, SIDE), np.uint8)
    sheet_name, sheet = None, np.empty(0)
    for i, row in enumerate(rows):
        if row["sheet"] != sheet_name:
            sheet_name = row["sheet"]
            sheet = np.asarray(Image.open(folder / sheet_name).convert("RGBA"))
        y, x = row["cell"] // COLUMNS * SIDE, row["cell"] % COLUMNS * SIDE
        pixels[i] = sheet[y : y + SIDE, x : x + SIDE].transpose(2, 0, 1)
    sprites = tuple(Sprite(row["id"], row["concept"], row["style"], row["width"], row["height"]) for row in rows)
    return Atlas(torch.from_numpy(pixels), torch.empty(0, SIDE, SIDE, dtype=torch.uint8), torch.full((len(rows),), -1), sprites)
