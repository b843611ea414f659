"""Caption grammar: seeded, true captions of a scene in English or Hindi, in three forms.

``grammar_en`` and ``grammar_hi`` hold the words: noun phrases with agreement, and sentence patterns
as plain tables. This module holds the shared part: the choice of the language and the image region
of a group.
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
    """Random caption of ``scene``; all randomness comes from ``rng``.

    ``language`` is "en" or "hi". ``form`` "short" is a plain template, "natural" any paraphrase;
    "dense" states every fact: groups, relation, positions, background, style. ``concepts`` maps
    concept ids to concepts (default: the lexicon). Raises KalpanaError for an unknown language or
    form, or for a scene of more than two groups.
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
    """Image region of a group as (column, row).

    The column is "left", "centre" or "right", the row "top", "middle" or "bottom"; either is None
    if the group extends over more than one.
    """
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
    """Name of the third of the unit interval that holds all values, or None."""
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
