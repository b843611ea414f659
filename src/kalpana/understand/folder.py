"""The pictures in a folder, as files: which there are, and what one looks like to a model that asks for a few hundred pixels."""

from __future__ import annotations

import hashlib
import os
import stat
import unicodedata
import warnings
from collections.abc import Container, Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import cache
from pathlib import Path
from typing import Any

import PIL
from PIL import ExifTags, Image

from kalpana.media import read_receipt, rgb
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
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF", "HEIF")  # as Pillow calls them
LARGE = (
    1024  # pixels: no picture is made smaller than this on its shorter side before a model sees it
)


@dataclass(frozen=True)
class File:
    """A file that may be a picture: the bytes of its ``path`` in the folder with "/" between parts, its size in ``bytes`` and when it
    was ``changed``, in ns."""

    path: bytes
    bytes: int
    changed: int


@dataclass(frozen=True)
class Broken:
    """A file that is not in the index, and why; ``kept`` where it need not be tried again until it changes."""

    path: bytes
    reason: str
    kept: File | None = None


@dataclass(frozen=True)
class Read:
    """A file that was read: its SHA-256, its ``columns`` in the table, and the picture, or None where another row of the table has the
    same hash and so its vector."""

    file: File
    hash: bytes
    columns: dict[str, Any]
    picture: Image.Image | None


def walk(folder: Path) -> tuple[list[File], list[Broken]]:
    """The files in a folder, at any depth, that are named like pictures, and what cannot be reached, by path.

    Names that begin with a dot are left out. Links are followed after all else: no folder is entered twice and no file given twice,
    under whatever names. Raises KalpanaError where there is no such folder.
    """
    if not folder.is_dir():
        raise KalpanaError(f"there is no folder {folder}: name one with pictures in it")
    files, closed, met = list[File](), list[Broken](), set[tuple[int, int]]()
    ahead, links = [folder], list[Path]()
    while ahead or links:
        here = ahead.pop() if ahead else links.pop()
        path = b"" if here == folder else os.fsencode(here.relative_to(folder).as_posix())
        try:
            about = here.stat()
            if (about.st_dev, about.st_ino) in met:
                continue
            met.add((about.st_dev, about.st_ino))
            if stat.S_ISREG(about.st_mode) and here.suffix.lower() in SUFFIXES:
                files.append(File(path, about.st_size, about.st_mtime_ns))
            elif stat.S_ISDIR(about.st_mode):
                with os.scandir(here) as entries:
                    for entry in sorted(entries, key=lambda entry: entry.name, reverse=True):
                        if entry.name.startswith("."):
                            continue
                        if entry.is_symlink():
                            links.append(here / entry.name)
                        elif entry.is_dir() or Path(entry.name).suffix.lower() in SUFFIXES:
                            ahead.append(here / entry.name)
        except OSError as error:
            closed.append(Broken(path, error.strerror or str(error)))
    return sorted(files, key=lambda file: file.path), closed


def read_file(folder: Path, file: File, known: Container[bytes]) -> Read | Broken:
    """A file with its picture decoded, unless its hash is among those ``known``; or what is wrong with it."""
    path, known_formats = folder / os.fsdecode(file.path), formats()
    try:
        with path.open("rb") as opened:
            hash = hashlib.file_digest(opened, "sha256").digest()
            opened.seek(0)
            with Image.open(opened, formats=known_formats) as image:
                columns = _columns(path, file, image)
                return Read(file, hash, columns, None if hash in known else _decoded(image))
    except Image.DecompressionBombError:
        return Broken(
            file.path, f"it has more than {2 * (Image.MAX_IMAGE_PIXELS or 0):,} pixels", file
        )
    except Exception as error:  # of a damaged file Pillow raises nearly anything
        if isinstance(error, OSError) and error.errno:  # the file was not damaged, but out of reach
            return Broken(file.path, error.strerror or str(error))
        if path.suffix.lower() in (".heic", ".heif") and "HEIF" not in known_formats:
            return Broken(file.path, "HEIF needs pillow-heif: pip install pillow-heif", file)
        reason = (
            "it is no picture"
            if isinstance(error, PIL.UnidentifiedImageError)
            else " ".join(str(error).split())[:200]
        )
        return Broken(file.path, reason or type(error).__name__, file)


