"""A folder of 5,000 mixed pictures, indexed by a process that is killed twice, and asked in both languages: ``python docs/search.py``.

The pictures are scenes of the test split of every kind, in seven formats, many sizes and nested folders, among files that are no
pictures. What each shows is known, so every answer can be marked: of the first ten pictures for the name of a thing, or of as many as
there are, those that show it. Prints what happened and a table, and draws docs/search.webp.
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

from PIL import Image

from kalpana.media import to_images
from kalpana.types import KalpanaError
from kalpana.understand import search as seek
from kalpana.understand.encoder import Encoder, load
from kalpana.understand.store import open_store
from kalpana.world.grammar_hi import COLORS, inflect
from kalpana.world.lexicon import lexicon
from kalpana.world.scene import Scene
from kalpana.world.sheet import captioned
from kalpana.world.world import World, kind_of

FORMATS = ("png", "jpg", "webp", "bmp", "gif", "tiff", "jpeg")
ASKED = (
    "a cat",
    "एक बिल्ली",
    "लाल कार",
    "a painting of flowers",
    "an open hand",
    "dog + night",
    "apple - red",
    "दो पक्षी",
)
TOP = 10


def fill(folder: Path, count: int) -> dict[str, Scene]:
    """Draw the pictures; what each file shows, by its path."""
    world, shows = World(3, "test", kind="everything"), {}
    for start in range(0, count, 64):
        numbers = range(start, min(start + 64, count))
        for i, image in zip(numbers, to_images(world.images(numbers)), strict=True):
            rng, scene = random.Random(i), world.scene(i)
            path = (
                folder / kind_of(scene) / f"पन्ना {i // 500}" / f"{i:05}.{FORMATS[i % len(FORMATS)]}"
            )
            path.parent.mkdir(parents=True, exist_ok=True)
            image.resize((rng.randint(96, 384),) * 2, Image.Resampling.LANCZOS).save(path)
            shows[str(path.relative_to(folder))] = scene
    (folder / "notes.txt").write_text("no picture, and not named like one")
    (folder / "letter.png").write_text("no picture, but named like one")
    (folder / "torn.jpg").write_bytes(
        (folder / sorted(each for each in shows if each.endswith(".jpg"))[0]).read_bytes()[:700]
    )
    return shows


def index(folder: Path, model: str, encoder: Encoder, kills: tuple[int, ...]) -> None:
    """Index a folder by the command line, killed (SIGKILL) as soon as so many pictures are in, and at last left to finish."""
    command = [
        sys.executable,
        "-m",
        "kalpana.cli",
        "search",
        "index",
        str(folder),
        "--model",
        model,
        "--json",
    ]
    for kill in kills:
        with subprocess.Popen(
            command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        ) as process:
            while process.poll() is None and held(folder, encoder) < kill:
                time.sleep(0.5)
            process.kill()
        print(f"killed with {held(folder, encoder):,} pictures in the index")
    began, before = time.perf_counter(), held(folder, encoder)
    report = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    took = time.perf_counter() - began
    rate = (report["pictures"] - before) / took
    print(
        f"finished: {report['added']:,} new, {report['pictures']:,} in all, {len(report['broken'])} broken; {rate:.0f} a second"
    )
    again = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    print(f"once more: {again['added']:,} new, {again['pictures']:,} in all")


def held(folder: Path, encoder: Encoder) -> int:
    """How many pictures are in the index, of which there may be none yet."""
    try:
        return open_store(folder, encoder).count()
    except KalpanaError:
        return 0


def marked(folder: Path, encoder: Encoder, shows: dict[str, Scene]) -> Iterator[str]:
    """The lines of a table: of the first pictures for a name, or a colour and a name, the share that show it."""
    objects, coloured = defaultdict[str, set[str]](set), defaultdict[tuple[str, str], set[str]](set)
    for path, scene in shows.items():
        for group in scene.groups:
            objects[group.concept].add(path)
            if group.color:
                coloured[group.color, group.concept].add(path)
    core = [concept.id for concept in lexicon().values() if concept.core and objects[concept.id]]
    questions = {
        "a thing": [
            (lexicon()[each].en, lexicon()[each].hi.singular, objects[each]) for each in core
        ],
        "a coloured thing": [
            (
                f"{color} {lexicon()[each].en}",
                f"{inflect(COLORS[color][0], lexicon()[each].hi.gender, False)} {lexicon()[each].hi.singular}",
                coloured[color, each],
            )
            for color, each in sorted(coloured)
            if each in core
        ],
    }
    yield "| asked for | questions | by chance | English | Hindi |"
    yield "|---|---:|---:|---:|---:|"
    for name, asked in questions.items():
        chance = sum(len(right) for *_, right in asked) / len(asked) / len(shows)
        english, hindi = ([(pair[k], right) for *pair, right in asked] for k in (0, 1))
        shares = (precision(folder, encoder, words) for words in (english, hindi))
        yield (
            f"| {name} | {len(asked)} | {100 * chance:.1f} % | "
            + " | ".join(f"{100 * share:.1f} %" for share in shares)
            + " |"
        )


def precision(folder: Path, encoder: Encoder, asked: list[tuple[str, set[str]]]) -> float:
    """The mean over questions of how many of the first ten, or as many as there are, are right."""
    total = 0.0
    for words, right in asked:
        n = min(TOP, len(right))
        hits = seek.search(folder, seek.parse(words), encoder, n=n)
        total += sum(str(hit.path.relative_to(folder)) in right for hit in hits) / n
    return total / len(asked)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--clip", default="clip", help="a name or a folder, as kalpana search takes them"
    )
    parser.add_argument("--pictures", type=int, default=5000)
    asked = parser.parse_args()
    encoder = load(asked.clip)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        shows = fill(folder, asked.pictures)
        index(folder, asked.clip, encoder, (asked.pictures // 4, asked.pictures // 2))
        for line in marked(folder, encoder, shows):
            print(line)
        hits = {words: seek.search(folder, seek.parse(words), encoder, n=6) for words in ASKED}
        images = [image for found in hits.values() for image in seek.thumbnails(found, 128)]
        captions = [f"{words} ({hit.score:.2f})" for words, found in hits.items() for hit in found]
        path = Path(__file__).with_name("search.webp")
        captioned(images, captions, columns=6).save(path, quality=90)
    print(path)


if __name__ == "__main__":
    try:
        main()
    except KalpanaError as error:
        sys.exit(f"error: {error}")
