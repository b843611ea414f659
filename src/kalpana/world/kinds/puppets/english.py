"""English captions of puppets."""

from __future__ import annotations

import random
from collections.abc import Sequence

from kalpana.world import grammar_en
from kalpana.world.defaults import background_said, look_said, skin_said
from kalpana.world.kinds.puppets.cast import MOVING, Member, alike, named_clothes
from kalpana.world.scene import Scene

DOING = {  # verb phrases of a pose, to follow "is" or, if they begin with "with", a noun
    "standing": ("standing", "standing still", "standing upright", "standing straight"),
    "waving": ("waving", "waving", "waving hello", "waving a hand", "waving goodbye"),
    "arms up": (
        "raising both arms",
        "holding both arms up",
        "with {their} arms up",
        "with both arms raised",
        "with {their} hands up",
    ),
    "arms out": (
        "spreading {their} arms wide",
        "holding both arms out to the sides",
        "with arms spread wide",
        "with {their} arms out",
    ),
    "hands on hips": (
        "resting {their} hands on {their} hips",
        "with hands on hips",
        "with {their} hands on {their} hips",
    ),
    "jumping": ("jumping", "jumping", "jumping in the air", "jumping for joy", "leaping up"),
    "dancing": ("dancing", "dancing", "dancing happily", "doing a dance"),
    "stretching": (
        "stretching",
        "stretching to the side",
        "stretching sideways",
        "doing a side stretch",
    ),
    "balancing": ("balancing on one leg", "balancing", "keeping {their} balance on one leg"),
    "handstand": ("doing a handstand", "performing a handstand", "upside down in a handstand"),
    "pointing": (
        "pointing",
        "pointing at something",
        "pointing ahead",
        "pointing into the distance",
    ),
    "namaste": (
        "saying namaste",
        "greeting with folded hands",
        "making a namaste gesture",
        "with palms pressed together",
    ),
    "walking": ("walking", "walking", "walking along", "taking a walk", "strolling"),
    "running": ("running", "running", "running fast", "sprinting"),
    "kicking": ("kicking", "kicking high", "giving a kick", "kicking the air"),
    "kneeling": ("kneeling", "kneeling on one knee", "down on one knee"),
    "sitting": ("sitting", "sitting down", "sitting on the ground", "seated on the ground"),
    "crawling": ("crawling", "crawling on hands and knees", "on all fours"),
    "bowing": ("bowing", "bowing", "taking a bow", "bowing politely", "bowing down"),
    "lying down": ("lying down", "lying on {their} back", "lying on the ground"),
}

WHO = (  # (noun phrase, possessive)
    ("a person", "their"),
    ("a person", "their"),
    ("someone", "their"),
    ("a figure", "its"),
    ("a puppet", "its"),
)

SKIN_WORDS = {
    "yellow": ("yellow", "yellow-skinned"),
    "pale": ("pale", "light-skinned", "fair-skinned"),
    "tan": ("tanned", "tan-skinned"),
    "brown": ("brown-skinned",),
    "dark": ("dark-skinned",),
}

PHRASES = (  # the first SURE patterns are plain noun phrases
    "{who}{wear} {doing}",
    "{who}{wear} {doing}",
    "{who} {doing}{dressed}",
    "{who}{wear} who is {being}",
    "{who}{wear} is {being}",
    "{bare}{wear} {doing}",
    "a picture of {who}{wear} {doing}",
    "a drawing of {who} {doing}{dressed}",
    "draw {who}{wear} {doing}",
    "please draw {who}{wear} {doing}",
    "{who}{wear} is {being}.",
    "{who} is {being}{dressed}.",
    "There is {who}{wear} {doing}.",
    "The picture shows {who}{wear} {doing}.",
    "Here we see {who}{wear} {doing}.",
)
SURE = 4
PAIRS = (
    "{a}, to the {side} of {b}",
    "{a}, {side} of {b}",
    "on the {side} {a}, on the {other} {b}",
    "{a} on the {side}, {b} on the {other}",
    "{b} on the {other} and {a} on the {side}",
    "{b}, to the {other} of {a}",
    "on the {other} {b}, and on the {side} {a}",
    "{a} and, to the {other}, {b}",
)

