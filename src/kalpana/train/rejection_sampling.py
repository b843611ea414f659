"""Filtered fine-tuning, its first half: a model draws several pictures of every training caption, and a verifier keeps the right ones.

What is kept is a folder that a flow recipe names in ``harvest``; the model then learns from its own best along with the world's pictures
(RAFT, Dong et al. 2023; for pictures Lee et al. 2023). The verifier must be A, never the one that reports scores.

``python -m kalpana.train.rejection_sampling --out runs/harvest`` goes on where it was stopped.
"""

from __future__ import annotations

import argparse
import json
import sys
import zlib
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from pathlib import Path

from kalpana.evaluate.score import right
from kalpana.evaluate.suites import POSITION, Prompt
from kalpana.evaluate.verifiers.observations import Verifier
from kalpana.evaluate.verifiers.verifier import DetectorVerifier
from kalpana.media import save, to_pixels
from kalpana.pipelines import last, load
from kalpana.train.data_cache import HARVEST, harvest_lines
from kalpana.types import Picture
from kalpana.world.lexicon import lexicon
from kalpana.world.scene import Scene
from kalpana.world.world import World

EACH, KEEP = (
    8,
    2,
)  # pictures drawn of a caption, and kept of it at most, so that what is easy does not crowd out the rest
Draw = Callable[[str, Sequence[int]], Sequence[Picture]]


def captions(seed: int = 0) -> Iterator[Prompt]:
    """Captions of training scenes that a verifier can judge, without end: core classes, in no relation or one of POSITION."""
    world, index = World(seed, "train"), 0
    while True:
        scene = world.scene(index)
        if judgeable(scene):
            text, language, _ = world.describe(index)
            yield Prompt(text, language, "train", scene.groups, scene.relation, exact=True)
        index += 1


def judgeable(scene: Scene) -> bool:
    """Whether a verifier sees all that the scene says, but for its background and style."""
    plain = all(lexicon()[group.concept].core and not group.size for group in scene.groups)
    return bool(scene.groups) and plain and scene.relation in (None, *POSITION)


def harvest(
    draw: Draw,
    prompts: Sequence[Prompt],
    verifier: Verifier,
    out: Path,
    progress: Callable[[int, int], None],
) -> int:
    """Draw EACH pictures of each prompt and keep up to KEEP that are right and hold nothing else, in ``out``; how many are kept in all.

    Of every prompt one line in harvest.jsonl says which were kept: {"caption", "right", "kept": [file names]}. A caption that is there
    is not drawn again.
    """
    out.mkdir(parents=True, exist_ok=True)
    done = harvest_lines(out)
    kept = sum(len(line["kept"]) for line in done)
    with (out / HARVEST).open("a", encoding="utf-8") as file:
        for i, prompt in enumerate(prompts):
            if i >= len(done):
                pictures = draw(
                    prompt.text,
                    [zlib.crc32(f"harvest/{prompt.text}/{k}".encode()) for k in range(EACH)],
                )
                seen = verifier.look(to_pixels([picture.image for picture in pictures]))
                good = [
                    picture
                    for picture, one in zip(pictures, seen, strict=True)
                    if right(prompt, one, strict=True)
                ]
                names = [
                    save(p.image, out / f"{i:06d}-{k}.png", p.receipt).name
                    for k, p in enumerate(good[:KEEP])
                ]
                file.write(
                    json.dumps(
                        {"caption": prompt.text, "right": len(good), "kept": names},
                        ensure_ascii=False,
                    )
                    + "\n"
                )
                file.flush()
                kept += len(names)
            progress(i + 1, len(prompts))
    return kept


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="default")
    parser.add_argument("--verifier", type=Path, default=Path("weights/verifier-a"))
    parser.add_argument("--captions", type=int, default=1000)
    parser.add_argument("--steps", type=int, default=12, help="denoising steps of each picture")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    model = load(options.model)

    def draw(text: str, seeds: Sequence[int]) -> Sequence[Picture]:
        return last(
            model.generate(text, model=options.model, seeds=tuple(seeds), steps=options.steps)
        ).pictures

    def progress(done: int, total: int) -> None:
        if done % 20 == 0 or done == total:
            print(f"{done} of {total} captions", file=sys.stderr)

    prompts = list(islice(captions(), options.captions))
    kept = harvest(draw, prompts, DetectorVerifier.load(options.verifier), options.out, progress)
    print(f"{kept} pictures of {options.captions} captions are in {options.out}")


if __name__ == "__main__":
    main()
