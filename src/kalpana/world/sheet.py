"""Contact sheets for visual inspection: images or videos above their captions."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence

from PIL import Image, ImageDraw, ImageFont, features

from kalpana.media import grid, to_images
from kalpana.types import KalpanaError
from kalpana.world.lexicon import ART
from kalpana.world.video import Videos
from kalpana.world.world import World

# Pixels of an image's side and of the height of its caption, and the font of the captions.
SIDE, TEXT, FONT = 256, 76, ART / "fonts" / "Mukta_400Regular.ttf"


def captioned(
    images: Sequence[Image.Image], captions: Sequence[str], columns: int | None = None
) -> Image.Image:
    """Contact sheet of square images at SIDE pixels, row by row, each above its caption.

    ``columns`` None: as many columns as rows. Captions may be English or Hindi.
    """
    return _contact_sheet(
        [[image] for image in images], captions, columns or math.ceil(math.sqrt(len(images)))
    )


def table(
    rows: Sequence[Sequence[Image.Image]],
    columns: Sequence[str],
    names: Sequence[str] | None = None,
    title: str | None = None,
) -> Image.Image:
    """Sheet of pictures in rows, with a legend above each column and, with ``names``, beside each
    row. Cells are as large as the largest picture. Legends may be English or Hindi."""
    font = _font()
    cell_w, cell_h = (max(image.size[k] for row in rows for image in row) for k in (0, 1))
    cell_w, wide = max(cell_w, 96), 0 if names is None else 128
    lines = [textwrap.wrap(text, max(cell_w // 8, 4)) for text in columns]
    top = 22 * (max(len(each) for each in lines) + (title is not None)) + 4
    size = wide + len(columns) * (cell_w + 4), top + len(rows) * (cell_h + 4)
    canvas = Image.new("RGB", size, "white")
    draw = ImageDraw.Draw(canvas)
    if title is not None:
        draw.text((4, 0), title, fill="black", font=font)
    for i, each in enumerate(lines):
        at = wide + i * (cell_w + 4), 22 * (title is not None)
        draw.text(at, "\n".join(each), fill="black", font=font, spacing=0)
    for j, row in enumerate(rows):
        y = top + j * (cell_h + 4)
        if names is not None:
            text = "\n".join(textwrap.wrap(names[j], 14))
            draw.text((4, y), text, fill="black", font=font, spacing=0)
        for i, image in enumerate(row):
            canvas.paste(image, (wide + i * (cell_w + 4), y))
    return canvas


def _font() -> ImageFont.FreeTypeFont:
    """The font of captions. Raises KalpanaError if Pillow cannot shape Devanagari."""
    if not features.check("raqm"):
        raise KalpanaError(
            "this Pillow cannot shape Devanagari (no raqm): reinstall it with "
            "'pip install --force-reinstall --only-binary :all: Pillow'"
        )
    return ImageFont.truetype(str(FONT), 15, layout_engine=ImageFont.Layout.RAQM)


def _contact_sheet(
    strips: Sequence[Sequence[Image.Image]], captions: Sequence[str], columns: int
) -> Image.Image:
    """Contact sheet of strips of square images, all of equal length, each above its caption.

    Raises KalpanaError if Pillow lacks raqm.
    """
    font = _font()
    length = len(strips[0])
    width, height = length * SIDE + 8, SIDE + TEXT
    canvas = Image.new("RGB", (columns * width, math.ceil(len(strips) / columns) * height), "white")
    draw = ImageDraw.Draw(canvas)
    for k, (strip, caption) in enumerate(zip(strips, captions, strict=True)):
        x, y = k % columns * width + 4, k // columns * height
        for i, image in enumerate(strip):
            side = SIDE - (2 if length > 1 else 0)  # leaves a gap between frames in a row
            canvas.paste(image.resize((side, side), Image.Resampling.LANCZOS), (x + i * SIDE, y))
        lines = textwrap.wrap(caption, 38 * length)
        words = "\n".join(lines[:3]) + (" …" if len(lines) > 3 else "")
        draw.text((x, y + SIDE), words, fill="black", font=font, spacing=0)
    return canvas


def sheet(world: World, n: int = 64, start: int = 0) -> Image.Image:
    """Contact sheet of images ``start`` to ``start + n`` of the world, with object boxes."""
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


def video_sheet(videos: Videos, n: int = 16, shown: int = 6) -> Image.Image:
    """Contact sheet of the first ``n`` videos, each as ``shown`` evenly spaced frames in a row."""
    strips = []
    for k in range(n):
        frames = videos.frames(k)
        indices = [round(i * (len(frames) - 1) / (shown - 1)) for i in range(shown)]
        strips.append(to_images(frames[indices]))
    return _contact_sheet(strips, [videos.describe(k)[0] for k in range(n)], 2)


def video_wall(videos: Videos, n: int = 16, fps: int = 24) -> list[Image.Image]:
    """Frames of one video, at ``fps``, that shows the first ``n`` videos of ``videos`` in a grid.

    All start together and play at their own frame rates; the last frame of each stays.
    """
    playing = [(videos.video(k).fps, to_images(videos.frames(k))) for k in range(n)]
    seconds = max(len(frames) / rate for rate, frames in playing)
    return [
        grid([frames[min(int(tick / fps * rate), len(frames) - 1)] for rate, frames in playing])
        for tick in range(math.ceil(seconds * fps))
    ]
