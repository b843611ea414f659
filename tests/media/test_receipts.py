"""Picture files and their embedded receipts; atomic writing."""

from __future__ import annotations

import io
import json
import os
import struct
import subprocess
import sys
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import ExifTags, Image

from kalpana import media
from kalpana.hub.weights import Weights, save_tensors
from kalpana.types import KalpanaError, Output

HINDI = {
    "prompt": 'नीली कार के बाईं ओर तीन लाल सेब 🍎 "<&>"',
    "n": 1,
    "nested": {"क": [1.5, None, True]},
}
FORMATS = sorted(media.SUFFIX)
TEXT = json.dumps(HINDI)


@pytest.fixture
def image() -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (24, 32, 3), dtype=np.uint8))


def chunks(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Chunks of a PNG as (type, data), parsed without Pillow."""
    at = 8
    while at < len(data):
        (length,) = struct.unpack(">I", data[at : at + 4])
        yield data[at + 4 : at + 8], data[at + 8 : at + 8 + length]
        at += length + 12


@pytest.mark.parametrize("format", FORMATS)
def test_a_receipt_comes_back_whole_from_every_format(
    format: str, image: Image.Image, tmp_path: Path
) -> None:
    path = media.save(image, tmp_path / f"apple{media.SUFFIX[format]}", HINDI)
    assert media.read_receipt(path) == HINDI
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize("format", FORMATS)
def test_the_longest_prompt_has_room_in_or_beside_every_format(
    format: str, image: Image.Image, tmp_path: Path
) -> None:
    receipt = {"prompt": "क" * 100_000}
    path = media.save(image, tmp_path / f"apple{media.SUFFIX[format]}", receipt)
    assert media.read_receipt(path) == receipt
    assert path.with_name(path.name + ".json").exists() == (format == "jpeg")


@pytest.mark.parametrize("format", ["png", "webp"])
def test_png_and_webp_keep_every_pixel(format: str, image: Image.Image, tmp_path: Path) -> None:
    path = media.save(image, tmp_path / f"apple{media.SUFFIX[format]}", {})
    with Image.open(path) as again:
        assert np.array_equal(np.asarray(again.convert("RGB")), np.asarray(image))


def test_png_says_hindi_in_utf8_and_not_in_a_latin1_chunk(image: Image.Image) -> None:
    found = dict(chunks(media.encode(image, "png", HINDI)))
    assert "तीन लाल सेब".encode() in found[b"iTXt"] and found[b"iTXt"].startswith(b"kalpana\0")
    assert b"tEXt" not in found


@given(
    st.dictionaries(
        st.text(st.characters(exclude_categories=["Cs"])),
        st.text(st.characters(exclude_categories=["Cs"])),
    )
)
def test_any_text_survives_in_any_format(receipt: dict[str, str]) -> None:
    for format in FORMATS:
        data = media.encode(Image.new("RGB", (8, 8)), format, receipt)
        assert media.read_receipt(data) == receipt


@pytest.mark.parametrize("format", FORMATS)
def test_the_same_picture_and_receipt_give_the_same_bytes(format: str, image: Image.Image) -> None:
    assert media.encode(image, format, HINDI) == media.encode(
        image.copy(), format, dict(reversed(HINDI.items()))
    )


def test_no_file_is_ever_written_over(image: Image.Image, tmp_path: Path) -> None:
    paths = [media.save(image, tmp_path / "apple.png", {"i": i}) for i in range(3)]
    assert [path.name for path in paths] == ["apple.png", "apple-2.png", "apple-3.png"]
    assert [media.read_receipt(path)["i"] for path in paths] == [0, 1, 2]


SMALL_DISK = """
import resource, signal, sys
from pathlib import Path
from PIL import ExifTags, Image
from kalpana import media
from kalpana.hub.weights import Weights, save_tensors
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (4000, 4000))
folder = Path(sys.argv[1])
try:
    {attempt}
except Exception as error:
    print(type(error).__name__, error)