def read_image(path: Path) -> Image.Image:
    """The picture in a file as the models of an index see it. Raises KalpanaError where it cannot be read."""
    try:
        about = path.stat()
    except OSError as error:
        raise KalpanaError(f"{path} cannot be read: {error.strerror}") from None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        read = read_file(
            path.parent, File(os.fsencode(path.name), about.st_size, about.st_mtime_ns), ()
        )
    if isinstance(read, Broken) or read.picture is None:
        raise KalpanaError(
            f"{path} cannot be read: {read.reason if isinstance(read, Broken) else 'it is no picture'}"
        )
    return read.picture


@cache
def formats() -> tuple[str, ...]:
    """What Pillow may take a file for; nothing rarer, whose readers are seldom tried."""
    Image.init()  # loads them all, while opening would load but the commonest
    try:
        import pillow_heif
    except ImportError:
        pass
    else:
        pillow_heif.register_heif_opener()
    return tuple(name for name in FORMATS if name in Image.OPEN)


def reader() -> str:
    """What decides which files can be read: those that could not are tried again when it changes."""
    return f"Pillow {PIL.__version__} {' '.join(formats())}"


def _columns(path: Path, file: File, image: Image.Image) -> dict[str, Any]:
    """What the table says of a picture beside its vector: upright size, date, and the prompt, model and seed of its receipt."""
    sides = (
        image.size[::-1]
        if _exif(image).get(ExifTags.Base.Orientation) in (5, 6, 7, 8)
        else image.size
    )  # EXIF 2.32, Orientation
    receipt = _receipt(path)
    request, model, seed = (receipt.get(name) for name in ("request", "model", "seed"))
    prompt = _text(request.get("prompt")) if isinstance(request, dict) else None
    return {
        "width": sides[0],
        "height": sides[1],
        "date": _date(image, file),
        "prompt": prompt,
        "words": prompt.casefold() if prompt else None,
        "model": _text(model.get("name")) if isinstance(model, dict) else None,
        "seed": seed if isinstance(seed, int) and 0 <= seed < 2**63 else None,
    }


def _receipt(path: Path) -> dict[str, Any]:
    try:
        return read_receipt(path)
    except Exception:  # most pictures have none, and of a strange one Pillow raises nearly anything
        return {}


def _text(value: Any) -> str | None:
    """The value if it is text, such as UTF-8 can hold."""
    return value.encode("utf-8", "replace").decode() if isinstance(value, str) else None


def _exif(image: Image.Image, part: int | None = None) -> Mapping[int, Any]:
    """The tags of a picture, none where they cannot be read: a picture can be seen without."""
    try:
        return image.getexif() if part is None else image.getexif().get_ifd(part)
    except Exception:
        return {}


def _date(image: Image.Image, file: File) -> str:
    """When a picture was taken or, where it does not say, its file was changed: local time, as 2026-03-01T14:05:00."""
    tags = _exif(image, ExifTags.IFD.Exif)
    for tag in (ExifTags.Base.DateTimeOriginal, ExifTags.Base.DateTimeDigitized):
        try:
            return datetime.strptime(str(tags.get(tag))[:19], "%Y:%m:%d %H:%M:%S").isoformat()
        except ValueError:
            continue
    return datetime.fromtimestamp(
        min(max(file.changed // 10**9, 0), 253_000_000_000)
    ).isoformat()  # from 1970 to 9987


def _decoded(image: Image.Image) -> Image.Image:
    """A picture as a viewer shows it, its first frame, RGB (see ``rgb``); made smaller where it is LARGE."""
    image.draft(
        "RGB", (LARGE, LARGE)
    )  # a JPEG decodes sooner at an eighth of its size; others pay no heed
    image = rgb(image)
    return image.reduce(min(image.size) // LARGE) if min(image.size) >= 2 * LARGE else image


def shown(path: bytes | str) -> str:
    """A path as it can be printed: control characters, which could steer a terminal, and bytes that are no text are escaped."""
    text = os.fsdecode(path)
    return "".join(
        repr(sign)[1:-1] if unicodedata.category(sign) in ("Cc", "Cs", "Zl", "Zp") else sign
        for sign in text
    )
