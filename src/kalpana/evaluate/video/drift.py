"""Drift of a video over many extensions: continued in latent space, or from its decoded end.

A video that is continued in latent space is decoded once, at the end. The alternative decodes each
extension to 8-bit frames and encodes its last ones again. Both begin with the true start of a video
whose object stays in view and whose camera rests, so that whatever changes for good is drift.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from kalpana.evaluate.run import Progress
from kalpana.evaluate.verifiers.observations import Detection, Observation, Verifier, best
from kalpana.evaluate.video import motion
from kalpana.evaluate.video.scores import Mean, look, mean_of
from kalpana.evaluate.video.suite import Video, VideoPrompt
from kalpana.inputs import Media
from kalpana.media import to_images, to_pixels
from kalpana.media.animation import encode_animation
from kalpana.pipelines import last
from kalpana.pipelines.pipeline import Pipeline
from kalpana.pipelines.video_inputs import CONTEXT, WINDOW
from kalpana.request import Request
from kalpana.types import KalpanaError
from kalpana.types import Video as Frames
from kalpana.understand.encoder import Encoder
from kalpana.world.render import render

STAYING = ("bounce", "turn")  # events whose object stays in view
START = 17  # frames of the true start
STRIDE = 4  # frames of a latent frame
ADDED = STRIDE * (WINDOW - CONTEXT)  # frames of one extension: one window of latent frames
KEPT = STRIDE * (CONTEXT - 1) + 1  # frames that are encoded again
MODES = ("latent", "re-encoded")


@dataclass(frozen=True)
class Stretch:
    """Measurements of some frames of a video, compared with its first frame.

    - ``kept``: share of frames with the object's class in [0, 1]
    - ``crop``: mean cosine of CLIP vectors of the object's crop to that in the first frame; nan
      where no frame has the object
    - ``color``: distance of the mean colours of the frames, in 8-bit levels
    - ``detail``: energy of high spatial frequencies over that of the first frame
    - ``background``: mean absolute difference of the background, in 8-bit levels
    """

    kept: float
    crop: float
    color: float
    detail: float
    background: float


NAMES = {
    "kept": "class kept",
    "crop": "crop cosine",
    "color": "mean colour, levels",
    "detail": "high frequencies, ratio",
    "background": "background, levels",
}


def measure(
    model: Pipeline,
    name: str,
    prompts: Sequence[VideoPrompt],
    verifier: Verifier,
    encoder: Encoder,
    extensions: int,
    fields: dict[str, Any],
    progress: Progress,
) -> str:
    """A Markdown table of drift over ``extensions`` of ADDED frames, of the mean over prompts, by a
    model that was loaded as ``name``; ``fields`` are those of its requests, with size and fps.

    Raises KalpanaError if there are no prompts, or as ``Pipeline.generate``.
    """
    if not prompts:
        raise KalpanaError(f"drift needs prompts of {' or '.join(STAYING)}: there are none")
    found: dict[str, list[list[Stretch]]] = {mode: [] for mode in MODES}
    for i, prompt in enumerate(prompts):
        asked = fields | {"prompt": prompt.text, "model": name, "seed": prompt.number}
        start = true_start(prompt, fields)
        for mode, extend in zip(MODES, (in_latents, by_frames), strict=True):
            frames = extend(model, start, extensions, asked)
            found[mode].append(list(stretches(frames, fields["fps"], prompt, verifier, encoder)))
        progress(i + 1, len(prompts))
    return markdown(found)


def true_start(prompt: VideoPrompt, fields: dict[str, Any]) -> list[Image.Image]:
    """The first START frames of a prompt's true video; its last scene stays on if it is shorter."""
    side, seconds = int(fields["size"].split("x")[0]), prompt.video.seconds
    times = (min(k / fields["fps"] / seconds, 1.0) for k in range(START))
    return to_images(render([prompt.video.at(t) for t in times], side).pixels)


def in_latents(
    model: Pipeline, start: list[Image.Image], extensions: int, fields: dict[str, Any]
) -> Tensor:
    """The start and its extensions, by one request: sampled in latents, decoded once."""
    return to_pixels(_extended(model, start, extensions, fields))


def by_frames(
    model: Pipeline, start: list[Image.Image], extensions: int, fields: dict[str, Any]
) -> Tensor:
    """The start and its extensions, each by a request that encodes the last frames of the one
    before."""
    frames = list(start)
    for k in range(extensions):
        asked = fields | {"seed": fields["seed"] + k}
        frames += _extended(model, frames[-KEPT:], 1, asked)[KEPT:]
    return to_pixels(frames)


