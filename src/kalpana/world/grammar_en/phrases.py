"""English noun phrases with articles, numerals and plurals."""

from __future__ import annotations

import random
import re
from dataclasses import dataclass

from kalpana.world.lexicon import Concept, plural
from kalpana.world.scene import Group

NUMERALS = ("one", "two", "three", "four", "five", "six", "seven", "eight")
SIZES = {
    "small": ("small", "small", "small", "little", "tiny"),
    "large": ("large", "large", "big", "big", "huge"),
}
# Colours with a second name; the others have only their own.
COLORS = {"purple": ("purple", "purple", "purple", "violet")}
FACING = {  # (phrases after the noun, phrases before it)
    "left": (
        ("facing left", "facing left", "looking left", "facing to the left", "turned to the left"),
        ("left-facing",),
    ),
    "right": (
        (
            "facing right",
            "facing right",
            "looking right",
            "facing to the right",
            "turned to the right",
        ),
        ("right-facing",),
    ),
}

# Nouns that take "a pair of", and uncountable nouns; both by the last word of the name.
PAIRS = {
    "scissors",
    "glasses",
    "eyeglasses",
    "sunglasses",
    "goggles",
    "jeans",
    "trousers",
    "pants",
    "shorts",
    "gloves",
    "socks",
}
PAIRS |= {"binoculars", "chopsticks"}
MASS = {
    "bread",
    "rice",
    "popcorn",
    "butter",
    "salt",
    "broccoli",
    "garlic",
    "sushi",
    "bacon",
    "fog",
    "fire",
    "ice",
    "honey",
    "milk",
    "wine",
}
MASS |= {
    "money",
    "cheese",
    "lightning",
    "luggage",
    "spaghetti",
    "soap",
    "wood",
    "yarn",
    "thread",
    "dna",
}
# Subgroups of the art pack whose concepts are animals.
ANIMALS = (
    "animal-mammal",
    "animal-bird",
    "animal-reptile",
    "animal-amphibian",
    "animal-bug",
    "cat-face",
    "monkey-face",
)


@dataclass(frozen=True, slots=True)
class Phrase:
    """Noun phrase of a group in several forms, and the words that agree with it.

    ``str(phrase)`` is its text: "three small red apples".
    """

    text: str
    exact: str  # with a numeral for every count: "one red apple"
    bare: str  # without article or numeral: "red apple"
    plain: str  # without the colour: "a small apple"
    color: str
    the: str  # "the red apples"
    noun: str  # "the apples"
    are: str  # is, are
    have: str  # has, have
    s: str  # the verb's ending: it appear-s, they appear
    it: str  # it, them
    its: str  # its, their
    sit: str  # sitting; resting, for inanimate objects
    sits: str  # sits, sit; rests, rest

    def __str__(self) -> str:
        return self.text


def living(concept: Concept) -> bool:
    """Whether the concept is a person or an animal, which sits; other objects rest."""
    return concept.group.startswith("person") or concept.group in ANIMALS


def article(words: str) -> str:
    """The article "a" or "an", by the initial sound of ``words``."""
    return "an" if VOWEL.match(words) else "a"


# Initial vowel sounds: vowel letters, except y- and w-sounds (unicorn, ukulele, euro, one-way);
# silent h; letters pronounced by name (ATM, X-ray); 8, 11, 18.
VOWEL = re.compile(
    r"(?i:(?!uni(?![nm])|uk[eu]|ura|uti|use|usu|ufo|eu|ewe|on[ec]\b|one-)[aeiou]|hour|honest|heir|honou?r)"
    r"|(?:SOS|NG|[FHLMNRSX])\b|x-ray|8|11\b|18\b"
)


def phrase(
    group: Group, concept: Concept, rng: random.Random, terse: bool = False, alone: bool = False
) -> Phrase:
    """Random noun phrase of a group, under one of the concept's names.

    ``terse`` omits the article. Unless the group is ``alone`` in its caption, its facing stands
    before the noun, so that "left of" cannot follow "facing right".
    """
    one = group.count == 1
    name = (
        rng.choice(concept.synonyms_en)
        if concept.synonyms_en and rng.random() > 0.7
        else concept.en
    )
    plural_name = concept.en_plural if name == concept.en else plural(name)
    noun = name if one else plural_name
    head = re.split(" of | with ", name)[0].rpartition(" ")[2]
    pair, mass = head in PAIRS and "pair of" not in name, head in MASS and one
    # Plural even for a count of one ("grapes are"), unlike "bus", "rhinoceros" and "Aries".
    plural_only = (
        name == plural_name
        and head.endswith("s")
        and not head.endswith(("ss", "us", "is", "os"))
        and concept.group != "zodiac"
    )
    many = not one or (plural_only and not pair)

    size = rng.choice(SIZES[group.size]) + " " if group.size else ""
    color = rng.choice(COLORS.get(group.color, (group.color,))) if group.color else ""
    color_word = color + " " if color else ""
    pair_of = ("pair of " if one else "pairs of ") if pair else ""
    facing_before, facing_after = _facing(group.facing, alone, rng) if group.facing else ("", "")
    bare = pair_of + facing_before + size + color_word + noun + facing_after
    uncolored = pair_of + facing_before + size + noun + facing_after
    number, determiner = _determiner(group.count, mass or many, terse, rng.random())

    def counted(words: str) -> str:
        """``words`` after their article or numeral."""
        return f"{article(words) if determiner == 'a' else determiner} {words}".strip()

    sits, person = living(concept), concept.group.startswith("person")
    return Phrase(
        text=counted(bare),
        exact=f"{number} {bare}".strip(),
        bare=bare,
        plain=counted(uncolored),
        color=color,
        the="the " + bare,
        noun="the " + pair_of + noun,
        are="are" if many else "is",
        have="have" if many else "has",
        s="" if many else "s",
        it="them" if many or person else "it",
        its="their" if many or person else "its",
        sit="sitting" if sits else "resting",
        sits=("sit" if sits else "rest") + ("" if many else "s"),
    )


def capital(text: str) -> str:
    """The text with a capital first letter."""
    return text[:1].upper() + text[1:]


def _facing(side: str, alone: bool, rng: random.Random) -> tuple[str, str]:
    """Words for a facing before and after the noun; one of the two is empty."""
    after, before = FACING[side]
    if alone and rng.random() < 0.8:
        return "", " " + rng.choice(after)
    return rng.choice(before) + " ", ""


def _determiner(count: int, uncounted: bool, terse: bool, draw: float) -> tuple[str, str]:
    """The numeral of a phrase and its determiner, by a random number ``draw`` in [0, 1).

    ``uncounted``: one object whose noun is a mass noun or a plural.
    """
    if count > 1:
        number = NUMERALS[count - 1] if draw < 0.75 else str(count)
        return number, number
    if uncounted:
        some = "some" if draw < 0.4 and not terse else ""
        return some, some
    number = "one" if draw < 0.85 else "1"
    return number, "" if terse else number if draw < 0.08 or draw > 0.97 else "a"
