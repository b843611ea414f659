"""Hindi caption grammar: noun phrases with agreement, and the sentence patterns of every relation.

Noun phrases agree in gender, number and case. Adjectives in -ा or -आ inflect (नीला, नीले, नीली), all
others do not. Before a postposition, noun and adjectives are oblique (एक छोटे कुत्ते के ऊपर). Verbs and
participles agree with their subject (रखा है, रखी हैं).
"""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from dataclasses import dataclass

from kalpana.world.defaults import background_said, style_said
from kalpana.world.grammar_en import living
from kalpana.world.lexicon import Concept, HindiNoun, decline
from kalpana.world.scene import Background, Group, Scene

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
PICTURES = (
    "की तस्वीर",
    "की तस्वीर",
    "का चित्र",
    "का चित्र",
    "का एक चित्र",
    "की एक तस्वीर",
    "की फ़ोटो",
    "की पेंटिंग",
    "की एक पेंटिंग",
    "की छवि",
    "का चित्रण",
)


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
    draw = rng.random()
    if many:
        number = (
            NUMERALS[group.count - 1]
            if draw < 0.75
            else str(group.count)
            if draw < 0.92
            else DIGITS[group.count]
        )
        determiner = number
    else:
        number = "एक" if draw < 0.96 else "1"
        determiner = "" if draw < 0.35 else number

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


# --------------------------------------------------------------------------------------- patterns
# As in English: a pattern that ends in a full stop is a sentence, the first PLAIN are the short
# form, and {side} is the side of a as seen from b. {ore} is the adjective before the feminine ओर
# and तरफ़ (बाईं), {side} the adverb (बाएँ); {oore} and {other} are the opposites.

PLAIN = 4

LEFT = (("बाईं", "बाएँ"), ("बाईं", "बाएँ"), ("बायीं", "बायें"))
RIGHT = (("दाईं", "दाएँ"), ("दाईं", "दाएँ"), ("दायीं", "दायें"), ("दाहिनी", "दाहिने"))
UP = (("ऊपर", "ऊपरी"),)
DOWN = (("नीचे", "निचले"),)

BESIDE = (
    "{a} {b.oblique} के {ore} ओर",
    "{b.oblique} के {ore} ओर {a}",
    "{a} {b.oblique} की {ore} तरफ़",
    "{b.oblique} के {side} {a}",
    "{a}, {b.oblique} के {ore} ओर",
    "{b.oblique} की {ore} ओर {a}",
    "{b.oblique} के {ore} तरफ़ {a}",
    "{b.oblique} की {ore} तरफ़ {a}",
    "{b}, {a.oblique} के {oore} ओर",
    "{b} {a.oblique} के {oore} ओर",
    "{a.oblique} के {oore} ओर {b}",
    "{a.oblique} की {oore} तरफ़ {b}",
    "{ore} ओर {a}, {oore} ओर {b}",
    "{ore} तरफ़ {a} और {oore} तरफ़ {b}",
    "{oore} ओर {b} और {ore} ओर {a}",
    "{a} {ore} ओर और {b} {oore} ओर",
    "{side} {a}, {other} {b}",
    "{side} से {other}: {a}, {b}",
    "{b}, {b.jis}के {ore} ओर {a} {a.hai}",
    "{a}, {a.jis}के {oore} ओर {b} {b.hai}",
    "{a}, जो {b.oblique} के {ore} ओर {a.hai}",
    "{b} और {b.us}के {ore} ओर {a}",
    "{a} और {a.us}के {oore} ओर {b}",
    "{b.oblique} के {ore} ओर {a.oblique} {picture}",
    "{b.oblique} की {ore} तरफ़ {a.oblique} {picture}",
    "{a.oblique} के {oore} ओर {b.oblique} {picture}",
    "{b.oblique} के {ore} ओर {a} {a.hai}।",
    "{a} {b.oblique} के {ore} ओर {a.hai}।",
    "{b.oblique} की {ore} तरफ़ {a} {a.hai}।",
    "{a} {b.oblique} की {ore} तरफ़ {a.hai}।",
    "{b.oblique} के {side} {a} {a.hai}।",
    "{b.oblique} के {ore} ओर {a} दिख {a.raha} {a.hai}।",
    "{a} {b.oblique} के {ore} ओर दिख {a.raha} {a.hai}।",
    "{b.oblique} की {ore} तरफ़ {a} दिखाई दे {a.raha} {a.hai}।",
    "तस्वीर में {b.oblique} के {ore} ओर {a} {a.hai}।",
    "चित्र में {ore} ओर {a} {a.hai} और {oore} ओर {b} {b.hai}।",
    "{ore} तरफ़ {a} {a.hai} और {oore} तरफ़ {b}।",
    "{a.oblique} के {oore} ओर {b} {b.hai}।",
    "यहाँ {b.oblique} के {ore} ओर {a} {a.hai}।",
    "{a} {b.oblique} के {ore} ओर मौजूद {a.hai}।",
)

