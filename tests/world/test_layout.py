"""Layouts of prompts: scenes that show what a prompt states."""

from __future__ import annotations

import random
from collections import Counter

import pytest

from kalpana.world.expansion import expand
from kalpana.world.layout import Asked, layout, meanings
from kalpana.world.lexicon import lexicon
from kalpana.world.scene import Scene

Thing = tuple[str, int, str | None, str | None]  # name, count, colour, size


def stated(asked: Asked) -> list[Thing]:
    return [(lexicon()[g.concept].en, g.count, g.color, g.size) for g in asked.groups]


def centre(scene: Scene, concept: str) -> tuple[float, float]:
    found = [item for item in scene.objects if scene.groups[item.group].concept == concept]
    return sum(i.x for i in found) / len(found), sum(i.y for i in found) / len(found)


def of(name: str) -> str:
    return next(c.id for c in lexicon().values() if c.core and c.en == name)


@pytest.mark.parametrize(
    ("prompt", "things"),
    [
        ("seven stars", [("star", 7, None, None)]),
        ("exactly 5 red apples on a beach", [("apple", 5, "red", None)]),
        ("सात तारे", [("star", 7, None, None)]),
        ("ठीक तीन लाल सेब", [("apple", 3, "red", None)]),
        ("a cat and two blue cars", [("cat", 1, None, None), ("car", 2, "blue", None)]),
        ("a small cat and a large dog", [("cat", 1, None, "small"), ("dog", 1, None, "large")]),
        ("एक छोटी बिल्ली और एक बड़ा कुत्ता", [("cat", 1, None, "small"), ("dog", 1, None, "large")]),
    ],
)
def test_counts_colours_and_sizes_are_read(prompt: str, things: list[Thing]) -> None:
    first = next(meanings(prompt))
    assert stated(first) == things and first.relation is None
    for seed in range(4):
        scene = layout(prompt, random.Random(seed))
        assert scene is not None
        drawn = Counter(scene.groups[item.group].concept for item in scene.objects)
        assert drawn == {of(name): count for name, count, *_ in things}
        by_size = {scene.groups[item.group].size: item.size for item in scene.objects}
        if "small" in by_size:
            assert 1.15 * by_size["small"] < by_size["large"]


@pytest.mark.parametrize(
    ("prompt", "first", "second", "axis"),
    [
        ("a rocket above the moon", "rocket", "moon", 1),
        ("a rocket below a star", "star", "rocket", 1),
        ("a cat to the left of two dogs", "cat", "dog", 0),
        ("a cat right of a dog", "dog", "cat", 0),
        ("एक कुत्ते के ऊपर एक बिल्ली", "cat", "dog", 1),
        ("एक कार के दाईं ओर तीन सेब", "car", "apple", 0),
    ],
)
def test_relations_hold(prompt: str, first: str, second: str, axis: int) -> None:
    for seed in range(6):
        scene = layout(prompt, random.Random(seed))
        assert scene is not None
        a, b = (centre(scene, of(name)) for name in (first, second))
        assert a[axis] < b[axis]


@pytest.mark.parametrize(
    "prompt",
    [
        "stars",  # no count
        "many stars",
        "twelve stars",  # a number that no training caption has
        "a cat riding a bicycle",
        "a cat in a car",  # words of the grammar, but no relation of it
        "a cat in front of a dog",  # a relation that hides a part
        "a cat, a dog and a bird",
        "a star at the top left",
        "बीच में एक तारा",
        "a hand with three fingers",
        "a room with no cat",
        "एक बिल्ली नहीं",
        "बिना एक कुत्ते के",
        "a large cat on a small sofa",  # sizes that no scene of this relation has
        'a sign that says "OPEN"',
        "a red बिल्ली and कुत्ता",
        "",
    ],
)
def test_no_layout_of_what_is_not_stated_or_unknown(prompt: str) -> None:
    assert layout(prompt, random.Random(0)) is None


def test_a_layout_follows_from_the_random_generator() -> None:
    one, again, other = (layout("three cats", random.Random(seed)) for seed in (1, 1, 2))
    assert one == again != other


def test_a_prompt_that_names_a_style_is_drawn_in_it() -> None:
    scene, usual = (
        layout(prompt, random.Random(0)) for prompt in ("three cats, glossy 3D", "three cats")
    )
    assert scene is not None and scene.style == "fluent-3d"
    assert usual is not None and usual.style == "fluent-emoji-flat"


@pytest.mark.parametrize(("prompt", "language"), [("seven stars", "en"), ("दो बिल्लियाँ", "hi")])
def test_an_expanded_prompt_keeps_its_layout(prompt: str, language: str) -> None:
    want = stated(next(meanings(prompt)))
    for seed in range(12):
        longer = expand(prompt, seed, language)
        asked = next(meanings(longer), None)
        assert asked is not None, longer
        assert [thing[:2] for thing in stated(asked)] == [thing[:2] for thing in want]
