"""Picture and video files and their embedded receipts."""

from __future__ import annotations

import json
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from kalpana import media
from kalpana.types import KalpanaError, Output, Video

HINDI = {
    "prompt": 'नीली कार के बाईं ओर तीन लाल सेब 🍎 "<&>"',
    "n": 1,
    "nested": {"क": [1.5, None, True]},
}
FORMATS = sorted(media.SUFFIX)


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
        assert json.loads(media._comment(data) or "") == receipt


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
from PIL import Image
from kalpana import media
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


@pytest.mark.skipif(sys.platform == "win32", reason="Windows sets no limit on the size of files")
def test_a_full_disk_leaves_no_half_picture(tmp_path: Path) -> None:
    output = on_a_small_disk(
        "media.save(Image.effect_noise((99, 99), 99).convert('RGB'), folder / 'a.png', {})",
        tmp_path,
    )
    assert "File too large" in output
    assert list(tmp_path.iterdir()) == []


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
        ("🍎🍎", "picture"),
        ("a\x00b\nc", "a-b-c"),
        ("x" * 5000, "picture"),
    ],
)
def test_file_names_are_the_words_of_any_script(prompt: str, name: str) -> None:
    assert media.slug(prompt) == name


@given(st.text(max_size=600))
def test_any_prompt_makes_a_file_name(prompt: str) -> None:
    name = media.slug(prompt)
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


def test_a_clip_comes_back_with_its_frames_its_rate_and_its_receipt() -> None:
    """H.264 is lossy: flat colours are within a few levels. The receipt holds Hindi exactly."""
    frames = [Image.new("RGB", (64, 48), (40 * k, 120, 200 - 30 * k)) for k in range(6)]
    receipt = {"prompt": 'एक बिल्ली "दौड़" रही है', "seed": 7}
    data = media.encode_video(frames, 12, receipt)
    back, fps, read = media.decode_clip(data)
    assert len(back) == len(frames) and fps == 12 and read == receipt
    for one, two in zip(frames, back, strict=True):
        assert np.abs(np.asarray(one).astype(int) - np.asarray(two).astype(int)).mean() < 4


@pytest.mark.parametrize(
    "comment", [b"made by a phone", b"caf\xe9, at 3 p.m.", b"[1, 2, 3, 4, 5]", b"               "]
)
def test_a_clip_with_another_programs_comment_has_no_receipt(comment: bytes) -> None:
    ours = media.encode_video([Image.new("RGB", (32, 32), "red")] * 3, 8, {"note": "abc"})
    assert ours.count(b'{"note": "abc"}') == 1 and len(comment) == 15
    frames, fps, receipt = media.decode_clip(ours.replace(b'{"note": "abc"}', comment))
    assert (len(frames), fps, receipt) == (3, 8, None)


def test_a_clip_file_is_never_written_over(tmp_path: Path) -> None:
    frames = [Image.new("RGB", (32, 32), "red")] * 8
    one, two = (media.save_video(frames, 8, tmp_path / "a.mp4", {}) for _ in range(2))
    assert (
        one.name == "a.mp4"
        and two.name == "a-2.mp4"
        and all(len(media.decode_clip(path.read_bytes())[0]) == 8 for path in (one, two))
    )


def test_an_output_saves_its_receipt_with_it_and_knows_where(tmp_path: Path) -> None:
    """Formats by suffix; a taken name is not overwritten; any other suffix is refused."""
    receipt = {"note": "नमस्ते"}
    image = Output(Image.new("RGB", (16, 16), "red"), 3, receipt)
    for name in ("a.png", "a.webp", "a.jpg", "a.jpeg", "A.PNG"):
        saved = image.save(tmp_path / name)
        assert saved.path == tmp_path / name and saved.image is image.image
        assert media.read_receipt(tmp_path / name) == receipt
    assert image.save(str(tmp_path / "a.png")).path == tmp_path / "a-2.png"
    with pytest.raises(KalpanaError, match=r"a\.gif: write a name in \.png, \.webp, \.jpg, \.jpeg"):
        image.save(tmp_path / "a.gif")


def test_an_output_that_is_a_video_is_written_as_mp4(tmp_path: Path) -> None:
    pytest.importorskip("av")
    frames = tuple(Image.new("RGB", (32, 32), color) for color in ("red", "green", "blue"))
    output = Output(Video(frames, 8), 3, {"note": "v"})
    saved = output.save(tmp_path / "v.mp4")
    assert saved.path == tmp_path / "v.mp4" and saved.path.stat().st_size > 100
    with pytest.raises(KalpanaError, match=r"write a name in \.mp4 or \.webp"):
        output.save(tmp_path / "v.png")
    with pytest.raises(KalpanaError, match="is a video"):
        _ = output.image


def test_mp4_bytes_are_the_same_in_every_run() -> None:
    pytest.importorskip("av", reason="MP4 needs PyAV: kalpana[video]")
    noise = np.random.default_rng(0).integers(0, 255, (24, 8, 8, 3), dtype=np.uint8)
    frames = [Image.fromarray(levels).resize((64, 64)) for levels in noise]
    assert len({media.encode_video(frames, 12, {}) for _ in range(40)}) == 1


def test_an_animated_webp_keeps_pixels_times_and_receipt(tmp_path: Path) -> None:
    frames = [Image.new("RGB", (8, 8), (40 * k, 0, 99)) for k in range(5)]
    path = media.save_video(frames, 24, tmp_path / "a.webp", {"note": "हिन्दी"})
    assert media.read_receipt(path) == {"note": "हिन्दी"}
    with Image.open(path) as image:
        assert image.n_frames == 5
        for k, frame in enumerate(frames):
            image.seek(k)
            assert image.convert("RGB").tobytes() == frame.tobytes()
            assert image.info["duration"] in (41, 42)
