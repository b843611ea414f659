"""Captions of videos in English and Hindi."""

from __future__ import annotations

import random

from kalpana.world import grammar_en, grammar_hi
from kalpana.world.defaults import background_said, style_said
from kalpana.world.lexicon import lexicon
from kalpana.world.scene import Solid
from kalpana.world.video.motion import VideoScene, speed

# {a} is the moving object, {b} the second one; {there} is a direction. Verbs agree: {a.are}, {a.s};
# in Hindi {a.raha} {a.hai}, and {goes}, {comes}, {big}, {small} take the same endings.
ENGLISH = {
    "move": (
        "{a} moving {there}",
        "{a} moves {there}.",
        "{a} {a.are} moving {there}.",
        "{a} going {there}",
        "{a} drifts {there}.",
    ),
    "arc": (
        "{a} hopping {there}",
        "{a} jumps {there} in an arc.",
        "{a} leaping {there}",
        "{a} flies {there} in an arc.",
    ),
    "bounce": (
        "{a} bouncing up and down",
        "{a} bounces.",
        "{a} {a.are} bouncing on the spot.",
        "a bouncing {a.bare}",
    ),
    "grow": (
        "{a} growing",
        "{a} gets bigger.",
        "{a} becoming larger and larger",
        "{a} {a.are} getting bigger.",
    ),
    "shrink": (
        "{a} shrinking",
        "{a} gets smaller.",
        "{a} becoming smaller and smaller",
        "{a} {a.are} getting smaller.",
    ),
    "turn": (
        "{a} turning {there}",
        "{a} spinning {there}",
        "{a} rotates {there}.",
        "{a} {a.are} spinning {there}.",
    ),
    "return": (
        "{a} leaving the picture {exit} and coming back",
        "{a} goes out of view {exit} and returns.",
        "{a} disappears {exit}, then comes back.",
    ),
    "hide": (
        "{a} passing behind {b} to the {there}",
        "{a} moves {there} behind {b} and comes out again.",
        "{a} disappears behind {b} and reappears on the {there}.",
    ),
    "swap": (
        "{a} and {b} swapping places",
        "{a} and {b} trade places.",
        "{a} and {b} change places with each other.",
    ),
    "solid": (
        "a {shape} with {a} on {faces} turning to the {there}",
        "a {shape} showing {a} rotates to the {there}.",
        "a {shape} with a picture of {a} on {faces}, turning to the {there}",
    ),
}

THERE = {
    "right": ("to the right", "from left to right", "rightwards"),
    "left": ("to the left", "from right to left", "leftwards"),
    "up": ("up", "upwards", "from the bottom to the top"),
    "down": ("down", "downwards", "from the top to the bottom"),
    "clockwise": ("clockwise",),
    "counter-clockwise": ("counter-clockwise", "anticlockwise"),
}

EXITS = {
    "right": "on the right",
    "left": "on the left",
    "up": "at the top",
    "down": "at the bottom",
}
SPEEDS = {"slow": ("slowly",), "fast": ("quickly", "fast"), "": ("",)}
VIEWS = {
    "pan left": ("the camera pans left", "the camera moves to the left", "camera pan to the left"),
    "pan right": (
        "the camera pans right",
        "the camera moves to the right",
        "camera pan to the right",
    ),
    "pan up": ("the camera moves up", "the camera pans up", "camera pan upwards"),
    "pan down": ("the camera moves down", "the camera pans down", "camera pan downwards"),
    "zoom in": ("the camera zooms in", "the camera moves closer", "camera zoom in"),
    "zoom out": ("the camera zooms out", "the camera moves away", "camera zoom out"),
    "clockwise": ("the camera rotates clockwise", "the camera rolls clockwise"),
    "counter-clockwise": ("the camera rotates counter-clockwise", "the camera rolls anticlockwise"),
}

