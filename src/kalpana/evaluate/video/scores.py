"""Video accuracy on Clips-200: the tables of verdicts on videos, one for each prompt.

``kalpana evaluate video`` without a model and without a folder scores the true videos: the ceiling.
Where a verifier misses a part there, it cannot judge a model on it.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from kalpana.evaluate import score
from kalpana.evaluate.nearest_caption import retrieve
from kalpana.evaluate.run import Progress, boxed, exchanged
from kalpana.evaluate.score import RESAMPLES, Share, Table
from kalpana.evaluate.verifiers.observations import Observation, Verifier
from kalpana.evaluate.video.suite import Video, VideoPrompt, truth
from kalpana.evaluate.video.verdict import MEASURED, PARTS, Verdict, right
from kalpana.media import grid, to_images, write
from kalpana.world.sheet import captioned
from kalpana.world.video import Videos

BATCH = 64  # frames in a verifier batch
CAPTIONS = 4000  # captions of training videos, of which the nearest to a prompt is a floor
SHEET = 4  # right videos of each task on the sheet, and as many wrong ones


@dataclass(frozen=True)
class Mean:
    """A mean with its 95 % interval over prompts."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class ClipTable:
    """The accuracy on videos.

    ``tasks``: the share of right videos by task and overall; ``languages``: the same by language;
    ``parts``: the share of right parts among the prompts that ask for them; ``measured``: the means
    of the share of frames with the right objects, of flicker, and of the dynamic degree.
    """

    tasks: Table
    languages: Table
    parts: Table
    measured: dict[str, Mean]


def table(prompts: Sequence[VideoPrompt], verdicts: Sequence[Verdict]) -> ClipTable:
    """The tables of verdicts, one for each prompt, with intervals as in score.table.

    Raises KalpanaError if there are none.
    """
    pairs = list(zip(prompts, verdicts, strict=True))
    parts = [
        (prompt.of(name), verdict.parts()[name])
        for name in PARTS
        for prompt, verdict in pairs
        if name in verdict.parts()
    ]
    right = {i: [verdict.right] for i, verdict in enumerate(verdicts)}
    return ClipTable(
        score.table([prompt.of(prompt.task) for prompt in prompts], right),
        score.table([prompt.of(prompt.language) for prompt in prompts], right),
        score.table(
            [prompt for prompt, _ in parts], {i: [correct] for i, (_, correct) in enumerate(parts)}
        ),
        {name: mean_of([getattr(verdict, name) for verdict in verdicts]) for name in MEASURED},
    )


def mean_of(values: Sequence[float]) -> Mean:
    """The mean of the values that are not nan, with a bootstrap interval."""
    known = np.array([value for value in values if not math.isnan(value)] or [math.nan])
    rows = np.random.default_rng(0).integers(len(known), size=(RESAMPLES, len(known)))
    low, high = np.percentile(known[rows].mean(1), (2.5, 97.5))
    return Mean(float(known.mean()), float(low), float(high))


@dataclass(frozen=True)
class Report:
    """The report on videos, with floors and a ceiling by the same verifier.

    Floors: ``shuffled``, each prompt judged on the video of another prompt of its task (see
    run.exchanged; None with a single prompt); ``frozen``, the first frame of the true video,
    repeated; ``nearest``, the true video of the nearest training caption. ``ceiling``: the true
    videos.
    """

    score: ClipTable
    shuffled: ClipTable | None
    frozen: ClipTable
    nearest: ClipTable
    ceiling: ClipTable

    def markdown(self) -> str:
        """The shares in per cent by task, by language and by part, then the means of the
        measurements."""
        every = (self.score, self.shuffled, self.frozen, self.nearest, self.ceiling)
        tasks, languages, parts = (
            [None if table is None else getattr(table, kind).tasks for table in every]
            for kind in ("tasks", "languages", "parts")
        )
        overall = [None if table is None else table.tasks.overall for table in every]
        measured = [
            f"| {MEASURED[name]} | {mean.value:.3f} ({mean.low:.3f} to {mean.high:.3f}) "
            f"| {self.ceiling.measured[name].value:.3f} |\n"
            for name, mean in self.score.measured.items()
        ]
        heads = [
            f"| {head} | shuffled | frozen | nearest | score (95 %) | ceiling | prompts |\n"
            f"|{' --- |' * 7}\n"
            for head in ("task", "language", "part")
        ]
        return "\n".join(
            "".join(rows)
            for rows in (
                [heads[0], *_lines(tasks), _line("overall", overall)],
                [heads[1], *_lines(languages)],
                [heads[2], *_lines(parts)],
                ["| mean | score (95 %) | ceiling |\n| --- | --- | --- |\n", *measured],
            )
        )


