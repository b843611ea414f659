"""English caption grammar: noun phrases with articles, numerals and plurals; sentence patterns."""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from dataclasses import dataclass

from kalpana.world.defaults import background_said, style_said
from kalpana.world.lexicon import Concept, plural
from kalpana.world.scene import Background, Group, Scene

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
PICTURES = (
    "a picture of",
    "a photo of",
    "an image of",
    "a drawing of",
    "a painting of",
    "an illustration of",
)

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
    facing_after, facing_before = "", ""
    if group.facing:
        after, before = FACING[group.facing]
        facing_after, facing_before = (
            (" " + rng.choice(after), "")
            if alone and rng.random() < 0.8
            else ("", rng.choice(before) + " ")
        )
    bare = pair_of + facing_before + size + color_word + noun + facing_after
    uncolored = pair_of + facing_before + size + noun + facing_after
    draw = rng.random()
    if not one:
        number = determiner = NUMERALS[group.count - 1] if draw < 0.75 else str(group.count)
    elif mass or many:
        number = determiner = "some" if draw < 0.4 and not terse else ""
    else:
        number = "one" if draw < 0.85 else "1"
        determiner = "" if terse else number if draw < 0.08 or draw > 0.97 else "a"

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


# --------------------------------------------------------------------------------------- patterns
# A pattern that ends in a full stop is a sentence, any other is a fragment. The first PLAIN of each
# table are the short form. {side} is the side of a as seen from b; {other} is the opposite. Both
# words come from SIDES, so left and right share one table.

PLAIN = 4

SIDES = {
    "left of": {"side": "left", "other": "right"},
    "right of": {"side": "right", "other": "left"},
    "above": {
        "side": "above",
        "other": "below",
        "over": "over",
        "under": "under",
        "top": "top",
        "bottom": "bottom",
        "higher": "higher",
        "lower": "lower",
    },
    "below": {
        "side": "below",
        "other": "above",
        "over": "under",
        "under": "over",
        "top": "bottom",
        "bottom": "top",
        "higher": "lower",
        "lower": "higher",
    },
}

BESIDE = (
    "{a} to the {side} of {b}",
    "{a} {side} of {b}",
    "{a} on the {side} of {b}",
    "{b} to the {other} of {a}",
    "{a} on the {side} side of {b}",
    "{a} on the {side}-hand side of {b}",
    "{a} at the {side} of {b}",
    "{a} placed to the {side} of {b}",
    "{a} positioned {side} of {b}",
    "{a} located to the {side} of {b}",
    "{b} {other} of {a}",
    "{b} on the {other} of {a}",
    "{b} on the {other} side of {a}",
    "{b} with {a} to {b.its} {side}",
    "{b} with {a} on {b.its} {side}",
    "{b}, with {a} to the {side} of {b.it}",
    "{a} with {b} to {a.its} {other}",
    "{a} with {b} on {a.its} {other}",
    "{a} and, to {a.its} {other}, {b}",
    "{a} on the {side} and {b} on the {other}",
    "{a} on the {side}, {b} on the {other}",
    "{b} on the {other} and {a} on the {side}",
    "{b} on the {other}, {a} on the {side}",
    "on the {side} {a}, on the {other} {b}",
    "{side}: {a}, {other}: {b}",
    "from {side} to {other}: {a}, {b}",
    "There {a.are} {a} to the {side} of {b}.",
    "There {a.are} {a} on the {side} side of {b}.",
    "{a} {a.are} to the {side} of {b}.",
    "{a} {a.are} on the {side} of {b}.",
    "{a} stand{a.s} {side} of {b}.",
    "{a} appear{a.s} to the {side} of {b}.",
    "{a} can be seen to the {side} of {b}.",
    "To the {side} of {b} {a.are} {a}.",
    "To the {side} of {b} there {a.are} {a}.",
    "{b} {b.are} to the {other} of {a}.",
    "{b} {b.have} {a} on {b.its} {side}.",
    "{b} {b.have} {a} to {b.its} {side}.",
    "{a} {a.have} {b} to {a.its} {other}.",
    "On the {side} {a.are} {a}, and on the {other} {b.are} {b}.",
    "{a} {a.are} on the {side} and {b} {b.are} on the {other}.",
    "There {b.are} {b}, and to {b.its} {side} {a.are} {a}.",
    "The picture shows {a} to the {side} of {b}.",
)

