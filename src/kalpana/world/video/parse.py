"""Inverse grammar of videos: parses captions of videos into objects, an event and a camera motion.

As in ``world/parse.py``, noun phrases become mentions, and the words around them are looked up
among the patterns that the grammar of videos can generate.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cache

from kalpana.world.parse import (
    THING,
    LanguageRules,
    Mention,
    Words,
    english_phrases,
    hindi_phrases,
    language_rules,
    mentions,
    words_of,
)
from kalpana.world.video import captions

STOPS = (".", "।", "!", "?")
SHAPES = {"en": ("card", "cube"), "hi": ("कार्ड", "घन")}


@dataclass(frozen=True)
class ParsedEvent:
    """An event stated in a caption: its name, one of motion.EVENTS; its direction, "" if it has
    none; and ``subject``, the index of the mention of the object that moves."""

    event: str
    word: str
    subject: int


@dataclass(frozen=True)
class ParsedVideoCaption:
    """A parsed caption of a video: mentions in order, events, and camera motions (of CAMERAS)."""

    mentions: tuple[Mention, ...]
    events: tuple[ParsedEvent, ...]
    cameras: tuple[str, ...]


def read(text: str, language: str) -> ParsedVideoCaption:
    """The parsed caption of a text in a language ("en" or "hi")."""
    rules, table = _rules(language), _patterns(language)
    tokens = words_of(rules.clean(text))
    cameras, tokens = _without_views(tokens, _views(language))
    found, left, end = list[Mention](), list[str](), 0
    for start, stop, mention in mentions(tokens, rules):
        found.append(mention)
        left += [*tokens[end:start], THING]
        end = stop
    left = [token for token in (*left, *tokens[end:]) if token not in STOPS]
    return ParsedVideoCaption(tuple(found), tuple(_events(left, table)), cameras)


def _without_views(tokens: Words, views: Mapping[Words, str]) -> tuple[tuple[str, ...], Words]:
    """The camera motions in a caption, and its tokens without them: no object is then seen in "the
    camera". Of several phrases that match at a place the longest counts."""
    found, left, k = list[str](), list[str](), 0
    while k < len(tokens):
        match = _longest(tokens, k, views)
        if match:
            found.append(views[match])
            left.append(",")
            k += len(match)
        else:
            left.append(tokens[k])
            k += 1
    return tuple(found), tuple(left)


def _events(left: list[str], table: Mapping[Words, tuple[str, str, int]]) -> Iterator[ParsedEvent]:
    """The events in a caption whose noun phrases are replaced by THING: patterns from left to
    right, the longest at each place."""
    k, things = 0, 0
    while k < len(left):
        match = _longest(left, k, table)
        if match:
            event, word, subject = table[match]
            yield ParsedEvent(event, word, things + subject)
        step = match or (left[k],)
        things += step.count(THING)
        k += len(step)


def _longest(tokens: Iterable[str], k: int, table: Mapping[Words, object]) -> Words:
    """The longest key of a table that begins at token k, () if none does."""
    rest = tuple(tokens)[k:]
    lengths = range(min(len(rest), max(map(len, table))), 0, -1)
    return next((rest[:n] for n in lengths if rest[:n] in table), ())


# --------------------------------------------------------------------------- rules of the languages


@cache
def _rules(language: str) -> LanguageRules:
    """The rules of pictures, with the words of videos that name no object: the clock in घड़ी की
    दिशा में, the insects in "flies to the left in an arc", and the shapes with an object on their
    faces."""
    rules = language_rules(language)
    there = captions.THERE if language == "en" else captions.HINDI_THERE
    phrases = [text for texts in there.values() for text in texts]
    phrases += [f"flies {text} in an arc" for text in phrases]
    for shape in SHAPES[language]:
        phrases += (
            [f"a {shape} with", f"a {shape} showing"]
            if language == "en"
            else [f"{count}{shape}, जिस" for count in ("", "एक ")]
        )
    covered = (words_of(rules.clean(text)) for text in phrases)
    return replace(rules, facings=rules.facings | frozenset(covered))


@cache
def _views(language: str) -> dict[Words, str]:
    """The phrases of camera motions."""
    tables, clean = (
        captions.VIEWS if language == "en" else captions.HINDI_VIEWS,
        language_rules(language).clean,
    )
    return {words_of(clean(text)): view for view, texts in tables.items() for text in texts}


@cache
def _patterns(language: str) -> dict[Words, tuple[str, str, int]]:
    """All patterns of events that a language's grammar can generate.

    Maps the words, with THING for each object, to the event, its direction, and which of the
    things is the object that moves.
    """
    clean, found = language_rules(language).clean, dict[Words, tuple[str, str, int]]()
    for event, word, text in _english() if language == "en" else _hindi():
        words = [token for token in words_of(clean(text)) if token not in STOPS]
        places = [token for token in words if token.startswith(THING)]
        blank = tuple(THING if token.startswith(THING) else token for token in words)
        found[blank] = (event, word, places.index(THING + "a"))
    return found


def _words(event: str) -> tuple[str, ...]:
    """The directions that an event can have, "" for none."""
    return {
        "move": ("left", "right", "up", "down"),
        "arc": ("left", "right"),
        "return": ("left", "right", "up", "down"),
        "turn": ("clockwise", "counter-clockwise"),
        "hide": ("left", "right"),
        "solid": ("left", "right"),
    }.get(event, ("",))


def _english() -> Iterator[tuple[str, str, str]]:
    """(event, direction, text) of all patterns in English; adverbs of speed come after them."""
    one, two = list(english_phrases(THING + "a")), list(english_phrases(THING + "b"))
    for event, options in captions.ENGLISH.items():
        for word in _words(event):
            plain = event in ("hide", "solid")
            texts = {
                option.format(
                    a=a, b=two[0], there=there, exit=captions.EXITS.get(word, ""),
                    shape=shape, faces="it" if shape == "card" else "its sides",
                )
                for option in options
                for a in one
                for there in ((word,) if plain else captions.THERE.get(word, ("",)))
                for shape in SHAPES["en"]
            }  # fmt: skip
            yield from ((event, word, text) for text in texts)


def _hindi() -> Iterator[tuple[str, str, str]]:
    """(event, direction, text) of all patterns in Hindi, with and without an adverb of speed."""
    one, two = list(hindi_phrases(THING + "a")), list(hindi_phrases(THING + "b"))
    adverbs = [text for texts in captions.HINDI_SPEEDS.values() for text in texts]
    for event, options in captions.HINDI.items():
        for word in _words(event):
            texts = {
                option.format(
                    a=a, b=two[0], there=adverb + there, exit=captions.HINDI_EXITS.get(word, ""),
                    goes="जात" + end, comes="आत" + end, big="बड़" + end, small="छोट" + end,
                    shape=f"एक {shape}", raha="रहा",
                )
                for option in options
                for a in one
                for end in [a.raha.removeprefix("रह")]
                for adverb in adverbs
                for there in captions.HINDI_THERE.get(word, ("",))
                for shape in SHAPES["hi"]
            }  # fmt: skip
            yield from ((event, word, text) for text in texts)
