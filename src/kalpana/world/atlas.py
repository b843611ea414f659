"""The sprite atlas: all images of the art pack, cropped to content and packed into WebP sheets.

``kalpana world atlas PACK`` rebuilds ``art/`` from the art pack:

- ``build`` packs the sheets and their index,
- ``build_masks`` adds the recolouring masks,
- ``build_keywords`` adds the search keywords.

``load`` decodes the atlas into tensors; ``recolor`` repaints sprites.
A sprite's content is centred in a SIDE x SIDE square and scaled so that its longer side is
SIDE - 2 pixels. The size of a drawn object is therefore known without reading pixels.
"""

from __future__ import annotations

import io
import json
import tarfile
from collections import defaultdict
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from kalpana.world.lexicon import ART, lexicon
from kalpana.world.recolor import recolor_mask, reference, repaint

SIDE = 96
COLUMNS = 20  # a sheet holds COLUMNS x COLUMNS sprites


@dataclass(frozen=True)
class Sprite:
    """One row of the atlas: its concept, its style and the extent of its content."""

    id: str
    concept: str  # the art pack's ``base``
    style: str
    width: float  # content width and height as shares of the longer side: one of them is 1
    height: float
    recolor: bool = False


@dataclass(frozen=True)
class Atlas:
    """The decoded atlas of n sprites, m of them recolourable.

    ``pixels`` (n, 4, SIDE, SIDE) uint8: RGB, not premultiplied, then alpha.
    ``masks`` (m, SIDE, SIDE) uint8: the pixels that recolouring changes.
    ``mask_row`` (n,): the row of each sprite in ``masks``, or -1.
    ``reference`` (n,): the luminance in (0, 1] that is painted in the pure colour.
    ``sprites``: the description of each row of ``pixels``.
    """

    pixels: Tensor
    masks: Tensor
    mask_row: Tensor
    reference: Tensor
    sprites: tuple[Sprite, ...]


_SEEN = [255 if alpha > 8 else 0 for alpha in range(256)]  # lookup table: alpha to content mask


def fitted(width: int, height: int) -> tuple[int, int]:
    """Size in pixels of content in its tile: (width, height), the longer side SIDE - 2."""
    scale = (SIDE - 2) / max(width, height)
    return max(1, round(width * scale)), max(1, round(height * scale))


