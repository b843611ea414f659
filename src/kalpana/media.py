"""Reading and writing pictures and videos as files with an embedded receipt.

A receipt is one JSON object. It is stored

- in PNG as an iTXt chunk named "kalpana" (UTF-8, which can hold Hindi; tEXt is Latin-1)
- in WebP and JPEG as the EXIF UserComment (UTF-16). A JPEG has room for 64 kB of EXIF; a longer
  receipt is stored beside the picture as FILE.json
- in MP4 as the comment of the container

PNG and WebP are written lossless.
"""

from __future__ import annotations

import importlib.util
import io
import itertools
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

from kalpana.errors import KalpanaError

if TYPE_CHECKING:
    from torch import Tensor

SUFFIX = {"png": ".png", "webp": ".webp", "jpeg": ".jpg"}
KEY = "kalpana"
UNICODE = b"UNICODE\0"  # the character code that opens a UserComment (EXIF 2.32, table 9)
EXIF_ROOM = 65_000  # bytes of EXIF a JPEG segment holds, less its headers


def to_images(pixels: Tensor) -> list[Image.Image]:
    """RGB images of pixels (b, 3, h, w) in [-1, 1]; values outside are clamped."""
    levels = ((pixels.detach().float().cpu().clamp(-1, 1) + 1) * 127.5).round().byte()
    return [Image.fromarray(picture.permute(1, 2, 0).contiguous().numpy()) for picture in levels]


def to_pixels(images: Sequence[Image.Image]) -> Tensor:
    """Pixels (b, 3, h, w) in [-1, 1] of images of equal size."""
    import numpy as np
    import torch

    levels = torch.from_numpy(np.stack([np.array(image.convert("RGB")) for image in images]))
    return levels.permute(0, 3, 1, 2).float() / 127.5 - 1


def rgb(image: Image.Image) -> Image.Image:
    """An image converted to RGB: transparency is composited on white, and integer or float modes
    of more than 8 bits are scaled so that their minimum is 0 and their maximum 255.

    An image freshly opened from a file is rotated by its EXIF orientation; any other image is
    taken to be upright.
    """
    import numpy as np

    if isinstance(image, ImageFile.ImageFile):
        # Pillow raises many kinds of errors for damaged EXIF; the picture is usable without it.
        with suppress(Exception):
            image = ImageOps.exif_transpose(image)
    if image.mode.startswith(("I", "F")):  # Pillow's conversion would clip at 255
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
    """The bytes of a picture file with the receipt embedded; a JPEG leaves out a receipt that is
    too long. Deterministic: the same input gives the same bytes."""
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


def encode_video(frames: Sequence[Image.Image], fps: int, receipt: dict[str, Any]) -> bytes:
    """The bytes of an MP4 (H.264, which every browser plays) with the receipt embedded. Sides must
    be even numbers of pixels. Deterministic: the same frames give the same bytes.

    Raises KalpanaError if PyAV is not installed.
    """
    check_mp4()
    import av

    file = io.BytesIO()
    with av.open(file, "w", format="mp4", options={"movflags": "use_metadata_tags"}) as container:
        container.metadata["comment"] = json.dumps(receipt, ensure_ascii=False, sort_keys=True)
        # With x264's macroblock tree, the same frames give other bytes in 5 to 36 % of the runs.
        options = {"crf": "16", "threads": "1", "x264-params": "mbtree=0"}
        stream = container.add_stream("libx264", rate=fps, options=options)
        stream.width, stream.height, stream.pix_fmt = *frames[0].size, "yuv420p"
        for image in frames:
            container.mux(stream.encode(av.VideoFrame.from_image(image)))
        container.mux(stream.encode())
    return file.getvalue()


def check_mp4() -> None:
    """Raises KalpanaError if PyAV, which writes MP4, is not installed."""
    if importlib.util.find_spec("av") is None:
        raise KalpanaError("writing MP4 needs PyAV: install it with pip install 'kalpana[video]'")


def encode_animation(frames: Sequence[Image.Image], fps: int, receipt: dict[str, Any]) -> bytes:
    """The bytes of a lossless animated WebP, played in a loop, with the receipt embedded."""
    text, file = json.dumps(receipt, ensure_ascii=False, sort_keys=True), io.BytesIO()
    exif = Image.Exif()
    comment = UNICODE + text.encode("utf-16-be")
    exif.get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.UserComment] = comment
    starts = [round(1000 * k / fps) for k in range(len(frames) + 1)]  # ms, without drift
    times = [stop - start for start, stop in itertools.pairwise(starts)]
    frames[0].save(
        file,
        "WEBP",
        save_all=True,
        append_images=frames[1:],
        duration=times,
        loop=0,
        lossless=True,
        exif=exif,
    )
    return file.getvalue()


