"""Picture files of a folder: listing, decoding and metadata for an index."""

from __future__ import annotations

import hashlib
import os
import stat
import unicodedata
from collections.abc import Container, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import PIL
from PIL import ExifTags, Image

from kalpana.media import (
    decode_picture,
    formats,
    open_picture,
    read_error,
    read_picture,
    read_receipt,
)
from kalpana.text.normalize import comparable
from kalpana.types import KalpanaError

SUFFIXES = (
    ".jpg",
    ".jpeg",
    ".jpe",
    ".jfif",
    ".png",
    ".webp",
    ".gif",
    ".bmp",
    ".tif",
    ".tiff",
    ".avif",
    ".heic",
    ".heif",
)
LARGE = 1024  # pixels of the shorter side: decoding never reduces a picture below this


@dataclass(frozen=True)
class File:
    """A file named like a picture: ``path`` in the folder, and what tells that it is unchanged.

    ``path`` is raw bytes with "/" between parts; ``bytes`` is the size; ``changed`` is the time of
    the last change of the content and ``ctime`` that of the inode (of a rename, too), in ns.
    """

    path: bytes
    bytes: int
    changed: int
    ctime: int = 0
    inode: int = 0


def file_of(path: bytes, status: os.stat_result) -> File:
    """The file at a path with this status."""
    inode = status.st_ino & (2**63 - 1)  # fits a signed column
    return File(path, status.st_size, status.st_mtime_ns, status.st_ctime_ns, inode)


@dataclass(frozen=True)
class Broken:
    """A file that could not be indexed, with the reason.

    ``kept`` is the file if it need not be tried again until it changes, else None.
    """

    path: bytes
    reason: str
    kept: File | None = None


@dataclass(frozen=True)
class Read:
    """A file that was read: its SHA-256, its ``columns`` of the table, and the decoded picture.

    ``picture`` is None where another row of the table has the same hash and hence its embedding.
    """

    file: File
    hash: bytes
    columns: dict[str, Any]
    picture: Image.Image | None


def walk(folder: Path) -> tuple[list[File], list[Broken]]:
    """The files of a folder, at any depth, that are named like pictures, sorted by path.

    The second list holds the paths that cannot be reached. Names that begin with a dot are left
    out. Links are followed last, and no folder or file is visited twice, under any name.
    Raises: KalpanaError where there is no such folder.
    """
    if not folder.is_dir():
        raise KalpanaError(f"there is no folder {folder}: name one with pictures in it")
    files, unreachable, visited = list[File](), list[Broken](), set[tuple[int, int]]()
    stack, links = [folder], list[Path]()
    while stack or links:
        here = stack.pop() if stack else links.pop()
        path = b"" if here == folder else os.fsencode(here.relative_to(folder).as_posix())
        try:
            status = here.stat()
            if (status.st_dev, status.st_ino) in visited:
                continue
            visited.add((status.st_dev, status.st_ino))
            if stat.S_ISREG(status.st_mode) and here.suffix.lower() in SUFFIXES:
                files.append(file_of(path, status))
            elif stat.S_ISDIR(status.st_mode):
                with os.scandir(here) as entries:
                    for entry in sorted(entries, key=lambda entry: entry.name, reverse=True):
                        if entry.name.startswith("."):
                            continue
                        if entry.is_symlink():
                            links.append(here / entry.name)
                        elif entry.is_dir() or Path(entry.name).suffix.lower() in SUFFIXES:
                            stack.append(here / entry.name)
        except OSError as error:
            unreachable.append(Broken(path, error.strerror or str(error)))
    return sorted(files, key=lambda file: file.path), unreachable


def read_file(folder: Path, file: File, known: Container[bytes]) -> Read | Broken:
    """A file's metadata and its decoded picture; a Broken where it cannot be read.

    The picture is not decoded where its hash is in ``known``.
    """
    path = folder / os.fsdecode(file.path)
    try:
        with path.open("rb") as opened:
            hash = hashlib.file_digest(opened, "sha256").digest()
            opened.seek(0)
            with open_picture(opened) as image:
                columns = _columns(path, file, image)
                picture = None if hash in known else decode_picture(image, LARGE)
                return Read(file, hash, columns, picture)
    except Exception as error:  # for a damaged file Pillow raises exceptions of many types
        reachable = not (isinstance(error, OSError) and error.errno)
        return Broken(file.path, read_error(error, path.name), file if reachable else None)


def read_image(path: Path) -> Image.Image:
    """The picture in a file, reduced as for an index. Raises: KalpanaError if it is unreadable."""
    return read_picture(path, LARGE)


def reader() -> str:
    """Version string of the reader; when it changes, unreadable files are tried again."""
    return f"Pillow {PIL.__version__} {' '.join(formats())}"


def _columns(path: Path, file: File, image: Image.Image) -> dict[str, Any]:
    """Metadata columns of a picture: upright size, date, and its receipt's prompt, model, seed."""
    # EXIF 2.32, Orientation: with 5 to 8, width and height are swapped.
    swapped = _exif(image).get(ExifTags.Base.Orientation) in (5, 6, 7, 8)
    sides = image.size[::-1] if swapped else image.size
    receipt = _receipt(path)
    request, model, seed = (receipt.get(name) for name in ("request", "model", "seed"))
    prompt = _text(request.get("prompt")) if isinstance(request, dict) else None
    return {
        "width": sides[0],
        "height": sides[1],
        "date": _date(image, file),
        "prompt": prompt,
        "words": comparable(prompt) if prompt else None,
        "model": _text(model.get("name")) if isinstance(model, dict) else None,
        "seed": seed if isinstance(seed, int) and 0 <= seed < 2**63 else None,
    }


def _receipt(path: Path) -> dict[str, Any]:
    """The receipt in a picture's file; empty where there is none."""
    try:
        return read_receipt(path)
    except Exception:  # most pictures have none; for odd files Pillow raises many types
        return {}


def _text(value: Any) -> str | None:
    """The value if it is a string, with characters that UTF-8 cannot encode replaced; else None."""
    return value.encode("utf-8", "replace").decode() if isinstance(value, str) else None


def _exif(image: Image.Image, part: int | None = None) -> Mapping[int, Any]:
    """The EXIF tags of a picture; empty where they cannot be read."""
    try:
        return image.getexif() if part is None else image.getexif().get_ifd(part)
    except Exception:
        return {}


def _date(image: Image.Image, file: File) -> str:
    """Date of a picture from EXIF, else of the file's change: local, as 2026-03-01T14:05:00."""
    tags = _exif(image, ExifTags.IFD.Exif)
    for tag in (ExifTags.Base.DateTimeOriginal, ExifTags.Base.DateTimeDigitized):
        try:
            return datetime.strptime(str(tags.get(tag))[:19], "%Y:%m:%d %H:%M:%S").isoformat()
        except ValueError:
            continue
    seconds = min(max(file.changed // 10**9, 0), 253_000_000_000)  # from 1970 to 9987
    return datetime.fromtimestamp(seconds).isoformat()


def shown(path: bytes | str) -> str:
    """A path as printable text: control characters and undecodable bytes are escaped.

    Control characters could otherwise control the terminal.
    """
    text = os.fsdecode(path)
    return "".join(
        repr(char)[1:-1] if unicodedata.category(char) in ("Cc", "Cs", "Zl", "Zp") else char
        for char in text
    )
