"""Draws docs/lora.webp: a drawn mug, an adapter trained on eight pictures of it, and its results.

python docs/lora.py [FOLDER]: the pictures and the run go to the folder, runs/mug by default.
"""

from __future__ import annotations

import random
import sys
from pathlib import Path

from PIL import Image, ImageDraw

import kalpana
from kalpana.train.loop import train
from kalpana.train.recipe import read_recipe

WORD = "zorbmug"
PROMPTS = (WORD, f"{WORD} on a table at night", f"a {WORD} and a red car", "a dog")
SEEDS = (1, 2, 3, 4)
SIDE, GROUNDS = 128, ("#f0f0f0", "#c8dcc8", "#becdeb", "#ebd7be")


def mug(rng: random.Random) -> Image.Image:
    """The mug, 256 px, at a random place and size."""
    picture = Image.new("RGB", (256, 256), rng.choice(GROUNDS))
    draw, scale = ImageDraw.Draw(picture), rng.uniform(0.7, 1.1)
    width, height = int(90 * scale), int(110 * scale)
    left = 128 + rng.randint(-25, 25) - width // 2
    top = 128 + rng.randint(-15, 15) - height // 2
    right, edge = left + width, int(14 * scale)
    handle = (
        right - 12,
        top + int(height * 0.2),
        right + int(38 * scale),
        top + int(height * 0.75),
    )
    draw.ellipse(handle, outline="#146e6e", width=edge)
    draw.rounded_rectangle((left, top, right, top + height), 12, fill="#1e9696")
    for k in range(3):
        y = top + int(height * (0.2 + 0.25 * k))
        draw.rectangle((left, y, right, y + int(height * 0.1)), fill="#fac828")
    draw.ellipse((left, top - 12, right, top + 12), fill="#5a3214", outline="#146e6e", width=4)
    return picture


def main(folder: Path) -> None:
    data, rng = folder / "pictures", random.Random(0)
    data.mkdir(parents=True, exist_ok=True)
    pictures = [mug(rng) for _ in range(8)]
    for k, picture in enumerate(pictures):
        picture.save(data / f"{k}.png")
    file = train(read_recipe("lora", data=data, word=WORD), folder / "run")
    rows = [pictures[:4], pictures[4:]]
    for prompt in PROMPTS:
        found = kalpana.generate(prompt, adapter=file, seeds=SEEDS)
        rows.append([output.image for output in found.outputs])
    sheet = Image.new("RGB", (len(SEEDS) * SIDE, len(rows) * SIDE))
    for y, row in enumerate(rows):
        for x, picture in enumerate(row):
            sheet.paste(picture.resize((SIDE, SIDE)), (x * SIDE, y * SIDE))
    sheet.save(Path(__file__).with_suffix(".webp"), quality=80)


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "runs/mug"))
