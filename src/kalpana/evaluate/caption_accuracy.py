"""Whether a caption is true of a picture, fact by fact: ``python -m kalpana.evaluate.caption_accuracy MODEL``.

A caption in the manner of the world's grammar is read backwards: noun phrases become their count, colour and what they may name, and what
is left between them is looked up among the patterns that the grammar can say. Of the true picture of every prompt of a suite it is asked
whether its things are named, its counts said, its colours and its relation. A fact that is left unsaid is not right; so the world's own
captions, which do not always count, are the ceiling, and those of other pictures the floor.
"""

from __future__ import annotations

import argparse
import random
import re
import sys
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from itertools import pairwise, permutations
from typing import Any

from PIL import Image

from kalpana.evaluate import suites
from kalpana.evaluate.run import BATCH, progress_to_stderr
from kalpana.evaluate.suites import Prompt
from kalpana.media import to_images
from kalpana.pipelines import load
from kalpana.types import KalpanaError
from kalpana.world import grammar_en, grammar_hi
from kalpana.world.grammar import LANGUAGES, caption
from kalpana.world.hard_negatives import OPPOSITE
from kalpana.world.lexicon import Concept, decline, lexicon, plural
from kalpana.world.render import render
from kalpana.world.scene import COLORS, Group, Scene

FACTS = ("things", "counts", "several", "colours", "relations")
TOKEN = re.compile(r"\s+|([,.:;!?।&\"()])")
BACKGROUND = (
    ("background",),
    ("gradient",),
)  # what a colour is of that is followed by one of these
THING = "@"  # begins the token that stands for a noun phrase

Words = tuple[str, ...]
Meaning = tuple[str, str | None]  # a concept and a colour


@dataclass(frozen=True)
class Mention:
    """A noun phrase: how many it says there are (None: it does not say), and what it may mean; "black cat" may be a cat in black, and the
    animal of that name. It may be ``aside``, part of what the grammar says of a place: "in front of a sofa"."""

    count: int | None
    means: frozenset[Meaning]
    aside: bool = False


@dataclass(frozen=True)
class ParsedCaption:
    """A caption, read: its mentions in order, and relations as the grammar has them, each with the numbers of the mentions it joins."""

    mentions: tuple[Mention, ...]
    relations: tuple[tuple[str, int, int], ...]


@dataclass(frozen=True)
class LanguageRules:
    """What of a language is needed to read it: ``names`` by their first word, the longest first, each with its concepts and whether it can
    be one thing; the words of counts, sizes and colours; and what may stand before (a phrase may begin with it) and after a colour."""

    clean: Callable[[str], str]
    names: dict[str, list[tuple[Words, frozenset[str], bool]]]
    counts: dict[str, int]
    articles: frozenset[str]
    pairs: frozenset[Words]
    sizes: frozenset[str]
    colors: dict[str, str]
    of_color: tuple[
        Words, ...
    ]  # between a colour and the phrase that it is said of: लाल रंग में एक सेब
    later: tuple[
        tuple[Words, Words], ...
    ]  # around a colour that follows its noun: "an apple that is RED"
    places: frozenset[Words]  # what is said of a background, where things are named in it
    patterns: dict[
        Words, tuple[str, bool]
    ]  # what stands between two things: the relation, and whether the first is its a


def words_of(text: str) -> Words:
    return tuple(part for part in TOKEN.split(text) if part)


# ------------------------------------------------------------------------------------------------------------- two languages


@cache
def language_rules(language: str) -> LanguageRules:
    return _english() if language == "en" else _hindi()


def _english() -> LanguageRules:
    names, single = defaultdict[Words, set[str]](set), set[Words]()
    for concept in lexicon().values():
        for name in (concept.en, *concept.synonyms_en):
            one, many = (
                words_of(name.lower()),
                words_of((concept.en_plural if name == concept.en else plural(name)).lower()),
            )
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
        sizes=frozenset(word for sizes in grammar_en.SIZES.values() for word in sizes),
        colors=colors,
        of_color=(),
        later=tuple((words, ()) for words in before),
        places=_places(grammar_en.PLACES, str.lower),
        patterns=_patterns(
            grammar_en.PAIRED,
            _english_phrases,
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
        sizes=frozenset(
            clean(grammar_hi.inflect(word, *form))
            for sizes in grammar_hi.SIZES.values()
            for word in sizes
            for form in forms
        ),
        colors=colors,
        of_color=(*hue, ("रंग", clean("में"))),
        later=(*around, ((",", "रंग"), ()), ((), ("रंग", clean("में")))),
        places=_places(grammar_hi.PLACES, clean),
        patterns=_patterns(grammar_hi.PAIRED, _hindi_phrases, _hindi_sides, clean),
    )


def _by_first(
    names: dict[Words, set[str]], single: set[Words]
) -> dict[str, list[tuple[Words, frozenset[str], bool]]]:
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


