"""Hindi captions of hands."""

from __future__ import annotations

import random
from collections.abc import Sequence

from kalpana.world import grammar_hi
from kalpana.world.defaults import background_said, look_said, skin_said
from kalpana.world.kinds.hands.anatomy import COUNTING, count, digits_of, usual
from kalpana.world.kinds.hands.english import PLAIN
from kalpana.world.scene import Hand, Scene

# {hand} is "एक भूरा हाथ" and {hand_o} the same before a postposition; {m} and {f} are the skin,
# agreeing with a masculine or feminine noun; {ek} is "एक " or empty; {u} is उँगली or उँगलियाँ and
# {u_o} the same before a postposition; {hai} agrees with {u}.
HINDI = (
    "{n} {u} दिखाता {hand}",
    "{hand} जिसकी {n} {u} उठी {hai}",
    "{n} उठी हुई {u_o} वाला {hand}",
    "{n} {u} उठाए {hand}",
    "{n} {u} दिखाता हुआ {hand}",
    "{n} {u} उठाए हुए {hand}",
    "{n} {u} खोले {hand}",
    "ठीक {n} {u} दिखाता {hand}",
    "{hand} जो {n} {u} दिखा रहा है",
    "{hand} जिसमें {n} {u} ऊपर {hai}",
    "{hand} जिसने {n} {u} उठाई {hai}",
    "{hand_o} की {n} उठी हुई {u}",
    "{hand_o} की {n} {u} ऊपर",
    "{hand}, {n} {u} ऊपर",
    "{n} {u} ऊपर किए {hand}",
)
HINDI_LOOSE = ("{n} {u} ऊपर", "{n} उठी हुई {u}", "ऊपर उठी {n} {u}", "हाथ की {n} {u} ऊपर")
HINDI_SENTENCES = (
    "{hand} {n} {u} दिखा रहा है।",
    "{hand_o} की {n} {u} उठी {hai}।",
    "{hand_o} ने {n} {u} उठाई {hai}।",
    "तस्वीर में {n} {u} दिखाता {hand} है।",
    "यहाँ {hand} है जिसकी {n} {u} ऊपर {hai}।",
)
HINDI_SIGNED = ("{n} का इशारा करता {hand}", "{hand_o} से {n} का इशारा", "{n} की संख्या दिखाता {hand}")
HINDI_NAMES = {
    "00000": (
        "{ek}{f}बंद मुट्ठी",
        "{ek}{f}मुट्ठी",
        "{ek}{f}भिंची हुई मुट्ठी",
        "{ek}{f}बँधी हुई मुट्ठी",
        "मुट्ठी बाँधे {hand}",
        "सभी उँगलियाँ मोड़े {hand}",
        "{hand} जिसकी कोई उँगली नहीं उठी है",
    ),
    "10000": (
        "{m}अंगूठा ऊपर",
        "ऊपर उठा {m}अंगूठा",
        "थम्स अप करता {hand}",
        "अंगूठा ऊपर किए {hand}",
        "थम्स अप का इशारा करता {hand}",
    ),
    "01000": (
        "ऊपर इशारा करता {hand}",
        "ऊपर की ओर इशारा करता {hand}",
        "तर्जनी उठाए {hand}",
        "ऊपर उठी {f}तर्जनी",
        "तर्जनी से ऊपर इशारा करता {hand}",
    ),
    "00001": ("छोटी उँगली उठाए {hand}", "कनिष्ठा उठाए {hand}", "{hand} जिसकी छोटी उँगली उठी है"),
    "01100": (
        "विजय का इशारा करता {hand}",
        "जीत का निशान बनाता {hand}",
        "शांति का इशारा करता {hand}",
        "{hand_o} से विजय चिह्न",
        "वी का निशान बनाता {hand}",
    ),
    "11000": ("एल का आकार बनाता {hand}", "अंगूठा और तर्जनी फैलाए {hand}"),
    "10001": (
        "फ़ोन का इशारा करता {hand}",
        "शाका का इशारा करता {hand}",
        "अंगूठा और छोटी उँगली फैलाए {hand}",
    ),
    "01001": ("रॉक का इशारा करता {hand}", "सींगों का इशारा करता {hand}"),
    "11001": ("आई लव यू का इशारा करता {hand}",),
    "01111": ("अंगूठे को छोड़कर सारी उँगलियाँ उठाए {hand}", "अंगूठा मोड़े और बाक़ी उँगलियाँ उठाए {hand}"),
    "11111": (
        "{ek}{m}खुला हाथ",
        "{ek}{m}फैला हुआ हाथ",
        "{ek}{f}खुली हथेली",
        "सभी उँगलियाँ फैलाए {hand}",
        "पाँचों उँगलियाँ खोले {hand}",
        "{hand} जिसकी सारी उँगलियाँ खुली हैं",
    ),
}
HINDI_FINGERS = ("अंगूठा", "तर्जनी", "मध्यमा", "अनामिका", "कनिष्ठा")
HINDI_SKINS = {
    "yellow": ("पीला",),
    "pale": ("गोरा",),
    "tan": ("गेहुँआ",),
    "brown": ("भूरा", "भूरा", "साँवला"),
    "dark": ("गहरा भूरा", "गहरा साँवला"),
}
HINDI_LOOKS = {
    "flat": ("सपाट शैली", "सपाट चित्र शैली"),
    "outlined": ("रेखांकित शैली", "रेखांकित कार्टून शैली"),
    "shaded": ("छायांकित शैली", "हल्की छाया वाली शैली"),
}
HINDI_PAIRS = (  # the first two name no sides
    "{a} और {b}",
    "दो हाथ: {a} और {b}",
    "बाईं ओर {a} और दाईं ओर {b}",
    "दाईं ओर {b} और बाईं ओर {a}",
    "बाएँ {a}, दाएँ {b}",
    "दो हाथ, बाईं तरफ़ {a} और दाईं तरफ़ {b}",
)


