"""Hands with raised fingers: one hand, or two side by side, in common gestures from 0 to 5 fingers.

Every counted finger is visible. Flawed hands (an extra, a missing or two fused fingers) are
sampled only by ``sample_flawed`` and ``one_flawed``: a verifier learns to reject them.
"""

from __future__ import annotations

from kalpana.world.kinds.hands.anatomy import FLAWS, GESTURES, count, figure, flaws_of
from kalpana.world.kinds.hands.captions import caption
from kalpana.world.kinds.hands.english import ENGLISH, ENGLISH_NAMES, ENGLISH_SKINS
from kalpana.world.kinds.hands.hindi import HINDI, HINDI_NAMES, HINDI_SKINS
from kalpana.world.kinds.hands.scenes import (
    background,
    held_out,
    one,
    one_flawed,
    sample,
    sample_flawed,
)

__all__ = [
    "ENGLISH",
    "ENGLISH_NAMES",
    "ENGLISH_SKINS",
    "FLAWS",
    "GESTURES",
    "HINDI",
    "HINDI_NAMES",
    "HINDI_SKINS",
    "background",
    "caption",
    "count",
    "figure",
    "flaws_of",
    "held_out",
    "one",
    "one_flawed",
    "sample",
    "sample_flawed",
]
