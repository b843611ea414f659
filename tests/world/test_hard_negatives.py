"""Tests of hard negatives: one changed property, a false caption, no held-out combination."""

from __future__ import annotations

import random
from collections import Counter

import pytest

from kalpana.world.grammar import FORMS, LANGUAGES
from kalpana.world.hard_negatives import WAYS, hard_negative
from kalpana.world.kinds import hands, signs
from kalpana.world.scene import Hand, Scene, Sign
from kalpana.world.splits import belongs, said
from kalpana.world.world import KINDS, World

PAIRS = {
    kind: [
        (scene, *found)
        for i in range(120)
        if (found := hard_negative(scene := World(3, kind=kind).scene(i), random.Random(i)))
    ]
    for kind in WAYS
}


@pytest.mark.parametrize("kind", WAYS)
def test_nearly_every_scene_can_be_twisted_and_objects_in_every_way(kind: str) -> None:
    ways = Counter(way for _, way, _ in PAIRS[kind])
    assert (
        ways.keys() == WAYS[kind].keys() if kind == "objects" else ways.keys() <= WAYS[kind].keys()
    )
    assert len(PAIRS[kind]) > 108


@pytest.mark.slow
@pytest.mark.parametrize("kind", WAYS)
@pytest.mark.parametrize("language", LANGUAGES)
def test_another_caption_is_said(kind: str, language: str) -> None:
    for form in FORMS:
        pairs = [
            [KINDS[kind].caption(each, language, form, random.Random(k)) for each in (scene, other)]
            for k, (scene, _, other) in enumerate(PAIRS[kind])
        ]
        same = [one for one, two in pairs if one == two]  # "some cats" fits three and four
        assert len(same) <= (0.06 * len(pairs) if form == "natural" else 0.02 * len(pairs)), same


@pytest.mark.parametrize("kind", ("objects", "depth", "paintings"))
def test_what_is_said_of_things_is_another_scene_of_the_same_split(kind: str) -> None:
    for scene, way, other in PAIRS[kind]:
        assert other.objects == scene.objects and other.background == scene.background
        assert belongs(other, "train")
        changed = Counter(scene.groups) != Counter(other.groups)
        if way == "relation":
            assert not changed and said(other) != said(scene)
        elif way == "colors":
            assert (
                Counter(group.color for group in scene.groups)
                == Counter(group.color for group in other.groups)
                and changed
            )
        else:
            assert changed and [group.concept for group in scene.groups] == [
                group.concept for group in other.groups
            ]
        if way == "count":
            assert (
                sorted(
                    abs(a.count - b.count) for a, b in zip(scene.groups, other.groups, strict=True)
                )[-1]
                == 1
            )


@pytest.mark.slow
def test_with_no_split_a_small_one_is_twisted_in_every_way() -> None:
    """A changed scene of two objects seldom falls into the split of the original."""
    world = World(1, "test")
    scenes = [scene for i in range(6000) if len((scene := world.scene(i)).groups) == 2]
    within, anywhere = (
        Counter(
            found[0]
            for k, scene in enumerate(scenes)
            if (found := hard_negative(scene, random.Random(k), split))
        )
        for split in ("test", None)
    )
    assert (
        anywhere["relation"] > 50
        and anywhere["relation"] > 8 * within["relation"]
        and anywhere["colors"] > 0
    )
    assert sum(anywhere.values()) == len(scenes)


def test_a_word_differs_by_one_character_and_a_hand_by_one_finger() -> None:
    for scene, _, other in PAIRS["text"]:
        (a,), (b,) = (_sprites(each, Sign) for each in (scene, other))
        assert (
            len(a.text) == len(b.text)
            and sum(x != y for x, y in zip(a.text, b.text, strict=True)) == 1
        )
        assert len(b.text) == 1 or signs.split_of(b.text) == "train"
    for scene, _, other in PAIRS["hands"]:
        one, two = (_sprites(each, Hand) for each in (scene, other))
        assert sum(abs(hands.count(a) - hands.count(b)) for a, b in zip(one, two, strict=True)) == 1


def test_what_is_to_be_tried_first_is_what_is_twisted_wherever_it_can_be() -> None:
    for scene, way, _ in PAIRS["objects"]:
        ways = {name for name, way in WAYS["objects"].items() if list(way(scene, "train"))}
        for name in WAYS["objects"]:
            found = hard_negative(scene, random.Random(0), first=(name,))
            assert found and (found[0] == name) == (name in ways)
        assert way in ways


def test_the_same_chance_twists_the_same() -> None:
    scene = World(3).scene(5)
    assert hard_negative(scene, random.Random(1)) == hard_negative(scene, random.Random(1))


def _sprites(scene: Scene, kind: type) -> list:
    return [item.sprite for item in scene.objects if isinstance(item.sprite, kind)]
