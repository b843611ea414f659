"""Reading of pictures: conversion to RGB, colour profiles, masks, errors; sheets and file names."""

from __future__ import annotations

import io
import struct
import unicodedata
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import ExifTags, Image, ImageCms

from kalpana import media
from kalpana.types import KalpanaError


def file(image: Image.Image, format: str = "PNG", **options: Any) -> bytes:
    """The bytes of a picture file, written by Pillow."""
    written = io.BytesIO()
    image.save(written, format, **options)
    return written.getvalue()


def pixel(data: bytes) -> tuple[int, ...]:
    return media.read_picture(data).getpixel((0, 0))


# ----------------------------------------------------------------------------------------- profiles

SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def swapped() -> bytes:
    """An sRGB profile whose red and blue primaries are exchanged: two names in its table of tags
    (ICC.1:2010, 7.3.1)."""
    return (
        SRGB.replace(b"rXYZ", b"????", 1).replace(b"bXYZ", b"rXYZ", 1).replace(b"????", b"bXYZ", 1)
    )


def ink_profile(lab: dict[int, tuple[int, int, int]]) -> bytes:
    """A CMYK profile (ICC.1:2010, 10.10, lut8Type): the Lab colours of ink combinations, as bits
    CMYK; all others are white."""
    ramp = bytes(range(256))
    corners = b"".join(
        bytes([round(lightness * 2.55), a + 128, b + 128])
        for lightness, a, b in (lab.get(k, (100, 0, 0)) for k in range(16))
    )
    matrix = struct.pack(">9i", *(65536 * (k % 4 == 0) for k in range(9)))
    lut = b"mft1" + bytes(4) + bytes([4, 3, 2, 0]) + matrix + ramp * 4 + corners + ramp * 3
    tags = struct.pack(">I4sII", 1, b"A2B0", 144, len(lut))
    header = struct.pack(
        ">I4sI4s4s4s", 144 + len(lut), bytes(4), 0x02400000, b"prtr", b"CMYK", b"Lab "
    )
    header += bytes(12) + b"acsp" + bytes(28) + struct.pack(">3i", 63190, 65536, 54061)
    return header.ljust(128, b"\0") + tags + lut


def test_a_profile_that_swaps_red_and_blue_is_applied() -> None:
    for color, wanted in (((255, 0, 0), (0, 0, 255)), ((0, 0, 255), (255, 0, 0))):
        for format in ("PNG", "TIFF", "WEBP"):
            image = Image.new("RGB", (4, 4), color)
            options = {"lossless": True} if format == "WEBP" else {}
            found = pixel(file(image, format, icc_profile=swapped(), **options))
            assert np.abs(np.subtract(found, wanted)).max() <= 3, format
    palette = Image.new("RGB", (4, 4), "red").quantize(2)
    assert np.abs(np.subtract(pixel(file(palette, icc_profile=swapped())), (0, 0, 255))).max() <= 3


def test_a_profile_is_applied_below_transparency_and_only_once() -> None:
    image = Image.new("RGBA", (2, 1), (255, 0, 0, 255))
    image.putpixel((1, 0), (255, 0, 0, 0))
    read = media.read_picture(file(image, icc_profile=swapped()))
    assert np.abs(np.subtract(read.getpixel((0, 0)), (0, 0, 255))).max() <= 3
    assert read.getpixel((1, 0)) == (255, 255, 255)
    assert "icc_profile" not in read.info and media.rgb(read).tobytes() == read.tobytes()


def test_an_srgb_profile_changes_no_pixel() -> None:
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (9, 9, 3), dtype=np.uint8))
    read = media.read_picture(file(image, icc_profile=SRGB))
    assert read.tobytes() == image.tobytes()


def test_a_cmyk_profile_is_applied() -> None:
    """Cyan ink is printed as a red here; the corner's sRGB is that of CIE Lab (53, 80, 67)."""
    image = Image.new("CMYK", (8, 8), (255, 0, 0, 0))
    profile = ink_profile({0b1000: (53, 80, 67)})
    for format in ("TIFF", "JPEG"):
        red, green, blue = pixel(file(image, format, icc_profile=profile))
        assert red > 240 and green < 30 and blue < 30, format
    assert pixel(file(image, "TIFF")) == (0, 255, 255)


@pytest.mark.parametrize("profile", [b"no profile", SRGB[:200], ink_profile({})])
def test_a_profile_that_is_invalid_or_of_other_pixels_is_ignored(profile: bytes) -> None:
    assert pixel(file(Image.new("RGB", (4, 4), (9, 99, 199)), icc_profile=profile)) == (9, 99, 199)


# -------------------------------------------------------------------------------------------- depth


