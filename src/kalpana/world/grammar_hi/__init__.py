"""Hindi caption grammar: noun phrases with agreement, and sentence patterns."""

from __future__ import annotations

from kalpana.world.grammar_hi.captions import caption
from kalpana.world.grammar_hi.patterns import ONE, PAIRED, PATTERNS, sides
from kalpana.world.grammar_hi.phrases import (
    COLORS,
    DIGITS,
    LEFT,
    NUMERALS,
    RIGHT,
    SIZES,
    Phrase,
    casual,
    facing,
    inflect,
    names,
    phrase,
)
from kalpana.world.grammar_hi.settings import (
    FLAT,
    GRADIENT,
    PICTURES,
    PLACES,
    REGIONS,
    STYLES,
    TINTS,
    surroundings,
)

__all__ = [
    "COLORS",
    "DIGITS",
    "FLAT",
    "GRADIENT",
    "LEFT",
    "NUMERALS",
    "ONE",
    "PAIRED",
    "PATTERNS",
    "PICTURES",
    "PLACES",
    "REGIONS",
    "RIGHT",
    "SIZES",
    "STYLES",
    "TINTS",
    "Phrase",
    "caption",
    "casual",
    "facing",
    "inflect",
    "names",
    "phrase",
    "sides",
    "surroundings",
]
