"""Measures of obedience to control maps, by hand and on true pictures."""

from __future__ import annotations

import pytest
import torch

from kalpana.evaluate.control import (
    LOST,
    Obedience,
    box_iou,
    edge_f1,
    joint_distance,
    markdown,
    rank_correlation,
    words_read,
)
from kalpana.evaluate.verifiers.observations import Detection, Observation, Reading
from kalpana.world.controls import pose
from kalpana.world.world import World


def line(column: int) -> torch.Tensor:
    plane = torch.zeros(16, 16, dtype=torch.bool)
    plane[:, column] = True
    return plane


def test_edges_count_within_two_pixels() -> None:
    assert edge_f1(line(5), line(5)) == edge_f1(line(5), line(7)) == 1
    assert edge_f1(line(5), line(8)) == 0
    both = line(5) | line(12)
    assert abs(edge_f1(both, line(5)) - 2 / 3) < 1e-6  # precision a half, recall 1
    empty = torch.zeros(16, 16, dtype=torch.bool)
    assert edge_f1(empty, empty) == 1 and edge_f1(line(5), empty) == 0


def test_boxes_of_the_same_concept_count() -> None:
    wanted = Observation((Detection("cat", 1, (0, 0, 0.5, 0.5)), Detection("dog", 1, (0, 0, 1, 1))))
    seen = Observation(
        (Detection("cat", 0.9, (0, 0, 0.5, 0.25)), Detection("cat", 0.8, (0.9, 0.9, 1, 1)))
    )
    assert abs(box_iou(seen, wanted) - 0.25) < 1e-6  # a half, and no dog
    assert box_iou(wanted, wanted) == 1


def test_words_are_right_as_a_whole() -> None:
    open_, shut = (Observation(readings=(Reading((word,)),)) for word in ("OPEN", "SHUT"))
    assert words_read(open_, open_) == 1 and words_read(shut, open_) == 0
    assert words_read(Observation(), open_) == 0


def test_the_table_is_in_per_cent() -> None:
    table = markdown([Obedience("edges", "edge F1 (2 px)", 24, 0.1, 0.5, 0.9, 1.0)])
    assert table.splitlines()[2] == "| edges | edge F1 (2 px) | 24 | 10 | 50 | 90 | 100 |"
    poses = markdown([Obedience("pose", "joint", 8, 9.04, 5, 1.5, 0.25, pixels=True)])
    assert poses.splitlines()[2] == "| pose | joint | 8 | 9.0 | 5.0 | 1.5 | 0.2 |"


def test_depths_are_compared_by_rank() -> None:
    depth = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    assert rank_correlation(depth, depth**3) == pytest.approx(1)
    assert rank_correlation(-depth, depth) == pytest.approx(-1)
    # Ranks 1 2 4 3 against 1 2 3 4: 1 - 6 * 2 / (4 * 15).
    assert rank_correlation(torch.tensor([1.0, 2, 9, 5]), depth.flatten()) == pytest.approx(0.8)
    # Mean ranks of ties, 1.5 1.5 3.5 3.5 against 1 2 3 4: 4 / sqrt(4 * 5).
    tied = torch.tensor([0.0, 0, 1, 1])
    assert rank_correlation(tied, depth.flatten()) == pytest.approx(4 / 20**0.5)
    assert rank_correlation(torch.zeros(4), depth.flatten()) == 0


def test_joints_are_near_the_bones_of_their_side() -> None:
    world = World(0, "dev", kind="puppets")
    for scene in (world.scene(i) for i in range(3)):
        bones = pose(scene) > 0.5
        assert joint_distance(bones, scene) < 1.5  # a bone is three pixels wide
        moved = bones.roll(6, 2)
        assert 1.5 < joint_distance(moved, scene) < 8
        assert joint_distance(bones.flip(0), scene) > joint_distance(bones, scene) + 1  # sides
        assert joint_distance(torch.zeros_like(bones), scene) == LOST
