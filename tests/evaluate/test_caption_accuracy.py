"""Caption accuracy: the world's own captions are right; false captions and omissions are wrong."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace

import pytest
from PIL import Image

from kalpana.evaluate import suites
from kalpana.evaluate.caption_accuracy import FACTS, judge, measure, scores
from kalpana.world import grammar_en, grammar_hi
from kalpana.world.grammar import FORMS, LANGUAGES, caption
from kalpana.world.hard_negatives import OPPOSITE, hard_negative
from kalpana.world.lexicon import lexicon
from kalpana.world.parse import read
from kalpana.world.scene import Background, Group, Scene, SceneObject

PROMPTS = suites.load("spriteeval", dev=True)
SCENES = [prompt.scene(random.Random(k)) for k, prompt in enumerate(PROMPTS)]
APPLE, CAR = (next(c.id for c in lexicon().values() if c.en == name) for name in ("apple", "car"))


APPLES, BLUE_CAR = Group(APPLE, 3, "red"), Group(CAR, 1, "blue")


def pair(relation: str | None, one: Group = APPLES, two: Group = BLUE_CAR) -> Scene:
    """A scene of two groups; only its groups and relation matter for captions."""
    objects = tuple(
        SceneObject(0, 0.5, 0.5, 0.2, group=k)
        for k, group in enumerate((one, two))
        for _ in range(group.count)
    )
    return Scene(objects, (one, two), Background("flat", "white"), relation)


@pytest.mark.slow
@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("form", FORMS)
def test_what_the_world_says_of_its_scenes_is_right(language: str, form: str) -> None:
    """All facts, except a count that a natural caption may omit ("some apples")."""
    for turn in range(2):
        texts = [
            caption(scene, language, form, random.Random(f"{turn}/{k}"))
            for k, scene in enumerate(SCENES)
        ]
        found = scores(SCENES, texts, language)
        assert (
            all(found[fact][0] == 1 for fact in ("things", "colours", "relations"))
            and min(n for _, n in found.values()) > 20
        )
        for scene, text in zip(SCENES, texts, strict=True):
            if not all(judge(scene, text, language)["counts"]):
                assert form == "natural" and max(group.count for group in scene.groups) > 2
                assert not any(
                    word in text.split()
                    for word in (*grammar_en.NUMERALS[1:], *grammar_hi.NUMERALS[1:])
                ), text


@pytest.mark.slow
@pytest.mark.parametrize("language", LANGUAGES)
def test_what_is_said_wrongly_is_not_right(language: str) -> None:
    """In captions with one fact wrong, only the changed fact is judged wrong."""
    seen = set()
    facts = {"count": "counts", "color": "colours", "colors": "colours", "relation": "relations"}
    for k, scene in enumerate(SCENES * 3):
        other = hard_negative(scene, random.Random(k), "dev")
        if other is None:
            continue
        way, wrong = other
        judged = judge(scene, caption(wrong, language, "short", random.Random(k)), language)
        assert not all(judged[facts[way]]), (way, scene)
        assert all(all(so) for fact, so in judged.items() if fact not in (facts[way], "several")), (
            way,
            scene,
        )
        seen.add(way)
    assert {"count", "color"} <= seen


@pytest.mark.slow
@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("relation", ["left of", "right of", "above", "below", "next to", "on"])
def test_every_pattern_of_a_relation_says_that_and_no_other(language: str, relation: str) -> None:
    scene = pair(relation)
    texts = {caption(scene, language, "natural", random.Random(k)) for k in range(150)}
    wrong = (
        pair(OPPOSITE[relation])
        if relation in OPPOSITE
        else replace(scene, groups=scene.groups[::-1], relation="above")
    )
    assert len(texts) > 100
    for text in texts:
        assert judge(scene, text, language)["relations"] == [True], text
        assert judge(wrong, text, language)["relations"] == [False], text
    turned = replace(pair(OPPOSITE.get(relation, relation), scene.groups[1], scene.groups[0]))
    if relation != "on":  # the mirrored relation is the same fact
        assert all(judge(turned, text, language)["relations"] == [True] for text in texts)


@pytest.mark.parametrize(
    ("text", "language", "right"),
    [
        ("three red apples to the left of a blue car", "en", (True, True, True)),
        ("a blue car to the right of three red apples", "en", (True, True, True)),
        ("four red apples to the left of a blue car", "en", (False, True, True)),
        ("three blue apples to the left of a red car", "en", (True, False, True)),
        ("three red apples to the right of a blue car", "en", (True, True, False)),
        ("three red apples and a blue car", "en", (True, True, False)),
        ("नीली कार के बाईं ओर तीन लाल सेब", "hi", (True, True, True)),
        ("लाल कार के बाईं ओर तीन नीले सेब", "hi", (True, False, True)),
        ("नीली कार के बाईं ओर 3 लाल रंग के सेब", "hi", (True, True, True)),
        ("तीन लाल सेबों के बाईं ओर नीली कार", "hi", (True, True, False)),
        ("", "en", (False, False, False)),
        ("a picture of nothing , , of", "en", (False, False, False)),
    ],
)
def test_by_hand(text: str, language: str, right: tuple[bool, bool, bool]) -> None:
    judged = judge(pair("left of"), text, language)
    assert tuple(all(judged[fact]) for fact in ("counts", "colours", "relations")) == right


def test_one_phrase_can_mean_several_things() -> None:
    (mention,) = read("two red apples", "en").mentions
    assert mention.count == 2 and (APPLE, "red") in mention.means
    assert read("an apple that is red", "en").mentions[0].means >= {(APPLE, "red")}
    assert (APPLE, "red") not in read("an apple on a red background", "en").mentions[0].means
    assert read("some apples", "en").mentions[0].count is None


def test_a_model_is_set_between_floor_and_ceiling() -> None:
    """A model that captions every picture as the world does reaches the ceiling."""
    prompts = PROMPTS[::12]
    scenes = [prompt.scene(random.Random(f"told/{k}")) for k, prompt in enumerate(prompts)]
    seen = list[int]()

    def knows(images: Sequence[Image.Image], language: str) -> list[str]:
        start = sum(seen) % len(prompts)
        seen.append(len(images))
        return [
            caption(scene, language, "natural", random.Random(f"told/{k}"))
            for k, scene in enumerate(scenes)
        ][start : start + len(images)]

    lines = measure(knows, prompts, lambda done, of: None).splitlines()
    assert lines[0].count("|") == 3 + len(FACTS) and len(lines) == 2 + 3 * len(LANGUAGES)
    for k in range(len(LANGUAGES)):
        floor, model, ceiling = (line.split("|")[3:-1] for line in lines[2 + 3 * k : 5 + 3 * k])
        assert model == ceiling and "100.0 %" in model[0] and float(floor[0].split()[0]) < 30
