"""Reading a detector's maps: from maps that say the truth, the truth comes back, colours from the pixels themselves."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from kalpana.evaluate.seen import truth
from kalpana.evaluate.verifier import SIDE, Trained, iou, nearest, peaks
from kalpana.models.detector import STRIDE, Config, Detector, Maps
from kalpana.train.detector import Shown, shown, tail
from kalpana.world.kinds import hands
from kalpana.world.recolor import PAINTS, lab
from kalpana.world.scene import COLORS
from kalpana.world.world import World

CPU = torch.device("cpu")


class Oracle(nn.Module):
    """A detector without error, for the pictures of one batch."""

    def __init__(self, batch: Shown) -> None:
        super().__init__()
        self.batch = batch
        self.names = nn.Parameter(torch.eye(len(tail())))

    def forward(self, pixels: Tensor) -> Maps:
        b, cells = len(pixels), pixels.shape[-1] // STRIDE
        reach, color = torch.zeros(b, 4, cells, cells), torch.zeros(b, 11, cells, cells)
        name, whole = torch.zeros(b, len(tail()), cells, cells), torch.full((b, 1, cells, cells), -9.0)
        for i, row, column, x0, y0, x1, y1, paint, rare, real in self.batch.things.tolist():
            at = int(i), slice(None), int(row), int(column)
            reach[at] = torch.tensor([column + 0.5 - x0, row + 0.5 - y0, x1 - column - 0.5, y1 - row - 0.5])
            color[at][int(paint)] = 9
            if rare >= 0:
                name[at][int(rare)] = 1
            whole[at] = 9.0 if real else -9.0
        heat = torch.logit(self.batch.heat.clamp(1e-4, 1 - 1e-4))
        return Maps(heat, reach, color, torch.logit(self.batch.painted.clamp(1e-4, 1 - 1e-4)), name, whole)


def test_hands_and_figures_are_read_from_left_to_right() -> None:
    for kind in ("hands", "puppets"):
        scenes = [World(9, "dev", kind=kind).scene(i) for i in range(40)]
        batch = shown(scenes, CPU)
        seen = Trained(Oracle(batch)).look(batch.pixels)  # type: ignore[arg-type]
        for scene, saw in zip(scenes, seen, strict=True):
            asked = truth(scene)
            assert (saw.fingers, saw.poses) == (asked.fingers, asked.poses) and not saw.things
    flawed = [hands.sample_flawed(random.Random(i)) for i in range(10)]
    batch = shown(flawed, CPU)
    assert all(saw.fingers == () for saw in Trained(Oracle(batch)).look(batch.pixels))  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", ["objects", "depth"])
def test_the_truth_comes_back_from_true_maps(kind: str) -> None:
    scenes = [World(9, "dev", kind=kind).scene(i) for i in range(80)]
    batch = shown(scenes, CPU)
    seen = Trained(Oracle(batch)).look(batch.pixels)  # type: ignore[arg-type]
    wanted = found = colors = right = 0
    for scene, saw in zip(scenes, seen, strict=True):
        left = list(saw.things)
        for thing in truth(scene).things:
            wanted += 1
            match = next((other for other in left if other.concept == thing.concept and iou(other.box, thing.box) > 0.6), None)
            if match is None:
                continue
            left.remove(match)
            found += 1
            if thing.color:
                colors += 1
                right += match.color == thing.color
            else:
                assert match.color is None
        assert not left, f"seen and not there: {left}"
    assert found / wanted > 0.97 and right / colors > 0.95, (found / wanted, right / colors)


def test_paints_are_told_apart_and_what_lies_between_is_not() -> None:
    for color in COLORS:
        points = np.repeat(lab(np.array([PAINTS[color][:3]])), 10, 0)
        assert nearest(points) == color
        assert nearest(points[:3]) is None
    a, b = (lab(np.array([PAINTS[color][:3]])) for color in ("red", "orange"))
    assert nearest(np.repeat((a + b) / 2, 10, 0)) is None


def test_peaks_are_the_strongest_around() -> None:
    heat = torch.zeros(2, 8, 8)
    heat[0, 2, 3], heat[1, 2, 4], heat[1, 6, 6] = 0.9, 0.8, 0.5
    value, kind, row, column = peaks(heat)
    assert list(zip(value.tolist(), kind.tolist(), row.tolist(), column.tolist(), strict=True)) == [
        (pytest.approx(0.9), 0, 2, 3),
        (pytest.approx(0.5), 1, 6, 6),
    ]


def test_iou_of_known_boxes() -> None:
    assert iou((0, 0, 2, 2), (1, 0, 3, 2)) == pytest.approx(1 / 3)
    assert iou((0, 0, 1, 1), (2, 2, 3, 3)) == 0


def test_any_size_is_looked_at() -> None:
    verifier = Trained(Detector(Config(fine=8, coarse=8, deep=8, depth=(1, 1, 1, 1), concepts=len(tail()))).eval())
    for side in (64, SIDE, 200):
        assert len(verifier.look(torch.rand(2, 3, side, side) * 2 - 1)) == 2
