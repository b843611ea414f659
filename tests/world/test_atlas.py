"""Tests of the sprite atlas: content boxes, recolouring masks, repainting and the build command."""

from __future__ import annotations

import io
import json
import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw
from scipy.spatial.distance import cdist

from kalpana.world import atlas
from kalpana.world.lexicon import keywords, lexicon, sprites_of
from kalpana.world.recolor import PAINTS, lab, recolor_mask
from kalpana.world.scene import COLORS, STYLES

ART = atlas.load()
PAINTED = [row for row, sprite in enumerate(ART.sprites) if sprite.recolor]


def painted(rows: list[int], color: str) -> tuple[torch.Tensor, torch.Tensor]:
    """These sprites (n, 4, SIDE, SIDE) in [0, 1], before and after recolouring."""
    before = ART.pixels[rows].float() / 255
    return before, atlas.recolor(
        before, torch.tensor(rows), torch.full((len(rows),), COLORS.index(color))
    )


@pytest.mark.slow
def test_boxes_agree_with_alpha() -> None:
    assert len(ART.pixels) == len(ART.sprites) > 10_000
    assert {sprite.style for sprite in ART.sprites} == set(STYLES)
    alpha = ART.pixels[:, 3] > 8
    width, height = (
        atlas.SIDE - seen.flip(1).int().argmax(1) - seen.int().argmax(1)
        for seen in (alpha.any(1), alpha.any(2))
    )
    said = torch.tensor([(sprite.width, sprite.height) for sprite in ART.sprites]) * (
        atlas.SIDE - 2
    )
    error = (torch.stack((width, height), 1) - said).abs().amax(1)
    # Lossy alpha may remove the edge of a soft shadow.
    assert error.median() <= 1 and error.quantile(0.99) <= 2.5
    assert torch.equal(
        torch.tensor([max(s.width, s.height) for s in ART.sprites]), torch.ones(len(ART.sprites))
    )


def test_the_whole_of_art_is_light() -> None:
    assert sum(file.stat().st_size for file in atlas.ART.iterdir()) <= 25e6


def test_recolourable_core_classes() -> None:
    core = [concept for concept in lexicon().values() if concept.core and concept.recolor]
    assert len(core) >= 40
    for concept in core:
        styles = [
            style
            for style, rows in sprites_of(concept.id).items()
            if any(ART.sprites[row].recolor for row in rows)
        ]
        assert len(styles) >= 3, concept.en


def test_masks_cover_what_the_eye_sees() -> None:
    opaque = ART.pixels[PAINTED, 3] > 127
    masks = ART.masks[ART.mask_row[PAINTED]] > 127
    share = (masks & opaque).sum((1, 2)) / opaque.sum((1, 2))
    assert share.min() > 0.35 and (share > 0.45).float().mean() > 0.98


@pytest.mark.slow
@pytest.mark.parametrize("color", COLORS)
def test_a_repainted_sprite_has_the_named_colour(color: str) -> None:
    anchors = lab(np.array([PAINTS[name][:3] for name in COLORS]))
    _, after = painted(PAINTED, color)
    for row, rgba in zip(PAINTED, after.permute(0, 2, 3, 1).numpy(), strict=True):
        inside = (ART.masks[ART.mask_row[row]].numpy() > 200) & (rgba[..., 3] > 0.5)
        median = np.median(lab(rgba[inside][:, :3]), axis=0)
        assert COLORS[int(cdist([median], anchors).argmin())] == color, ART.sprites[row].id


def test_repainting_leaves_the_rest_alone() -> None:
    rows = PAINTED[::7]
    before, after = painted(rows, "blue")
    outside = (ART.masks[ART.mask_row[rows]] == 0)[:, None].expand_as(before)
    assert torch.equal(before[outside], after[outside])
    assert torch.equal(before[:, 3], after[:, 3])
    assert torch.equal(before, ART.pixels[rows].float() / 255)  # the input was not written to
    assert after.min() >= 0 and after.max() <= 1


def test_repainting_keeps_light_and_shade() -> None:
    for color in ("black", "white", "red"):
        before, after = painted(PAINTED[:40], color)
        masks = ART.masks[ART.mask_row[PAINTED[:40]]] > 200
        spread = [
            after[i, :3].mean(0)[mask].std()
            for i, mask in enumerate(masks)
            if before[i, :3].mean(0)[mask].std() > 0.05
        ]
        assert min(spread) > 0.004


