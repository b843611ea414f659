"""A suite, run: draw every prompt, look, judge, and set the score between its floor, its baseline and its ceiling.

A run lives in one folder. Its pictures are kept, so a run that was stopped goes on where it was; ``run.json`` says of what it is, and a
run of something else is refused there. Pictures made elsewhere are scored in the same way.
"""

from __future__ import annotations

import json
import random
import re
import sys
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any, Protocol, TypeVar

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor

from kalpana.evaluate.score import Table, judged, markdown, right, rows, table
from kalpana.evaluate.suites import Prompt
from kalpana.evaluate.verifiers.observations import Observation, Verifier
from kalpana.media import read_picture, read_receipt, save, to_images, to_pixels, write
from kalpana.types import KalpanaError, Picture
from kalpana.understand.encoder import Encoder
from kalpana.world.render import render
from kalpana.world.scene import Scene
from kalpana.world.sheet import captioned
from kalpana.world.world import World

SEEDS = 4  # pictures a prompt
BATCH = 64  # pictures looked at together
VERDICTS = "verdicts.json"  # in a run's folder: whether each picture is right
CAPTIONS = 20_000  # training captions that the retrieval baseline chooses from
Draw = Callable[[Prompt, Sequence[int]], Sequence[Picture]]
Progress = Callable[[int, int], None]


class Asked(Protocol):
    """A prompt of any kind: for a picture, or for a clip."""

    @property
    def task(self) -> str: ...


A = TypeVar("A", bound=Asked)


@dataclass(frozen=True)
class ClipScore:
    """How near pictures are to their prompts by a CLIP of this ``name`` and hash: its CLIP score (Hessel et al. 2021, equation 1), the
    cosine of both vectors, and 0 where that is negative. Tables hold it in [0, 1] and print it times 100, which is the w of torchmetrics
    (that of the paper is 2.5; the code of torchmetrics, unlike its formula, takes 0 for a negative mean, not for each picture)."""

    name: str
    sha256: str
    score: Table
    floor: Table
    baseline: Table
    ceiling: Table

    def markdown(self) -> str:
        about = f"CLIP score by {self.name} (100 cos, 0 where it is negative; any seed: the best of a prompt's):\n"
        return f"{about}\n{markdown(rows(self.score, self.floor, self.baseline, self.ceiling))}"


@dataclass(frozen=True)
class Report:
    """A finished run: the share of right pictures beside what costs nothing (each prompt judged on the pictures of another of its
    task), the pictures of the nearest training captions, and true renders of the prompts, all through one verifier. Where words are
    asked for, they are as ``reader`` reads them, and ``others`` are the same by the verifier's other readers. ``verified`` says of
    each task whether the verifier's published errors are small enough; None where nobody asked. ``clip`` is the same by a CLIP instead
    of the verifier, where one is given."""

    score: Table
    strict: Table
    floor: Table
    baseline: Table
    ceiling: Table
    reader: str = ""
    others: tuple[Report, ...] = ()
    verified: dict[str, bool] | None = None
    clip: ClipScore | None = None

    def markdown(self) -> str:
        """The table, and below it the strict overall score; of words also the reader and the edit distance, then the others'; then the CLIP
        score."""
        strict = self.strict.overall
        parts = [
            markdown(rows(self.score, self.floor, self.baseline, self.ceiling, self.verified)),
            f"Strict (nothing else in the picture): {100 * strict.right:.1f} ({100 * strict.low:.1f} to {100 * strict.high:.1f}).\n",
        ]
        if self.score.distance is not None:
            named = {
                "floor": self.floor,
                "baseline": self.baseline,
                "score": self.score,
                "ceiling": self.ceiling,
            }
            far = ", ".join(f"{name} {table.distance:.3f}" for name, table in named.items())
            reader = f"Words as read by {self.reader or 'nobody'}:\n"
            parts = [reader, *parts, f"Mean edit distance (0 as asked, 1 nothing alike): {far}.\n"]
        parts += [other.markdown() for other in self.others]
        return "\n".join([*parts, self.clip.markdown()] if self.clip else parts)


