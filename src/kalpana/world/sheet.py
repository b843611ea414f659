"""Contact sheets: pictures with their captions, and the world's own with their boxes, for the eye."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence

from PIL import Image, ImageDraw, ImageFont, features

from kalpana.media import to_images
from kalpana.types import KalpanaError
from kalpana.world.lexicon import ART
from kalpana.world.world import World

SIDE, TEXT, FONT = 256, 76, ART / "fonts" / "Mukta_400Regular.ttf"  # pixels of a picture and of the room for its caption


def captioned(images: Sequence[Image.Image], captions: Sequence[str], columns: int | None = None) -> Image.Image:
    """The square pictures at SIDE pixels, row by row, each above its caption, English or Hindi."""
    if not features.check("raqm"):
        raise KalpanaError(
            "this Pillow cannot shape Devanagari (no raqm): reinstall it with 'pip install --force-reinstall --only-binary :all: Pillow'"
        )
    font = ImageFont.truetype(str(FONT), 15, layout_engine=ImageFont.Layout.RAQM)
    columns = columns or math.ceil(math.sqrt(len(images)))
    paper = Image.new("RGB", (columns * (SIDE + 8), math.ceil(len(images) / columns) * (SIDE + TEXT)), "white")
    draw = ImageDraw.Draw(paper)
    for k, (image, caption) in enumerate(zip(images, captions, strict=True)):
        x, y = k % columns * (SIDE + 8) + 4, k // columns * (SIDE + TEXT)
        paper.paste(image.resize((SIDE, SIDE), Image.Resampling.LANCZOS), (x, y))
        lines = textwrap.wrap(caption, 38)
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
