"""Tests of captions: agreement against hand-written sentences; each pattern is parsed back."""

from __future__ import annotations

import random
import re
from collections.abc import Callable

import pytest

from kalpana.types import KalpanaError
from kalpana.world import grammar_en, grammar_hi
from kalpana.world.grammar import FORMS, caption, region
from kalpana.world.lexicon import Concept, HindiNoun
from kalpana.world.scene import (
    BACKDROPS,
    COLORS,
    DEPTH_RELATIONS,
    PLACES,
    RELATIONS,
    SIZES,
    STYLES,
    Background,
    Group,
    Scene,
    SceneObject,
)


def concept(
    en: str, plural: str, hi: tuple[str, str, str, str, str], group: str, **more: tuple[str, ...]
) -> Concept:
    flags = {"core": True, "recolor": True, "support": True, "can_rest": True, "checked": True}
    return Concept(
        id=en,
        en=en,
        en_plural=plural,
        hi=HindiNoun(*hi),
        group=group,
        weight=1,
        **{"synonyms_en": (), "synonyms_hi": (), **more},
        **flags,
    )


CONCEPTS = {
    c.id: c
    for c in (
        concept("apple", "apples", ("m", "सेब", "सेब", "सेब", "सेबों"), "food-fruit"),
        concept("car", "cars", ("f", "कार", "कारें", "कार", "कारों"), "transport-ground"),
        concept("dog", "dogs", ("m", "कुत्ता", "कुत्ते", "कुत्ते", "कुत्तों"), "animal-mammal"),
        concept("cat", "cats", ("f", "बिल्ली", "बिल्लियाँ", "बिल्ली", "बिल्लियों"), "animal-mammal"),
        concept("table", "tables", ("f", "मेज़", "मेज़ें", "मेज़", "मेज़ों"), "household"),
        concept(
            "sofa",
            "sofas",
            ("m", "सोफ़ा", "सोफ़े", "सोफ़े", "सोफ़ों"),
            "household",
            synonyms_en=("couch",),
        ),
        concept("umbrella", "umbrellas", ("m", "छाता", "छाते", "छाते", "छातों"), "sky-weather"),
        concept("scissors", "scissors", ("f", "कैंची", "कैंचियाँ", "कैंची", "कैंचियों"), "tool"),
        concept("grapes", "grapes", ("m", "अंगूर", "अंगूर", "अंगूर", "अंगूरों"), "food-fruit"),
        concept("bread", "bread", ("f", "रोटी", "रोटियाँ", "रोटी", "रोटियों"), "food-prepared"),
        concept("teacher", "teachers", ("m", "शिक्षक", "शिक्षक", "शिक्षक", "शिक्षकों"), "person-role"),
    )
}
WHITE = Background("flat", "white")


def scene(
    *groups: Group,
    relation: str | None = None,
    background: Background = WHITE,
    style: str | None = None,
) -> Scene:
    """A scene whose groups are at positions that fit the relation."""
    spots = {
        "left of": ((0.2, 0.5), (0.8, 0.5)),
        "right of": ((0.8, 0.5), (0.2, 0.5)),
        "above": ((0.5, 0.2), (0.5, 0.8)),
        "below": ((0.5, 0.8), (0.5, 0.2)),
        "on": ((0.5, 0.35), (0.5, 0.8)),
    }.get(relation or "", ((0.3, 0.5), (0.7, 0.5)))
    objects = tuple(
        SceneObject(0, *spots[i], 0.3, color=g.color, group=i)
        for i, g in enumerate(groups)
        for _ in range(g.count)
    )
    return Scene(objects, groups, background, relation, style)


def drawn(subject: Scene, language: str, form: str = "natural", n: int = 4000) -> set[str]:
    return {caption(subject, language, form, random.Random(seed), CONCEPTS) for seed in range(n)}


def phrases(build: Callable[..., object], group: Group, field: str, n: int = 300) -> set[str]:
    return {
        getattr(build(group, CONCEPTS[group.concept], random.Random(seed)), field)
        for seed in range(n)
    }


# ---------------------------------------------------------------------------------- Hindi phrases