STACKED = (
    "{a} {b.oblique} के {side}",
    "{b.oblique} के {side} {a}",
    "{a}, {b.oblique} के {side}",
    "{a.oblique} के {other} {b}",
    "{b}, {a.oblique} के {other}",
    "{b} {a.oblique} के {other}",
    "{b.oblique} से {side} {a}",
    "{a} {b.oblique} से {side}",
    "{b} {a.oblique} से {other}",
    "{b.oblique} के {side} की ओर {a}",
    "{side} {a}, {other} {b}",
    "{side} {a} और {other} {b}",
    "{other} {b} और {side} {a}",
    "{side} की ओर {a}, {other} की ओर {b}",
    "{a} {side} और {b} {other}",
    "{end} हिस्से में {a}, {other_end} हिस्से में {b}",
    "{end} भाग में {a} और {other_end} भाग में {b}",
    "{b}, {b.jis}के {side} {a} {a.hai}",
    "{a}, {a.jis}के {other} {b} {b.hai}",
    "{a}, जो {b.oblique} के {side} {a.hai}",
    "{b} और {b.us}के {side} {a}",
    "{a} और {a.us}के {other} {b}",
    "{b.oblique} के {side} {a.oblique} {picture}",
    "{a.oblique} के {other} {b.oblique} {picture}",
    "{b.oblique} के {side} {a} {a.hai}।",
    "{a} {b.oblique} के {side} {a.hai}।",
    "{b.oblique} से {side} {a} {a.hai}।",
    "{a.oblique} के {other} {b} {b.hai}।",
    "{b} {a.oblique} के {other} {b.hai}।",
    "{b.oblique} के {side} {a} दिख {a.raha} {a.hai}।",
    "{a} {b.oblique} के {side} दिख {a.raha} {a.hai}।",
    "{b.oblique} के {side} {a} दिखाई दे {a.raha} {a.hai}।",
    "{a.oblique} के {other} {b} दिख {b.raha} {b.hai}।",
    "तस्वीर में {b.oblique} के {side} {a} {a.hai}।",
    "चित्र में {side} {a} {a.hai} और {other} {b} {b.hai}।",
    "{side} {a} {a.hai} और {other} {b}।",
    "यहाँ {b.oblique} के {side} {a} {a.hai}।",
    "{a} {b.oblique} के {side} मौजूद {a.hai}।",
)

