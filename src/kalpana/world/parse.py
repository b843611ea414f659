"""Inverse grammar: parses captions in the manner of the world's grammar, in both languages.

Noun phrases become a count, a colour and the concepts that they may name; the words between them
are looked up among the patterns that the grammar can generate.
"""

from __future__ import annotations

import random
import re
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from itertools import pairwise
from typing import Any

from kalpana.world import grammar_en, grammar_hi
from kalpana.world.grammar_hi import phrases as phrases_hi
from kalpana.world.lexicon import Concept, decline, lexicon, plural
from kalpana.world.scene import COLORS, Group

TOKEN = re.compile(r"\s+|([,.:;!?।&\"()])")
# A colour before one of these words is the background's, not an object's.
BACKGROUND = (("background",), ("gradient",))
THING = "@"  # begins the token that stands for a noun phrase

Words = tuple[str, ...]
Meaning = tuple[str, str | None]  # a concept and a colour


@dataclass(frozen=True)
class Mention:
    """A noun phrase: ``count`` as stated (None: not stated) and ``means``, all possible meanings.

    "black cat" may mean a cat coloured black or the concept of that name. ``aside`` marks a phrase
    that belongs to the description of a place: "in front of a sofa".
    """

    count: int | None
    means: frozenset[Meaning]
    aside: bool = False


@dataclass(frozen=True)
class ParsedCaption:
    """A parsed caption: its mentions in order, and its relations (name, a, b).

    ``name`` is the grammar's name of the relation; a and b are indices into ``mentions``.
    """

    mentions: tuple[Mention, ...]
    relations: tuple[tuple[str, int, int], ...]


@dataclass(frozen=True)
class LanguageRules:
    """The parsing rules of a language.

    ``names`` are grouped by first word, longest first, each with its concepts and whether it may be
    singular. ``counts``, ``sizes`` and ``colors`` are word tables; ``articles``, ``pairs``,
    ``of_color`` and ``later`` are the words that may stand around a noun, a count or a colour.
    """

    clean: Callable[[str], str]
    names: dict[str, list[tuple[Words, frozenset[str], bool]]]
    counts: dict[str, int]
    articles: frozenset[str]
    pairs: frozenset[Words]
    sizes: dict[str, str]
    colors: dict[str, str]
    # Words between a colour and the phrase that it describes: लाल रंग में एक सेब.
    of_color: tuple[Words, ...]
    # Words before and after a colour that follows its noun: "an apple that is RED".
    later: tuple[tuple[Words, Words], ...]
    places: frozenset[Words]  # descriptions of a background; they may name objects
    # Phrases for a facing, which name no object: मुँह in बाईं ओर मुँह किए is no mouth.
    facings: frozenset[Words]
    # Words around two objects: their relation, and whether the first object is its a.
    patterns: dict[Words, tuple[str, bool]]


def words_of(text: str) -> Words:
    """The words and punctuation marks of a text."""
    return tuple(part for part in TOKEN.split(text) if part)


# --------------------------------------------------------------------------- rules of the languages


@cache
def language_rules(language: str) -> LanguageRules:
    """The parsing rules of "en" or "hi"."""
    return _english() if language == "en" else _hindi()


def _english() -> LanguageRules:
    names, single = defaultdict[Words, set[str]](set), set[Words]()
    for concept in lexicon().values():
        for name in (concept.en, *concept.synonyms_en):
            many_name = concept.en_plural if name == concept.en else plural(name)
            one, many = words_of(name.lower()), words_of(many_name.lower())
            names[one].add(concept.id)
            names[many].add(concept.id)
            single.add(one)
    colors = {word: color for color in COLORS for word in grammar_en.COLORS.get(color, (color,))}
    counts = {word: n for n, word in enumerate(grammar_en.NUMERALS, 1)} | {
        str(n): n for n in range(1, 10)
    }
    before = (
        ("that", "is"),
        ("that", "are"),
        ("in",),
        ("coloured",),
        (",",),
        ("of",),
        ("with", "the", "colour"),
    )
    return LanguageRules(
        clean=str.lower,
        names=_by_first(names, single),
        counts=counts | {"a": 1, "an": 1},
        articles=frozenset(("the", "some")),
        pairs=frozenset((("pair", "of"), ("pairs", "of"))),
        sizes={word: size for size, words in grammar_en.SIZES.items() for word in words},
        colors=colors,
        of_color=(),
        later=tuple((words, ()) for words in before),
        places=_places(grammar_en.PLACES, str.lower),
        facings=frozenset(),
        patterns=_patterns(
            grammar_en.PAIRED,
            english_phrases,
            lambda relation: [grammar_en.SIDES.get(relation or "", {})],
            str.lower,
        ),
    )


