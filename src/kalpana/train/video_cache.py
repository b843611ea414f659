"""Disk cache of videos of the world as latents, by size and length.

A video of the world is rendered at as many frames as its bucket has, evenly over its whole
duration, so that its caption stays true; its frame rate follows. Pools are files as in
data_cache.py.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from kalpana.models.video_vae import STRIDE, VideoVAE
from kalpana.train.data_cache import Progress, array, folder, mark, silent
from kalpana.train.task import autocast
from kalpana.world import sprites
from kalpana.world.render import render
from kalpana.world.video import Videos, VideoScene
from kalpana.world.world import VERSION

RATES = (5.0, 25.0)  # frames a second
MOMENTS = 9  # times at which a video is looked at to place its window
INDEX = np.dtype([("video", np.int64), ("top", np.float32), ("left", np.float32)])


@dataclass(frozen=True)
class Bucket:
    """Videos of one size, ``height`` x ``width`` pixels, and one number of latent frames."""

    height: int
    width: int
    frames: int  # latent frames

    @property
    def side(self) -> int:
        """Side of the square that is rendered, from which the window is cut."""
        return max(self.height, self.width)

    @property
    def cells(self) -> int:
        """Positions of the latent in space and time."""
        return self.frames * self.height * self.width // 64

    @property
    def pixel_frames(self) -> int:
        return STRIDE * (self.frames - 1) + 1

    def __str__(self) -> str:
        return f"{self.height}x{self.width}x{self.frames}"


@dataclass(frozen=True)
class Pool:
    """Videos of a bucket: ``latents`` (n, f, c, h/8, w/8) float16, and ``index`` (n,) INDEX, the
    number of each video in ``world`` and the corner of its window, as shares of the side."""

    world: Videos
    bucket: Bucket
    index: np.ndarray
    latents: np.ndarray

    def seconds(self, row: int) -> Tensor:
        """Time (f,) of each latent frame."""
        video = self.world.video(int(self.index["video"][row]))
        return torch.linspace(0, video.seconds, self.bucket.frames)

    def camera(self, row: int) -> Tensor:
        """Camera path (f, 4): x and y in widths of the rendered square, log zoom, roll in
        radians."""
        video = self.world.video(int(self.index["video"][row]))
        views = torch.tensor(
            [video.camera.at(float(t)) for t in torch.linspace(0, 1, self.bucket.frames)]
        )
        return torch.cat((views[:, :2], views[:, 2:3].log(), views[:, 3:].deg2rad()), 1)

    def caption(self, row: int, take: int) -> str:
        return self.world.describe(int(self.index["video"][row]), take)[0]


def pool(
    vae: VideoVAE,
    weights: Path,
    world: Videos,
    bucket: Bucket,
    count: int,
    device: torch.device,
    progress: Progress = silent,
) -> Pool:
    """The first ``count`` videos that fit a bucket, as latents of the autoencoder ``vae``, whose
    file is ``weights``."""
    name = f"v{VERSION}-{world.split}-{world.seed}-{bucket}-{count}"
    index = array(
        folder() / f"videos-{name}.npy", (count,), INDEX, _fitting(world, bucket, count), silent
    )

    @torch.inference_mode()
    def encode() -> Iterator[np.ndarray]:
        for row in index:
            video = frames(
                world.video(int(row["video"])), bucket, float(row["top"]), float(row["left"])
            )
            with autocast(device):
                yield vae.encode(video[None].to(device)).to(torch.float16).cpu().numpy()

    shape = (count, bucket.frames, vae.channels, bucket.height // 8, bucket.width // 8)
    path = folder() / f"video-latents-{name}-{mark(weights, device)}.npy"
    return Pool(world, bucket, index, array(path, shape, np.float16, encode(), progress))


def frames(video: VideoScene, bucket: Bucket, top: float, left: float) -> Tensor:
    """The frames (f, 3, height, width) in [-1, 1] of a video in a window of the rendered square."""
    count, side = bucket.pixel_frames, bucket.side
    pixels = render([video.at(k / (count - 1)) for k in range(count)], side).pixels
    y, x = round(top * side), round(left * side)
    return pixels[:, :, y : y + bucket.height, x : x + bucket.width]


def _fitting(world: Videos, bucket: Bucket, count: int) -> Iterator[np.ndarray]:
    """The INDEX rows, one at a time, of the first videos that fit the bucket."""
    found, i = 0, 0
    while found < count:
        video = world.video(i)
        window = _window(video, bucket)
        if RATES[0] <= (bucket.pixel_frames - 1) / video.seconds <= RATES[1] and window:
            yield np.array([(i, *window)], INDEX)
            found += 1
        i += 1


def _window(video: VideoScene, bucket: Bucket) -> tuple[float, float] | None:
    """Top and left of the window that has all objects in its middle, as shares of the side; None
    where they do not fit a side of the window that is shorter than the square's."""
    items = [item for k in range(MOMENTS) for item in video.at(k / (MOMENTS - 1)).objects]
    corner = []
    for axis, length in ((1, bucket.height), (0, bucket.width)):
        share = length / bucket.side
        centres, halves = [(i.x, i.y)[axis] for i in items], [sprites.half(i)[axis] for i in items]
        low = min(c - h for c, h in zip(centres, halves, strict=True))
        high = max(c + h for c, h in zip(centres, halves, strict=True))
        if share < 1 and high - low > share:
            return None
        corner.append(min(max((low + high - share) / 2, 0.0), 1 - share))
    return corner[0], corner[1]