def decode_clip(data: bytes) -> tuple[list[Image.Image], float, dict[str, Any] | None]:
    """The frames, the frames per second and the receipt (None if there is none) of an MP4."""
    import av

    with av.open(io.BytesIO(data), "r", metadata_errors="replace") as container:
        comment = container.metadata.get("comment", "")
        rate = float(container.streams.video[0].average_rate or 0)
        frames = [frame.to_image() for frame in container.decode(video=0)]
    try:
        receipt = json.loads(comment)
    except ValueError:  # no comment, or that of another program
        receipt = None
    return frames, rate, receipt if isinstance(receipt, dict) else None


def save_video(
    frames: Sequence[Image.Image], fps: int, path: Path, receipt: dict[str, Any]
) -> Path:
    """Write a video and its receipt atomically, as MP4 or as an animated WebP. Returns the path
    written: PATH, or PATH-2, PATH-3 … if that file exists."""
    encoders = {".mp4": encode_video, ".webp": encode_animation}
    if path.suffix not in encoders:
        raise KalpanaError(
            f"a video cannot be written as {path.name}: write a name in .mp4 or .webp"
        )
    data, path = encoders[path.suffix](frames, fps, receipt), _claim(path)
    try:
        write(path, data)
    except BaseException:
        path.unlink(missing_ok=True)
        raise
    return path


def save(image: Image.Image, path: Path, receipt: dict[str, Any]) -> Path:
    """Write a picture and its receipt atomically. Returns the path written: PATH, or PATH-2,
    PATH-3 … if that file exists. The suffix of ``path`` sets the format; raises KalpanaError for
    one of no picture format.
    """
    formats = {suffix: name for name, suffix in SUFFIX.items()} | {".jpeg": "jpeg"}
    if path.suffix.lower() not in formats:
        raise KalpanaError(
            f"an image cannot be written as {path.name}: write a name in {', '.join(formats)}"
        )
    format = formats[path.suffix.lower()]
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
    """Write a file atomically: to a temporary file in the same folder, synced to disk, which then
    replaces ``path``."""
    temporary = path.with_name(f".{secrets.token_hex(8)}.part")
    try:
        with temporary.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def read_picture(path: Path) -> Image.Image:
    """The picture in a file, as RGB. Raises KalpanaError if it cannot be read."""
    try:
        with Image.open(path) as image:
            return image.convert("RGB")
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise KalpanaError(f"{path} cannot be read: {error}") from None


def read_receipt(path: Path) -> dict[str, Any]:
    """The receipt in a picture file, or in the JSON file beside it. Raises KalpanaError if there is
    none, it is damaged, or the file cannot be read."""
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
            f"there is no receipt in {path}: "
            "give a picture that Kalpana made and no other program has saved since"
        )
    return receipt


def ready_folder(folder: Path, room: int) -> None:
    """Create the folder and check that ``room`` bytes can be written there, by writing them to a
    temporary file. Raises KalpanaError if they cannot."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as file:
            for start in range(0, room, 1 << 20):
                file.write(bytes(min(1 << 20, room - start)))
    except OSError as error:
        raise KalpanaError(
            f"nothing can be written to the folder {folder}: {_reason(error)}; "
            "name another with --out"
        ) from None


def slug(prompt: str) -> str:
    """A short file name made of the words of a prompt in any script: "three-red-apples",
    "तीन-लाल-सेब"; "picture" if it has no letters or digits."""
    spaced = "".join(
        letter if unicodedata.category(letter)[0] in "LMN" else " "
        for letter in unicodedata.normalize("NFC", prompt[:400])
    )
    name = ""
    for word in spaced.lower().split():
        if len(f"{name}-{word}".encode()) > 100:  # bytes; most file systems allow 255
            break
        name = f"{name}-{word}" if name else word
    return name or "picture"


def grid(images: Sequence[Image.Image], gap: int = 4) -> Image.Image:
    """A contact sheet of pictures of equal size, row by row, on white, as close to as many rows as
    columns as possible; ``gap`` is in pixels."""
    columns = math.ceil(math.sqrt(len(images)))
    width, height = (side + gap for side in images[0].size)
    sheet = Image.new(
        "RGB", (columns * width + gap, math.ceil(len(images) / columns) * height + gap), "white"
    )
    for i, image in enumerate(images):
        sheet.paste(image, (i % columns * width + gap, i // columns * height + gap))
    return sheet


def _comment(data: bytes) -> str | None:
    """The receipt text embedded in the bytes of a picture file; None if there is none."""
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
    """The path of the receipt of a JPEG that has no room for it."""
    return path.with_name(path.name + ".json")


def _claim(path: Path) -> Path:
    """An unused path, reserved by an empty file, so that two processes never use the same one."""
    for number in range(1, 10_000):
        candidate = path if number == 1 else path.with_stem(f"{path.stem}-{number}")
        try:
            candidate.open("xb").close()
        except FileExistsError:
            continue
        return candidate
    raise KalpanaError(
        f"{path.parent} holds 9,999 pictures named like {path.name}: name another folder with --out"
    )


def _reason(error: Exception) -> str:
    """The message of the operating system, or else that the file is not a readable picture."""
    return getattr(error, "strerror", None) or "it is no picture, or a damaged one"
