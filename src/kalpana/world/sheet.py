"""Contact sheets: pictures with their captions, and the world's own with their boxes, for the eye."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence

from PIL import Image, ImageDraw, ImageFont, features

from kalpana.media import grid, to_images
from kalpana.types import KalpanaError
from kalpana.world.lexicon import ART
from kalpana.world.video import Clips
from kalpana.world.world import World

SIDE, TEXT, FONT = (
    256,
    76,
    ART / "fonts" / "Mukta_400Regular.ttf",
)  # pixels of a picture and of the room for its caption


def captioned(
    images: Sequence[Image.Image], captions: Sequence[str], columns: int | None = None
) -> Image.Image:
    """The square pictures at SIDE pixels, row by row, each above its caption, English or Hindi."""
    return _paper(
        [[image] for image in images], captions, columns or math.ceil(math.sqrt(len(images)))
    )


def _paper(
    strips: Sequence[Sequence[Image.Image]], captions: Sequence[str], columns: int
) -> Image.Image:
    """Strips of square pictures, all as long, each above its caption."""
    if not features.check("raqm"):
        raise KalpanaError(
            "this Pillow cannot shape Devanagari (no raqm): reinstall it with 'pip install --force-reinstall --only-binary :all: Pillow'"
        )
    font = ImageFont.truetype(str(FONT), 15, layout_engine=ImageFont.Layout.RAQM)
    long = len(strips[0])
    paper = Image.new(
        "RGB",
        (columns * (long * SIDE + 8), math.ceil(len(strips) / columns) * (SIDE + TEXT)),
        "white",
    )
    draw = ImageDraw.Draw(paper)
    for k, (strip, caption) in enumerate(zip(strips, captions, strict=True)):
        x, y = k % columns * (long * SIDE + 8) + 4, k // columns * (SIDE + TEXT)
        for i, image in enumerate(strip):
            side = SIDE - (2 if long > 1 else 0)  # frames in a row do not touch
            paper.paste(image.resize((side, side), Image.Resampling.LANCZOS), (x + i * SIDE, y))
        lines = textwrap.wrap(caption, 38 * long)
        words = "\n".join(lines[:3]) + (" …" if len(lines) > 3 else "")
        draw.text((x, y + SIDE), words, fill="black", font=font, spacing=0)
    return paper


def sheet(world: World, n: int = 64, start: int = 0) -> Image.Image:
    """The pictures ``start`` to ``start + n`` of the world, each thing in its box, captions below."""
    images, captions = [], []
    for k in range(start, start + n):
        sample = world[k]
        image = to_images(sample.image[None])[0].resize((SIDE, SIDE), Image.Resampling.LANCZOS)
        for x0, y0, x1, y1 in (sample.truth.boxes * SIDE / world.side).tolist():
            if x1 > x0:
                ImageDraw.Draw(image).rectangle((x0, y0, x1 - 1, y1 - 1), outline="red")
        images.append(image)
        captions.append(sample.caption)
    return captioned(images, captions)


def clip_sheet(clips: Clips, n: int = 16, shown: int = 6) -> Image.Image:
    """The first ``n`` clips, each as ``shown`` of its frames in a row."""
    strips = []
    for k in range(n):
        frames = clips.frames(k)
        strips.append(
            to_images(frames[[round(i * (len(frames) - 1) / (shown - 1)) for i in range(shown)]])
        )
    return _paper(strips, [clips.describe(k)[0] for k in range(n)], 2)


def clip_wall(clips: Clips, n: int = 16, fps: int = 24) -> list[Image.Image]:
    """The first ``n`` clips side by side, all playing from the start at their own speeds, as the frames of one clip."""
    playing = [(clips.clip(k).fps, to_images(clips.frames(k))) for k in range(n)]
    seconds = max(len(frames) / rate for rate, frames in playing)
    return [
        grid([frames[min(int(tick / fps * rate), len(frames) - 1)] for rate, frames in playing])
        for tick in range(math.ceil(seconds * fps))
    ]
