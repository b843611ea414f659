"""Scores: true scenes are right and minimal changes are wrong.

The relations follow GenEval's formula, and the intervals match the normal approximation.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterator
from dataclasses import replace
from functools import cache

import numpy as np
import pytest

from kalpana.evaluate.prompts import Prompt
from kalpana.evaluate.score import (
    Row,
    Share,
    Table,
    Thresholds,
    atoms,
    distance,
    judged,
    letters,
    markdown,
    ned,
    relations,
    right,
    rows,
    table,
)
from kalpana.evaluate.suites import SUITES, load
from kalpana.evaluate.verifiers.observations import Box, Detection, Observation, Reading, truth
from kalpana.types import KalpanaError
from kalpana.world.scene import COLORS, Group

OBJECTS = ("spriteeval", "spriteeval-hi", "unseen", "counts58", "hard")
APPLE, CAR = "1f34e", "1f697"


@cache
def true(name: str, dev: bool = False) -> list[tuple[Prompt, Observation]]:
    """Every prompt with the true observation of one of its scenes."""
    return [
        (prompt, truth(prompt.scene(random.Random(i)))) for i, prompt in enumerate(load(name, dev))
    ]


def object_cases() -> Iterator[tuple[Prompt, Observation]]:
    for name in OBJECTS:
        yield from true(name)


def item(
    concept: str,
    x: float = 0.5,
    y: float = 0.5,
    color: str | None = None,
    score: float = 1.0,
    side: float = 0.2,
) -> Detection:
    return Detection(
        concept, score, (x - side / 2, y - side / 2, x + side / 2, y + side / 2), color
    )


def prompt_of(*groups: Group, relation: str | None = None, exact: bool = False) -> Prompt:
    return Prompt("", "en", "", groups, relation, exact=exact)


def written(word: str) -> Prompt:
    return Prompt("", "en", "words", (Group("sign"),), word=word)


def read(*words: str, alike: bool = False) -> Observation:
    return Observation(readings=(Reading(words, alike=alike),))


@pytest.mark.slow
@pytest.mark.parametrize("name", SUITES)
def test_a_perfect_verifier_finds_every_true_scene_right(name: str) -> None:
    for prompt, seen in true(name):
        assert right(prompt, seen), prompt.text
        assert right(prompt, seen, strict=True), prompt.text
        assert not right(prompt, Observation())


@pytest.mark.slow
@pytest.mark.parametrize("name", OBJECTS)
def test_so_for_dev(name: str) -> None:
    assert all(
        right(prompt, seen, strict=True) and all(atoms(prompt, seen))
        for prompt, seen in true(name, True)
    )


@pytest.mark.slow
def test_a_missing_object_and_another_class_are_wrong() -> None:
    for prompt, seen in object_cases():
        for i, one in enumerate(seen.objects):
            others = seen.objects[:i] + seen.objects[i + 1 :]
            assert not right(prompt, Observation(others)), prompt.text
            other_class = next(
                c
                for c in (APPLE, CAR, "1f415")
                if c not in {group.concept for group in prompt.groups}
            )
            assert not right(prompt, Observation((*others, replace(one, concept=other_class)))), (
                prompt.text
            )


def test_one_too_many_is_wrong_where_the_count_or_the_rule_is_exact() -> None:
    tasks = {"counting", "counts58", "unseen count"}
    for prompt, seen in object_cases():
        more = Observation((*seen.objects, replace(seen.objects[0], score=0.9)))
        exact = prompt.task in tasks or prompt.task.startswith("hard")
        assert right(prompt, more) != exact, prompt.text
        assert not right(prompt, more, strict=True)
        # No prompt asks for a flamingo.
        bystander = Observation((*seen.objects, item("1f9a9", 0.04, 0.04, side=0.08)))
        assert right(prompt, bystander) and not right(prompt, bystander, strict=True)


def test_wrong_colors_are_wrong() -> None:
    for prompt, seen in object_cases():
        named = {group.concept: group.color for group in prompt.groups if group.color}
        for i, one in enumerate(seen.objects):
            for color in (None, *COLORS):
                if one.concept in named and color != named[one.concept]:
                    painted = (*seen.objects[:i], replace(one, color=color), *seen.objects[i + 1 :])
                    assert not right(prompt, Observation(painted)), prompt.text
        if len(named) == 2:
            swap = dict(zip(named, reversed(named.values()), strict=True))
            assert not right(
                prompt, Observation(tuple(replace(t, color=swap[t.concept]) for t in seen.objects))
            ), prompt.text


def test_a_mirrored_relation_is_wrong() -> None:
    seen_relations = set()
    for prompt, seen in object_cases():
        if prompt.relation is None:
            continue
        seen_relations.add(prompt.relation)
        across = prompt.relation in ("left of", "right of")
        for mirror in (True, False):  # along the relation's axis, then across it
            turned = []
            for t in seen.objects:
                x0, y0, x1, y1 = t.box
                sideways, upright = (1 - x1, y0, 1 - x0, y1), (x0, 1 - y1, x1, 1 - y0)
                turned.append(replace(t, box=sideways if across == mirror else upright))
            assert right(prompt, Observation(tuple(turned))) != mirror, prompt.text
    assert seen_relations == {"left of", "right of", "above", "below"}


def test_a_wrong_size_is_wrong() -> None:
    sized = [(prompt, seen) for prompt, seen in true("hard") if prompt.groups[0].size]
    assert len(sized) > 20
    for prompt, seen in sized:
        swap = {"small": "large", "large": "small"}
        other = replace(
            prompt,
            groups=tuple(replace(group, size=swap[str(group.size)]) for group in prompt.groups),
        )
        assert not right(other, seen), prompt.text


@pytest.mark.slow
def test_hands_need_one_hand_with_just_these_fingers() -> None:
    for prompt, seen in true("hands"):
        n = prompt.fingers
        assert n is not None and seen.fingers == (n,)
        for wrong in ((n + 1,), (n - 1,), (), (n, n), None):
            assert not right(prompt, Observation(fingers=wrong))


@pytest.mark.slow
def test_words_are_read_letter_for_letter() -> None:
    for name in ("words-latin", "words-devanagari"):
        for prompt, _ in true(name):
            word = prompt.word or ""
            for wrong in ((word[:-1],), (word + word[-1],), (word[1:],), ()):
                assert not right(prompt, read(*wrong)), prompt.text
            both = read("XYZZY", word)
            assert right(prompt, both) and not right(prompt, both, strict=True)
            assert (
                not right(prompt, Observation())
                and distance(prompt, Observation()) == distance(prompt, read()) == 1
            )
            assert distance(prompt, both) == 0 and distance(
                prompt, read("", word[:-1])
            ) == pytest.approx(ned(word, word[:-1]))
    assert not right(written("Ab"), read("AB"))
    assert right(written("लड\u093cका"), read("ल\u095cका")), "the same letters in another encoding"


def test_digits_are_taken_for_letters_only_where_the_reader_that_counts_does_so() -> None:
    word, reading = written("B10"), ("BIO",)
    assert not right(word, read(*reading)) and distance(word, read(*reading)) == pytest.approx(
        2 / 3
    )
    assert (
        right(word, read(*reading, alike=True)) and distance(word, read(*reading, alike=True)) == 0
    )
    assert right(word, read("B10", alike=True), strict=True) and not right(
        word, read("B7O", alike=True)
    )
    both = Observation(readings=(Reading(reading, "exact"), Reading(reading, "other", alike=True)))
    assert [right(word, both.read_by(k)) for k in range(3)] == [False, True, False] and not right(
        word, both
    )


def test_words_have_a_mean_distance_and_a_prompt_counts_once() -> None:
    asked = [written("AB"), written("CD")]
    made = judged(asked, [[read("AB"), read("A"), read("XY"), read()], [read("CD")]])
    assert made.distance == pytest.approx(
        ((0 + 1 / 2 + 1 + 1) / 4 + 0) / 2
    ) and made.overall.right == pytest.approx((1 / 4 + 1) / 2)
    assert judged([prompt_of(Group(APPLE))], [[Observation((item(APPLE),))]]).distance is None


def test_only_sure_detections_count_and_counting_has_a_threshold_of_its_own() -> None:
    lone = prompt_of(Group(APPLE))
    assert right(lone, Observation((item(APPLE, score=0.31),)))
    assert not right(lone, Observation((item(APPLE, score=0.3),)))
    three = prompt_of(Group(APPLE, 3), exact=True)
    unsure = Observation((*(item(APPLE) for _ in range(3)), item(APPLE, score=0.5)))
    assert not right(three, unsure)
    assert right(three, unsure, thresholds=Thresholds(counting=0.9))
    assert not right(three, unsure, thresholds=Thresholds(include=0.9))


def test_the_surest_are_judged() -> None:
    red = prompt_of(Group(APPLE, color="red"))
    assert right(
        red,
        Observation((item(APPLE, color="green", score=0.6), item(APPLE, color="red", score=0.7))),
    )
    assert not right(
        red,
        Observation((item(APPLE, color="green", score=0.8), item(APPLE, color="red", score=0.7))),
    )
    left = prompt_of(Group(APPLE), Group(CAR), relation="left of")
    objects = (item(APPLE, x=0.2, score=0.8), item(APPLE, x=0.9, score=0.7), item(CAR, x=0.6))
    assert right(left, Observation(objects))
    assert not right(left, Observation((*objects, item(APPLE, x=0.9, score=0.9))))


def test_atoms_fall_one_by_one() -> None:
    asked = prompt_of(Group(APPLE, 2, "red"), Group(CAR, 1, "blue"), relation="left of", exact=True)
    whole = (
        item(APPLE, 0.1, 0.4, "red"),
        item(APPLE, 0.1, 0.7, "red"),
        item(CAR, 0.8, 0.5, "blue"),
    )
    assert atoms(asked, Observation(whole)) == [True] * 7
    assert atoms(asked, Observation(whole[1:])) == [True, False, True, True, True, True, True]
    assert atoms(asked, Observation(whole[:2])) == [True, True, True, False, False, False, False]
    assert atoms(asked, Observation((*whole[:2], replace(whole[2], color="red")))) == [
        True,
        True,
        True,
        True,
        True,
        False,
        True,
    ]
    assert atoms(asked, Observation((*whole[:2], item(CAR, 0.1, 0.05, "blue")))) == [True] * 6 + [
        False
    ]
    assert atoms(asked, Observation()) == [False] * 7


def geneval(a: Box, b: Box) -> set[str]:
    """GenEval's formula, written a second time with plain numbers."""
    dx, dy = (a[0] + a[2] - b[0] - b[2]) / 2, (a[1] + a[3] - b[1] - b[3]) / 2
    near_x, near_y = 0.1 * (a[2] - a[0] + b[2] - b[0]), 0.1 * (a[3] - a[1] + b[3] - b[1])
    length = math.hypot(dx, dy)
    found = set()
    if dx < 0 and -dx - near_x > 0.5 * length:
        found.add("left of")
    if dx > 0 and dx - near_x > 0.5 * length:
        found.add("right of")
    if dy < 0 and -dy - near_y > 0.5 * length:
        found.add("above")
    if dy > 0 and dy - near_y > 0.5 * length:
        found.add("below")
    return found


