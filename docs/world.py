"""Render the sheets of the world for the documentation: ``python docs/world.py``.

They show the first examples of each kind: no picture is selected.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image, ImageColor, ImageDraw

from kalpana.media import to_images
from kalpana.world.export.examples import BONES, VIDEO, Example, example
from kalpana.world.sheet import SIDE, captioned, video_wall
from kalpana.world.video import Videos
from kalpana.world.world import MIX, World

EACH = 6
COLUMNS = 4  # of the figure of the truth: the image, objects, depth, edges
COLORS = ("red", "dodgerblue", "gold", "lime", "magenta", "cyan", "orange", "white")


def main() -> None:
    here, images, captions = Path(__file__).parent, [], []
    for kind in MIX:
        world = World(0, kind=kind)
        images += to_images(world.images(range(EACH)))
        captions += [world.describe(i)[0] for i in range(EACH)]
    captioned(images, captions, columns=EACH).save(here / "world.webp", quality=85)
    truth(here / "truth.webp")
    first, *rest = video_wall(Videos(0), 16, fps=12)
    first.save(
        here / "clips.webp",
        save_all=True,
        append_images=rest,
        duration=83,
        loop=0,
        quality=70,
        method=4,
    )
    print(*(here / f"{name}.webp" for name in ("world", "truth", "clips")), sep="\n")


def truth(path: Path) -> None:
    """The first example of each kind, and of the videos, with its truth drawn in."""
    images, captions = [], []
    for kind in (*MIX, VIDEO):
        world = Videos(0, side=SIDE) if kind == VIDEO else World(0, side=SIDE, kind=kind)
        shown = example(world, 0, ("en",))
        middle = len(shown.frames) // 2
        depth = Image.fromarray((shown.depth[middle] * 255).byte().numpy())
        lines = shown.edges[middle].numpy()[..., None] * (255, 255, 255)
        outlines = shown.outlines[middle].numpy()
        lines[outlines] = (255, 80, 80)
        plain = to_images(shown.frames[middle][None])[0]
        images += [plain, annotated(shown, middle), depth.convert("RGB")]
        images.append(Image.fromarray(lines.astype(np.uint8)))
        captions += [f"{kind}: {shown.caption}", words(shown), "depth", "edges, outlines in red"]
    captioned(images, captions, columns=COLUMNS).save(path, quality=80, method=6)


def annotated(shown: Example, frame: int) -> Image.Image:
    """A frame with masks, boxes (whole ones thinner), joints, and the path of a video's objects."""
    pixels = (to_images(shown.frames[frame][None])[0]).convert("RGB")
    tinted = np.asarray(pixels).astype(float)
    for k, mask in enumerate(shown.masks[frame].numpy()):
        tinted[mask] = 0.6 * tinted[mask] + 0.4 * np.array(ImageColor.getrgb(COLORS[k]))
    image = Image.fromarray(tinted.astype(np.uint8))
    draw = ImageDraw.Draw(image)
    for k, item in enumerate(shown.facts["objects"]):
        visible = item["boxes"][frame] if "boxes" in item else item["box"]
        for width, (x0, y0, x1, y1) in ((3, visible), (1, item.get("whole_box", visible))):
            if x1 > x0:
                draw.rectangle((x0, y0, x1 - 1, y1 - 1), outline=COLORS[k], width=width)
        if "path" in item:
            draw.line([(SIDE * x, SIDE * y) for x, y, _, _ in item["path"]], "black", 3)
        if "joints" in item:
            for one, two in BONES:
                draw.line([tuple(item["joints"][name]) for name in (one, two)], "black", 2)
            for x, y in item["joints"].values():
                draw.ellipse((x - 3, y - 3, x + 3, y + 3), COLORS[k], "black")
    return image


def words(shown: Example) -> str:
    """What the facts say of the objects, in a line."""
    named = []
    for item in shown.facts["objects"]:
        extra = [
            f'"{item["text"]}"' if "text" in item else "",
            f"{item['fingers']} fingers" if "fingers" in item else "",
            item.get("pose", ""),
        ]
        named.append(" ".join(filter(None, (item["color"], item["name"]["en"], *extra))))
    if shown.fps is not None:
        event = (shown.facts["event"], shown.facts["direction"], shown.facts["speed"])
        named.append(" ".join(filter(None, event)))
    return ", ".join(named)


if __name__ == "__main__":
    main()
