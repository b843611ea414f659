"""The lexicon: English and Hindi names of each concept of the atlas, and its use in scenes.

``art/lexicon.jsonl`` is the source, edited manually, one concept a line. A Hindi noun there is
either all four forms, checked manually (``"checked": true``, as for every core class), or only its
singular, from which ``decline`` derives the other forms.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

ART = Path(__file__).parent / "art"

# The head nouns of a name end before the first of these: "cup with straw" has the head "cup";
# "bow and arrow" has two heads.
_PREPOSITIONS = re.compile(
    r" (?:of|with|without|in|on|at|behind|over|under|from|to|for|showing|facing|by|between"
    r"|pointing|wearing|up|down)\b| \w+ing\b"
)
_IRREGULAR = {
    "man": "men",
    "woman": "women",
    "person": "people",
    "child": "children",
    "mouse": "mice",
    "foot": "feet",
    "tooth": "teeth",
}
_IRREGULAR |= {
    "goose": "geese",
    "knife": "knives",
    "leaf": "leaves",
    "wolf": "wolves",
    "elf": "elves",
    "scarf": "scarves",
    "ox": "oxen",
    "die": "dice",
}
_IRREGULAR |= {
    "policeman": "policemen",
    "fisherman": "fishermen",
    "snowman": "snowmen",
    "merman": "mermen",
    "calf": "calves",
    "cactus": "cacti",
}
_UNCHANGED = {
    "fish",
    "sheep",
    "deer",
    "moose",
    "bison",
    "shrimp",
    "squid",
    "aircraft",
    "scissors",
    "glasses",
    "sunglasses",
    "goggles",
    "jeans",
    "shorts",
}
_UNCHANGED |= {
    "bread",
    "rice",
    "spaghetti",
    "sushi",
    "popcorn",
    "luggage",
    "fire",
    "fog",
    "ice",
    "salt",
    "butter",
    "garlic",
    "wood",
    "dna",
    "bacon",
    "yarn",
    "thread",
    "soap",
}
_OE = {
    "tomato",
    "potato",
    "mango",
    "hero",
    "superhero",
    "volcano",
    "tornado",
    "buffalo",
    "mosquito",
}


def plural(name: str) -> str:
    """Plural of an English noun phrase, formed from its head nouns.

    "fork and knife with plate" gives "forks and knives with plate".
    """
    cut = _PREPOSITIONS.search(name)
    heads, tail = (name[: cut.start()], name[cut.start() :]) if cut else (name, "")
    return " and ".join(_plural(head, alone=cut is None) for head in heads.split(" and ")) + tail


def _plural(head: str, alone: bool) -> str:
    """Plural of one head noun phrase; ``alone``: nothing follows the head in the name."""
    rest, space, noun = head.rpartition(" ")
    lower = noun.lower()
    if lower in _IRREGULAR:
        noun = _IRREGULAR[lower]
    elif lower in _UNCHANGED or (
        alone and lower.endswith("s") and not lower.endswith(("ss", "us", "is"))
    ):
        pass  # "maracas" is already a plural
    elif re.search(r"[^aeiou]y$", lower):
        noun = noun[:-1] + "ies"
    else:
        noun += "es" if lower.endswith(("s", "x", "z", "ch", "sh")) or lower in _OE else "s"
    return rest + space + noun


@dataclass(frozen=True)
class HindiNoun:
    """A Hindi noun: its gender and its forms in the direct and oblique case.

    The oblique case stands before a postposition.
    """

    gender: str  # "m" or "f"
    singular: str
    plural: str
    singular_oblique: str
    plural_oblique: str


_POSTPOSITIONS = {"का", "के", "की", "में", "पर", "से", "को", "ने", "और", "तक", "द्वारा"}
# Endings of names that are already plural (मोज़े, आँखें) and their oblique endings.
_PLURALS = {"m": {"े": "ों"}, "f": {"ियाँ": "ियों", "एँ": "ओं", "एं": "ओं", "ें": "ों"}}
_UNBENT = {  # masculine nouns in -ा that do not inflect like native ones, mostly loan words
    "राजा",
    "योद्धा",
    "कार्यकर्ता",
    "पांडा",
    "गोरिल्ला",
    "ज़ेब्रा",
    "लामा",
    "निंजा",
    "कोआला",
    "पिन्याटा",
    "सिनेमा",
    "एंटेना",
    "काबा",
    "मेनोरा",
    "ओर्का",
    "हम्सा",
}
_VOWELS = "ािीुूृेैोौ"


def decline(name: str, gender: str) -> HindiNoun:
    """All forms, by rule, of a Hindi noun phrase whose last word is its head.

    Forms are given as plural, singular oblique, plural oblique. Masculine nouns in -ा have -े, -े,
    -ों and their adjectives agree (नीला झंडा: नीले झंडे). Feminine nouns in -ी have -ियाँ, -ी, -ियों.
    Feminine nouns in a consonant have -ें and -ों, in a vowel -एँ and -ओं. All other nouns change
    only in the plural oblique.
    """
    *before, noun = name.split(" ")
    direct = " ".join(before)
    inflected = " ".join(
        word[:-1] + ("े" if word.endswith("ा") else "ए")
        if gender == "m"
        and word.endswith(("ा", "आ"))
        and not word.endswith("िया")
        and (word == "का" or following not in _POSTPOSITIONS)
        else word
        for word, following in zip(before, [*before, noun][1:], strict=True)
    )

    front, changed = (f"{words} " if words else "" for words in (direct, inflected))
    plural, singular_oblique, plural_oblique = (changed + form for form in _forms(noun, gender))
    return HindiNoun(gender, front + noun, plural, singular_oblique, plural_oblique)


def _forms(noun: str, gender: str) -> tuple[str, str, str]:
    """Plural, singular oblique and plural oblique of a Hindi noun of one word."""
    stem, last = noun[:-1], noun[-1]
    for ending, oblique in _PLURALS[gender].items():
        if noun.endswith(ending):
            return (noun, noun, noun.removesuffix(ending) + oblique)
    # Digits, Latin letters and nasal endings (क्रोसाँ) do not inflect.
    if not re.search("[ऄ-ौ़]$", noun):
        return (noun, noun, noun)
    if gender == "m" and noun in _UNBENT:
        return (noun, noun, noun + "ओं")
    if gender == "m":
        if last == "ा":
            return (stem + "े", stem + "े", stem + "ों")
        if last == "आ":
            return (stem + "ए", stem + "ए", stem + "ओं")
        if last in "िी":
            return (noun, noun, stem + "ियों")
        if last == "ई":
            return (noun, noun, stem + "इयों")
        if last in "ुू":
            return (noun, noun, stem + "ुओं")
        return (noun, noun, noun + ("ओं" if last in _VOWELS else "ों") if last not in "ोओ" else noun)
    if noun.endswith("िया"):
        return (noun + "ँ", noun, stem + "ों")
    if last in "िी":
        return (stem + "ियाँ", noun, stem + "ियों")
    if last == "ई":
        return (stem + "इयाँ", noun, stem + "इयों")
    if last in "ुू":
        return (stem + "ुएँ", noun, stem + "ुओं")
    if last in _VOWELS:
        return (noun + "एँ", noun, noun + "ओं")
    return (noun + "ें", noun, noun + "ों")


@dataclass(frozen=True)
class Concept:
    """One class of object in the world: its names, flags and exceptions.

    No two concepts share a name or synonym. Hindi synonyms have the gender of ``hi``, and
    ``decline`` derives their forms. Sprites are given by their id in the atlas.
    """

    id: str  # the art pack's ``base``
    en: str
    en_plural: str
    synonyms_en: tuple[str, ...]
    hi: HindiNoun
    synonyms_hi: tuple[str, ...]
    core: bool  # one of the eighty core classes of the benchmarks
    recolor: bool  # its sprites can be drawn in the ten colours
    support: bool  # others can rest on it
    can_rest: bool  # it may rest on a support
    group: str  # subgroup of the art pack
    weight: float  # sampling weight, relative to an ordinary concept
    checked: bool  # whether the Hindi forms were checked manually; otherwise derived by rule
    # Height of a support's surface as a share of its content, 0 the top, 1 the bottom.
    seat: float = 0.0
    # Sprites that keep their own colours although the concept is recolourable.
    plain: tuple[str, ...] = ()
    # Sprites of this concept that show something else (a head, another object).
    without: tuple[str, ...] = ()
    # Facing of its drawings, "left" or "right", checked visually; None: neither, or not checked.
    facing: str | None = None
    # Hue of the body in CIELAB degrees, for sprites where it is not the most frequent hue.
    hue: Mapping[str, float] = field(default_factory=dict)
    # Sprites that face the viewer although the concept has a facing.
    front: tuple[str, ...] = ()


@cache
def lexicon(path: Path = ART / "lexicon.jsonl") -> dict[str, Concept]:
    """All concepts by id, in the file's order: core classes first."""
    concepts = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        gender, *forms = row.pop("hi")
        hi = HindiNoun(gender, *forms) if row["checked"] else decline(forms[0], gender)
        row |= {
            name: tuple(row.get(name, ()))
            for name in ("synonyms_en", "synonyms_hi", "plain", "without", "front")
        }
        row |= {"hi": hi, "en_plural": row.get("en_plural") or plural(row["en"])}
        concepts[row["id"]] = Concept(**row)
    return concepts


