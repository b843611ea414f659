"""Prompt suites: lists of prompts, always the same, with a dev split each.

"spriteeval" is GenEval (Ghosh et al. 2023) in the world of sprites: its six tasks, numbers of
prompts and templates, without "a photo of", on the core classes. Each suite has a dev split with
other prompts: thresholds, guidance and weights are chosen on it. True scenes are the ceiling.

Overlap with the training data: it holds no combination of "unseen" and no word of the word suites.
Prompts of two groups belong to the split that they test, together with the mirrored form ("A left
of B", "B right of A"). Prompts of one group and of hands occur in every split and differ by their
seeds alone. "single" names every core class once, in test and in dev; otherwise test and dev share
no prompt.
"""

from __future__ import annotations

import itertools
import random
import zlib
from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import cache, partial
from typing import Any, TypeVar

from kalpana.evaluate import geneval_prompts
from kalpana.evaluate.prompts import Groups, Prompt
from kalpana.types import KalpanaError
from kalpana.world import grammar_en, grammar_hi
from kalpana.world.figures import SKINS
from kalpana.world.kinds import hands, signs
from kalpana.world.layout import HOLDS
from kalpana.world.lexicon import lexicon
from kalpana.world.scene import (
    COLORS,
    DARK_PLACES,
    PLACES,
    SIZES,
    Background,
    Group,
    Scene,
)
from kalpana.world.splits import Combination, belongs, combinations, held_out, said

COUNTING = {2: 26, 3: 28, 4: 26}  # GenEval's number of prompts for each count
POSITION = {"left of": 19, "right of": 27, "above": 26, "below": 28}
T = TypeVar("T")
# -------------------------------------------------------------------------------------------- texts


class _FirstChoice(random.Random):
    """A generator that makes the grammars choose their plainest words.

    No synonym, no digit, the first entry of every list.
    """

    def random(self) -> float:
        return 0.5

    def choice(self, seq: Any) -> Any:
        return seq[0]


def english(
    groups: Groups, relation: str | None = None, place: str | None = None, numerals: bool = False
) -> str:
    """The English prompt: "a red apple left of a car", "three cats on a beach".

    With ``numerals`` a count of one is "one" and not "a".
    """
    alone = len(groups) == 1
    phrases = [
        grammar_en.phrase(group, lexicon()[group.concept], _FirstChoice(), alone=alone)
        for group in groups
    ]
    text = f" {relation or 'and'} ".join(
        phrase.exact if numerals else phrase.text for phrase in phrases
    )
    if not place:
        return text
    where, _ = grammar_en.surroundings(Background("place", place), _FirstChoice(), text)
    return f"{text}, {where}" if len(groups) > 1 else f"{text} {where}"


HINDI = {
    None: "{a} और {b}",
    "left of": "{b.oblique} के बाईं ओर {a}",
    "right of": "{b.oblique} के दाईं ओर {a}",
}
HINDI |= {"above": "{b.oblique} के ऊपर {a}", "below": "{b.oblique} के नीचे {a}"}


def hindi(groups: Groups, relation: str | None = None, place: str | None = None) -> str:
    """The Hindi prompt: "एक कार के बाईं ओर एक लाल सेब", "समुद्र तट पर तीन बिल्लियाँ"."""
    a, *rest = (
        grammar_hi.phrase(group, lexicon()[group.concept], _FirstChoice()) for group in groups
    )
    text = HINDI[relation].format(a=a, b=rest[0]) if rest else str(a)
    if not place:
        return text
    where, _ = grammar_hi.surroundings(Background("place", place), _FirstChoice())
    return f"{where} {text}"


def _prompt(
    task: str,
    groups: Groups,
    relation: str | None = None,
    place: str | None = None,
    exact: bool = False,
) -> Prompt:
    return Prompt(english(groups, relation, place), "en", task, groups, relation, place, exact)


# ----------------------------------------------------------------------------------------- sampling


def _rng(name: str, dev: bool) -> random.Random:
    return random.Random(f"{name}/{_split(dev)}")


def _split(dev: bool) -> str:
    return "dev" if dev else "test"


def _share(pool: Iterable[T], n: int, name: str, dev: bool) -> list[T]:
    """n random entries of the pool for test, or n others for dev."""
    every = list(pool)
    order = random.Random(name).sample(every, len(every))
    return order[n : 2 * n] if dev else order[:n]


@cache
def core(recolor: bool = False) -> tuple[str, ...]:
    """The ids of the core classes; ``recolor``: only those whose colour can be changed."""
    return tuple(
        concept.id
        for concept in lexicon().values()
        if concept.core and (concept.recolor or not recolor)
    )


