"""Receipts in files: one JSON object, embedded as the format allows.

- PNG: an iTXt chunk named "kalpana" (UTF-8, which can hold Hindi; tEXt is Latin-1), and a text
  chunk "parameters" in the form that galleries of Stable Diffusion web interfaces read
- WebP and JPEG: the EXIF UserComment (UTF-16). A JPEG has room for 64 kB of EXIF; a longer receipt
  is stored beside the picture as FILE.json
- GIF: a comment
- MP4: the comment of the container
"""

from __future__ import annotations

import json
import os
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from PIL import ExifTags, Image

from kalpana.errors import KalpanaError
from kalpana.media.files import sidecar
from kalpana.media.images import open_picture, read_error

KEY = "kalpana"
UNICODE = b"UNICODE\0"  # the character code that opens a UserComment (EXIF 2.32, table 9)
EXIF_ROOM = 65_000  # bytes of EXIF a JPEG segment holds, less its headers
LONGEST = 1 << 26  # bytes of a decompressed text chunk


def to_text(receipt: dict[str, Any]) -> str:
    """A receipt as JSON; equal receipts give equal text."""
    return json.dumps(receipt, ensure_ascii=False, sort_keys=True)


def to_exif(receipt: dict[str, Any]) -> Image.Exif:
    """A receipt as EXIF; it may be too long for a JPEG, see ``fits_in_jpeg``."""
    exif = Image.Exif()
    exif.get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.UserComment] = _user_comment(receipt)
    return exif


def fits_in_jpeg(receipt: dict[str, Any]) -> bool:
    """Whether the EXIF of a JPEG has room for a receipt."""
    return len(_user_comment(receipt)) <= EXIF_ROOM


def _user_comment(receipt: dict[str, Any]) -> bytes:
    return UNICODE + to_text(receipt).encode("utf-16-be")


def parameters(receipt: dict[str, Any]) -> str | None:
    """The request of a receipt as the text of a PNG's "parameters" chunk, None if it has none.

    "PROMPT", "Negative prompt: …" if there is one, and "Steps: 20, Sampler: euler, CFG scale: 5,
    Seed: 1, Size: 128x128, Model: default", each on a line, without the fields that are not set.
    """
    request, resolved = receipt.get("request"), receipt.get("resolved")
    if not isinstance(request, dict) or not isinstance(request.get("prompt"), str):
        return None
    known = request | (resolved if isinstance(resolved, dict) else {})
    model = receipt.get("model")
    fields = {
        "Steps": known.get("steps"),
        "Sampler": known.get("sampler"),
        "CFG scale": known.get("guidance"),
        "Seed": receipt.get("seed", known.get("seed")),
        "Size": known.get("size"),
        "Model": model.get("name") if isinstance(model, dict) else known.get("model"),
        "Version": f"{KEY} {receipt[KEY]}" if KEY in receipt else None,
    }
    negative = known.get("negative_prompt")
    lines = [
        " ".join(request["prompt"].split()),
        f"Negative prompt: {' '.join(negative.split())}" if negative else "",
        ", ".join(
            f"{name}: {value:g}" if isinstance(value, float) else f"{name}: {value}"
            for name, value in fields.items()
            if value is not None
        ),
    ]
    return "\n".join(line for line in lines if line)


def read_receipt(source: str | os.PathLike[str] | bytes) -> dict[str, Any]:
    """The receipt in a picture or video file or its bytes, or in the JSON file beside it. Raises
    KalpanaError if there is none, it is damaged, or the file cannot be read."""
    name = "the file" if isinstance(source, bytes) else os.fspath(source)
    try:
        data = source if isinstance(source, bytes) else Path(source).read_bytes()
        if is_mp4(data):
            from kalpana.media.video import read_video

            receipt = read_video(source).receipt
        else:
            text = _embedded(data)
            if text is None and not isinstance(source, bytes) and sidecar(Path(source)).exists():
                text = sidecar(Path(source)).read_text(encoding="utf-8")
            receipt = None if text is None else json.loads(text)
    except KalpanaError:
        raise
    except ValueError:
        raise KalpanaError(f"the receipt in {name} is damaged") from None
    except Exception as error:  # for a damaged file Pillow raises exceptions of many types
        raise KalpanaError(f"{name} cannot be read: {read_error(error, name)}") from None
    if not isinstance(receipt, dict):
        raise KalpanaError(
            f"there is no receipt in {name}: "
            "give a file that Kalpana made and no other program has saved since"
        )
    return receipt


def parse_comment(comment: str) -> dict[str, Any] | None:
    """The receipt in the comment of a video; None if it is that of another program."""
    try:
        receipt = json.loads(comment)
    except ValueError:
        return None
    return receipt if isinstance(receipt, dict) else None


def _embedded(data: bytes) -> str | None:
    """The JSON text of the receipt in the bytes of a picture file; None if there is none."""
    with open_picture(data) as image:
        if image.format == "PNG":
            return next((text for key, text in _png_texts(data) if key == KEY), None)
        if image.format == "GIF":
            return _json_object(image.info.get("comment", b"").decode("utf-8", "replace"))
        comment = image.getexif().get_ifd(ExifTags.IFD.Exif).get(ExifTags.Base.UserComment)
    return _decoded_comment(comment) if isinstance(comment, bytes) else None


def _json_object(text: str) -> str | None:
    """The text if it may be a receipt; None for the comment of another program."""
    text = text.strip("\0 \ufeff")
    return text if text.startswith("{") else None


def is_mp4(data: bytes) -> bool:
    """Whether bytes begin an ISO base media file, such as MP4, that is no AVIF or HEIF picture."""
    brands = (b"avif", b"avis", b"heic", b"heix", b"mif1", b"msf1")
    return data[4:8] == b"ftyp" and data[8:12] not in brands


def _decoded_comment(comment: bytes) -> str | None:
    """The receipt text in an EXIF UserComment, in UTF-16 of either byte order, UTF-8 or ASCII.

    EXIF tells the byte order of its numbers, and programs disagree whether that of the text is the
    same.
    """
    code, text = comment[:8], comment[8:]
    if code in (b"ASCII\0\0\0", bytes(8)):
        return _json_object(text.decode("utf-8", "replace"))
    if code != UNICODE:
        return None
    for encoding in ("utf-16-be", "utf-16-le", "utf-8"):
        if found := _json_object(text.decode(encoding, "replace")):
            return found
    return None


def _png_texts(data: bytes) -> Iterator[tuple[str, str]]:
    """The text chunks of a PNG, as (keyword, text), wherever they are in the file.

    Pillow knows those after the pixels only once it has decoded these.
    """
    at = 8
    while at + 12 <= len(data):
        length, kind = struct.unpack(">I4s", data[at : at + 8])
        body = data[at + 8 : at + 8 + length]
        at += length + 12
        key, _, rest = body.partition(b"\0")
        if kind == b"tEXt":
            yield key.decode("latin-1"), rest.decode("latin-1")
        elif kind == b"zTXt":
            yield key.decode("latin-1"), _inflated(rest[1:]).decode("latin-1")
        elif kind == b"iTXt" and len(rest) >= 2:
            text = rest[2:].split(b"\0", 2)[-1]
            yield key.decode("latin-1"), (_inflated(text) if rest[0] else text).decode("utf-8")


def _inflated(data: bytes) -> bytes:
    """Decompressed bytes, of no more than LONGEST. Raises ValueError if they are damaged."""
    try:
        return zlib.decompressobj().decompress(data, LONGEST)
    except zlib.error as error:
        raise ValueError(str(error)) from None
