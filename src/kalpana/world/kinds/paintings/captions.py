"""Captions of paintings: they always name the medium."""

from __future__ import annotations

import random
from collections.abc import Callable

from kalpana.world import grammar, grammar_en, grammar_hi
from kalpana.world.defaults import background_said
from kalpana.world.kinds.paintings.scenes import TINT, TINTLESS
from kalpana.world.lexicon import lexicon
from kalpana.world.scene import Scene

PICTURES = {  # medium: (noun phrases for a picture, phrases for its manner)
    "watercolour": (
        (
            "a watercolour",
            "a watercolor",
            "a watercolour painting",
            "a watercolor painting",
            "an aquarelle",
        ),
        (
            "watercolour",
            "in watercolour",
            "in watercolor",
            "watercolor style",
            "watercolour painting",
            "painted in watercolours",
        ),
    ),
    "oil": (
        ("an oil painting", "an oil painting", "an oil painting on canvas", "an oil picture"),
        (
            "oil painting",
            "in oil",
            "painted in oil",
            "oil on canvas",
            "in the style of an oil painting",
            "oil painting style",
        ),
    ),
    "pencil": (
        ("a pencil sketch", "a pencil drawing", "a graphite drawing", "a sketch in pencil"),
        (
            "pencil sketch",
            "in pencil",
            "drawn in pencil",
            "sketched with a pencil",
            "pencil drawing",
            "pencil style",
        ),
    ),
    "ink": (
        ("an ink drawing", "a pen and ink drawing", "an ink sketch", "a drawing in ink"),
        (
            "ink drawing",
            "in ink",
            "drawn in ink",
            "pen and ink",
            "in the style of an ink drawing",
            "ink style",
        ),
    ),
    "pixel art": (
        ("pixel art", "a pixel art picture", "a piece of pixel art", "a pixel art image"),
        (
            "pixel art",
            "pixel art style",
            "as pixel art",
            "in pixel art",
            "in the style of pixel art",
        ),
    ),
    "neon": (
        ("a neon picture", "a neon drawing", "a glowing neon picture", "neon art"),
        (
            "in neon lights",
            "in neon",
            "neon style",
            "glowing in neon",
            "drawn in neon light",
            "neon lights",
        ),
    ),
}

HINDI_PICTURES = {  # medium: (nouns for a picture, each with its gender; phrases for its manner)
    "watercolour": (
        (("जलरंग चित्र", "m"), ("वॉटरकलर चित्र", "m"), ("जलरंग पेंटिंग", "f")),
        ("जलरंग में", "जलरंग शैली में", "जलरंगों में", "वॉटरकलर में", "वॉटरकलर शैली में"),
    ),
    "oil": (
        (("तैल चित्र", "m"), ("तैलचित्र", "m"), ("ऑयल पेंटिंग", "f"), ("तैल पेंटिंग", "f")),
        ("तैल रंगों में", "तैल चित्र शैली में", "ऑयल पेंटिंग शैली में", "तैल चित्र के रूप में"),
    ),
    "pencil": (
        (("पेंसिल स्केच", "m"), ("पेंसिल चित्र", "m"), ("पेंसिल ड्रॉइंग", "f")),
        ("पेंसिल रेखाओं में", "पेंसिल स्केच में", "पेंसिल शैली में", "पेंसिल स्केच शैली में"),
    ),
    "ink": (
        (("स्याही चित्र", "m"), ("स्याही स्केच", "m"), ("स्याही ड्रॉइंग", "f")),
        ("स्याही में", "स्याही शैली में", "स्याही के चित्र के रूप में", "कलम और स्याही शैली में"),
    ),
    "pixel art": (
        (("पिक्सेल चित्र", "m"), ("पिक्सेल आर्ट चित्र", "m"), ("पिक्सेल तस्वीर", "f")),
        ("पिक्सेल आर्ट में", "पिक्सेल आर्ट शैली में", "पिक्सेल शैली में", "पिक्सेल आर्ट के रूप में"),
    ),
    "neon": (
        (("नियॉन चित्र", "m"), ("नियॉन आर्ट चित्र", "m"), ("नियॉन तस्वीर", "f")),
        ("नियॉन शैली में", "नियॉन रोशनी में", "नियॉन लाइट में", "चमकती नियॉन शैली में"),
    ),
}


def caption(scene: Scene, language: str, form: str, rng: random.Random) -> str:
    """Caption of a painted scene; it always names the medium and never the (house) style."""
    return (_english if language == "en" else _hindi)(scene, form, rng)