@pytest.mark.parametrize(
    ("group", "field", "right", "wrong"),
    [
        (Group("dog", 1, None, "small"), "text", "एक छोटा कुत्ता", "एक छोटे कुत्ता"),
        (Group("dog", 1, None, "small"), "oblique", "एक छोटे कुत्ते", "एक छोटा कुत्ते"),
        (Group("dog", 3, "blue", "large"), "text", "तीन बड़े नीले कुत्ते", "तीन बड़ा नीला कुत्ता"),
        (Group("dog", 3, "blue", "large"), "oblique", "तीन बड़े नीले कुत्तों", "तीन बड़े नीले कुत्ते"),
        (Group("cat", 1, "black"), "text", "एक काली बिल्ली", "एक काला बिल्ली"),
        (Group("cat", 2, "black"), "text", "दो काली बिल्लियाँ", "दो काले बिल्लियाँ"),
        (Group("cat", 2, "black"), "oblique", "दो काली बिल्लियों", "दो काली बिल्लियाँ"),
        (Group("cat", 1, "brown", "small"), "oblique", "एक छोटी भूरी बिल्ली", "एक छोटे भूरे बिल्ली"),
        (Group("apple", 3, "red"), "text", "तीन लाल सेब", "तीन लाले सेब"),
        (Group("apple", 3, "red"), "oblique", "तीन लाल सेबों", "तीन लाल सेब"),
        (Group("apple", 1, "red"), "text", "एक लाल रंग का सेब", "एक लाल रंग के सेब"),
        (Group("apple", 1, "red"), "oblique", "एक लाल रंग के सेब", "एक लाल रंग का सेब"),
        (Group("apple", 3, "green"), "text", "तीन हरे रंग के सेब", "तीन हरा रंग के सेब"),
        (Group("car", 1, "blue"), "text", "नीले रंग की कार", "नीली रंग की कार"),
        (Group("car", 1, "blue"), "oblique", "नीली कार", "नीले कार"),
        (Group("car", 2, "white"), "text", "दो सफ़ेद कारें", "दो सफ़ेद कार"),
        (Group("car", 5, "pink", "large"), "oblique", "पाँच बड़ी गुलाबी कारों", "पाँच बड़े गुलाबी कारों"),
        (Group("table", 1, "yellow"), "oblique", "एक पीली मेज़", "एक पीले मेज़"),
        (Group("sofa", 1, "purple", "large"), "oblique", "एक विशाल बैंगनी सोफ़े", "एक विशाले बैंगनी सोफ़े"),
        (Group("umbrella", 8, "orange"), "text", "आठ नारंगी छाते", "आठ नारंगी छाता"),
        (Group("apple", 4, None), "text", "४ सेब", "४ सेबों"),
    ],
)
def test_hindi_phrases_agree(group: Group, field: str, right: str, wrong: str) -> None:
    said = phrases(grammar_hi.phrase, group, field)
    assert right in said
    assert wrong not in said


@pytest.mark.parametrize(
    ("adjective", "forms"),
    [
        ("नीला", ("नीला", "नीले", "नीले", "नीली", "नीली")),
        ("हुआ", ("हुआ", "हुए", "हुए", "हुई", "हुई")),
        ("लाल", ("लाल",) * 5),
        ("गुलाबी", ("गुलाबी",) * 5),
        ("सफ़ेद", ("सफ़ेद",) * 5),
    ],
)
def test_hindi_adjectives_inflect(adjective: str, forms: tuple[str, ...]) -> None:
    cases = (
        ("m", False, False),
        ("m", False, True),
        ("m", True, False),
        ("f", False, True),
        ("f", True, False),
    )
    assert tuple(grammar_hi.inflect(adjective, *case) for case in cases) == forms


