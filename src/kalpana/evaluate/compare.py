"""The family table: several models on the same prompts, seeds and verifier, by the steps they take and by the seconds.

Each model's pictures for each number of steps are a run of their own (`run.py`) in a folder of the comparison, so a comparison that was
stopped goes on, and one more model costs only its own pictures.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

from kalpana.evaluate.cost import Cost
from kalpana.evaluate.run import Progress, ReferenceScores, run
from kalpana.evaluate.score import Share
from kalpana.evaluate.suites import Prompt
from kalpana.evaluate.verifiers.observations import Verifier
from kalpana.media import write
from kalpana.request import Capabilities
from kalpana.types import KalpanaError, Picture

STEPS = (1, 4, 8, 20, 50)
Draw = Callable[
    [Prompt, Sequence[int], int | None], Sequence[Picture]
]  # of a prompt, for these seeds, in so many steps


class Model(Protocol):
    """What is asked of a model to be compared: ``generate.load`` gives one."""

    @property
    def name(self) -> str: ...
    @property
    def capabilities(self) -> Capabilities: ...
    @property
    def files(self) -> dict[str, str]: ...


@dataclass(frozen=True)
class Entry:
    """A model at a number of steps (None: it takes none): its overall score, that of nothing (the floor) and of true renders (the
    ceiling), the seconds a picture took on this machine, what it ``cost`` beside them, where words are asked for their ``reader``, and
    whether the verifier can be trusted with all of the tasks (None: nobody asked)."""

    model: str
    steps: int | None
    score: Share
    floor: float
    ceiling: float
    seconds: float
    cost: Cost
    reader: str = ""
    verified: bool | None = None


def compare(
    models: Sequence[tuple[Model, Draw, Cost]],
    prompts: Sequence[Prompt],
    steps: Sequence[int | None],
    about: dict[str, Any],
    verifier: Verifier,
    out: Path,
    progress: Callable[[str], Progress],
    verified: Mapping[str, bool] | None = None,
) -> list[Entry]:
    """An entry for each model and number of steps (None: the model's own), also written to compare.json and compare.md in ``out``;
    ``about`` and ``verified`` as in `run`, and ``progress`` gives for a label what is called with (done, total).

    A model that has no steps has one entry. Raises KalpanaError where two models have one name, or a folder holds a run of something else.
    """
    names = [model.name for model, *_ in models]
    if len(set(names)) < len(names):
        raise KalpanaError(
            f"two of the models are called {max(names, key=names.count)!r}: compare models of different names"
        )
    entries, bounds = [], ReferenceScores.of(prompts, verifier)
    for model, draw, cost in models:
        takes = "steps" in model.capabilities.uses
        own = model.capabilities.defaults.steps if takes else None
        for count in steps if takes else (None,):
            folder = out / (model.name if count is None else f"{model.name}-{count}")
            clock = Clock(folder / "seconds.json")

            def timed(
                prompt: Prompt,
                seeds: Sequence[int],
                draw: Draw = draw,
                count: int | None = count,
                clock: Clock = clock,
            ) -> Sequence[Picture]:
                with clock:
                    pictures = draw(prompt, seeds, count)
                clock.note(len(pictures))
                return pictures

            this = about | {"model": model.name, "files": model.files, "steps": count}
            report = run(
                prompts, timed, this, verifier, folder, progress(folder.name), bounds, verified
            )
            floor, ceiling = report.floor.overall.right, report.ceiling.overall.right
            trusted = None if report.verified is None else all(report.verified.values())
            entries.append(
                Entry(
                    model.name,
                    count or own,
                    report.score.overall,
                    floor,
                    ceiling,
                    clock.each,
                    cost,
                    report.reader,
                    trusted,
                )
            )
    write(out / "compare.json", json.dumps([asdict(entry) for entry in entries], indent=1).encode())
    write(out / "compare.md", markdown(entries).encode())
    return entries


class Clock:
    """The seconds that pictures took, kept in a file, so that a run which goes on goes on counting."""

    def __init__(self, path: Path) -> None:
        self.path, self.pictures, self.seconds, self.began = path, 0, 0.0, 0.0
        if path.exists():
            kept = json.loads(path.read_text(encoding="utf-8"))
            self.pictures, self.seconds = kept["pictures"], kept["seconds"]

    def __enter__(self) -> None:
        self.began = time.perf_counter()

    def __exit__(self, *error: object) -> None:
        self.seconds += time.perf_counter() - self.began

    def note(self, pictures: int) -> None:
        self.pictures += pictures
        write(self.path, json.dumps({"pictures": self.pictures, "seconds": self.seconds}).encode())

    @property
    def each(self) -> float:
        return self.seconds / max(self.pictures, 1)


def markdown(entries: Sequence[Entry]) -> str:
    """The entries as a table, and below it the floor and the ceiling, which all of them share but for chance."""
    lines = [
        "| model | steps | score (95 %) | seconds a picture | memory | parameters | training |",
        "|---|---:|---:|---:|---:|---:|---:|",
    ]
    for entry in entries:
        score = f"{100 * entry.score.right:.1f} ({100 * entry.score.low:.1f} to {100 * entry.score.high:.1f})"
        score += " (not verified)" if entry.verified is False else ""
        steps, cost = "" if entry.steps is None else entry.steps, " | ".join(_told(entry.cost))
        lines.append(f"| {entry.model} | {steps} | {score} | {entry.seconds:.2f} | {cost} |")
    floors, ceilings = [entry.floor for entry in entries], [entry.ceiling for entry in entries]
    lines += [
        "",
        f"Floor {100 * min(floors):.1f} to {100 * max(floors):.1f}, ceiling {100 * max(ceilings):.1f}; ",
    ]
    lines[-1] += f"{entries[0].score.prompts} prompts, the same seeds and verifier for all."
    if entries[0].reader:
        lines[-1] += f" Words are as read by {entries[0].reader}."
    return "\n".join(lines) + "\n"


def _told(cost: Cost) -> tuple[str, str, str]:
    """Memory, parameters and training as the table has them."""
    memory = "–" if cost.memory is None else f"{cost.memory / 2**30:.2f} GiB"
    parameters = "–" if cost.parameters is None else f"{cost.parameters / 1e6:.1f} M"
    return memory, parameters, "–" if cost.flops is None else f"{cost.flops / 1e15:.2f} PFLOP"
