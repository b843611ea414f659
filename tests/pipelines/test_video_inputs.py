"""Inputs of videos that are unusual, wrong or damaged: correct behaviour, or one clear line."""

from __future__ import annotations

import io
import struct
import sys
import weakref
from collections.abc import Sequence
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from kalpana.inputs import Media
from kalpana.media import encode_video
from kalpana.media import video as media_video
from kalpana.media.animation import encode_animation
from kalpana.pipelines import load, video_inputs
from kalpana.pipelines.diffusion import DiffusionPipeline
from kalpana.pipelines.video_inputs import LONGEST, MOST, read_video_inputs
from kalpana.request import Request
from kalpana.types import KalpanaError, Result, Video

av = pytest.importorskip("av")
COLORS = [(40 * k, 120, 200 - 30 * k) for k in range(6)]


@pytest.fixture
def model(video_folder: Path) -> DiffusionPipeline:
    return load(str(video_folder), "cpu")  # type: ignore[return-value]


def generated(model: DiffusionPipeline, **fields: Any) -> Result:
    *_, last = model.generate("a red car", seed=3, steps=1, **fields)
    assert last.result is not None
    return last.result


def video(result: Result) -> Video:
    media = result.outputs[0].media
    assert isinstance(media, Video)
    return media


def flat(size: tuple[int, int] = (16, 16)) -> list[Image.Image]:
    return [Image.new("RGB", size, color) for color in COLORS]


def film(
    frames: Sequence[Image.Image],
    times: Sequence[int],
    codec: str = "libx264",
    container: str = "mp4",
    pix_fmt: str = "yuv420p",
    sound: bool = False,
    pictures: bool = True,
) -> bytes:
    """A video written by PyAV: frames at times in ms, and a second of silence if asked for."""
    file = io.BytesIO()
    with av.open(file, "w", format=container) as out:
        if sound:
            audio = out.add_stream("aac", rate=8000)
            audio.layout = "mono"
        if pictures:
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


def near(image: Image.Image, color: Sequence[int], most: int = 8) -> bool:
    middle = image.getpixel((image.width // 2, image.height // 2))
    return bool(np.abs(np.subtract(middle, color)).max() <= most)


# --------------------------------------------------------------------------------------- lengths


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"seconds": 0}, "seconds 0.*more than 0"),
        ({"seconds": -1}, "seconds -1.*more than 0"),
        ({"seconds": 1000}, "seconds 1000.*60"),
        ({"seconds": float("nan")}, "seconds"),
        ({"fps": 0}, "fps 0.*1"),
        ({"fps": 61}, "fps 61.*60"),
        ({"extend": 0, "video": b"x"}, "extend 0.*more than 0"),
        ({"extend": 1000, "video": b"x"}, "extend 1000.*60"),
        ({"camera": "dolly"}, "camera 'dolly' cannot be used .*: it knows still, pan left"),
        ({"best_of": 2}, "best_of ranks pictures, and model 'default' makes videos: leave it out"),
        (
            {"seconds": 17, "fps": 8, "last_image": Image.new("RGB", (16, 16))},
            f"137 frames are too many for a video that ends .*, {LONGEST} at most: write fewer",
        ),
    ],
)
def test_a_length_or_word_that_cannot_be_is_one_line_before_any_step(
    model: DiffusionPipeline, fields: dict[str, Any], message: str
) -> None:
    with pytest.raises(KalpanaError, match=message) as caught:
        model.generate("a red car", **fields)
    assert "\n" not in str(caught.value)


def test_lengths_that_are_no_whole_frames_are_rounded_and_said(model: DiffusionPipeline) -> None:
    result = generated(model, seconds=1.3, fps=8)
    assert len(video(result).frames) == 10
    assert "seconds: 1.3 s at 8 frames a second are 10 whole frames, 1.25 s" in result.warnings
    assert "seconds: 1.3 s" in result.outputs[0].receipt["warnings"][0]
    assert generated(model, seconds=2, fps=8).warnings == ()