def _english_phrases(mark: str) -> Iterator[Any]:
    for group, concept in _kinds():
        said = grammar_en.phrase(group, concept, random.Random(0))
        yield replace(said, text=mark, exact=mark, bare=mark, plain=mark, the=mark, noun=mark)


def _hindi_phrases(mark: str) -> Iterator[Any]:
    for group, concept in _kinds():
        said = grammar_hi.phrase(group, concept, random.Random(0))
        yield replace(
            said, text=mark, oblique=mark, exact=mark, bare=mark, loose=mark, plain=mark, noun=mark
        )


def _hindi_sides(relation: str | None) -> list[dict[str, str]]:
    return [
        dict(items)
        for items in {
            tuple(grammar_hi.sides(relation, random.Random(k)).items()) for k in range(64)
        }
    ]


@cache
def _kinds() -> tuple[tuple[Group, Concept], ...]:
    """A concept, once and twice, for every way in which the words around one may differ."""
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
    """All that a language can say of two things, from the first to the second, by the words, with marks for the things."""
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


# ------------------------------------------------------------------------------------------------------------------ reading


def read(text: str, language: str) -> ParsedCaption:
    """A caption, read backwards."""
    known = language_rules(language)
    tokens, mentions, left, k = words_of(known.clean(text)), list[Mention](), list[str](), 0
    aside = {
        i
        for words in known.places
        for j in range(len(tokens))
        if tokens[j : j + len(words)] == words
        for i in range(j, j + len(words))
    }
    while k < len(tokens):
        found = _mention(tokens, k, known)
        if found is None:
            left.append(tokens[k])
            k += 1
        else:
            mentions.append(replace(found[0], aside=k in aside))
            k = found[1]
            left.append(THING)
    return ParsedCaption(tuple(mentions), tuple(_relations(left, known)))


