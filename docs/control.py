"""Generate the figure of docs/control.md: ``python docs/control.py``.

Uses the shipped weights. Scenes, prompts and seeds were fixed before any result was seen.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from PIL import Image

from kalpana import generate
from kalpana.media import to_images
from kalpana.pipelines.planner import plan_glyphs
from kalpana.world.controls import control_maps
from kalpana.world.sheet import captioned
from kalpana.world.world import World

# Kind of map, kind of scene, its number in dev, and another prompt for the same map.
ROWS = (
    ("edges", "objects", 3, "a pink mushroom in a garden"),
    ("outlines", "objects", 6, "a green toy"),
    ("boxes", "objects", 8, "two red apples"),
    ("depth", "depth", 2, "a blue car"),
    ("pose", "puppets", 1, "a person with a green shirt in a room"),
    ("glyphs", "text", 0, 'a red sign that says "KALPANA"'),
)
WORDS = ('a sign that says "OPEN"', '"नमस्ते" लिखा हुआ बोर्ड', 'the word "HELLO" above a cat')


def one(prompt: str, **fields: Any) -> Image.Image:
    return generate(prompt, seed=0, **fields).outputs[0].image


def main() -> None:
    cells = []
    for kind, scenes, index, other in ROWS:
        world = World(0, "dev", kind=scenes)
        scene, prompt = world.scene(index), world.describe(index)[0]
        given = to_images(2 * control_maps([scene], [kind])[kind] - 1)[0]
        control = {kind: given}
        cells += [
            (f"the map: {kind}", given),
            (prompt, one(prompt, control=control)),
            (other, one(other, control=control)),
            (f"without the map: {prompt}", one(prompt, plan=False)),
        ]
    for prompt in WORDS:
        plan = plan_glyphs(prompt, 0)
        assert plan is not None
        cells += [
            ("planned letters", to_images(2 * plan.map[None] - 1)[0]),
            (prompt, one(prompt)),
        ]
    sheet = captioned([image for _, image in cells], [text for text, _ in cells], columns=4)
    path = Path(__file__).with_name("control.webp")
    sheet.save(path, quality=90)
    print(path)


if __name__ == "__main__":
    main()