def test_relations_are_genevals() -> None:
    rng = random.Random(0)
    sizes = []
    for _ in range(3000):
        boxes = []
        for _ in range(2):
            x, y, w, h = rng.random(), rng.random(), rng.uniform(0.01, 0.8), rng.uniform(0.01, 0.8)
            boxes.append((x, y, x + w, y + h))
        found = relations(boxes[0], boxes[1])
        assert found == geneval(boxes[0], boxes[1])
        sizes.append(len(found))
    assert {0, 1, 2} == set(sizes), "the boxes show all there is to show"


def test_relations_by_hand() -> None:
    a, b = (0.0, 0.4, 0.2, 0.6), (0.7, 0.4, 0.9, 0.6)
    assert relations(a, b) == {"left of"} and relations(b, a) == {"right of"}
    assert relations((0.4, 0.0, 0.6, 0.2), (0.4, 0.7, 0.6, 0.9)) == {"above"}
    assert relations((0.4, 0.7, 0.6, 0.9), (0.4, 0.0, 0.6, 0.2)) == {"below"}
    assert relations((0.0, 0.0, 0.1, 0.1), (0.8, 0.8, 0.9, 0.9)) == {"left of", "above"}
    assert relations(a, a) == set()


def test_ned_of_known_words() -> None:
    assert ned("SALE", "SALE") == 0 and ned("", "") == 0
    assert ned("SALE", "") == ned("", "SALE") == ned("AB", "CD") == 1
    assert ned("SALE", "SALT") == 0.25
    assert ned("kitten", "sitting") == 3 / 7
    assert ned("OPEN", "OPENS") == 0.2
    assert letters("किताब") == ["कि", "ता", "ब"] and letters("क्त") == ["क्", "त"]
    assert ned("किताब", "कीताब") == 1 / 3, "a wrong sign is one wrong letter"
    assert ned("ड\u093c", "\u095c") == 0