def hindi_caption(scene: Scene, hands: Sequence[Hand], form: str, rng: random.Random) -> str:
    dense = form == "dense"
    skin = rng.choice(HINDI_SKINS[hands[0].skin]) if dense or skin_said(rng, hands[0].skin) else ""
    style = rng.choice(HINDI_LOOKS[hands[0].look])
    if len(hands) == 2:
        a, b = (_hindi_hand(hand, form, skin, True, rng) for hand in hands)
        text = rng.choice(HINDI_PAIRS[2:] if dense else HINDI_PAIRS).format(a=a, b=b)
    else:
        text = _hindi_hand(hands[0], form, skin, False, rng)
    where, what = grammar_hi.surroundings(scene.background, rng)
    where = where if background_said(rng, scene.background, form) else ""
    style = style if dense or look_said(rng, hands[0].look) else ""
    if text.endswith("।"):
        text += (f" पृष्ठभूमि: {what}।" if where else "") + (f" शैली: {style}।" if style else "")
    elif dense:
        text = rng.choice(
            (
                f"{where} {text}, {style} में।",
                f"{style} में {text}, {where}।",
                f"{text}। पृष्ठभूमि में {what} है। शैली: {style}।",
                f"पृष्ठभूमि में {what} है। {text}, {style} में।",
            )
        )
    else:
        if where and rng.random() < 0.5:
            text, where = f"{where} {text}", ""
        elif style and rng.random() < 0.5:
            text, style = f"{style} में {text}", ""
        text += (f", {where}" if where else "") + (f", {style} में" if style else "")
    return grammar_hi.casual(text) if rng.random() < 0.15 else text


def _hindi_hand(hand: Hand, form: str, skin: str, paired: bool, rng: random.Random) -> str:
    """Hindi noun phrase for one hand, or a clause or sentence where the form allows one."""
    n, dense = count(hand), form == "dense"
    ek = "एक " if rng.random() < 0.4 else ""
    skinned = rng.random() < 0.2  # भूरी त्वचा वाला, rather than भूरा

    def attribute(gender: str, oblique: bool = False) -> str:
        if not skin:
            return ""
        agreement = "f" if skinned else gender
        words = [grammar_hi.inflect(word, agreement, False, oblique) for word in skin.split()]
        if skinned:
            words += ["त्वचा", grammar_hi.inflect("वाला", gender, False, oblique)]
        return " ".join(words) + " "

    slots = {
        "hand": f"{ek}{attribute('m')}हाथ",
        "hand_o": f"{ek}{attribute('m', oblique=True)}हाथ",
        "m": attribute("m"),
        "f": attribute("f"),
        "ek": ek,
        "u": "उँगली" if n == 1 else "उँगलियाँ",
        "u_o": "उँगली" if n == 1 else "उँगलियों",
        "hai": "है" if n == 1 else "हैं",
    }
    names = HINDI_NAMES.get(digits_of(hand), ())
    unusual = not usual(hand)
    if n == 0 or (not dense and names and rng.random() < (0.7 if unusual else 0.4)):
        return rng.choice(names).format(**slots)
    fingers = [name for name, up in zip(HINDI_FINGERS, hand.raised, strict=True) if up]
    listed = (", ".join(fingers[:-1]) + " और " if fingers[1:] else "") + fingers[-1]
    if not dense and n < 5 and (unusual or (form == "natural" and rng.random() < 0.2)):
        return f"{listed} उठाए {slots['hand']}"
    table = HINDI[:PLAIN] if form == "short" else HINDI
    if paired:  # noun phrases only: a clause would run into the phrase of the next hand
        table = tuple(pattern for pattern in table if pattern.endswith("{hand}"))
    elif form == "natural":
        loose = () if skin else HINDI_LOOSE
        signed = HINDI_SIGNED if hand.raised in COUNTING else ()
        table += HINDI_SENTENCES + loose + signed
    roll = rng.random()
    if roll < 0.75:
        number = grammar_hi.NUMERALS[n - 1]
    else:
        number = str(n) if roll < 0.92 else grammar_hi.DIGITS[n]
    text = rng.choice(table).format(n=number, **slots)
    return f"{text} ({listed})" if dense and n < 5 and (unusual or rng.random() < 0.4) else text
