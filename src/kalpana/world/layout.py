"""Layouts of prompts: scenes of the training prior that show what a prompt states.

A prompt is read by the inverse grammar (``world/parse.py``) and drawn as the training scenes are
(``world/sample.py``): so many objects of each kind, in the relation and of the sizes it states.
What it leaves open, such as the place, follows the seed.
"""

from __future__ import annotations

import itertools
import random
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache

from kalpana.text.normalize import clean
from kalpana.text.tokenizer import language
from kalpana.world import grammar_en, grammar_hi
from kalpana.world.expansion import Reading, in_grammar, reading, style_of
from kalpana.world.lexicon import lexicon
from kalpana.world.parse import name_at, read, words_of
from kalpana.world.sample import scene_of
from kalpana.world.scene import RELATIONS, Group, Scene

# Core classes that the background of a place contains: sun and mountain, star, flowers, house,
# sofa.
HOLDS = {
    "mountains": {"2600", "26f0"},
    "night": {"2b50"},
    "garden": {"1f338", "1f339", "1f337"},
    "city": {"1f3e0"},
    "lounge": {"1f6cb"},
}
LONGEST = 1000  # characters; longer prompts are no captions
TRIES = 100  # random scenes before a prompt counts as one that cannot be drawn
# Words that stress a count and say nothing else.
STRESS = re.compile(
    r"(?<!\S)(exactly|precisely|just|only|ठीक|केवल|सिर्फ़|सिर्फ|बिलकुल)\s+", re.IGNORECASE
)

# Words before or after a noun phrase that state the absence of its objects.
NEGATIONS = (frozenset(("no", "not", "without", "बिना")), frozenset(("नहीं", "नही")))


@dataclass(frozen=True)
class Asked:
    """What a prompt states: ``groups`` in a ``relation``, and a ``style``, None where it names
    none."""

    groups: tuple[Group, ...]
    relation: str | None = None
    style: str | None = None


def layout(prompt: str, rng: random.Random) -> Scene | None:
    """Random scene of what a prompt states, from the training prior; None for a prompt that is not
    one or two counted kinds of objects, in words of the grammar, or that cannot be drawn. All
    randomness comes from ``rng``."""
    for asked in meanings(prompt):
        for style in dict.fromkeys((asked.style, None)):
            for _ in range(TRIES):
                scene = scene_of(rng, asked.groups, asked.relation, style=style)
                if scene is None:
                    break
                if unambiguous(scene):
                    return scene
    return None


def unambiguous(scene: Scene) -> bool:
    """Whether a scene is an unambiguous picture of its prompt.

    The background must not contain an object of a named class, and a large object must be at least
    1.15 times the size of a small one.
    """
    concepts = {group.concept for group in scene.groups}
    if not concepts.isdisjoint(HOLDS.get(scene.background.name, ())):
        return False
    size = {scene.groups[item.group].size: item.size for item in scene.objects}
    return "small" not in size or "large" not in size or 1.15 * size["small"] < size["large"]


def meanings(prompt: str) -> Iterator[Asked]:
    """All meanings of a prompt, the likeliest first; none for a prompt outside of the grammar, for
    one that leaves a count open, and for one that says where in the picture an object is."""
    text = STRESS.sub("", clean(prompt))
    name = language(text)
    if not text or len(text) > LONGEST or name == "mixed":
        return
    found = reading(text, name)
    if not in_grammar(found) or _placed(found):
        return
    relation, reverse = None, False
    if len(found.mentions) == 2:
        stated = _relation(found)
        if stated is None:
            return
        relation, reverse = stated
    style = style_of(found)
    choices = [_groups(found, k) for k in range(len(found.mentions))]
    for groups in itertools.product(*choices):
        yield Asked(groups[::-1] if reverse else groups, relation, style)


def _groups(found: Reading, k: int) -> list[Group]:
    """The groups that mention k may name: core classes first, and colours before names of coloured
    things; none where it states no count, or that there are none of them."""
    start, end, mention = found.mentions[k]
    before, after = found.tokens[max(start - 1, 0) : start], found.tokens[end : end + 1]
    negated = not (NEGATIONS[0].isdisjoint(before) and NEGATIONS[1].isdisjoint(after))
    if mention.count is None or negated:
        return []
    tokens, rules = found.tokens, found.rules
    sizes = [
        rules.sizes[tokens[i]]
        for i in range(start, end)
        if tokens[i] in rules.sizes and not name_at(tokens, i, rules)
    ]
    means = sorted(
        mention.means, key=lambda each: (each[1] is None, not lexicon()[each[0]].core, each)
    )
    size = sizes[0] if sizes else None
    return [Group(concept, mention.count, color, size) for concept, color in means]


def _relation(found: Reading) -> tuple[str | None, bool] | None:
    """The relation of two mentions, and whether the second one is its first group; None for words
    between them that state another one, or that the grammar does not know."""
    parsed = read(found.text, found.language)
    own = [k for k, mention in enumerate(parsed.mentions) if not mention.aside]
    stated = [each for each in parsed.relations if {each[1], each[2]} == set(own)]
    if len(own) != 2 or len(stated) > 1:
        return None
    if stated:
        relation, a, b = stated[0]
        return (relation, a > b) if relation in RELATIONS else None
    (_, end, _), (start, _, _) = found.mentions
    return (None, False) if found.tokens[end:start] in _joins(found.language) else None


@cache
def _joins(name: str) -> frozenset[tuple[str, ...]]:
    """The words between two groups that are only shown together."""
    grammar = grammar_en if name == "en" else grammar_hi
    parts = (re.split(r"\{[ab][^}]*\}", text) for text in grammar.PAIRED[None])
    between = (part[1] for part in parts if len(part) == 3)
    return frozenset(words_of(text.lower()) for text in between)


def _placed(found: Reading) -> bool:
    """Whether a prompt of one group says in which region of the picture it is."""
    if len(found.mentions) > 1:
        return False
    grammar = grammar_en if found.language == "en" else grammar_hi
    clean_word = found.rules.clean
    regions = {words_of(clean_word(text)) for text in grammar.REGIONS.values()}
    outside = _without(found.left, found.rules.facings | found.rules.places)
    return any(_within(words, outside) for words in regions)


def _within(words: Sequence[str], tokens: Sequence[str]) -> bool:
    return any(
        tuple(tokens[k : k + len(words)]) == tuple(words)
        for k in range(len(tokens) - len(words) + 1)
    )


def _without(tokens: tuple[str, ...], phrases: frozenset[tuple[str, ...]]) -> tuple[str, ...]:
    """The tokens but those of the phrases, of which longer ones may hold shorter ones."""
    for words in sorted(phrases, key=lambda words: (-len(words), words)):
        k = 0
        while k + len(words) <= len(tokens):
            if tokens[k : k + len(words)] == words:
                tokens = tokens[:k] + tokens[k + len(words) :]
            else:
                k += 1
    return tokens
