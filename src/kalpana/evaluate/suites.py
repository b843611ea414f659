"""Prompt sets, each prompt with what its picture must hold, and with scenes that are a true picture of it: the ceiling.

"spriteeval" is GenEval (Ghosh et al. 2023) in the world of sprites: its six tasks, counts of prompts and templates, less "a photo
of", on the core classes. Each suite has a dev twin of other prompts: thresholds, guidance and weights are chosen on that one.

What was trained on: nothing of "unseen" and no word; prompts of two groups are of the split they are for, and so is the
mirror that says the same ("A left of B", "B right of A"); prompts of one group and of hands are in every split, told apart
by their seeds alone. "single" names every core class once, in test and dev alike; else no prompt of one is in the other.
"""

from __future__ import annotations

import itertools
import random
import zlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import cache, partial
from typing import Any, TypeVar

from kalpana.types import KalpanaError
from kalpana.world import grammar_en, grammar_hi
from kalpana.world.defaults import choose_style
from kalpana.world.figures import SKINS
from kalpana.world.kinds import hands, signs
from kalpana.world.lexicon import lexicon
from kalpana.world.sample import scene_of
from kalpana.world.scene import (
    COLORS,
    DARK_PLACES,
    PLACES,
    SIZES,
    Background,
    Group,
    Hand,
    Scene,
    SceneObject,
    Sign,
)
from kalpana.world.splits import Combination, belongs, combinations, held_out, said

COUNTING = {2: 26, 3: 28, 4: 26}  # GenEval's numbers of prompts for each count
POSITION = {"left of": 19, "right of": 27, "above": 26, "below": 28}
# Core classes that a place shows on its own: sun and mountain, star, flowers, house, sofa.
HOLDS = {
    "mountains": {"2600", "26f0"},
    "night": {"2b50"},
    "garden": {"1f338", "1f339", "1f337"},
    "city": {"1f3e0"},
    "lounge": {"1f6cb"},
}

T = TypeVar("T")
Groups = tuple[Group, ...]


@dataclass(frozen=True)
class Prompt:
    """A prompt and what its picture must hold: ``groups`` in ``relation``, or one hand that raises ``fingers``, or a ``word``.
    Counts are met by more things too, unless the prompt is ``exact``."""

    text: str
    language: str  # "en" or "hi"
    task: str
    groups: Groups
    relation: str | None = None
    place: str | None = None  # one of PLACES
    exact: bool = False
    fingers: int | None = None
    skin: str | None = None  # of the hand, where it is said
    word: str | None = None

    def seeds(self, n: int = 4) -> list[int]:
        """The seeds of its pictures: the CRC-32 of "text/0", "text/1" and so on, in UTF-8. Nobody chooses them."""
        return [zlib.crc32(f"{self.text}/{i}".encode()) for i in range(n)]

    def scene(self, rng: random.Random, other_style: float = 0.0) -> Scene:
        """A scene that these words describe: in the house style, or with chance ``other_style`` in any other."""
        if self.fingers is not None:
            return _hand(rng, self.fingers, self.skin)
        if self.word is not None:
            return _sign(rng, self.word)
        while True:
            scene = scene_of(
                rng,
                self.groups,
                self.relation,
                self.place,
                choose_style(rng, self.groups, other_style),
            )
            assert scene is not None, f"no style has all that {self.text!r} names"
            if _plain(scene):
                return scene


def _plain(scene: Scene) -> bool:
    """Whether the background adds nothing to what is counted, and of two things the large one is plainly larger."""
    if not {group.concept for group in scene.groups}.isdisjoint(
        HOLDS.get(scene.background.name, ())
    ):
        return False
    size = {scene.groups[item.group].size: item.size for item in scene.objects}
    return "small" not in size or "large" not in size or 1.15 * size["small"] < size["large"]


def _hand(rng: random.Random, fingers: int, skin: str | None) -> Scene:
    while True:
        scene = hands.sample(rng, "test")
        hand = scene.objects[0].sprite
        if (
            len(scene.objects) == 1
            and isinstance(hand, Hand)
            and hands.count(hand) == fingers
            and skin in (None, hand.skin)
        ):
            return scene


def _sign(rng: random.Random, word: str) -> Scene:
    """The word on the board of a lone sign, as large as that sign's letters were, or as large as fits."""
    while True:
        drawn = signs.sample(rng, "test")
        old = drawn.objects[0].sprite
        if len(drawn.objects) > 1 or not isinstance(old, Sign) or not old.board:
            continue
        sign = replace(old, text=word)
        width, height = signs.extent(sign)
        tall, room = signs.letter_share(sign), 1 - 2 * signs.MARGIN
        size = min(
            drawn.objects[0].size * signs.letter_share(old) / tall, room / width, room / height
        )
        if 128 * size * tall >= signs.HEIGHTS[0]:
            half_w, half_h = size * width / 2 + signs.MARGIN, size * height / 2 + signs.MARGIN
            x, y = rng.uniform(half_w, 1 - half_w), rng.uniform(half_h, 1 - half_h)
            return Scene((SceneObject(sign, x, y, size),), drawn.groups, drawn.background)