STACKED = (
    "{a} {side} {b}",
    "{a} {over} {b}",
    "{b} {other} {a}",
    "{b} {under} {a}",
    "{a} placed {side} {b}",
    "{a} positioned {side} {b}",
    "{a} located {side} {b}",
    "{a} shown {side} {b}",
    "{a} seen {over} {b}",
    "{a} {higher} than {b}",
    "{a} {higher} in the picture than {b}",
    "{b} {lower} in the picture than {a}",
    "{b} {lower} than {a}",
    "{b} with {a} {side} {b.it}",
    "{b} with {a} {over} {b.it}",
    "{a} with {b} {other} {a.it}",
    "{a} with {b} {under} {a.it}",
    "{b} and, {side} {b.it}, {a}",
    "{a} and, {other} {a.it}, {b}",
    "{a} at the {top} and {b} at the {bottom}",
    "{a} at the {top}, {b} at the {bottom}",
    "{b} at the {bottom} and {a} at the {top}",
    "{top}: {a}, {bottom}: {b}",
    "from {top} to {bottom}: {a}, {b}",
    "There {a.are} {a} {side} {b}.",
    "There {a.are} {a} {over} {b}.",
    "There {b.are} {b} {other} {a}.",
    "{a} {a.are} {side} {b}.",
    "{a} {a.are} {over} {b}.",
    "{a} appear{a.s} {side} {b}.",
    "{a} can be seen {side} {b}.",
    "{side} {b} {a.are} {a}.",
    "{side} {b} there {a.are} {a}.",
    "{b} {b.have} {a} {side} {b.it}.",
    "{a} {a.have} {b} {other} {a.it}.",
    "{b} {b.are} {other} {a}.",
    "At the {top} {a.are} {a}, and at the {bottom} {b.are} {b}.",
    "{a} {a.are} at the {top} and {b} {b.are} at the {bottom}.",
    "There {b.are} {b}, and {side} {b.it} {a.are} {a}.",
    "The picture shows {a} {side} {b}.",
)

NEAR = (
    "{a} next to {b}",
    "{a} beside {b}",
    "{b} next to {a}",
    "{a} near {b}",
    "{b} beside {a}",
    "{b} near {a}",
    "{a} right next to {b}",
    "{a} alongside {b}",
    "{b} alongside {a}",
    "{a} close to {b}",
    "{b} close to {a}",
    "{a} adjacent to {b}",
    "{a} placed next to {b}",
    "{a} placed beside {b}",
    "{b} placed next to {a}",
    "{a} with {b} next to {a.it}",
    "{a} with {b} beside {a.it}",
    "{b} with {a} next to {b.it}",
    "{b} with {a} beside {b.it}",
    "{b} with {a} at {b.its} side",
    "{a} and {b} side by side",
    "{b} and {a} side by side",
    "{a} and {b} next to each other",
    "{a} and {b} close together",
    "side by side: {a} and {b}",
    "{a} and, right beside {a.it}, {b}",
    "There {a.are} {a} next to {b}.",
    "There {a.are} {a} beside {b}.",
    "There {b.are} {b} next to {a}.",
    "{a} {a.are} next to {b}.",
    "{a} {a.are} beside {b}.",
    "{b} {b.are} next to {a}.",
    "{a} appear{a.s} next to {b}.",
    "{a} stand{a.s} beside {b}.",
    "{a} can be seen next to {b}.",
    "Next to {b} {a.are} {a}.",
    "Beside {b} there {a.are} {a}.",
    "{a} and {b} are side by side.",
    "{b} {b.have} {a} beside {b.it}.",
    "The picture shows {a} next to {b}.",
)

