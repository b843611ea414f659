"""Measures of obedience to control maps, by hand and on true pictures."""

from __future__ import annotations

import torch

from kalpana.evaluate.control import Obedience, box_iou, edge_f1, markdown, words_read
from kalpana.evaluate.verifiers.observations import Detection, Observation, Reading


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