def _lines(tables: Sequence[dict[str, Share] | None]) -> list[str]:
    """One line for each task of score, floors and ceiling."""
    names = tables[0] or {}
    return [_line(name, [table[name] if table else None for table in tables]) for name in names]


def _line(name: str, shares: Sequence[Share | None]) -> str:
    """The table row of score, floors and ceiling."""
    score, *others = shares
    assert score is not None
    *floors, ceiling = ("–" if s is None else f"{100 * s.right:.1f}" for s in others)
    return f"| {' | '.join((name, *floors, score.percent(), ceiling, str(score.prompts)))} |\n"


def judge(
    prompts: Sequence[VideoPrompt],
    videos: Iterable[Video],
    verifier: Verifier,
    out: Path,
    progress: Progress,
) -> Report:
    """The report on videos, one for each prompt and in their order.

    Writes report.json, report.md and sheet.png into ``out``.
    """
    verdicts: dict[str, dict[int, Verdict]] = {
        name: {} for name in ("score", "shuffled", "frozen", "nearest", "ceiling")
    }
    tasks = dict.fromkeys(prompt.task for prompt in prompts)
    shown: dict[tuple[str, str], list[tuple[Image.Image, str]]] = {
        (task, result): [] for task in tasks for result in ("right", "wrong")
    }
    exchange, near, world = exchanged(prompts), nearest(prompts), Videos()
    for i, (prompt, video) in enumerate(zip(prompts, videos, strict=True)):
        seen = look(verifier, video)
        mine = verdicts["score"][i] = right(prompt, video.frames, video.fps, seen)
        if exchange:
            k = exchange[i]
            verdicts["shuffled"][k] = right(prompts[k], video.frames, video.fps, seen)
        result, color = ("right", "green") if mine.right else ("wrong", "red")
        if len(shown[prompt.task, result]) < SHEET:
            shown[prompt.task, result].append(
                (tile(video, seen, color), f"{result}: {prompt.text}")
            )
        for name, other in _references(prompt, truth(world.video(near[i])), verifier):
            verdicts[name][i] = other
        progress(i + 1, len(prompts))
    tables = {
        name: table(prompts, [each[k] for k in sorted(each)]) if each else None
        for name, each in verdicts.items()
    }
    report = Report(**tables)  # type: ignore[arg-type]
    out.mkdir(parents=True, exist_ok=True)
    write(out / "report.json", json.dumps(asdict(report, dict_factory=_known), indent=1).encode())
    write(out / "report.md", report.markdown().encode())
    tiles, texts = zip(*(pair for pairs in shown.values() for pair in pairs), strict=True)
    captioned(tiles, texts, columns=2 * SHEET).save(out / "sheet.png")
    return report


def _references(
    prompt: VideoPrompt, near: Video, verifier: Verifier
) -> Iterator[tuple[str, Verdict]]:
    """Verdicts on the reference videos of a prompt, by name; ``near`` is the nearest training
    video."""
    video = truth(prompt.video)
    seen, n = look(verifier, video), len(video.frames)
    yield "ceiling", right(prompt, video.frames, video.fps, seen)
    still = video.frames[:1].expand(n, -1, -1, -1)
    yield "frozen", right(prompt, still, video.fps, seen[:1] * n)
    yield "nearest", right(prompt, near.frames, near.fps, look(verifier, near))


def nearest(prompts: Sequence[VideoPrompt]) -> list[int]:
    """For each prompt the index of the training video whose caption is nearest."""
    return retrieve([prompt.text for prompt in prompts], Videos(), CAPTIONS)


def _known(fields: list[tuple[str, Any]]) -> dict[str, Any]:
    """Fields for JSON, with None for nan, which JSON cannot express."""
    return {
        name: None if isinstance(value, float) and math.isnan(value) else value
        for name, value in fields
    }


def tile(video: Video, seen: Sequence[Observation], color: str) -> Image.Image:
    """Four evenly spaced frames of a video in a grid, with the detections in boxes of a colour."""
    chosen = [round(k * (len(seen) - 1) / 3) for k in range(4)]
    frames = to_images(video.frames[chosen])
    return grid([boxed(frame, seen[k], color) for frame, k in zip(frames, chosen, strict=True)])


def look(verifier: Verifier, video: Video) -> list[Observation]:
    """The verifier's observation of each frame."""
    return [seen for batch in video.frames.split(BATCH) for seen in verifier.look(batch)]