ON = (
    "{a} on {b}",
    "{a} on top of {b}",
    "{a} {a.sit} on {b}",
    "{b} with {a} on {b.it}",
    "{a} {a.sit} on top of {b}",
    "{a} placed on {b}",
    "{a} placed on top of {b}",
    "{a} set on {b}",
    "{a} sitting on {b}",
    "{a} sitting on top of {b}",
    "{a} resting on {b}",
    "{a} that {a.are} on {b}",
    "{b} with {a} on top",
    "{b} with {a} on top of {b.it}",
    "{b} with {a} {a.sit} on {b.it}",
    "{b} with {a} {a.sit} on top",
    "{b} carrying {a}",
    "{b} beneath {a}",
    "{b} and, on {b.it}, {a}",
    "on {b}, {a}",
    "on top of {b}, {a}",
    "There {a.are} {a} on {b}.",
    "There {a.are} {a} on top of {b}.",
    "There {a.are} {a} {a.sit} on {b}.",
    "{a} {a.are} on {b}.",
    "{a} {a.are} on top of {b}.",
    "{a} {a.sits} on {b}.",
    "{a} {a.sits} on top of {b}.",
    "{a} {a.are} {a.sit} on {b}.",
    "{a} can be seen on {b}.",
    "{a} appear{a.s} on top of {b}.",
    "On {b} {a.are} {a}.",
    "On {b} there {a.are} {a}.",
    "On top of {b} {a.sits} {a}.",
    "{b} {b.have} {a} on {b.it}.",
    "{b} {b.have} {a} on top.",
    "{b} hold{b.s} {a} on top.",
    "There {b.are} {b}, and on {b.it} {a.are} {a}.",
    "The picture shows {a} on {b}.",
    "The picture shows {a} {a.sit} on {b}.",
)

WITH = (
    "{a} and {b}",
    "{b} and {a}",
    "{a} with {b}",
    "{b} with {a}",
    "{a} along with {b}",
    "{b} along with {a}",
    "{a} together with {b}",
    "{b} together with {a}",
    "{a} as well as {b}",
    "{b} as well as {a}",
    "{a} plus {b}",
    "{a} & {b}",
    "{a}, {b}",
    "{b}, {a}",
    "{a} and also {b}",
    "{a} and {b} together",
    "both {a} and {b}",
    "both {b} and {a}",
    "a scene with {a} and {b}",
    "a picture with {a} and {b}",
    "a picture with {b} and {a}",
    "{a} and {b} in one picture",
    "{a} and {b} and nothing else",
    "There {a.are} {a} and {b}.",
    "There {b.are} {b} and {a}.",
    "There {a.are} {a} with {b}.",
    "There {a.are} {a}, and there {b.are} {b}.",
    "{a} and {b} can be seen.",
    "{a} and {b} appear together.",
    "{a} appear{a.s} with {b}.",
    "{a} appear{a.s} together with {b}.",
    "{b} appear{b.s} with {a}.",
    "Here {a.are} {a} and {b}.",
    "The picture shows {a} and {b}.",
    "The picture shows {b} and {a}.",
    "The picture shows {a} as well as {b}.",
    "draw {a} and {b}",
    "show {a} with {b}",
)

FRONT = (  # a hides a part of b
    "{a} in front of {b}",
    "{b} behind {a}",
    "{a} right in front of {b}",
    "{b} partly hidden by {a}",
    "{a} standing in front of {b}",
    "{b} standing behind {a}",
    "{b} half hidden behind {a}",
    "{b} partly behind {a}",
    "{b} partly covered by {a}",
    "{b} with {a} in front",
    "{b} with {a} in front of {b.it}",
    "{a} with {b} behind {a.it}",
    "{a} and, behind {a.it}, {b}",
    "{b} and, in front of {b.it}, {a}",
    "{a} hiding part of {b}",
    "{a} partly covering {b}",
    "{a} placed in front of {b}",
    "{b} placed behind {a}",
    "{a} overlapping {b} from the front",
    "in front: {a}, behind: {b}",
    "in front of {b}, {a}",
    "behind {a}, {b}",
    "There {a.are} {a} in front of {b}.",
    "There {b.are} {b} behind {a}.",
    "{a} {a.are} in front of {b}.",
    "{b} {b.are} behind {a}.",
    "{b} {b.are} partly hidden by {a}.",
    "{a} stand{a.s} in front of {b}.",
    "{a} can be seen in front of {b}.",
    "{b} can be seen behind {a}.",
    "In front of {b} {a.are} {a}.",
    "Behind {a} {b.are} {b}.",
    "{b} {b.have} {a} in front of {b.it}.",
    "The picture shows {a} in front of {b}.",
)

