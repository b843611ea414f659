"""The lexicon: what every picture of the atlas is called in English and in Hindi, and what a scene may do with it.

``art/lexicon.jsonl`` is the source and is edited by hand, one concept a line. A Hindi noun there is either all four forms,
checked by hand (``"checked": true``, as for every core class), or only its singular, from which ``decline`` makes the rest.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

ART = Path(__file__).parent / "art"

# Head nouns end before the first of these: "bow and arrow" is not one bow, but "cup with straw" is a cup.
_PREPOSITIONS = re.compile(
    r" (?:of|with|without|in|on|at|behind|over|under|from|to|for|showing|facing|by|between|pointing|wearing|up|down)\b| \w+ing\b"
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
    """The plural of an English noun phrase: its head nouns are changed, "fork and knife with plate" gives "forks and knives with plate"."""
    cut = _PREPOSITIONS.search(name)
    heads, tail = (name[: cut.start()], name[cut.start() :]) if cut else (name, "")
    return " and ".join(_plural(head, alone=cut is None) for head in heads.split(" and ")) + tail


def _plural(head: str, alone: bool) -> str:
    rest, space, noun = head.rpartition(" ")
    lower = noun.lower()
    if lower in _IRREGULAR:
        noun = _IRREGULAR[lower]
    elif lower in _UNCHANGED or (
        alone and lower.endswith("s") and not lower.endswith(("ss", "us", "is"))
    ):  # "maracas" is one already
        pass
    elif re.search(r"[^aeiou]y$", lower):
        noun = noun[:-1] + "ies"
    else:
        noun += "es" if lower.endswith(("s", "x", "z", "ch", "sh")) or lower in _OE else "s"
    return rest + space + noun


@dataclass(frozen=True)
class HindiNoun:
    """A Hindi noun: ``gender`` "m" or "f", and its forms in the direct case and (before a postposition) the oblique."""

    gender: str
    singular: str
    plural: str
    singular_oblique: str
    plural_oblique: str


_POSTPOSITIONS = {"का", "के", "की", "में", "पर", "से", "को", "ने", "और", "तक", "द्वारा"}
# Names that are plural already (मोज़े, आँखें), and loans in -ा that do not bend.
_PLURALS = {"m": {"े": "ों"}, "f": {"ियाँ": "ियों", "एँ": "ओं", "एं": "ओं", "ें": "ों"}}
_UNBENT = {
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
    """All forms of a Hindi noun phrase whose last word is its head, by rule.

    Masculine -ा gives -े, -े, -ों with the adjectives before it (नीला झंडा: नीले झंडे); feminine -ी gives -ियाँ, -ी, -ियों;
    feminine consonants -ें, -ों and vowels -एँ, -ओं; everything else changes in the plural oblique alone.
    """
    *before, noun = name.split(" ")
    same = " ".join(before)
    bent = " ".join(
        word[:-1] + ("े" if word.endswith("ा") else "ए")
        if gender == "m"
        and word.endswith(("ा", "आ"))
        and not word.endswith("िया")
        and (word == "का" or following not in _POSTPOSITIONS)
        else word
        for word, following in zip(before, [*before, noun][1:], strict=True)
    )

    def forms(plural: str, singular_oblique: str, plural_oblique: str) -> HindiNoun:
        front, changed = (f"{same} " if same else ""), (f"{bent} " if bent else "")
        return HindiNoun(
            gender,
            front + noun,
            changed + plural,
            changed + singular_oblique,
            changed + plural_oblique,
        )

    stem, last = noun[:-1], noun[-1]
    for ending, oblique in _PLURALS[gender].items():
        if noun.endswith(ending):
            return forms(noun, noun, noun.removesuffix(ending) + oblique)
    if not re.search(
        "[ऄ-ौ़]$", noun
    ):  # digits, Latin letters and nasal endings (क्रोसाँ) have no forms
        return forms(noun, noun, noun)
    if gender == "m" and noun in _UNBENT:
        return forms(noun, noun, noun + "ओं")
    if gender == "m":
        if last == "ा":
            return forms(stem + "े", stem + "े", stem + "ों")
        if last == "आ":
            return forms(stem + "ए", stem + "ए", stem + "ओं")
        if last in "िी":
            return forms(noun, noun, stem + "ियों")
        if last == "ई":
            return forms(noun, noun, stem + "इयों")
        if last in "ुू":
            return forms(noun, noun, stem + "ुओं")
        return forms(
            noun, noun, noun + ("ओं" if last in _VOWELS else "ों") if last not in "ोओ" else noun
        )
    if noun.endswith("िया"):
        return forms(noun + "ँ", noun, stem + "ों")
    if last in "िी":
        return forms(stem + "ियाँ", noun, stem + "ियों")
    if last == "ई":
        return forms(stem + "इयाँ", noun, stem + "इयों")
    if last in "ुू":
        return forms(stem + "ुएँ", noun, stem + "ुओं")
    if last in _VOWELS:
        return forms(noun + "एँ", noun, noun + "ओं")
    return forms(noun + "ें", noun, noun + "ों")


@dataclass(frozen=True)
class Concept:
    """One thing the world can draw. ``id`` is the art pack's base; ``en`` and ``hi`` name it, and the synonyms name nothing
    else; Hindi synonyms have the gender of ``hi`` and ``decline`` gives their forms."""

    id: str
    en: str
    en_plural: str
    synonyms_en: tuple[str, ...]
    hi: HindiNoun
    synonyms_hi: tuple[str, ...]
    core: bool  # one of the eighty classes that carry the benchmarks
    recolor: bool  # its sprites can be drawn in the ten colours
    support: bool  # others can rest on it
    can_rest: bool  # it may rest on a support
    group: str
    weight: float  # how often to draw it, relative to an ordinary concept
    checked: bool  # the Hindi forms were checked by hand, otherwise they are rule-made
    seat: float = (
        0.0  # of a support: how far down its content its surface is, 0 the top, 1 the bottom
    )
    plain: tuple[
        str, ...
    ] = ()  # sprites that keep their own colours although the concept is recolourable
    without: tuple[
        str, ...
    ] = ()  # sprites of this concept that show something else (a head, another object)
    facing: str | None = (
        None  # where its drawings face, "left" or "right", checked by eye; None: neither, or not checked
    )
    hue: Mapping[str, float] = field(
        default_factory=dict
    )  # of sprites whose colour is not of their commonest hue: CIELAB degrees
    front: tuple[str, ...] = ()  # sprites of a concept with a facing that look at the viewer


@cache
def lexicon(path: Path = ART / "lexicon.jsonl") -> dict[str, Concept]:
    """Every concept by id, in the file's order: the core classes come first."""
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
    """For every concept the words that people look for it by (Unicode CLDR), by language "en" and "hi": looser than its names, "fruit"
    and "healthy" for an apple, and shared with others."""
    rows = (
        json.loads(line)
        for line in (folder / "keywords.jsonl").read_text(encoding="utf-8").splitlines()
    )
    return {
        row["id"]: {language: tuple(row[language]) for language in ("en", "hi")} for row in rows
    }


@cache
def sprites_of(concept: str, folder: Path = ART) -> dict[str, tuple[int, ...]]:
    """The rows of the atlas that show this concept, by style; sprites that the lexicon sets aside are left out."""
    return _rows(folder).get(concept, {})


@cache
def _rows(folder: Path) -> dict[str, dict[str, tuple[int, ...]]]:
    concepts = lexicon(folder / "lexicon.jsonl")
    rows: dict[str, dict[str, tuple[int, ...]]] = {}
    for row, line in enumerate((folder / "atlas.jsonl").read_text(encoding="utf-8").splitlines()):
        sprite = json.loads(line)
        concept = concepts.get(sprite["concept"])
        if concept is not None and sprite["id"] not in concept.without:
            styles = rows.setdefault(concept.id, {})
            styles[sprite["style"]] = (*styles.get(sprite["style"], ()), row)
    return rows
