"""Tests of multi-object scenes: objects agree with their groups and are almost fully visible."""

from __future__ import annotations

import random
from collections import Counter

import pytest

from kalpana.world.atlas import load
from kalpana.world.kinds.multi_object import SIDES, sample, sample_figures, sample_hands
from kalpana.world.lexicon import lexicon
from kalpana.world.render import render
from kalpana.world.scene import STYLES, Hand, Puppet

SCENES = [sample(random.Random(i)) for i in range(60)]


def test_many_things_of_one_style_as_they_are_called() -> None:
    for scene in SCENES:
        assert 1 <= len(scene.objects) <= max(SIDES) ** 2 and len(scene.groups) == len(
            scene.objects
        )
        for scene_object in scene.objects:
            sprite, group = load().sprites[scene_object.sprite], scene.groups[scene_object.group]
            assert (sprite.style, sprite.concept, scene_object.color) == (
                scene.style,
                group.concept,
                group.color,
            )
            assert scene_object.color is None or sprite.recolor
    assert {scene.style for scene in SCENES} == set(STYLES)


def test_some_things_stand_askew() -> None:
    """A fifth of the objects has any angle, so 2 in 15 exceed 60 degrees; the others at most 10."""
    angles = [abs(scene_object.angle) for scene in SCENES for scene_object in scene.objects]
    assert 0.08 < sum(angle > 60 for angle in angles) / len(angles) < 0.2
    assert 0.7 < sum(angle <= 10 for angle in angles) / len(angles) < 0.9


def test_core_classes_are_drawn_about_evenly_and_others_seldom() -> None:
    scenes = [sample(random.Random(f"even/{i}")) for i in range(600)]
    counts = Counter(group.concept for scene in scenes for group in scene.groups)
    core = [counts[concept.id] for concept in lexicon().values() if concept.core]
    assert min(core) > 0.3 * sum(core) / len(core) and max(core) < 2 * sum(core) / len(core)
    assert 0.05 < 1 - sum(core) / sum(counts.values()) < 0.2


def test_nearly_all_of_each_thing_can_be_seen() -> None:
    drawn = render(SCENES[:24], masks=True)
    assert drawn.masks is not None and drawn.whole is not None
    shares = [
        (mask.sum() / whole.sum()).item()
        for masks, wholes in zip(drawn.masks, drawn.whole, strict=True)
        for mask, whole in zip(masks, wholes, strict=True)
    ]
    assert min(shares) > 0.5 and sum(share > 0.95 for share in shares) > 0.9 * len(shares)


@pytest.mark.slow
def test_hands_and_figures_stand_whole_in_their_places() -> None:
    """Each hand or figure is fully visible in its quarter, or alone; some hands are malformed."""
    rng = random.Random(5)
    scenes = [draw(rng) for _ in range(40) for draw in (sample_hands, sample_figures)]
    drawn = render(scenes, masks=True)
    assert drawn.masks is not None and drawn.whole is not None
    for masks, wholes in zip(drawn.masks, drawn.whole, strict=True):
        assert 1 <= len(masks) <= 4
        assert all(
            whole.any() and (mask.sum() / whole.sum()).item() > 0.9
            for mask, whole in zip(masks, wholes, strict=True)
        )
    cast = [
        scene_object.sprite
        for scene in scenes
        for scene_object in scene.objects
        if isinstance(scene_object.sprite, Hand)
    ]
    assert 0.2 < sum(bool(hand.flaw) for hand in cast) / len(cast) < 0.6
    assert {sum(hand.raised) for hand in cast} == set(range(6))
    figures = [
        [
            scene_object.sprite.pose
            for scene_object in scene.objects
            if isinstance(scene_object.sprite, Puppet)
        ]
        for scene in scenes
    ]
    assert len({pose for poses in figures for pose in poses}) > 15 and any(
        len(poses) == 4 for poses in figures
    )
