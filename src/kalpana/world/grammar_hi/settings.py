"""Hindi words for backgrounds, styles and regions of the image."""

from __future__ import annotations

import random

from kalpana.world.grammar_hi.phrases import inflect
from kalpana.world.scene import Background

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
