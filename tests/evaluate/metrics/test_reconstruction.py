"""Reconstruction quality: the measured loss is the change that a codec makes."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from torch import Tensor

from kalpana.evaluate.metrics import reconstruction
from kalpana.evaluate.metrics.fidelity import FeatureExtractor
from kalpana.evaluate.metrics.reconstruction import (
    HEAD,
    LETTER,
    Redrawn,
    boards,
    line,
    load,
    measure,
)
from kalpana.evaluate.verifiers.verifier import DetectorVerifier
from kalpana.hub.card import weights_dir
from kalpana.hub.weights import save_weights
from kalpana.models.vqgan import VQGAN, Config
from kalpana.types import KalpanaError
from kalpana.world.render import render
from kalpana.world.scene import Sign
from kalpana.world.world import World

TINY = Config(stem=4, widths=(8, 8), depth=1, groups=4, latent=8, codebook=(32, 4))


@dataclass(frozen=True)
class Shift:
    """Codec that adds a number; the codes alternate between 0 and 1 over the rows."""

    by: float
    name: str = "shift"
    codes: int = 4

    def again(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        return pixels + self.by, torch.arange(len(pixels))[:, None, None] % 2


@pytest.fixture(scope="module")
def sight() -> tuple[FeatureExtractor, DetectorVerifier]:
    return FeatureExtractor(weights_dir() / "verifier-b"), DetectorVerifier.load(
        weights_dir() / "verifier-b"
    )


@pytest.mark.slow
def test_nothing_is_lost_where_nothing_changes(
    sight: tuple[FeatureExtractor, DetectorVerifier],
) -> None:
    same = measure(Shift(0.0), *sight, pictures=6, each=10)
    assert (
        same.psnr > 100 and same.ssim == pytest.approx(1) and same.fd == pytest.approx(0, abs=1e-6)
    )
    assert same.used == 0.5 and same.perplexity == pytest.approx(
        2
    )  # two of four codes, equally often
    assert all(still == 1.0 for _, still in same.words.values()) and same.words["Latin"][0] >= 0.8


@pytest.mark.slow
def test_what_a_coder_changes_is_measured(sight: tuple[FeatureExtractor, DetectorVerifier]) -> None:
    brighter, nothing = (measure(Shift(by), *sight, pictures=6, each=10) for by in (0.1, 2.0))
    assert brighter.psnr == pytest.approx(10 * math.log10(4 / 0.01), abs=1e-3)
    assert brighter.overall == pytest.approx(brighter.psnr, abs=1e-3)
    assert nothing.fd > brighter.fd > 0 and nothing.ssim < brighter.ssim < 1


@pytest.mark.slow
def test_the_psnr_of_pictures_is_not_that_of_their_pixels(
    sight: tuple[FeatureExtractor, DetectorVerifier],
) -> None:
    class Uneven(Shift):
        def again(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
            by = torch.where(torch.arange(len(pixels)) % 2 == 0, 0.02, 0.2)
            return pixels + by.view(-1, 1, 1, 1), super().again(pixels)[1]

    found = measure(Uneven(0), *sight, pictures=6, each=2)
    assert found.psnr == pytest.approx(
        5 * math.log10(4 / 0.02**2) + 5 * math.log10(4 / 0.2**2), abs=1e-3
    )  # 30
    assert found.overall == pytest.approx(
        10 * math.log10(8 / (0.02**2 + 0.2**2)), abs=1e-3
    )  # 22.97


@pytest.mark.slow
def test_words_in_a_picture_that_is_blank_are_read_no_more(
    sight: tuple[FeatureExtractor, DetectorVerifier],
) -> None:
    class Blank(Shift):
        def again(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
            return torch.zeros_like(pixels), torch.zeros(len(pixels), 1, 1, dtype=torch.int64)

    read, still = reconstruction.still_read(Blank(0.0), sight[1], boards(True, 10))
    assert read >= 0.8 and still == 0


@pytest.mark.parametrize("latin", [True, False])
def test_signs_have_letters_of_one_height_in_one_script(latin: bool) -> None:
    scenes = boards(latin, 12)
    for scene, mask in zip(scenes, render(scenes, masks=True).masks or (), strict=True):
        (item,) = scene.objects
        assert isinstance(item.sprite, Sign) and item.sprite.text.isascii() == latin
        rows, columns = mask[0].any(1).nonzero().flatten(), mask[0].any(0).nonzero().flatten()
        assert rows[0] > 0 and rows[-1] < 127 and columns[0] > 0 and columns[-1] < 127  # whole
        assert len(rows) > 128 * LETTER * 0.9  # a sign is at least as tall as its letters


@pytest.mark.slow
def test_a_coder_is_what_its_weights_are(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = VQGAN(TINY)
    path = tmp_path / "some" / "codes.safetensors"
    save_weights(path, network, "vqgan", TINY, {})
    coder, pixels = load(path), World(0, "dev").images([0, 1])
    again, ids = coder.again(pixels)
    assert (
        coder.name == "some/codes"
        and coder.codes == 32
        and ids is not None
        and ids.shape == (2, 16, 16)
    )
    assert again.shape == pixels.shape and again.abs().max() <= 1
    latents = load(weights_dir() / "default" / "vae.safetensors")
    assert latents.codes is None and latents.again(pixels)[1] is None
    blind = Config(**{**TINY.__dict__, "encoder": False})
    save_weights(path, VQGAN(blind), "vqgan", blind, {})
    with pytest.raises(KalpanaError, match="no encoder"):
        load(path)
    with pytest.raises(KalpanaError, match="there is no such file"):
        load(tmp_path / "absent.safetensors")


def test_a_table_has_a_row_for_each() -> None:
    words = {"Latin": (0.9, 0.5), "Devanagari": (0.5, 0.25)}
    one, two = (
        Redrawn("a/b", 26.5, 25.0, 0.8, 12.34, 0.955, 2419.4, words),
        Redrawn("c/d", 31.0, 29.0, 0.9, 3.0, None, None, words),
    )
    assert (
        line(one) == "| a/b | 26.50 | 25.00 | 0.800 | 12.3 | 95.5 % | 2,419 "
        "| 50.0 % (of 90.0 %) | 25.0 % (of 50.0 %) |"
    )
    assert line(two).startswith("| c/d | 31.00 | 29.00 | 0.900 | 3.0 | – | – |")
    assert {each.count("|") for each in (*HEAD.splitlines(), line(one), line(two))} == {10}
