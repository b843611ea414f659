"""Patch labels: class, colour and centre offset of the object in each cell of a coarse grid.

A generator that also predicts the labels of its patches, as an auxiliary loss halfway through the
network, learns what objects look like much sooner (docs/log.md). A cell belongs to the frontmost
object whose box contains the cell's middle; nothing is rendered.
"""

from __future__ import annotations

from functools import cache

import numpy as np

from kalpana.world import sprites
from kalpana.world.lexicon import lexicon
from kalpana.world.scene import COLORS, Scene


@cache
def classes() -> dict[str, int]:
    """Class number of each core concept, by its id, from 1.

    0 is the background, and ``len(classes()) + 1`` stands for all other concepts.
    """
    core = (concept for concept in lexicon().values() if concept.core)
    return {concept.id: k for k, concept in enumerate(core, start=1)}


def sizes() -> tuple[int, int]:
    """Number of values of a cell's class and of its colour."""
    return len(classes()) + 2, len(COLORS) + 1


def layout(scene: Scene, cells: int) -> np.ndarray:
    """Patch labels of a scene, (4, cells, cells) float32.

    Class; colour (0 for none, then COLORS from 1); and the offset from the cell's middle to the
    middle of its object, right and down, in cells.
    """
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