@cache
def keywords(folder: Path = ART) -> dict[str, dict[str, tuple[str, ...]]]:
    """Search keywords of every concept (Unicode CLDR), by language "en" and "hi".

    Keywords are less specific than names ("fruit", "healthy" for an apple) and concepts share them.
    """
    rows = (
        json.loads(line)
        for line in (folder / "keywords.jsonl").read_text(encoding="utf-8").splitlines()
    )
    return {
        row["id"]: {language: tuple(row[language]) for language in ("en", "hi")} for row in rows
    }


@cache
def sprites_of(concept: str, folder: Path = ART) -> dict[str, tuple[int, ...]]:
    """Atlas rows of a concept, by style, without the sprites in ``Concept.without``."""
    return _rows(folder).get(concept, {})


@cache
def _rows(folder: Path) -> dict[str, dict[str, tuple[int, ...]]]:
    """Atlas rows by concept and style."""
    concepts = lexicon(folder / "lexicon.jsonl")
    rows: dict[str, dict[str, tuple[int, ...]]] = {}
    for row, line in enumerate((folder / "atlas.jsonl").read_text(encoding="utf-8").splitlines()):
        sprite = json.loads(line)
        concept = concepts.get(sprite["concept"])
        if concept is not None and sprite["id"] not in concept.without:
            styles = rows.setdefault(concept.id, {})
            styles[sprite["style"]] = (*styles.get(sprite["style"], ()), row)
    return rows
