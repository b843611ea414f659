"""English words for backgrounds, styles and regions of the image."""

from __future__ import annotations

import random
from collections.abc import Sequence

from kalpana.world.scene import Background

PICTURES = (
    "a picture of",
    "a photo of",
    "an image of",
    "a drawing of",
    "a painting of",
    "an illustration of",
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