NEARER = (  # a is near, b is far, and neither hides the other
    "{a} close by and {b} far away",
    "{a} near and {b} far away",
    "{b} far away and {a} close by",
    "{a} up close and {b} in the distance",
    "{a} nearby, {b} in the distance",
    "{a} in the foreground and {b} in the background",
    "{a} in the foreground, {b} far behind",
    "{b} in the distance and {a} in the foreground",
    "{b} in the distance, {a} up close",
    "{a} close to us and {b} far from us",
    "{a} nearer than {b}",
    "{a} closer than {b}",
    "{b} farther away than {a}",
    "{b} further away than {a}",
    "{a} with {b} far behind {a.it}",
    "{a} with {b} in the distance",
    "{a} with {b} far away",
    "near: {a}, far: {b}",
    "far away {b}, close by {a}",
    "in the foreground {a}, in the distance {b}",
    "There {a.are} {a} close by and {b} far away.",
    "There {a.are} {a} in the foreground and {b} in the distance.",
    "{a} {a.are} near and {b} {b.are} far away.",
    "{a} {a.are} closer than {b}.",
    "{b} {b.are} farther away than {a}.",
    "{a} {a.are} in the foreground, {b} {b.are} in the distance.",
    "In the distance {b.are} {b}, and close by {a.are} {a}.",
    "Far away {b.are} {b}, and near us {a.are} {a}.",
    "{b} can be seen in the distance, {a} close by.",
    "{b} can be seen far behind {a}.",
    "The picture shows {a} up close and {b} far away.",
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
# Fragments that begin with a group: "a picture of" may precede them and more may follow.
NAMED = {
    relation: tuple(p for p in table if p.startswith(("{a}", "{b}")) and not p.endswith("."))
    for relation, table in PAIRED.items()
}

ONE = (
    "{a}",
    "{a}",
    "{a.bare}",
    "{a.exact}",
    "just {a}",
    "only {a}",
    "{a} alone",
    "{a} and nothing else",
    "nothing but {a}",
    "{a} in the picture",
    "a picture with {a}",
    "a scene with {a}",
    "show {a}",
    "draw {a}",
    "make {a}",
    "please draw {a}",
    "There {a.are} {a}.",
    "There {a.are} {a} in the picture.",
    "This picture shows {a}.",
    "The picture shows {a}.",
    "{a} can be seen.",
    "Here {a.are} {a}.",
)

MANY = (
    "{a}",
    "{a}",
    "{a}",
    "exactly {a}",
    "{a} in total",
    "just {a}",
    "only {a}",
    "precisely {a}",
    "a total of {a}",
    "a group of {a}",
    "a set of {a}",
    "{a} together",
    "{a} and nothing else",
    "{a}, no more and no fewer",
    "a picture with {a}",
    "a picture with exactly {a}",
    "show {a}",
    "draw {a}",
    "draw exactly {a}",
    "There are {a}.",
    "There are exactly {a}.",
    "There are {a} in the picture.",
    "The picture shows {a}.",
    "The picture shows exactly {a}.",
    "{a} can be seen.",
    "Here are {a}.",
    "You can count {a}.",
)

VAGUE = (  # three or more of one kind, not counted
    "{a.bare}",
    "some {a.bare}",
    "several {a.bare}",
    "random {a.bare}",
    "a bunch of {a.bare}",
)

PAINTED = (  # one group that has a colour
    "{a.plain} that {a.are} {a.color}",
    "{a.plain} in {a.color}",
    "{a.plain} coloured {a.color}",
    "{a.plain}, {a.color}",
    "{a.plain} of {a.color} color",
    "{a.plain} with the colour {a.color}",
)

STYLES = {  # style: (nouns for such an image, phrases for the manner); no two styles share a name
    "fluent-3d": (
        ("a 3D render", "a glossy 3D render", "a 3D model"),
        ("glossy 3D", "3D render", "in 3D", "3D style"),
    ),
    "fluent-emoji": (
        ("a smooth gradient illustration", "a gradient icon"),
        ("smooth gradient style", "in smooth gradients"),
    ),
    "fluent-emoji-flat": (
        ("a flat illustration", "a flat design"),
        ("flat design", "flat illustration style", "in flat colours"),
    ),
    "noto": (
        ("a soft shaded drawing", "a soft shaded illustration"),
        ("soft shaded style", "softly shaded"),
    ),
    "noto-v1": (
        ("a blob cartoon", "a retro blob emoji drawing"),
        ("blob cartoon style", "retro blob emoji style"),
    ),
    "twemoji": (
        ("a flat icon", "a simple flat icon"),
        ("in flat icon style", "simple flat icon", "flat emoji style"),
    ),
    "streamline-emojis": (
        ("a line drawing", "an outlined cartoon", "a cartoon with dark outlines"),
        ("line drawing", "outlined cartoon style", "in dark outlines"),
    ),
}

TINTS = {
    "gray": ("gray", "grey"),
    "light blue": ("light blue", "light blue", "pale blue", "sky blue"),
    "light green": ("light green", "light green", "pale green"),
    "beige": ("beige", "beige", "cream"),
    "lavender": ("lavender", "lavender", "light purple"),
    "dark blue": ("dark blue", "dark blue", "navy blue"),
}
FLAT = (
    "on a {tint} background",
    "against a {tint} background",
    "on a plain {tint} background",
    "with a {tint} background",
    ", {tint} background",
)
GRADIENT = (
    "on a {tint} gradient background",
    "against a {tint} gradient",
    "with a {tint} gradient background",
    "on a {tint} gradient",
)
PLACES = {  # place: (phrases for objects at the place, names of the place)
    "meadow": (
        (
            "in a meadow",
            "in a green field",
            "on the grass",
            "in a green meadow",
            "in a meadow under a blue sky",
        ),
        (
            "a meadow",
            "a green meadow",
            "a green field under a blue sky",
            "grassy hills under a blue sky",
        ),
    ),
    "beach": (
        ("on a beach", "at the beach", "on a sandy beach", "by the sea", "on the sand by the sea"),
        ("a beach", "a sandy beach", "a beach by the sea", "the sea and a sandy beach"),
    ),
    "mountains": (
        (
            "in front of mountains at sunset",
            "in the mountains at sunset",
            "at sunset",
            "with mountains at sunset behind",
            "against a sunset over mountains",
        ),
        (
            "sunset over mountains",
            "a sunset over mountains",
            "mountains at sunset",
            "a sunset in the mountains",
        ),
    ),
    "room": (
        ("in a room", "indoors", "inside a room", "in a room with a window", "inside a house"),
        ("a room", "a room with a window", "a room with a wooden floor"),
    ),
    "night": (
        (
            "at night",
            "under a night sky",
            "under a starry night sky",
            "at night under the stars",
            "under the stars",
        ),
        (
            "a starry night",
            "a night sky full of stars",
            "a starry night sky",
            "a dark night with stars",
        ),
    ),
    "garden": (
        (
            "in a garden",
            "in a flower garden",
            "in a garden full of flowers",
            "in the garden",
            "on a lawn in a garden",
        ),
        ("a garden", "a flower garden", "a garden full of flowers", "a garden behind a hedge"),
    ),
    "city": (
        (
            "in a city at night",
            "in a city street at night",
            "in front of a city at night",
            "in a town at night",
            "downtown at night",
        ),
        (
            "a city at night",
            "a city street at night",
            "tall buildings at night",
            "a city skyline at night",
        ),
    ),
    "lounge": (
        (
            "in a living room",
            "in a room with a sofa",
            "in front of a sofa",
            "in a lounge",
            "in a living room with a couch",
        ),
        ("a living room", "a room with a sofa", "a living room with a couch"),
    ),
}

REGIONS = {
    ("left", "top"): "at the top left",
    ("left", "bottom"): "at the bottom left",
    ("right", "top"): "at the top right",
    ("right", "bottom"): "at the bottom right",
    ("centre", "middle"): "in the centre",
    ("left", "middle"): "on the left",
    ("right", "middle"): "on the right",
    ("left", None): "on the left",
    ("right", None): "on the right",
    ("centre", "top"): "at the top",
    ("centre", "bottom"): "at the bottom",
    (None, "top"): "at the top",
    (None, "bottom"): "at the bottom",
    (None, "middle"): "across the middle",
}


def surroundings(background: Background, rng: random.Random, after: str = "") -> tuple[str, str]:
    """Random words for a background as (phrase after a fragment, name): ("on a beach", "a beach").

    ``after`` is the fragment. If it has a "with", the phrase does not begin with another, which
    avoids "a teapot with a cup with a pink background".
    """

    def choice(options: Sequence[str]) -> str:
        """Random option, without those in "with" if ``after`` has one."""
        return rng.choice(
            [words for words in options if not (words.startswith("with ") and " with " in after)]
        )

    if background.kind == "place":
        where, what = PLACES[background.name]
        return choice(where), rng.choice(what)
    tint = rng.choice(TINTS.get(background.name, (background.name,)))
    if background.kind == "gradient":
        return choice(GRADIENT).format(tint=tint), f"a {tint} gradient"
    return choice(FLAT).format(tint=tint), f"plain {tint}"


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
        (ONE, ("{a}",)) if scene.groups[0].count == 1 else (MANY, ("{a}", "{a}", "exactly {a}"))
    )
    painted = PAINTED if scene.groups[0].color else ()
    return (
        table[:PLAIN]
        if form == "short"
        else full + full + painted
        if form == "dense"
        else table + vague + painted
    )


