"""Caption accuracy, fact by fact: ``kalpana evaluate captions MODEL``.

Captions are parsed with the inverse of the world's grammar (``world/parse.py``). For the true
picture of every prompt of a suite, the caption is checked for objects, counts, colours and
relation. An omitted fact is wrong. The world's own captions, which do not always state a
count, are the ceiling; captions of other pictures are the floor.
"""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from itertools import permutations

from PIL import Image

from kalpana.evaluate.prompts import Prompt
from kalpana.evaluate.run import BATCH
from kalpana.media import to_images
from kalpana.world.grammar import LANGUAGES, caption
from kalpana.world.hard_negatives import OPPOSITE
from kalpana.world.parse import Mention, ParsedCaption, read
from kalpana.world.render import render
from kalpana.world.scene import Scene

FACTS = ("things", "counts", "several", "colours", "relations")
# ------------------------------------------------------------------------------------------ scoring


def judge(scene: Scene, text: str, language: str) -> dict[str, list[bool]]:
    """Whether each fact of a scene is stated correctly in a caption, by kind of fact.

    Kinds: every group is named ("things"); its count is right ("counts", and "several" for groups
    of two or more alone); its colour; and the relation of two groups, if there is one. Of several
    possible readings of a caption, the best counts.
    """
    parsed = read(text, language)
    return judge_mentions(scene, parsed.mentions, parsed.relations)


def judge_mentions(
    scene: Scene,
    mentions: Sequence[Mention],
    relations: Sequence[tuple[str, int, int]] = (),
) -> dict[str, list[bool]]:
    """The facts of ``judge`` for the parsed mentions and relations of a caption."""
    parsed = ParsedCaption(tuple(mentions), tuple(relations))
    candidates = [k for k, mention in enumerate(parsed.mentions) if not mention.aside]
    enough = len(candidates) >= len(scene.groups)
    candidates = candidates if enough else [*range(len(parsed.mentions))]
    numbers: list[int | None] = [*candidates, *[None] * len(scene.groups)]
    best: dict[str, list[bool]] | None = None
    for order in set(permutations(numbers[: 6 + len(scene.groups)], len(scene.groups))):
        facts = _facts(scene, parsed, order)
        if best is None or sum(map(sum, facts.values())) > sum(map(sum, best.values())):
            best = facts
    return best or {}


def _facts(
    scene: Scene, parsed: ParsedCaption, order: Sequence[int | None]
) -> dict[str, list[bool]]:
    """The facts when group k is matched with mention ``order[k]`` (None: not mentioned)."""
    facts = defaultdict[str, list[bool]](list)
    for group, k in zip(scene.groups, order, strict=True):
        mention = None if k is None else parsed.mentions[k]
        means = mention.means if mention else ()
        colors = {color for concept, color in means if concept == group.concept}
        facts["things"].append(bool(colors))
        counted = bool(colors) and mention is not None and mention.count == group.count
        facts["counts"].append(counted)
        if group.count > 1:
            facts["several"].append(counted)
        if group.color:
            facts["colours"].append(group.color in colors)
    if scene.relation:
        stated = any(_same(scene.relation, order, each) for each in parsed.relations)
        facts["relations"].append(all(facts["things"]) and stated)
    return facts


def _same(relation: str, order: Sequence[int | None], stated: tuple[str, int, int]) -> bool:
    """Whether a stated relation of mentions is that of the groups, in either order."""
    name, a, b = stated
    if (a, b) == tuple(order):
        return name == relation
    return (b, a) == tuple(order) and (
        name == OPPOSITE.get(relation) or name == relation == "next to"
    )


# -------------------------------------------------------------------------------------- measurement


def scores(
    scenes: Sequence[Scene], texts: Iterable[str], language: str
) -> dict[str, tuple[float, int]]:
    """The share of correct facts in [0, 1], and the number of facts, by kind."""
    every = defaultdict[str, list[bool]](list)
    for scene, text in zip(scenes, texts, strict=True):
        for kind, correct in judge(scene, text, language).items():
            every[kind] += correct
    return {kind: (sum(every[kind]) / max(len(every[kind]), 1), len(every[kind])) for kind in FACTS}


def measure(
    tell: Callable[[Sequence[Image.Image], str], list[str]],
    prompts: Sequence[Prompt],
    progress: Callable[[int, int], None],
) -> str:
    """A Markdown table of caption accuracy on true pictures of prompts, with floor and ceiling.

    ``tell(images, language)`` returns one caption for each image.
    """
    scenes = [prompt.scene(random.Random(f"told/{k}")) for k, prompt in enumerate(prompts)]
    lines = [
        "| caption in | captions from | " + " | ".join(FACTS) + " |",
        "|---|---|" + "---:|" * len(FACTS),
    ]
    images = [
        image
        for k in range(0, len(scenes), BATCH)
        for image in to_images(render(scenes[k : k + BATCH]).pixels)
    ]
    for nth, language in enumerate(LANGUAGES):
        texts = list[str]()
        for start in range(0, len(images), BATCH):
            texts += tell(images[start : start + BATCH], language)
            progress(nth * len(scenes) + len(texts), len(LANGUAGES) * len(scenes))
        own = [
            caption(scene, language, "natural", random.Random(f"told/{k}"))
            for k, scene in enumerate(scenes)
        ]
        others = random.Random("told").sample(own, len(own))
        for source, captions in (
            ("floor: captions of other pictures", others),
            ("the model", texts),
            ("ceiling: the world", own),
        ):
            cells = (
                f"{100 * share:.1f} % of {n}"
                for share, n in scores(scenes, captions, language).values()
            )
            lines.append(f"| {language} | {source} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"
