"""A picture made again from its receipt, and how far the two agree."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from kalpana.media import encode, read_receipt
from kalpana.request import Request
from kalpana.types import KalpanaError, Picture


@dataclass(frozen=True)
class Agreement:
    """How a file and its picture made again compare: ``bytes`` and ``pixels`` equal or not, the ``largest`` difference of an
    8-bit value as the file shows it, and ``changed``, what differs in the receipts (versions, weights) and may be the reason."""

    bytes: bool
    pixels: bool
    largest: int
    changed: tuple[str, ...]

    def __str__(self) -> str:
        if self.bytes:
            return "the same bytes"
        said = "the same pixels, other bytes" if self.pixels else f"other pixels, by {self.largest} of 255 at most"
        return said + (f"; since then {', '.join(self.changed)} changed" if self.changed else "")


def request_of(receipt: dict[str, Any]) -> Request:
    """The request that makes the picture of a receipt again, alone. Raises KalpanaError where the receipt cannot be replayed."""
    try:
        return Request(prompt=receipt["request"]["prompt"], **receipt["resolved"])
    except (KeyError, TypeError):
        raise KalpanaError(
            "this receipt cannot be replayed: it is not of one picture (replay the pictures of a sheet one by one)"
        ) from None


def compare(path: Path, again: Picture) -> Agreement:
    """How the picture file at ``path`` and the picture made again from its receipt agree."""
    receipt, data = read_receipt(path), path.read_bytes()
    with Image.open(path) as image:
        before = np.asarray(image.convert("RGB")).astype(int)
    format = receipt["resolved"]["format"]
    file = encode(again.image, format, receipt)  # with the old receipt, for only the picture is in question
    pixels = hashlib.sha256(again.image.tobytes()).hexdigest() == receipt["pixels"]
    after = np.asarray(again.image).astype(int)
    return Agreement(
        bytes=file == data,
        pixels=pixels,
        largest=int(np.abs(before - after).max()) if before.shape == after.shape else 255,
        changed=tuple(name for name in ("kalpana", "torch", "model") if receipt.get(name) != again.receipt.get(name)),
    )
