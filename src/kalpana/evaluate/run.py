"""Evaluation runs: generate a suite's pictures, verify them, and report the accuracy.

The report gives the accuracy with a shuffled-prompt floor, a nearest-caption baseline and a
rendered ceiling. A run lives in one folder. Its pictures are kept, so an interrupted run resumes;
``run.json`` describes the run, and a different run in the same folder is refused. Pictures from
elsewhere are scored in the same way.
"""

from __future__ import annotations

import json
import random
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol, TypeVar

import torch
from PIL import Image, ImageDraw
from torch import Tensor

from kalpana.evaluate.nearest_caption import retrieve
from kalpana.evaluate.prompts import Prompt
from kalpana.evaluate.score import OURS, Rule, Table, judged, markdown, right, rows, table
from kalpana.evaluate.verifiers.observations import Observation, Verifier
from kalpana.media import locked, read_picture, read_receipt, save, to_images, to_pixels, write
from kalpana.types import KalpanaError, Output
from kalpana.understand.encoder import Encoder
from kalpana.world.render import render
from kalpana.world.scene import Scene
from kalpana.world.sheet import captioned
from kalpana.world.world import World

SEEDS = 4  # pictures a prompt
BATCH = 64  # pictures a batch of the verifier, the encoder or the renderer
VERDICTS = "verdicts.json"  # in a run's folder: whether each picture is right
Draw = Callable[[Prompt, Sequence[int]], Sequence[Output]]
Progress = Callable[[int, int], None]


class Asked(Protocol):
    """A prompt of any kind: for a picture or for a video."""

    @property
    def task(self) -> str: ...


A = TypeVar("A", bound=Asked)


@dataclass(frozen=True)
class ClipScore:
    """CLIP score of pictures and their prompts: max(cosine, 0) (Hessel et al. 2021, equation 1).

    ``name`` and ``sha256`` identify the CLIP. Tables hold the score in [0, 1] and print it times
    100, which is the w of torchmetrics (the paper's is 2.5). The code of torchmetrics, unlike its
    formula, clamps the mean at 0 and not each picture.
    """

    name: str
    sha256: str
    score: Table
    floor: Table | None
    baseline: Table | None
    ceiling: Table | None

    def markdown(self) -> str:
        """The CLIP score as a Markdown table."""
        about = (
            f"CLIP score by {self.name} "
            "(100 cos, 0 where it is negative; any seed: the best of a prompt's):\n"
        )
        return f"{about}\n{markdown(rows(self.score, self.floor, self.baseline, self.ceiling))}"


@dataclass(frozen=True)
class Report:
    """The report on a finished run: accuracy by task, with reference scores by the same verifier.

    ``score`` is the accuracy and ``strict`` the same where any further object is wrong. ``floor``:
    each prompt judged on the pictures of another prompt of its task, or of another task where it is
    alone; None with a single prompt. ``baseline``: the pictures of the nearest training captions.
    ``ceiling``: true renders of the prompts. Both are None for prompts that the world cannot
    render. ``judges``: name and SHA-256 of each public model that judged. Where prompts ask for
    words, ``reader`` names the text reader, and ``others`` are the reports by the verifier's other
    readers. ``verified`` tells by task whether the verifier's published errors are small enough;
    None: not checked. ``clip`` is the CLIP score, if a CLIP is given.
    """

    score: Table
    strict: Table
    floor: Table | None
    baseline: Table | None
    ceiling: Table | None
    reader: str = ""
    others: tuple[Report, ...] = ()
    verified: dict[str, bool] | None = None
    clip: ClipScore | None = None
    judges: Mapping[str, str] = field(default_factory=dict)

    def markdown(self) -> str:
        """The report as Markdown: the table by task, then the strict overall score.

        For words it adds the reader, the edit distance and the reports by the other readers; with a
        CLIP, the CLIP score.
        """
        parts = [
            markdown(rows(self.score, self.floor, self.baseline, self.ceiling, self.verified)),
            f"Strict (nothing else in the picture): {self.strict.overall.percent()}.\n",
        ]
        if self.score.distance is not None:
            named = {
                "floor": self.floor,
                "baseline": self.baseline,
                "score": self.score,
                "ceiling": self.ceiling,
            }
            distances = ", ".join(
                f"{name} {table.distance:.3f}" for name, table in named.items() if table
            )
            reader = f"Words as read by {self.reader or 'no reader'}:\n"
            mean = f"Mean edit distance (0 as asked, 1 nothing alike): {distances}.\n"
            parts = [reader, *parts, mean]
        if self.judges:
            each = [f"{name} (sha256 {sha256[:12]})" for name, sha256 in self.judges.items()]
            parts.append(f"Judged by public models: {', '.join(each)}.\n")
        parts += [other.markdown() for other in self.others]
        return "\n".join([*parts, self.clip.markdown()] if self.clip else parts)


