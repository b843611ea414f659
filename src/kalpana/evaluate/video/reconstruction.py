"""Reconstruction quality of a video autoencoder: PSNR of the frames between keyframes.

Ceiling: each frame coded as a picture, with four times the numbers. Floor: the cross-fade of the
decoded keyframes, which needs no motion latents.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from statistics import fmean

import torch

from kalpana.metrics import psnr
from kalpana.models.video_vae import BETWEEN, STRIDE, VideoVAE, cross_fade
from kalpana.world.render import render
from kalpana.world.video import EVENTS, Videos

LONGEST = 33  # frames of a video that are measured


@dataclass(frozen=True)
class Row:
    """PSNR in dB, of the mean squared error over all frames of this row, of the ``codec``, of each
    frame coded as a picture (``frames``), and of the cross-fade of the keyframes (``fade``)."""

    name: str
    codec: float
    frames: float
    fade: float


@torch.inference_mode()
def measure(
    codec: VideoVAE, videos: int = 10 * len(EVENTS), side: int = 64, split: str = "dev"
) -> list[Row]:
    """PSNR over the first ``videos`` videos of the world, at their own frame rates: of all frames
    between keyframes, of these by event and by position in their group, and of the keyframes."""
    world, errors = Videos(1, split, side), defaultdict[str, list[tuple[float, float, float]]](list)
    for i in range(videos):
        video = world.video(i)
        count = (min(video.frames, LONGEST) - 1) // STRIDE * STRIDE + 1
        scenes = [video.at(k / (video.frames - 1)) for k in range(count)]
        x = render(scenes, side).pixels
        images = codec.image.decode(codec.image.encode(x)).clamp(-1, 1)
        y = codec.decode(codec.encode(x[None]))[0].clamp(-1, 1)
        fade = y.clone()
        between = cross_fade(y[:-1:STRIDE], y[STRIDE::STRIDE])  # k 3 3 h w
        for position in range(1, STRIDE):
            fade[position::STRIDE] = between[:, position - 1]
        squares = [(each - x).square().mean((1, 2, 3)).tolist() for each in (y, images, fade)]
        for k, values in enumerate(zip(*squares, strict=True)):
            if k % STRIDE == 0:
                errors["keyframes"].append(values)
                continue
            for name in ("all between", video.event, f"frame {k % STRIDE} of {BETWEEN}"):
                errors[name].append(values)
    names = ["all between", *EVENTS, *(f"frame {k} of {BETWEEN}" for k in range(1, STRIDE))]
    return [
        Row(name, *(psnr(fmean(column)) for column in zip(*errors[name], strict=True)))
        for name in [*names, "keyframes"]
        if errors[name]
    ]


def table(rows: list[Row]) -> str:
    """Markdown table of the rows."""
    lines = [
        "| frames | codec, dB | frame by frame (ceiling) | cross-fade (floor) |",
        "|---|---:|---:|---:|",
    ]
    lines += [f"| {r.name} | {r.codec:.2f} | {r.frames:.2f} | {r.fade:.2f} |" for r in rows]
    return "\n".join(lines)
