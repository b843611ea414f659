"""Inputs of a video request: given first and last pictures, a video to change or to go on from, and
the motion of the camera, as what a video network reads.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Protocol

import torch
from PIL import Image
from torch import Tensor

from kalpana.media import read_video, to_images, to_pixels
from kalpana.pipelines.editing import centre, fitted
from kalpana.request import Request
from kalpana.types import Codec, Cond, KalpanaError
from kalpana.world.video import DIRECTIONS, Camera

PAN, ZOOM, TURN = 0.225, 1.6, 42.0  # image widths, ratio and degrees: the middle of the world's
CONTEXT = 3  # latent frames of a video that its continuation sees
TOGETHER = 33  # latent frames that are sampled together at most, for memory grows with their square
LONGEST = 129  # frames of these
MOST = 3600  # frames of an input video
WINDOW = 9  # latent frames of a continuation that are sampled together: the longest of training


class VideoCodec(Codec, Protocol):
    """Codec of videos: ``time_factor`` frames a latent frame, after the first, which is a picture
    of its own; the first ``key_channels`` of a latent frame are those of a picture."""

    @property
    def time_factor(self) -> int: ...
    @property
    def key_channels(self) -> int: ...


@dataclass(frozen=True)
class VideoInputs:
    """What is given of a video.

    - ``frames``: number of frames to be sampled
    - ``known`` (1, f, c + 1, h, w): latents that are given, and their mask; None: nothing is
    - ``x0`` (1, f, c, h, w): latents of the video that is changed; None: there is none
    - ``before``: frames of the video that is continued, and ``again``: number of the sampled frames
      that repeat its end
    - ``warnings`` for the user
    """

    frames: int
    known: Tensor | None = None
    x0: Tensor | None = None
    before: tuple[Image.Image, ...] = ()
    again: int = 0
    warnings: tuple[str, ...] = ()

    def windows(self, length: int) -> list[slice]:
        """The windows in which ``length`` latent frames are sampled one after another: all in one,
        but for a continuation, and for a video of more than LONGEST frames, whose windows of at
        most WINDOW begin with the last CONTEXT frames of the one before.
        """
        if length <= (WINDOW if self.before else TOGETHER):
            return [slice(0, length)]
        starts = range(0, length - CONTEXT, WINDOW - CONTEXT)
        return [slice(start, min(start + WINDOW, length)) for start in starts]

    def finish(self, pixels: Tensor) -> Tensor:
        """The whole video (b, f, 3, h, w): sampled pixels, cut to the length that was asked for,
        behind the frames of the video that is continued."""
        new = pixels[:, self.again : self.frames]
        if not self.before:
            return new
        old = to_pixels(self.before).to(new)
        return torch.cat((old.expand(len(new), -1, -1, -1, -1), new), 1)


@torch.no_grad()
def read_video_inputs(request: Request, codec: VideoCodec, device: torch.device) -> VideoInputs:
    """The inputs of a resolved request. Raises KalpanaError if one cannot be read, or if a video
    that must be sampled as a whole has more than LONGEST frames."""
    assert request.seconds and request.fps and request.width and request.height  # resolved
    warnings = list[str]()
    if request.video is not None:
        frames = _frames(request, warnings)
        if request.extend is None:
            found = _changed(frames, codec, device)
        else:
            new = _count("extend", request.extend, request.fps, warnings)
            found = _continued(frames, new, codec, device)
    else:
        count = _count("seconds", request.seconds, request.fps, warnings)
        found = _pictures(request, count, codec, device, warnings)
    return replace(found, warnings=tuple(warnings))


def _count(name: str, seconds: float, fps: int, warnings: list[str]) -> int:
    """The number of frames, at least 1, of a length in seconds; says where it is another length."""
    count = max(round(seconds * fps), 1)
    if abs(count - seconds * fps) > 1e-6:
        warnings.append(
            f"{name}: {seconds:g} s at {fps} frames a second are {count} whole "
            f"frame{'s' * (count > 1)}, {count / fps:.3g} s"
        )
    return count


def _pictures(
    request: Request, count: int, codec: VideoCodec, device: torch.device, warnings: list[str]
) -> VideoInputs:
    """A video from words, and from its first or last picture."""
    given = {0: request.image, -1: request.last_image}
    pictures = {place: media for place, media in given.items() if media is not None}
    if -1 in pictures and (whole := _whole(count, codec)) != count:  # the last one is a keyframe
        warnings.append(
            f"last_image: a video that ends with a given picture has 4k + 1 frames: {whole}, "
            f"not {count}"
        )
        count = whole
    if -1 in pictures:
        _check_length(count, "that ends with a given picture")
    if not pictures:
        return VideoInputs(count)
    assert request.width and request.height  # resolved
    keys = codec.key_channels
    length, _, *sides = codec.shape(request.height, request.width, count)
    known = torch.zeros(1, length, keys + 1, *sides, dtype=torch.float32, device=device)
    for place, media in pictures.items():
        told = warnings if place else []  # of the first one, read_edit tells it
        pixels = _fitted(media.picture(), request, "last_image", told)
        known[0, place, :keys] = codec.encode(pixels.to(device)[:, None])[0, 0, :keys]
        known[0, place, keys] = 1.0
    return VideoInputs(count, known)


def _fitted(image: Image.Image, request: Request, name: str, warnings: list[str]) -> Tensor:
    """Pixels of an input at the size of the request; says where some are cut off."""
    assert request.width and request.height  # resolved
    size = request.width, request.height
    left, top, right, bottom = centre(image.size, size)
    if (right - left, bottom - top) != image.size:
        warnings.append(
            f"{name}: only its middle, {right - left}x{bottom - top} of "
            f"{image.width}x{image.height} pixels, has the shape of the video, {request.size}"
        )
    return fitted(image, size)


def _check_length(count: int, which: str) -> None:
    """Raises KalpanaError if so many frames cannot be sampled together."""
    if count > LONGEST:
        raise KalpanaError(
            f"{count} frames are too many for a video {which}, {LONGEST} at most: write fewer "
            "seconds or frames a second"
        )


def video_cond(inputs: VideoInputs, codec: VideoCodec, request: Request, x: Tensor) -> Cond:
    """The conditioning of the videos whose latents are ``x`` (b, f, c, h, w) on what is given of
    them."""
    assert request.fps  # resolved
    b, f = x.shape[:2]
    seconds = torch.arange(f, dtype=torch.float32, device=x.device)
    seconds = seconds * codec.time_factor / request.fps
    camera = None
    if request.camera is not None:
        camera = camera_path(request.camera, f).to(x.device).expand(b, -1, -1)
    known = inputs.known
    return Cond(
        seconds=seconds.expand(b, -1),
        camera=camera,
        known=None if known is None else known.expand(b, -1, -1, -1, -1),
    )


def within(cond: Cond, x: Tensor, window: slice) -> Cond:
    """The conditioning of a window of latent frames of ``x`` (b, f, c, h, w): all of it for the
    first one; a later one is given its first CONTEXT frames, which are sampled already."""
    if window.start == 0:
        known = None if cond.known is None else cond.known[:, window]
    else:
        given = torch.zeros_like(x[:, window, :1])
        given[:, :CONTEXT] = 1.0
        known = torch.cat((x[:, window] * given, given), 2)
    assert cond.seconds is not None
    seconds = cond.seconds[:, window] - cond.seconds[:, window.start, None]
    camera = None if cond.camera is None else cond.camera[:, window]
    return replace(cond, seconds=seconds, camera=camera, known=known)


def camera_path(word: str, count: int) -> Tensor:
    """Camera path (count, 4) of one of the world's camera motions, or "still": x and y in image
    widths, log zoom, roll in radians."""
    move, _, direction = word.partition(" ")
    camera = Camera()
    if move == "pan":
        ux, uy = DIRECTIONS[direction]
        camera = Camera(dx=ux * PAN, dy=uy * PAN)
    elif move == "zoom":
        camera = Camera(zoom=ZOOM if direction == "in" else 1 / ZOOM)
    elif move != "still":
        camera = Camera(turn=TURN if move == "clockwise" else -TURN)
    views = [camera.at(k / max(count - 1, 1)) for k in range(count)]
    return torch.tensor(
        [[x, y, math.log(zoom), math.radians(turn)] for x, y, zoom, turn in views],
        dtype=torch.float32,
    )


def _frames(request: Request, warnings: list[str]) -> tuple[Image.Image, ...]:
    """The frames of the input video at the frame rate and size of the request."""
    assert request.video is not None and request.fps and request.width  # resolved
    fps, frames = request.fps, list[Image.Image]()
    try:
        data = request.video.read()
        own, video = read_video(data), read_video(data, fps=fps)
        if video.duration * fps > MOST:
            raise KalpanaError(
                f"it has {video.duration * fps:.0f} frames at {fps} a second, {MOST:,} at most: "
                "cut it, or write a lower fps"
            )
        if video.sound:
            warnings.append("video: its sound is not kept")
        if abs(own.fps - fps) > 0.05:
            warnings.append(f"video: its {own.fps:.4g} frames a second became {fps} (see fps)")
        for frame in video:
            pixels = _fitted(frame, request, "video", warnings if not frames else [])
            frames += to_images(pixels)
            if len(frames) > MOST:
                raise KalpanaError(f"it has more than {MOST:,} frames at this frame rate: cut it")
        if video.size != frames[0].size:
            warnings.append(
                f"video: its {video.size[0]}x{video.size[1]} pixels became {request.size} "
                "(see size)"
            )
    except KalpanaError as error:
        raise KalpanaError(f"the input {request.video.name}: {error}") from None
    return tuple(frames)


def _changed(
    frames: tuple[Image.Image, ...], codec: VideoCodec, device: torch.device
) -> VideoInputs:
    """A video that is changed as a whole; its last frame is repeated up to a whole length."""
    _check_length(len(frames), "that is changed")
    whole = _whole(len(frames), codec)
    padded = (*frames, *[frames[-1]] * (whole - len(frames)))
    return VideoInputs(len(frames), x0=codec.encode(to_pixels(padded)[None].to(device)))


def _continued(
    frames: tuple[Image.Image, ...], new: int, codec: VideoCodec, device: torch.device
) -> VideoInputs:
    """A video that goes on: its last frames are given, as far as the network sees back."""
    stride = codec.time_factor
    seen = min(CONTEXT, 1 + (len(frames) - 1) // stride)
    again = stride * (seen - 1) + 1
    latents = codec.encode(to_pixels(frames[-again:])[None].to(device))
    _, f, c, h, w = latents.shape
    total, *_ = codec.shape(h * codec.factor, w * codec.factor, again + new)
    known = latents.new_zeros(1, total, c + 1, h, w)
    known[:, :f, :c], known[:, :f, c] = latents, 1.0
    return VideoInputs(again + new, known, before=frames, again=again)


def _whole(count: int, codec: VideoCodec) -> int:
    """The next number of frames that ends with a keyframe."""
    return 1 + -(-(count - 1) // codec.time_factor) * codec.time_factor
