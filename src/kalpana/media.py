"""Pictures and clips as files, with their receipt inside.

A receipt is one JSON object. PNG carries it as an iTXt chunk named "kalpana" (UTF-8, so Hindi stays Hindi; tEXt would be
Latin-1), WebP and JPEG as the EXIF UserComment (UTF-16). A JPEG has room for 64 kB of EXIF; where a receipt is longer it lies
beside the picture as FILE.json. PNG and WebP are written lossless. MP4 carries it as the comment of the container.
"""

from __future__ import annotations

import io
import json
import math
import os
import secrets
import tempfile
import unicodedata
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import ExifTags, Image, ImageFile, ImageOps, PngImagePlugin

from kalpana.types import KalpanaError

if TYPE_CHECKING:
    from torch import Tensor

SUFFIX = {"png": ".png", "webp": ".webp", "jpeg": ".jpg"}
KEY = "kalpana"
UNICODE = b"UNICODE\0"  # the character code that opens a UserComment (EXIF 2.32, table 9)
EXIF_ROOM = 65_000  # bytes of EXIF a JPEG segment holds, less its headers


def to_images(pixels: Tensor) -> list[Image.Image]:
    """RGB pictures of pixels (b, 3, h, w) in [-1, 1]; what lies outside is clamped."""
    levels = ((pixels.detach().float().cpu().clamp(-1, 1) + 1) * 127.5).round().byte()
    return [Image.fromarray(picture.permute(1, 2, 0).contiguous().numpy()) for picture in levels]


def to_pixels(images: Sequence[Image.Image]) -> Tensor:
    """Pixels (b, 3, h, w) in [-1, 1] of pictures of one size."""
    import numpy as np
    import torch

    levels = torch.from_numpy(np.stack([np.array(image.convert("RGB")) for image in images]))
    return levels.permute(0, 3, 1, 2).float() / 127.5 - 1


def rgb(image: Image.Image) -> Image.Image:
    """The picture in RGB, on white where it is transparent, 16 bits brought to 8 from its darkest to its lightest. What was just opened
    from a file is turned upright as its EXIF says; what has been worked on since is taken for upright."""
    import numpy as np

    if isinstance(image, ImageFile.ImageFile):
        with suppress(
            Exception
        ):  # of damaged EXIF Pillow raises nearly anything, and a picture can be seen without
            image = ImageOps.exif_transpose(image)
    if image.mode.startswith(("I", "F")):  # which Pillow would cut off at 255
        levels = np.nan_to_num(np.asarray(image, dtype=np.float64), posinf=0, neginf=0)
        image = Image.fromarray(
            ((levels - levels.min()) * (255 / max(float(np.ptp(levels)), 1e-12)))
            .round()
            .astype(np.uint8)
        )
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("RGB")


def encode(image: Image.Image, format: str, receipt: dict[str, Any]) -> bytes:
    """The bytes of a picture file with the receipt inside (but for a JPEG without the room); the same input gives the same bytes."""
    text, file = json.dumps(receipt, ensure_ascii=False, sort_keys=True), io.BytesIO()
    if format == "png":
        chunks = PngImagePlugin.PngInfo()
        chunks.add_itxt(KEY, text)
        image.save(file, "PNG", pnginfo=chunks)
        return file.getvalue()
    exif, comment = Image.Exif(), UNICODE + text.encode("utf-16-be")
    if format == "webp" or len(comment) <= EXIF_ROOM:
        exif.get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.UserComment] = comment
    if format == "webp":
        image.save(file, "WEBP", lossless=True, exif=exif)
    else:
        image.save(file, "JPEG", quality=95, subsampling=0, exif=exif)
    return file.getvalue()


def encode_clip(frames: Sequence[Image.Image], fps: int, receipt: dict[str, Any]) -> bytes:
    """The bytes of an MP4 (H.264, as every browser plays it) with the receipt inside. Sides are even numbers of pixels. The same frames
    may give other bytes now and then (once in 200 times, as measured): the encoder is not exact.

    Raises KalpanaError where PyAV is not installed.
    """
    try:
        import av
    except ImportError:
        raise KalpanaError(
            "writing MP4 needs PyAV: install it with pip install 'kalpana[video]'"
        ) from None
    file = io.BytesIO()
    with av.open(file, "w", format="mp4", options={"movflags": "use_metadata_tags"}) as container:
        container.metadata["comment"] = json.dumps(receipt, ensure_ascii=False, sort_keys=True)
        stream = container.add_stream("libx264", rate=fps, options={"crf": "16", "threads": "1"})
        stream.width, stream.height, stream.pix_fmt = *frames[0].size, "yuv420p"
        for image in frames:
            container.mux(stream.encode(av.VideoFrame.from_image(image)))
        container.mux(stream.encode())
    return file.getvalue()


def decode_clip(data: bytes) -> tuple[list[Image.Image], float, dict[str, Any] | None]:
    """The frames, the frames a second and the receipt (None where there is none) of an MP4."""
    import av

    with av.open(io.BytesIO(data), "r", metadata_errors="replace") as container:
        comment = container.metadata.get("comment", "")
        rate = float(container.streams.video[0].average_rate or 0)
        frames = [frame.to_image() for frame in container.decode(video=0)]
    try:
        receipt = json.loads(comment)
    except ValueError:  # none, or another program's words
        receipt = None
    return frames, rate, receipt if isinstance(receipt, dict) else None