def test_the_interval_is_that_of_the_normal_distribution() -> None:
    rng = random.Random(1)
    asked = [Prompt(str(i), "en", "single", ()) for i in range(2000)]
    results = {i: [rng.random() < 0.7 for _ in range(4)] for i in range(2000)}
    share = table(asked, results).tasks["single"]
    means = np.array([sum(some) / 4 for some in results.values()])
    half = 1.96 * means.std() / math.sqrt(2000)
    assert share.right == pytest.approx(means.mean()) and share.prompts == 2000
    assert share.low == pytest.approx(share.right - half, abs=0.08 * half)
    assert share.high == pytest.approx(share.right + half, abs=0.08 * half)


def test_there_is_no_interval_below_five_prompts() -> None:
    """Bootstrap samples of one prompt are all equal: an interval of width 0 would be wrong."""
    asked = [Prompt(str(i), "en", "two", ()) for i in range(5)]
    results = {i: [i % 2 == 0] for i in range(5)}
    few = table(asked[:4], {i: results[i] for i in range(4)}).tasks["two"]
    assert (few.low, few.high, few.percent()) == (None, None, "50.0")
    enough = table(asked, results).tasks["two"]
    assert enough.percent() == f"60.0 ({100 * enough.low:.1f} to {100 * enough.high:.1f})"
    assert enough.low < enough.right < enough.high
    # Overall: six tasks of one prompt have no known variance, six of two have.
    for each, known in ((1, False), (2, True)):
        asked = [Prompt(f"{i}", "en", str(i // each), ()) for i in range(6 * each)]
        overall = table(asked, {i: [i % 2 == 0] for i in range(6 * each)}).overall
        assert (overall.low is not None) is known


def test_overall_is_the_plain_mean_of_tasks() -> None:
    asked = [
        Prompt(str(i), "en", task, ()) for i, task in enumerate(["two"] * 90 + ["single"] * 10)
    ]
    results = {i: [i % 3 == 0, False] if i < 90 else [True, True] for i in range(100)}
    scored = table(asked, results)
    assert list(scored.tasks) == ["two", "single"]
    assert scored.tasks["two"].right == pytest.approx(1 / 6) and scored.tasks[
        "two"
    ].any_right == pytest.approx(1 / 3)
    assert scored.tasks["single"] == Share(1.0, 1.0, 1.0, 1.0, 10)
    assert scored.overall.right == pytest.approx(
        7 / 12
    ) and scored.overall.any_right == pytest.approx(0.4)
    assert scored.overall.low < 7 / 12 < scored.overall.high
    two = scored.tasks["two"]
    assert scored.overall.high - scored.overall.low == pytest.approx((two.high - two.low) / 2), (
        "halved by a task without variance"
    )
    assert table(asked, dict(reversed(results.items()))).overall.right == scored.overall.right
    assert table(asked, results) == scored
    for empty in ({}, {0: []}):
        with pytest.raises(KalpanaError, match="at least one picture"):
            table(asked, empty)


def test_what_the_verifier_may_not_be_trusted_with_is_marked() -> None:
    share = Share(0.5, 0.45, 0.55, 0.75, 80)
    scored = Table({"single": share, "two": share}, share)
    names = [
        line.split("|")[1].strip()
        for line in markdown(rows(scored, verified={"single": True, "two": False})).splitlines()
    ]
    assert names[2:] == ["single", "two (not verified)", "overall (not verified)"]
    assert "not verified" not in markdown(
        rows(scored, verified={"single": True, "two": True})
    ) + markdown(rows(scored))


def test_a_report_shows_the_columns_that_are_given() -> None:
    share = Share(0.5, 0.45, 0.55, 0.75, 80)
    text = markdown([Row("single", share, floor=0.01, ceiling=1.0), Row("overall", share)])
    assert text.splitlines() == [
        "| task | floor | score (95 %) | ceiling | any seed | prompts |",
        "| --- | ---: | ---: | ---: | ---: | ---: |",
        "| single | 1.0 | 50.0 (45.0 to 55.0) | 100.0 | 75.0 | 80 |",
        "| overall |  | 50.0 (45.0 to 55.0) |  | 75.0 | 80 |",
    ]
    asked = [Prompt("", "en", "two", ())]
    score, floor = table(asked, {0: [True, False]}), table(asked, {0: [False]})
    assert rows(score, floor=floor) == [
        Row(name, score.tasks["two"], floor=0.0) for name in ("two", "overall")
    ]
