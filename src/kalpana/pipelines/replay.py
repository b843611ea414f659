"""A picture made again from its receipt, and how far the two agree."""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from kalpana.media import encode, read_receipt
from kalpana.pipelines.pipeline import Pipeline
from kalpana.request import Request
from kalpana.types import KalpanaError, Picture, Step


@dataclass(frozen=True)
class ReplayDiff:
    """How a file and its picture made again compare: ``bytes`` and ``pixels`` equal or not, the ``largest`` difference of an
    8-bit value, and ``changed``, what differs in their receipts (versions, weights) and may be the reason."""

    bytes: bool
    pixels: bool
    largest: int
    changed: tuple[str, ...]

    def __str__(self) -> str:
        if self.bytes:
            return "the same bytes"
        said = (
            "the same pixels, other bytes"
            if self.pixels
            else f"other pixels, by {self.largest} of 255 at most"
        )
        return said + (f"; since then {', '.join(self.changed)} changed" if self.changed else "")


def request_of(receipt: dict[str, Any]) -> Request:
    """The request that makes the picture of a receipt again, alone. Raises KalpanaError where the receipt cannot be replayed."""
    try:
        return Request(prompt=receipt["request"]["prompt"], **receipt["resolved"])
    except (KeyError, TypeError):
        raise KalpanaError(
            "this receipt cannot be replayed: it is not of one picture (replay the pictures of a sheet one by one)"
        ) from None


def again(model: Pipeline, receipt: dict[str, Any]) -> Iterator[Step]:
    """The stream that makes the picture of a receipt again, below the same top where one was given. Raises KalpanaError as ``request_of``
    and ``Pipeline.generate``."""
    return model.generate(
        request_of(receipt), **({"top": receipt["top"]} if "top" in receipt else {})
    )


def compare(path: Path, again: Picture) -> ReplayDiff:
    """How the picture file at ``path`` and the picture made again from its receipt, written the same way, agree."""
    receipt, data = read_receipt(path), path.read_bytes()
    file = encode(
        again.image, receipt["resolved"]["format"], receipt
    )  # with the old receipt: only the picture is in question
    before, after = (
        np.asarray(Image.open(io.BytesIO(each)).convert("RGB")).astype(int) for each in (data, file)
    )
    largest = int(np.abs(before - after).max()) if before.shape == after.shape else 255
    changed = tuple(
        name
        for name in ("kalpana", "torch", "device", "model")
        if receipt.get(name) != again.receipt.get(name)
    )
    return ReplayDiff(bytes=file == data, pixels=largest == 0, largest=largest, changed=changed)