@dataclass(frozen=True)
class ReferenceScores:
    """What no model has a part in, as the verifier sees it: of each prompt the picture of the nearest training caption (``baseline``),
    and true renders, as many as it has pictures (``ceiling``)."""

    baseline: list[list[Observation]]
    ceiling: list[list[Observation]]

    @classmethod
    def of(cls, prompts: Sequence[Prompt], verifier: Verifier) -> ReferenceScores:
        return cls(
            look_at(verifier, nearest_scenes(prompts)), look_at(verifier, true_scenes(prompts))
        )


def nearest_scenes(prompts: Sequence[Prompt]) -> list[list[Scene]]:
    """Of each prompt the scene of the nearest training caption."""
    return [[World().scene(k)] for k in retrieve([prompt.text for prompt in prompts])]


def true_scenes(prompts: Sequence[Prompt]) -> list[list[Scene]]:
    """Of each prompt as many scenes that it describes as it has pictures."""
    return [
        [prompt.scene(random.Random(f"ceiling/{seed}")) for seed in prompt.seeds(SEEDS)]
        for prompt in prompts
    ]


def run(
    prompts: Sequence[Prompt],
    draw: Draw,
    about: dict[str, Any],
    verifier: Verifier,
    out: Path,
    progress: Progress,
    bounds: ReferenceScores | None = None,
    verified: Mapping[str, bool] | None = None,
    encoder: Encoder | None = None,
) -> Report:
    """Draw what is not drawn yet into ``out``, judge all of it, and write report.json, report.md and sheet.png there.

    ``about`` says of what the run is: model, hashes, suite; for ``bounds``, ``verified`` and ``encoder`` see ``judge``. Raises
    KalpanaError where ``out`` holds a run of something else.
    """
    out.mkdir(parents=True, exist_ok=True)
    claim(out / "run.json", about)
    for i, prompt in enumerate(prompts):
        seeds = prompt.seeds(SEEDS)
        missing = [k for k in range(SEEDS) if not _path(out, i, k).exists()]
        if missing:
            pictures = draw(prompt, [seeds[k] for k in missing])
            for k, picture in zip(missing, pictures, strict=True):
                save(picture.image, _path(out, i, k), picture.receipt)
        progress(i + 1, len(prompts))
    images = [[read_picture(_path(out, i, k)) for k in range(SEEDS)] for i in range(len(prompts))]
    return judge(prompts, images, verifier, out, bounds, verified, encoder)


def progress_to_stderr(what: str) -> Progress:
    """Progress as lines on stderr: "7 of 200 clips"."""
    return lambda done, count: print(f"{done} of {count} {what}", file=sys.stderr)


def first(prompts: Sequence[A], limit: int | None) -> list[A]:
    """The first ``limit`` prompts of each task, all where it is None."""
    counts: Counter[str] = Counter()
    kept = []
    for prompt in prompts:
        counts[prompt.task] += 1
        if limit is None or counts[prompt.task] <= limit:
            kept.append(prompt)
    return kept


def judge(
    prompts: Sequence[Prompt],
    images: Sequence[Sequence[Image.Image]],
    verifier: Verifier,
    out: Path,
    bounds: ReferenceScores | None = None,
    verified: Mapping[str, bool] | None = None,
    encoder: Encoder | None = None,
) -> Report:
    """The report on pictures, ``images[i]`` of ``prompts[i]``, written into ``out``; ``bounds`` where they are known already; ``verified``
    says with which tasks the verifier can be trusted (see publish.verified); ``encoder`` is the CLIP whose score is to be given too."""
    seen = observe(verifier, images)
    verdicts = {i: [right(prompt, one) for one in seen[i]] for i, prompt in enumerate(prompts)}
    bounds = bounds or ReferenceScores.of(prompts, verifier)
    readings = max(len(one.readings) for row in seen for one in row)
    report, *others = (_report(prompts, seen, bounds, k, verified) for k in range(max(readings, 1)))
    report = replace(
        report, others=tuple(others), clip=nearness(prompts, images, encoder) if encoder else None
    )
    write(out / "report.json", json.dumps(asdict(report), indent=1).encode())
    named = {_path(out, i, k).name: so for i, row in verdicts.items() for k, so in enumerate(row)}
    write(out / VERDICTS, json.dumps(named, indent=1).encode())
    write(out / "report.md", report.markdown().encode())
    if not (out / "sheet.png").exists():
        sheet(prompts, images, seen, verdicts).save(out / "sheet.png")
    return report