def test_a_sprite_without_a_mask_is_refused() -> None:
    row = next(row for row, sprite in enumerate(ART.sprites) if not sprite.recolor)
    with pytest.raises(ValueError, match="cannot be recoloured"):
        atlas.recolor(ART.pixels[[row]].float() / 255, torch.tensor([row]), torch.tensor([0]))


def test_the_mask_takes_the_main_hue_and_leaves_outline_and_leaf() -> None:
    image = Image.new("RGBA", (96, 96))
    draw = ImageDraw.Draw(image)
    draw.ellipse((10, 20, 86, 94), (210, 40, 40, 255), (20, 20, 20, 255), width=4)
    draw.rectangle((40, 2, 60, 18), (60, 160, 60, 255))
    mask = recolor_mask(np.asarray(image))
    assert mask[60, 48] == 255 and mask[10, 50] == 0 and mask[92, 48] == 0 and mask[0, 0] == 0


def tiny_pack(folder: Path) -> Path:
    """An art pack of two pictures: a tall red box (recolourable) and a wide grey one."""
    folder.mkdir()
    records = []
    with tarfile.open(folder / "noto.tar", "w") as tar:
        for name, box, color in (
            ("a", (100, 28, 156, 228), "red"),
            ("b", (28, 100, 228, 156), "gray"),
        ):
            image = Image.new("RGBA", (256, 256))
            ImageDraw.Draw(image).rectangle(box, color)
            file = io.BytesIO()
            image.save(file, "WEBP", lossless=True)
            info = tarfile.TarInfo(f"noto/{name}.webp")
            info.size = len(file.getvalue())
            tar.addfile(info, io.BytesIO(file.getvalue()))
            words = {
                "keywords_en": ["box", "red box", "tall, thin"],
                "keywords_hi": ["डिब्बा", "छड़"],
            }
            records.append(
                {
                    "id": f"noto/{name}",
                    "style": "noto",
                    "base": name,
                    "file": f"noto/{name}.webp",
                    **words,
                }
            )
    (folder / "captions.jsonl").write_text(
        "".join(json.dumps(record) + "\n" for record in records), encoding="utf-8"
    )
    return folder


def tiny_lexicon(folder: Path) -> Path:
    """A lexicon of the two pictures of ``tiny_pack``."""
    folder.mkdir()
    flags = {
        "core": False,
        "support": False,
        "can_rest": False,
        "group": "other",
        "weight": 1.0,
        "checked": False,
    }
    names = (("a", "red box", "लाल डिब्बा", True), ("b", "bar", "छड़", False))
    lines = [
        json.dumps({"id": i, "en": en, "hi": ["m", hi], "recolor": recolor, **flags})
        for i, en, hi, recolor in names
    ]
    (folder / "lexicon.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder


@pytest.mark.slow
def test_the_atlas_is_built_the_same_twice_and_by_its_command(tmp_path: Path) -> None:
    pack, one, two = (
        tiny_pack(tmp_path / "pack"),
        tiny_lexicon(tmp_path / "one"),
        tiny_lexicon(tmp_path / "two"),
    )
    atlas.build(pack, one)
    atlas.build_masks(one)
    atlas.build_keywords(pack, one)
    subprocess.run(
        [sys.executable, "-m", "kalpana", "world", "atlas", str(pack), "--out", str(two)],
        check=True,
    )
    assert {file.name: file.read_bytes() for file in one.iterdir()} == {
        file.name: file.read_bytes() for file in two.iterdir()
    }

    assert keywords(one) == {
        "a": {"en": ("box", "tall", "thin"), "hi": ("छड़", "डिब्बा")},
        "b": {"en": ("box", "red box", "tall", "thin"), "hi": ("डिब्बा",)},
    }
    small = atlas.load(one)
    assert [sprite.recolor for sprite in small.sprites] == [
        True,
        False,
    ] and small.mask_row.tolist() == [0, -1]
    assert small.sprites[0].height == 1.0 and small.sprites[0].width == pytest.approx(
        57 / 201, abs=0.01
    )
    assert small.masks[0, 48, 48] == 255 and small.masks[0, 48, 5] == 0
    assert small.pixels[0, :, 48, 48].tolist() == pytest.approx([255, 0, 0, 255], abs=12)
