"""Animated WebP and GIF."""

from __future__ import annotations

import io
from collections.abc import Iterable
from itertools import pairwise
from typing import Any

from PIL import Image

from kalpana.errors import KalpanaError
from kalpana.media.images import equal_size
from kalpana.media.receipts import to_exif, to_text

GIF_FPS = 50  # the most: browsers show a frame of less than 20 ms for 100 ms


def encode_animation(
    frames: Iterable[Image.Image],
    fps: float,
    receipt: dict[str, Any],
    format: str = "webp",
    *,
    metadata: bool = True,
) -> bytes:
    """The bytes of an animated WebP (lossless) or GIF (256 colours a frame) that repeats for ever,
    with the receipt embedded. Deterministic.

    Frames last whole milliseconds (GIF: 10 ms); those of an uneven rate differ by one unit, so that
    the duration is right. Raises KalpanaError for other formats, no frames, or a rate too high.
    """
    images = [*equal_size(frames)]
    if format not in ("webp", "gif"):
        raise KalpanaError(f"an animation cannot be written as {format!r}: write webp or gif")
    most = GIF_FPS if format == "gif" else 1000
    if not 0 < fps <= most:
        raise KalpanaError(f"{fps:g} frames a second are not possible in {format}: at most {most}")
    unit = 10 if format == "gif" else 1  # ms
    ends = [round(k * 1000 / fps / unit) * unit for k in range(len(images) + 1)]
    options: dict[str, Any] = {"duration": [end - start for start, end in pairwise(ends)]}
    if format == "webp":
        options |= {"lossless": True, "exif": to_exif(receipt)} if metadata else {"lossless": True}
    else:
        options |= {"comment": to_text(receipt).encode()} if metadata else {}
    file = io.BytesIO()
    images[0].save(file, format, save_all=True, append_images=images[1:], loop=0, **options)
    return file.getvalue()