NEAR = (
    "{a} {b.oblique} के पास",
    "{b.oblique} के पास {a}",
    "{b.oblique} के बगल में {a}",
    "{a} {b.oblique} के बगल में",
    "{a}, {b.oblique} के पास",
    "{b}, {a.oblique} के पास",
    "{b} {a.oblique} के पास",
    "{a.oblique} के पास {b}",
    "{b.oblique} की बगल में {a}",
    "{a.oblique} के बगल में {b}",
    "{b.oblique} के नज़दीक {a}",
    "{a} {b.oblique} के नज़दीक",
    "{b.oblique} के क़रीब {a}",
    "{b.oblique} के निकट {a}",
    "{b.oblique} के बराबर में {a}",
    "{b.oblique} के ठीक पास {a}",
    "{a} और {b} पास-पास",
    "{b} और {a} पास-पास",
    "{a} और {b} अगल-बगल",
    "{a} और {b} एक-दूसरे के पास",
    "{b}, {b.jis}के पास {a} {a.hai}",
    "{a}, {a.jis}के बगल में {b} {b.hai}",
    "{a}, जो {b.oblique} के पास {a.hai}",
    "{b} और {b.us}के पास {a}",
    "{a} और {a.us}के बगल में {b}",
    "{b.oblique} के पास {a.oblique} {picture}",
    "{b.oblique} के बगल में {a.oblique} {picture}",
    "{b.oblique} के पास {a} {a.hai}।",
    "{a} {b.oblique} के पास {a.hai}।",
    "{b.oblique} के बगल में {a} {a.hai}।",
    "{a} {b.oblique} के बगल में {a.hai}।",
    "{a.oblique} के पास {b} {b.hai}।",
    "{b.oblique} के पास {a} दिख {a.raha} {a.hai}।",
    "{a} {b.oblique} के बगल में दिख {a.raha} {a.hai}।",
    "{b.oblique} के नज़दीक {a} दिखाई दे {a.raha} {a.hai}।",
    "तस्वीर में {b.oblique} के पास {a} {a.hai}।",
    "चित्र में {a} और {b} पास-पास हैं।",
    "{a} और {b} अगल-बगल हैं।",
    "यहाँ {b.oblique} के बगल में {a} {a.hai}।",
    "{a} {b.oblique} के पास मौजूद {a.hai}।",
)

ON = (
    "{b.oblique} पर {a}",
    "{a} {b.oblique} पर",
    "{b.oblique} पर {a.rakha} {a}",
    "{b.oblique} के ऊपर {a.rakha} {a}",
    "{a}, {b.oblique} पर",
    "{a} {b.oblique} पर {a.rakha} {a.hua}",
    "{b.oblique} पर {a.rakha} {a.hua} {a}",
    "{a}, {b.oblique} पर {a.rakha} {a.hua}",
    "{a}, {b.oblique} के ऊपर {a.rakha} {a.hua}",
    "{a} {b.oblique} के ऊपर {a.rakha} {a.hua}",
    "{b.oblique} पर मौजूद {a}",
    "{b} और {b.us} पर {a}",
    "{b} और {b.us} पर {a.rakha} {a}",
    "{b}, {b.jis} पर {a} {a.hai}",
    "{b}, {b.jis} पर {a} {a.rakha} {a.hai}",
    "{b}, {b.jis}के ऊपर {a} {a.rakha} {a.hai}",
    "{a}, जो {b.oblique} पर {a.hai}",
    "{a}, जो {b.oblique} पर {a.rakha} {a.hai}",
    "{a}, जो {b.oblique} के ऊपर {a.rakha} {a.hai}",
    "{b.oblique} पर {a.oblique} {picture}",
    "{b.oblique} पर {a.rakhe} {a.oblique} {picture}",
    "{b.oblique} के ऊपर {a.rakhe} {a.oblique} {picture}",
    "{b.oblique} पर {a} {a.hai}।",
    "{b.oblique} पर {a} {a.rakha} {a.hai}।",
    "{a} {b.oblique} पर {a.hai}।",
    "{a} {b.oblique} पर {a.rakha} {a.hai}।",
    "{a} {b.oblique} पर {a.rakha} {a.hua} {a.hai}।",
    "{b.oblique} के ऊपर {a} {a.rakha} {a.hai}।",
    "{a} {b.oblique} के ऊपर {a.rakha} {a.hai}।",
    "{b.oblique} पर {a} दिख {a.raha} {a.hai}।",
    "{a} {b.oblique} पर दिख {a.raha} {a.hai}।",
    "{b.oblique} पर {a} दिखाई दे {a.raha} {a.hai}।",
    "{b.oblique} पर {a.rakha} {a} दिख {a.raha} {a.hai}।",
    "तस्वीर में {b.oblique} पर {a} {a.hai}।",
    "तस्वीर में {a} {b.oblique} पर {a.rakha} {a.hai}।",
    "चित्र में {b.oblique} पर {a} {a.rakha} {a.hai}।",
    "यहाँ {b.oblique} पर {a} {a.hai}।",
    "{a} {b.oblique} पर मौजूद {a.hai}।",
)