@dataclass(frozen=True)
class ReferenceScores:
    """Observations for the reference scores, which do not depend on a model.

    For each prompt the picture of the nearest training caption (``baseline``), and as many true
    renders as it has pictures (``ceiling``). None: the world cannot render what the prompts name.
    """

    baseline: list[list[Observation]] | None
    ceiling: list[list[Observation]] | None

    @classmethod
    def of(cls, prompts: Sequence[Prompt], verifier: Verifier, rule: Rule) -> ReferenceScores:
        """The reference observations of these prompts by a verifier, where ``rule`` has any."""
        if not rule.rendered:
            return cls(None, None)
        return cls(
            look_at(verifier, nearest_scenes(prompts)), look_at(verifier, true_scenes(prompts))
        )


def nearest_scenes(prompts: Sequence[Prompt]) -> list[list[Scene]]:
    """For each prompt the scene of the nearest training caption."""
    return [[World().scene(k)] for k in retrieve([prompt.text for prompt in prompts])]


def true_scenes(prompts: Sequence[Prompt]) -> list[list[Scene]]:
    """For each prompt SEEDS scenes that it describes."""
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
    rule: Rule = OURS,
) -> Report:
    """Generate the missing pictures into ``out`` and return the report on all of them.

    Writes report.json, report.md and sheet.png into ``out``. ``about`` identifies the run: model,
    hashes, suite. For ``bounds``, ``verified``, ``encoder`` and ``rule`` see ``judge``. Raises
    KalpanaError if ``out`` holds a different run, or another process works in it.
    """
    with locked(out):
        claim(out / "run.json", about)
        for i, prompt in enumerate(prompts):
            seeds = prompt.seeds(SEEDS)
            missing = [k for k in range(SEEDS) if not _path(out, i, k).exists()]
            if missing:
                pictures = draw(prompt, [seeds[k] for k in missing])
                for k, picture in zip(missing, pictures, strict=True):
                    save(picture.image, _path(out, i, k), picture.receipt)
            progress(i + 1, len(prompts))
        images = [
            [read_picture(_path(out, i, k)) for k in range(SEEDS)] for i in range(len(prompts))
        ]
        return judge(prompts, images, verifier, out, bounds, verified, encoder, rule)


def first(prompts: Sequence[A], limit: int | None) -> list[A]:
    """The first ``limit`` prompts of each task; None: all."""
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
    rule: Rule = OURS,
) -> Report:
    """The report on pictures, ``images[i]`` for ``prompts[i]``; also written into ``out``.

    ``bounds`` are the reference observations, if already known. ``verified`` tells by task whether
    the verifier can be trusted (see verifier_errors.verified). ``encoder`` is a CLIP for the CLIP
    score. ``rule`` has the thresholds.
    """
    seen = observe(verifier, images)
    limits = rule.thresholds
    verdicts = {
        i: [right(prompt, one, thresholds=limits) for one in seen[i]]
        for i, prompt in enumerate(prompts)
    }
    bounds = bounds or ReferenceScores.of(prompts, verifier, rule)
    readers = max(len(one.readings) for row in seen for one in row)
    report, *others = (
        _report(prompts, seen, bounds, k, verified, rule) for k in range(max(readers, 1))
    )
    report = replace(
        report,
        others=tuple(others),
        clip=nearness(prompts, images, encoder, rule.rendered) if encoder else None,
        judges=rule.judges,
    )
    write(out / "report.json", json.dumps(asdict(report), indent=1).encode())
    by_name = {
        _path(out, i, k).name: correct
        for i, row in verdicts.items()
        for k, correct in enumerate(row)
    }
    write(out / VERDICTS, json.dumps(by_name, indent=1).encode())
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
    rule: Rule,
) -> Report:
    """The report by the readings of text reader k."""

    def told(each: Sequence[Sequence[Observation]] | None) -> Table | None:
        if not each:
            return None
        read = [[one.read_by(k) for one in row] for row in each]
        return judged(prompts, read, thresholds=rule.thresholds)

    mine = [[one.read_by(k) for one in row] for row in seen]
    score = judged(prompts, mine, thresholds=rule.thresholds)
    strict = judged(prompts, mine, True, rule.thresholds)
    floor = told([seen[other] for other in exchanged(prompts)])
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
        told(bounds.baseline),
        told(bounds.ceiling),
        reader,
        verified=trusted,
    )