"""


def on_a_small_disk(attempt: str, folder: Path) -> str:
    """Output of ``attempt`` in a process whose files are limited to 4,000 bytes: a full disk."""
    script = SMALL_DISK.format(attempt=attempt)
    return subprocess.run(
        [sys.executable, "-c", script, str(folder)], capture_output=True, text=True, check=True
    ).stdout.strip()


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="Windows sets no limit on the size of files")
def test_a_full_disk_leaves_no_half_picture(tmp_path: Path) -> None:
    output = on_a_small_disk(
        "media.save(Image.effect_noise((99, 99), 99).convert('RGB'), folder / 'a.png', {})",
        tmp_path,
    )
    assert "File too large" in output
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="Windows sets no limit on the size of files")
def test_a_full_disk_is_found_before_the_work(tmp_path: Path) -> None:
    assert f"KalpanaError nothing can be written to the folder {tmp_path}" in on_a_small_disk(
        "media.ready_folder(folder, 100_000)", tmp_path
    )
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_is_found_before_the_work(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for folder in (tmp_path / "file", tmp_path / "file" / "deeper"):
        with pytest.raises(KalpanaError, match="nothing can be written to the folder"):
            media.ready_folder(folder, 10)
    media.ready_folder(tmp_path / "new" / "deeper", 10)
    assert list((tmp_path / "new" / "deeper").iterdir()) == []


def test_files_without_a_receipt_say_so(image: Image.Image, tmp_path: Path) -> None:
    image.save(tmp_path / "bare.png")
    image.save(tmp_path / "bare.jpg")
    (tmp_path / "words.png").write_text("these are words")
    (tmp_path / "cut.png").write_bytes(media.encode(image, "png", HINDI)[:40])
    messages = {
        "bare.png": "no receipt",
        "bare.jpg": "no receipt",
        "words.png": "no picture",
        "cut.png": "cut.png",
        "absent.png": "No such file",
        ".": "directory",
    }
    for name, words in messages.items():
        with pytest.raises(KalpanaError, match=words) as caught:
            media.read_receipt(tmp_path / name)
        assert "\n" not in str(caught.value)


def test_a_receipt_behind_the_pixels_is_read(image: Image.Image) -> None:
    """Other programs may move a text chunk behind IDAT, and may compress it."""
    data = media.encode(image, "png", HINDI)
    own = [(kind, body) for kind, body in chunks(data) if kind != b"IEND"]
    order = sorted(own, key=lambda chunk: chunk[0] == b"iTXt")
    assert order[-1][0] == b"iTXt" != own[-1][0]
    text = order[-1][1].removeprefix(b"kalpana\0\0\0\0\0")
    squeezed = b"kalpana\0\1\0\0\0" + zlib.compress(text)
    for last in (order[-1], (b"iTXt", squeezed)):
        moved = png([*order[:-1], last, (b"IEND", b"")])
        assert media.read_receipt(moved) == HINDI
    with pytest.raises(KalpanaError, match="the receipt in the file is damaged"):
        media.read_receipt(png([*order[:-1], (b"iTXt", squeezed[:-9]), (b"IEND", b"")]))


def png(parts: Sequence[tuple[bytes, bytes]]) -> bytes:
    """A PNG file of chunks."""
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        for kind, body in parts
    )


@pytest.mark.parametrize(
    "comment",
    [
        b"UNICODE\0" + TEXT.encode("utf-16-le"),
        b"UNICODE\0" + TEXT.encode("utf-16"),  # with a byte order mark
        b"UNICODE\0" + TEXT.encode(),
        bytes(8) + TEXT.encode(),
    ],
)
def test_a_comment_of_any_byte_order_is_read(comment: bytes, image: Image.Image) -> None:
    assert media.read_receipt(with_comment(comment, image)) == HINDI


@pytest.mark.parametrize(
    "comment",
    [b"UNICODE\0" + "मेरा फ़ोन".encode("utf-16-be"), b"ASCII\0\0\0my phone", b"x", bytes(9)],
)
def test_the_comment_of_another_program_is_no_receipt(comment: bytes, image: Image.Image) -> None:
    with pytest.raises(KalpanaError, match="there is no receipt in the file"):
        media.read_receipt(with_comment(comment, image))


def with_comment(comment: bytes, image: Image.Image) -> bytes:
    """A JPEG with a UserComment."""
    exif, file = Image.Exif(), io.BytesIO()
    exif.get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.UserComment] = comment
    image.save(file, "JPEG", exif=exif)
    return file.getvalue()


def test_a_receipt_beside_a_picture_is_never_that_of_another(
    image: Image.Image, tmp_path: Path
) -> None:
    long = [{"prompt": "क" * 100_000, "i": i} for i in range(2)]
    first = media.save(image, tmp_path / "a.jpg", long[0])
    first.unlink()  # its receipt is left
    assert media.save(image, tmp_path / "a.jpg", long[1]).name == "a-2.jpg"
    assert media.save(image, tmp_path / "a.jpg", {}, metadata=False).name == "a-3.jpg"
    assert media.read_receipt(tmp_path / "a-2.jpg") == long[1]
    with pytest.raises(KalpanaError, match="no receipt"):
        media.read_receipt(tmp_path / "a-3.jpg")
    assert (tmp_path / "a.jpg.json").read_text(encoding="utf-8").endswith('"}')


@pytest.mark.parametrize("format", FORMATS)
def test_without_metadata_nothing_is_told(format: str, image: Image.Image) -> None:
    image.info["comment"] = "secret"
    data = media.encode(image, format, {"prompt": "secret"}, metadata=False)
    assert b"secret" not in data and "secret".encode("utf-16-be") not in data
    with Image.open(io.BytesIO(data)) as again:
        assert not again.getexif() and not set(again.info) & {"comment", "exif", "kalpana"}


MADE = {
    "kalpana": "0.1.0",
    "request": {"prompt": "three red\napples", "guidance": 9.0},
    "resolved": {"negative_prompt": "blur", "steps": 20, "sampler": "heun", "guidance": 2.5}
    | {"size": "128x96", "seed": 1},
    "model": {"name": "default"},
    "seed": 7,
}


def test_galleries_can_read_prompt_and_seed(image: Image.Image) -> None:
    with Image.open(io.BytesIO(media.encode(image, "png", MADE))) as again:
        text = again.info["parameters"]
    prompt, negative, settings = text.split("\n")
    assert (prompt, negative) == ("three red apples", "Negative prompt: blur")
    fields = dict(part.split(": ") for part in settings.split(", "))
    assert fields == {
        "Steps": "20",
        "Sampler": "heun",
        "CFG scale": "2.5",
        "Seed": "7",
        "Size": "128x96",
        "Model": "default",
        "Version": "kalpana 0.1.0",
    }
    hindi = MADE | {"request": {"prompt": "तीन सेब"}}
    with Image.open(io.BytesIO(media.encode(image, "png", hindi))) as again:
        assert again.info["parameters"].startswith("तीन सेब\nNegative")
    assert media.parameters({"world": {}}) is None


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no umask")
@pytest.mark.parametrize("mask", [0o022, 0o027])
def test_files_have_the_mode_of_the_umask(mask: int, image: Image.Image, tmp_path: Path) -> None:
    """Also where a library replaces the temporary file by a private one of its own."""
    before = os.umask(mask)
    try:
        media.save(image, tmp_path / "a.png", {})
        media.write(tmp_path / "b", b"x")
        with media.atomic(tmp_path / "c") as temporary:
            private = tmp_path / "private"
            private.write_bytes(b"c")
            private.chmod(0o600)
            private.replace(temporary)
        save_tensors(tmp_path / "d", Weights("vae", {}, {}, {"w": torch.zeros(2)}))
    finally:
        os.umask(before)
    modes = {path.name: path.stat().st_mode & 0o777 for path in tmp_path.iterdir()}
    assert modes == dict.fromkeys(("a.png", "b", "c", "d"), 0o666 & ~mask)


def test_an_atomic_write_that_fails_leaves_the_old_file(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("old")
    with pytest.raises(RuntimeError), media.atomic(tmp_path / "a") as temporary:
        temporary.write_text("half")
        raise RuntimeError
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("a", "old")]


def test_an_output_saves_its_receipt_with_it_and_knows_where(tmp_path: Path) -> None:
    """Formats by suffix; a taken name is not overwritten; any other suffix is refused."""
    receipt = {"note": "नमस्ते"}
    image = Output(Image.new("RGB", (16, 16), "red"), 3, receipt)
    for name in ("a.png", "a.webp", "a.jpg", "a.jpeg", "A.PNG"):
        saved = image.save(tmp_path / name)
        assert saved.path == tmp_path / name and saved.image is image.image
        assert media.read_receipt(tmp_path / name) == receipt
    assert image.save(str(tmp_path / "a.png")).path == tmp_path / "a-2.png"
    bare = image.save(tmp_path / "bare.png", metadata=False)
    with pytest.raises(KalpanaError, match="no receipt"):
        media.read_receipt(bare.path)
    with pytest.raises(KalpanaError, match=r"a\.gif: write a name in \.png, \.webp, \.jpg, \.jpeg"):
        image.save(tmp_path / "a.gif")