WITH = (
    "{a} और {b}",
    "{b} और {a}",
    "{b.oblique} के साथ {a}",
    "{a.oblique} के साथ {b}",
    "{a} {b.oblique} के साथ",
    "{b} {a.oblique} के साथ",
    "{a}, {b.oblique} के साथ",
    "{b}, {a.oblique} के साथ",
    "{a} तथा {b}",
    "{b} तथा {a}",
    "{a} एवं {b}",
    "{a} व {b}",
    "{a}, {b}",
    "{b}, {a}",
    "{a} और साथ में {b}",
    "{b} और साथ में {a}",
    "{a} और {b} एक साथ",
    "एक साथ {a} और {b}",
    "{a} और {b}, बस इतना ही",
    "{a} भी और {b} भी",
    "{a.oblique} और {b.oblique} {picture}",
    "{b.oblique} और {a.oblique} {picture}",
    "{b.oblique} के साथ {a.oblique} {picture}",
    "{a.oblique} के साथ {b.oblique} {picture}",
    "एक तस्वीर जिसमें {a} और {b} हैं",
    "एक चित्र जिसमें {b} और {a} हैं",
    "तस्वीर में {a} और {b} हैं।",
    "चित्र में {b} और {a} हैं।",
    "तस्वीर में {a} {a.hai} और {b} भी {b.hai}।",
    "यहाँ {a} और {b} हैं।",
    "{a} {a.hai} और {b} भी।",
    "{b.oblique} के साथ {a} {a.hai}।",
    "{a.oblique} के साथ {b} {b.hai}।",
    "{b.oblique} के साथ {a} दिख {a.raha} {a.hai}।",
    "{a.oblique} के साथ {b} दिखाई दे {b.raha} {b.hai}।",
    "{a} और {b} बनाओ",
    "{a} और {b} दिखाओ",
    "{b} और {a} बनाइए",
)

FRONT = (  # a hides a part of b
    "{b.oblique} के सामने {a}",
    "{a.oblique} के पीछे {b}",
    "{b.oblique} के आगे {a}",
    "{a} {b.oblique} के सामने",
    "{a}, {b.oblique} के आगे",
    "{a} {b.oblique} के आगे",
    "{b} {a.oblique} के पीछे",
    "{b}, {a.oblique} के पीछे",
    "{b.oblique} के ठीक सामने {a}",
    "{a.oblique} के ठीक पीछे {b}",
    "{b.oblique} के ठीक आगे {a}",
    "आगे {a}, पीछे {b}",
    "आगे {a} और पीछे {b}",
    "पीछे {b} और आगे {a}",
    "{a} आगे और {b} पीछे",
    "{b} और {b.us}के आगे {a}",
    "{b} और {b.us}के सामने {a}",
    "{a} और {a.us}के पीछे {b}",
    "{b}, {b.jis}के सामने {a} {a.hai}",
    "{b}, {b.jis}के आगे {a} {a.hai}",
    "{a}, {a.jis}के पीछे {b} {b.hai}",
    "{b}, जो {a.oblique} के पीछे {b.hai}",
    "{b.oblique} के सामने {a.oblique} {picture}",
    "{a.oblique} के पीछे {b.oblique} {picture}",
    "{b.oblique} के सामने {a} {a.hai}।",
    "{a} {b.oblique} के सामने {a.hai}।",
    "{b.oblique} के आगे {a} {a.hai}।",
    "{a.oblique} के पीछे {b} {b.hai}।",
    "{b} {a.oblique} के पीछे {b.hai}।",
    "{b.oblique} के सामने {a} दिख {a.raha} {a.hai}।",
    "{a.oblique} के पीछे {b} दिख {b.raha} {b.hai}।",
    "आगे {a} {a.hai} और पीछे {b} {b.hai}।",
    "तस्वीर में {b.oblique} के सामने {a} {a.hai}।",
)

