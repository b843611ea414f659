"""English caption grammar: noun phrases with articles, numerals and plurals; sentence patterns."""

from __future__ import annotations

from kalpana.world.grammar_en.captions import caption
from kalpana.world.grammar_en.patterns import ONE, PAIRED, PATTERNS, SIDES, VAGUE
from kalpana.world.grammar_en.phrases import (
    COLORS,
    FACING,
    NUMERALS,
    SIZES,
    Phrase,
    article,
    capital,
    living,
    phrase,
)
from kalpana.world.grammar_en.settings import (
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
    "FACING",
    "FLAT",
    "GRADIENT",
    "NUMERALS",
    "ONE",
    "PAIRED",
    "PATTERNS",
    "PICTURES",
    "PLACES",
    "REGIONS",
    "SIDES",
    "SIZES",
    "STYLES",
    "TINTS",
    "VAGUE",
    "Phrase",
    "article",
    "capital",
    "caption",
    "living",
    "phrase",
    "surroundings",
]