def _mention(tokens: Words, start: int, known: LanguageRules) -> tuple[Mention, int] | None:
    """The noun phrase that begins here, and where it ends."""
    k, count = start, known.counts.get(tokens[start])
    k += count is not None or tokens[k] in known.articles
    k += next((len(words) for words in known.pairs if tokens[k : k + len(words)] == words), 0)
    k += k < len(tokens) and tokens[k] in known.sizes and not _name(tokens, k, known)
    found: list[tuple[Words, frozenset[str], bool, str | None]] = []
    if named := _name(tokens, k, known):
        found.append((*named, None))
    color = known.colors.get(tokens[k]) if k < len(tokens) else None
    if color and (named := _name(tokens, k + 1, known)):
        found.append(((tokens[k], *named[0]), *named[1:], color))
    for between in known.of_color if color else ():
        there = k + 1 + len(between)
        if (
            tokens[k + 1 : there] == between
            and there < len(tokens)
            and (inner := _mention(tokens, there, known))
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
    means, end = _painted_later(tokens, end, means, known)
    return Mention(
        1 if count is None and any(one for _, _, one, _ in longest) else count, means
    ), end


def _painted_later(
    tokens: Words, end: int, means: frozenset[Meaning], known: LanguageRules
) -> tuple[frozenset[Meaning], int]:
    """What a noun phrase means, and where it ends, if a colour follows it that is not the background's or the next thing's."""
    for before, after in known.later:
        place = end + len(before)
        stop = place + 1 + len(after)
        color = known.colors.get(tokens[place]) if place < len(tokens) else None
        taken = tokens[stop : stop + 1] in BACKGROUND or _name(tokens, stop, known)
        if (
            color
            and tokens[end:place] == before
            and tokens[place + 1 : stop] == after
            and not taken
        ):
            return means | {(concept, color) for concept, none in means if none is None}, stop
    return means, end


def _name(tokens: Words, k: int, known: LanguageRules) -> tuple[Words, frozenset[str], bool] | None:
    """The longest name that stands here."""
    some = known.names.get(tokens[k], ()) if k < len(tokens) else ()
    return next((entry for entry in some if tokens[k : k + len(entry[0])] == entry[0]), None)


def _relations(left: Sequence[str], known: LanguageRules) -> Iterator[tuple[str, int, int]]:
    """The patterns that stand in what is left of a caption; of those of the same two things only the longest."""
    tokens = [token for token in left if token not in (".", "।")]
    numbers = [k for k, token in enumerate(tokens) if token == THING]
    for i, (one, two) in enumerate(pairwise(numbers)):
        low = numbers[i - 1] if i else -1
        high = numbers[i + 2] if i + 2 < len(numbers) else len(tokens)
        spans = [
            (begin, end) for begin in range(low + 1, one + 1) for end in range(two + 1, high + 1)
        ]
        for begin, end in sorted(spans, key=lambda span: span[0] - span[1]):
            if pattern := known.patterns.get(tuple(tokens[begin:end])):
                relation, in_order = pattern
                yield (relation, i, i + 1) if in_order else (relation, i + 1, i)
                break


# ------------------------------------------------------------------------------------------------------------------ judging


def judge(scene: Scene, text: str, language: str) -> dict[str, list[bool]]:
    """Of each kind of fact that the scene has, which are rightly said: every group is named; there are so many, which is asked again
    of several alone; it has its colour; and the relation of two groups, if there is one. Where a caption can be understood in several
    ways, the best counts."""
    said = read(text, language)
    own = [k for k, mention in enumerate(said.mentions) if not mention.aside]
    own = own if len(own) >= len(scene.groups) else [*range(len(said.mentions))]
    numbers: list[int | None] = [*own, *[None] * len(scene.groups)]
    best: dict[str, list[bool]] | None = None
    for order in set(permutations(numbers[: 6 + len(scene.groups)], len(scene.groups))):
        facts = _facts(scene, said, order)
        if best is None or sum(map(sum, facts.values())) > sum(map(sum, best.values())):
            best = facts
    return best or {}


def _facts(scene: Scene, said: ParsedCaption, order: Sequence[int | None]) -> dict[str, list[bool]]:
    """The facts if group k is what mention ``order[k]`` means."""
    facts = defaultdict[str, list[bool]](list)
    for group, k in zip(scene.groups, order, strict=True):
        mention = None if k is None else said.mentions[k]
        colors = (
            {color for concept, color in mention.means if concept == group.concept}
            if mention
            else set()
        )
        facts["things"].append(bool(colors))
        counted = bool(colors) and mention is not None and mention.count == group.count
        facts["counts"].append(counted)
        if group.count > 1:
            facts["several"].append(counted)
        if group.color:
            facts["colours"].append(group.color in colors)
    if scene.relation:
        facts["relations"].append(
            all(facts["things"])
            and any(_same(scene.relation, order, each) for each in said.relations)
        )
    return facts


def _same(relation: str, order: Sequence[int | None], said: tuple[str, int, int]) -> bool:
    name, a, b = said
    if (a, b) == tuple(order):
        return name == relation
    return (b, a) == tuple(order) and (
        name == OPPOSITE.get(relation) or name == relation == "next to"
    )


# ---------------------------------------------------------------------------------------------------------------- measuring


def scores(
    scenes: Sequence[Scene], texts: Iterable[str], language: str
) -> dict[str, tuple[float, int]]:
    """The share of facts that are right, and how many there are, by kind."""
    every = defaultdict[str, list[bool]](list)
    for scene, text in zip(scenes, texts, strict=True):
        for kind, so in judge(scene, text, language).items():
            every[kind] += so
    return {kind: (sum(every[kind]) / max(len(every[kind]), 1), len(every[kind])) for kind in FACTS}


def measure(
    tell: Callable[[Sequence[Image.Image], str], list[str]],
    prompts: Sequence[Prompt],
    progress: Callable[[int, int], None],
) -> str:
    """A table of what ``tell(images, language)`` says of true pictures of prompts, beside floor and ceiling."""
    scenes = [prompt.scene(random.Random(f"told/{k}")) for k, prompt in enumerate(prompts)]
    lines = [
        "| caption in | who tells | " + " | ".join(FACTS) + " |",
        "|---|---|" + "---:|" * len(FACTS),
    ]
    images = [
        image
        for k in range(0, len(scenes), BATCH)
        for image in to_images(render(scenes[k : k + BATCH]).pixels)
    ]
    for turn, language in enumerate(LANGUAGES):
        texts = list[str]()
        for start in range(0, len(images), BATCH):
            texts += tell(images[start : start + BATCH], language)
            progress(turn * len(scenes) + len(texts), len(LANGUAGES) * len(scenes))
        own = [
            caption(scene, language, "natural", random.Random(f"told/{k}"))
            for k, scene in enumerate(scenes)
        ]
        others = random.Random("told").sample(own, len(own))
        for who, said in (
            ("floor: captions of other pictures", others),
            ("the model", texts),
            ("ceiling: the world", own),
        ):
            cells = (
                f"{100 * share:.1f} % of {n}"
                for share, n in scores(scenes, said, language).values()
            )
            lines.append(f"| {language} | {who} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "model", help="a DALL-E: a name from `kalpana models`, or a folder of weights"
    )
    parser.add_argument(
        "--suite", default="spriteeval", help="the prompts of whose true pictures it is to tell"
    )
    parser.add_argument("--dev", action="store_true", help="prompts by which choices are made")
    asked = parser.parse_args()
    try:
        model = load(asked.model)
        if not hasattr(model, "caption"):
            raise KalpanaError(f"model {asked.model!r} says nothing of pictures: name a DALL-E")
        print(
            measure(
                model.caption, suites.load(asked.suite, asked.dev), progress_to_stderr("captions")
            ),
            end="",
        )
    except KalpanaError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
