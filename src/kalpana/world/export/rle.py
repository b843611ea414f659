"""Run-length encoding of masks as in COCO: compressed strings that pycocotools reads."""

from __future__ import annotations

from typing import Any

import numpy as np
from torch import Tensor


def encode(mask: Tensor) -> dict[str, Any]:
    """COCO RLE of a mask (h, w) bool: ``{"size": [h, w], "counts": "..."}``."""
    height, width = mask.shape
    return {"size": [height, width], "counts": _text(_runs(mask.numpy()))}


def _runs(mask: np.ndarray) -> list[int]:
    """Lengths of the runs of 0, 1, 0, 1 ... in column-major order; the first may be 0."""
    flat = np.concatenate(([False], mask.ravel(order="F")))
    starts = np.flatnonzero(flat[1:] != flat[:-1])
    return np.diff(np.concatenate(([0], starts, [mask.size]))).tolist()


def _text(runs: list[int]) -> str:
    """The runs as text: from the fourth on as the difference to the run before the last.

    A number is written in groups of five bits, the lowest first, each as one character from 48 on;
    bit 6 of a group says that another follows, and bit 5 of the last is the sign.
    """
    letters = []
    for k, run in enumerate(runs):
        number = run - runs[k - 2] if k > 2 else run
        more = True
        while more:
            group, number = number & 31, number >> 5
            more = number != (-1 if group & 16 else 0)
            letters.append(chr(48 + group + 32 * more))
    return "".join(letters)
