"""Generate the figure of docs/editing.md: ``python docs/editing.py``.

Uses the shipped weights. Prompts and seeds were fixed before any result was seen.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from PIL import Image

from kalpana import generate
from kalpana.world.sheet import captioned

SIDE = 128


def one(prompt: str, **fields: Any) -> Image.Image:
    return generate(prompt, seed=fields.pop("seed", 0), **fields).outputs[0].image


def mask_of(box: tuple[int, int, int, int], size: tuple[int, int] = (SIDE, SIDE)) -> Image.Image:
    """A mask that is white in a box (left, top, right, bottom)."""
    mask = Image.new("L", size)
    mask.paste(255, box)
    return mask


def square(image: Image.Image) -> Image.Image:
    """A picture of any shape in the middle of a white square, for the sheet."""
    scale = SIDE / max(image.size)
    small = image.resize((round(image.width * scale), round(image.height * scale)))
    page = Image.new("RGB", (SIDE, SIDE), "white")
    page.paste(small, ((SIDE - small.width) // 2, (SIDE - small.height) // 2))
    return page


def main() -> None:
    house = one("a house on a beach")
    sky, half = mask_of((0, 0, SIDE, 40)), mask_of((64, 0, SIDE, SIDE))
    cells = [
        ("input: a house on a beach", house),
        *(
            (f"a barn at night, --strength {s}", one("a barn at night", image=house, strength=s))
            for s in (0.5, 0.7, 0.9)
        ),
        ("mask: the top", sky.convert("RGB")),
        ("a yellow star at night, masked", one("a yellow star at night", image=house, mask=sky)),
        ("mask: the right half", half.convert("RGB")),
        *(
            (f"a tree, {model}, masked", one("a tree", image=house, mask=half, model=model))
            for model in ("default", "maskgit", "dalle", "dalle-mini")
        ),
        ("five red apples, --size 256x128", square(one("five red apples", size="256x128"))),
    ]
    sheet = captioned([image for _, image in cells], [text for text, _ in cells], columns=4)
    path = Path(__file__).with_name("editing.webp")
    sheet.save(path, quality=90)
    print(path)


if __name__ == "__main__":
    main()
