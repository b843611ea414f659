"""Prompt expansion: adds what a prompt leaves open, and never changes what it states."""

from __future__ import annotations

import random
import re
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kalpana.types import KalpanaError
from kalpana.world import grammar_en, grammar_hi
from kalpana.world.defaults import FACING, OTHER_STYLE
from kalpana.world.expansion import SIZED, expand
from kalpana.world.grammar import FORMS, LANGUAGES
from kalpana.world.parse import language_rules, read
from kalpana.world.video import Videos
from kalpana.world.world import KINDS

PLAIN = {  # prompts that state an object alone
    "en": ("a horse", "three red apples", "a dog and a cat", "There is a blue car."),
    "hi": ("एक घोड़ा", "तीन लाल सेब", "एक कुत्ता और एक बिल्ली", "यहाँ एक नीली कार है।"),
}


def facts(text: str, language: str) -> tuple[Counter[object], set[object]]:
    parsed = read(text, language)
    every = parsed.mentions
    return Counter(every), {(name, every[a], every[b]) for name, a, b in parsed.relations}


@pytest.mark.slow
@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("form", FORMS)
def test_no_fact_is_changed_and_no_object_added(language: str, form: str) -> None:
    rng, longer = random.Random(f"{language}/{form}"), 0
    for k in range(100):
        scene = KINDS["objects"].sample(rng, "dev")
        prompt = KINDS["objects"].caption(scene, language, form, rng)
        text = expand(prompt, k, language)
        (before, related), (after, still) = facts(prompt, language), facts(text, language)
        assert before == after and related <= still, (prompt, text)
        words, more = (Counter(re.findall(r"\w+", each.lower())) for each in (prompt, text))
        lost = set(words - more)
        assert lost <= {"a", "an"}, (prompt, text)  # "an apple" becomes "a small apple"
        longer += len(text) > len(prompt)
    # A dense caption leaves nothing open, but the size and the facing of one object.
    assert longer <= 30 if form == "dense" else longer >= 40


@pytest.mark.slow
@pytest.mark.parametrize("language", LANGUAGES)
def test_what_is_open_is_stated_in_the_words_of_the_grammar(language: str) -> None:
    grammar = grammar_en if language == "en" else grammar_hi
    both = grammar_en.STYLES.values() if language == "en" else [grammar_hi.STYLES.values()]
    styles = [text for group in both for texts in group for text in texts]
    markers = re.compile("background|gradient|पृष्ठभूमि|बैकग्राउंड|ग्रेडिएंट")
    places = [text for each in grammar.PLACES.values() for texts in each for text in texts]
    for prompt in PLAIN[language]:
        for seed in range(20):
            text = expand(prompt, seed, language)
            assert text != prompt and any(style in text for style in styles), text
            assert markers.search(text) or any(place in text for place in places), text
            assert expand(prompt, seed, language) == text  # deterministic
        assert len({expand(prompt, seed, language) for seed in range(20)}) > 10


@pytest.mark.slow
@pytest.mark.parametrize("language", LANGUAGES)
def test_values_have_the_shares_of_the_training_scenes(language: str) -> None:
    """Of 600 draws a share of p is within four standard deviations of p."""
    prompt = PLAIN[language][0]
    texts = [expand(prompt, seed, language) for seed in range(600)]
    rules = language_rules(language)
    house = "fluent-emoji-flat"
    names = (
        [text for texts in grammar_en.STYLES[house] for text in texts]
        if language == "en"
        else grammar_hi.STYLES[house]
    )
    sizes = {size for text in texts for size in rules.sizes.keys() & set(rules.clean(text).split())}
    counted = {
        "size": (SIZED, r"\b(" + "|".join(sizes) + r")\b" if language == "en" else "|".join(sizes)),
        "facing": (FACING, "facing|looking|turned|मुँह|रुख़"),
        "style": (1 - OTHER_STYLE, "|".join(names)),
    }
    for name, (share, pattern) in counted.items():
        found = sum(bool(re.search(pattern, text)) for text in texts) / len(texts)
        assert abs(found - share) < 4 * (share * (1 - share) / 600) ** 0.5, (name, found)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("prompt", "language"),
    [
        ("three apples on a beach, in flat icon style", "en"),
        ("A flat illustration of 3 rockets, on a pink gradient.", "en"),
        ("तीन सेब, समुद्र तट पर, सपाट शैली में", "hi"),
        ("a photo of the Eiffel Tower", "en"),
        ("a watercolour of a dog chasing a cat", "en"),
        ("He runs fast.", "en"),
        ("мой дом", "en"),
        ("ein Hund 狗", "en"),
        ("एक cat", "hi"),
        ("", "en"),
        ("!?", "hi"),
        ("x" * 5000, "en"),
    ],
)
def test_a_prompt_that_leaves_nothing_open_or_is_of_another_kind_stays(
    prompt: str, language: str
) -> None:
    assert {expand(prompt, seed, language) for seed in range(10)} == {prompt}


