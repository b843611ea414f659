"""Tests of boxes, outlines and edge maps."""

from __future__ import annotations

import torch
from scipy import ndimage

from kalpana.world import maps
from kalpana.world.world import World


def square(side: int, x0: int, y0: int, x1: int, y1: int) -> torch.Tensor:
    mask = torch.zeros(side, side, dtype=torch.bool)
    mask[y0:y1, x0:x1] = True
    return mask


def test_boxes_of_squares() -> None:
    masks = torch.stack((square(32, 3, 5, 10, 20), torch.zeros(32, 32, dtype=torch.bool)))
    assert maps.boxes(masks).tolist() == [[3, 5, 10, 20], [0, 0, 0, 0]]


def test_the_outline_of_a_mask_is_the_mask_less_its_erosion() -> None:
    truth = World(seed=1)[2].truth
    alone = truth.masks.any(0)
    if len(truth.masks) == 1:
        eroded = ndimage.binary_erosion(
            alone.numpy(), ndimage.generate_binary_structure(2, 1), border_value=1
        )
        assert torch.equal(maps.outlines(truth.masks), alone & ~torch.from_numpy(eroded))
    mask = square(32, 8, 8, 20, 24)
    eroded = ndimage.binary_erosion(mask.numpy(), ndimage.generate_binary_structure(2, 1))
    assert torch.equal(maps.outlines(mask.unsqueeze(0)), mask & ~torch.from_numpy(eroded))


def test_edges_of_a_square_are_its_border() -> None:
    pixels = torch.where(square(40, 10, 12, 30, 28), 1.0, -1.0).expand(1, 3, 40, 40)
    found = maps.edges(pixels)[0]
    near = torch.from_numpy(
        ndimage.binary_dilation(square(40, 10, 12, 30, 28).numpy(), iterations=2)
    ) & ~square(40, 12, 14, 28, 26)
    assert found.any() and not (found & ~near).any()
    for row in range(15, 25):
        assert found[row, 8:13].sum() == 1 and found[row, 27:32].sum() == 1, (
            "an edge is one pixel wide"
        )
    assert not maps.edges(torch.zeros(2, 3, 16, 16)).any()


def test_edges_follow_the_masks_of_the_world() -> None:
    """Most outline pixels of rendered objects have an image edge next to them."""
    shares = []
    for i in range(20):
        sample = World(seed=6)[i]
        line = sample.truth.outlines
        if line.any():
            near = ndimage.binary_dilation(
                maps.edges(sample.image[None], 0.1)[0].numpy(), iterations=2
            )
            shares.append(torch.from_numpy(near)[line].float().mean().item())
    assert sum(shares) / len(shares) > 0.8
