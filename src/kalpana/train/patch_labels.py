"""What a coarse grid of cells over a picture shows: supervision that only a renderer can give.

A generator that must also say, halfway, which thing each of its patches belongs to learns what things are much sooner
(docs/log.md). Cells are judged by their middles and by the boxes of the things, the front one counting; no pixel is drawn.
"""

from __future__ import annotations

from functools import cache

import numpy as np

from kalpana.world import sprites
from kalpana.world.lexicon import lexicon
from kalpana.world.scene import COLORS, Scene


@cache
def classes() -> dict[str, int]:
    """The number of each core concept by id, from 1; 0 is the background, and ``len(classes()) + 1`` any other concept."""
    return {
        concept.id: k
        for k, concept in enumerate((c for c in lexicon().values() if c.core), start=1)
    }


def sizes() -> tuple[int, int]:
    """How many values a cell's class and its colour can have."""
    return len(classes()) + 2, len(COLORS) + 1


def layout(scene: Scene, cells: int) -> np.ndarray:
    """(4, cells, cells) float32: class, colour (0 none, then COLORS), and the way from the cell's middle to the middle of its
    thing, right and down, in cells."""
    out = np.zeros((4, cells, cells), np.float32)
    middles = (np.arange(cells, dtype=np.float32) + 0.5) / cells
    for item in scene.objects:
        group, (half_w, half_h) = scene.groups[item.group], sprites.half(item)
        dx, dy = np.broadcast_arrays(item.x - middles[None, :], item.y - middles[:, None])
        inside = (abs(dx) < half_w) & (abs(dy) < half_h)
        out[0][inside] = classes().get(group.concept, len(classes()) + 1)
        out[1][inside] = 1 + COLORS.index(group.color) if group.color else 0
        out[2][inside], out[3][inside] = dx[inside] * cells, dy[inside] * cells
    return out
