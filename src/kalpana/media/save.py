"""Encoding and saving of pictures and videos with their receipts.

PNG and WebP are written lossless.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image, PngImagePlugin

from kalpana.errors import KalpanaError
from kalpana.media.animation import encode_animation
from kalpana.media.files import claimed, sidecar, write
from kalpana.media.images import grid, rgb
from kalpana.media.receipts import KEY, fits_in_jpeg, parameters, to_exif, to_text
from kalpana.media.video import encode_video

SUFFIX = {"png": ".png", "webp": ".webp", "jpeg": ".jpg"}
VIDEO_SUFFIXES = (".mp4", ".webp", ".gif", ".png")


def encode(
    image: Image.Image, format: str, receipt: dict[str, Any], *, metadata: bool = True
) -> bytes:
    """The bytes of a picture file with the receipt embedded, or with no metadata at all.

    A JPEG leaves out a receipt that is too long. Deterministic: the same input gives the same
    bytes.
    """
    image, file = rgb(image), io.BytesIO()
    if format == "png":
        chunks = PngImagePlugin.PngInfo()
        if metadata:
            chunks.add_itxt(KEY, to_text(receipt))
            if text := parameters(receipt):
                chunks.add_text("parameters", text)  # iTXt where it is not Latin-1
        image.save(file, "PNG", pnginfo=chunks)
    elif format == "webp":
        exif = {"exif": to_exif(receipt)} if metadata else {}
        image.save(file, "WEBP", lossless=True, **exif)
    else:
        exif = {"exif": to_exif(receipt)} if metadata and fits_in_jpeg(receipt) else {}
        image.save(file, "JPEG", quality=95, subsampling=0, **exif)
    return file.getvalue()


def save(image: Image.Image, path: Path, receipt: dict[str, Any], *, metadata: bool = True) -> Path:
    """Write a picture and its receipt atomically. Returns the path written: PATH, or PATH-2,
    PATH-3 … if that file, or the receipt beside it, exists.

    The suffix of ``path`` sets the format; raises KalpanaError for one of no picture format.
    ``metadata`` False leaves out the receipt.
    """
    formats = {suffix: name for name, suffix in SUFFIX.items()} | {".jpeg": "jpeg"}
    if path.suffix.lower() not in formats:
        raise KalpanaError(
            f"an image cannot be written as {path.name}: write a name in {', '.join(formats)}"
        )
    format = formats[path.suffix.lower()]
    data = encode(image, format, receipt, metadata=metadata)
    beside = metadata and format == "jpeg" and not fits_in_jpeg(receipt)
    with claimed(path, beside) as free:
        if beside:
            write(sidecar(free), to_text(receipt).encode())
        write(free, data)
    return free


def save_video(
    frames: Sequence[Image.Image],
    fps: float,
    path: Path,
    receipt: dict[str, Any],
    *,
    metadata: bool = True,
) -> Path:
    """Write a video and its receipt atomically. Returns the path written: PATH, or PATH-2, PATH-3 …
    if that file exists.

    The suffix of ``path`` sets the format: .mp4, .webp and .gif (animations), or .png (a sheet of
    all frames). Raises KalpanaError for another suffix.
    """
    suffix = path.suffix.lower()
    if suffix not in VIDEO_SUFFIXES:
        raise KalpanaError(
            f"a video cannot be written as {path.name}: write a name in {', '.join(VIDEO_SUFFIXES)}"
        )
    if suffix == ".mp4":
        data = encode_video(frames, fps, receipt, metadata=metadata)
    elif suffix == ".png":
        data = encode(grid([*frames]), "png", receipt, metadata=metadata)
    else:
        data = encode_animation(frames, fps, receipt, suffix[1:], metadata=metadata)
    with claimed(path) as free:
        write(free, data)
    return free
