"""Generate the second figure of docs/editing.md: ``python docs/editing_more.py``.

Uses the shipped weights. Failures are captioned as such.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from editing import one, square

from kalpana.world.sheet import captioned


def main() -> None:
    def draw(prompt: str, **fields: Any) -> Any:
        return one(prompt, **fields)

    car, cat = draw("a red car", seed=1), draw("a cat in a field")
    paint = draw("a house, in watercolour", seed=4)
    narrow = draw("a red car", image=car, outpaint="left=32,right=32")
    wide = draw("a cat in a field", image=cat, outpaint="left=64,right=64")
    cells = [
        ("input: a red car", car),
        ("a blue car --from 'a red car'", draw("a blue car", image=car, source_prompt="a red car")),
        ("a red bus --from 'a red car'", draw("a red bus", image=car, source_prompt="a red car")),
        ("--outpaint left=32,right=32: a faint seam", square(narrow)),
        ("input: a cat in a field (no field: a failure)", cat),
        ("a dog --from 'a cat'", draw("a dog", image=cat, source_prompt="a cat")),
        (
            "a black cat --from 'a cat': failure, it stays orange",
            draw("a black cat", image=cat, source_prompt="a cat"),
        ),
        ("--outpaint left=64,right=64: failure, more cats and seams", square(wide)),
        ("reference: a house, in watercolour", paint),
        ("a dog, --style-image, 0.4", draw("a dog", seed=11, style_image=paint)),
        (
            "a dog from the cat, --strength 0.6, style 0.7",
            draw("a dog", seed=11, image=cat, style_image=paint, style_strength=0.7, strength=0.6),
        ),
        (
            "a dog, style 1: failure, no dog is left",
            draw("a dog", seed=11, style_image=paint, style_strength=1),
        ),
    ]
    sheet = captioned([image for _, image in cells], [text for text, _ in cells], columns=4)
    path = Path(__file__).with_name("editing-more.webp")
    sheet.save(path, quality=85)
    print(path)


if __name__ == "__main__":
    main()