def caption(
    scene: Scene,
    form: str,
    concepts: Sequence[Concept],
    regions: Sequence[tuple[str | None, str | None]],
    rng: random.Random,
) -> str:
    """Random English caption of a scene; see ``grammar.caption``.

    ``concepts`` and ``regions`` have one entry for each group of the scene.
    """
    medium, manner = (
        (rng.choice(words) for words in STYLES[scene.style]) if scene.style else ("", "")
    )
    if not scene.groups:
        _, name = surroundings(scene.background, rng)
        text = f"a {name} background" if scene.background.kind == "flat" else name
        return f"{medium} of {text}" if medium and rng.random() < 0.5 else text

    pattern = rng.choice(patterns(scene, form))
    sentence = pattern.endswith(".")
    named = pattern.startswith(("{a}", "{b}", "{a.plain}", "{a.exact}")) or pattern in VAGUE[1:]
    terse = form != "dense" and not sentence and rng.random() < 0.12
    alone = len(scene.groups) == 1
    phrases = [
        phrase(group, concept, rng, terse, alone)
        for group, concept in zip(scene.groups, concepts, strict=True)
    ]
    text = pattern.format(
        **dict(zip("ab", phrases, strict=False)), **SIDES.get(scene.relation or "", {})
    )
    where, name = surroundings(scene.background, rng, text)
    if form == "dense":
        where = where.removeprefix(", ")
        positions = _positions(scene, phrases, regions)
        return _dense(text, medium, manner, where, name, positions, rng)

    where = where if background_said(rng, scene.background, form) else ""
    medium, manner = (medium, manner) if style_said(rng, scene.groups, scene.style) else ("", "")
    if sentence:
        return (
            capital(text)
            + (f" The background is {name}." if where else "")
            + (f" It is {medium}." if medium else "")
        )
    if named and not terse and medium and rng.random() < 0.5:
        text, manner = f"{medium} of {text}", ""
    elif named and not terse and not medium and rng.random() < 0.2:
        text = f"{rng.choice(PICTURES)} {text}"
    if where and not where.startswith(","):
        where = rng.choice((" ", ", ")) + where
    return text + where + (f", {manner}" if manner else "")


