"""Hindi captions of scenes."""

from __future__ import annotations

import random
from collections.abc import Sequence

from kalpana.world.defaults import background_said, style_said
from kalpana.world.grammar_hi.patterns import PATTERNS, sides
from kalpana.world.grammar_hi.phrases import Phrase, casual, phrase
from kalpana.world.grammar_hi.settings import PICTURES, REGIONS, STYLES, surroundings
from kalpana.world.lexicon import Concept
from kalpana.world.scene import Scene


def caption(
    scene: Scene,
    form: str,
    concepts: Sequence[Concept],
    regions: Sequence[tuple[str | None, str | None]],
    rng: random.Random,
) -> str:
    """Random Hindi caption of a scene; see ``grammar.caption``.

    ``concepts`` and ``regions`` have one entry for each group of the scene. 15 % of the captions
    are in informal spelling.
    """
    text = _caption(scene, form, concepts, regions, rng)
    return casual(text) if rng.random() < 0.15 else text


def _caption(
    scene: Scene,
    form: str,
    concepts: Sequence[Concept],
    regions: Sequence[tuple[str | None, str | None]],
    rng: random.Random,
) -> str:
    """Random Hindi caption of a scene in standard spelling."""
    where, name = surroundings(scene.background, rng)
    style = rng.choice(STYLES[scene.style]) if scene.style else ""
    if not scene.groups:
        return f"{name}, {style}" if style and rng.random() < 0.5 else name

    pattern = rng.choice(PATTERNS.fitting(scene, form))
    phrases = [
        phrase(group, concept, rng) for group, concept in zip(scene.groups, concepts, strict=True)
    ]
    text = pattern.format(
        **dict(zip("ab", phrases, strict=False)),
        **sides(scene.relation, rng),
        picture=rng.choice(PICTURES),
    )
    if form == "dense":
        return _dense(text, style, where, name, _positions(scene, phrases, regions), rng)

    where = where if background_said(rng, scene.background, form) else ""
    style = style if style_said(rng, scene.groups, scene.style) else ""
    if text.endswith("।"):
        return text + (f" पृष्ठभूमि: {name}।" if where else "") + (f" शैली: {style}।" if style else "")
    if pattern.startswith(("{a", "{b")):
        if where and rng.random() < 0.5:
            text, where = f"{where} {text}", ""
        elif style and rng.random() < 0.5:
            text, style = f"{style} में {text}", ""
    return (
        text
        + (f", {where}" if where else "")
        + (f", {style}" + rng.choice(("", " में")) if style else "")
    )


def _positions(
    scene: Scene, phrases: Sequence[Phrase], regions: Sequence[tuple[str | None, str | None]]
) -> str:
    """Sentence on the regions of the groups, or "" if no group has a region with a name.

    "सेब बाईं ओर हैं और कार नीचे है।"
    """
    same_concept = len({group.concept for group in scene.groups}) < len(scene.groups)
    clauses = [
        f"{p.bare if same_concept else p.noun} {REGIONS[r]} {p.hai}"
        for p, r in zip(phrases, regions, strict=True)
        if r in REGIONS
    ]
    return " और ".join(clauses) + "।" if clauses else ""


def _dense(core: str, style: str, where: str, name: str, positions: str, rng: random.Random) -> str:
    """Dense caption: all facts in one of five orders; ``name`` is that of the background."""
    in_style, styled = (f"{style} में ", f"शैली: {style}।") if style else ("", "")
    parts = rng.choice(
        (
            (f"{where} {core}।", positions, styled),
            (f"{in_style}{core}, {where}।", positions),
            (f"{core}।", positions, f"पृष्ठभूमि में {name} है।", styled),
            (f"{core}, {where}" + (f", {in_style.rstrip()}।" if style else "।"), positions),
            (f"पृष्ठभूमि में {name} है। {core}।", positions, styled),
        )
    )
    return " ".join(part for part in parts if part)
