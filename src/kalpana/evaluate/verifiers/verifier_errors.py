"""What a verifier gets wrong, measured on renders it never saw and published with it: ``python -m kalpana.evaluate.verifiers.verifier_errors FOLDER``.

For every attribute the share of true pictures it accepts (recall) and the share of minimally wrong questions it accepts as well (see
trials.py); of malformed hands, the share it takes for whole ones. Words are read by every reader there is, and each has its own row. An
attribute is verified where recall is at least 0.97 and no more than 0.02 of the wrong ones pass; every table says so of every other.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from kalpana.evaluate.run import BATCH, look_at
from kalpana.evaluate.suites import Prompt, load
from kalpana.evaluate.verifiers.eye_labels import EyeErrors, agreement
from kalpana.evaluate.verifiers.observations import Observation, Verifier, iou, surest, truth
from kalpana.evaluate.verifiers.ocr import ENGINES, readers
from kalpana.evaluate.verifiers.probes import (
    Damage,
    Probe,
    blurred,
    coded,
    noisy,
    of_malformed_hands,
    of_poses,
    of_prompts,
)
from kalpana.evaluate.verifiers.verifier import DetectorVerifier
from kalpana.hub.weights import fingerprint
from kalpana.media import write
from kalpana.types import KalpanaError
from kalpana.world.lexicon import lexicon
from kalpana.world.render import render
from kalpana.world.world import World

RENDERS = 2000  # of each attribute, at least
FEWER = 5  # times fewer are damaged, in each way
RECALL, FALSE = 0.97, 0.02  # the bar
DRAWN = "as drawn"


@dataclass(frozen=True)
class Error:
    """Of one attribute: the share of true pictures accepted (None where there can be none), of minimally wrong questions accepted, and how
    many pictures there were."""

    recall: float | None
    false_accepts: float
    renders: int

    @property
    def verified(self) -> bool:
        return (self.recall is None or self.recall >= RECALL) and self.false_accepts <= FALSE


Errors = dict[str, Error]  # by what was done to the pictures


def attributes() -> dict[str, Callable[[int], list[Probe]]]:
    """All that is measured, by name: each gives as many trials as it is asked for."""
    prompts: dict[str, list[Prompt]] = {}
    for prompt in load("spriteeval") + load("hands"):
        prompts.setdefault(prompt.task, []).append(prompt)
    prompts |= {suite: load(suite) for suite in ("counts58", "facing", "hard", *ENGINES)}
    asked = {name: partial(of_prompts, name, mine) for name, mine in prompts.items()}
    return {**asked, "poses": of_poses, "malformed hands": of_malformed_hands}


def errors(
    verifier: Verifier, trials: Sequence[Probe], damages: Mapping[str, Damage], readings: int = 1
) -> list[Errors]:
    """The errors as drawn, and on the first of them by each damage; once for each of so many readings of what is written.

    Every scene is rendered once, and looked at once in each state.
    """
    fewer = -(-len(trials) // FEWER)
    seen: dict[str, list[Observation]] = {state: [] for state in (DRAWN, *damages)}
    for start in range(0, len(trials), BATCH):
        pixels = render([trial.scene for trial in trials[start : start + BATCH]]).pixels
        seen[DRAWN] += verifier.look(pixels)
        if start < fewer:
            for state, damage in damages.items():
                seen[state] += verifier.look(damage(pixels[: fewer - start]))
    return [
        {state: _error(trials, [one.read_by(k) for one in some]) for state, some in seen.items()}
        for k in range(readings)
    ]


def _error(trials: Sequence[Probe], seen: Sequence[Observation]) -> Error:
    """The error by what was seen in the first pictures."""
    pairs = list(zip(trials, seen, strict=False))
    true = [trial.true(one) for trial, one in pairs if trial.true]
    wrong = [trial.wrong(one) for trial, one in pairs if trial.wrong]
    return Error(
        sum(true) / len(true) if true else None, sum(wrong) / max(len(wrong), 1), len(pairs)
    )


def detections(
    verifier: Verifier, renders: int = RENDERS, least: float = 0.3
) -> tuple[float, float]:
    """Precision and recall of core things in ordinary test scenes: the class is right and the boxes overlap by half."""
    world = World(1, "test")
    scenes = [world.scene(i) for i in range(renders)]
    hits = said = there = 0
    (seen,) = look_at(verifier, [scenes])
    for scene, one in zip(scenes, seen, strict=True):
        left = [
            item
            for item in surest(one.objects)
            if item.score > least and lexicon()[item.concept].core
        ]
        wanted = [item for item in truth(scene).objects if lexicon()[item.concept].core]
        said, there = said + len(left), there + len(wanted)
        for item in wanted:
            match = next(
                (
                    other
                    for other in left
                    if other.concept == item.concept and iou(other.box, item.box) > 0.5
                ),
                None,
            )
            if match is not None:
                left.remove(match)
                hits += 1
    return hits / max(said, 1), hits / max(there, 1)


def publish(
    folder: Path,
    renders: int = RENDERS,
    autoencoder: Path = Path("weights/default/vae.safetensors"),
    only: Sequence[str] = (),
) -> str:
    """Measure the verifier in a folder, write errors.json there, and give back the tables as Markdown. Of ``only`` some rows the others
    stay as they were published, of the same detector. Raises KalpanaError where they were not."""
    verifier, before = DetectorVerifier.load(folder), _before(folder, only)
    damages = {f"blur {s} px": blurred(s) for s in (0.5, 1.0, 1.5, 2.0)} | {
        f"noise {s}": noisy(s) for s in (0.05, 0.1, 0.2)
    }
    damages["through the autoencoder"] = coded(autoencoder)
    measured: dict[str, Errors] = {
        name: {state: Error(**error) for state, error in each.items()}
        for name, each in before.get("errors", {}).items()
    }
    unavailable: dict[str, str] = before.get("unavailable", {})
    for name, trials in attributes().items():
        reading, missing = readers(name, verifier.readers)
        if name in ENGINES:
            reading = tuple(
                reader for reader in reading if _asked(f"{name} by {reader.title}", only)
            )
        rows = (
            [f"{name} by {reader.title}" for reader in reading]
            if name in ENGINES
            else [name]
            if _asked(name, only)
            else []
        )
        if missing and not only:
            unavailable[f"{name} by {ENGINES[name].name}"] = missing
        if rows:
            found = errors(replace(verifier, readers=reading), trials(renders), damages, len(rows))
            measured |= dict(zip(rows, found, strict=True))
    silent = replace(verifier, readers=())
    precision, recall = (
        (before["precision"], before["recall"]) if only else detections(silent, renders)
    )
    eye = agreement(silent)
    record = {
        name: {state: vars(error) for state, error in each.items()}
        for name, each in measured.items()
    }
    about = {
        "files": _hashes(folder),
        "renders": renders,
        "precision": precision,
        "recall": recall,
        "errors": record,
        "eye": vars(eye),
        "unavailable": unavailable,
    }
    write(folder / "errors.json", json.dumps(about, indent=1).encode())
    return tables(measured, unavailable, precision, recall, eye)


def _asked(row: str, only: Sequence[str]) -> bool:
    return not only or row in only


def _before(folder: Path, only: Sequence[str]) -> dict[str, Any]:
    """What was published of the folder's detector, if ``only`` some of its rows are to be measured, all of which it has."""
    if not only:
        return {}
    path = folder / "errors.json"
    about = (
        json.loads(path.read_text(encoding="utf-8"))
        if path.exists()
        else {"files": {}, "errors": {}}
    )
    if about["files"].get("detector.safetensors") != _hashes(folder).get("detector.safetensors"):
        raise KalpanaError(
            f"nothing is published in {folder} of this detector: leave out --only, and measure all"
        )
    if unknown := [row for row in only if row not in about["errors"]]:
        raise KalpanaError(
            f"there is no row {unknown[0]!r}: the rows are {', '.join(about['errors'])}"
        )
    return about


