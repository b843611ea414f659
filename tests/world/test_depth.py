"""Tests of depth scenes: occlusion, amodal boxes, depth maps and shadows agree with the scene."""

from __future__ import annotations

import random
from dataclasses import replace

import torch

from kalpana.world import grammar
from kalpana.world.render import render
from kalpana.world.scene import DEPTH_RELATIONS
from kalpana.world.world import World

WORLD = World(seed=4, kind="depth")


def test_the_front_hides_a_part_of_the_back_and_the_near_hides_nothing() -> None:
    seen = set()
    for i in range(60):
        truth = WORLD[i].truth
        (back, front), relation = truth.masks, truth.scene.relation
        hidden = 1 - back.sum() / truth.whole[0].sum()
        assert (
            truth.scene.objects[1].group == 0
            and truth.scene.objects[1].depth < truth.scene.objects[0].depth
        )
        assert torch.equal(front, truth.whole[1])
        if relation == "in front of":
            assert 0.01 < hidden < 0.7, f"picture {i}: {hidden:.0%} hidden"
        else:
            assert hidden == 0
            assert (
                truth.whole[1].sum() > 1.5 * truth.whole[0].sum()
                or truth.scene.objects[1].size > 2 * truth.scene.objects[0].size
            )
        assert truth.amodal[1, 3] > truth.amodal[0, 3], "what is nearer stands lower"
        seen.add(relation)
    assert seen == set(DEPTH_RELATIONS)


def test_the_amodal_box_is_the_box_of_the_thing_drawn_alone() -> None:
    for i in range(20):
        truth = WORLD[i].truth
        for k, item in enumerate(truth.scene.objects):
            alone = render([replace(truth.scene, objects=(item,))], masks=True)
            assert alone.masks is not None
            assert torch.equal(alone.masks[0][0], truth.whole[k])
            ys, xs = truth.whole[k].nonzero().unbind(1)
            assert truth.amodal[k].tolist() == [xs.min(), ys.min(), xs.max() + 1, ys.max() + 1]


def test_depth_is_the_depth_of_what_is_seen() -> None:
    for i in range(20):
        truth = WORLD[i].truth
        for mask, item in zip(truth.masks, truth.scene.objects, strict=True):
            assert torch.allclose(truth.depth[mask], torch.tensor(item.depth))
        assert (truth.depth[~truth.masks.any(0)] == 1).all()


def test_a_shadow_darkens_the_ground_under_the_foot_and_nothing_above() -> None:
    found = 0
    for i in range(40):
        scene = WORLD.scene(i)
        if not scene.objects[1].shadow:
            continue
        lit = replace(scene, objects=tuple(replace(item, shadow=False) for item in scene.objects))
        change = (render([lit]).pixels[0] - render([scene]).pixels[0]).amax(0)
        assert change.min() > -1e-5 and change.max() > 0.02
        top = int(min(item.y for item in scene.objects) * 128)
        assert change[:top].max() < 0.02
        found += 1
    assert found > 10


def test_captions_say_who_is_in_front() -> None:
    """A scene with its groups exchanged has another caption: the caption states which is nearer."""
    for i in range(40):
        scene = WORLD.scene(i)
        other = replace(scene, groups=scene.groups[::-1])
        for language in ("en", "hi"):
            original, exchanged = (
                grammar.caption(s, language, "natural", random.Random(i)) for s in (scene, other)
            )
            assert original != exchanged


def test_a_picture_does_not_depend_on_its_batch() -> None:
    together = WORLD.images(range(12))
    assert all(torch.equal(together[i], WORLD[i].image) for i in range(12))
