"""Search demo: 5,000 mixed pictures, indexed by a process that is killed twice, then queried.

Run ``python docs/search.py``. The pictures are scenes of the test split of every kind, in seven
formats, many sizes and nested folders, among files that are no pictures. The contents of each are
known, so that results can be scored: precision among the first ten pictures for the name of an
object, or among as many as show it, in English and Hindi. Prints the events and a table, and writes
docs/search.webp.
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
    """Render the pictures into a folder; returns the scene of each file by its relative path."""
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
    whole = folder / sorted(each for each in shows if each.endswith(".jpg"))[0]
    (folder / "torn.jpg").write_bytes(whole.read_bytes()[:700])
    return shows


def index(folder: Path, model: str, encoder: Encoder, kills: tuple[int, ...]) -> None:
    """Index a folder with the command line and print the progress.

    The process is killed (SIGKILL) when the index holds each number of pictures in ``kills``, and
    finally runs to the end.
    """
    command = [sys.executable, "-m", "kalpana", "search", "index", str(folder)]
    command += ["--model", model, "--json"]
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
        f"finished: {report['added']:,} new, {report['pictures']:,} in all, "
        f"{len(report['broken'])} broken; {rate:.0f} a second"
    )
    again = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    print(f"once more: {again['added']:,} new, {again['pictures']:,} in all")


def held(folder: Path, encoder: Encoder) -> int:
    """The number of pictures in the index; 0 if there is no index yet."""
    try:
        return open_store(folder, encoder).count()
    except KalpanaError:
        return 0


def marked(folder: Path, encoder: Encoder, shows: dict[str, Scene]) -> Iterator[str]:
    """The lines of a precision table, for the names of objects and for coloured objects."""
    objects, coloured = defaultdict[str, set[str]](set), defaultdict[tuple[str, str], set[str]](set)
    for path, scene in shows.items():
        for group in scene.groups:
            objects[group.concept].add(path)
            if group.color:
                coloured[group.color, group.concept].add(path)
    core = [concept.id for concept in lexicon().values() if concept.core and objects[concept.id]]
    names = {each: lexicon()[each] for each in core}
    queries = {
        "an object": [(names[each].en, names[each].hi.singular, objects[each]) for each in core],
        "a coloured object": [
            (
                f"{color} {names[each].en}",
                f"{inflect(COLORS[color][0], names[each].hi.gender, False)} "
                f"{names[each].hi.singular}",
                coloured[color, each],
            )
            for color, each in sorted(coloured)
            if each in core
        ],
    }
    yield "| query | queries | by chance | English | Hindi |"
    yield "|---|---:|---:|---:|---:|"
    for name, asked in queries.items():
        chance = sum(len(right) for *_, right in asked) / len(asked) / len(shows)
        english, hindi = ([(pair[k], right) for *pair, right in asked] for k in (0, 1))
        shares = (precision(folder, encoder, words) for words in (english, hindi))
        cells = " | ".join(f"{100 * share:.1f} %" for share in shares)
        yield f"| {name} | {len(asked)} | {100 * chance:.1f} % | {cells} |"


def precision(folder: Path, encoder: Encoder, asked: list[tuple[str, set[str]]]) -> float:
    """Mean precision in [0, 1] of the first n pictures; n is TOP, or the number of right pictures.

    ``asked`` holds queries with the paths of their right pictures.
    """
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
    options = parser.parse_args()
    encoder = load(options.clip)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        shows = fill(folder, options.pictures)
        index(folder, options.clip, encoder, (options.pictures // 4, options.pictures // 2))
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