RESTS = {"unseen color": "colors", "unseen pair": "two", "unseen count": "counts58"}


def verified(folder: Path, suite: str, tasks: Iterable[str]) -> dict[str, bool]:
    """Of each task of a suite, and of "words by" each reader, whether the errors published in a verifier's folder reach the bar. What was
    not measured rests on what asks for the same. Nothing is verified where no errors are published, or those of other weights."""
    path, trusted = folder / "errors.json", dict[str, bool]()
    if path.exists():
        about = json.loads(path.read_text(encoding="utf-8"))
        if about["files"] == _hashes(folder):
            trusted = {
                name: Error(**each[DRAWN]).verified for name, each in about["errors"].items()
            }
    found = {
        task: trusted.get("hard" if task.startswith("hard") else RESTS.get(task, task), False)
        for task in tasks
    }
    return found | {
        name.replace(suite, "words"): so
        for name, so in trusted.items()
        if name.startswith(f"{suite} by ")
    }


def _hashes(folder: Path) -> dict[str, str]:
    return {path.name: fingerprint(path) for path in sorted(folder.glob("*.safetensors"))}


def tables(
    measured: Mapping[str, Errors],
    unavailable: Mapping[str, str],
    precision: float,
    recall: float,
    eye: EyeErrors,
) -> str:
    """The errors of every attribute as drawn and, of what could not be measured, what is missing; those on generated pictures; then both
    shares, true and wrong, under each kind of damage."""
    lines = [
        "| attribute | accepts the true, % | accepts the minimally wrong, % | renders | |",
        "|---|---:|---:|---:|---|",
    ]
    for name, each in measured.items():
        error = each[DRAWN]
        verdict = "verified" if error.verified else "**not verified**"
        lines.append(
            f"| {name} | {_percent(error.recall, 1)} | {_percent(error.false_accepts, 1)} | {error.renders:,} | {verdict} |"
        )
    lines += [
        f"| {name} | | | | **unavailable**: {missing} |" for name, missing in unavailable.items()
    ]
    lines += [
        "",
        f"Core things in ordinary test scenes: precision {100 * precision:.1f} %, recall {100 * recall:.1f} %.",
        "",
    ]
    lines += [eye.markdown(), ""]
    states = list(next(iter(measured.values())))
    lines += [
        "| the true / the wrong, % | " + " | ".join(states) + " |",
        "|---|" + "---:|" * len(states),
    ]
    for name, each in measured.items():
        cells = (
            f"{_percent(each[state].recall, 0)} / {_percent(each[state].false_accepts, 0)}"
            for state in states
        )
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def _percent(share: float | None, places: int) -> str:
    return "–" if share is None else f"{100 * share:.{places}f}"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="a verifier's folder of weights")
    parser.add_argument("--renders", type=int, default=RENDERS, help="pictures of each attribute")
    parser.add_argument(
        "--only",
        action="append",
        default=[],
        metavar="ROW",
        help="measure this row anew, and keep the others (repeatable)",
    )
    arguments = parser.parse_args()
    try:
        print(publish(arguments.folder, arguments.renders, only=arguments.only))
    except KalpanaError as error:
        raise SystemExit(f"error: {error}") from None
