"""Tests of solids: rigid rotation in perspective, rendered where the corners are computed."""

from __future__ import annotations

import itertools

import pytest
import torch
from scipy.spatial import ConvexHull

from kalpana.world.kinds import solids
from kalpana.world.render import render
from kalpana.world.scene import Background, Group, Scene, SceneObject, Solid

TURNS = list(itertools.product(("card", "cube"), (-120, -50, 0, 20, 45, 170), (-15, 0, 20)))


@pytest.mark.parametrize(("shape", "yaw", "pitch"), TURNS)
def test_turning_keeps_every_edge(shape: str, yaw: float, pitch: float) -> None:
    still, now = (
        solids.turned(Solid(shape, 0, "white", *turn)) for turn in ((0.0, 0.0), (yaw, pitch))
    )
    a, b = (torch.cdist(points.reshape(-1, 3), points.reshape(-1, 3)) for points in (still, now))
    assert torch.allclose(a, b, atol=1e-9)


@pytest.mark.slow
@pytest.mark.parametrize(("shape", "yaw", "pitch"), TURNS)
def test_the_picture_fills_the_hull_of_its_corners(shape: str, yaw: float, pitch: float) -> None:
    scene_object = SceneObject(Solid(shape, 5, "pink", yaw, pitch), 0.48, 0.53, 0.9, angle=7.0)
    drawn = render(
        [Scene((scene_object,), (Group("x"),), Background("flat", "white"))], 128, masks=True
    )
    assert drawn.masks is not None
    corners = solids.place(scene_object).reshape(-1, 2)
    assert corners.min() > 0 and corners.max() < 1
    area = ConvexHull(corners.numpy()).volume * 128**2  # of a plane figure the "volume" is the area
    assert abs(drawn.masks[0][0].sum().item() - area) < 0.05 * area + 25
    ys, xs = drawn.masks[0][0].nonzero().unbind(1)
    for seen, axis in ((xs, 0), (ys, 1)):
        low, high = corners[:, axis].min() * 128, corners[:, axis].max() * 128
        assert abs(seen.min() - low) < 2.5 and abs(seen.max() + 1 - high) < 2.5


def test_a_card_edge_on_is_not_seen_and_a_cube_shows_three_faces_at_most() -> None:
    assert not solids.facing(Solid("card", 0, "white", 90.0, 0.0)).any()
    for yaw in range(0, 360, 15):
        assert 1 <= int(solids.facing(Solid("cube", 0, "white", float(yaw), 20.0)).sum()) <= 3


def test_it_turns_to_the_right() -> None:
    """A small positive yaw moves the front face to the right; a positive pitch shows the lid."""
    front = solids.turned(Solid("cube", 0, "white", 20.0, 0.0))[0].mean(0)
    assert front[0] > 0.2 and front[2] < 0
    assert (
        solids.facing(Solid("cube", 0, "white", 0.0, 20.0))[4]
        and not solids.facing(Solid("cube", 0, "white", 0.0, -20.0))[4]
    )