@pytest.mark.slow
@pytest.mark.parametrize(
    ("subject", "form", "sentences"),
    [
        (
            scene(Group("apple", 3, "red"), Group("car", 1, "blue"), relation="left of"),
            "short",
            ["तीन लाल सेब नीली कार के बाईं ओर"],
        ),
        (
            scene(Group("cat"), Group("dog", 1, None, "small"), relation="right of"),
            "short",
            ["एक छोटे कुत्ते के दाईं ओर एक बिल्ली"],
        ),
        (
            scene(Group("dog"), Group("car", 2), relation="above"),
            "short",
            ["दो कारों के ऊपर एक कुत्ता"],
        ),
        (
            scene(Group("apple", 1, "red"), Group("table"), relation="on"),
            "short",
            ["मेज़ पर रखा लाल सेब"],
        ),
        (
            scene(Group("cat"), Group("sofa"), relation="on"),
            "short",
            ["सोफ़े पर बैठी बिल्ली", "सोफे पर बैठी बिल्ली"],
        ),
        (
            scene(Group("cat"), Group("sofa"), relation="on"),
            "natural",
            ["एक बिल्ली सोफ़े पर बैठी हुई", "सोफ़े पर एक बिल्ली बैठी है।", "सोफ़े पर बैठी एक बिल्ली की तस्वीर"],
        ),
        (
            scene(Group("apple", 2), Group("table"), relation="on"),
            "natural",
            ["मेज़ पर दो सेब रखे हैं।", "मेज़ पर रखे दो सेबों का चित्र", "मेज़, जिस पर दो सेब हैं"],
        ),
        (
            scene(Group("table", 2), Group("car"), relation="next to"),
            "natural",
            ["कार के पास दो मेज़ें दिख रही हैं।"],
        ),
        (
            scene(Group("dog"), Group("car", 3), relation="below"),
            "natural",
            ["तीन कारें, जिनके नीचे एक कुत्ता है", "कुत्ते के ऊपर तीन कारें हैं।"],
        ),
        (
            scene(Group("apple", 3, "red")),
            "natural",
            ["तीन लाल सेबों की तस्वीर", "ठीक तीन लाल सेब", "तीन सेब जिनका रंग लाल है", "लाल रंग के तीन सेब"],
        ),
        (
            scene(Group("dog", 1, "black")),
            "natural",
            ["एक काले कुत्ते का चित्र", "काले रंग का एक कुत्ता", "एक कुत्ता जिसका रंग काला है"],
        ),
        (scene(Group("apple"), Group("dog", 2)), "natural", ["एक सेब और दो कुत्तों की तस्वीर"]),
        (scene(Group("umbrella", 5)), "natural", ["बेतरतीब छातों की एक पेंटिंग"]),
    ],
)
def test_hindi_sentences(subject: Scene, form: str, sentences: list[str]) -> None:
    said = drawn(subject, "hi", form, 30000 if form == "natural" else 4000)
    assert [sentence for sentence in sentences if sentence not in said] == []


# -------------------------------------------------------------------------------- English phrases


@pytest.mark.parametrize(
    ("group", "field", "expected"),
    [
        (Group("apple"), "text", {"an apple", "one apple", "1 apple"}),
        (Group("apple", 1, "red"), "text", {"a red apple", "one red apple", "1 red apple"}),
        (Group("car", 1, "orange"), "text", {"an orange car", "one orange car", "1 orange car"}),
        (Group("apple", 3, "red"), "text", {"three red apples", "3 red apples"}),
        (Group("apple", 1, "red"), "plain", {"an apple", "one apple", "1 apple"}),
        (
            Group("scissors", 1, "red"),
            "text",
            {"a pair of red scissors", "one pair of red scissors", "1 pair of red scissors"},
        ),
        (Group("scissors", 2), "text", {"two pairs of scissors", "2 pairs of scissors"}),
        (Group("scissors"), "are", {"is"}),
        (Group("grapes"), "text", {"grapes", "some grapes"}),
        (Group("grapes"), "are", {"are"}),
        (Group("bread"), "text", {"bread", "some bread"}),
        (Group("bread"), "are", {"is"}),
        (Group("sofa", 2), "text", {"two sofas", "2 sofas", "two couches", "2 couches"}),
        (Group("teacher"), "its", {"their"}),
        (Group("dog"), "its", {"its"}),
        (Group("dog", 2), "its", {"their"}),
        (Group("dog"), "sits", {"sits"}),
        (Group("apple", 2), "sits", {"rest"}),
    ],
)
def test_english_phrases(group: Group, field: str, expected: set[str]) -> None:
    assert phrases(grammar_en.phrase, group, field) == expected


