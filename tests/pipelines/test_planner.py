"""The layout planner of quoted words."""

from __future__ import annotations

import pytest
import torch

from kalpana.pipelines.planner import plan_glyphs


@pytest.mark.parametrize(
    ("prompt", "word", "side"),
    [
        ('a sign that says "OPEN"', "OPEN", None),
        ('the word "HI" above a cat', "HI", "above"),
        ('a cat below the word "HI"', "HI", "above"),
        ('a cat above a board with "GO" written on it', "GO", "below"),
        ('a star with the word "UP" below it', "UP", "below"),
        ("“नमस्ते” लिखा हुआ बोर्ड", "नमस्ते", None),
        ('बिल्ली के ऊपर "राम" शब्द', "राम", "above"),
        ('"राम" के ऊपर बिल्ली', "राम", "below"),
    ],
)
def test_a_quoted_word_gets_a_place(prompt: str, word: str, side: str | None) -> None:
    for seed in range(4):
        plan = plan_glyphs(prompt, seed)
        assert plan is not None and plan.word == word
        left, top, right, bottom = plan.box
        assert 0 <= left < right <= 1 and 0 <= top < bottom <= 1
        inked = (plan.map[0] > 0.5).nonzero().float() / 128
        assert len(inked) > 20
        (y0, x0), (y1, x1) = inked.amin(0).tolist(), inked.amax(0).tolist()
        assert left - 0.02 <= x0 and x1 <= right + 0.02 and top - 0.02 <= y0 and y1 <= bottom + 0.02
        if side is not None:
            assert ((top + bottom) / 2 < 0.5) == (side == "above")


def test_of_several_layouts_the_one_with_the_largest_letters_is_taken(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    heights: dict[int, list[float]] = {1: [], 6: []}
    for count, found in heights.items():
        monkeypatch.setattr("kalpana.pipelines.planner.LAYOUTS", count)
        for seed in range(6):
            plan = plan_glyphs('a sign that says "OPEN"', seed)
            assert plan is not None
            found.append(plan.box[3] - plan.box[1])
    assert all(few <= many for few, many in zip(heights[1], heights[6], strict=True))
    assert sum(heights[6]) > 1.2 * sum(heights[1])


def test_a_plan_depends_on_the_seed_alone() -> None:
    one, again, other = (plan_glyphs('a sign that says "OPEN"', seed) for seed in (1, 1, 2))
    assert one is not None and again is not None and other is not None
    assert torch.equal(one.map, again.map) and not torch.equal(one.map, other.map)


@pytest.mark.parametrize(
    "prompt", ["a red car", 'a sign "ONE" and a sign "TWO"', 'a sign "SUPERCALIFRAGILISTIC"', '""']
)
def test_no_plan_without_one_legible_word(prompt: str) -> None:
    assert plan_glyphs(prompt, 0) is None