def _report(
    prompts: Sequence[Prompt],
    seen: Sequence[Sequence[Observation]],
    bounds: ReferenceScores,
    k: int,
    verified: Mapping[str, bool] | None,
) -> Report:
    """The report by the words of reader k."""
    mine, nearest, true = (
        [[one.read_by(k) for one in row] for row in each]
        for each in (seen, bounds.baseline, bounds.ceiling)
    )
    exchange = [mine[other] for other in exchanged(prompts)]
    score, strict, floor = (
        judged(prompts, mine),
        judged(prompts, mine, strict=True),
        judged(prompts, exchange),
    )
    reader = next((reading.by for row in mine for one in row for reading in one.readings), "")
    trusted = (
        None
        if verified is None
        else {
            task: verified.get(f"{task} by {reader}", verified.get(task, False))
            for task in score.tasks
        }
    )
    return Report(
        score,
        strict,
        floor,
        judged(prompts, nearest),
        judged(prompts, true),
        reader,
        verified=trusted,
    )


def nearness(
    prompts: Sequence[Prompt], images: Sequence[Sequence[Image.Image]], encoder: Encoder
) -> ClipScore:
    """How near pictures are to their prompts, ``images[i]`` to ``prompts[i]``, by a CLIP. Nothing of it is kept, so a run's pictures can be
    scored by another CLIP later."""
    words = encoder.texts([prompt.text for prompt in prompts])  # prompts d

    def vectors(scenes: Sequence[Sequence[Scene]]) -> list[Tensor]:
        flat = [scene for row in scenes for scene in row]
        batches = (
            to_images(render(flat[start : start + BATCH]).pixels)
            for start in range(0, len(flat), BATCH)
        )
        return list(
            torch.cat([encoder.images(batch) for batch in batches]).split(
                [len(row) for row in scenes]
            )
        )

    def score(rows: Sequence[Tensor]) -> Table:
        return table(
            prompts, {i: (row @ words[i]).clamp(min=0).tolist() for i, row in enumerate(rows)}
        )

    mine = list(
        encoder.images([image for row in images for image in row]).split(
            [len(row) for row in images]
        )
    )  # of each prompt (k, d)
    exchange = [mine[other] for other in exchanged(prompts)]
    baseline, ceiling = (
        score(vectors(nearest_scenes(prompts))),
        score(vectors(true_scenes(prompts))),
    )
    return ClipScore(
        encoder.name, encoder.fingerprint, score(mine), score(exchange), baseline, ceiling
    )


def observe(verifier: Verifier, images: Sequence[Sequence[Image.Image]]) -> list[list[Observation]]:
    """What the verifier sees in each picture."""
    flat = [image for row in images for image in row]
    size = max({image.size for image in flat}, key=lambda size: size[0])
    flat = [
        image if image.size == size else image.resize(size, Image.Resampling.BICUBIC)
        for image in flat
    ]
    return _rows(
        verifier,
        (to_pixels(flat[start : start + BATCH]) for start in range(0, len(flat), BATCH)),
        images,
    )


def look_at(verifier: Verifier, scenes: Sequence[Sequence[Scene]]) -> list[list[Observation]]:
    """What the verifier sees in the picture of each scene."""
    flat = [scene for row in scenes for scene in row]
    return _rows(
        verifier,
        (render(flat[start : start + BATCH]).pixels for start in range(0, len(flat), BATCH)),
        scenes,
    )


def _rows(
    verifier: Verifier, batches: Iterable[Tensor], like: Sequence[Sequence[object]]
) -> list[list[Observation]]:
    """What is seen in batches of pictures, in rows as long as those of ``like``."""
    said = iter([one for pixels in batches for one in verifier.look(pixels)])
    return [[next(said) for _ in row] for row in like]


def exchanged(prompts: Sequence[Asked]) -> list[int]:
    """For each prompt another of its task (itself only where a task has one prompt): a turn through a random order."""
    other = list(range(len(prompts)))
    for task in {prompt.task for prompt in prompts}:
        mine = [i for i, prompt in enumerate(prompts) if prompt.task == task]
        random.Random(task).shuffle(mine)
        for a, b in zip(mine, mine[1:] + mine[:1], strict=True):
            other[a] = b
    return other


