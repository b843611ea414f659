"""Hindi captions of puppets."""

from __future__ import annotations

import random
from collections.abc import Sequence

from kalpana.world import grammar_hi
from kalpana.world.defaults import background_said, look_said, skin_said
from kalpana.world.kinds.puppets.cast import MOVING, Member, alike, named_clothes
from kalpana.world.scene import Scene

# (before a noun: दौड़ता हुआ व्यक्ति, after one: व्यक्ति दौड़ रहा है). A phrase that begins with ने takes
# an ergative subject. Words marked * agree with the noun.
HINDI_DOING = {
    "standing": (
        ("खड़ा* हुआ*", "खड़ा* है"),
        ("सीधा* खड़ा*", "सीधा* खड़ा* है"),
        ("चुपचाप खड़ा*", "चुपचाप खड़ा* है"),
    ),
    "waving": (
        ("हाथ हिलाता* हुआ*", "हाथ हिला रहा* है"),
        ("अपना हाथ हिलाता*", "अपना हाथ हिला रहा* है"),
        ("हाथ हिलाकर अलविदा कहता*", "हाथ हिलाकर अलविदा कह रहा* है"),
    ),
    "arms up": (
        ("हाथ ऊपर किए हुए", "हाथ ऊपर किए हुए है"),
        ("दोनों हाथ ऊपर उठाए", "ने दोनों हाथ ऊपर उठा रखे हैं"),
        ("बाँहें ऊपर उठाए हुए", "बाँहें ऊपर उठाए हुए है"),
    ),
    "arms out": (
        ("बाँहें फैलाए हुए", "बाँहें फैलाए हुए है"),
        ("दोनों हाथ फैलाए", "ने दोनों हाथ फैला रखे हैं"),
        ("बाँहें दोनों ओर फैलाए", "ने बाँहें दोनों ओर फैला रखी हैं"),
    ),
    "hands on hips": (
        ("कमर पर हाथ रखे हुए", "कमर पर हाथ रखे हुए है"),
        ("कमर पर दोनों हाथ रखे", "ने कमर पर दोनों हाथ रखे हुए हैं"),
        ("हाथ कमर पर टिकाए हुए", "ने हाथ कमर पर टिका रखे हैं"),
    ),
    "jumping": (
        ("कूदता* हुआ*", "कूद रहा* है"),
        ("कूदता*", "कूद रहा* है"),
        ("हवा में उछलता* हुआ*", "हवा में उछल रहा* है"),
        ("छलाँग लगाता* हुआ*", "छलाँग लगा रहा* है"),
    ),
    "dancing": (
        ("नाचता* हुआ*", "नाच रहा* है"),
        ("नृत्य करता* हुआ*", "नृत्य कर रहा* है"),
        ("मस्ती में नाचता*", "मस्ती में नाच रहा* है"),
    ),
    "stretching": (
        ("अंगड़ाई लेता* हुआ*", "अंगड़ाई ले रहा* है"),
        ("स्ट्रेचिंग करता* हुआ*", "स्ट्रेचिंग कर रहा* है"),
        ("बदन को एक ओर तानता* हुआ*", "बदन को एक ओर तान रहा* है"),
    ),
    "balancing": (
        ("एक पैर पर संतुलन बनाता* हुआ*", "एक पैर पर संतुलन बना रहा* है"),
        ("एक पैर पर संतुलन बनाए हुए", "एक पैर पर संतुलन बनाए हुए है"),
        ("एक टाँग पर संतुलन साधता*", "एक टाँग पर संतुलन साध रहा* है"),
    ),
    "handstand": (
        ("हैंडस्टैंड करता* हुआ*", "हैंडस्टैंड कर रहा* है"),
        ("हाथों के बल उलटा* टिका* हुआ*", "हाथों के बल उलटा* टिका* हुआ* है"),
        ("उलटा* होकर हैंडस्टैंड करता*", "उलटा* होकर हैंडस्टैंड कर रहा* है"),
    ),
    "pointing": (
        ("इशारा करता* हुआ*", "इशारा कर रहा* है"),
        ("उँगली से इशारा करता*", "उँगली से इशारा कर रहा* है"),
        ("सामने इशारा करता* हुआ*", "सामने इशारा कर रहा* है"),
    ),
    "namaste": (
        ("नमस्ते करता* हुआ*", "नमस्ते कर रहा* है"),
        ("हाथ जोड़े हुए", "ने हाथ जोड़ रखे हैं"),
        ("हाथ जोड़कर अभिवादन करता*", "हाथ जोड़कर अभिवादन कर रहा* है"),
    ),
    "walking": (
        ("चलता* हुआ*", "चल रहा* है"),
        ("पैदल चलता*", "पैदल चल रहा* है"),
        ("टहलता* हुआ*", "टहल रहा* है"),
    ),
    "running": (
        ("दौड़ता* हुआ*", "दौड़ रहा* है"),
        ("तेज़ दौड़ता*", "तेज़ दौड़ रहा* है"),
        ("भागता* हुआ*", "भाग रहा* है"),
    ),
    "kicking": (
        ("लात मारता* हुआ*", "लात मार रहा* है"),
        ("किक मारता* हुआ*", "किक मार रहा* है"),
        ("हवा में लात मारता*", "हवा में लात मार रहा* है"),
    ),
    "kneeling": (
        ("एक घुटना टेके हुए", "एक घुटना टेके हुए है"),
        ("घुटना टेकता* हुआ*", "घुटना टेक रहा* है"),
        ("एक घुटना ज़मीन पर टेके", "ने एक घुटना ज़मीन पर टेक रखा है"),
    ),
    "sitting": (
        ("बैठा* हुआ*", "बैठा* हुआ* है"),
        ("ज़मीन पर बैठा*", "ज़मीन पर बैठा* है"),
        ("आराम से बैठा*", "आराम से बैठा* है"),
    ),
    "crawling": (
        ("रेंगता* हुआ*", "रेंग रहा* है"),
        ("घुटनों के बल रेंगता*", "घुटनों के बल रेंग रहा* है"),
        ("ज़मीन पर रेंगता* हुआ*", "ज़मीन पर रेंग रहा* है"),
    ),
    "bowing": (
        ("झुका* हुआ*", "झुका* हुआ* है"),
        ("झुककर प्रणाम करता* हुआ*", "झुककर प्रणाम कर रहा* है"),
        ("आदर से झुकता*", "आदर से झुक रहा* है"),
    ),
    "lying down": (
        ("लेटा* हुआ*", "लेटा* हुआ* है"),
        ("पीठ के बल लेटा*", "पीठ के बल लेटा* है"),
        ("ज़मीन पर लेटा*", "ज़मीन पर लेटा* है"),
    ),
}
HINDI_WHO = (("व्यक्ति", "m"), ("व्यक्ति", "m"), ("इंसान", "m"), ("कठपुतली", "f"), ("आकृति", "f"))
HINDI_SKINS = {
    "yellow": ("पीला*",),
    "pale": ("गोरा*",),
    "tan": ("गेहुँआ*",),
    "brown": ("साँवला*",),
    "dark": ("गहरा* साँवला*",),
}