def capital(text: str) -> str:
    """The text with a capital first letter."""
    return text[:1].upper() + text[1:]


def _positions(
    scene: Scene, phrases: Sequence[Phrase], regions: Sequence[tuple[str | None, str | None]]
) -> str:
    """Sentence on the regions of the groups, or "" if no group has a region with a name.

    "The apples are on the left and the car is at the bottom."
    """
    same_concept = len({group.concept for group in scene.groups}) < len(scene.groups)
    clauses = [
        f"{p.the if same_concept else p.noun} {p.are} {REGIONS[r]}"
        for p, r in zip(phrases, regions, strict=True)
        if r in REGIONS
    ]
    return capital(" and ".join(clauses)) + "." if clauses else ""


def _dense(
    core: str, medium: str, manner: str, where: str, name: str, positions: str, rng: random.Random
) -> str:
    """Dense caption: all facts in one of five orders; ``name`` is that of the background."""
    head, title = capital(core), capital(medium or "a picture")
    it_is = f"It is {medium}." if medium else ""
    parts = rng.choice(
        (
            (f"{title} of {core}, {where}.", positions),
            (f"{title} of {core}.", positions, f"The background is {name}."),
            (f"{head}, {where}.", positions, it_is),
            (f"{head}, {where}" + (f", {manner}." if manner else "."), positions),
            (f"The background is {name}. {head}.", positions, it_is),
        )
    )
    return " ".join(part for part in parts if part)
