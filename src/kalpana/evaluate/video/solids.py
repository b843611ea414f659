"""3-D consistency of turning solids: each frame beside the renders of the same solid at all angles.

The first frame of a true video of a card or cube is given, and what it does in words. For each
frame that follows, the rendered angle with the smallest error is the fitted one. A rigid rotation
fits well at all times, at angles that advance evenly in the stated direction.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from kalpana.evaluate.run import Progress
from kalpana.evaluate.video.scores import mean_of
from kalpana.media import to_images, to_pixels
from kalpana.metrics import psnr
from kalpana.pipelines import last
from kalpana.pipelines.diffusion import DiffusionPipeline
from kalpana.types import Video
from kalpana.world.render import render
from kalpana.world.scene import Solid
from kalpana.world.video import Videos, VideoScene

STEP = 5  # degrees between the rendered angles
# Degrees after which a solid looks the same; a card with a symmetric picture does so from behind.
PERIOD = {"cube": 90, "card": 180}
TURNED = 20.0  # degrees: a smaller rotation is none; the world's are at least 60
SPEED = 0.4  # relative tolerance of the angle


@dataclass(frozen=True)
class Rotation:
    """The fitted rotation of a solid: ``fit`` in dB, the mean PSNR of the frames to the render at
    their fitted angles; whether its ``direction`` and its ``angle`` (within SPEED) are right; the
    share of ``steps`` between frames that do not go backwards."""

    fit: float
    direction: bool
    angle: bool
    steps: float


NAMES = {
    "fit": "fit, dB",
    "direction": "direction",
    "angle": "angle",
    "steps": "steps forward",
}


def solids(count: int, split: str = "dev") -> Iterator[tuple[str, VideoScene]]:
    """Captions and videos of the first ``count`` turning solids of the world."""
    world, found, i = Videos(0, split), 0, 0
    while found < count:
        if (video := world.video(i)).event == "solid":
            yield world.describe(i)[0], video
            found += 1
        i += 1


def rotation(frames: Tensor, video: VideoScene) -> Rotation:
    """The rotation in frames (t, 3, h, w) that should show a video from its start to its end."""
    sign, true = math.copysign(1, video.motions[0].yaw), abs(video.motions[0].yaw)
    shape = _solid(video).shape
    period, turns = PERIOD[shape], range(0, 90 if shape == "cube" else 360, STEP)
    views = render([_turned(video, angle) for angle in turns], frames.shape[-1]).pixels
    errors = torch.stack([(frame - views).square().mean((1, 2, 3)) for frame in frames])  # t angles
    smallest, chosen = errors.min(1)
    # The shortest way from each angle to the next, positive in the stated direction.
    steps = (sign * STEP * chosen.diff() + period / 2) % period - period / 2
    total = float(steps.sum())
    return Rotation(
        fit=sum(psnr(error) for error in smallest.tolist()) / len(frames),
        direction=total >= TURNED,
        angle=(1 - SPEED) * true <= total <= (1 + SPEED) * true,
        steps=float((steps >= 0).float().mean()) if abs(total) >= TURNED else 0.0,
    )


def _solid(video: VideoScene) -> Solid:
    solid = video.scene.objects[0].sprite
    assert isinstance(solid, Solid)
    return solid


def _turned(video: VideoScene, angle: float) -> Any:
    """The scene of a video at its start, with its solid turned by an angle."""
    solid, item = _solid(video), video.scene.objects[0]
    turned = replace(item, sprite=replace(solid, yaw=solid.yaw + angle))
    return replace(video.at(0), objects=(turned,))


def true_frames(video: VideoScene, fps: int, side: int) -> Tensor:
    """The video at ``fps``, (t, 3, side, side), from its first to its last scene."""
    count = round(video.seconds * fps) + 1
    return render([video.at(k / (count - 1)) for k in range(count)], side).pixels


@torch.no_grad()
def measure(
    model: DiffusionPipeline,
    name: str,
    count: int,
    side: int,
    fields: dict[str, Any],
    progress: Progress,
) -> str:
    """A Markdown table of 3-D consistency of a model that was loaded as ``name``: the mean over
    ``count`` solids with its 95 % interval, beside a floor, the frozen first frame, and a ceiling,
    the true video through the model's autoencoder. ``fields`` are those of its requests."""
    codec: Any = model.codec
    rows: dict[str, list[Rotation]] = {"floor: frozen": [], "model": [], "ceiling: true": []}
    for i, (text, video) in enumerate(solids(count)):
        true = true_frames(video, fields["fps"], side)
        whole = codec.shape(side, side, len(true))[0]
        pad = 1 + codec.time_factor * (whole - 1) - len(true)
        padded = torch.cat((true, true[-1:].expand(pad, -1, -1, -1)))[None]
        coded = codec.decode(codec.encode(padded.to(model.device)))[0, : len(true)].cpu()
        asked = fields | {"image": to_images(true[:1])[0], "seconds": len(true) / fields["fps"]}
        media = last(
            model.generate(text, model=name, seed=i, size=f"{side}x{side}", **asked)
        ).outputs[0].media  # fmt: skip
        assert isinstance(media, Video)
        for row, frames in zip(
            rows.values(), (coded[:1].expand_as(true), to_pixels(media.frames), coded), strict=True
        ):
            row.append(rotation(frames.clamp(-1, 1), video))
        progress(i + 1, count)
    return markdown(rows)


def markdown(rows: dict[str, list[Rotation]]) -> str:
    """The table of the means over solids with their 95 % intervals."""
    lines = [f"| frames | {' | '.join(NAMES.values())} |", "|---|" + "---:|" * len(NAMES)]
    for title, found in rows.items():
        means = [mean_of([float(getattr(each, name)) for each in found]) for name in NAMES]
        cells = [f"{mean.value:.2f} ({mean.low:.2f} to {mean.high:.2f})" for mean in means]
        lines.append(f"| {title} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"