def save_clip(frames: Sequence[Image.Image], fps: int, path: Path, receipt: dict[str, Any]) -> Path:
    """Write an MP4 and its receipt, whole or not at all, and give back the path: PATH, or PATH-2, -3 ... where a file is there already."""
    data, path = encode_clip(frames, fps, receipt), _claim(path)
    try:
        write(path, data)
    except BaseException:
        path.unlink(missing_ok=True)
        raise
    return path


def save(image: Image.Image, path: Path, receipt: dict[str, Any]) -> Path:
    """Write a picture and its receipt, whole or not at all, and give back the path: PATH, or PATH-2, -3 ... where a file is there already.

    The suffix of ``path`` chooses the format.
    """
    format = next(name for name, suffix in SUFFIX.items() if suffix == path.suffix)
    data = encode(image, format, receipt)
    path = _claim(path)
    try:
        if format == "jpeg" and _comment(data) is None:
            write(_sidecar(path), json.dumps(receipt, ensure_ascii=False, sort_keys=True).encode())
        write(path, data)
    except BaseException:
        path.unlink(missing_ok=True)
        raise
    return path


def write(path: Path, data: bytes) -> None:
    """Write a file whole or not at all: beside it first, on the disk, then under its name."""
    beside = path.with_name(f".{secrets.token_hex(8)}.part")
    try:
        with beside.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)
    except BaseException:
        beside.unlink(missing_ok=True)
        raise


def read_picture(path: Path) -> Image.Image:
    """The picture in a file, RGB. Raises KalpanaError where it cannot be read."""
    try:
        with Image.open(path) as image:
            return image.convert("RGB")
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise KalpanaError(f"{path} cannot be read: {error}") from None


def read_receipt(path: Path) -> dict[str, Any]:
    """The receipt in a picture file, or in the JSON file beside it. Raises KalpanaError where there is none."""
    try:
        text = _comment(path.read_bytes())
        if text is None and _sidecar(path).exists():
            text = _sidecar(path).read_text(encoding="utf-8")
        receipt = json.loads(text) if text is not None else None
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise KalpanaError(f"{path} cannot be read: {_reason(error)}") from None
    except ValueError:
        raise KalpanaError(f"the receipt in {path} is damaged") from None
    if not isinstance(receipt, dict):
        raise KalpanaError(
            f"there is no receipt in {path}: give a picture that Kalpana made and no other program has saved since"
        )
    return receipt


def ready_folder(folder: Path, room: int) -> None:
    """Make the folder, and prove that ``room`` bytes can be written there by writing them. Raises KalpanaError where they cannot."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as file:
            for start in range(0, room, 1 << 20):
                file.write(bytes(min(1 << 20, room - start)))
    except OSError as error:
        raise KalpanaError(
            f"nothing can be written to the folder {folder}: {_reason(error)}; name another with --out"
        ) from None


def slug(prompt: str) -> str:
    """A short file name of any script's words: "three-red-apples", "तीन-लाल-सेब"; "picture" where no word is left."""
    spaced = "".join(
        letter if unicodedata.category(letter)[0] in "LMN" else " "
        for letter in unicodedata.normalize("NFC", prompt[:400])
    )
    name = ""
    for word in spaced.lower().split():
        if len(f"{name}-{word}".encode()) > 100:  # bytes; names end at 255 nearly everywhere
            break
        name = f"{name}-{word}" if name else word
    return name or "picture"


def grid(images: Sequence[Image.Image], gap: int = 4) -> Image.Image:
    """One sheet of pictures of one size, row by row, as square as it gets."""
    columns = math.ceil(math.sqrt(len(images)))
    width, height = (side + gap for side in images[0].size)
    sheet = Image.new(
        "RGB", (columns * width + gap, math.ceil(len(images) / columns) * height + gap), "white"
    )
    for i, image in enumerate(images):
        sheet.paste(image, (i % columns * width + gap, i // columns * height + gap))
    return sheet


def _comment(data: bytes) -> str | None:
    """The receipt's text in the bytes of a picture file, None where there is none."""
    with Image.open(io.BytesIO(data)) as image:
        if image.format == "PNG":
            return image.info.get(KEY)
        comment = image.getexif().get_ifd(ExifTags.IFD.Exif).get(ExifTags.Base.UserComment)
    return (
        comment[len(UNICODE) :].decode("utf-16-be")
        if isinstance(comment, bytes) and comment.startswith(UNICODE)
        else None
    )


def _sidecar(path: Path) -> Path:
    return path.with_name(path.name + ".json")


def _claim(path: Path) -> Path:
    """A name no file has, held by an empty file, so that two programs never take the same."""
    for number in range(1, 10_000):
        free = path if number == 1 else path.with_stem(f"{path.stem}-{number}")
        try:
            free.open("xb").close()
        except FileExistsError:
            continue
        return free
    raise KalpanaError(
        f"{path.parent} holds 9,999 pictures named like {path.name}: name another folder with --out"
    )


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or "it is no picture, or a damaged one"
