"""Decoding of a detector's maps: true maps give the ground truth back, colours from the pixels."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from kalpana.evaluate.score import right
from kalpana.evaluate.suites import load
from kalpana.evaluate.verifiers.observations import (
    Box,
    Detection,
    Reader,
    Reading,
    iou,
    surest,
    truth,
)
from kalpana.evaluate.verifiers.ocr import ENGINES, reader
from kalpana.evaluate.verifiers.verifier import SIDE, DetectorVerifier, nearest, peaks
from kalpana.hub.weights import save_weights
from kalpana.models import reader as readers
from kalpana.models.detector import STRIDE, Config, Detector, Maps
from kalpana.train.detector import DetectorBatch, shown, tail
from kalpana.world.kinds import hands
from kalpana.world.recolor import PAINTS, lab
from kalpana.world.scene import COLORS, Background, Group, Scene, SceneObject, Sign
from kalpana.world.world import World

CPU = torch.device("cpu")


class Oracle(nn.Module):
    """Detector without error for the pictures of one batch."""

    def __init__(self, batch: DetectorBatch) -> None:
        super().__init__()
        self.batch = batch
        self.names = nn.Parameter(torch.eye(len(tail())))

    def forward(self, pixels: Tensor) -> Maps:
        b, cells = len(pixels), pixels.shape[-1] // STRIDE
        reach, color = torch.zeros(b, 4, cells, cells), torch.zeros(b, 11, cells, cells)
        name, whole = (
            torch.zeros(b, len(tail()), cells, cells),
            torch.full((b, 1, cells, cells), -9.0),
        )
        facing = torch.zeros(b, 3, cells, cells)
        for i, row, column, x0, y0, x1, y1, paint, rare, real, faces in self.batch.objects.tolist():
            at = int(i), slice(None), int(row), int(column)
            reach[at] = torch.tensor(
                [column + 0.5 - x0, row + 0.5 - y0, x1 - column - 0.5, y1 - row - 0.5]
            )
            color[at][int(paint)] = 9
            if rare >= 0:
                name[at][int(rare)] = 1
            whole[at] = 9.0 if real else -9.0
            facing[at][max(int(faces), 0)] = 9
        heat = torch.logit(self.batch.heat.clamp(1e-4, 1 - 1e-4))
        return Maps(
            heat,
            reach,
            color,
            torch.logit(self.batch.painted.clamp(1e-4, 1 - 1e-4)),
            name,
            whole,
            heat,
            facing,
        )


@pytest.mark.slow
def test_hands_and_figures_are_read_from_left_to_right() -> None:
    for kind in ("hands", "puppets"):
        scenes = [World(9, "dev", kind=kind).scene(i) for i in range(40)]
        batch = shown(scenes, CPU)
        seen = DetectorVerifier(Oracle(batch)).look(batch.pixels)  # type: ignore[arg-type]
        for scene, saw in zip(scenes, seen, strict=True):
            asked = truth(scene)
            assert (saw.fingers, saw.poses) == (asked.fingers, asked.poses) and not saw.objects
    flawed = [hands.sample_flawed(random.Random(i)) for i in range(10)]
    batch = shown(flawed, CPU)
    assert all(saw.fingers == () for saw in DetectorVerifier(Oracle(batch)).look(batch.pixels))  # type: ignore[arg-type]


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["objects", "depth"])
def test_the_truth_comes_back_from_true_maps(kind: str) -> None:
    scenes = [World(9, "dev", kind=kind).scene(i) for i in range(80)]
    batch = shown(scenes, CPU)
    seen = DetectorVerifier(Oracle(batch)).look(batch.pixels)  # type: ignore[arg-type]
    wanted = found = colors = right = 0
    for scene, saw in zip(scenes, seen, strict=True):
        left = list(saw.objects)
        for item in truth(scene).objects:
            wanted += 1
            match = next(
                (
                    other
                    for other in left
                    if other.concept == item.concept and iou(other.box, item.box) > 0.6
                ),
                None,
            )
            if match is None:
                continue
            left.remove(match)
            found += 1
            assert match.facing == item.facing
            if item.color:
                colors += 1
                right += match.color == item.color
            else:
                assert match.color is None
        assert not left, f"seen and not there: {left}"
    assert found / wanted > 0.97 and right / colors > 0.95, (found / wanted, right / colors)


def signs(*words: str) -> Scene:
    """Scene of signs side by side, whose objects are listed from right to left."""
    places = [(k + 0.5) / len(words) for k in range(len(words))]
    objects = tuple(
        SceneObject(Sign(word, "Mukta", "black", "white"), x, 0.5, 0.9 / len(words))
        for word, x in zip(words, places, strict=True)
    )
    return Scene(objects[::-1], (Group("sign"),), Background("flat", "light blue", 0))


def test_every_reader_reads_the_signs_from_left_to_right() -> None:
    batch = shown([signs("EXIT", "MILK"), World(9, "dev").scene(0), signs("HOTEL")], CPU)
    asked = []

    def where(pixels: Tensor, boxes: Sequence[Box]) -> list[str]:
        asked.append((pixels, boxes))
        return ["left" if x1 < 0.5 else "right" if x0 > 0.5 else "alone" for x0, _, x1, _ in boxes]

    two = (
        Reader("where", where),
        Reader("mute", lambda pixels, boxes: [""] * len(boxes), alike=True),
    )
    seen = DetectorVerifier(Oracle(batch), two).look(batch.pixels)  # type: ignore[arg-type]
    ((pixels, boxes),) = asked
    assert torch.equal(pixels, batch.pixels[[0, 0, 2]]) and len(boxes) == 3
    said = [("left", "right"), (), ("alone",)]
    assert [one.readings for one in seen] == [
        (Reading(words, "where"), Reading(("",) * len(words), "mute (0 as O, 1 as I)", alike=True))
        for words in said
    ]
    assert all(one.readings == () for one in DetectorVerifier(Oracle(batch)).look(batch.pixels))  # type: ignore[arg-type]
    empty = shown([World(9, "dev").scene(0)], CPU)
    (one,) = DetectorVerifier(Oracle(empty), two[:1]).look(empty.pixels)  # type: ignore[arg-type]
    assert one.readings == (Reading((), "where"),) and len(asked) == 1, (
        "where there is no sign nobody is asked"
    )


@pytest.mark.parametrize("suite", ENGINES)
def test_an_engine_reads_what_the_detector_finds(suite: str) -> None:
    engine = ENGINES[suite]
    if missing := engine.available():
        pytest.skip(missing)
    prompts = load(suite, dev=True)[:12]
    batch = shown([prompt.scene(random.Random(prompt.text)) for prompt in prompts], CPU)
    seen = DetectorVerifier(Oracle(batch), (reader(engine),)).look(batch.pixels)  # type: ignore[arg-type]
    assert all(len(one.readings[0].words) == 1 for one in seen)
    assert sum(right(prompt, one) for prompt, one in zip(prompts, seen, strict=True)) >= 9, [
        one.readings for one in seen
    ]
    assert not any(
        right(replace(prompt, word=f"{prompt.word}क"), one)
        for prompt, one in zip(prompts, seen, strict=True)
    )


def test_a_folder_has_a_reader_of_its_own_or_none(tmp_path: Path) -> None:
    net = Detector(Config(fine=8, coarse=8, deep=8, depth=(1, 1, 1, 1), concepts=len(tail())))
    save_weights(tmp_path / "detector.safetensors", net, "detector", net.config, {})
    assert DetectorVerifier.load(tmp_path).readers == ()
    torch.manual_seed(0)
    other = readers.Reader(readers.Config("ABC", 8, 8))
    save_weights(tmp_path / "reader.safetensors", other, "reader", other.config, {})
    (mine,) = DetectorVerifier.load(tmp_path).readers
    pixels, boxes = torch.rand(3, 3, 64, 64) * 2 - 1, [(0.1, 0.2, 0.9, 0.6)] * 3
    assert (mine.title, mine.alike) == ("the verifier's reader", False)
    assert mine.read(pixels, boxes) == [
        word for k in range(3) for word in mine.read(pixels[k : k + 1], boxes[:1])
    ]


def test_paints_are_told_apart_and_what_lies_between_is_not() -> None:
    for color in COLORS:
        points = np.repeat(lab(np.array([PAINTS[color][:3]])), 10, 0)
        assert nearest(points) == color
        assert nearest(points[:3]) is None
    a, b = (lab(np.array([PAINTS[color][:3]])) for color in ("red", "orange"))
    between = np.repeat((a + b) / 2, 10, 0)
    assert nearest(between) is None and nearest(between, "blue") is None
    assert (
        nearest(between, "red") == "red"
        and nearest(between, "orange") == "orange"
        and nearest(between[:3], "blue") == "blue"
    )


def test_peaks_are_the_strongest_around_of_each_class() -> None:
    heat = torch.zeros(2, 8, 8)
    heat[0, 2, 3], heat[0, 2, 4], heat[1, 2, 4], heat[1, 6, 6], heat[1, 0, 0] = (
        0.9,
        0.7,
        0.8,
        0.5,
        0.05,
    )
    value, kind, row, column = peaks(heat)
    assert list(zip(value.tolist(), kind.tolist(), row.tolist(), column.tolist(), strict=True)) == [
        (pytest.approx(0.9), 0, 2, 3),
        (pytest.approx(0.8), 1, 2, 4),
        (pytest.approx(0.5), 1, 6, 6),
    ]


def test_of_two_labels_in_one_place_the_surer_is_kept() -> None:
    a, b, c = (
        Detection("a", 0.4, (0, 0, 2, 2)),
        Detection("b", 0.9, (0, 0, 2, 2.1)),
        Detection("c", 0.2, (1, 0, 3, 2)),
    )
    assert surest((a, b, c)) == [b, c]


def test_iou_of_known_boxes() -> None:
    assert iou((0, 0, 2, 2), (1, 0, 3, 2)) == pytest.approx(1 / 3)
    assert iou((0, 0, 1, 1), (2, 2, 3, 3)) == 0


def test_any_size_is_looked_at() -> None:
    verifier = DetectorVerifier(
        Detector(Config(fine=8, coarse=8, deep=8, depth=(1, 1, 1, 1), concepts=len(tail()))).eval()
    )
    for side in (64, SIDE, 200):
        assert len(verifier.look(torch.rand(2, 3, side, side) * 2 - 1)) == 2