def retrieve(texts: Sequence[str]) -> list[int]:
    """The training picture whose caption is nearest to each text: by the cosine of their words' tf-idf."""
    places, norms = _index()
    nearest = []
    for text in texts:
        likeness = np.zeros(CAPTIONS)
        for word in set(_words(text)):
            captions = places.get(word, np.empty(0, int))
            likeness[captions] += np.log(CAPTIONS / max(len(captions), 1)) ** 2
        nearest.append(int((likeness / norms).argmax()))
    return nearest


@cache
def _index() -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Which of the first training captions hold each word, and the length of every caption's tf-idf vector."""
    world, held = World(), defaultdict[str, list[int]](list)
    for i in range(CAPTIONS):
        for word in set(_words(world.describe(i)[0])):
            held[word].append(i)
    places = {word: np.array(captions) for word, captions in held.items()}
    squares = np.zeros(CAPTIONS)
    for captions in places.values():
        squares[captions] += np.log(CAPTIONS / len(captions)) ** 2
    return places, np.sqrt(np.maximum(squares, 1e-9))


def _words(text: str) -> list[str]:
    return re.findall(r"[\w\u0900-\u097f]+", text.lower())


def sheet(
    prompts: Sequence[Prompt],
    images: Sequence[Sequence[Image.Image]],
    seen: Sequence[Sequence[Observation]],
    verdicts: dict[int, list[bool]],
) -> Image.Image:
    """Up to eight right and eight wrong pictures of each task, the first ones, with the verifier's boxes: green right, red wrong."""
    shown, texts = [], []
    for task in dict.fromkeys(prompt.task for prompt in prompts):
        for wanted in (True, False):
            chosen = [
                (i, k)
                for i, row in verdicts.items()
                if prompts[i].task == task
                for k, so in enumerate(row)
                if so == wanted
            ]
            for i, k in chosen[:8]:
                shown.append(boxed(images[i][k], seen[i][k], "green" if wanted else "red"))
                texts.append(f"{'right' if wanted else 'wrong'}: {prompts[i].text}")
    return captioned(shown, texts, columns=8)


def boxed(image: Image.Image, seen: Observation, color: str) -> Image.Image:
    """The picture with a box around everything that counts as seen."""
    out = image.resize((256, 256), Image.Resampling.LANCZOS)
    for item in seen.objects:
        if item.score > 0.3:
            ImageDraw.Draw(out).rectangle([256 * edge for edge in item.box], outline=color, width=2)
    return out


def pictures_of(folder: Path, prompts: Sequence[Prompt]) -> Iterator[list[Image.Image]]:
    """The pictures of each prompt in a folder of pictures made elsewhere: those whose receipt holds its text, or whose names begin with
    its number in the suite ("0007-1.png"). Raises KalpanaError where a prompt has none, or a picture cannot be read."""
    by_text: dict[str, list[Path]] = {}
    files = sorted(
        path
        for path in folder.glob("*")
        if path.suffix.lower() in (".png", ".webp", ".jpg", ".jpeg")
    )
    if not files:
        raise KalpanaError(
            f"there are no pictures in {folder}: name a folder of PNG, WebP or JPEG files"
        )
    for path in files:
        if match := re.match(r"(\d+)-", path.name):
            by_text.setdefault(f"#{int(match[1])}", []).append(path)
        else:
            try:
                by_text.setdefault(read_receipt(path)["request"]["prompt"], []).append(path)
            except (KalpanaError, KeyError):
                continue
    for i, prompt in enumerate(prompts):
        paths = by_text.get(f"#{i}") or by_text.get(prompt.text)
        if not paths:
            raise KalpanaError(
                f"no picture in {folder} is of prompt {i}, {prompt.text!r}: call it {i:04d}-0.png"
            )
        yield [read_picture(path) for path in paths[:SEEDS]]


def _path(out: Path, prompt: int, k: int) -> Path:
    return out / f"{prompt:04d}-{k}.png"


def claim(path: Path, about: dict[str, Any]) -> None:
    """Write what a run is of, or see that it is the same. Raises KalpanaError where it is not."""
    if path.exists():
        before = json.loads(path.read_text(encoding="utf-8"))
        different = [
            name for name in before.keys() | about.keys() if before.get(name) != about.get(name)
        ]
        if different:
            name = sorted(different)[0]
            raise KalpanaError(
                f"{path.parent} holds a run with {name} {before.get(name)!r}, not {about.get(name)!r}: name another folder with --out"
            )
    else:
        write(path, json.dumps(about, ensure_ascii=False, sort_keys=True).encode())