@given(st.integers(0, 65535))
def test_sixteen_bit_grey_is_its_upper_byte(level: int) -> None:
    image = Image.fromarray(np.full((2, 2), level, np.uint16))
    assert pixel(file(image)) == (round(level / 257),) * 3


def test_only_numbers_without_a_scale_are_stretched() -> None:
    levels = {
        "flat": (np.full((1, 2), 200 * 257, np.uint16), [200, 200]),
        "32 bit": (np.array([[-70000, 70000]], np.int32), [0, 255]),
        "32 bit in the range of 16": (np.array([[0, 51400]], np.int32), [0, 200]),
        "float": (np.array([[-0.5, 0.5]], np.float32), [0, 255]),
    }
    for name, (values, wanted) in levels.items():
        read = media.read_picture(file(Image.fromarray(values), "TIFF"))
        assert np.asarray(read)[0, :, 0].tolist() == wanted, name
    clear = Image.fromarray(np.array([[5, 257]], np.uint16))
    read = media.read_picture(file(clear, transparency=5))
    assert np.asarray(read)[0, :, 0].tolist() == [255, 1]


def test_every_way_of_giving_a_picture_is_one(tmp_path: Path) -> None:
    """A path, a string and bytes; from bytes of an animation the first frame."""
    frames = [Image.new("RGB", (8, 8), color) for color in ("red", "blue")]
    for format in ("GIF", "WEBP", "PNG"):
        data = file(frames[0], format, save_all=True, append_images=frames[1:])
        (tmp_path / "a").write_bytes(data)
        for source in (data, tmp_path / "a", str(tmp_path / "a")):
            found = media.read_picture(source).getpixel((4, 4))
            assert np.abs(np.subtract(found, (255, 0, 0))).max() <= 8, format


def test_a_picture_of_a_camera_is_read_upright() -> None:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6  # turned by 90 degrees clockwise to be upright
    image = Image.new("RGB", (4, 2), "red")
    image.putpixel((0, 1), (0, 0, 255))
    read = media.read_picture(file(image, exif=exif))
    assert read.size == (2, 4) and read.getpixel((0, 0)) == (0, 0, 255)


# ------------------------------------------------------------------------------------------- errors