def test_a_video_that_ends_with_a_picture_is_rounded_up_to_4k_plus_1_and_it_is_said(
    model: DiffusionPipeline,
) -> None:
    picture = Image.new("RGB", (16, 16), "red")
    result = generated(model, seconds=1, fps=8, last_image=picture)
    assert len(video(result).frames) == 9
    assert result.warnings == (
        "last_image: a video that ends with a given picture has 4k + 1 frames: 9, not 8",
    )
    assert not generated(model, seconds=9 / 8, fps=8, last_image=picture).warnings


@pytest.mark.parametrize(("frames", "windows"), [(LONGEST, 1), (LONGEST + 1, 6)])
def test_a_long_video_is_sampled_as_a_whole_and_a_longer_one_in_windows(
    model: DiffusionPipeline, frames: int, windows: int
) -> None:
    steps = list(model.generate("a red car", seed=3, steps=1, seconds=frames / 8, fps=8))
    assert [step.stage for step in steps] == ["denoise"] * windows + ["decode"]
    assert steps[-1].result is not None and len(video(steps[-1].result).frames) == frames


# ---------------------------------------------------------------------------------------- pictures


def test_first_and_last_pictures_of_other_sizes_are_cropped_alike_and_it_is_said(
    model: DiffusionPipeline,
) -> None:
    wide, tall = Image.new("RGB", (60, 30), "red"), Image.new("RGB", (20, 50), "blue")
    result = generated(model, seconds=0.5, image=wide, last_image=tall)
    assert {frame.size for frame in video(result).frames} == {(16, 16)}
    told = [each for each in result.warnings if "only its middle" in each]
    assert told == [
        "last_image: only its middle, 20x20 of 20x50 pixels, has the shape of the video, 16x16",
        "image: only its middle, 30x30 of 60x30 pixels, has the shape of the picture, 16x16",
    ]


# ------------------------------------------------------------------------------------------- files


def cut() -> bytes:
    data = film(flat(), range(0, 600, 100))
    return data[: len(data) * 2 // 3]


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (cut(), "it is cut short"),
        (film([], [], sound=True, pictures=False), "it has no video stream"),
        (b"", "it is no video"),
        (b"not a video at all, but text", "it is no video"),
    ],
    ids=["cut short", "sound only", "empty", "text"],
)
@pytest.mark.parametrize("fields", [{"extend": 1.0}, {"strength": 0.5}])
def test_a_file_that_is_no_whole_video_is_one_line_before_any_step(
    model: DiffusionPipeline, data: bytes, reason: str, fields: dict[str, Any]
) -> None:
    with pytest.raises(KalpanaError, match=f"the input data: .*{reason}") as caught:
        model.generate("a red car", video=data, **fields)
    assert "\n" not in str(caught.value)


def test_a_variable_frame_rate_is_resampled_by_its_times(model: DiffusionPipeline) -> None:
    data = film(flat(), [0, 100, 150, 400, 450, 900])
    result = generated(model, video=data, extend=0.4, fps=10)
    frames, shown = video(result).frames, [0, 1, 2, 2, 3, 4, 4, 4, 4, 5]
    assert len(frames) == len(shown) + 4
    assert all(near(frame, COLORS[k]) for frame, k in zip(frames, shown, strict=False))
    assert any("frames a second became 10 (see fps)" in each for each in result.warnings)


def test_a_rotated_video_goes_on_upright(model: DiffusionPipeline) -> None:
    image = Image.new("RGB", (32, 16), "black")
    image.paste("white", (0, 0, 16, 16))  # the left half
    data = film([image] * 6, range(0, 750, 125))
    at = data.index(b"tkhd") + 44
    one = 65536
    turned = data[:at] + struct.pack(">9i", 0, one, 0, -one, 0, 0, 0, 0, 1 << 30) + data[at + 36 :]
    result = generated(model, video=turned, extend=0.5, size="16x16")
    first = np.asarray(video(result).frames[0]).astype(int)  # the middle of 16 x 32
    assert first[1].mean() > 200 > 50 > first[-2].mean(), "a quarter turn clockwise: white above"
    assert any("only its middle, 16x16 of 16x32" in each for each in result.warnings)