NEARER = (  # a is near, b is far, and neither hides the other
    "पास में {a} और दूर {b}",
    "नज़दीक {a} और दूर {b}",
    "पास में {a}, दूर {b}",
    "{a} पास में और {b} दूर",
    "{a} नज़दीक, {b} दूर",
    "दूर {b} और पास में {a}",
    "बहुत दूर {b} और नज़दीक {a}",
    "आगे पास में {a}, पीछे दूर {b}",
    "{a} क़रीब और {b} दूर",
    "{a} पास और {b} दूरी पर",
    "दूरी पर {b} और पास में {a}",
    "{a.oblique} से पीछे, दूर {b}",
    "{a.oblique} के पीछे दूर {b}",
    "{a} और {a.us}के पीछे दूर {b}",
    "{a}, {a.jis}के पीछे दूर {b} {b.hai}",
    "{b} {a.oblique} से ज़्यादा दूर",
    "{a} {b.oblique} से ज़्यादा पास",
    "{a} {b.oblique} से अधिक नज़दीक",
    "सामने पास में {a}, दूर {b}",
    "{a} पास में, {b} बहुत दूर",
    "पास में {a} {a.hai} और दूर {b} {b.hai}।",
    "{a} पास में {a.hai} और {b} दूर {b.hai}।",
    "{b} {a.oblique} से ज़्यादा दूर {b.hai}।",
    "{a} {b.oblique} से ज़्यादा पास {a.hai}।",
    "नज़दीक {a} {a.hai} और दूरी पर {b}।",
    "दूर {b} दिख {b.raha} {b.hai} और पास में {a}।",
    "दूर {b} दिखाई दे {b.raha} {b.hai} और नज़दीक {a}।",
    "तस्वीर में {a} पास में {a.hai} और {b} दूर।",
    "चित्र में दूर {b} {b.hai} और पास में {a}।",
    "यहाँ पास में {a} {a.hai} और दूर {b}।",
)

PAIRED = {
    "left of": BESIDE,
    "right of": BESIDE,
    "above": STACKED,
    "below": STACKED,
    "next to": NEAR,
    "on": ON,
    None: WITH,
} | {
    "in front of": FRONT,
    "nearer than": NEARER,
}
# Fragments that begin with a group and may be followed by more.
NAMED = {
    relation: tuple(
        p
        for p in table
        if p.startswith(("{a", "{b"))
        and not p.endswith(("।", "{picture}", "बनाओ", "दिखाओ", "बनाइए"))
    )
    for relation, table in PAIRED.items()
}

ONE = (
    "{a}",
    "{a}",
    "{a.exact}",
    "{a.bare}",
    "{a.oblique} {picture}",
    "{a.oblique} {picture}",
    "बस {a.exact}",
    "सिर्फ़ {a.exact}",
    "केवल {a.exact}",
    "{a}, और कुछ नहीं",
    "तस्वीर में {a}",
    "एक तस्वीर जिसमें {a} {a.hai}",
    "{a} दिखाओ",
    "{a} बनाओ",
    "{a} बनाइए",
    "{a.oblique} {picture} बनाओ",
    "{a.oblique} {picture} दिखाइए",
    "यह {a} {a.hai}।",
    "यहाँ {a} {a.hai}।",
    "तस्वीर में {a} {a.hai}।",
    "चित्र में {a} दिख {a.raha} {a.hai}।",
    "{a} दिखाई दे {a.raha} {a.hai}।",
)

MANY = (
    "{a}",
    "{a}",
    "{a}",
    "ठीक {a}",
    "कुल {a}",
    "{a.oblique} {picture}",
    "{a.oblique} {picture}",
    "ठीक {a.oblique} {picture}",
    "कुल मिलाकर {a}",
    "सिर्फ़ {a}",
    "केवल {a}",
    "बस {a}",
    "एक साथ {a}",
    "गिनती में {a}",
    "{a}, न कम न ज़्यादा",
    "{a}, और कुछ नहीं",
    "{a.oblique} का समूह",
    "तस्वीर में {a}",
    "एक तस्वीर जिसमें {a} {a.hai}",
    "एक चित्र जिसमें ठीक {a} {a.hai}",
    "{a} बनाओ",
    "ठीक {a} बनाओ",
    "{a} दिखाओ",
    "{a.oblique} {picture} बनाइए",
    "यहाँ {a} {a.hai}।",
    "तस्वीर में {a} {a.hai}।",
    "तस्वीर में कुल {a} {a.hai}।",
    "चित्र में {a} दिख {a.raha} {a.hai}।",
    "{a} दिखाई दे {a.raha} {a.hai}।",
)

