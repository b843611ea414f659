"""Hindi noun phrases with agreement in gender, number and case.

Adjectives in -ा or -आ inflect (नीला, नीले, नीली), all others do not. Before a postposition, noun and
adjectives are oblique (एक छोटे कुत्ते के ऊपर). Verbs and participles agree with their subject (रखा है,
रखी हैं).
"""

from __future__ import annotations

import random
import re
from dataclasses import dataclass

from kalpana.world.grammar_en import living
from kalpana.world.lexicon import Concept, HindiNoun, decline
from kalpana.world.scene import Group

NUMERALS = ("एक", "दो", "तीन", "चार", "पाँच", "छह", "सात", "आठ")
DIGITS = "०१२३४५६७८९"
SIZES = {"small": ("छोटा", "छोटा", "छोटा", "नन्हा"), "large": ("बड़ा", "बड़ा", "बड़ा", "विशाल")}
COLORS = {
    "red": ("लाल",),
    "orange": ("नारंगी", "नारंगी", "संतरी"),
    "yellow": ("पीला",),
    "green": ("हरा",),
    "blue": ("नीला",),
    "purple": ("बैंगनी", "बैंगनी", "जामुनी"),
    "pink": ("गुलाबी",),
    "brown": ("भूरा",),
    "black": ("काला",),
    "white": ("सफ़ेद",),
}

# Facing of people and animals (FACING), and of other objects (HEADING).
FACING = (
    "{ore} ओर मुँह किए",
    "{ore} ओर मुँह किए",
    "{ore} ओर मुँह किए हुए",
    "{ore} तरफ़ मुँह किए",
)
HEADING = ("{ore} ओर रुख़ किए", "{ore} ओर मुँह किए", "{ore} तरफ़ रुख़ किए")


@dataclass(frozen=True, slots=True)
class Phrase:
    """Noun phrase of a group in several forms, and the words that agree with it.

    ``str(phrase)`` is its text, in the direct case: "तीन छोटे लाल सेब".
    """

    text: str
    oblique: str  # before a postposition: "तीन छोटे लाल सेबों"
    exact: str  # with a numeral for every count: "एक लाल सेब"
    bare: str  # without numeral: "लाल सेब"
    loose: str  # the same before a postposition: "लाल सेबों"
    plain: str  # without the colour: "एक छोटा सेब"
    color: str  # agreeing with रंग: "नीला"
    hue: str  # the same, oblique: "नीले"
    noun: str  # "सेब"
    hai: str  # है, हैं
    raha: str  # रहा, रहे, रही
    rakha: str  # रखा; बैठा, for people and animals
    rakhe: str  # the same before a postposition
    hua: str  # हुआ, हुए, हुई
    ka: str  # the genitive postposition, agreeing with this noun: का, के, की
    jis: str  # जिस, जिन
    us: str  # उस, उन

    def __str__(self) -> str:
        return self.text


def inflect(adjective: str, gender: str, many: bool, oblique: bool = False) -> str:
    """Inflected form of an adjective.

    नीला gives नीली (feminine), नीले (masculine plural or oblique). Adjectives that do not end in -ा
    or -आ are unchanged.
    """
    if not adjective.endswith(("ा", "आ")):
        return adjective
    masculine, changed, feminine = "ाेी" if adjective.endswith("ा") else "आएई"
    return adjective[:-1] + (
        feminine if gender == "f" else changed if many or oblique else masculine
    )


def phrase(group: Group, concept: Concept, rng: random.Random) -> Phrase:
    """Random noun phrase of a group, under one of the concept's names."""
    many = group.count > 1
    noun = concept.hi
    if concept.synonyms_hi and rng.random() > 0.7:
        noun = decline(rng.choice(concept.synonyms_hi), noun.gender)
    size = rng.choice(SIZES[group.size]) if group.size else ""
    color = rng.choice(COLORS[group.color]) if group.color else ""
    of_color = color != "" and rng.random() < 0.15  # लाल रंग का सेब
    facing_phrase = facing(group.facing, living(concept), rng) if group.facing else ""
    number, determiner = _determiner(group.count, rng.random())

    def words(determiner: str, oblique: bool = False, colored: bool = True) -> str:
        """The phrase with this determiner, in direct or oblique case, with or without colour."""

        def agree(adjective: str) -> str:
            return inflect(adjective, noun.gender, many, oblique)

        color_words = (
            f"{inflect(color, 'm', False, oblique=True)} रंग {agree('का')}"
            if of_color
            else agree(color)
        )
        return " ".join(
            word
            for word in (
                facing_phrase,
                determiner,
                agree(size),
                color_words if colored and color else "",
                form(noun, many, oblique),
            )
            if word
        )

    sits = "बैठा" if living(concept) else "रखा"
    return Phrase(
        text=words(determiner),
        oblique=words(determiner, oblique=True),
        exact=words(number),
        bare=words(""),
        loose=words("", oblique=True),
        plain=words(determiner, colored=False),
        color=color,
        hue=inflect(color, "m", False, oblique=True),
        noun=form(noun, many, False),
        hai="हैं" if many else "है",
        raha=inflect("रहा", noun.gender, many),
        rakha=inflect(sits, noun.gender, many),
        rakhe=inflect(sits, noun.gender, many, oblique=True),
        hua=inflect("हुआ", noun.gender, many),
        ka=inflect("का", noun.gender, many),
        jis="जिन" if many else "जिस",
        us="उन" if many else "उस",
    )


def _determiner(count: int, draw: float) -> tuple[str, str]:
    """The numeral of a phrase and its determiner, by a random number ``draw`` in [0, 1)."""
    if count > 1:
        number = (
            NUMERALS[count - 1] if draw < 0.75 else str(count) if draw < 0.92 else DIGITS[count]
        )
        return number, number
    number = "एक" if draw < 0.96 else "1"
    return number, "" if draw < 0.35 else number


def facing(side: str, alive: bool, rng: random.Random) -> str:
    """Random phrase for a facing: बाईं ओर मुँह किए.

    It stands before the noun phrase and is the same for every gender and number.
    """
    ore, _ = rng.choice(LEFT if side == "left" else RIGHT)
    return rng.choice(FACING if alive else HEADING).format(ore=ore)


def form(noun: HindiNoun, many: bool, oblique: bool) -> str:
    """The form of a noun in this number and case."""
    if oblique:
        return noun.plural_oblique if many else noun.singular_oblique
    return noun.plural if many else noun.singular


def names(concept: Concept) -> list[str]:
    """All forms of all names of a concept."""
    nouns = (concept.hi, *(decline(name, concept.hi.gender) for name in concept.synonyms_hi))
    return list(
        dict.fromkeys(
            form(noun, many, oblique)
            for noun in nouns
            for many in (False, True)
            for oblique in (False, True)
        )
    )


LEFT = (("बाईं", "बाएँ"), ("बाईं", "बाएँ"), ("बायीं", "बायें"))
RIGHT = (("दाईं", "दाएँ"), ("दाईं", "दाएँ"), ("दायीं", "दायें"), ("दाहिनी", "दाहिने"))


def casual(text: str) -> str:
    """The text in common informal spelling: सफेद for सफ़ेद, पांच for पाँच."""
    return DOTTED.sub(r"\1", text).replace("ँ", "ं")


DOTTED = re.compile("([कखगजफ])\u093c")  # without ड़ and ढ़, separate letters that keep their dot
