"""Splits of the world: held-out combinations, and the division of scenes into train, dev and test.

`art/held_out.json` lists object-colour, object-pair and object-count combinations. A scene that
shows one of them belongs only to "unseen". Of the other scenes, those of two groups fall into train
(92 %), dev (4 %) or test (4 %) by a hash of their content, so training contains no two-object
prompt of dev or test. Scenes of one group are shared by these splits, which differ only in their
random numbers.
"""

from __future__ import annotations

import itertools
import json
import random
import zlib
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from kalpana.world.lexicon import ART, lexicon
from kalpana.world.scene import COLORS, Scene

SPLITS = ("train", "dev", "test", "unseen")
FILE = ART / "held_out.json"
MIRRORS = {"right of": "left of", "below": "above"}  # "A right of B" is equal to "B left of A"
# ("color", concept, color), ("pair", concept, concept) or ("count", concept, n)
Combination = tuple[str, str, str | int]


def combinations(scene: Scene) -> Iterator[Combination]:
    """Object-colour, object-pair (ordered by id) and object-count combinations of a scene."""
    for group in scene.groups:
        if group.color is not None:
            yield "color", group.concept, group.color
        if group.count > 1:
            yield "count", group.concept, group.count
    for one, two in itertools.combinations(sorted(group.concept for group in scene.groups), 2):
        yield "pair", one, two


@cache
def held_out(file: Path = FILE) -> frozenset[Combination]:
    """The held-out combinations, which only "unseen" shows."""
    lists = json.loads(file.read_text(encoding="utf-8"))
    return frozenset((kind, one, two) for kind, pairs in lists.items() for one, two in pairs)


def split_of(scene: Scene) -> str:
    """The split of a scene.

    For a scene of fewer than two groups, "train" means any split but "unseen".
    """
    if not held_out().isdisjoint(combinations(scene)):
        return "unseen"
    if len(scene.groups) < 2:
        return "train"
    slot = zlib.crc32(said(scene).encode()) % 100
    return "dev" if slot < 4 else "test" if slot < 8 else "train"


def said(scene: Scene) -> str:
    """Canonical text of a scene of two groups: equal for "A right of B" and "B left of A"."""
    groups = [repr((g.concept, g.count, g.color, g.size)) for g in scene.groups]
    relation = scene.relation
    if relation in MIRRORS:
        groups, relation = groups[::-1], MIRRORS[relation]
    if relation is None or relation == "next to":
        groups.sort()
    return repr((groups, relation))


def belongs(scene: Scene, split: str) -> bool:
    """Whether the scene may be shown in this split."""
    home = split_of(scene)
    return home == split or (home == "train" and len(scene.groups) < 2 and split != "unseen")


def draw_held_out(seed: int = 7, share: float = 0.06) -> dict[str, list[list[str | int]]]:
    """The lists of `held_out.json`: a random ``share`` of all combinations of core classes."""
    rng = random.Random(seed)
    core = sorted(concept.id for concept in lexicon().values() if concept.core)
    recolorable = sorted(
        concept.id for concept in lexicon().values() if concept.core and concept.recolor
    )
    candidates: dict[str, list[list[str | int]]] = {
        "color": [[concept, color] for concept in recolorable for color in COLORS],
        "pair": [list(pair) for pair in itertools.combinations(core, 2)],
        "count": [[concept, n] for concept in core for n in range(2, 9)],
    }
    return {
        kind: sorted(rng.sample(combos, round(share * len(combos))), key=str)
        for kind, combos in candidates.items()
    }


def write_held_out(file: Path = FILE) -> None:
    """Write the lists of ``draw_held_out`` as JSON, one combination a line."""
    lists = draw_held_out()
    lines = (
        f"  {json.dumps(kind)}: [\n"
        + ",\n".join(f"    {json.dumps(c)}" for c in lists[kind])
        + "\n  ]"
        for kind in lists
    )
    file.write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")