VAGUE = (  # three or more of one kind, not counted
    "कुछ {a.bare}",
    "कई {a.bare}",
    "बेतरतीब {a.bare}",
    "कुछ {a.loose} {picture}",
    "बेतरतीब {a.loose} {picture}",
)

PAINTED = (  # one group that has a colour
    "{a.plain} {a.jis}का रंग {a.color} है",
    "{a.plain}, रंग {a.color}",
    "{a.hue} रंग में {a.plain}",
    "{a.hue} रंग {a.ka} {a.plain}",
    "{a.plain} {a.hue} रंग में",
    "{a.plain}, {a.jis}का रंग {a.color} है",
)

STYLES = {  # style: its names, noun phrases that do not change before में
    "fluent-3d": ("3डी शैली", "3D शैली", "3डी रेंडर", "त्रिआयामी शैली"),
    "fluent-emoji": ("मुलायम ग्रेडिएंट शैली", "चिकनी ग्रेडिएंट शैली"),
    "fluent-emoji-flat": ("सपाट शैली", "फ़्लैट डिज़ाइन", "सपाट चित्र शैली"),
    "noto": ("हल्की छाया वाली शैली", "छायांकित शैली"),
    "noto-v1": ("ब्लॉब कार्टून शैली", "पुरानी ब्लॉब इमोजी शैली"),
    "twemoji": ("सपाट आइकन शैली", "सपाट इमोजी शैली", "सादी आइकन शैली"),
    "streamline-emojis": ("गहरी रेखाओं वाली कार्टून शैली", "रेखांकित कार्टून शैली", "रेखाचित्र शैली"),
}

TINTS = {  # adjectives; each word inflects separately
    "white": ("सफ़ेद",),
    "black": ("काला",),
    "gray": ("स्लेटी", "धूसर"),
    "light blue": ("हल्का नीला", "आसमानी"),
    "light green": ("हल्का हरा",),
    "beige": ("बेज", "मटमैला"),
    "lavender": ("हल्का बैंगनी", "लैवेंडर"),
    "pink": ("गुलाबी",),
    "yellow": ("पीला",),
    "dark blue": ("गहरा नीला",),
}
# {tint} agrees with the feminine पृष्ठभूमि; {bent} is oblique masculine, for रंग and बैकग्राउंड.
FLAT = (
    "{tint} पृष्ठभूमि पर",
    "सादी {tint} पृष्ठभूमि पर",
    "{bent} रंग की पृष्ठभूमि पर",
    "{bent} बैकग्राउंड पर",
    "{tint} पृष्ठभूमि के सामने",
)
GRADIENT = ("{tint} ग्रेडिएंट पृष्ठभूमि पर", "{bent} ग्रेडिएंट पर", "{bent} ग्रेडिएंट वाली पृष्ठभूमि पर")
PLACES = {  # place: (phrases for objects at the place, names of the place)
    "meadow": (
        ("घास के मैदान में", "हरे मैदान में", "घास पर", "हरी घास के मैदान में", "नीले आसमान के नीचे घास के मैदान में"),
        ("घास का मैदान", "हरा मैदान", "नीले आसमान के नीचे हरा मैदान"),
    ),
    "beach": (
        ("समुद्र तट पर", "समुद्र किनारे", "समुद्र के किनारे", "रेतीले समुद्र तट पर", "समुद्र के पास रेत पर"),
        ("समुद्र तट", "रेतीला समुद्र तट", "समुद्र का किनारा"),
    ),
    "mountains": (
        (
            "सूर्यास्त के समय पहाड़ों में",
            "सूर्यास्त में पहाड़ों के सामने",
            "सूर्यास्त के समय",
            "पहाड़ों पर सूर्यास्त के सामने",
            "डूबते सूरज और पहाड़ों के सामने",
        ),
        ("पहाड़ों पर सूर्यास्त", "पहाड़ों के पीछे डूबता सूरज", "सूर्यास्त के समय पहाड़"),
    ),
    "room": (
        ("कमरे में", "एक कमरे में", "कमरे के अंदर", "घर के अंदर", "खिड़की वाले कमरे में"),
        ("कमरा", "एक कमरा", "खिड़की वाला कमरा"),
    ),
    "night": (
        ("रात में", "रात के समय", "तारों भरे आसमान के नीचे", "तारों भरी रात में", "रात के आसमान के नीचे"),
        ("तारों भरी रात", "तारों भरा आसमान", "तारों से भरा रात का आसमान"),
    ),
    "garden": (
        ("बगीचे में", "एक बगीचे में", "फूलों के बगीचे में", "फूलों से भरे बाग़ में", "बाग़ की घास पर"),
        ("बगीचा", "फूलों का बगीचा", "फूलों से भरा बाग़"),
    ),
    "city": (
        (
            "रात के शहर में",
            "रात में शहर की सड़क पर",
            "रात के समय शहर में",
            "रात के शहर के सामने",
            "रात में इमारतों के सामने",
        ),
        ("रात का शहर", "रात में शहर की सड़क", "रात में ऊँची इमारतें"),
    ),
    "lounge": (
        ("ड्रॉइंग रूम में", "सोफे वाले कमरे में", "सोफे के सामने", "एक ड्रॉइंग रूम में", "ड्रॉइंग रूम के अंदर"),
        ("ड्रॉइंग रूम", "सोफे वाला कमरा", "एक ड्रॉइंग रूम"),
    ),
}