def nearness(
    prompts: Sequence[Prompt],
    images: Sequence[Sequence[Image.Image]],
    encoder: Encoder,
    rendered: bool = True,
) -> ClipScore:
    """The CLIP score of pictures, ``images[i]`` for ``prompts[i]``.

    ``rendered``: with the baseline and the ceiling, which need prompts that the world can render.

    Nothing is cached, so that the pictures of a run can be scored by another CLIP later.
    """
    words = encoder.texts([prompt.text for prompt in prompts])  # prompts d

    def vectors(scenes: Sequence[Sequence[Scene]]) -> list[Tensor]:
        flat = [scene for row in scenes for scene in row]
        batches = (
            to_images(render(flat[start : start + BATCH]).pixels)
            for start in range(0, len(flat), BATCH)
        )
        features = torch.cat([encoder.images(batch) for batch in batches])
        return list(features.split([len(row) for row in scenes]))

    def score(rows: Sequence[Tensor]) -> Table:
        return table(
            prompts, {i: (row @ words[i]).clamp(min=0).tolist() for i, row in enumerate(rows)}
        )

    features = encoder.images([image for row in images for image in row])
    mine = list(features.split([len(row) for row in images]))  # of each prompt (k, d)
    exchange = [mine[other] for other in exchanged(prompts)]
    floor = score(exchange) if exchange else None
    baseline = score(vectors(nearest_scenes(prompts))) if rendered else None
    ceiling = score(vectors(true_scenes(prompts))) if rendered else None
    return ClipScore(encoder.name, encoder.fingerprint, score(mine), floor, baseline, ceiling)


def observe(verifier: Verifier, images: Sequence[Sequence[Image.Image]]) -> list[list[Observation]]:
    """The verifier's observation of each picture; all are resized to the largest size."""
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
    """The verifier's observation of the rendered picture of each scene."""
    flat = [scene for row in scenes for scene in row]
    return _rows(
        verifier,
        (render(flat[start : start + BATCH]).pixels for start in range(0, len(flat), BATCH)),
        scenes,
    )


def _rows(
    verifier: Verifier, batches: Iterable[Tensor], like: Sequence[Sequence[object]]
) -> list[list[Observation]]:
    """The observations of batches of pictures, in rows as long as those of ``like``."""
    seen = iter([one for pixels in batches for one in verifier.look(pixels)])
    return [[next(seen) for _ in row] for row in like]


def exchanged(prompts: Sequence[Asked]) -> list[int]:
    """For each prompt the index of another: a permutation. Empty for a single prompt.

    The other prompt is of the same task, by a cyclic shift of a random order. Prompts that are
    alone in their tasks are exchanged with each other, and a last one joins the first task.
    """
    tasks: dict[str, list[int]] = {}
    for i, prompt in enumerate(prompts):
        tasks.setdefault(prompt.task, []).append(i)
    for task, mine in tasks.items():
        random.Random(task).shuffle(mine)
    alone = [mine[0] for mine in tasks.values() if len(mine) == 1]
    cycles = [mine for mine in tasks.values() if len(mine) > 1]
    if len(alone) > 1:
        cycles.append(alone)
    elif alone and cycles:
        cycles[0] = cycles[0] + alone
    other = {a: b for mine in cycles for a, b in zip(mine, mine[1:] + mine[:1], strict=True)}
    return [other[i] for i in range(len(prompts))] if other else []


def sheet(
    prompts: Sequence[Prompt],
    images: Sequence[Sequence[Image.Image]],
    seen: Sequence[Sequence[Observation]],
    verdicts: dict[int, list[bool]],
) -> Image.Image:
    """A sheet of the first eight right and eight wrong pictures of each task.

    The verifier's boxes are green in right pictures and red in wrong ones.
    """
    shown, texts = [], []
    for task in dict.fromkeys(prompt.task for prompt in prompts):
        for wanted in (True, False):
            chosen = [
                (i, k)
                for i, row in verdicts.items()
                if prompts[i].task == task
                for k, correct in enumerate(row)
                if correct == wanted
            ]
            for i, k in chosen[:8]:
                shown.append(boxed(images[i][k], seen[i][k], "green" if wanted else "red"))
                texts.append(f"{'right' if wanted else 'wrong'}: {prompts[i].text}")
    return captioned(shown, texts, columns=8)


def boxed(image: Image.Image, seen: Observation, color: str) -> Image.Image:
    """The picture at 256 x 256 pixels with a box around each detection with a score above 0.3."""
    out = image.resize((256, 256), Image.Resampling.LANCZOS)
    for item in seen.objects:
        if item.score > 0.3:
            ImageDraw.Draw(out).rectangle([256 * edge for edge in item.box], outline=color, width=2)
    return out


def pictures_of(folder: Path, prompts: Sequence[Prompt]) -> Iterator[list[Image.Image]]:
    """The pictures of each prompt in a folder of pictures from elsewhere, SEEDS at most.

    A picture belongs to a prompt if its name begins with the prompt's number in the suite
    ("0007-1.png"), or if its receipt holds the prompt's text. Raises KalpanaError if a prompt has
    no picture, or if a picture cannot be read.
    """
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
    """Write the description of a run, or compare it with the one written before.

    Raises KalpanaError if they differ.
    """
    if path.exists():
        before = json.loads(path.read_text(encoding="utf-8"))
        different = [
            name for name in before.keys() | about.keys() if before.get(name) != about.get(name)
        ]
        if different:
            name = sorted(different)[0]
            raise KalpanaError(
                f"{path.parent} holds a run with {name} {before.get(name)!r}, "
                f"not {about.get(name)!r}: name another folder with --out"
            )
    else:
        write(path, json.dumps(about, ensure_ascii=False, sort_keys=True).encode())