# ------------------------------------------------------------------------------------------------------------------- words


class _Plainly(random.Random):
    """What a grammar asks to hear its plainest words: no synonym, no digit, the first of every list."""

    def random(self) -> float:
        return 0.5

    def choice(self, seq: Any) -> Any:
        return seq[0]


def english(
    groups: Groups, relation: str | None = None, place: str | None = None, numerals: bool = False
) -> str:
    """ "a red apple left of a car", "three cats on a beach"; with ``numerals`` a lone thing is "one" too."""
    alone = len(groups) == 1
    phrases = [
        grammar_en.phrase(group, lexicon()[group.concept], _Plainly(), alone=alone)
        for group in groups
    ]
    text = f" {relation or 'and'} ".join(
        phrase.exact if numerals else phrase.text for phrase in phrases
    )
    if not place:
        return text
    where, _ = grammar_en.surroundings(Background("place", place), _Plainly(), text)
    return f"{text}, {where}" if len(groups) > 1 else f"{text} {where}"


HINDI = {
    None: "{a} और {b}",
    "left of": "{b.oblique} के बाईं ओर {a}",
    "right of": "{b.oblique} के दाईं ओर {a}",
}
HINDI |= {"above": "{b.oblique} के ऊपर {a}", "below": "{b.oblique} के नीचे {a}"}


def hindi(groups: Groups, relation: str | None = None, place: str | None = None) -> str:
    """ "एक कार के बाईं ओर एक लाल सेब", "समुद्र तट पर तीन बिल्लियाँ"."""
    a, *rest = (grammar_hi.phrase(group, lexicon()[group.concept], _Plainly()) for group in groups)
    text = HINDI[relation].format(a=a, b=rest[0]) if rest else str(a)
    return (
        f"{grammar_hi.surroundings(Background('place', place), _Plainly())[0]} {text}"
        if place
        else text
    )


def _prompt(
    task: str,
    groups: Groups,
    relation: str | None = None,
    place: str | None = None,
    exact: bool = False,
) -> Prompt:
    return Prompt(english(groups, relation, place), "en", task, groups, relation, place, exact)


# ------------------------------------------------------------------------------------------------------------------ choices


def _rng(name: str, dev: bool) -> random.Random:
    return random.Random(f"{name}/{_split(dev)}")


def _split(dev: bool) -> str:
    return "dev" if dev else "test"


def _share(pool: Iterable[T], n: int, name: str, dev: bool) -> list[T]:
    """n of the pool for test, and n others for dev."""
    every = list(pool)
    order = random.Random(name).sample(every, len(every))
    return order[n : 2 * n] if dev else order[:n]


@cache
def _core(recolor: bool = False) -> tuple[str, ...]:
    return tuple(
        concept.id
        for concept in lexicon().values()
        if concept.core and (concept.recolor or not recolor)
    )


def _said(groups: Groups, relation: str | None = None) -> Scene:
    """What a prompt says, as a scene without things."""
    return Scene((), groups, Background("flat", "white"), relation)


def _shown(groups: Iterable[Group]) -> list[Group]:
    """Those that no combination keeps for "unseen"."""
    return [group for group in groups if belongs(_said((group,)), "test")]


def _collect(
    n: int, draw: Callable[[], tuple[Groups, str | None]], dev: bool
) -> list[tuple[Groups, str | None]]:
    """n draws of the split that say unlike things."""
    found: dict[str, tuple[Groups, str | None]] = {}
    while len(found) < n:
        groups, relation = draw()
        scene = _said(groups, relation)
        if belongs(scene, _split(dev)):
            found.setdefault(said(scene), (groups, relation))
    return list(found.values())


def _two(
    rng: random.Random, relation: str | None = None, colored: bool = False
) -> tuple[Groups, str | None]:
    """Two things of unlike concepts, and of unlike colours, in this relation."""
    one, two = rng.sample(_core(recolor=colored), 2)
    first, second = rng.sample(COLORS, 2) if colored else (None, None)
    return (Group(one, color=first), Group(two, color=second)), relation


# ------------------------------------------------------------------------------------------------------------------- suites