HINDI = {
    "move": (
        "{a} {there} जा {a.raha} {a.hai}",
        "{there} चल {a.raha} {a}",
        "{a} {there} बढ़ {a.raha} {a.hai}",
        "{there} जा {a.raha} {a}",
    ),
    "arc": (
        "{a} {there} कूद {a.raha} {a.hai}",
        "{there} छलाँग लगा {a.raha} {a}",
        "{a} उछलकर {there} जा {a.raha} {a.hai}",
    ),
    "bounce": (
        "{a} ऊपर-नीचे उछल {a.raha} {a.hai}",
        "उछल {a.raha} {a}",
        "{a} बार-बार उछल {a.raha} {a.hai}",
    ),
    "grow": ("{a} {big} हो {a.raha} {a.hai}", "{a} धीरे-धीरे {big} हो {a.raha} {a.hai}"),
    "shrink": (
        "{a} {small} हो {a.raha} {a.hai}",
        "{a} सिकुड़ {a.raha} {a.hai}",
        "{a} धीरे-धीरे {small} हो {a.raha} {a.hai}",
    ),
    "turn": ("{a} {there} घूम {a.raha} {a.hai}", "{there} घूम {a.raha} {a}"),
    "return": (
        "{a} {exit} बाहर {goes} {a.hai} और वापस {comes} {a.hai}",
        "{a} {exit} निकलकर लौट {comes} {a.hai}",
        "{a} {exit} ओझल होकर फिर लौट {comes} {a.hai}",
    ),
    "hide": (
        "{a} {b.oblique} के पीछे से {there} जा {a.raha} {a.hai}",
        "{a} {b.oblique} के पीछे छिपकर {there} निकल {a.raha} {a.hai}",
        "{there} जाते हुए {a} {b.oblique} के पीछे से गुज़र {a.raha} {a.hai}",
    ),
    "swap": ("{a} और {b} आपस में जगह बदल रहे हैं", "{a} और {b} एक-दूसरे की जगह ले रहे हैं"),
    "solid": (
        "{shape}, जिस पर {a} {a.hai}, {there} घूम {raha} है",
        "{there} घूम {raha} {shape}, जिस पर {a} {a.hai}",
    ),
}

HINDI_THERE = {
    "right": ("दाईं ओर", "बाएँ से दाएँ", "दाईं तरफ़"),
    "left": ("बाईं ओर", "दाएँ से बाएँ", "बाईं तरफ़"),
    "up": ("ऊपर की ओर", "नीचे से ऊपर"),
    "down": ("नीचे की ओर", "ऊपर से नीचे"),
    "clockwise": ("घड़ी की दिशा में", "दक्षिणावर्त"),
    "counter-clockwise": ("घड़ी की उलटी दिशा में", "वामावर्त"),
}
HINDI_EXITS = {"right": "दाईं ओर से", "left": "बाईं ओर से", "up": "ऊपर से", "down": "नीचे से"}
HINDI_SPEEDS = {"slow": ("धीरे-धीरे ",), "fast": ("तेज़ी से ",), "": ("",)}
HINDI_VIEWS = {
    "pan left": ("कैमरा बाईं ओर जाता है", "कैमरा बाईं तरफ़ खिसकता है"),
    "pan right": ("कैमरा दाईं ओर जाता है", "कैमरा दाईं तरफ़ खिसकता है"),
    "pan up": ("कैमरा ऊपर की ओर जाता है", "कैमरा ऊपर खिसकता है"),
    "pan down": ("कैमरा नीचे की ओर जाता है", "कैमरा नीचे खिसकता है"),
    "zoom in": ("कैमरा पास आता है", "कैमरा ज़ूम इन करता है"),
    "zoom out": ("कैमरा दूर जाता है", "कैमरा ज़ूम आउट करता है"),
    "clockwise": ("कैमरा घड़ी की दिशा में घूमता है",),
    "counter-clockwise": ("कैमरा घड़ी की उलटी दिशा में घूमता है",),
}