@pytest.mark.parametrize(
    "words",
    [
        "apple",
        "orange car",
        "hourglass",
        "umbrella",
        "ATM sign",
        "x-ray",
        "8 ball",
        "SOS button",
        "unamused face",
        "onion",
        "ear",
        "elf",
    ],
)
def test_an(words: str) -> None:
    assert grammar_en.article(words) == "an"


@pytest.mark.parametrize(
    "words",
    [
        "car",
        "unicorn",
        "euro banknote",
        "one-piece swimsuit",
        "uniform",
        "FREE sign",
        "NEW sign",
        "horse",
        "UFO",
        "yo-yo",
        "house",
    ],
)
def test_a(words: str) -> None:
    assert grammar_en.article(words) == "a"


# --------------------------------------------------------------------------------------- patterns

PAIR = (Group("apple", 1), Group("car", 1))
TABLES = {"en": grammar_en.PAIRED, "hi": grammar_hi.PAIRED}
NOUNS = {"en": (r"\bapples?\b", r"\bcars?\b"), "hi": ("सेब", "कार")}


def rendered(
    language: str, relation: str | None, groups: tuple[Group, Group], seed: int = 0
) -> list[str]:
    """All patterns of a relation, each filled in once."""
    rng = random.Random(seed)
    grammar = {"en": grammar_en, "hi": grammar_hi}[language]
    a, b = (grammar.phrase(group, CONCEPTS[group.concept], rng) for group in groups)
    words = (
        grammar_en.SIDES.get(relation or "", {})
        if language == "en"
        else {**grammar_hi.sides(relation, rng), "picture": "की तस्वीर"}
    )
    return [pattern.format(a=a, b=b, **words) for pattern in TABLES[language][relation]]


@pytest.mark.parametrize("language", ["en", "hi"])
@pytest.mark.parametrize("relation", [*RELATIONS, *DEPTH_RELATIONS, None])
def test_every_pattern_is_whole(language: str, relation: str | None) -> None:
    assert len(set(TABLES[language][relation])) == len(TABLES[language][relation]) >= 30
    for groups in (PAIR, PAIR[::-1], (Group("apple", 3, "red"), Group("car", 2, "orange"))):
        said = rendered(language, relation, groups)
        assert len(set(said)) >= 30
        for text in said:
            assert all(len(re.findall(noun, text)) == 1 for noun in NOUNS[language]), text
            assert not re.search(r"[{}]|  |^ | $| [.,:।]", text), text
            # Articles by spelling suffice: these nouns begin with the sound of their first letter.
            assert not re.search(r"\ba (?=[aeiou])|\ban (?=[^aeiou])", text), text


def read_english(text: str, first: str, second: str, words: tuple[str, str]) -> str:
    """The noun on the side that words[0] names, derived only from the order of the words."""
    text = text.lower()

    def position(noun: str) -> int:
        return re.search(rf"\b{noun}", text).start()  # type: ignore[union-attr]

    nouns = sorted((first, second), key=position)
    sides = re.findall("|".join(words), text)
    # Both sides are named, each before or after its noun, in the same order as the nouns.
    if (
        len(set(re.sub(r"\W.*", "", side) for side in sides)) == 2
        and len({re.match(words[0], side) is None for side in sides}) == 2
    ):
        return nouns[0] if re.match(words[0], sides[0]) else nouns[1]
    # One side is named. Its landmark is the noun that follows, or a pronoun for the first noun.
    side = re.search("|".join(words), text)
    assert side is not None
    pronoun = re.search(
        r"\b(its|their) (left|right)|(left|right) of (it|them)\b|"
        r"\b(above|below|over|under) (it|them)\b",
        text,
    )
    after = re.search(rf"\b({first}|{second})", text[side.end() :])
    landmark = nouns[0] if pronoun or after is None else after[1]
    other = second if landmark == first else first
    return other if re.match(words[0], side[0]) else landmark