def fit(image: Image.Image) -> tuple[Image.Image, float, float]:
    """Tile of an RGBA image: its content, centred, with a longer side of SIDE - 2 pixels.

    Returns (tile, width, height); width and height are shares of the longer side.
    """
    box = image.getchannel("A").point(_SEEN).getbbox() or (0, 0, *image.size)
    content = image.crop(box)
    width, height = fitted(*content.size)
    square = Image.new("RGBA", (SIDE, SIDE))
    # Resize premultiplied: otherwise the colour stored under alpha 0 bleeds into the edges.
    small = (
        content.convert("RGBa").resize((width, height), Image.Resampling.LANCZOS).convert("RGBA")
    )
    square.paste(small, ((SIDE - width) // 2, (SIDE - height) // 2))
    return square, width / (SIDE - 2), height / (SIDE - 2)


def build(pack: Path, out: Path = ART, quality: int = 75) -> None:
    """Write the sheets and their index (atlas.jsonl) from an art pack.

    The art pack is a folder with captions.jsonl and one STYLE.tar for each style.
    """
    out.mkdir(parents=True, exist_ok=True)
    records = [
        json.loads(line)
        for line in (pack / "captions.jsonl").read_text(encoding="utf-8").splitlines()
    ]
    rows, per_sheet = [], COLUMNS * COLUMNS
    for style in sorted({record["style"] for record in records}):
        of_style = sorted(
            (record for record in records if record["style"] == style),
            key=lambda record: record["id"],
        )
        with tarfile.open(pack / f"{style}.tar") as tar:
            for start in range(0, len(of_style), per_sheet):
                name = f"{style}-{start // per_sheet}.webp"
                sheet = Image.new("RGBA", (COLUMNS * SIDE, COLUMNS * SIDE))
                for i, record in enumerate(of_style[start : start + per_sheet]):
                    file = tar.extractfile(record["file"])
                    assert file is not None, record["file"]
                    square, width, height = fit(Image.open(io.BytesIO(file.read())).convert("RGBA"))
                    sheet.paste(square, _corner(i))
                    box = {"width": round(width, 3), "height": round(height, 3)}
                    rows.append(
                        {
                            "id": record["id"],
                            "concept": record["base"],
                            "style": style,
                            "sheet": name,
                            "cell": i,
                            **box,
                        }
                    )
                sheet.save(out / name, "WEBP", quality=quality, alpha_quality=80, method=6)
    _write(out, rows)


def build_masks(out: Path = ART) -> None:
    """Add masks and reference luminances to a built atlas, for the recolourable sprites.

    The lexicon states which concepts are recolourable and which of their sprites are not.
    """
    concepts = lexicon(out / "lexicon.jsonl")
    rows, pixels = _read(out), load(out).pixels
    masks: list[Image.Image] = []
    for row, rgba in zip(rows, pixels, strict=True):
        row.pop("mask", None)
        row.pop("reference", None)
        concept = concepts.get(row["concept"])
        if (
            concept is None
            or not concept.recolor
            or row["id"] in (*concept.plain, *concept.without)
        ):
            continue
        image = rgba.permute(1, 2, 0).numpy()
        mask = recolor_mask(image, concept.hue.get(row["id"]))
        row["mask"], row["reference"] = len(masks), round(reference(image, mask), 3)
        masks.append(Image.fromarray(mask))
    per_sheet = COLUMNS * COLUMNS
    for start in range(0, len(masks), per_sheet):
        sheet = Image.new("L", (COLUMNS * SIDE, COLUMNS * SIDE))
        for i, image in enumerate(masks[start : start + per_sheet]):
            sheet.paste(image, _corner(i))
        sheet.save(out / f"masks-{start // per_sheet}.webp", "WEBP", lossless=True, method=6)
    _write(out, rows)
    load.cache_clear()


def build_keywords(pack: Path, out: Path = ART) -> None:
    """Write ``keywords.jsonl``: the Unicode CLDR keywords of each concept, without its names."""
    found: dict[str, dict[str, list[str]]] = defaultdict(lambda: {"en": [], "hi": []})
    for line in (pack / "captions.jsonl").read_text(encoding="utf-8").splitlines():
        record = json.loads(line)
        for language in ("en", "hi"):
            # Some keywords are comma-separated lists.
            words_of_record = (
                word.strip()
                for keyword in record[f"keywords_{language}"]
                for word in keyword.split(",")
            )
            found[record["base"]][language] += filter(None, words_of_record)
    lines = []
    for concept in lexicon(out / "lexicon.jsonl").values():
        names = {concept.en, *concept.synonyms_en, concept.hi.singular, *concept.synonyms_hi}
        words = {
            language: sorted(set(candidates) - names)
            for language, candidates in found[concept.id].items()
        }
        lines.append(json.dumps({"id": concept.id, **words}, ensure_ascii=False) + "\n")
    (out / "keywords.jsonl").write_text("".join(lines), encoding="utf-8")


def _corner(cell: int) -> tuple[int, int]:
    return cell % COLUMNS * SIDE, cell // COLUMNS * SIDE


def _read(folder: Path) -> list[dict[str, Any]]:
    return [
        json.loads(line)
        for line in (folder / "atlas.jsonl").read_text(encoding="utf-8").splitlines()
    ]


def _write(folder: Path, rows: list[dict[str, Any]]) -> None:
    (folder / "atlas.jsonl").write_text(
        "".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8"
    )


@cache
def load(folder: Path = ART) -> Atlas:
    """The decoded atlas, cached (about 0.4 GB)."""
    rows = _read(folder)
    pixels = np.empty((len(rows), 4, SIDE, SIDE), np.uint8)
    recolorable = [row for row in rows if "mask" in row]
    masks = np.empty((len(recolorable), SIDE, SIDE), np.uint8)
    sheets: dict[str, np.ndarray] = {}

    def cell(name: str, mode: str, index: int) -> np.ndarray:
        if name not in sheets:
            sheets.clear()  # rows are ordered by sheet, so one decoded sheet is enough
            sheets[name] = np.asarray(Image.open(folder / name).convert(mode))
        x, y = _corner(index)
        return sheets[name][y : y + SIDE, x : x + SIDE]

    for i, row in enumerate(rows):
        pixels[i] = cell(row["sheet"], "RGBA", row["cell"]).transpose(2, 0, 1)
    for row in recolorable:
        sheet, index = divmod(row["mask"], COLUMNS * COLUMNS)
        masks[row["mask"]] = cell(f"masks-{sheet}.webp", "L", index)
    sprites = tuple(
        Sprite(r["id"], r["concept"], r["style"], r["width"], r["height"], "mask" in r)
        for r in rows
    )
    mask_row = torch.tensor([row.get("mask", -1) for row in rows])
    references = torch.tensor([row.get("reference", 1.0) for row in rows])
    return Atlas(torch.from_numpy(pixels), torch.from_numpy(masks), mask_row, references, sprites)


def recolor(rgba: Tensor, rows: Tensor, color: Tensor) -> Tensor:
    """Recoloured sprites (n, 4, SIDE, SIDE), float in [0, 1].

    ``rgba`` (n, 4, SIDE, SIDE), float in [0, 1], holds the sprites ``rows`` (n,) of the atlas;
    sprite i gets the colour COLORS[color[i]], ``color`` (n,).
    Raises ValueError when a sprite has no mask: check ``Sprite.recolor`` first.
    """
    art = load()
    mask_row = art.mask_row[rows.cpu()]
    if (mask_row < 0).any():
        sprite = art.sprites[int(rows[mask_row < 0][0])]
        raise ValueError(
            f"{sprite.id} cannot be recoloured: choose a sprite whose `recolor` is True"
        )
    masks = art.masks.index_select(0, mask_row).to(rgba.device).to(rgba.dtype).div_(255)
    return repaint(rgba, masks, art.reference[rows.cpu()].to(rgba.device), color.to(rgba.device))
