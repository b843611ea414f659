"""Generate the figures of docs/video.md: ``python docs/video.py [MODEL]``.

Uses the shipped weights. Prompts and seeds were fixed before any result was seen; no video is
selected.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from kalpana import generate, load
from kalpana.media import to_images
from kalpana.types import KalpanaError, Result, Video
from kalpana.world.sheet import table
from kalpana.world.video import Videos

SIDE = 128  # pixels of a frame on a sheet, so that captions fit beside it
SHOWN = 8  # frames of a video on a sheet
STATES = (1, 4, 8, 12, 16, 22, 30)  # of 30 steps, shown on the second sheet
PROMPTS = (
    "a red car moving to the right",
    "a red car moving to the left",
    "एक पीली गेंद ऊपर जा रही है",
    "a blue star growing",
    "a green apple turning",
    "a house, the camera zooms in",
    "a tree on a beach, the camera pans left",
)
DEV = 9  # first captions of dev


def some(frames: Sequence[Image.Image]) -> list[Image.Image]:
    """SHOWN of the frames, at equal distances, from the first to the last."""
    last = len(frames) - 1
    return [frames[round(k * last / (SHOWN - 1))] for k in range(SHOWN)]


def frames_of(result: Result | None) -> list[Image.Image]:
    """Some frames of the first video of a result."""
    assert result is not None
    media = result.outputs[0].media
    assert isinstance(media, Video)
    return some(media.frames)


def shown(rows: list[list[Image.Image]], names: list[str], title: str) -> Image.Image:
    """The sheet of these rows of frames."""
    large = [[each.resize((SIDE, SIDE), Image.Resampling.NEAREST) for each in row] for row in rows]
    return table(large, [str(k + 1) for k in range(SHOWN)], names, title)


def clips(model: str) -> Image.Image:
    """One row a prompt: those above, and the first captions of dev."""
    rows, names = [], []
    for prompt in (*PROMPTS, *(Videos(0, "dev").describe(k)[0] for k in range(DEV))):
        rows.append(frames_of(generate(prompt, model=model, seconds=2, fps=8, seed=0)))
        names.append(prompt)
    return shown(rows, names, f"model {model}, seed 0")


def denoising(model: str) -> Image.Image:
    """The estimate of the clean video at some steps of one sampling, from noise to a video."""
    prompt, rows, names = PROMPTS[0], [], []
    pipeline = load(model)
    for step in pipeline.generate(prompt, model=model, seconds=2, fps=8, seed=0, steps=STATES[-1]):
        if step.preview is not None and step.index in STATES:
            rows.append(some(to_images(step.preview[0])))
            names.append(f"step {step.index}")
    rows.append(frames_of(step.result))
    names.append("decoded")
    return shown(rows, names, prompt)


def main() -> None:
    model = sys.argv[1] if len(sys.argv) > 1 else "video"
    for name, sheet in (("video-dev", clips(model)), ("video-steps", denoising(model))):
        path = Path(__file__).with_name(f"{name}.webp")
        sheet.save(path, quality=80)
        print(path)


if __name__ == "__main__":
    try:
        main()
    except KalpanaError as error:
        sys.exit(f"error: {error}")