def read_hindi(text: str, first: str, second: str, words: tuple[str, str]) -> str:
    """The same for Hindi, where the landmark precedes its postposition."""
    nouns = sorted((first, second), key=text.index)
    sides = re.findall("|".join(words), text)
    if len({re.match(words[0], side) is None for side in sides}) == 2:
        return nouns[0] if re.match(words[0], sides[0]) else nouns[1]
    side = re.search("|".join(words), text)
    assert side is not None
    before = text[: side.start()]
    pronoun = re.search(r"(जिस|जिन|उस|उन)के $", before)
    landmark = (
        nouns[0] if pronoun else max((noun for noun in nouns if noun in before), key=before.rindex)
    )
    other = second if landmark == first else first
    return other if re.match(words[0], side[0]) else landmark


READERS = {"en": (read_english, ("apple", "car")), "hi": (read_hindi, ("सेब", "कार"))}
SIDES = {
    ("en", "left of"): ("left", "right"),
    ("en", "above"): ("above|over|top|higher", "below|under|bottom|lower"),
    ("hi", "left of"): ("बाईं|बायीं|बाएँ|बायें", "दाईं|दायीं|दाएँ|दायें|दाहिन"),
    ("hi", "above"): ("ऊपर", "नीचे|निचले"),
}


@pytest.mark.parametrize("language", ["en", "hi"])
@pytest.mark.parametrize(
    ("relation", "same", "apple_first"),
    [
        ("left of", "left of", True),
        ("right of", "left of", False),
        ("above", "above", True),
        ("below", "above", False),
    ],
)
def test_no_pattern_swaps_sides(language: str, relation: str, same: str, apple_first: bool) -> None:
    """Every pattern is parsed back to the right side, for single and plural groups."""
    read, (apple, car) = READERS[language]
    for seed, counts in enumerate([(1, 1), (3, 1), (1, 3), (2, 2)]):
        groups = (Group("apple", counts[0], "red"), Group("car", counts[1]))
        for text in rendered(language, relation, groups, seed):
            assert read(text, apple, car, SIDES[language, same]) == (
                apple if apple_first else car
            ), text


def test_on_is_never_upside_down() -> None:
    """In English the support follows "on" or precedes "it"; in Hindi it precedes पर."""
    for text in rendered("en", "on", PAIR):
        under = re.search(r"\b(on|on top of|beneath) (an? |one |1 )(apple|car)", text.lower())
        if under:
            assert under[3] == ("apple" if under[1] == "beneath" else "car"), text
        else:
            assert text.lower().index("car") < text.lower().index("apple"), text
    for text in rendered("hi", "on", PAIR):
        before = text[: re.search(r" (पर|के ऊपर|उस पर|जिस पर)|जिसके ऊपर", text).start()]  # type: ignore[union-attr]
        assert "कार" in before, text


# --------------------------------------------------------------------------------------- captions


def random_scene(rng: random.Random) -> Scene:
    groups = tuple(
        Group(
            name,
            rng.choice((1, 1, 2, 5, 8)),
            rng.choice((None, *COLORS)),
            rng.choice((None, *SIZES)),
        )
        for name in rng.sample(sorted(CONCEPTS), rng.choice((1, 2)))
    )
    background = rng.choice(
        (
            Background("flat", rng.choice(BACKDROPS)),
            Background("gradient", rng.choice(BACKDROPS)),
            Background("place", rng.choice(PLACES)),
        )
    )
    return scene(
        *groups,
        relation=rng.choice((None, *RELATIONS)) if len(groups) == 2 else None,
        background=background,
        style=rng.choice((None, *STYLES)),
    )


@pytest.mark.slow
@pytest.mark.parametrize("language", ["en", "hi"])
@pytest.mark.parametrize("form", FORMS)
def test_captions_are_clean_and_seeded(language: str, form: str) -> None:
    rng = random.Random(5)
    for seed in range(1500):
        subject = random_scene(rng)
        text = caption(subject, language, form, random.Random(seed), CONCEPTS)
        assert text == caption(subject, language, form, random.Random(seed), CONCEPTS)
        assert not re.search(r"[{}]|  |^[ ,]|[ ,]$| [.,:।]|,,|\.\.|None", text), text
        assert len(text.split()) <= 45, text