REGIONS = {
    ("left", "top"): "ऊपर बाईं ओर",
    ("left", "bottom"): "नीचे बाईं ओर",
    ("right", "top"): "ऊपर दाईं ओर",
    ("right", "bottom"): "नीचे दाईं ओर",
    ("centre", "middle"): "बीच में",
    ("left", "middle"): "बाईं ओर",
    ("right", "middle"): "दाईं ओर",
    ("left", None): "बाईं ओर",
    ("right", None): "दाईं ओर",
    ("centre", "top"): "ऊपर",
    ("centre", "bottom"): "नीचे",
    (None, "top"): "ऊपर",
    (None, "bottom"): "नीचे",
    (None, "middle"): "बीच की पंक्ति में",
}


def surroundings(background: Background, rng: random.Random) -> tuple[str, str]:
    """Random words for a background as (adverbial phrase, name): ("समुद्र तट पर", "समुद्र तट")."""
    if background.kind == "place":
        where, what = PLACES[background.name]
        return rng.choice(where), rng.choice(what)
    base = rng.choice(TINTS[background.name])
    color = base.split(" ")
    tint, bent = (
        " ".join(inflect(word, gender, False, oblique=True) for word in color) for gender in "fm"
    )
    if background.kind == "gradient":
        return rng.choice(GRADIENT).format(tint=tint, bent=bent), f"{base} ग्रेडिएंट"
    return rng.choice(FLAT).format(tint=tint, bent=bent), f"{base} रंग"


def sides(relation: str | None, rng: random.Random) -> dict[str, str]:
    """Pattern words for the side of a as seen from b and for the opposite, in random spellings."""
    if relation in ("left of", "right of"):
        (ore, side), (oore, other) = (
            rng.choice(words)
            for words in ((LEFT, RIGHT) if relation == "left of" else (RIGHT, LEFT))
        )
        return {"ore": ore, "side": side, "oore": oore, "other": other}
    if relation in ("above", "below"):
        (side, end), (other, other_end) = (
            rng.choice(words) for words in ((UP, DOWN) if relation == "above" else (DOWN, UP))
        )
        return {"side": side, "end": end, "other": other, "other_end": other_end}
    return {}


