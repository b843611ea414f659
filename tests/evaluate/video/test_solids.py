"""3-D consistency by the fitted angles of turning solids."""

from __future__ import annotations

import pytest
import torch

from kalpana.evaluate.video.solids import Rotation, markdown, rotation, solids, true_frames
from kalpana.world.video import VideoScene


@pytest.fixture(scope="module")
def turning() -> list[VideoScene]:
    shapes: dict[str, list[VideoScene]] = {"card": [], "cube": []}
    for _, video in solids(24):
        shapes[video.scene.objects[0].sprite.shape].append(video)  # type: ignore[union-attr]
    return [*shapes["card"][:3], *shapes["cube"][:3]]


@pytest.mark.slow
def test_true_rotations_are_found_in_their_direction_and_by_their_angle(
    turning: list[VideoScene],
) -> None:
    for video in turning:
        found = rotation(true_frames(video, 8, 64), video)
        assert found.direction and found.angle and found.steps == 1 and found.fit > 25, video


@pytest.mark.slow
def test_reversed_and_frozen_solids_are_wrong_and_a_morphing_one_fits_badly(
    turning: list[VideoScene],
) -> None:
    for video in turning:
        frames = true_frames(video, 8, 64)
        back = rotation(frames.flip(0), video)
        assert not back.direction and not back.angle
        still = rotation(frames[:1].expand_as(frames), video)
        assert not still.direction and still.steps == 0 and still.fit > 35
        # Not rigid: it is squeezed to half of its width on the way.
        half = torch.nn.functional.interpolate(frames, (64, 32), mode="area")
        squeezed = torch.nn.functional.pad(half, (16, 16, 0, 0), mode="replicate")
        assert rotation(squeezed, video).fit < rotation(frames, video).fit - 5


def test_the_table_has_means_and_intervals() -> None:
    rows = {"model": [Rotation(20.0, True, False, 1.0), Rotation(30.0, True, True, 0.5)]}
    assert "| model | 25.00 (20.00 to 30.00) | 1.00 (1.00 to 1.00) | 0.50 " in markdown(rows)