def caption(video: VideoScene, language: str, form: str, rng: random.Random) -> str:
    """Random caption of a video, in "en" or "hi", in one of grammar.FORMS.

    "dense" states speed, background and camera whenever there is a word for them.
    """
    return (_english if language == "en" else _hindi)(video, form, rng)


def _english(video: VideoScene, form: str, rng: random.Random) -> str:
    """English caption of a video."""
    scene, word = video.scene, video.word
    phrases = [grammar_en.phrase(group, lexicon()[group.concept], rng) for group in scene.groups]
    slots = dict(zip("ab", phrases, strict=False))
    if video.event == "camera":
        text = " and ".join(map(str, phrases))
        view = rng.choice(VIEWS[word])
        text = rng.choice(
            (
                f"{text}, {view}",
                f"{text}. {grammar_en.capital(view)}.",
                f"{view}: {text}" if form != "dense" else f"{text}, {view}",
            )
        )
    else:
        there = (
            f"{word}" if video.event in ("hide", "solid") else rng.choice(THERE.get(word, ("",)))
        )
        options = ENGLISH[video.event]
        solid = scene.objects[0].sprite
        shape = solid.shape if isinstance(solid, Solid) else ""
        text = rng.choice(options[:1] if form == "short" else options).format(
            **slots,
            there=there,
            exit=EXITS.get(word, ""),
            shape=shape,
            faces="it" if shape == "card" else "its sides",
        )
        adverb = rng.choice(SPEEDS[speed(video)])
        if adverb and (form == "dense" or rng.random() < 0.5):
            text = f"{text[:-1]} {adverb}." if text.endswith(".") else f"{text} {adverb}"
    if background_said(rng, scene.background, form):
        where, name = grammar_en.surroundings(scene.background, rng, text)
        text += (
            f" The background is {name}."
            if text.endswith(".")
            else where
            if where.startswith(",")
            else f", {where}"
        )
    if scene.style and style_said(rng, scene.groups, scene.style):
        medium, manner = (rng.choice(words) for words in grammar_en.STYLES[scene.style])
        text += f" It is {medium}." if text.endswith(".") else f", {manner}"
    return (
        grammar_en.capital(text) + ("" if text.endswith(".") else ".")
        if form == "dense" or text.endswith(".")
        else text
    )


def _hindi(video: VideoScene, form: str, rng: random.Random) -> str:
    """Hindi caption of a video."""
    scene, word = video.scene, video.word
    phrases = [grammar_hi.phrase(group, lexicon()[group.concept], rng) for group in scene.groups]
    slots = dict(zip("ab", phrases, strict=False))
    if video.event == "camera":
        text = " और ".join(map(str, phrases)) + ", " + rng.choice(HINDI_VIEWS[word])
    else:
        adverb = (
            rng.choice(HINDI_SPEEDS[speed(video)]) if form == "dense" or rng.random() < 0.5 else ""
        )
        ending = phrases[0].raha.removeprefix("रह")
        solid = scene.objects[0].sprite
        card = isinstance(solid, Solid) and solid.shape == "card"
        options = HINDI[video.event]
        text = rng.choice(options[:1] if form == "short" else options).format(
            **slots,
            there=adverb + rng.choice(HINDI_THERE.get(word, ("",))),
            exit=HINDI_EXITS.get(word, ""),
            goes="जात" + ending,
            comes="आत" + ending,
            big="बड़" + ending,
            small="छोट" + ending,
            shape="एक कार्ड" if card else "एक घन",
            raha="रहा",
        )
    if background_said(rng, scene.background, form):
        where, _ = grammar_hi.surroundings(scene.background, rng)
        text = f"{where} {text}" if rng.random() < 0.5 else f"{text}, {where}"
    if scene.style and style_said(rng, scene.groups, scene.style):
        text += f", {rng.choice(grammar_hi.STYLES[scene.style])}"
    return text + "।" if form == "dense" else text
