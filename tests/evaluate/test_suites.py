"""Suites: number, text and split of the prompts; determinism; separation of dev and test."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import zlib
from collections import Counter
from functools import cache

import pytest

from kalpana.evaluate import suites
from kalpana.evaluate.prompts import Prompt
from kalpana.evaluate.suites import SUITES, load
from kalpana.types import KalpanaError
from kalpana.world import splits
from kalpana.world.kinds import signs
from kalpana.world.lexicon import lexicon
from kalpana.world.scene import Background, Scene
from kalpana.world.splits import belongs, combinations, held_out, split_of

prompts = cache(load)
BOTH = pytest.mark.parametrize("dev", (False, True), ids=("test", "dev"))


def said(prompt: Prompt) -> Scene:
    return Scene((), prompt.groups, Background("flat", "white"), prompt.relation)


def tasks(name: str, dev: bool) -> dict[str, int]:
    return dict(Counter(prompt.task for prompt in prompts(name, dev)))


@pytest.mark.slow
@BOTH
def test_spriteeval_has_genevals_numbers(dev: bool) -> None:
    geneval = {
        "single": 80,
        "two": 99,
        "counting": 80,
        "colors": 94,
        "position": 100,
        "color_attr": 100,
    }
    for name in ("spriteeval", "spriteeval-hi"):
        mine = prompts(name, dev)
        assert tasks(name, dev) == geneval and len(mine) == 553
        assert Counter(p.groups[0].count for p in mine if p.task == "counting") == {
            2: 26,
            3: 28,
            4: 26,
        }
        assert Counter(p.relation for p in mine if p.task == "position") == {
            "left of": 19,
            "right of": 27,
            "above": 26,
            "below": 28,
        }
        assert {p.groups[0].concept for p in mine if p.task == "single"} == {
            c.id for c in lexicon().values() if c.core
        }


@pytest.mark.slow
@BOTH
def test_the_other_suites_have_their_numbers(dev: bool) -> None:
    assert tasks("unseen", dev) == {"unseen color": 100, "unseen pair": 100, "unseen count": 100}
    assert Counter(p.groups[0].count for p in prompts("counts58", dev)) == dict.fromkeys(
        range(5, 9), 20
    )
    assert (
        list(tasks("hard", dev)) == [f"hard {n}" for n in range(3, 11)]
        and len(prompts("hard", dev)) == 100
    )
    fingers, languages = (
        Counter(getattr(p, field) for p in prompts("hands", dev))
        for field in ("fingers", "language")
    )
    assert (
        sorted(fingers) == list(range(6))
        and set(fingers.values()) == {33, 34}
        and languages == {"en": 100, "hi": 100}
    )
    assert [p.language for p in prompts("hands", dev)] == ["en", "hi"] * 100
    assert tasks("facing", dev) == {"facing": 100}
    assert Counter(
        (p.language, p.groups[0].facing) for p in prompts("facing", dev) if not p.groups[0].color
    ) == dict.fromkeys(
        [(language, side) for language in ("en", "hi") for side in ("left", "right")], 16
    )
    assert tasks("words-latin", dev) == tasks("words-devanagari", dev) == {"words": 200}


@pytest.mark.slow
@pytest.mark.parametrize("name", SUITES)
def test_every_prompt_is_asked_once_and_dev_and_test_share_only_single_objects(name: str) -> None:
    texts = {dev: [p.text for p in prompts(name, dev)] for dev in (False, True)}
    for dev in (False, True):
        assert len(set(texts[dev])) == len(texts[dev])
    single = {
        p.text
        for p in prompts(name)
        if p.task == "single" or (p.task == "facing" and not p.groups[0].color)
    }
    assert set(texts[False]) & set(texts[True]) == single
    asked = [
        {(splits.said(said(p)), p.place) for p in prompts(name, dev) if len(p.groups) > 1}
        for dev in (False, True)
    ]
    assert asked[0].isdisjoint(asked[1]), (
        "the same thing is asked in dev and in test, in other words"
    )


@pytest.mark.slow
@BOTH
def test_prompts_are_of_their_split(dev: bool) -> None:
    split = "dev" if dev else "test"
    for name in ("spriteeval", "spriteeval-hi", "counts58", "hard"):
        for prompt in prompts(name, dev):
            assert belongs(said(prompt), split), prompt.text
            assert len(prompt.groups) == 1 or split_of(said(prompt)) == split
    for name in ("words-latin", "words-devanagari"):
        for prompt in prompts(name, dev):
            assert prompt.word and len(prompt.word) > 1 and signs.split_of(prompt.word) == split
            assert prompt.word.isascii() == (name == "words-latin")


def test_unseen_prompts_hold_one_combination_and_dev_has_others() -> None:
    shown: dict[bool, set[object]] = {}
    for dev in (False, True):
        shown[dev] = set()
        for prompt in prompts("unseen", dev):
            assert split_of(said(prompt)) == "unseen"
            (one,) = held_out() & set(combinations(said(prompt)))
            assert prompt.task == f"unseen {one[0]}"
            assert prompt.exact == (one[0] == "count")
            shown[dev].add(one)
    assert shown[False].isdisjoint(shown[True])
    assert len(shown[False]) > 120, "most held-out combinations should be asked for"


@BOTH
def test_hard_prompts_have_the_atoms_they_are_filed_under(dev: bool) -> None:
    for prompt in prompts("hard", dev):
        text = prompt.text.replace("mushroom", "fungus")  # "mushroom" contains "room"
        words = text.replace(",", "").split()
        counts = sum(word in ("one", "two", "three", "four") for word in words)
        colors = sum(word in suites.COLORS for word in words)
        sizes = sum(word in ("small", "large") for word in words)
        places = sum(
            place in text for place in ("meadow", "beach", "sunset", "room", "night", "garden")
        )
        relations = len(re.findall(" left of | right of | above | below ", prompt.text))
        # The fruit "orange", which is not the colour.
        noun = sum(group.concept == "1f34a" and group.count == 1 for group in prompt.groups)
        assert counts == len(prompt.groups) and prompt.exact
        assert 2 * counts + colors - noun + sizes + relations + places == int(
            prompt.task.removeprefix("hard ")
        ), prompt.text


def test_english_follows_genevals_templates() -> None:
    numbers = {"two", "three", "four"}
    vowel = re.compile("[aeiou]")
    for prompt in (*prompts("spriteeval"), *prompts("spriteeval", True)):
        assert "to the" not in prompt.text and not re.search(r"[{}\d,.]|  ", prompt.text)
        parts = re.split(" (?:and|left of|right of|above|below) ", prompt.text)
        assert len(parts) == (2 if prompt.task in ("two", "position", "color_attr") else 1)
        if prompt.task == "position":
            assert f" {prompt.relation} " in prompt.text
        for part, group in zip(parts, prompt.groups, strict=True):
            article, rest = part.split(" ", 1)
            concept = lexicon()[group.concept]
            if prompt.task == "counting":
                assert article in numbers and rest == concept.en_plural
            else:
                assert article == ("an" if vowel.match(rest) else "a"), prompt.text
                assert rest == (f"{group.color} {concept.en}" if group.color else concept.en)
        if prompt.task in ("colors", "color_attr"):
            assert all(group.color and lexicon()[group.concept].recolor for group in prompt.groups)
            assert len({group.color for group in prompt.groups}) == len(prompt.groups)


@BOTH
def test_hindi_asks_for_the_same(dev: bool) -> None:
    for english, hindi in zip(
        prompts("spriteeval", dev), prompts("spriteeval-hi", dev), strict=True
    ):
        assert (english.task, english.groups, english.relation) == (
            hindi.task,
            hindi.groups,
            hindi.relation,
        )
        assert (english.language, hindi.language) == ("en", "hi")
        assert re.fullmatch(r"[\u0900-\u097f -]+", hindi.text), hindi.text


def test_hindi_agrees() -> None:
    """Gender (लाल सेब, नीली कार), number (बिल्लियाँ), and the oblique case before a postposition
    (कुत्ते के ऊपर), checked by hand."""
    group = suites.Group
    apple, car, dog, cats, stars = (
        group("1f34e"),
        group("1f697"),
        group("1f415"),
        group("1f408", 3),
        group("2b50", 4),
    )
    assert suites.hindi((apple,)) == "एक सेब"
    assert suites.hindi((cats,)) == "तीन बिल्लियाँ"
    assert suites.hindi((stars,)) == "चार तारे"
    assert suites.hindi((group("1f697", color="blue"),)) == "एक नीली कार"
    assert suites.hindi((group("1f45f", color="black"),)) == "एक काला जूता"
    assert suites.hindi((group("1f45f", 2, "black"),)) == "दो काले जूते"
    assert (
        suites.hindi((group("1f34e", color="red"), group("1f697", color="blue")))
        == "एक लाल सेब और एक नीली कार"
    )
    assert suites.hindi((apple, car), "left of") == "एक कार के बाईं ओर एक सेब"
    assert suites.hindi((car, apple), "right of") == "एक सेब के दाईं ओर एक कार"
    assert suites.hindi((car, dog), "above") == "एक कुत्ते के ऊपर एक कार"
    assert suites.hindi((dog, group("1f98b")), "below") == "एक तितली के नीचे एक कुत्ता"
    assert suites.hindi((cats,), place="beach") == "समुद्र तट पर तीन बिल्लियाँ"


def test_english_by_hand() -> None:
    group = suites.Group
    assert (
        suites.english((group("1f34e", color="orange"), group("1f95a")), "left of")
        == "an orange apple left of an egg"
    )
    assert suites.english((group("1f41f", 3),), place="beach") == "three fish on a beach"
    assert (
        suites.english((group("1f34e"), group("1f68c", 2)), "above", "room", numerals=True)
        == "one apple above two buses, in a room"
    )


@BOTH
def test_hands_and_words_say_what_is_wanted(dev: bool) -> None:
    english = dict(enumerate(("one", "two", "three", "four", "five"), 1))
    hindi = dict(enumerate(("एक उ", "दो उ", "तीन उ", "चार उ", "पाँच उ"), 1))
    for prompt in prompts("hands", dev):
        assert prompt.fingers is not None and "{" not in prompt.text and "  " not in prompt.text
        if prompt.fingers:
            assert (english if prompt.language == "en" else hindi)[prompt.fingers] in prompt.text
        else:
            assert re.search(
                "fist|no fingers|fingers folded|मुट्ठी|सभी उँगलियाँ मोड़े|कोई उँगली नहीं", prompt.text
            )
    assert prompts("hands", dev)[0].text.isascii() and not prompts("hands", dev)[1].text.isascii()
    for name in ("words-latin", "words-devanagari"):
        for prompt in prompts(name, dev):
            assert prompt.text == (
                f'a sign that says "{prompt.word}"'
                if name == "words-latin"
                else f'एक बोर्ड जिस पर "{prompt.word}" लिखा है'
            )


def test_seeds_are_the_hash_of_the_text() -> None:
    prompt = prompts("spriteeval")[0]
    assert prompt.seeds() == [zlib.crc32(f"an apple/{i}".encode()) for i in range(4)]
    assert prompt.seeds(6)[:4] == prompt.seeds()
    every = [seed for p in prompts("spriteeval") for seed in p.seeds()]
    assert len(set(every)) == len(every) and all(0 <= seed < 1 << 32 for seed in every)


FINGERPRINT = (
    "import zlib; from kalpana.evaluate.suites import SUITES, load;"
    "print(zlib.crc32(repr([load(n, d) for n in SUITES for d in (False, True)]).encode()))"
)


@pytest.mark.slow
def test_suites_do_not_depend_on_the_process() -> None:
    here = zlib.crc32(repr([load(n, d) for n in SUITES for d in (False, True)]).encode())
    other = {
        **os.environ,
        "PYTHONHASHSEED": "2" if os.environ.get("PYTHONHASHSEED") == "1" else "1",
    }
    done = subprocess.run(
        [sys.executable, "-c", FINGERPRINT], env=other, capture_output=True, text=True, check=True
    )
    assert int(done.stdout) == here


def test_an_unknown_suite_lists_the_known() -> None:
    with pytest.raises(KalpanaError, match="spriteeval, spriteeval-hi, unseen"):
        load("geneval")
