"""Model comparison on the same prompts, seeds and verifier, by sampling steps and by seconds.

The pictures of each model at each number of steps are a run of their own (`run.py`) in a folder of
the comparison. An interrupted comparison therefore resumes, and an added model costs only its own
pictures.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

from kalpana.capabilities import Capabilities
from kalpana.evaluate.cost import Cost, cells
from kalpana.evaluate.prompts import Prompt
from kalpana.evaluate.run import Progress, ReferenceScores, run
from kalpana.evaluate.score import OURS, Rule, Share
from kalpana.evaluate.verifiers.observations import Verifier
from kalpana.media import locked, write
from kalpana.types import KalpanaError, Output

STEPS = (1, 4, 8, 20, 50)
# draw(prompt, seeds, steps): one picture for each seed; steps None: the model's default.
Draw = Callable[[Prompt, Sequence[int], int | None], Sequence[Output]]


class Model(Protocol):
    """The interface of a model to be compared; ``pipelines.load`` returns one."""

    @property
    def name(self) -> str: ...
    @property
    def capabilities(self) -> Capabilities: ...
    @property
    def files(self) -> dict[str, str]: ...


@dataclass(frozen=True)
class Entry:
    """The result of a model at a number of steps (None: the model has no steps).

    ``score`` is the overall score, ``floor`` that of exchanged pictures (None with a single prompt)
    and ``ceiling`` that of true renders (None where there are none), both in [0, 1]; ``seconds`` is
    the time a picture took on this machine; ``reader`` names the text reader where prompts ask for
    words; ``verified`` tells whether the verifier's errors are small enough for all tasks (None:
    not checked).
    """

    model: str
    steps: int | None
    score: Share
    floor: float | None
    ceiling: float | None
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
    rule: Rule = OURS,
) -> list[Entry]:
    """One entry for each model and number of steps (None: the model's default).

    Also writes compare.json and compare.md into ``out``. ``about``, ``verified`` and ``rule`` are
    as in `run`; ``progress(label)`` returns a callback of (done, total). A model that has no steps
    has one entry. Raises KalpanaError if two models have the same name, a folder holds another run,
    or another process works in it.
    """
    names = [model.name for model, *_ in models]
    if len(set(names)) < len(names):
        raise KalpanaError(
            f"two of the models are called {max(names, key=names.count)!r}: "
            "compare models of different names"
        )
    with locked(out):
        entries, bounds = [], ReferenceScores.of(prompts, verifier, rule)
        for model, draw, cost in models:
            takes = "steps" in model.capabilities.uses
            default = model.capabilities.defaults.steps if takes else None
            for count in steps if takes else (None,):
                folder = out / (model.name if count is None else f"{model.name}-{count}")
                clock = Clock(folder / "seconds.json")

                this = about | {"model": model.name, "files": model.files, "steps": count}
                drawn, bar = clock.timed(draw, count), progress(folder.name)
                report = run(
                    prompts, drawn, this, verifier, folder, bar, bounds, verified, rule=rule
                )
                floor = None if report.floor is None else report.floor.overall.right
                ceiling = None if report.ceiling is None else report.ceiling.overall.right
                trusted = None if report.verified is None else all(report.verified.values())
                entries.append(
                    Entry(
                        model.name,
                        count or default,
                        report.score.overall,
                        floor,
                        ceiling,
                        clock.each,
                        cost,
                        report.reader,
                        trusted,
                    )
                )
        write(
            out / "compare.json",
            json.dumps([asdict(entry) for entry in entries], indent=1).encode(),
        )
        write(out / "compare.md", markdown(entries).encode())
        return entries


class Clock:
    """A timer of the seconds that pictures take, kept in a file: a resumed run adds to it."""

    def __init__(self, path: Path) -> None:
        self.path, self.pictures, self.seconds, self.began = path, 0, 0.0, 0.0
        if path.exists():
            kept = json.loads(path.read_text(encoding="utf-8"))
            self.pictures, self.seconds = kept["pictures"], kept["seconds"]

    def __enter__(self) -> None:
        self.began = time.perf_counter()

    def __exit__(self, *error: object) -> None:
        self.seconds += time.perf_counter() - self.began

    def timed(
        self, draw: Draw, steps: int | None
    ) -> Callable[[Prompt, Sequence[int]], Sequence[Output]]:
        """``draw`` at a number of steps, with its time and its pictures added to the clock."""

        def draw_timed(prompt: Prompt, seeds: Sequence[int]) -> Sequence[Output]:
            with self:
                pictures = draw(prompt, seeds, steps)
            self.note(len(pictures))
            return pictures

        return draw_timed

    def note(self, pictures: int) -> None:
        """Add to the number of pictures and save the file."""
        self.pictures += pictures
        write(self.path, json.dumps({"pictures": self.pictures, "seconds": self.seconds}).encode())

    @property
    def each(self) -> float:
        """Seconds a picture."""
        return self.seconds / max(self.pictures, 1)


def markdown(entries: Sequence[Entry]) -> str:
    """The entries as a Markdown table, with the floor and the ceiling below it.

    These differ between entries only by chance.
    """
    lines = [
        "| model | steps | score (95 %) | seconds a picture | memory | parameters | training |",
        "|---|---:|---:|---:|---:|---:|---:|",
    ]
    for entry in entries:
        score = entry.score.percent() + (" (not verified)" if entry.verified is False else "")
        steps = "" if entry.steps is None else entry.steps
        cost = " | ".join(cells(entry.cost))
        lines.append(f"| {entry.model} | {steps} | {score} | {entry.seconds:.2f} | {cost} |")
    floors = [entry.floor for entry in entries if entry.floor is not None]
    floor = f"{100 * min(floors):.1f} to {100 * max(floors):.1f}" if floors else "–"
    ceilings = [100 * entry.ceiling for entry in entries if entry.ceiling is not None]
    ceiling = f"{max(ceilings):.1f}" if ceilings else "–"
    lines += ["", f"Floor {floor}, ceiling {ceiling}; "]
    lines[-1] += f"{entries[0].score.prompts} prompts, the same seeds and verifier for all."
    if entries[0].reader:
        lines[-1] += f" Words are as read by {entries[0].reader}."
    return "\n".join(lines) + "\n"