def test_odd_sides_alpha_and_other_sizes_are_fitted_and_said(model: DiffusionPipeline) -> None:
    half = Image.new("RGBA", (33, 21), (255, 0, 0, 128))
    data = film([half] * 5, range(0, 625, 125), "ffv1", "matroska", "bgra")
    result = generated(model, video=data, extend=0.5)
    frames = video(result).frames
    assert frames[0].size == (16, 16) and near(frames[0], (255, 127, 127), 2)
    assert "video: its 33x21 pixels became 16x16 (see size)" in result.warnings
    same = encode_animation(flat((32, 16)), 8, {}, "webp", metadata=False)
    kept = generated(model, video=same, extend=0.5, size="32x16")
    assert kept.warnings == () and video(kept).frames[0].size == (32, 16)
    assert all(
        np.array_equal(a, b) for a, b in zip(video(kept).frames, flat((32, 16)), strict=False)
    )


def test_sound_is_said_not_to_be_kept(model: DiffusionPipeline) -> None:
    data = film(flat(), range(0, 750, 125), sound=True)
    assert "video: its sound is not kept" in generated(model, video=data, extend=0.5).warnings


@pytest.mark.slow
def test_ten_thousand_frames_are_refused_at_once_or_streamed(
    model: DiffusionPipeline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, big = tmp_path / "long.mp4", Image.new("RGB", (32, 32), "red")
    path.write_bytes(encode_video((big for _ in range(10_000)), 60, {}))
    with pytest.raises(KalpanaError, match=f"it has 10000 frames at 60 a second, {MOST:,} at most"):
        model.generate("a red car", video=path, extend=1, fps=60)
    alive, most, read = 0, 0, 0

    def gone() -> None:
        nonlocal alive
        alive -= 1

    def counted(frame: Any) -> Image.Image:
        nonlocal alive, most, read
        image = decoded(frame)
        weakref.finalize(image, gone)
        alive, read = alive + 1, read + 1
        most = max(most, alive)
        return image

    decoded = media_video._picture
    monkeypatch.setattr(media_video, "_picture", counted)
    asked = model.capabilities.resolve(Request(prompt="a", video=path, extend=1, fps=1))[0]
    found = read_video_inputs(asked, model.codec, model.device)  # type: ignore[arg-type]
    assert len(found.before) in (167, 168) and read > 10_000 and most < 5, "never all in memory"
    with pytest.raises(
        KalpanaError, match=r"16[78] frames are too many for a video that is changed"
    ):
        model.generate("a red car", video=path, strength=0.5, fps=1)


def test_without_pyav_it_is_said_what_to_install_before_any_step(
    model: DiffusionPipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = film(flat(), range(0, 750, 125))
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(KalpanaError, match=r"pip install 'kalpana\[video\]'"):
        model.generate("a red car", video=Media.model_validate(data), extend=1)
    moving = encode_animation(flat(), 8, {}, "webp", metadata=False)  # needs no PyAV
    assert len(video(generated(model, video=moving, extend=0.5)).frames) == 10


def test_a_continuation_longer_than_a_window_is_made_of_windows() -> None:
    start = video_inputs.VideoInputs(100, before=(Image.new("RGB", (8, 8)),))
    for length in range(4, 40):
        windows = start.windows(length)
        covered = [k for window in windows for k in range(window.start, window.stop)]
        assert set(covered) == set(range(length)), "every frame, and"
        assert all(b.start == a.stop - 3 for a, b in pairwise(windows)), "three seen before"
    assert video_inputs.VideoInputs(100).windows(33) == [slice(0, 33)]