# {np} दौड़ता हुआ व्यक्ति, {bent} दौड़ते हुए व्यक्ति, {clause} एक व्यक्ति दौड़ रहा है,
# {rel} एक व्यक्ति जो दौड़ रहा है
HINDI_PHRASES = (
    "{np}",
    "{np}",
    "{rel}",
    "{clause}",
    "{bent} {picture}",
    "{np} बनाओ",
    "{np} दिखाइए",
    "{clause}।",
    "तस्वीर में {clause}।",
    "चित्र में {np} है।",
    "यहाँ {clause}।",
)

HINDI_PAIRS = (
    "{ore} ओर {a}, {oore} ओर {b}",
    "{ore} तरफ़ {a} और {oore} तरफ़ {b}",
    "{oore} ओर {b} और {ore} ओर {a}",
    "{side} {a}, {other} {b}",
    "{bent_b} के {ore} ओर {a}",
    "{bent_a} के {oore} ओर {b}",
    "{bent_b} की {ore} तरफ़ {a}",
)
HINDI_TOGETHER = ("{a} और {b}", "{a} और {b}, साथ-साथ", "{bent_b} के पास {a}", "{bent_b} के साथ {a}")
HINDI_MANNERS = {
    "flat": ("सपाट शैली में", "सपाट रंगों में"),
    "outlined": ("रेखांकित शैली में", "गहरी रेखाओं वाली शैली में"),
    "shaded": ("छायांकित शैली में", "हल्की छाया वाली शैली में"),
}


