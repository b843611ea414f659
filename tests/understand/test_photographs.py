"""Photographs against renders and generated pictures, by the share of flat neighbours."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from kalpana.cli import app
from kalpana.evaluate.verifiers import eye_labels
from kalpana.media import to_images
from kalpana.understand.photographs import photographic, warning
from kalpana.world.render import render
from kalpana.world.world import World


def textured(seed: int, side: int = 256) -> Image.Image:
    """A picture with the power spectrum of photographs: 1 / f in amplitude (Field 1987)."""
    rng = np.random.default_rng(seed)
    frequency = np.hypot(np.fft.fftfreq(side)[:, None], np.fft.rfftfreq(side)[None])
    frequency[0, 0] = 1
    waves = np.fft.rfft2(rng.standard_normal((side, side))) / frequency
    waves[0, 0] = 0
    field = np.fft.irfft2(waves)
    levels = 128 + 50 * field / field.std()
    return Image.fromarray(levels.clip(0, 255).astype(np.uint8)).convert("RGB")


@pytest.mark.parametrize("kind", ["objects", "text", "hands", "puppets", "depth"])
def test_drawings_are_no_photographs(kind: str) -> None:
    world = World(5, "test", kind=kind)
    images = to_images(render([world.scene(i) for i in range(20)]).pixels)
    assert not any(map(photographic, images))


def test_generated_pictures_are_hardly_ever_photographs() -> None:
    side = eye_labels.SIDE
    with Image.open(eye_labels.EYE / "pictures.webp") as sheet:
        places = [(x, y) for y in range(0, sheet.height, side) for x in range(0, sheet.width, side)]
        tiles = [sheet.crop((x, y, x + side, y + side)) for x, y in places][:200]
    assert sum(map(photographic, tiles)) <= 4


@pytest.mark.slow
def test_pictures_with_the_spectrum_of_photographs_are_found(tmp_path: Path) -> None:
    assert all(photographic(textured(seed)) for seed in range(8))
    for seed in range(2):
        textured(seed).save(tmp_path / f"{seed}.jpg")
    done = CliRunner().invoke(app, ["classify", str(tmp_path), "--labels", "a cat, a dog"])
    assert done.exit_code == 0 and done.stderr == f"warning: {warning('clip', 2, 2)}\n"
    done = CliRunner().invoke(app, ["search", "index", str(tmp_path)])
    assert done.exit_code == 0 and done.stderr == f"warning: {warning('clip', 2, 2)}\n"
    # Nothing is new: no warning.
    assert CliRunner().invoke(app, ["search", "index", str(tmp_path)]).stderr == ""


def test_the_warning_is_for_most_pictures() -> None:
    assert warning("clip", 2, 4) == "" and "3 of 4 pictures look like" in warning("clip", 3, 4)