def huge_png() -> bytes:
    """The header of a PNG of 40,000 x 40,000 pixels."""
    body = struct.pack(">IIBBBBB", 40_000, 40_000, 8, 2, 0, 0, 0)
    chunks = ((b"IHDR", body), (b"IDAT", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in chunks
    )


def test_pictures_that_cannot_be_read_say_why_in_one_line(tmp_path: Path) -> None:
    noise = Image.effect_noise((64, 64), 90)
    cases = {
        "cut.png": (file(noise)[:-900], "truncated|cut|broken"),
        "cut.jpg": (file(noise, "JPEG")[:-900], "truncated"),
        "cut.webp": (file(noise, "WEBP")[:-900], "."),
        "cut.gif": (file(noise, "GIF")[:-900], "truncated"),
        "huge.png": (huge_png(), "it has more than [0-9,]+ pixels"),
        "words.png": (b"these are words", "it is no picture"),
        "empty.jpg": (b"", "it is no picture"),
        "cut.heic": (b"", "."),
    }
    for name, (data, reason) in cases.items():
        (tmp_path / name).write_bytes(data)
        with pytest.raises(KalpanaError, match=rf"{name} cannot be read: .*{reason}") as caught:
            media.read_picture(tmp_path / name)
        assert "\n" not in str(caught.value)
        with pytest.raises(KalpanaError, match=r"the picture cannot be read: "):
            media.read_picture(data)
    with pytest.raises(KalpanaError, match=r"absent\.png cannot be read: No such file"):
        media.read_picture(tmp_path / "absent.png")
    with pytest.raises(KalpanaError, match=r"cannot be read: (Is a directory|Permission)"):
        media.read_picture(tmp_path)


# -------------------------------------------------------------------------------------------- masks


def test_a_mask_is_its_transparency_or_else_its_white() -> None:
    levels = np.array([[0, 100, 255]], np.uint8)
    grey = file(Image.fromarray(levels))
    wanted = torch.tensor([[0, 100 / 255, 1]])
    torch.testing.assert_close(media.read_mask(grey), wanted)
    torch.testing.assert_close(media.read_mask(grey, mode="white"), wanted)
    torch.testing.assert_close(media.read_mask(grey, mode="black"), 1 - wanted)
    erased = Image.new("RGBA", (3, 1), "white")
    erased.putalpha(Image.fromarray(levels))
    torch.testing.assert_close(media.read_mask(file(erased)), 1 - wanted)
    torch.testing.assert_close(media.read_mask(file(erased), mode="alpha"), 1 - wanted)
    assert media.read_mask(file(erased), mode="white").tolist() == [[1, 1, 1]]
    opaque = Image.merge("RGBA", [*[Image.fromarray(levels)] * 3, Image.new("L", (3, 1), 255)])
    torch.testing.assert_close(media.read_mask(file(opaque)), wanted)
    deep = Image.fromarray(levels.astype(np.uint16) * 257)
    torch.testing.assert_close(media.read_mask(file(deep)), wanted)


def test_a_mask_is_turned_with_its_picture_and_resized_to_it() -> None:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    image = Image.new("L", (4, 2))
    image.paste(255, (0, 1, 4, 2))  # below; at the left once upright
    mask = media.read_mask(file(image, exif=exif))
    assert mask.tolist() == [[1, 0]] * 4
    large = media.read_mask(file(image, exif=exif), (6, 12))
    assert large.shape == (12, 6) and large[:, 0].min() == 1 and large[:, -1].max() == 0
    assert 0 < large[:, 2:4].mean() < 1 and abs(large.mean() - 0.5) < 1e-2
    stripes = Image.fromarray(np.tile([[0, 255]], (4, 4)).astype(np.uint8))  # 8x4
    assert (media.read_mask(file(stripes), (4, 2)) - 0.5).abs().max() < 0.2


def test_masks_that_edit_nothing_or_do_not_fit_are_errors() -> None:
    black, white = (file(Image.new("L", (4, 2), level)) for level in (0, 255))
    for data, mode in ((black, "auto"), (black, "white"), (white, "black")):
        with pytest.raises(KalpanaError, match="edits nothing"):
            media.read_mask(data, mode=mode)
    with pytest.raises(KalpanaError, match="has no transparency"):
        media.read_mask(white, mode="alpha")
    with pytest.raises(KalpanaError, match="is 4x2 and the picture 4x4"):
        media.read_mask(white, (4, 4))
    with pytest.raises(KalpanaError, match="write auto, alpha, white or black"):
        media.read_mask(white, mode="red")  # type: ignore[arg-type]
    with pytest.raises(KalpanaError, match="cannot be read"):
        media.read_mask(b"words")
    assert media.read_mask(white, (3, 1)).shape == (1, 3)  # 4:2 and 3:1.5, rounded


# ------------------------------------------------------------------------- names, pixels and sheets


def test_pixels_are_rounded_to_the_nearest_level_and_clamped() -> None:
    levels = torch.arange(256).float().div(127.5).sub(1).view(1, 1, 16, 16).expand(1, 3, -1, -1)
    (exact,), (bright,) = media.to_images(levels + 0.003), media.to_images(levels * 0 + 7)
    assert np.array_equal(np.asarray(exact)[..., 0].ravel(), np.arange(256)) and set(
        np.asarray(bright).ravel()
    ) == {255}
    torch.testing.assert_close(media.to_pixels([exact]), levels)


@pytest.mark.parametrize(
    ("prompt", "name"),
    [
        ("Three red apples, left of a blue car!", "three-red-apples-left-of-a-blue-car"),
        ("नीली कार के बाईं ओर", "नीली-कार-के-बाईं-ओर"),
        ("../../etc/passwd", "etc-passwd"),
        ("🍎", "red-apple"),
        ("❤️", "heavy-black-heart"),
        ("❤️ क्‍या", "क्या"),
        ("\ufe0f\u3164", "picture"),
        ("\u0301", "picture"),
        ("a\x00b\nc", "a-b-c"),
        ("x" * 5000, "picture"),
    ],
)
def test_file_names_are_the_words_of_any_script(prompt: str, name: str) -> None:
    assert media.slug(prompt) == name


@given(st.text(max_size=600))
def test_any_prompt_makes_a_file_name(prompt: str) -> None:
    name = media.slug(prompt)
    assert any(unicodedata.category(letter)[0] in "LN" for letter in name)  # visible
    assert 0 < len(name.encode()) <= 100 and not set(name) & set('/\\.:*?"<>|\0\n ')


@pytest.mark.parametrize(
    ("count", "columns", "rows"), [(1, 1, 1), (2, 2, 1), (4, 2, 2), (5, 3, 2), (9, 3, 3)]
)
def test_a_grid_holds_all_its_pictures(count: int, columns: int, rows: int) -> None:
    sheet = media.grid([Image.new("RGB", (10, 20), (i, 0, 0)) for i in range(count)], gap=2)
    assert sheet.size == (columns * 12 + 2, rows * 22 + 2)
    assert [
        sheet.getpixel((2 + i % columns * 12, 2 + i // columns * 22)) for i in range(count)
    ] == [(i, 0, 0) for i in range(count)]