def patterns(scene: Scene, form: str) -> Sequence[str]:
    """All patterns for the scene's groups in this form."""
    if len(scene.groups) == 2:
        table = PAIRED[scene.relation]
        return (
            table[:PLAIN]
            if form == "short"
            else NAMED[scene.relation]
            if form == "dense"
            else table
        )
    vague = VAGUE if scene.groups[0].count > 2 else ()
    table, full = (
        (ONE, ("{a}",)) if scene.groups[0].count == 1 else (MANY, ("{a}", "{a}", "ठीक {a}"))
    )
    painted = PAINTED if scene.groups[0].color else ()
    return (
        table[:PLAIN]
        if form == "short"
        else full + full + painted
        if form == "dense"
        else table + vague + painted
    )


def casual(text: str) -> str:
    """The text in common informal spelling: सफेद for सफ़ेद, पांच for पाँच."""
    return DOTTED.sub(r"\1", text).replace("ँ", "ं")


DOTTED = re.compile("([कखगजफ])\u093c")  # without ड़ and ढ़, separate letters that keep their dot


def caption(
    scene: Scene,
    form: str,
    concepts: Sequence[Concept],
    regions: Sequence[tuple[str | None, str | None]],
    rng: random.Random,
) -> str:
    """Random Hindi caption of a scene; see ``grammar.caption``.

    ``concepts`` and ``regions`` have one entry for each group of the scene. 15 % of the captions
    are in informal spelling.
    """
    text = _caption(scene, form, concepts, regions, rng)
    return casual(text) if rng.random() < 0.15 else text


def _caption(
    scene: Scene,
    form: str,
    concepts: Sequence[Concept],
    regions: Sequence[tuple[str | None, str | None]],
    rng: random.Random,
) -> str:
    """Random Hindi caption of a scene in standard spelling."""
    where, name = surroundings(scene.background, rng)
    style = rng.choice(STYLES[scene.style]) if scene.style else ""
    if not scene.groups:
        return f"{name}, {style}" if style and rng.random() < 0.5 else name

    pattern = rng.choice(patterns(scene, form))
    phrases = [
        phrase(group, concept, rng) for group, concept in zip(scene.groups, concepts, strict=True)
    ]
    text = pattern.format(
        **dict(zip("ab", phrases, strict=False)),
        **sides(scene.relation, rng),
        picture=rng.choice(PICTURES),
    )
    if form == "dense":
        return _dense(text, style, where, name, _positions(scene, phrases, regions), rng)

    where = where if background_said(rng, scene.background, form) else ""
    style = style if style_said(rng, scene.groups, scene.style) else ""
    if text.endswith("।"):
        return text + (f" पृष्ठभूमि: {name}।" if where else "") + (f" शैली: {style}।" if style else "")
    if pattern.startswith(("{a", "{b")):
        if where and rng.random() < 0.5:
            text, where = f"{where} {text}", ""
        elif style and rng.random() < 0.5:
            text, style = f"{style} में {text}", ""
    return (
        text
        + (f", {where}" if where else "")
        + (f", {style}" + rng.choice(("", " में")) if style else "")
    )


def _positions(
    scene: Scene, phrases: Sequence[Phrase], regions: Sequence[tuple[str | None, str | None]]
) -> str:
    """Sentence on the regions of the groups, or "" if no group has a region with a name.

    "सेब बाईं ओर हैं और कार नीचे है।"
    """
    same_concept = len({group.concept for group in scene.groups}) < len(scene.groups)
    clauses = [
        f"{p.bare if same_concept else p.noun} {REGIONS[r]} {p.hai}"
        for p, r in zip(phrases, regions, strict=True)
        if r in REGIONS
    ]
    return " और ".join(clauses) + "।" if clauses else ""


def _dense(core: str, style: str, where: str, name: str, positions: str, rng: random.Random) -> str:
    """Dense caption: all facts in one of five orders; ``name`` is that of the background."""
    in_style, styled = (f"{style} में ", f"शैली: {style}।") if style else ("", "")
    parts = rng.choice(
        (
            (f"{where} {core}।", positions, styled),
            (f"{in_style}{core}, {where}।", positions),
            (f"{core}।", positions, f"पृष्ठभूमि में {name} है।", styled),
            (f"{core}, {where}" + (f", {in_style.rstrip()}।" if style else "।"), positions),
            (f"पृष्ठभूमि में {name} है। {core}।", positions, styled),
        )
    )
    return " ".join(part for part in parts if part)