def _omits_background(scene: Scene, form: str, rng: random.Random) -> bool:
    """Whether the caption omits the background.

    It does for a tintless medium unless the background is a place, else at random by form.
    """
    hidden = scene.painting in TINTLESS and scene.background.kind != "place"
    return hidden or not background_said(rng, scene.background, form)


def _surroundings(scene: Scene, describe: Callable[[], tuple[str, str]]) -> tuple[str, str]:
    """Background phrases from ``describe``; of a place in a tintless medium, without a colour.

    Phrases such as "in a green field" are rejected, and ``describe`` is called again.
    """
    while True:
        where, what = describe()
        if (
            scene.painting not in TINTLESS
            or scene.background.kind != "place"
            or not (TINT.search(where) or TINT.search(what))
        ):
            return where, what


def _english(scene: Scene, form: str, rng: random.Random) -> str:
    medium, manner = (rng.choice(words) for words in PICTURES[scene.painting or ""])
    if not scene.groups:
        _, what = _surroundings(scene, lambda: grammar_en.surroundings(scene.background, rng))
        return rng.choice((f"{medium} of {what}", f"{what}, {manner}"))
    pattern = rng.choice(grammar_en.PATTERNS.fitting(scene, form))
    alone = len(scene.groups) == 1
    phrases = [
        grammar_en.phrase(group, lexicon()[group.concept], rng, alone=alone)
        for group in scene.groups
    ]
    text = pattern.format(
        **dict(zip("ab", phrases, strict=False)), **grammar_en.SIDES.get(scene.relation or "", {})
    )
    where, what = _surroundings(scene, lambda: grammar_en.surroundings(scene.background, rng, text))
    if _omits_background(scene, form, rng):
        where = what = ""
    if pattern.endswith("."):
        background = f" The background is {what}." if what else ""
        return f"{grammar_en.capital(text)}{background} This is {medium}."
    after = f"{rng.choice((' ', ', ')) if where[:1] != ',' else ''}{where}" if where else ""
    noun_first = pattern.startswith(("{a}", "{b}", "{a.plain}", "{a.exact}"))
    if (noun_first or pattern in grammar_en.VAGUE[1:]) and rng.random() < 0.5:
        text = f"{medium} of {text}{after}"
    else:
        text = f"{text}{after}, {manner}"
    if form != "dense":
        return text
    regions = [grammar.region(scene, k) for k in range(len(scene.groups))]
    places = [
        f"{p.the} {p.are} {grammar_en.REGIONS[r]}"
        for p, r in zip(phrases, regions, strict=True)
        if r in grammar_en.REGIONS
    ]
    regions_text = f" {grammar_en.capital(' and '.join(places))}." if places else ""
    return f"{grammar_en.capital(text)}.{regions_text}"


def _hindi(scene: Scene, form: str, rng: random.Random) -> str:
    nouns, manners = HINDI_PICTURES[scene.painting or ""]
    (noun, gender), manner = rng.choice(nouns), rng.choice(manners)
    where, what = _surroundings(scene, lambda: grammar_hi.surroundings(scene.background, rng))
    if not scene.groups:
        return rng.choice((f"{what}, {manner}", f"{manner} {what}", f"{what}, {noun}"))
    pattern = rng.choice(grammar_hi.PATTERNS.fitting(scene, form))
    if pattern == "{a}" and rng.random() < 0.4:
        pattern = "{a.oblique} {picture}"
    phrases = [grammar_hi.phrase(group, lexicon()[group.concept], rng) for group in scene.groups]
    picture = f"{grammar_hi.inflect('का', gender, False)} {rng.choice(('', '', 'एक '))}{noun}"
    text = pattern.format(
        **dict(zip("ab", phrases, strict=False)),
        **grammar_hi.sides(scene.relation, rng),
        picture=picture,
    )
    if _omits_background(scene, form, rng):
        where = what = ""
    if pattern.endswith("।"):
        text = " ".join(
            part for part in (text, f"पृष्ठभूमि: {what}।" if what else "", f"यह एक {noun} है।") if part
        )
    else:
        if "{picture}" not in pattern:
            first = pattern.startswith(("{a", "{b")) and rng.random() < 0.5
            text = f"{manner} {text}" if first else f"{text}, {rng.choice((manner, noun))}"
        text += f", {where}" if where else ""
    if form == "dense":
        regions = [grammar.region(scene, k) for k in range(len(scene.groups))]
        places = [
            f"{p.bare} {grammar_hi.REGIONS[r]} {p.hai}"
            for p, r in zip(phrases, regions, strict=True)
            if r in grammar_hi.REGIONS
        ]
        text += "।" + (f" {' और '.join(places)}।" if places else "")
    return grammar_hi.casual(text) if rng.random() < 0.15 else text