def _extended(
    model: Pipeline, frames: list[Image.Image], extensions: int, fields: dict[str, Any]
) -> list[Image.Image]:
    fps = fields["fps"]
    video = encode_animation(frames, fps, {}, "webp", metadata=False)
    media_input = Media.model_validate(video)
    request = Request(**fields, video=media_input, extend=extensions * ADDED / fps)
    media = last(model.generate(request)).outputs[0].media
    assert isinstance(media, Frames)
    return list(media.frames)


def stretches(
    frames: Tensor, fps: float, prompt: VideoPrompt, verifier: Verifier, encoder: Encoder
) -> Iterator[Stretch]:
    """Measurements of the start (t, 3, h, w) of a video, then of each extension."""
    seen, concept = look(verifier, Video(frames, fps)), prompt.groups[0].concept
    clear = motion.clear(seen)
    parts = [slice(0, START)]
    parts += [slice(k, k + ADDED) for k in range(START, len(frames), ADDED)]
    first = _crop(frames[0], seen[0], concept)
    known = None if first is None else encoder.images([first])[0]
    for part in parts:
        crops = [_crop(*each, concept) for each in zip(frames[part], seen[part], strict=True)]
        found = [crop for crop in crops if crop is not None]
        cosine = math.nan
        if found and known is not None:
            cosine = float((encoder.images(found) @ known).mean())
        yield Stretch(
            kept=len(found) / len(crops),
            crop=cosine,
            color=127.5 * float((frames[part].mean((0, 2, 3)) - frames[0].mean((1, 2))).norm()),
            detail=high_frequencies(frames[part]) / max(high_frequencies(frames[:1]), 1e-9),
            background=_background(frames[part], frames[0], clear[part] * clear[:1]),
        )


def high_frequencies(frames: Tensor) -> float:
    """Mean square of frames (t, 3, h, w) less their mean over 3 x 3 pixels."""
    smooth = F.avg_pool2d(F.pad(frames, (1, 1, 1, 1), mode="replicate"), 3, stride=1)
    return float((frames - smooth).square().mean())


def _background(frames: Tensor, first: Tensor, clear: Tensor) -> float:
    """Mean absolute difference to the first frame where both show background; nan if nowhere."""
    side = clear.shape[-1]
    moved = F.interpolate(torch.cat((first[None], frames)), (side, side), mode="area")
    difference = (moved[1:] - moved[:1]).abs().mean(1, keepdim=True)
    return 127.5 * float((difference * clear).sum() / clear.sum()) if clear.any() else math.nan


def _crop(frame: Tensor, seen: Observation, concept: str) -> Image.Image | None:
    """The surest object of a concept in a frame; None without one."""
    found = [item for item in best(seen.objects, concept) if item.score > motion.SURE]
    image = to_images(frame[None])[0]
    return image.crop(_pixels(found[0], image.size)) if found else None


def _pixels(item: Detection, size: tuple[int, int]) -> tuple[int, int, int, int]:
    """The box of a detection in pixels, at least 2 x 2."""
    (x0, y0, x1, y1), (width, height) = item.box, size
    left, top = min(int(x0 * width), width - 2), min(int(y0 * height), height - 2)
    return (
        left,
        top,
        max(min(math.ceil(x1 * width), width), left + 2),
        max(min(math.ceil(y1 * height), height), top + 2),
    )


def markdown(found: dict[str, list[list[Stretch]]]) -> str:
    """The table: for each measure and mode the mean over prompts by extension; the last one with
    its 95 % interval."""
    count = len(next(iter(found.values()))[0])
    heads = ["start", *map(str, range(1, count))]
    lines = [f"| measure | continued | {' | '.join(heads)} |", "|---|---|" + "---:|" * count]
    for name, title in NAMES.items():
        for mode, rows in found.items():
            means = [mean_of([getattr(row[k], name) for row in rows]) for k in range(count)]
            cells = [f"{mean.value:.2f}" for mean in means[:-1]] + [_whole(means[-1])]
            lines.append(f"| {title} | {mode} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _whole(mean: Mean) -> str:
    return f"{mean.value:.2f} ({mean.low:.2f} to {mean.high:.2f})"