@pytest.mark.parametrize(
    ("prompt", "language"), [("a dog chasing a cat", "en"), ("मेरा पुराना घर", "hi")]
)
def test_a_prompt_outside_of_the_grammar_gets_a_style_alone(prompt: str, language: str) -> None:
    styles = {
        *(f", {manner}" for _, manners in grammar_en.STYLES.values() for manner in manners),
        *(f", {name} में" for names in grammar_hi.STYLES.values() for name in names),
    }
    for seed in range(20):
        assert expand(prompt, seed, language).removeprefix(prompt) in styles


@pytest.mark.slow
def test_words_agree() -> None:
    """English articles, and Hindi adjectives in gender, number and case."""
    found = {
        expand(prompt, seed, "en") for prompt in ("An apple", "an elephant") for seed in range(60)
    }
    starts = {" ".join(text.split(",")[0].split()[:2]) for text in found}
    assert {"A small", "a large"} & starts and not starts & {"An small", "an large", "A apple"}
    for prompt, forms in {
        "एक बिल्ली": {"छोटी", "नन्ही", "बड़ी", "विशाल"},
        "एक घोड़ा": {"छोटा", "नन्हा", "बड़ा", "विशाल"},
        "एक घोड़े की तस्वीर": {"छोटे", "नन्हे", "बड़े", "विशाल"},
    }.items():
        texts = [expand(prompt, seed, "hi").split(",")[0] for seed in range(80)]
        sizes = {"छोट", "नन्ह", "बड़", "विशाल"}
        words = {word for text in texts for word in text.split() if word.rstrip("ाीे") in sizes}
        assert words == forms


@pytest.mark.parametrize("language", LANGUAGES)
def test_videos_get_a_camera_or_a_speed(language: str) -> None:
    still, moving = {
        "en": ("a red car", "a dog moving to the right"),
        "hi": ("लाल कार", "एक कुत्ता दाईं ओर जा रहा है"),
    }[language]
    for seed in range(20):
        text = expand(still, seed, language, "video")
        assert re.search("camera|कैमरा", text) and not re.search("background|पृष्ठभूमि", text)
        text = expand(moving, seed, language, "video")
        assert re.search("slowly|quickly|fast|धीरे-धीरे|तेज़ी से", text)
        assert not re.search("camera|कैमरा", text)
        assert not re.search("camera|slowly|कैमरा", expand(still, seed, language))


@pytest.mark.slow
def test_captions_of_videos_keep_their_facts() -> None:
    clips = Videos(0, "dev")
    for k in range(100):
        prompt, language, _ = clips.describe(k)
        text = expand(prompt, k, language, "video")
        assert facts(prompt, language)[0] <= facts(text, language)[0], (prompt, text)


@settings(max_examples=100, deadline=None)
@given(st.text(max_size=80), st.sampled_from([*LANGUAGES]), st.integers(0, 9))
def test_any_text_can_be_given(prompt: str, language: str, seed: int) -> None:
    assert expand(prompt, seed, language) == expand(prompt, seed, language)


def test_unknown_languages_and_kinds_are_errors() -> None:
    with pytest.raises(KalpanaError, match="write en or hi"):
        expand("a cat", 0, "fr")
    with pytest.raises(KalpanaError, match="write picture or video"):
        expand("a cat", 0, "en", "sound")
