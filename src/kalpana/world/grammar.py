"""One seeded grammar: a scene in words, English or Hindi, short, natural or dense. All it says is true of the scene.

The words live in ``grammar_en`` and ``grammar_hi``: noun phrases that agree, then sentence patterns as plain tables.
What both languages share is here: which language speaks, and where a group is.
"""

from __future__ import annotations

import random
from collections.abc import Mapping

from kalpana.types import KalpanaError
from kalpana.world import grammar_en, grammar_hi
from kalpana.world.lexicon import Concept, lexicon
from kalpana.world.scene import Scene

FORMS = ("short", "natural", "dense")
LANGUAGES = {"en": grammar_en.caption, "hi": grammar_hi.caption}


def caption(
    scene: Scene,
    language: str,
    form: str,
    rng: random.Random,
    concepts: Mapping[str, Concept] | None = None,
) -> str:
    """A caption of ``scene`` drawn with ``rng`` alone.

    ``form`` "short" is a plain template, "natural" any paraphrase, "dense" states every fact: groups, relation, places,
    background, style. ``concepts`` names the groups' concepts (the lexicon unless given). Raises KalpanaError for an
    unknown language or form.
    """
    if language not in LANGUAGES:
        raise KalpanaError(
            f"no captions in language {language!r}: write one of {', '.join(LANGUAGES)}"
        )
    if form not in FORMS:
        raise KalpanaError(f"unknown caption form {form!r}: write one of {', '.join(FORMS)}")
    if len(scene.groups) > 2:
        raise KalpanaError(f"a caption names at most 2 groups, this scene has {len(scene.groups)}")
    named = concepts if concepts is not None else lexicon()
    regions = [region(scene, index) for index in range(len(scene.groups))]
    return LANGUAGES[language](
        scene, form, [named[group.concept] for group in scene.groups], regions, rng
    )


def region(scene: Scene, group: int) -> tuple[str | None, str | None]:
    """Where a group is, as (column, row): "left", "centre", "right" and "top", "middle", "bottom"; None where it spreads."""
    centres = [(item.x, item.y) for item in scene.objects if item.group == group]
    if not centres:
        return None, None
    column, row = (
        _third([centre[axis] for centre in centres], names)
        for axis, names in enumerate((COLUMNS, ROWS))
    )
    return column, row


COLUMNS = ("left", "centre", "right")
ROWS = ("top", "middle", "bottom")


def _third(values: list[float], names: tuple[str, str, str]) -> str | None:
    low, high = min(values), max(values)
    return (
        names[0]
        if high < 0.42
        else names[2]
        if low > 0.58
        else names[1]
        if low >= 0.36 and high <= 0.64
        else None
    )