def spriteeval(dev: bool = False) -> list[Prompt]:
    """GenEval's six tasks, 553 prompts."""
    rng = _rng("spriteeval", dev)
    prompts = [_prompt("single", (Group(concept),)) for concept in _core()]
    prompts += [_prompt("two", groups) for groups, _ in _collect(99, partial(_two, rng), dev)]
    for count, n in COUNTING.items():
        pool = _shown(Group(concept, count) for concept in _core())
        prompts += [
            _prompt("counting", (group,), exact=True)
            for group in _share(pool, n, f"counting {count}", dev)
        ]
    pool = _shown(
        Group(concept, color=color) for concept in _core(recolor=True) for color in COLORS
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
    """The same in Hindi: prompt i asks for what prompt i of "spriteeval" asks for."""
    return [
        replace(prompt, text=hindi(prompt.groups, prompt.relation), language="hi")
        for prompt in spriteeval(dev)
    ]


def unseen(dev: bool = False) -> list[Prompt]:
    """A hundred prompts for each kind of held-out combination; each shows one of them, alone or in a company that is common. Half of
    the combinations are dev's."""
    prompts, rng = [], _rng("unseen", dev)
    for kind, around in AROUND.items():
        pool = sorted(
            (combination for combination in held_out() if combination[0] == kind), key=str
        )
        mine = _share(pool, len(pool) // 2, f"unseen {kind}", dev)
        asked = dict.fromkeys(_alone(combination) for combination in mine)
        while len(asked) < 100:
            combination = rng.choice(mine)
            groups, relation, place = around(rng, _alone(combination)[0])
            if held_out() & set(combinations(_said(groups))) == {combination}:
                asked[groups, relation, place] = None
        prompts += [
            _prompt(f"unseen {kind}", *asking, exact=kind == "count")
            for asking in itertools.islice(asked, 100)
        ]
    return prompts


Asked = tuple[Groups, str | None, str | None]  # groups, relation, place


def _alone(combination: Combination) -> Asked:
    """What shows this combination and no more."""
    kind, concept, value = combination
    if isinstance(value, int):
        return (Group(concept, value),), None, None
    return (
        ((Group(concept), Group(value)) if kind == "pair" else (Group(concept, color=value),)),
        None,
        None,
    )


def _beside(rng: random.Random, groups: Groups) -> Asked:
    """A coloured thing and another of another colour, in either order."""
    other = Group(
        rng.choice(_core(recolor=True)),
        color=rng.choice([color for color in COLORS if color != groups[0].color]),
    )
    if other.concept == groups[0].concept:
        return groups, None, None
    return ((*groups, other) if rng.random() < 0.5 else (other, *groups)), None, None


def _related(rng: random.Random, groups: Groups) -> Asked:
    return tuple(rng.sample(groups, 2)), rng.choice(tuple(POSITION)), None


def _painted_or_placed(rng: random.Random, groups: Groups) -> Asked:
    (group,) = groups
    if lexicon()[group.concept].recolor and rng.random() < 0.5:
        return (replace(group, color=rng.choice(COLORS)),), None, None
    return groups, None, rng.choice(_places(groups))


AROUND: dict[str, Callable[[random.Random, Groups], Asked]] = {
    "color": _beside,
    "pair": _related,
    "count": _painted_or_placed,
}


def _places(groups: Groups) -> list[str]:
    """Where these can be told from the background."""
    dark = any(group.color == "black" for group in groups)
    clear = [
        place
        for place in PLACES
        if HOLDS.get(place, set()).isdisjoint(group.concept for group in groups)
    ]
    return [place for place in clear if not (dark and place in DARK_PLACES)]


def counts58(dev: bool = False) -> list[Prompt]:
    """Five to eight things, twenty prompts each."""
    prompts = []
    for count in range(5, 9):
        pool = _shown(Group(concept, count) for concept in _core())
        prompts += [
            _prompt("counts58", (group,), exact=True)
            for group in _share(pool, 20, f"counts58 {count}", dev)
        ]
    return prompts


def facing(dev: bool = False) -> list[Prompt]:
    """Fifty lone objects that face left or right, each in English and in Hindi: the sixteen classes whose facing is known to both sides,
    in test and dev alike, and eighteen of them in a colour."""
    classes = [concept for concept in lexicon().values() if concept.core and concept.facing]
    plain = [Group(concept.id, facing=side) for concept in classes for side in ("left", "right")]
    pool = _shown(
        replace(group, color=color)
        for group in plain
        if lexicon()[group.concept].recolor
        for color in COLORS
    )
    asked = [(group,) for group in (*plain, *_share(pool, 18, "facing", dev))]
    return [
        Prompt(say(groups), language, "facing", groups)
        for groups in asked
        for language, say in (("en", english), ("hi", hindi))
    ]


LEVELS = {
    3: 13,
    4: 13,
    5: 13,
    6: 13,
    7: 12,
    8: 12,
    9: 12,
    10: 12,
}  # prompts for each number of atoms
EXTRAS = {
    1: {"color": 1, "size": 1, "place": 1},
    2: {"color": 1, "other color": 1, "size": 2, "relation": 1, "place": 1},
}  # in atoms


def hard(dev: bool = False) -> list[Prompt]:
    """A hundred prompts of three to ten atoms, after GenEval 2; their tasks are "hard 3" to "hard 10".

    One or two groups of one to four things. Each group is two atoms, its object and its exact count ("one" is said); each colour,
    each size, the relation and the place are one more. Sizes are said of lone things, and of both or of neither.
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
            if mine and belongs(_said(groups, relation), _split(dev)):
                prompts[text] = Prompt(
                    text, "en", f"hard {level}", groups, relation, place, exact=True
                )
    return list(prompts.values())


@cache
def _shapes(level: int) -> list[tuple[int, tuple[str, ...]]]:
    """Every number of groups, with what is said of them, that makes so many atoms."""
    subsets = [
        (n, some)
        for n, extras in EXTRAS.items()
        for k in range(len(extras) + 1)
        for some in itertools.combinations(extras, k)
    ]
    return [
        (n, some) for n, some in subsets if 2 * n + sum(EXTRAS[n][extra] for extra in some) == level
    ]


def _hard(rng: random.Random, level: int) -> Asked:
    n, extras = rng.choice(_shapes(level))
    sizes, colors = rng.sample(SIZES, 2), rng.sample(COLORS, 2)
    groups: list[Group] = []
    for i in range(n):
        colored = ("color", "other color")[i] in extras
        concept = rng.choice(
            [
                concept
                for concept in _core(colored)
                if concept not in {group.concept for group in groups}
            ]
        )
        count, size = (1, sizes[i]) if "size" in extras else (rng.randint(1, 4), None)
        groups.append(Group(concept, count, colors[i] if colored else None, size))
    relation = rng.choice(tuple(POSITION)) if "relation" in extras else None
    return (
        tuple(groups),
        relation,
        rng.choice(_places(tuple(groups))) if "place" in extras else None,
    )


def raised(dev: bool = False) -> list[Prompt]:
    """Two hundred hands that raise no finger to five, in English and Hindi by turns; all are asked for in other words."""
    pools = {}
    for fingers, (language, say) in itertools.product(
        range(6), (("en", _english_hand), ("hi", _hindi_hand))
    ):
        asked = [(text, skin) for skin in (None, *SKINS) for text in say(fingers, skin)]
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
    said = f"{hands.ENGLISH_SKINS[skin][0]} " if skin else ""
    if fingers == 0:
        fists = [name.format(skin=said) for name in hands.ENGLISH_NAMES["00000"]]
        return [f"{grammar_en.article(fist)} {fist}" for fist in fists]
    slots = {
        "hand": f"{grammar_en.article(said or 'hand')} {said}hand",
        "n": grammar_en.NUMERALS[fingers - 1],
    }
    return [
        pattern.format(**slots, fingers="finger" if fingers == 1 else "fingers")
        for pattern in hands.ENGLISH
    ]


def _hindi_hand(fingers: int, skin: str | None) -> list[str]:
    def agree(gender: str, oblique: bool = False) -> str:
        return (
            "".join(
                f"{grammar_hi.inflect(word, gender, False, oblique)} "
                for word in hands.HINDI_SKINS[skin][0].split()
            )
            if skin
            else ""
        )

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
    """Two hundred words of two to six letters on signs; no sign of the training set says any of them."""
    return [
        _written(word, "en", f'a sign that says "{word}"') for word in _words("words-latin", dev)
    ]


def words_devanagari(dev: bool = False) -> list[Prompt]:
    """The same in Devanagari, asked for in Hindi."""
    return [
        _written(word, "hi", f'एक बोर्ड जिस पर "{word}" लिखा है')
        for word in _words("words-devanagari", dev)
    ]


def _written(word: str, language: str, text: str) -> Prompt:
    return Prompt(text, language, "words", (Group("sign"),), word=word)


def _words(name: str, dev: bool) -> list[str]:
    rng = _rng(name, dev)
    found: dict[str, None] = {}
    while len(found) < 200:
        word = signs.word(rng, _split(dev))
        if (
            word.isascii() == (name == "words-latin") and len(word) > 1
        ):  # one character is in every split
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
    """The prompts of a suite, or of its dev twin; always the same."""
    if name not in SUITES:
        raise KalpanaError(f"no suite {name!r}: write one of {', '.join(SUITES)}")
    return SUITES[name](dev)
