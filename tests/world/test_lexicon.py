"""Tests of the lexicon: unique names, complete core classes, Hindi and English inflection."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter

import pytest

from kalpana.world.lexicon import Concept, decline, keywords, lexicon, plural, sprites_of

CORE = [concept for concept in lexicon().values() if concept.core]


def test_eighty_core_classes_each_in_three_styles() -> None:
    assert len(CORE) == 80
    assert {
        concept.en: len(sprites_of(concept.id))
        for concept in CORE
        if len(sprites_of(concept.id)) < 3
    } == {}


def test_every_concept_can_be_drawn_and_drawn_by_what_it_keeps() -> None:
    assert len(lexicon()) > 1600
    assert [concept.en for concept in lexicon().values() if not sprites_of(concept.id)] == []
    rows = [row for concept in lexicon() for some in sprites_of(concept).values() for row in some]
    assert len(rows) == len(set(rows))


def test_no_two_concepts_share_a_name() -> None:
    for names in (
        [name.lower() for c in lexicon().values() for name in (c.en, *c.synonyms_en)],
        [name for c in lexicon().values() for name in (c.hi.singular, *c.synonyms_hi)],
    ):
        assert [name for name, times in Counter(names).items() if times > 1] == []


def test_keywords_are_words_and_never_the_names_themselves() -> None:
    assert keywords().keys() == lexicon().keys()
    for concept in lexicon().values():
        words = keywords()[concept.id]
        assert not {concept.en, concept.hi.singular} & {*words["en"], *words["hi"]}
        assert all(
            word.strip() == word and word and "," not in word
            for some in words.values()
            for word in some
        )
    assert {"fruit", "ripe"} <= set(keywords()["1f34e"]["en"]) and "फल" in keywords()["1f34e"]["hi"]
    assert sum(bool(words["en"] and words["hi"]) for words in keywords().values()) > 0.9 * len(
        lexicon()
    )


def test_names_are_clean() -> None:
    for concept in lexicon().values():
        for name in (concept.en, concept.en_plural, *concept.synonyms_en):
            assert re.fullmatch(r"[A-Za-z0-9ñé' ,.&-]+", name), name
        for name in (concept.hi.singular, concept.hi.plural_oblique, *concept.synonyms_hi):
            assert unicodedata.normalize("NFC", name) == name
            assert re.fullmatch(r"[ऀ-ॿA-Za-z0-9 ,'&./-]+", name), name
        assert concept.weight > 0


def test_core_hindi_is_complete_and_checked() -> None:
    for concept in CORE:
        noun = concept.hi
        assert concept.checked and noun.gender in ("m", "f"), concept.en
        assert all((noun.singular, noun.plural, noun.singular_oblique, noun.plural_oblique)), (
            concept.en
        )
        assert noun.plural_oblique.endswith(("ों", "ओं")), concept.en
        if noun.gender == "f":
            assert noun.singular_oblique == noun.singular, concept.en


@pytest.mark.parametrize(
    ("gender", "forms"),
    [  # the classes of Hindi nouns, from school grammars
        ("m", "लड़का लड़के लड़के लड़कों"),
        ("m", "घर घर घर घरों"),
        ("m", "हाथी हाथी हाथी हाथियों"),
        ("m", "आलू आलू आलू आलुओं"),
        ("m", "राजा राजा राजा राजाओं"),
        ("m", "कुआँ कुआँ कुआँ कुआँ"),  # nasal endings are outside the rules and stay unchanged
        ("m", "कछुआ कछुए कछुए कछुओं"),
        ("f", "लड़की लड़कियाँ लड़की लड़कियों"),
        ("f", "चिड़िया चिड़ियाँ चिड़िया चिड़ियों"),
        ("f", "मेज़ मेज़ें मेज़ मेज़ों"),
        ("f", "माता माताएँ माता माताओं"),
        ("f", "तिथि तिथियाँ तिथि तिथियों"),
    ],
)
def test_decline_follows_the_grammar(gender: str, forms: str) -> None:
    noun = decline(forms.split()[0], gender)
    assert [noun.singular, noun.plural, noun.singular_oblique, noun.plural_oblique] == forms.split()


def test_decline_bends_the_adjectives_of_a_masculine_head_only() -> None:
    assert decline("सुनहरे बालों वाला लड़का", "m").plural == "सुनहरे बालों वाले लड़के"
    assert decline("सेना का पदक", "m").plural_oblique == "सेना के पदकों"
    assert decline("नीली किताब", "f").plural == "नीली किताबें"


def test_decline_agrees_with_the_hand_checked_forms() -> None:
    assert [
        concept.hi
        for concept in CORE
        if decline(concept.hi.singular, concept.hi.gender) != concept.hi
    ] == []


@pytest.mark.parametrize(
    ("one", "many"),
    [
        ("apple", "apples"),
        ("cup with straw", "cups with straw"),
        ("fork and knife with plate", "forks and knives with plate"),
        ("man dancing", "men dancing"),
        ("butterfly", "butterflies"),
        ("monkey", "monkeys"),
        ("bus", "buses"),
        ("fish", "fish"),
        ("slice of pizza", "slices of pizza"),
    ],
)
def test_plural(one: str, many: str) -> None:
    assert plural(one) == many


def test_everyday_words_reach_something() -> None:
    names = {
        name
        for c in lexicon().values()
        for name in (c.en, c.en_plural, *c.synonyms_en, c.hi.singular, *c.synonyms_hi)
    }
    wanted = (
        "sunset over mountains|teacher|book|open hand|raised hand|sofa|couch|flower|flowers"
        "|castle|doctor|सोफा|बिल्ली|फूल|शिक्षक|सेब"
    )
    assert set(wanted.split("|")) - names == set()


def test_supports_are_varied_and_say_where_their_seat_is() -> None:
    supports: list[Concept] = [concept for concept in CORE if concept.support]
    assert {"sofa", "bed", "chair", "car", "bus", "box"} <= {concept.en for concept in supports}
    assert all(0 < concept.seat < 1 for concept in supports)