def _as_scene(groups: Groups, relation: str | None = None) -> Scene:
    """The contents of a prompt as a scene without objects."""
    return Scene((), groups, Background("flat", "white"), relation)


def _not_held_out(groups: Iterable[Group]) -> list[Group]:
    """The groups that are no held-out combination."""
    return [group for group in groups if belongs(_as_scene((group,)), "test")]


def _collect(
    n: int, sample: Callable[[], tuple[Groups, str | None]], dev: bool
) -> list[tuple[Groups, str | None]]:
    """n samples of the split with different contents."""
    found: dict[str, tuple[Groups, str | None]] = {}
    while len(found) < n:
        groups, relation = sample()
        scene = _as_scene(groups, relation)
        if belongs(scene, _split(dev)):
            found.setdefault(said(scene), (groups, relation))
    return list(found.values())


def _two(
    rng: random.Random, relation: str | None = None, colored: bool = False
) -> tuple[Groups, str | None]:
    """Two objects of different concepts in this relation; ``colored``: of different colours."""
    one, two = rng.sample(core(recolor=colored), 2)
    first, second = rng.sample(COLORS, 2) if colored else (None, None)
    return (Group(one, color=first), Group(two, color=second)), relation


# ------------------------------------------------------------------------------------------- suites


def spriteeval(dev: bool = False) -> list[Prompt]:
    """The prompts of GenEval's six tasks: 553."""
    rng = _rng("spriteeval", dev)
    prompts = [_prompt("single", (Group(concept),)) for concept in core()]
    prompts += [_prompt("two", groups) for groups, _ in _collect(99, partial(_two, rng), dev)]
    for count, n in COUNTING.items():
        pool = _not_held_out(Group(concept, count) for concept in core())
        prompts += [
            _prompt("counting", (group,), exact=True)
            for group in _share(pool, n, f"counting {count}", dev)
        ]
    pool = _not_held_out(
        Group(concept, color=color) for concept in core(recolor=True) for color in COLORS
    )
    prompts += [_prompt("colors", (group,)) for group in _share(pool, 94, "colors", dev)]
    for relation, n in POSITION.items():
        prompts += [
            _prompt("position", *asked) for asked in _collect(n, partial(_two, rng, relation), dev)
        ]
    return prompts + [
        _prompt("color_attr", groups)
        for groups, _ in _collect(100, partial(_two, rng, colored=True), dev)
    ]


def spriteeval_hi(dev: bool = False) -> list[Prompt]:
    """The prompts of "spriteeval" in Hindi, in the same order."""
    return [
        replace(prompt, text=hindi(prompt.groups, prompt.relation), language="hi")
        for prompt in spriteeval(dev)
    ]