def _hindi() -> LanguageRules:
    clean = grammar_hi.casual
    names, single = defaultdict[Words, set[str]](set), set[Words]()
    for concept in lexicon().values():
        for noun in (
            concept.hi,
            *(decline(name, concept.hi.gender) for name in concept.synonyms_hi),
        ):
            for name in (noun.singular, noun.plural, noun.singular_oblique, noun.plural_oblique):
                names[words_of(clean(name.lower()))].add(concept.id)
            single |= {
                words_of(clean(name.lower())) for name in (noun.singular, noun.singular_oblique)
            }
    forms = [
        (gender, many, oblique)
        for gender in "mf"
        for many in (False, True)
        for oblique in (False, True)
    ]
    colors = {
        clean(grammar_hi.inflect(word, *form)): color
        for color in COLORS
        for word in grammar_hi.COLORS[color]
        for form in forms
    }
    counts = {clean(word): n for n, word in enumerate(grammar_hi.NUMERALS, 1)} | {
        str(n): n for n in range(1, 10)
    }
    hue = [("रंग", ka) for ka in ("का", "के", "की")]
    around = [
        (words, ()) for rel in ("जिसका", "जिनका") for words in ((rel, "रंग"), (",", rel, "रंग"))
    ]
    return LanguageRules(
        clean=lambda text: clean(text.lower()),
        names=_by_first(names, single),
        counts=counts | {digit: n for n, digit in enumerate(grammar_hi.DIGITS) if n},
        articles=frozenset(),
        pairs=frozenset(),
        sizes={
            clean(grammar_hi.inflect(word, *form)): size
            for size, words in grammar_hi.SIZES.items()
            for word in words
            for form in forms
        },
        colors=colors,
        of_color=(*hue, ("रंग", clean("में"))),
        later=(*around, ((",", "रंग"), ()), ((), ("रंग", clean("में")))),
        places=_places(grammar_hi.PLACES, clean),
        facings=frozenset(
            words_of(clean(text.format(ore=ore)))
            for text in (*phrases_hi.FACING, *phrases_hi.HEADING)
            for ore, _ in (*grammar_hi.LEFT, *grammar_hi.RIGHT)
        ),
        patterns=_patterns(grammar_hi.PAIRED, hindi_phrases, _hindi_sides, clean),
    )


def _by_first(
    names: dict[Words, set[str]], single: set[Words]
) -> dict[str, list[tuple[Words, frozenset[str], bool]]]:
    """Concept names grouped by their first word, longest first; see LanguageRules.names."""
    first = defaultdict[str, list[tuple[Words, frozenset[str], bool]]](list)
    for words in sorted(names, key=len, reverse=True):
        first[words[0]].append((words, frozenset(names[words]), words in single))
    return dict(first)


def _places(
    tables: Mapping[str, tuple[tuple[str, ...], tuple[str, ...]]], clean: Callable[[str], str]
) -> frozenset[Words]:
    return frozenset(
        words_of(clean(text)) for both in tables.values() for texts in both for text in texts
    )


def english_phrases(mark: str) -> Iterator[Any]:
    for group, concept in _agreement_forms():
        phrase = grammar_en.phrase(group, concept, random.Random(0))
        yield replace(phrase, text=mark, exact=mark, bare=mark, plain=mark, the=mark, noun=mark)


def hindi_phrases(mark: str) -> Iterator[Any]:
    for group, concept in _agreement_forms():
        phrase = grammar_hi.phrase(group, concept, random.Random(0))
        yield replace(
            phrase,
            text=mark,
            oblique=mark,
            exact=mark,
            bare=mark,
            loose=mark,
            plain=mark,
            noun=mark,
        )


def _hindi_sides(relation: str | None) -> list[dict[str, str]]:
    choices = {tuple(grammar_hi.sides(relation, random.Random(k)).items()) for k in range(64)}
    return [dict(items) for items in choices]


@cache
def _agreement_forms() -> tuple[tuple[Group, Concept], ...]:
    """One concept and count (1 or 2) for each agreement form that changes the words around it."""
    found: dict[Any, tuple[Group, Concept]] = {}
    for concept in lexicon().values():
        for count in (1, 2):
            group = Group(concept.id, count)
            words = grammar_en.phrase(group, concept, random.Random(0))
            key = (
                words.are,
                words.it,
                words.sit,
                concept.hi.gender,
                grammar_en.living(concept),
                count,
            )
            found.setdefault(key, (group, concept))
    return tuple(found.values())


def _patterns(
    tables: dict[str | None, tuple[str, ...]],
    phrases: Callable[[str], Iterator[Any]],
    sides: Callable[[str | None], list[dict[str, str]]],
    clean: Callable[[str], str],
) -> dict[Words, tuple[str, bool]]:
    """All patterns that a language's grammar can generate for two objects.

    Maps the words, with THING for each object, to the relation and whether the first is its a.
    """
    one, two = list(phrases(THING + "a")), list(phrases(THING + "b"))
    found: dict[Words, tuple[str, bool]] = {}
    for relation, table in tables.items():
        if relation is None:
            continue
        for pattern in table:
            for side in sides(relation):
                for text in {
                    pattern.format(a=a, b=b, picture="", **side) for a in one for b in two
                }:
                    words = words_of(clean(text))
                    places = [k for k, word in enumerate(words) if word.startswith(THING)]
                    blank = tuple(
                        THING if word.startswith(THING) else word
                        for word in words
                        if word not in (".", "।")
                    )
                    if len(places) == 2:
                        found[blank] = (relation, words[places[0]] == THING + "a")
    return found


