"""Replay: generates a picture again from its receipt, and compares it with the file."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from kalpana.media import encode, read_picture, read_receipt
from kalpana.pipelines.pipeline import Pipeline
from kalpana.request import Request
from kalpana.types import KalpanaError, Output, Step


@dataclass(frozen=True)
class ReplayDiff:
    """The comparison of a picture file with its replay: whether ``bytes`` and ``pixels`` are equal,
    the ``largest`` difference of an 8-bit value (255 if the sizes differ), and ``changed``, the
    receipt entries that differ and may be the reason: versions, device, weights."""

    bytes: bool
    pixels: bool
    largest: int
    changed: tuple[str, ...]

    def __str__(self) -> str:
        if self.bytes:
            return "the same bytes"
        text = (
            "the same pixels, other bytes"
            if self.pixels
            else f"other pixels, by {self.largest} of 255 at most"
        )
        return text + (f"; since then {', '.join(self.changed)} changed" if self.changed else "")


def request_of(receipt: dict[str, Any]) -> Request:
    """The request that generates the picture of a receipt again, alone. Raises KalpanaError if the
    receipt cannot be replayed."""
    try:
        return Request(prompt=receipt["request"]["prompt"], **receipt["resolved"])
    except (KeyError, TypeError):
        raise KalpanaError(
            "this receipt cannot be replayed: it is not of one picture "
            "(replay the pictures of a sheet one by one)"
        ) from None


def again(model: Pipeline, receipt: dict[str, Any]) -> Iterator[Step]:
    """The stream that generates the picture of a receipt again, with the same ``top`` rows of
    tokens if it has any. Raises KalpanaError as ``request_of`` and ``Pipeline.generate``."""
    top = {"top": receipt["top"]} if "top" in receipt else {}
    return model.generate(request_of(receipt), **top)


def compare(path: Path, again: Output) -> ReplayDiff:
    """The comparison of the picture file at ``path`` with ``again``, its replay, which is encoded
    in the same format."""
    receipt, data = read_receipt(path), path.read_bytes()
    # Encoded with the receipt of the file, so that only the pixels can differ.
    file = encode(again.image, receipt["resolved"]["format"], receipt)
    before, after = (np.asarray(read_picture(each)).astype(int) for each in (data, file))
    largest = int(np.abs(before - after).max()) if before.shape == after.shape else 255
    changed = tuple(
        name
        for name in ("kalpana", "torch", "device", "model")
        if receipt.get(name) != again.receipt.get(name)
    )
    return ReplayDiff(bytes=file == data, pixels=largest == 0, largest=largest, changed=changed)
