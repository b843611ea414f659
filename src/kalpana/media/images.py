"""Pictures: the one reader of picture files, conversion to RGB, masks and contact sheets."""

from __future__ import annotations

import io
import math
import os
import unicodedata
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import cache, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Literal, TypeAlias

import PIL
from PIL import Image, ImageChops, ImageCms, ImageFile, ImageOps

from kalpana.errors import KalpanaError

if TYPE_CHECKING:
    from torch import Tensor

# Formats of Pillow that are read; the decoders of the rare ones are little tested.
FORMATS = ("JPEG", "MPO", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF", "HEIF", "PPM")
RAMPS = ((1, 0), (3, 0), (7, 128))  # step and shift of the channels of a probe of many colours
FILLERS = "\u115f\u1160\u3164\uffa0"  # letters that are blank
MaskMode = Literal["auto", "alpha", "white", "black"]
Picture: TypeAlias = Image.Image | str | os.PathLike[str] | bytes


def to_images(pixels: Tensor) -> list[Image.Image]:
    """RGB images of pixels (b, 3, h, w) in [-1, 1]; values outside are clamped."""
    levels = ((pixels.detach().float().cpu().clamp(-1, 1) + 1) * 127.5).round().byte()
    return [Image.fromarray(picture.permute(1, 2, 0).contiguous().numpy()) for picture in levels]


def to_pixels(images: Sequence[Image.Image]) -> Tensor:
    """Pixels (b, 3, h, w) in [-1, 1] of images of equal size, converted by ``rgb``."""
    import numpy as np
    import torch

    levels = torch.from_numpy(np.stack([np.array(rgb(image)) for image in images]))
    return levels.permute(0, 3, 1, 2).float() / 127.5 - 1


# ------------------------------------------------------------------------------ conversion to RGB


def rgb(image: Image.Image) -> Image.Image:
    """An image converted to RGB in sRGB, 8 bits a channel, with transparency on white.

    - An image freshly opened from a file is rotated by its EXIF orientation; any other image is
      taken to be upright.
    - A valid embedded ICC profile is applied, and is no longer attached to the result; an invalid
      one, or one of another colour space than the pixels, is ignored.
    - 16-bit grey is divided by 257. The modes F, and I where values are outside of 16 bits, have
      no scale of their own: their minimum becomes 0 and their maximum 255.
    """
    if image.mode == "RGB" and not isinstance(image, ImageFile.ImageFile) and not image.info:
        return image
    image = _eight_bit(_upright(image))
    profile = image.info.get("icc_profile")
    if image.has_transparency_data or image.mode in ("RGBa", "La"):
        image = image.convert("RGBA")
    elif image.mode in ("P", "PA", "1"):
        image = image.convert("RGB" if image.mode != "1" else "L")
    if profile:
        image = _in_srgb(image, profile)
    if image.mode == "RGBA":
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    image = image.convert("RGB")
    image.info = {}
    return image


def equal_size(frames: Iterable[Image.Image]) -> Iterator[Image.Image]:
    """The frames of a video by ``rgb``. Raises KalpanaError if there are none, or of two sizes."""
    size = None
    for frame in frames:
        image = rgb(frame)
        size = size or image.size
        if image.size != size:
            raise KalpanaError(
                f"the frames of a video have one size: one is {size[0]}x{size[1]}, "
                f"another {image.size[0]}x{image.size[1]}"
            )
        yield image
    if size is None:
        raise KalpanaError("a video of no frames cannot be written")


def _upright(image: Image.Image) -> Image.Image:
    """An image opened from a file rotated by its EXIF orientation; any other unchanged."""
    if isinstance(image, ImageFile.ImageFile):
        # Pillow raises many kinds of errors for damaged EXIF; the picture is usable without it.
        with suppress(Exception):
            return ImageOps.exif_transpose(image)
    return image


def _eight_bit(image: Image.Image) -> Image.Image:
    """The image with 8 bits a channel: integer and float grey as mode L or LA, see ``rgb``."""
    import numpy as np

    if not image.mode.startswith(("I", "F")):  # Pillow's conversion would clip those at 255
        return image
    levels = np.nan_to_num(np.asarray(image, dtype=np.float64), posinf=0, neginf=0)
    low, high = float(levels.min(initial=0)), float(levels.max(initial=0))
    if image.mode.startswith("I") and low >= 0 and high < 1 << 16:
        grey = levels / 257
    else:
        low = float(levels.min()) if levels.size else 0.0
        grey = (levels - low) * (255 / max(high - low, 1e-12))
    result = Image.fromarray(grey.round().clip(0, 255).astype(np.uint8))
    clear = image.info.get("transparency")  # a PNG's transparent grey level
    if isinstance(clear, int):
        result.putalpha(Image.fromarray(np.where(levels == clear, 0, 255).astype(np.uint8)))
    result.info = {name: value for name, value in image.info.items() if name == "icc_profile"}
    return result


def _in_srgb(image: Image.Image, profile: bytes) -> Image.Image:
    """The image (L, RGB, RGBA or CMYK) converted from an ICC profile to sRGB, as RGB or RGBA;
    unchanged if the profile is invalid, of another colour space, or sRGB itself."""
    alpha = image.getchannel("A") if image.mode == "RGBA" else None
    grey = alpha is not None and _space(profile) == "GRAY"
    opaque = image if alpha is None else image.convert("L" if grey else "RGB")
    transform = _transform(profile, opaque.mode)
    if transform is None:
        return image
    converted = transform.apply(opaque)
    if alpha is not None:
        converted.putalpha(alpha)
    return converted


def _space(profile: bytes) -> str | None:
    """The colour space of an ICC profile, such as "RGB"; None if the profile is invalid."""
    try:
        return ImageCms.ImageCmsProfile(io.BytesIO(profile)).profile.xcolor_space.strip()
    except (ImageCms.PyCMSError, OSError, ValueError):
        return None


@lru_cache(maxsize=8)
def _transform(profile: bytes, mode: str) -> ImageCms.ImageCmsTransform | None:
    """The transform of an ICC profile from ``mode`` to sRGB; None where nothing is to be done."""
    if _space(profile) != {"L": "GRAY"}.get(mode, mode):
        return None
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        transform = ImageCms.buildTransform(source, ImageCms.createProfile("sRGB"), mode, "RGB")
    except (ImageCms.PyCMSError, OSError, ValueError):
        return None
    if mode == "CMYK":
        return transform
    # Rounding would change single levels of a picture whose profile is sRGB itself.
    bands = len(mode)
    colors = bytes((k * step + shift) % 256 for k in range(256) for step, shift in RAMPS[:bands])
    probe = Image.frombytes(mode, (256, 1), colors)
    changes = ImageChops.difference(transform.apply(probe), probe.convert("RGB"))
    return None if max(changes.tobytes()) <= 2 else transform


# -------------------------------------------------------------------------------- reading of files


@contextmanager
def open_picture(source: Path | bytes | BinaryIO) -> Iterator[Image.Image]:
    """A picture file opened by Pillow, not yet decoded. Errors are those of Pillow: see
    ``read_error``."""
    file = io.BytesIO(source) if isinstance(source, bytes) else source
    with warnings.catch_warnings():
        # Twice as many pixels raise DecompressionBombError.
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        with Image.open(file, formats=formats()) as image:
            yield image


def decode_picture(image: Image.Image, shortest: int | None = None) -> Image.Image:
    """The first frame of an opened picture, by ``rgb``. With ``shortest``, a picture whose shorter
    side is at least twice as long is reduced by a whole factor, to no less than that."""
    if shortest is not None:
        image.draft("RGB", (shortest, shortest))  # a JPEG decodes faster at a reduced size
    image = rgb(image)
    if shortest is not None and min(image.size) >= 2 * shortest:
        return image.reduce(min(image.size) // shortest)
    return image


def read_picture(
    source: str | os.PathLike[str] | bytes, shortest: int | None = None
) -> Image.Image:
    """The picture in a file, or in the bytes of one, as by ``decode_picture``. Raises KalpanaError
    if it cannot be read."""
    with _opened(source) as image:
        return decode_picture(image, shortest)


def as_images(pictures: Picture | Sequence[Picture]) -> list[Image.Image]:
    """The images of pictures that are given as PIL images, as paths or as bytes of files, or of one
    of these. Raises KalpanaError if a file cannot be read."""
    if isinstance(pictures, Image.Image | str | os.PathLike | bytes):
        pictures = [pictures]
    return [each if isinstance(each, Image.Image) else read_picture(each) for each in pictures]


def read_mask(
    source: str | os.PathLike[str] | bytes,
    size: tuple[int, int] | None = None,
    mode: MaskMode = "auto",
) -> Tensor:
    """The mask (h, w) in [0, 1] in a picture file or its bytes: 1 where the picture is edited.

    ``mode`` "alpha": 1 where the mask is transparent; "white": 1 where it is white; "black": 1
    where it is black; "auto": "alpha" if any of it is transparent, else "white". Values between
    are kept: they are soft edges. ``size`` (width, height) is the picture's: a mask of the same
    proportions is resized to it.

    Raises KalpanaError if it cannot be read, has other proportions, or edits nothing.
    """
    import numpy as np
    import torch

    if mode not in ("auto", "alpha", "white", "black"):
        raise KalpanaError(f"mask mode {mode!r} is unknown: write auto, alpha, white or black")
    name = _name(source)
    with _opened(source) as image:
        image = _eight_bit(_upright(image))
        clear = None
        if image.has_transparency_data or image.mode in ("RGBa", "La"):
            clear = image.convert("RGBA").getchannel("A")
        if mode == "alpha" or (mode == "auto" and clear and clear.getextrema()[0] != 255):
            if clear is None or clear.getextrema()[0] == 255:
                raise KalpanaError(
                    f"{name} has no transparency: erase there what is to be edited, or write "
                    "mask mode white or black"
                )
            levels, inverted = clear, True
        else:
            image.info.pop("icc_profile", None)  # a mask holds numbers, not colours
            levels, inverted = rgb(image).convert("L"), mode == "black"
    if size is not None and levels.size != size:
        (width, height), (w, h) = size, levels.size
        if abs(w * height - h * width) > max(w, h, width, height):  # more than rounding
            raise KalpanaError(
                f"{name} is {w}x{h} and the picture {width}x{height}: "
                "give a mask of the same proportions"
            )
        levels = levels.resize(size, Image.Resampling.BILINEAR)  # Pillow's also averages
    mask = torch.from_numpy(np.asarray(levels, dtype=np.float32) / 255)
    mask = 1 - mask if inverted else mask
    if not mask.any():
        how = {"alpha": "transparent", "black": "black"}.get(mode, "transparent or white")
        raise KalpanaError(f"{name} edits nothing: make {how} what is to be edited")
    return mask


@contextmanager
def _opened(source: str | os.PathLike[str] | bytes) -> Iterator[Image.Image]:
    """An opened picture; errors of Pillow, also of decoding, as KalpanaError."""
    try:
        with open_picture(source if isinstance(source, bytes) else Path(source)) as image:
            yield image
    except KalpanaError:
        raise
    except Exception as error:  # for a damaged file Pillow raises exceptions of many types
        raise KalpanaError(
            f"{_name(source)} cannot be read: {read_error(error, _name(source))}"
        ) from None


def _name(source: str | os.PathLike[str] | bytes) -> str:
    """The name of a source in an error message."""
    return "the picture" if isinstance(source, bytes) else os.fspath(source)


def read_error(error: Exception, name: str = "") -> str:
    """The reason, in one line, why Pillow cannot read the file called ``name``."""
    if isinstance(error, OSError) and error.errno:  # not damaged, but unreachable
        return error.strerror or str(error)
    if isinstance(error, Image.DecompressionBombError):
        return f"it has more than {2 * (Image.MAX_IMAGE_PIXELS or 0):,} pixels"
    if Path(name).suffix.lower() in (".heic", ".heif") and "HEIF" not in formats():
        return "HEIF needs pillow-heif: pip install pillow-heif"
    if isinstance(error, PIL.UnidentifiedImageError):
        return "it is no picture"
    return " ".join(str(error).split())[:200] or type(error).__name__


@cache
def formats() -> tuple[str, ...]:
    """The formats of FORMATS that Pillow can read here, HEIF if pillow-heif is installed."""
    Image.init()  # registers all formats; Image.open alone registers the most common ones
    try:
        import pillow_heif
    except ImportError:
        pass
    else:
        pillow_heif.register_heif_opener()
    return tuple(name for name in FORMATS if name in Image.OPEN)


# ------------------------------------------------------------------------------- names and sheets


def slug(prompt: str) -> str:
    """A short file name made of the words of a prompt in any script: "three-red-apples",
    "तीन-लाल-सेब"; of a prompt of symbols alone, their Unicode names: "red-apple"; else "picture".

    It has a visible letter or digit.
    """
    text = unicodedata.normalize("NFC", prompt[:400])
    symbols = (unicodedata.name(each, "") for each in text if unicodedata.category(each)[0] == "S")
    return _joined(text) or _joined(" ".join(symbols)) or "picture"


def _joined(text: str) -> str:
    """The words of a text joined by hyphens, as many as 100 bytes hold; most file systems allow
    255."""
    spaced, name = "", ""
    for letter in text:
        kind = unicodedata.category(letter)[0]
        # A mark belongs to a letter; alone, and as a variation selector, it is not visible.
        mark = kind == "M" and spaced[-1:].strip() and not _is_selector(letter)
        if mark or (kind in "LN" and letter not in FILLERS):
            spaced += letter
        elif kind != "M" and unicodedata.category(letter) != "Cf":  # Cf: joiners
            spaced += " "
    for word in spaced.lower().split():
        if len(f"{name}-{word}".encode()) > 100:
            break
        name = f"{name}-{word}" if name else word
    return name


def _is_selector(letter: str) -> bool:
    return unicodedata.name(letter, "").startswith("VARIATION SELECTOR")


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
