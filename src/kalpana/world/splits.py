"""What training must never see: held-out combinations, and the fair division of scenes into train, dev and test.

`art/held_out.json` names object-colour, object-pair and object-count combinations. A scene that holds one of them belongs to
"unseen" alone. Of the rest, scenes of two groups fall into train (92 %), dev (4 %) or test (4 %) by a hash of what they say,
so no two-object prompt of dev or test was ever trained on; scenes of one group are shared, told apart by their seeds.
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
MIRRORS = {"right of": "left of", "below": "above"}  # "A right of B" says what "B left of A" says
Combination = tuple[
    str, str, str | int
]  # ("color", concept, color), ("pair", concept, concept) or ("count", concept, n)


def combinations(scene: Scene) -> Iterator[Combination]:
    """Every object-colour, object-pair (in order of id) and object-count combination that a scene shows."""
    for group in scene.groups:
        if group.color is not None:
            yield "color", group.concept, group.color
        if group.count > 1:
            yield "count", group.concept, group.count
    for one, two in itertools.combinations(sorted(group.concept for group in scene.groups), 2):
        yield "pair", one, two


@cache
def held_out(file: Path = FILE) -> frozenset[Combination]:
    """The combinations that belong to "unseen"."""
    lists = json.loads(file.read_text(encoding="utf-8"))
    return frozenset((kind, one, two) for kind, pairs in lists.items() for one, two in pairs)


def split_of(scene: Scene) -> str:
    """The one split that may show this scene; "train" stands for "any but unseen" where scenes are shared (one group)."""
    if not held_out().isdisjoint(combinations(scene)):
        return "unseen"
    if len(scene.groups) < 2:
        return "train"
    slot = zlib.crc32(said(scene).encode()) % 100
    return "dev" if slot < 4 else "test" if slot < 8 else "train"


def said(scene: Scene) -> str:
    """What a scene of two groups says, in one form however it is said: "A right of B" is "B left of A"."""
    groups, relation = (
        [repr((g.concept, g.count, g.color, g.size)) for g in scene.groups],
        scene.relation,
    )
    if relation in MIRRORS:
        groups, relation = groups[::-1], MIRRORS[relation]
    if relation is None or relation == "next to":
        groups.sort()
    return repr((groups, relation))


def belongs(scene: Scene, split: str) -> bool:
    home = split_of(scene)
    return home == split or (home == "train" and len(scene.groups) < 2 and split != "unseen")


def draw_held_out(seed: int = 7, share: float = 0.06) -> dict[str, list[list[str | int]]]:
    """The lists that `held_out.json` keeps: ``share`` of all combinations of core classes, drawn once."""
    rng = random.Random(seed)
    core = sorted(concept.id for concept in lexicon().values() if concept.core)
    paint = sorted(concept.id for concept in lexicon().values() if concept.core and concept.recolor)
    every: dict[str, list[list[str | int]]] = {
        "color": [[concept, color] for concept in paint for color in COLORS],
        "pair": [list(pair) for pair in itertools.combinations(core, 2)],
        "count": [[concept, n] for concept in core for n in range(2, 9)],
    }
    return {
        kind: sorted(rng.sample(combos, round(share * len(combos))), key=str)
        for kind, combos in every.items()
    }


if __name__ == "__main__":
    lists = draw_held_out()
    lines = (
        f"  {json.dumps(kind)}: [\n"
        + ",\n".join(f"    {json.dumps(c)}" for c in lists[kind])
        + "\n  ]"
        for kind in lists
    )
    FILE.write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")
