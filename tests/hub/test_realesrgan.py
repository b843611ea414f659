"""Reader of ncnn files, on files written byte by byte."""

from __future__ import annotations

import struct

import numpy as np
import pytest
import torch

from kalpana.hub.realesrgan import read_ncnn
from kalpana.types import KalpanaError

GRAPH = """7767517
5 5
Input                    data                     0 1 data
Convolution              first                    1 1 data a 0=1 1=3 4=1 5=1 6=27
PReLU                    bend                     1 1 a b 0=1
Convolution              last                     1 1 b c 0=2 1=1 5=1 6=2
PixelShuffle             out                      1 1 c output 0=1
"""
FIRST = np.arange(27, dtype="<f2") / 8  # 54 bytes, so two of padding follow
NUMBERS = (
    # 16-bit weights and bias, a slope, 32-bit weights and biases.
    struct.pack("<I", 0x01306B47) + FIRST.tobytes() + b"\0\0" + struct.pack("<f", 0.5)
    + struct.pack("<f", 0.25)
    + struct.pack("<I", 0) + struct.pack("<2f", 3, 4) + struct.pack("<2f", -1, 1)
)  # fmt: skip


def test_both_precisions_are_read_and_kept() -> None:
    state = read_ncnn(GRAPH, NUMBERS)
    assert list(state) == [
        "body.0.weight",
        "body.0.bias",
        "body.1.weight",
        "body.2.weight",
        "body.2.bias",
    ]
    assert state["body.0.weight"].dtype == torch.float16 and state["body.0.weight"].shape == (
        1,
        3,
        3,
        3,
    )
    assert state["body.0.weight"].flatten().tolist() == FIRST.tolist()
    assert state["body.2.weight"].dtype == torch.float32 and state["body.2.weight"].shape == (
        2,
        1,
        1,
        1,
    )
    assert [
        state[f"body.{name}"].flatten().tolist()
        for name in ("0.bias", "1.weight", "2.weight", "2.bias")
    ] == [
        [0.5],
        [0.25],
        [3, 4],
        [-1, 1],
    ]


@pytest.mark.parametrize(
    "numbers, complaint",
    [
        (NUMBERS[:-4], "ends too early"),
        (NUMBERS + b"\0", "goes on"),
        (struct.pack("<I", 0x000D4B38) + NUMBERS[4:], "first has tag 0xd4b38"),
    ],
    ids=["short", "long", "int8"],
)
def test_a_file_that_does_not_fit_is_refused(numbers: bytes, complaint: str) -> None:
    with pytest.raises(KalpanaError, match=complaint):
        read_ncnn(GRAPH, numbers)
