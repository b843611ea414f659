"""Patch labels, computed from boxes, agree with the renderer's masks."""

from __future__ import annotations

import torch

from kalpana.train.patch_labels import classes, layout, sizes
from kalpana.world.scene import COLORS
from kalpana.world.world import World

CELLS, WORLD = 8, World(seed=5)


def test_cells_full_of_a_thing_name_it_and_empty_cells_name_none() -> None:
    full = agree = empty = quiet = 0
    for i in range(60):
        truth = WORLD[i].truth
        shown = torch.from_numpy(layout(truth.scene, CELLS))
        cover = torch.zeros(1, CELLS, CELLS)
        for item, mask in zip(truth.scene.objects, truth.masks, strict=True):
            share = torch.nn.functional.avg_pool2d(mask[None].float(), 128 // CELLS)[0]
            group = truth.scene.groups[item.group]
            here = share > 0.9
            right = shown[0] == classes().get(group.concept, len(classes()) + 1)
            right &= shown[1] == (1 + COLORS.index(group.color) if group.color else 0)
            full, agree = full + int(here.sum()), agree + int((here & right).sum())
            cover = torch.maximum(cover, share)
        bare = cover[0] == 0
        empty, quiet = empty + int(bare.sum()), quiet + int((bare & (shown[0] == 0)).sum())
    assert full > 200 and agree > 0.98 * full, f"{agree} of {full}"
    # Not all, since an object does not fill the corners of its box.
    assert empty > 1000 and quiet > 0.95 * empty, f"{quiet} of {empty}"


def test_the_way_leads_to_the_middle_of_the_thing() -> None:
    for i in range(30):
        scene = WORLD.scene(i)
        shown = layout(scene, CELLS)
        for row, column in zip(*shown[0].nonzero(), strict=True):
            x, y = (
                (column + 0.5 + shown[2, row, column]) / CELLS,
                (row + 0.5 + shown[3, row, column]) / CELLS,
            )
            assert min(abs(item.x - x) + abs(item.y - y) for item in scene.objects) < 1e-5


def test_sizes_hold_every_value() -> None:
    kinds, colors = sizes()
    assert (
        kinds == 80 + 2
        and colors == len(COLORS) + 1
        and sorted(classes().values()) == list(range(1, 81))
    )
    for i in range(200):
        shown = layout(WORLD.scene(i), CELLS)
        assert (
            shown[0].min() >= 0
            and shown[0].max() < kinds
            and shown[1].min() >= 0
            and shown[1].max() < colors
        )