def unseen(dev: bool = False) -> list[Prompt]:
    """100 prompts for each kind of held-out combination.

    Each contains one held-out combination, alone or with common objects. Half of the combinations
    are for dev.
    """
    prompts, rng = [], _rng("unseen", dev)
    for kind, extend in AROUND.items():
        pool = sorted(
            (combination for combination in held_out() if combination[0] == kind), key=str
        )
        mine = _share(pool, len(pool) // 2, f"unseen {kind}", dev)
        asked = dict.fromkeys(_alone(combination) for combination in mine)
        while len(asked) < 100:
            combination = rng.choice(mine)
            groups, relation, place = extend(rng, _alone(combination)[0])
            if held_out() & set(combinations(_as_scene(groups))) == {combination}:
                asked[groups, relation, place] = None
        prompts += [
            _prompt(f"unseen {kind}", *asking, exact=kind == "count")
            for asking in itertools.islice(asked, 100)
        ]
    return prompts


Asked = tuple[Groups, str | None, str | None]  # groups, relation, place


def _alone(combination: Combination) -> Asked:
    """A prompt's contents with this combination and nothing else."""
    kind, concept, value = combination
    if isinstance(value, int):
        return (Group(concept, value),), None, None
    pair = kind == "pair"
    groups = (Group(concept), Group(value)) if pair else (Group(concept, color=value),)
    return groups, None, None


def _beside(rng: random.Random, groups: Groups) -> Asked:
    """A coloured object and a second object of another colour, in either order."""
    other = Group(
        rng.choice(core(recolor=True)),
        color=rng.choice([color for color in COLORS if color != groups[0].color]),
    )
    if other.concept == groups[0].concept:
        return groups, None, None
    return ((*groups, other) if rng.random() < 0.5 else (other, *groups)), None, None


def _related(rng: random.Random, groups: Groups) -> Asked:
    """The two groups in random order and in a random relation."""
    return tuple(rng.sample(groups, 2)), rng.choice(tuple(POSITION)), None


def _colored_or_placed(rng: random.Random, groups: Groups) -> Asked:
    """One group with a random colour or a random place."""
    (group,) = groups
    if lexicon()[group.concept].recolor and rng.random() < 0.5:
        return (replace(group, color=rng.choice(COLORS)),), None, None
    return groups, None, rng.choice(places_for(groups))


AROUND: dict[str, Callable[[random.Random, Groups], Asked]] = {
    "color": _beside,
    "pair": _related,
    "count": _colored_or_placed,
}


def places_for(groups: Groups) -> list[str]:
    """The places in which these groups stand out from the background."""
    dark = any(group.color == "black" for group in groups)
    clear = [
        place
        for place in PLACES
        if HOLDS.get(place, set()).isdisjoint(group.concept for group in groups)
    ]
    return [place for place in clear if not (dark and place in DARK_PLACES)]


def counts58(dev: bool = False) -> list[Prompt]:
    """Counts of five to eight objects, 20 prompts each."""
    prompts = []
    for count in range(5, 9):
        pool = _not_held_out(Group(concept, count) for concept in core())
        prompts += [
            _prompt("counts58", (group,), exact=True)
            for group in _share(pool, 20, f"counts58 {count}", dev)
        ]
    return prompts


def facing(dev: bool = False) -> list[Prompt]:
    """50 single objects that face left or right, each in English and in Hindi: 100 prompts.

    The 16 classes with a known facing, to both sides, in test and in dev; and 18 of these in a
    colour.
    """
    classes = [concept for concept in lexicon().values() if concept.core and concept.facing]
    plain = [Group(concept.id, facing=side) for concept in classes for side in ("left", "right")]
    pool = _not_held_out(
        replace(group, color=color)
        for group in plain
        if lexicon()[group.concept].recolor
        for color in COLORS
    )
    asked = [(group,) for group in (*plain, *_share(pool, 18, "facing", dev))]
    return [
        Prompt(text_of(groups), language, "facing", groups)
        for groups in asked
        for language, text_of in (("en", english), ("hi", hindi))
    ]


# Number of prompts for each number of atoms.
LEVELS = {3: 13, 4: 13, 5: 13, 6: 13, 7: 12, 8: 12, 9: 12, 10: 12}
# Atoms that each extra adds, by the number of groups.
EXTRAS = {
    1: {"color": 1, "size": 1, "place": 1},
    2: {"color": 1, "other color": 1, "size": 2, "relation": 1, "place": 1},
}


def hard(dev: bool = False) -> list[Prompt]:
    """100 prompts of three to ten atoms, after GenEval 2; the tasks are "hard 3" to "hard 10".

    One or two groups of one to four objects. Each group is two atoms: its object and its exact
    count ("one" is written out). Each colour, each size, the relation and the place add one atom.
    Sizes are named only for counts of one, and for both groups or for neither.
    """
    rng = _rng("hard", dev)
    prompts: dict[str, Prompt] = {}
    for level, n in LEVELS.items():
        full = len(prompts) + n
        while len(prompts) < full:
            groups, relation, place = _hard(rng, level)
            text = english(groups, relation, place, numerals=True)
            # One group has no split of its own: a hash shares the texts between dev and test.
            mine = len(groups) > 1 or zlib.crc32(text.encode()) % 2 == dev
            if mine and belongs(_as_scene(groups, relation), _split(dev)):
                prompts[text] = Prompt(
                    text, "en", f"hard {level}", groups, relation, place, exact=True
                )
    return list(prompts.values())


@cache
def _shapes(level: int) -> list[tuple[int, tuple[str, ...]]]:
    """All numbers of groups and sets of extras that add up to ``level`` atoms."""
    subsets = [
        (n, chosen)
        for n, extras in EXTRAS.items()
        for k in range(len(extras) + 1)
        for chosen in itertools.combinations(extras, k)
    ]
    return [
        (n, chosen)
        for n, chosen in subsets
        if 2 * n + sum(EXTRAS[n][extra] for extra in chosen) == level
    ]


def _hard(rng: random.Random, level: int) -> Asked:
    """The contents of a random prompt with ``level`` atoms."""
    n, extras = rng.choice(_shapes(level))
    sizes, colors = rng.sample(SIZES, 2), rng.sample(COLORS, 2)
    groups: list[Group] = []
    for i in range(n):
        colored = ("color", "other color")[i] in extras
        taken = {group.concept for group in groups}
        concept = rng.choice([concept for concept in core(colored) if concept not in taken])
        count, size = (1, sizes[i]) if "size" in extras else (rng.randint(1, 4), None)
        groups.append(Group(concept, count, colors[i] if colored else None, size))
    relation = rng.choice(tuple(POSITION)) if "relation" in extras else None
    place = rng.choice(places_for(tuple(groups))) if "place" in extras else None
    return tuple(groups), relation, place


def raised(dev: bool = False) -> list[Prompt]:
    """200 prompts for a hand with zero to five raised fingers, alternately English and Hindi.

    All texts are different.
    """
    pools = {}
    for fingers, (language, texts) in itertools.product(
        range(6), (("en", _english_hand), ("hi", _hindi_hand))
    ):
        asked = [(text, skin) for skin in (None, *SKINS) for text in texts(fingers, skin)]
        pools[fingers, language] = iter(_share(asked, 17, f"hands {fingers} {language}", dev))
    prompts = []
    for i in range(200):
        fingers, language = (i // 2 + 3 * (i % 2)) % 6, ("en", "hi")[i % 2]
        text, skin = next(pools[fingers, language])
        prompts.append(
            Prompt(text, language, "hands", (Group("hand"),), fingers=fingers, skin=skin)
        )
    return prompts


def _english_hand(fingers: int, skin: str | None) -> list[str]:
    """All English texts for a hand with this number of raised fingers."""
    color = f"{hands.ENGLISH_SKINS[skin][0]} " if skin else ""
    if fingers == 0:
        fists = [name.format(skin=color) for name in hands.ENGLISH_NAMES["00000"]]
        return [f"{grammar_en.article(fist)} {fist}" for fist in fists]
    slots = {
        "hand": f"{grammar_en.article(color or 'hand')} {color}hand",
        "n": grammar_en.NUMERALS[fingers - 1],
    }
    return [
        pattern.format(**slots, fingers="finger" if fingers == 1 else "fingers")
        for pattern in hands.ENGLISH
    ]


def _hindi_hand(fingers: int, skin: str | None) -> list[str]:
    """All Hindi texts for a hand with this number of raised fingers."""

    def agree(gender: str, oblique: bool = False) -> str:
        colors = hands.HINDI_SKINS[skin][0].split() if skin else ()
        return "".join(f"{grammar_hi.inflect(word, gender, False, oblique)} " for word in colors)

    slots = {
        "ek": "एक ",
        "f": agree("f"),
        "hand": f"एक {agree('m')}हाथ",
        "hand_o": f"एक {agree('m', oblique=True)}हाथ",
    }
    if fingers == 0:
        return [name.format(**slots) for name in hands.HINDI_NAMES["00000"]]
    one = {"u": "उँगली", "u_o": "उँगली", "hai": "है"}
    several = {"u": "उँगलियाँ", "u_o": "उँगलियों", "hai": "हैं"}
    counted = {"n": grammar_hi.NUMERALS[fingers - 1], **(one if fingers == 1 else several)}
    return [pattern.format(**slots, **counted) for pattern in hands.HINDI]


def words_latin(dev: bool = False) -> list[Prompt]:
    """200 signs with words of two to six Latin letters that occur on no training sign."""
    return [
        _written(word, "en", f'a sign that says "{word}"') for word in _words("words-latin", dev)
    ]


def words_devanagari(dev: bool = False) -> list[Prompt]:
    """200 signs with words in Devanagari, as words_latin; the prompts are in Hindi."""
    return [
        _written(word, "hi", f'एक बोर्ड जिस पर "{word}" लिखा है')
        for word in _words("words-devanagari", dev)
    ]


def _written(word: str, language: str, text: str) -> Prompt:
    return Prompt(text, language, "words", (Group("sign"),), word=word)


def _words(name: str, dev: bool) -> list[str]:
    """200 different words of a suite's script and split."""
    rng = _rng(name, dev)
    found: dict[str, None] = {}
    while len(found) < 200:
        word = signs.word(rng, _split(dev))
        # Words of one character are in every split.
        if word.isascii() == (name == "words-latin") and len(word) > 1:
            found[word] = None
    return list(found)


SUITES: dict[str, Callable[[bool], list[Prompt]]] = {
    "spriteeval": spriteeval,
    "spriteeval-hi": spriteeval_hi,
    "unseen": unseen,
    "counts58": counts58,
    "facing": facing,
    "hard": hard,
    "hands": raised,
    "words-latin": words_latin,
    "words-devanagari": words_devanagari,
}


def load(name: str, dev: bool = False) -> list[Prompt]:
    """The prompts of a suite or of its dev split; always the same.

    Raises KalpanaError if the suite is unknown, or the world cannot render its prompts.
    """
    if name == geneval_prompts.NAME:
        raise KalpanaError(f"suite {name} has no true renders: write kalpana evaluate suite")
    if name not in SUITES:
        raise KalpanaError(f"no suite {name!r}: write one of {', '.join(SUITES)}")
    return SUITES[name](dev)
