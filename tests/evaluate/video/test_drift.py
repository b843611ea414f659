"""Measures of drift on videos whose drift is known."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from kalpana.evaluate.verifiers.observations import Detection, Observation
from kalpana.evaluate.video.drift import ADDED, NAMES, START, Stretch, markdown, stretches
from kalpana.evaluate.video.suite import VideoPrompt
from kalpana.media import to_pixels
from kalpana.world.video import Videos

BOX = (0.25, 0.25, 0.5, 0.5)
PROMPT = VideoPrompt("a", "en", "bounce", Videos().video(0), "", 0)
NAME = PROMPT.groups[0].concept


class Bright:
    """A verifier that sees the object where the box is red."""

    def look(self, pixels: Tensor) -> list[Observation]:
        red = (pixels[:, 0, 16:32, 16:32] - pixels[:, 1, 16:32, 16:32]).mean((1, 2)) > 0.5
        one = Observation((Detection(NAME, 1.0, BOX, None),))
        return [one if found else Observation(()) for found in red]


class Colors:
    """An encoder of pictures by their normalised mean colour."""

    def images(self, images: list[Image.Image]) -> Tensor:
        means = torch.stack([to_pixels([image])[0].mean((1, 2)) for image in images]) + 1
        return F.normalize(means, dim=1)


def start() -> Tensor:
    """Frames (START, 3, 64, 64): a red square on a ground of two greys, in stripes."""
    frames = torch.zeros(START, 3, 64, 64)
    frames[..., ::8] = 0.2
    frames[..., 16:32, 16:32] = torch.tensor([0.8, -0.8, -0.8])[:, None, None]
    return frames


def drifted(frames: Tensor) -> list[Stretch]:
    """The measurements of the start and of one extension by these frames (ADDED, 3, 64, 64)."""
    video = torch.cat((start(), frames))
    return list(stretches(video, 8, PROMPT, Bright(), Colors()))  # type: ignore[arg-type]


def still() -> Tensor:
    return start()[:1].repeat(ADDED, 1, 1, 1)


def test_what_does_not_change_does_not_drift() -> None:
    for each in drifted(still()):
        measured = [getattr(each, name) for name in NAMES]
        assert measured == pytest.approx([1.0, 1.0, 0.0, 1.0, 0.0], abs=1e-3)


def test_each_measure_answers_to_its_own_change() -> None:
    brighter = drifted(still() + 10 / 127.5)[1]
    assert brighter.color == pytest.approx(10 * math.sqrt(3), rel=1e-3)
    assert brighter.background == pytest.approx(10, rel=1e-3)
    assert brighter.detail == pytest.approx(1, rel=1e-3) and brighter.kept == 1
    blurred = drifted(F.avg_pool2d(still(), 5, stride=1, padding=2, count_include_pad=False))[1]
    assert blurred.detail < 0.5 and blurred.color < 1
    other = still()
    other[..., 16:32, 16:32] = torch.tensor([0.8, -0.8, 0.8])[:, None, None]
    assert 0.6 < drifted(other)[1].crop < 0.8, "45 degrees between red and violet"
    assert drifted(other)[1].background == pytest.approx(0, abs=1e-3)
    gone = still()
    gone[: ADDED // 2, :, 16:32, 16:32] = 0
    assert drifted(gone)[1].kept == 0.5
    gone[:, :, 16:32, 16:32] = 0
    assert drifted(gone)[1].kept == 0 and math.isnan(drifted(gone)[1].crop)


def test_the_table_has_a_row_for_each_measure_and_way() -> None:
    one = Stretch(1.0, 1.0, 0.0, 1.0, 0.0)
    table = markdown({"latent": [[one, one]], "re-encoded": [[one, replace(one, kept=0.5)]]})
    assert "| measure | continued | start | 1 |" in table
    assert "| class kept | re-encoded | 1.00 | 0.50 (0.50 to 0.50) |" in table
    assert len(table.splitlines()) == 2 + 2 * len(NAMES)
