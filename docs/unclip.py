"""Generate the figure of docs/unclip.md: ``python docs/unclip.py``.

Uses the shipped weights. Scenes, prompts and seeds were fixed before any result was seen.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from PIL import Image

from kalpana import generate
from kalpana.media import to_images
from kalpana.world.render import render
from kalpana.world.sheet import captioned
from kalpana.world.world import World

PROMPTS = ("a red car", "three yellow stars", "एक बिल्ली", "a green apple on the left of a blue cup")
SCENES = (3, 8, 12)  # of dev
WAY = (8, 12)
DIFFERENCES = ((8, "orange trucks", "blue trucks"), (8, "trucks", "cats"))


def drawn(prompt: str = "", **fields: Any) -> list[Image.Image]:
    return [each.image for each in generate(prompt, model="unclip", seed=0, **fields).outputs]


def scene(index: int) -> tuple[str, Image.Image]:
    world = World(0, "dev")
    return world.describe(index)[0], to_images(render([world.scene(index)], 128).pixels)[0]


def main() -> None:
    cells = [(prompt, drawn(prompt)[0]) for prompt in PROMPTS]
    for index in SCENES:
        caption, image = scene(index)
        cells.append((f"a dev scene: {caption}", image))
        cells += [("variation", each) for each in drawn(image=image, n=3)]
    first, last = (scene(index)[1] for index in WAY)
    way = drawn(image=first, last_image=last, n=4)
    cells += [(f"the way, {k}/3", each) for k, each in enumerate(way)]
    for index, source, target in DIFFERENCES:
        image = scene(index)[1]
        changed = drawn(target, image=image, source_prompt=source)[0]
        cells += [(f"from {source!r}", image), (f"to {target!r}", changed)]
    sheet = captioned([image for _, image in cells], [text for text, _ in cells], columns=4)
    path = Path(__file__).with_name("unclip.webp")
    sheet.save(path, quality=90)
    print(path)


if __name__ == "__main__":
    main()
