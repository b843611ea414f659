"""Reading videos as streams, and writing MP4, animations and sheets of frames."""

from __future__ import annotations

import io
import struct
import sys
from collections.abc import Sequence
from fractions import Fraction
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from kalpana import media
from kalpana.types import KalpanaError, Output, Video

av = pytest.importorskip("av")
COLORS = [(40 * k, 120, 200 - 30 * k) for k in range(6)]
RECEIPT = {"prompt": 'एक बिल्ली "दौड़" रही है', "seed": 7}


def flat(size: tuple[int, int] = (64, 48)) -> list[Image.Image]:
    return [Image.new("RGB", size, color) for color in COLORS]


def near(image: Image.Image, color: Sequence[int], most: int = 6) -> bool:
    """Whether the middle of an image has about this colour: H.264 is lossy."""
    middle = image.getpixel((image.width // 2, image.height // 2))
    return bool(np.abs(np.subtract(middle, color)).max() <= most)


def film(
    frames: Sequence[Image.Image],
    times: Sequence[int],
    codec: str = "libx264",
    container: str = "mp4",
    pix_fmt: str = "yuv420p",
    sound: bool = False,
) -> bytes:
    """A video written by PyAV: frames at times in ms, and a second of silence if asked for."""
    file = io.BytesIO()
    with av.open(file, "w", format=container) as out:
        if sound:
            audio = out.add_stream("aac", rate=8000)
            audio.layout = "mono"
        stream = out.add_stream(codec, rate=1000)
        stream.width, stream.height = frames[0].size
        stream.pix_fmt, stream.time_base = pix_fmt, Fraction(1, 1000)
        for image, time in zip(frames, times, strict=True):
            if image.mode == "RGBA":
                frame = av.VideoFrame.from_ndarray(np.asarray(image), format="rgba")
            else:
                frame = av.VideoFrame.from_image(image)
            frame.pts, frame.time_base = time, Fraction(1, 1000)
            out.mux(stream.encode(frame))
        out.mux(stream.encode())
        if sound:
            silence = av.AudioFrame.from_ndarray(np.zeros((1, 8000), np.float32), "fltp", "mono")
            silence.sample_rate = 8000
            out.mux(audio.encode(silence))
            out.mux(audio.encode())
    return file.getvalue()


@pytest.mark.parametrize("suffix", [".mp4", ".webp", ".gif"])
def test_a_video_comes_back_with_frames_rate_duration_and_receipt(
    suffix: str, tmp_path: Path
) -> None:
    path = media.save_video(flat(), 12, tmp_path / f"a{suffix}", RECEIPT)
    for source in (path, str(path), path.read_bytes()):
        video = media.read_video(source)
        assert video.size == (64, 48) and not video.sound
        assert abs(video.fps - 12) < 0.01 and abs(video.duration - 0.5) < 0.01
        assert video.receipt == media.read_receipt(source) == RECEIPT
        frames, times = [*video], [time for time, _ in video.timed()]  # it can be read again
        assert len(frames) == 6 and np.allclose(times, np.arange(6) / 12, atol=0.006)
        assert all(near(frame, color) for frame, color in zip(frames, COLORS, strict=True))
    bare = media.save_video(flat(), 12, tmp_path / f"b{suffix}", RECEIPT, metadata=False)
    assert media.read_video(bare).receipt is None and b"prompt" not in bare.read_bytes()


def test_a_sheet_of_frames_is_a_picture_with_the_receipt(tmp_path: Path) -> None:
    path = media.save_video(flat(), 12, tmp_path / "a.png", RECEIPT)
    sheet = media.read_picture(path)
    assert sheet.tobytes() == media.grid(flat()).tobytes()
    assert media.read_receipt(path) == RECEIPT


def test_animations_are_deterministic_and_webp_is_lossless() -> None:
    noise = [Image.effect_noise((20, 10), 60 + k).convert("RGB") for k in range(4)]
    for format in ("webp", "gif"):
        one, two = (media.encode_animation(noise, 24, RECEIPT, format) for _ in range(2))
        assert one == two
    frames = [*media.read_video(media.encode_animation(noise, 24, RECEIPT))]
    assert [frame.tobytes() for frame in frames] == [frame.tobytes() for frame in noise]


def test_the_duration_of_an_animation_is_right_at_uneven_rates() -> None:
    """At 24 frames a second a frame lasts 41.67 ms; formats store whole ms, or 10 ms."""
    frames = [Image.new("RGB", (8, 8), (10 * k, 0, 0)) for k in range(24)]
    for format in ("webp", "gif"):
        video = media.read_video(media.encode_animation(frames, 24, {}, format))
        assert abs(video.duration - 1) < 1e-9, format
        resampled = [*media.read_video(media.encode_animation(frames, 24, {}, format), 24)]
        assert [near(a, b.getpixel((0, 0)), 2) for a, b in zip(resampled, frames, strict=True)]


@pytest.mark.parametrize(("format", "fps"), [("gif", 60), ("webp", 0), ("apng", 8)])
def test_animations_that_cannot_be_are_errors(format: str, fps: int) -> None:
    with pytest.raises(KalpanaError, match=r"not possible in|write webp or gif"):
        media.encode_animation(flat(), fps, {}, format)


def test_a_variable_rate_is_kept_with_its_times_or_resampled() -> None:
    times = [0, 100, 150, 400, 450, 900]
    data = film(flat(), times)
    kept = [*media.read_video(data).timed()]
    assert np.allclose([time for time, _ in kept], np.divide(times, 1000), atol=0.002)
    assert all(near(image, color) for (_, image), color in zip(kept, COLORS, strict=True))
    video = media.read_video(data, fps=10)
    shown = [0, 1, 2, 2, 3, 4, 4, 4, 4, 5]  # the frame on display at 0, 100, 200 … ms
    found = [*video.timed()]
    assert video.fps == 10 and np.allclose([time for time, _ in found], np.arange(len(found)) / 10)
    for (_, image), k in zip(found, shown, strict=True):
        assert near(image, COLORS[k])
    assert len(found) == len(shown)


def test_frames_are_a_stream() -> None:
    """Frames before the damaged end are given first."""
    data = media.encode_video((Image.new("RGB", (32, 32), (k, k, k)) for k in range(200)), 25, {})
    assert len([*islice(media.read_video(data), 3)]) == 3


def turned(data: bytes, matrix: Sequence[int]) -> bytes:
    """An MP4 with another display matrix in its track header (ISO/IEC 14496-12, 8.3.2)."""
    at = data.index(b"tkhd") + 4 + 4 + 20 + 16  # version and flags, times and id, layer and volume
    return data[:at] + struct.pack(">9i", *matrix) + data[at + 36 :]


@pytest.mark.parametrize(
    ("a", "b", "c", "d", "corner"),
    [(0, 1, -1, 0, "top right"), (-1, 0, 0, -1, "bottom right"), (0, -1, 1, 0, "bottom left")],
)
def test_the_rotation_of_a_phone_is_applied(a: int, b: int, c: int, d: int, corner: str) -> None:
    """A point (x, y) is shown at (ax + cy, bx + dy): the corner (0, 0) moves as stated."""
    image = Image.new("RGB", (64, 32), "black")
    image.paste("white", (0, 0, 16, 16))
    one = 65536
    data = turned(
        film([image] * 3, [0, 40, 80]), (a * one, b * one, 0, c * one, d * one, 0, 0, 0, 1 << 30)
    )
    video = media.read_video(data)
    assert video.size == ((64, 32) if b == 0 else (32, 64))
    frame = next(iter(video))
    x = 4 if "left" in corner else frame.width - 5
    y = 4 if "top" in corner else frame.height - 5
    assert frame.size == video.size and frame.getpixel((x, y))[0] > 200
    assert sum(frame.resize((1, 1), Image.Resampling.BOX).getpixel((0, 0))) < 3 * 64


def test_odd_sides_are_written_and_read() -> None:
    image = Image.new("RGB", (33, 21), "red")
    frames, _, _ = media.decode_video(media.encode_video([image] * 3, 8, {}))
    assert frames[0].size == (34, 22) and near(frames[0], (255, 0, 0))
    red, _, _ = frames[0].getpixel((33, 21))
    assert red > 200  # the edge is repeated
    odd = film([image.convert("RGBA")] * 2, [0, 40], "ffv1", "matroska", "bgra")
    assert media.read_video(odd).size == (33, 21)


def test_transparent_frames_are_on_white() -> None:
    half = Image.new("RGBA", (32, 32), (255, 0, 0, 128))
    read = [*media.read_video(film([half] * 2, [0, 40], "ffv1", "matroska", "bgra"))]
    assert len(read) == 2 and near(read[0], (255, 127, 127), 2)
    written, _, _ = media.decode_video(media.encode_video([half] * 2, 25, {}))
    assert near(written[0], (255, 127, 127), 4)


def test_sound_is_reported() -> None:
    video = media.read_video(film(flat(), [0, 40, 80, 120, 160, 200], sound=True))
    assert video.sound and len([*video]) == 6


@pytest.mark.parametrize(
    "comment", [b"made by a phone", b"caf\xe9, at 3 p.m.", b"[1, 2, 3, 4, 5]", b"               "]
)
def test_a_video_with_another_programs_comment_has_no_receipt(comment: bytes) -> None:
    ours = media.encode_video([Image.new("RGB", (32, 32), "red")] * 3, 8, {"note": "abc"})
    assert ours.count(b'{"note": "abc"}') == 1 and len(comment) == 15
    other = ours.replace(b'{"note": "abc"}', comment)
    frames, fps, receipt = media.decode_video(other)
    assert (len(frames), fps, receipt) == (3, 8, None)
    with pytest.raises(KalpanaError, match="there is no receipt in the file"):
        media.read_receipt(other)


def silent_film() -> bytes:
    """An MP4 with sound only."""
    file = io.BytesIO()
    with av.open(file, "w", format="mp4") as out:
        audio = out.add_stream("aac", rate=8000)
        audio.layout = "mono"
        silence = av.AudioFrame.from_ndarray(np.zeros((1, 8000), np.float32), "fltp", "mono")
        silence.sample_rate = 8000
        out.mux(audio.encode(silence))
        out.mux(audio.encode())
    return file.getvalue()


def test_videos_that_cannot_be_read_say_why_in_one_line(tmp_path: Path) -> None:
    whole = media.encode_video(flat(), 8, {})
    front = tmp_path / "whole.mp4"  # with its index before its frames
    with (
        av.open(io.BytesIO(whole)) as source,
        av.open(front, "w", format="mp4", options={"movflags": "faststart"}) as out,
    ):
        stream = out.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(video=0):
            if packet.dts is not None:
                packet.stream = stream
                out.mux(packet)
    picture = io.BytesIO()
    Image.new("RGB", (8, 8)).save(picture, "PNG")
    cases: dict[str, tuple[bytes, str]] = {
        "words.mp4": (b"these are words", "it is no video"),
        "empty.mp4": (b"", "it is no video"),
        "cut.mp4": (whole[:-200], "it is cut short"),
        "front.mp4": (front.read_bytes()[:-200], "it is cut short"),
        "sound.mp4": (silent_film(), "it has no video stream"),
        "one.png": (picture.getvalue(), "one frame"),
        "cut.gif": (media.encode_animation(flat(), 8, {}, "gif")[:60], "."),
    }
    for name, (data, reason) in cases.items():
        (tmp_path / name).write_bytes(data)
        with pytest.raises(KalpanaError, match=rf"{name} cannot be read: .*{reason}") as caught:
            [*media.read_video(tmp_path / name)]
        assert "\n" not in str(caught.value)
    with pytest.raises(KalpanaError, match=r"absent\.mp4 cannot be read: No such file"):
        media.read_video(tmp_path / "absent.mp4")
    with pytest.raises(KalpanaError, match="write 1 to 1000"):
        media.read_video(whole, fps=0)


def test_without_pyav_it_is_said_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    data = media.encode_video(flat(), 8, {})
    monkeypatch.setitem(sys.modules, "av", None)

    def frames() -> Any:
        raise AssertionError("the work has begun")
        yield

    for attempt in (
        lambda: media.encode_video(frames(), 8, {}),
        lambda: media.read_video(data),
        lambda: media.read_receipt(data),
        media.require_av,
    ):
        with pytest.raises(KalpanaError, match=r"pip install 'kalpana\[video\]'"):
            attempt()


def test_a_video_of_no_frames_or_of_several_sizes_is_an_error() -> None:
    for encoded in (media.encode_video, media.encode_animation):
        with pytest.raises(KalpanaError, match="no frames"):
            encoded([], 8, {})
        with pytest.raises(KalpanaError, match="one is 64x48, another 32x32"):
            encoded([*flat(), Image.new("RGB", (32, 32))], 8, {})


def test_a_video_file_is_never_written_over(tmp_path: Path) -> None:
    one, two = (media.save_video(flat(), 8, tmp_path / "a.mp4", {}) for _ in range(2))
    assert one.name == "a.mp4" and two.name == "a-2.mp4"
    assert all(len(media.decode_video(path)[0]) == 6 for path in (one, two))


def test_an_output_that_is_a_video_is_written_by_its_suffix(tmp_path: Path) -> None:
    output = Output(Video(tuple(flat()), 8), 3, {"note": "v"})
    for suffix in media.VIDEO_SUFFIXES:
        saved = output.save(tmp_path / f"v{suffix}")
        assert saved.path == tmp_path / f"v{suffix}"
        assert media.read_receipt(saved.path) == {"note": "v"}
    with pytest.raises(KalpanaError, match=r"v\.avi: write a name in \.mp4, \.webp, \.gif, \.png"):
        output.save(tmp_path / "v.avi")
    with pytest.raises(KalpanaError, match="is a video"):
        _ = output.image


def grey(image: Image.Image) -> int:
    """The mean level of an image."""
    return round(sum(image.convert("L").tobytes()) / (image.width * image.height))


@pytest.mark.parametrize("count", [1, 5, 24, 25, 173])
def test_keyframes_are_evenly_spaced_from_the_first_to_the_last_frame(count: int) -> None:
    """Also of videos with more frames than are kept; levels rise linearly in time."""
    levels = [round(255 * k / max(count - 1, 1)) for k in range(count)]
    data = media.encode_video((Image.new("RGB", (32, 32), (v, v, v)) for v in levels), 25, {})
    found = media.read_keyframes(data, 3, (8, 6))
    assert len(found.images) == 3 and {image.size for image in found.images} == {(8, 6)}
    assert found.seconds == pytest.approx((count - 1) / 25, abs=1e-3)
    # The nearest frame that was kept: at most half a step away, or a 16th of the whole.
    away = 127.5 / max(count - 1, 1) if count <= 24 else 255 / 16
    assert abs(grey(found.images[1]) - levels[-1] / 2) <= away + 4
    assert abs(grey(found.images[0])) <= 4 and abs(grey(found.images[2]) - levels[-1]) <= 4


def test_keyframes_keep_few_frames_of_a_long_animation_with_pauses() -> None:
    """Times count, not numbers of frames: the long frame is at half time."""
    data = io.BytesIO()
    frames = [Image.new("RGB", (16, 16), (v, v, v)) for v in (0, 10, 128, 250, 255)]
    lengths = [100, 1900, 2000, 100, 100]
    frames[0].save(data, "GIF", save_all=True, append_images=frames[1:], duration=lengths)
    found = media.read_keyframes(data.getvalue(), 3, (16, 16))
    assert found.seconds == pytest.approx(4.1)
    assert [grey(image) for image in found.images] == [0, 128, 255]


def test_a_file_is_a_video_by_its_name_or_its_frames(tmp_path: Path) -> None:
    images = [Image.new("RGB", (16, 16), color) for color in ("red", "blue")]
    for name, data, wanted in (
        ("a.gif", media.encode_animation(images, 8, {}, "gif"), True),
        ("a.webp", media.encode_animation(images, 8, {}, "webp"), True),
        ("a.mp4", media.encode_video(images, 8, {}), True),
        ("a.MOV", b"damaged", True),
        ("a.png", b"damaged", False),
    ):
        (tmp_path / name).write_bytes(data)
        assert media.is_video(tmp_path / name) is wanted
    for name in ("b.png", "b.jpg", "b.gif", "b.webp"):
        images[0].save(tmp_path / name)
        assert not media.is_video(tmp_path / name)
        assert not media.is_video((tmp_path / name).read_bytes())
    assert media.is_video((tmp_path / "a.mp4").read_bytes())
    assert not media.is_video(tmp_path / "gone.png") and media.is_video("gone.mp4")