TOGETHER = (
    "{a} and {b}",
    "{a} next to {b}",
    "{a} and {b}, side by side",
    "There is {a} and there is {b}.",
)
MANNERS = {
    "flat": ("drawn in flat colors", "in a flat style", "drawn in a flat style"),
    "outlined": ("drawn with dark outlines", "in an outlined style", "drawn with bold outlines"),
    "shaded": ("drawn with soft shading", "in a shaded style", "drawn with light and shade"),
}


def english_caption(scene: Scene, cast: Sequence[Member], form: str, rng: random.Random) -> str:
    table: Sequence[str]
    if len(cast) == 1:
        if form == "dense":
            table = PHRASES[:SURE]
        elif form == "short":
            table = PHRASES[: SURE + 1]
        else:
            table = PHRASES
        text = _english_one(cast[0], rng.choice(table), form, rng)
    elif form != "dense" and alike(cast) and rng.random() < 0.3:
        pattern = rng.choice(("two people {0}", "two figures {0}", "two people, both {0}"))
        text = pattern.format(_doing(cast[0], "their", rng))
    else:
        simple = [pattern for pattern in PHRASES[:SURE] if "{dressed}" not in pattern]
        a, b = (_english_one(member, rng.choice(simple), form, rng) for member in cast)
        table = PAIRS if form == "dense" or rng.random() < 0.6 else TOGETHER
        text = rng.choice(table).format(a=a, b=b, **grammar_en.SIDES[scene.relation or "left of"])
    where, what = grammar_en.surroundings(scene.background, rng, text)
    where, manner = where.removeprefix(", "), rng.choice(MANNERS[cast[0][0].look])
    if form == "dense":
        head = grammar_en.capital(text)
        return rng.choice(
            (
                f"{head}, {where}, {manner}.",
                f"{head}, {manner}, {where}.",
                f"{head}, {manner}. The background is {what}.",
                f"{head}. It is {manner}. The background is {what}.",
                f"The background is {what}. {head}, {manner}.",
            )
        )
    ground, look = background_said(rng, scene.background, form), look_said(rng, cast[0][0].look)
    if text.endswith("."):
        background = f" The background is {what}." if ground else ""
        return grammar_en.capital(text) + background + (f" It is {manner}." if look else "")
    return text + (f", {where}" if ground else "") + (f", {manner}" if look else "")


def _doing(member: Member, their: str, rng: random.Random, being: bool = False) -> str:
    """Verb phrase of a pose, with the facing if the group has one.

    ``being``: only phrases that can follow "is".
    """
    puppet, group = member
    phrases = [words for words in DOING[puppet.pose] if not (being and words.startswith("with "))]
    words = rng.choice(phrases).format(their=their)
    if group.facing is None:
        return words
    if puppet.pose in MOVING:
        return f"{words} to the {group.facing}"
    return f"{words} {rng.choice(grammar_en.FACING[group.facing][0])}"


def _english_one(member: Member, pattern: str, form: str, rng: random.Random) -> str:
    """English phrase or sentence for one puppet, from a pattern of PHRASES."""
    puppet, _ = member
    skin = rng.choice(SKIN_WORDS[puppet.skin]) if skin_said(rng, puppet.skin) else ""
    nouns = [entry for entry in WHO if not skin or entry[0].startswith("a ")]
    who, their = rng.choice(nouns)
    if skin:
        who = f"a {skin} {who.removeprefix('a ')}"
    being = _doing(member, their, rng, being=True)
    shirt, trousers = (
        rng.choice(grammar_en.COLORS.get(color, (color,)))
        for color in (puppet.shirt, puppet.trousers)
    )
    garments = (
        f"{grammar_en.article(shirt)} {shirt} {rng.choice(('shirt', 'shirt', 'T-shirt'))}",
        f"{trousers} {rng.choice(('trousers', 'trousers', 'pants'))}",
    )
    named = named_clothes(form, rng)
    clothes = " and ".join(words for words, name in zip(garments, named, strict=True) if name)
    wear = rng.choice((" in ", " in ", " wearing ")) + clothes if clothes else ""
    dressed = rng.choice((", in ", ", wearing ", ", dressed in ")) + clothes if clothes else ""
    bare, doing = who.removeprefix("a "), _doing(member, their, rng)
    return pattern.format(who=who, bare=bare, wear=wear, dressed=dressed, being=being, doing=doing)