def test_dense_english_states_every_fact() -> None:
    subject = scene(
        Group("apple", 3, "red", "small"),
        Group("car", 1, "blue"),
        relation="left of",
        background=Background("place", "beach"),
        style="fluent-3d",
    )
    for text in drawn(subject, "en", "dense", 1000):
        said = text.lower()
        for fact in (
            r"(three|3) (small|little|tiny) red apples",
            r"blue car",
            r"left|right",
            r"beach|sea",
            r"3d",
            r"apples are on the left",
            r"car is on the right",
        ):
            assert re.search(fact, said), (fact, text)


def test_dense_hindi_states_every_fact() -> None:
    subject = scene(
        Group("apple", 3, "red", "small"),
        Group("car", 1, "blue"),
        relation="above",
        background=Background("flat", "light green"),
        style="streamline-emojis",
    )
    for text in drawn(subject, "hi", "dense", 1000):
        for fact in (
            r"(तीन|3|३) (छोटे|नन्हे) लाल",
            r"नील[ेी]",
            r"ऊपर|नीचे",
            r"हल्क[ाेी] हर[ाेी]",
            r"कार्टून|रेखाचित्र",
            r"सेब ऊपर हैं",
            r"कार नीचे है",
        ):
            assert re.search(fact, text), (fact, text)


def test_captions_name_no_colour_the_scene_lacks() -> None:
    """In every form, captions use only the colours of the groups and of the background."""
    rng = random.Random(9)
    for seed in range(2000):
        subject = random_scene(rng)
        text = caption(subject, "en", rng.choice(FORMS), random.Random(seed), CONCEPTS).lower()
        backdrop = {"sky blue": "light blue", "meadow": "green blue"}.get(
            subject.background.name, subject.background.name
        )
        allowed = {word for group in subject.groups for word in (group.color or "").split()} | set(
            backdrop.split()
        )
        assert {word for word in COLORS if re.search(rf"\b{word}\b", text)} <= allowed | (
            {"purple"} if backdrop == "lavender" else set()
        ), text


def test_an_empty_scene_is_its_background() -> None:
    sunset = scene(background=Background("place", "mountains"))
    assert "sunset over mountains" in drawn(sunset, "en", "natural", 200)
    assert "पहाड़ों पर सूर्यास्त" in drawn(sunset, "hi", "natural", 200)
    assert drawn(scene(), "en", "short", 20) == {"a plain white background"}


def test_regions() -> None:
    def at(*centres: tuple[float, float]) -> tuple[str | None, str | None]:
        return region(
            Scene(tuple(SceneObject(0, x, y, 0.1) for x, y in centres), (Group("apple"),), WHITE), 0
        )

    assert at((0.2, 0.2)) == ("left", "top")
    assert at((0.5, 0.5)) == ("centre", "middle")
    assert at((0.8, 0.9), (0.7, 0.7)) == ("right", "bottom")
    assert at((0.1, 0.5), (0.9, 0.5)) == (None, "middle")
    assert at() == (None, None)


def test_two_styles_share_a_wording_only_if_they_are_flat() -> None:
    flat = {"twemoji", "fluent-emoji-flat"}
    for words in (
        {style: {*what, *how} for style, (what, how) in grammar_en.STYLES.items()},
        {style: set(names) for style, names in grammar_hi.STYLES.items()},
    ):
        assert set(words) == set(STYLES)
        for one in STYLES:
            for other in STYLES:
                if one != other and {one, other} != flat:
                    assert words[one].isdisjoint(words[other]), (one, other)


@pytest.mark.parametrize(
    ("language", "form", "message"), [("fr", "short", "'fr'"), ("en", "long", "'long'")]
)
def test_what_cannot_be_said(language: str, form: str, message: str) -> None:
    with pytest.raises(KalpanaError, match=message):
        caption(scene(Group("apple")), language, form, random.Random(0), CONCEPTS)