def hindi_caption(scene: Scene, cast: Sequence[Member], form: str, rng: random.Random) -> str:
    table: Sequence[str]
    if len(cast) == 1:
        if form == "dense":
            table = HINDI_PHRASES[:3]
        elif form == "short":
            table = HINDI_PHRASES[:5]
        else:
            table = HINDI_PHRASES
        text = rng.choice(table).format(
            **_hindi_one(cast[0], form, rng), picture=rng.choice(grammar_hi.PICTURES)
        )
    elif form != "dense" and alike(cast) and rng.random() < 0.3:
        noun, gender = rng.choice(HINDI_WHO[:3])
        text = f"{_agree(rng.choice(HINDI_DOING[cast[0][0].pose])[0], gender, many=True)} दो {noun}"
    else:
        a, b = (_hindi_one(member, form, rng) for member in cast)
        table = HINDI_PAIRS if form == "dense" or rng.random() < 0.6 else HINDI_TOGETHER
        sides = grammar_hi.sides(scene.relation, rng)
        text = rng.choice(table).format(
            a=a["np"], b=b["np"], bent_a=a["bent"], bent_b=b["bent"], **sides
        )
    where, what = grammar_hi.surroundings(scene.background, rng)
    manner = rng.choice(HINDI_MANNERS[cast[0][0].look])
    if form == "dense":
        text = rng.choice(
            (
                f"{where} {text}, {manner}।",
                f"{text}, {where}, {manner}।",
                f"{text}, {manner}। पृष्ठभूमि में {what} है।",
                f"पृष्ठभूमि में {what} है। {text}, {manner}।",
            )
        )
    else:
        ground, look = background_said(rng, scene.background, form), look_said(rng, cast[0][0].look)
        if text.endswith("।"):
            background = f" पृष्ठभूमि में {what} है।" if ground else ""
            text += background + (f" चित्र {manner} है।" if look else "")
        else:
            text += (f", {where}" if ground else "") + (f", {manner}" if look else "")
    return grammar_hi.casual(text) if rng.random() < 0.15 else text


def _agree(words: str, gender: str, many: bool = False, oblique: bool = False) -> str:
    """The words with those marked * inflected for gender, number and case."""
    return " ".join(
        grammar_hi.inflect(w[:-1], gender, many, oblique) if w.endswith("*") else w
        for w in words.split()
    )


def _hindi_one(member: Member, form: str, rng: random.Random) -> dict[str, str]:
    """One puppet's phrases for the fields of HINDI_PHRASES."""
    puppet, group = member
    noun, gender = rng.choice(HINDI_WHO)
    phrases = [
        words
        for words in HINDI_DOING[puppet.pose]
        if not (group.facing and words[1].startswith("ने "))
    ]
    before, after = rng.choice(phrases)
    if group.facing:
        ore, _ = rng.choice(grammar_hi.LEFT if group.facing == "left" else grammar_hi.RIGHT)
        if puppet.pose in MOVING:
            turned = f"{ore} ओर"
        else:
            turned = grammar_hi.facing(group.facing, True, rng)
        before, after = f"{turned} {before}", f"{turned} {after}"
    if skin_said(rng, puppet.skin):
        noun = f"{rng.choice(HINDI_SKINS[puppet.skin])} {noun}"
    shirt, trousers = (
        grammar_hi.inflect(rng.choice(grammar_hi.COLORS[color]), "f", False)
        for color in (puppet.shirt, puppet.trousers)
    )
    garments = (
        f"{shirt} {rng.choice(('कमीज़', 'कमीज़', 'टी-शर्ट'))}",
        f"{trousers} {rng.choice(('पैंट', 'पैंट', 'पतलून'))}",
    )
    clothed = named_clothes(form, rng)
    clothes = " और ".join(words for words, name in zip(garments, clothed, strict=True) if name)
    worn = f"{clothes} {rng.choice(('में', 'पहने', 'पहने हुए', 'वाला*'))} " if clothes else ""
    ergative = after.startswith("ने ")
    subject = _agree(f"{worn}एक {noun}", gender, oblique=ergative)
    finite = _agree(after, gender)
    named = f"{worn}{before} {rng.choice(('', 'एक '))}{noun}"
    return {
        "np": _agree(named, gender),
        "bent": _agree(named, gender, oblique=True),
        "clause": f"{subject} {finite}",
        "rel": f"{_agree(f'{worn}एक {noun}', gender)} {'जिस' if ergative else 'जो '}{finite}",
    }
