"""Sources of captions of videos, and the file of a captioner's captions."""

from __future__ import annotations

import json
import random
from collections import Counter
from pathlib import Path

import pytest
from torch import Tensor

from kalpana.evaluate.video.captions import judge
from kalpana.train import recaptions
from kalpana.train.recaptions import Captions, check, read, source, write
from kalpana.train.recipe import make_recipe
from kalpana.types import KalpanaError
from kalpana.world.video import Videos
from kalpana.world.video.noisy import DROPPED, WRONG, noisy_caption
from kalpana.world.video.parse import read as parse

WORLD = Videos(7)


@pytest.mark.slow
@pytest.mark.parametrize("language", ["en", "hi"])
def test_half_of_the_facts_are_left_out_of_noisy_captions_and_some_are_wrong(
    language: str,
) -> None:
    """Judged by the inverse grammar, which knows nothing of how they were made."""
    events, colors, things = Counter[str](), list[bool](), list[bool]()
    for i in range(500):
        video = WORLD.video(i)
        text = noisy_caption(video, language, random.Random(i))
        facts, parsed = judge(video, text, language), parse(text, language)
        things += facts["things"]
        colors += facts["colours"]
        stated = facts.get("direction") or facts.get("camera") or facts["event"]
        if not parsed.events and not parsed.cameras:
            events["left out"] += 1
        else:
            events["right" if all(stated + facts["event"]) else "wrong"] += 1
    for kind, share in (("left out", DROPPED), ("wrong", WRONG)):
        # An object that is wrong hides the right event of "hide" too: a few more are wrong.
        assert events[kind] / 500 == pytest.approx(share, abs=0.08), events
    assert sum(colors) / len(colors) == pytest.approx((1 - DROPPED - WRONG) * (1 - WRONG), abs=0.08)
    assert sum(things) / len(things) == pytest.approx(1 - WRONG, abs=0.06)


def test_short_captions_are_true_and_true_ones_are_those_of_the_world() -> None:
    short, true = source("short", WORLD), source("true", WORLD)
    for i in range(40):
        text = short(i, 3)
        language = "hi" if any("ऀ" <= letter <= "ॿ" for letter in text) else "en"
        assert all(all(facts) for facts in judge(WORLD.video(i), text, language).values()), text
        assert true(i, 3) == WORLD.describe(i, 3)[0]
    lengths = [sum(len(of(i, 0)) for i in range(200)) for of in (short, true)]
    assert lengths[0] < 0.9 * lengths[1]


def test_the_captioner_is_quoted_and_the_mixture_has_a_twentieth_of_noise() -> None:
    captions = Captions({}, tuple({"en": f"e{i}", "hi": f"h{i}"} for i in range(400)))
    told, mixed = (source(name, WORLD, captions) for name in ("captioner", "mixture"))
    texts = [told(i, 0) for i in range(400)]
    assert set(texts) <= {f"{name}{i}" for i in range(400) for name in "eh"}
    assert {text[0] for text in texts} == {"e", "h"} and texts[7][1:] == "7"
    takes = [mixed(i, take) for i in range(400) for take in range(3)]
    noise = sum(text[1:].isdecimal() is False for text in takes)
    assert noise / len(takes) == pytest.approx(0.05, abs=0.02)
    assert mixed(5, 1) == mixed(5, 1)


def tell(pixels: list[Tensor], seconds: list[float], language: str) -> list[str]:
    return [f"{language} {len(p)} {p.mean():.4f} {s}" for p, s in zip(pixels, seconds, strict=True)]


def harvest(path: Path, count: int, **model: str) -> None:
    write(path, Videos(7, side=16), count, model, tell, 3, lambda done, total: None)  # type: ignore[arg-type]


def test_a_stopped_harvest_goes_on_and_equals_an_unbroken_one(tmp_path: Path) -> None:
    whole, broken = tmp_path / "whole.jsonl", tmp_path / "broken.jsonl"
    harvest(whole, 12)
    harvest(broken, 12)
    broken.write_text(broken.read_text()[:-5])  # killed within a line
    harvest(broken, 12)
    assert broken.read_text() == whole.read_text()
    found = read(whole)
    assert len(found.texts) == 12 and found.texts[3]["hi"].startswith("hi 3 ")
    assert found.about["seed"] == 7
    with pytest.raises(KalpanaError, match="of another captioner or world"):
        harvest(whole, 20, name="other")


def test_a_file_that_does_not_fit_is_one_line(tmp_path: Path) -> None:
    path = tmp_path / "captions.jsonl"
    harvest(path, 8)
    found = read(path)
    check(found, path, WORLD, range(8))
    with pytest.raises(KalpanaError, match=r"video 8 is needed: go on by .* --videos 9"):
        check(found, path, WORLD, range(9))
    with pytest.raises(KalpanaError, match="of seed 7, train, not of seed 8"):
        check(found, path, Videos(8), [])
    path.write_text("{}\n")
    with pytest.raises(KalpanaError, match="is no file of captions: write one by"):
        read(path)
    with pytest.raises(KalpanaError, match=r"captions cannot be read from .*No such file"):
        read(tmp_path / "none")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"captions": "captioner"}, "captioner needs captions_file, from kalpana world recaption"),
        ({"captions_file": "x"}, "captions true need no file: leave it out"),
        ({"captions": "loud"}, "field 'captions'"),
    ],
)
def test_a_recipe_says_what_its_captions_need(fields: dict[str, str], message: str) -> None:
    recipe = {"name": "v", "family": "video", "vae": "v", "steps": 1, "batch": 1, "lr": 1e-3}
    with pytest.raises(KalpanaError, match=message):
        make_recipe(recipe | fields)


def test_lines_are_json_in_both_languages(tmp_path: Path) -> None:
    harvest(tmp_path / "c.jsonl", 2)
    head, *lines = map(json.loads, (tmp_path / "c.jsonl").read_text().splitlines())
    assert head == recaptions.about(Videos(7), {}) and set(lines[0]) == {"en", "hi"}
