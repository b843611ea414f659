"""Videos: reading as a stream of frames, and writing MP4. Needs PyAV, except for animations."""

from __future__ import annotations

import io
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

from PIL import Image, ImageSequence

from kalpana.errors import KalpanaError
from kalpana.media.images import equal_size, open_picture, rgb
from kalpana.media.receipts import is_mp4, parse_comment, read_receipt, to_text

# Endings of the names of video files.
SUFFIXES = {
    *(".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".mpg", ".mpeg"),
    *(".ogv", ".3gp", ".wmv", ".flv", ".ts", ".mts", ".y4m"),
}
DENSE = 8  # frames kept for each keyframe while a video of unknown length is read
TURNS = {
    90: Image.Transpose.ROTATE_90,
    180: Image.Transpose.ROTATE_180,
    270: Image.Transpose.ROTATE_270,
}


@dataclass(frozen=True)
class VideoReader:
    """A video file as a stream: iterating yields its frames in RGB, one at a time, from the start.

    ``fps``: frames a second, as asked for, or else the mean of the file; ``duration`` in seconds;
    ``size`` (width, height) of the upright frames; ``receipt``: None if there is none; ``sound``:
    whether the file has sound, which is not read; ``resampled``: whether the frames are those that
    a display of ``fps`` frames a second would show, instead of those of the file.
    """

    source: Path | bytes
    fps: float
    duration: float
    size: tuple[int, int]
    receipt: dict[str, Any] | None
    sound: bool
    resampled: bool

    def __iter__(self) -> Iterator[Image.Image]:
        for _, image in self.timed():
            yield image

    def timed(self) -> Iterator[tuple[float, Image.Image]]:
        """The frames as (time in seconds from the first, image).

        Raises KalpanaError if the file is damaged or cut short, after the frames before that.
        """
        frames = _frames(self.source)
        return _resample(frames, self.fps, self.duration) if self.resampled else frames


def read_video(source: str | os.PathLike[str] | bytes, fps: float | None = None) -> VideoReader:
    """The video in a file or its bytes: any format of FFmpeg, or an animation (GIF, WebP, PNG).

    Frames are upright, and transparency is on white. With ``fps`` the frames are resampled to that
    constant rate; without, each is kept, and ``timed`` tells its time.

    Raises KalpanaError if the file cannot be read, is no video, or PyAV is missing.
    """
    if fps is not None and not 0 < fps <= 1000:
        raise KalpanaError(f"{fps:g} frames a second are not possible: write 1 to 1000")
    data = source if isinstance(source, bytes) else Path(source)
    with _named(data):
        about = _about_animation(data) if _is_animation(data) else _about_stream(data)
    mean, duration, size, receipt, sound = about
    return VideoReader(data, fps or mean, duration, size, receipt, sound, fps is not None)


def is_video(source: str | os.PathLike[str] | bytes) -> bool:
    """Whether a file, or its bytes, is to be read as a video: it has a name of one, or is an
    animation of several frames, or bytes that are no picture. A file that cannot be read is none.
    """
    data = source if isinstance(source, bytes) else Path(source)
    if isinstance(data, Path) and data.suffix.lower() in SUFFIXES:
        return True
    try:
        if _is_animation(data):
            with open_picture(data) as image:
                return bool(getattr(image, "is_animated", False))
        with open_picture(data):
            return False
    except Exception:  # for a damaged file Pillow raises exceptions of many types
        return isinstance(data, bytes)


@dataclass(frozen=True)
class Keyframes:
    """Frames of a video at equal distances in time, from its first to its last; ``seconds`` is the
    time between these."""

    images: tuple[Image.Image, ...]
    seconds: float


def read_keyframes(
    source: str | os.PathLike[str] | bytes, count: int, size: tuple[int, int]
) -> Keyframes:
    """``count`` keyframes (2 or more) of a video of any length, resized to ``size`` (width,
    height), each the frame nearest to its time.

    Frames are read one at a time. At most DENSE times ``count`` of them are kept, resized: when
    there are more, those at less than twice the distance in time are dropped. Raises KalpanaError
    as ``read_video``, and if the file is damaged or cut short.
    """
    kept, step = list[tuple[float, Image.Image]](), 0.0
    for time, image in read_video(source).timed():
        last = (time, image)
        if kept and time < kept[-1][0] + step:
            continue
        kept.append((time, image.resize(size, Image.Resampling.BICUBIC)))
        if len(kept) > DENSE * count:
            step = 2 * (kept[-1][0] - kept[0][0]) / (len(kept) - 1)
            kept = _thinned(kept, step)
    kept.append((last[0], last[1].resize(size, Image.Resampling.BICUBIC)))
    times = (last[0] * k / (count - 1) for k in range(count))
    near = (min(kept, key=lambda each: abs(each[0] - time)) for time in times)
    return Keyframes(tuple(image for _, image in near), last[0])


def _thinned(
    frames: list[tuple[float, Image.Image]], step: float
) -> list[tuple[float, Image.Image]]:
    """The frames with at least ``step`` seconds between them, the first included."""
    kept = frames[:1]
    for time, image in frames[1:]:
        if time >= kept[-1][0] + step:
            kept.append((time, image))
    return kept


def decode_video(
    source: str | os.PathLike[str] | bytes,
) -> tuple[list[Image.Image], float, dict[str, Any] | None]:
    """All frames, the frames per second and the receipt (None if there is none) of a video.

    Raises KalpanaError as ``read_video``.
    """
    video = read_video(source)
    return [*video], video.fps, video.receipt


def encode_video(
    frames: Iterable[Image.Image], fps: float, receipt: dict[str, Any], *, metadata: bool = True
) -> bytes:
    """The bytes of an MP4 (H.264, which every browser plays) with the receipt embedded.

    Where a side has an odd number of pixels, which the format cannot hold, its last row or column
    is repeated. Transparency is on white. Frames are taken one at a time.

    Deterministic: the same frames give the same bytes. Raises KalpanaError if PyAV is missing, or
    the frames have no or different sizes.
    """
    av = require_av("writing MP4")
    file, stream = io.BytesIO(), None
    with av.open(file, "w", format="mp4", options={"movflags": "use_metadata_tags"}) as container:
        if metadata:
            container.metadata["comment"] = to_text(receipt)
        for image in equal_size(frames):
            if stream is None:
                rate = Fraction(fps).limit_denominator(1001)
                # With x264's macroblock tree the same frames give other bytes in 5 to 36 % of runs.
                options = {"crf": "16", "threads": "1", "x264-params": "mbtree=0"}
                stream = container.add_stream("libx264", rate=rate, options=options)
                stream.width, stream.height = (side + side % 2 for side in image.size)
                stream.pix_fmt = "yuv420p"
            container.mux(stream.encode(av.VideoFrame.from_image(_even(image))))
        assert stream is not None  # there is a frame
        container.mux(stream.encode())
    return file.getvalue()


def require_av(purpose: str = "reading video") -> Any:
    """PyAV. Raises KalpanaError, which says what to install, if it is missing."""
    try:
        import av
    except ImportError:
        raise KalpanaError(
            f"{purpose} needs PyAV: install it with pip install 'kalpana[video]'"
        ) from None
    return av


def _even(image: Image.Image) -> Image.Image:
    """The image with an even number of pixels on each side: the last row or column repeated."""
    width, height = image.size
    if not (width % 2 or height % 2):
        return image
    wide = Image.new("RGB", (width + width % 2, height + height % 2))
    for x, y in ((1, 1), (0, 1), (1, 0), (0, 0)):
        wide.paste(image, (x * (width % 2), y * (height % 2)))
    return wide


# -------------------------------------------------------------------------------------- reading

# Frames per second, duration, size, receipt, sound: see VideoReader.
About = tuple[float, float, tuple[int, int], dict[str, Any] | None, bool]


@contextmanager
def _named(source: Path | bytes) -> Iterator[None]:
    """Errors of FFmpeg, Pillow and the system as a KalpanaError that names the file."""
    name = "the file" if isinstance(source, bytes) else str(source)
    try:
        yield
    except KalpanaError:
        raise
    except Exception as error:
        reason = getattr(error, "strerror", None) or str(error)
        if not isinstance(error, OSError) or isinstance(error, ValueError):  # not of the system
            reason = f"it is no video, or a damaged one ({' '.join(reason.split())[:160]})"
        raise KalpanaError(f"{name} cannot be read: {reason}") from None


@contextmanager
def _container(source: Path | bytes) -> Iterator[Any]:
    """A container opened by PyAV."""
    av = require_av()
    file = io.BytesIO(source) if isinstance(source, bytes) else str(source)
    with av.open(file, "r", metadata_errors="replace") as container:
        yield container


def _head(source: Path | bytes) -> bytes:
    """The first bytes of a file."""
    if isinstance(source, bytes):
        return source[:64]
    with source.open("rb") as file:
        return file.read(64)


def _is_animation(source: Path | bytes) -> bool:
    """Whether a file is of a format whose animations Pillow reads."""
    return _head(source).startswith((b"GIF8", b"RIFF", b"\x89PNG"))


def _about_animation(source: Path | bytes) -> About:
    """The properties of an animation. Raises ValueError for a single picture."""
    with open_picture(source) as image:
        if not getattr(image, "is_animated", False):
            raise ValueError("it is a picture of one frame")
        size, seconds = rgb(image).size, sum(_seconds(image))
        count = getattr(image, "n_frames", 1)
    try:
        receipt: dict[str, Any] | None = read_receipt(source)
    except KalpanaError:
        receipt = None
    return count / max(seconds, 1e-3), seconds, size, receipt, False


def _seconds(image: Image.Image) -> Iterator[float]:
    """The durations of the frames of an opened animation, as each is decoded."""
    for frame in ImageSequence.Iterator(image):
        frame.load()
        yield float(frame.info.get("duration") or 100) / 1000  # as browsers, if none is given


def _about_stream(source: Path | bytes) -> About:
    """The properties of a video container. Raises ValueError if it has no video stream."""
    _check_whole(source)
    with _container(source) as container:
        if not container.streams.video:
            raise ValueError("it has no video stream")
        stream, sound = container.streams.video[0], bool(container.streams.audio)
        receipt = parse_comment(container.metadata.get("comment", ""))
        if stream.duration is not None:
            seconds = float(stream.duration * stream.time_base)
        else:
            seconds = (container.duration or 0) / 1e6
        rate = float(stream.average_rate or stream.guessed_rate or 0)
        first = next(container.decode(stream), None)
        if first is None:
            raise ValueError("it has no frames")
        size = _picture(first).size
    if not seconds:  # not stated in the file
        times = [time for time, _ in _frames(source)]
        seconds = times[-1] + (times[-1] / (len(times) - 1) if len(times) > 1 else 1 / (rate or 1))
    return rate or 1 / seconds, seconds, size, receipt, sound


def _check_whole(source: Path | bytes) -> None:
    """Raises ValueError if a file of the MP4 family ends within one of its boxes: the decoder would
    end there without an error."""
    if not is_mp4(_head(source)):
        return
    with io.BytesIO(source) if isinstance(source, bytes) else source.open("rb") as file:
        end, at = file.seek(0, io.SEEK_END), 0
        while at < end:
            file.seek(at)
            header = file.read(16)
            length = int.from_bytes(header[:4], "big")
            if length == 1:
                length = int.from_bytes(header[8:16], "big")
            elif length == 0:  # to the end of the file
                length = end - at
            if length < 8 or at + length > end:
                raise ValueError("it is cut short")
            at += length


def _frames(source: Path | bytes) -> Iterator[tuple[float, Image.Image]]:
    """The frames of a video or an animation as (time in seconds from the first, image)."""
    with _named(source):
        if _is_animation(source):
            with open_picture(source) as image:
                time = 0.0
                for seconds in _seconds(image):
                    yield time, rgb(image)
                    time += seconds
            return
        with _container(source) as container:
            stream, start = container.streams.video[0], None
            for k, frame in enumerate(container.decode(stream)):
                now = frame.time if frame.time is not None else k / float(stream.guessed_rate or 1)
                start = now if start is None else start
                yield now - start, _picture(frame)


def _picture(frame: Any) -> Image.Image:
    """A decoded frame as an upright RGB image."""
    if any(component.is_alpha for component in frame.format.components):
        image = rgb(Image.fromarray(frame.to_ndarray(format="rgba")))
    else:
        image = frame.to_image()
    turn = TURNS.get(round(frame.rotation) % 360)  # counterclockwise, as in Pillow
    return image if turn is None else image.transpose(turn)


def _resample(
    frames: Iterable[tuple[float, Image.Image]], fps: float, seconds: float
) -> Iterator[tuple[float, Image.Image]]:
    """The frames at a constant rate: at each time the last one that has begun.

    A frame counts as begun up to a quarter of a frame before its time, because files round times.
    """
    k, current = 0, None
    for time, image in frames:
        while current is not None and (k + 0.25) / fps < time:
            yield k / fps, current
            k += 1
        current, last = image, time
    while current is not None and (k + 0.25 < seconds * fps or (k - 0.75) / fps < last):
        yield k / fps, current
        k += 1
