"""English captions of scenes."""

from __future__ import annotations

import random
from collections.abc import Sequence

from kalpana.world.defaults import background_said, style_said
from kalpana.world.grammar_en.patterns import PATTERNS, SIDES, VAGUE
from kalpana.world.grammar_en.phrases import Phrase, capital, phrase
from kalpana.world.grammar_en.settings import PICTURES, REGIONS, STYLES, surroundings
from kalpana.world.lexicon import Concept
from kalpana.world.scene import Scene


def caption(
    scene: Scene,
    form: str,
    concepts: Sequence[Concept],
    regions: Sequence[tuple[str | None, str | None]],
    rng: random.Random,
) -> str:
    """Random English caption of a scene; see ``grammar.caption``.

    ``concepts`` and ``regions`` have one entry for each group of the scene.
    """
    medium, manner = (
        (rng.choice(words) for words in STYLES[scene.style]) if scene.style else ("", "")
    )
    if not scene.groups:
        _, name = surroundings(scene.background, rng)
        text = f"a {name} background" if scene.background.kind == "flat" else name
        return f"{medium} of {text}" if medium and rng.random() < 0.5 else text

    pattern = rng.choice(PATTERNS.fitting(scene, form))
    sentence = pattern.endswith(".")
    named = pattern.startswith(("{a}", "{b}", "{a.plain}", "{a.exact}")) or pattern in VAGUE[1:]
    terse = form != "dense" and not sentence and rng.random() < 0.12
    alone = len(scene.groups) == 1
    phrases = [
        phrase(group, concept, rng, terse, alone)
        for group, concept in zip(scene.groups, concepts, strict=True)
    ]
    text = pattern.format(
        **dict(zip("ab", phrases, strict=False)), **SIDES.get(scene.relation or "", {})
    )
    where, name = surroundings(scene.background, rng, text)
    if form == "dense":
        where = where.removeprefix(", ")
        positions = _positions(scene, phrases, regions)
        return _dense(text, medium, manner, where, name, positions, rng)

    where = where if background_said(rng, scene.background, form) else ""
    medium, manner = (medium, manner) if style_said(rng, scene.groups, scene.style) else ("", "")
    if sentence:
        return (
            capital(text)
            + (f" The background is {name}." if where else "")
            + (f" It is {medium}." if medium else "")
        )
    if named and not terse and medium and rng.random() < 0.5:
        text, manner = f"{medium} of {text}", ""
    elif named and not terse and not medium and rng.random() < 0.2:
        text = f"{rng.choice(PICTURES)} {text}"
    if where and not where.startswith(","):
        where = rng.choice((" ", ", ")) + where
    return text + where + (f", {manner}" if manner else "")


def _positions(
    scene: Scene, phrases: Sequence[Phrase], regions: Sequence[tuple[str | None, str | None]]
) -> str:
    """Sentence on the regions of the groups, or "" if no group has a region with a name.

    "The apples are on the left and the car is at the bottom."
    """
    same_concept = len({group.concept for group in scene.groups}) < len(scene.groups)
    clauses = [
        f"{p.the if same_concept else p.noun} {p.are} {REGIONS[r]}"
        for p, r in zip(phrases, regions, strict=True)
        if r in REGIONS
    ]
    return capital(" and ".join(clauses)) + "." if clauses else ""


def _dense(
    core: str, medium: str, manner: str, where: str, name: str, positions: str, rng: random.Random
) -> str:
    """Dense caption: all facts in one of five orders; ``name`` is that of the background."""
    head, title = capital(core), capital(medium or "a picture")
    it_is = f"It is {medium}." if medium else ""
    parts = rng.choice(
        (
            (f"{title} of {core}, {where}.", positions),
            (f"{title} of {core}.", positions, f"The background is {name}."),
            (f"{head}, {where}.", positions, it_is),
            (f"{head}, {where}" + (f", {manner}." if manner else "."), positions),
            (f"The background is {name}. {head}.", positions, it_is),
        )
    )
    return " ".join(part for part in parts if part)