# ------------------------------------------------------------------------------------------ parsing


def read(text: str, language: str) -> ParsedCaption:
    """The parsed caption of a text in a language ("en" or "hi")."""
    rules = language_rules(language)
    tokens = words_of(rules.clean(text))
    found = tuple(mentions(tokens, rules))
    left, end = list[str](), 0
    for start, stop, _ in found:
        left += [*tokens[end:start], THING]
        end = stop
    left += tokens[end:]
    return ParsedCaption(tuple(mention for *_, mention in found), tuple(_relations(left, rules)))


def mentions(tokens: Words, rules: LanguageRules) -> Iterator[tuple[int, int, Mention]]:
    """The noun phrases among cleaned tokens, as (first token, token after the last, mention)."""
    aside, facing = (_covered(tokens, phrases) for phrases in (rules.places, rules.facings))
    k = 0
    while k < len(tokens):
        found = None if k in facing else _mention(tokens, k, rules)
        if found is None:
            k += 1
        else:
            yield k, found[1], replace(found[0], aside=k in aside)
            k = found[1]


def _covered(tokens: Words, phrases: frozenset[Words]) -> set[int]:
    """The indices of the tokens inside one of the phrases."""
    return {
        i
        for words in phrases
        for j in range(len(tokens))
        if tokens[j : j + len(words)] == words
        for i in range(j, j + len(words))
    }


def _mention(tokens: Words, start: int, rules: LanguageRules) -> tuple[Mention, int] | None:
    """The noun phrase that begins at token ``start``, and the index after it; None if none does."""
    k, count = start, rules.counts.get(tokens[start])
    k += count is not None or tokens[k] in rules.articles
    k += next((len(words) for words in rules.pairs if tokens[k : k + len(words)] == words), 0)
    k += k < len(tokens) and tokens[k] in rules.sizes and not name_at(tokens, k, rules)
    found: list[tuple[Words, frozenset[str], bool, str | None]] = []
    if named := name_at(tokens, k, rules):
        found.append((*named, None))
    color = rules.colors.get(tokens[k]) if k < len(tokens) else None
    if color and (named := name_at(tokens, k + 1, rules)):
        found.append(((tokens[k], *named[0]), *named[1:], color))
    for between in rules.of_color if color else ():
        there = k + 1 + len(between)
        if (
            tokens[k + 1 : there] == between
            and there < len(tokens)
            and (inner := _mention(tokens, there, rules))
        ):
            means = inner[0].means | {
                (concept, color) for concept, none in inner[0].means if none is None
            }
            return Mention(inner[0].count if count is None else count, means), inner[1]
    if not found:
        return None
    end = k + max(len(words) for words, *_ in found)
    longest = [entry for entry in found if k + len(entry[0]) == end]
    means = frozenset((concept, paint) for _, concepts, _, paint in longest for concept in concepts)
    means, end = _trailing_color(tokens, end, means, rules)
    singular = any(one for _, _, one, _ in longest)
    return Mention(1 if count is None and singular else count, means), end


def _trailing_color(
    tokens: Words, end: int, means: frozenset[Meaning], rules: LanguageRules
) -> tuple[frozenset[Meaning], int]:
    """The meanings and the end of a noun phrase, with a colour that follows the noun.

    A colour that belongs to the background or to the next noun phrase is left alone.
    """
    for before, after in rules.later:
        place = end + len(before)
        stop = place + 1 + len(after)
        color = rules.colors.get(tokens[place]) if place < len(tokens) else None
        taken = tokens[stop : stop + 1] in BACKGROUND or name_at(tokens, stop, rules)
        if (
            color
            and tokens[end:place] == before
            and tokens[place + 1 : stop] == after
            and not taken
        ):
            return means | {(concept, color) for concept, none in means if none is None}, stop
    return means, end


def name_at(
    tokens: Words, k: int, rules: LanguageRules
) -> tuple[Words, frozenset[str], bool] | None:
    """The longest concept name that begins at token k, None if none does."""
    entries = rules.names.get(tokens[k], ()) if k < len(tokens) else ()
    return next((entry for entry in entries if tokens[k : k + len(entry[0])] == entry[0]), None)


def _relations(left: Sequence[str], rules: LanguageRules) -> Iterator[tuple[str, int, int]]:
    """The relations (name, a, b) in a caption whose noun phrases are replaced by THING.

    Of the patterns that match around two neighbouring phrases only the longest counts.
    """
    tokens = [token for token in left if token not in (".", "।")]
    numbers = [k for k, token in enumerate(tokens) if token == THING]
    for i, (one, two) in enumerate(pairwise(numbers)):
        low = numbers[i - 1] if i else -1
        high = numbers[i + 2] if i + 2 < len(numbers) else len(tokens)
        spans = [
            (begin, end) for begin in range(low + 1, one + 1) for end in range(two + 1, high + 1)
        ]
        for begin, end in sorted(spans, key=lambda span: span[0] - span[1]):
            if pattern := rules.patterns.get(tuple(tokens[begin:end])):
                relation, in_order = pattern
                yield (relation, i, i + 1) if in_order else (relation, i + 1, i)
                break
