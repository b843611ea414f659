"""Render the sheets of the world for the documentation: ``python docs/world.py``.

They show the first examples of each kind: no picture is selected.
"""

from __future__ import annotations

from pathlib import Path

from kalpana.media import to_images
from kalpana.world.sheet import captioned, clip_wall
from kalpana.world.video import Clips
from kalpana.world.world import MIX, World

EACH = 6


def main() -> None:
    here, images, captions = Path(__file__).parent, [], []
    for kind in MIX:
        world = World(0, kind=kind)
        images += to_images(world.images(range(EACH)))
        captions += [world.describe(i)[0] for i in range(EACH)]
    captioned(images, captions, columns=EACH).save(here / "world.webp", quality=85)
    first, *rest = clip_wall(Clips(0), 16, fps=12)
    first.save(
        here / "clips.webp",
        save_all=True,
        append_images=rest,
        duration=83,
        loop=0,
        quality=70,
        method=4,
    )
    print(here / "world.webp", here / "clips.webp", sep="\n")


if __name__ == "__main__":
    main()
