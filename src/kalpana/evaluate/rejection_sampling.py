"""Rejection sampling: generates several pictures per caption and keeps what a verifier accepts.

The pictures and captions are written to a folder, which a flow recipe names in ``self_train_dir``;
the model is then fine-tuned on them along with the world's pictures (RAFT, Dong et al. 2023; for
pictures Lee et al. 2023). The verifier must be A, never the one that reports scores.

``kalpana evaluate rejection-sampling --out runs/harvest`` resumes where it stopped.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from kalpana.evaluate.prompts import Prompt
from kalpana.evaluate.score import right
from kalpana.evaluate.suites import POSITION
from kalpana.evaluate.verifiers.observations import Verifier
from kalpana.media import locked, save, to_pixels
from kalpana.train.data_cache import HARVEST, harvest_lines
from kalpana.types import Output
from kalpana.world.lexicon import lexicon
from kalpana.world.scene import Scene
from kalpana.world.world import World

EACH = 8  # pictures generated per caption
KEEP = 2  # pictures kept per caption at most, so that easy captions do not dominate
Draw = Callable[[str, Sequence[int]], Sequence[Output]]


def captions(seed: int = 0) -> Iterator[Prompt]:
    """Endless prompts of training scenes that a verifier can judge, see ``judgeable``."""
    world, index = World(seed, "train"), 0
    while True:
        scene = world.scene(index)
        if judgeable(scene):
            text, language, _ = world.describe(index)
            yield Prompt(text, language, "train", scene.groups, scene.relation, exact=True)
        index += 1


def judgeable(scene: Scene) -> bool:
    """Whether a verifier can check all of the scene but its background and style.

    That is: objects of core classes, without a named size, in no relation or one of POSITION.
    """
    plain = all(lexicon()[group.concept].core and not group.size for group in scene.groups)
    return bool(scene.groups) and plain and scene.relation in (None, *POSITION)


def harvest(
    draw: Draw,
    prompts: Sequence[Prompt],
    verifier: Verifier,
    out: Path,
    progress: Callable[[int, int], None],
) -> int:
    """Generate EACH pictures of each prompt and save up to KEEP of the correct ones in ``out``.

    A picture is correct if all objects of the prompt are right and there are no others. Returns the
    number of pictures kept in all. harvest.jsonl gets one line per prompt, {"caption", "right",
    "kept": [file names]}; prompts that have a line already are skipped. Raises KalpanaError if
    another process works in ``out``.
    """
    with locked(out), (out / HARVEST).open("a", encoding="utf-8") as file:
        done = harvest_lines(out)
        kept = sum(len(line["kept"]) for line in done)
        for i, prompt in enumerate(prompts):
            if i >= len(done):
                seeds = [zlib.crc32(f"harvest/{prompt.text}/{k}".encode()) for k in range(EACH)]
                pictures = draw(prompt.text, seeds)
                seen = verifier.look(to_pixels([picture.image for picture in pictures]))
                good = [
                    picture
                    for picture, observation in zip(pictures, seen, strict=True)
                    if right(prompt, observation, strict=True)
                ]
                names = [
                    save(p.image, out / f"{i:06d}-{k}.png", p.receipt).name
                    for k, p in enumerate(good[:KEEP])
                ]
                line = {"caption": prompt.text, "right": len(good), "kept": names}
                file.write(json.dumps(line, ensure_ascii=False) + "\n")
                file.flush()
                kept += len(names)
            progress(i + 1, len(prompts))
    return kept
