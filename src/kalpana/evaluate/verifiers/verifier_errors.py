"""Published error rates of a verifier, measured on renders outside its training data.

    kalpana evaluate verifier-errors FOLDER

For each attribute: the share of true pictures accepted (recall), and the share of minimally wrong
questions accepted (see probes.py); for malformed hands, the share taken for whole ones. Words are
read by every available reader, and each has its own row. An attribute is verified if recall is at
least 0.97 and at most 0.02 of the wrong questions are accepted; tables mark all others.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from kalpana.evaluate.prompts import Prompt
from kalpana.evaluate.run import BATCH, look_at
from kalpana.evaluate.suites import load
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
from kalpana.hub.card import find_model
from kalpana.hub.weights import fingerprint
from kalpana.media import write
from kalpana.types import KalpanaError
from kalpana.world.lexicon import lexicon
from kalpana.world.render import render
from kalpana.world.world import World

RENDERS = 2000  # pictures per attribute
FEWER = 5  # factor by which the set of damaged pictures is smaller
RECALL, FALSE = 0.97, 0.02  # limits of a verified attribute
DRAWN = "as drawn"  # key of the undamaged state


@dataclass(frozen=True)
class Error:
    """Error rates of a verifier on one attribute.

    ``recall``: share of true pictures accepted, None if the attribute has none; ``false_accepts``:
    share of minimally wrong questions accepted; ``renders``: number of pictures.
    """

    recall: float | None
    false_accepts: float
    renders: int

    @property
    def verified(self) -> bool:
        """Whether both rates are within the limits."""
        return (self.recall is None or self.recall >= RECALL) and self.false_accepts <= FALSE


Errors = dict[str, Error]  # by state of the pictures: DRAWN, or a kind of damage


def attributes() -> dict[str, Callable[[int], list[Probe]]]:
    """Probe generators by attribute; each takes the number of probes."""
    prompts: dict[str, list[Prompt]] = {}
    for prompt in load("spriteeval") + load("hands"):
        prompts.setdefault(prompt.task, []).append(prompt)
    prompts |= {suite: load(suite) for suite in ("counts58", "facing", "hard", *ENGINES)}
    generators = {name: partial(of_prompts, name, group) for name, group in prompts.items()}
    return {**generators, "poses": of_poses, "malformed hands": of_malformed_hands}


def errors(
    verifier: Verifier, probes: Sequence[Probe], damages: Mapping[str, Damage], readings: int = 1
) -> list[Errors]:
    """Error rates by state of the pictures, one dict per reading.

    All renders are measured undamaged, and the first fifth of them also under each damage.

    Each scene is rendered once, and the verifier runs once on each state of it.
    """
    fewer = -(-len(probes) // FEWER)
    seen: dict[str, list[Observation]] = {state: [] for state in (DRAWN, *damages)}
    for start in range(0, len(probes), BATCH):
        pixels = render([probe.scene for probe in probes[start : start + BATCH]]).pixels
        seen[DRAWN] += verifier.look(pixels)
        if start < fewer:
            for state, damage in damages.items():
                seen[state] += verifier.look(damage(pixels[: fewer - start]))
    return [
        {
            state: _error(probes, [observation.read_by(k) for observation in observations])
            for state, observations in seen.items()
        }
        for k in range(readings)
    ]


def _error(probes: Sequence[Probe], seen: Sequence[Observation]) -> Error:
    """Error rates over those probes, the first ones, whose pictures were observed."""
    pairs = list(zip(probes, seen, strict=False))
    true = [probe.true(observation) for probe, observation in pairs if probe.true]
    wrong = [probe.wrong(observation) for probe, observation in pairs if probe.wrong]
    return Error(
        sum(true) / len(true) if true else None, sum(wrong) / max(len(wrong), 1), len(pairs)
    )


def detections(
    verifier: Verifier, renders: int = RENDERS, least: float = 0.3
) -> tuple[float, float]:
    """Precision and recall of core classes in ordinary test scenes.

    A detection with a score above ``least`` is a hit if its class is right and its IoU is above
    0.5.
    """
    world = World(1, "test")
    scenes = [world.scene(i) for i in range(renders)]
    hits = predicted = present = 0
    (observations,) = look_at(verifier, [scenes])
    for scene, observation in zip(scenes, observations, strict=True):
        unmatched = [
            item
            for item in surest(observation.objects)
            if item.score > least and lexicon()[item.concept].core
        ]
        wanted = [item for item in truth(scene).objects if lexicon()[item.concept].core]
        predicted, present = predicted + len(unmatched), present + len(wanted)
        for item in wanted:
            same = (other for other in unmatched if other.concept == item.concept)
            match = next((other for other in same if iou(other.box, item.box) > 0.5), None)
            if match is not None:
                unmatched.remove(match)
                hits += 1
    return hits / max(predicted, 1), hits / max(present, 1)


def publish(
    folder: Path,
    renders: int = RENDERS,
    autoencoder: Path | None = None,
    only: Sequence[str] = (),
) -> str:
    """Measure the verifier in a folder, write errors.json there, and return the tables as Markdown.

    With ``only``, these rows are measured anew, and the others keep the values published for the
    same detector. Raises KalpanaError if there are none, or a row is unknown.
    """
    verifier, previous = DetectorVerifier.load(folder), _published(folder, only)
    damages = {f"blur {s} px": blurred(s) for s in (0.5, 1.0, 1.5, 2.0)} | {
        f"noise {s}": noisy(s) for s in (0.05, 0.1, 0.2)
    }
    damages["through the autoencoder"] = coded(
        autoencoder or find_model("default") / "vae.safetensors"
    )
    measured: dict[str, Errors] = {
        name: {state: Error(**error) for state, error in each.items()}
        for name, each in previous.get("errors", {}).items()
    }
    unavailable: dict[str, str] = previous.get("unavailable", {})
    for name, make_probes in attributes().items():
        reading, missing = readers(name, verifier.readers)
        rows = [name] if _selected(name, only) else []
        if name in ENGINES:
            reading = tuple(
                reader for reader in reading if _selected(f"{name} by {reader.title}", only)
            )
            rows = [f"{name} by {reader.title}" for reader in reading]
        if missing and not only:
            unavailable[f"{name} by {ENGINES[name].name}"] = missing
        if rows:
            found = errors(
                replace(verifier, readers=reading), make_probes(renders), damages, len(rows)
            )
            measured |= dict(zip(rows, found, strict=True))
    without_readers = replace(verifier, readers=())
    if only:
        precision, recall = previous["precision"], previous["recall"]
    else:
        precision, recall = detections(without_readers, renders)
    eye = agreement(without_readers)
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


def _selected(row: str, only: Sequence[str]) -> bool:
    """Whether a row is to be measured: it is in ``only``, or ``only`` is empty."""
    return not only or row in only


def _published(folder: Path, only: Sequence[str]) -> dict[str, Any]:
    """Published errors of the folder's detector if only some rows are to be measured, else empty.

    Raises KalpanaError if none are published of this detector, or if it has no such row.
    """
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


# Tasks without errors of their own, and the attribute that asks for the same.
RESTS = {"unseen color": "colors", "unseen pair": "two", "unseen count": "counts58"}


def verified(folder: Path, suite: str, tasks: Iterable[str]) -> dict[str, bool]:
    """Whether a verifier's published errors are within the limits, by task of a suite.

    There is also an entry "words by ..." for each reader. A task that was not measured takes the
    value of its attribute in RESTS. All are False if no errors are published, or those of other
    weights.
    """
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
        name.replace(suite, "words"): value
        for name, value in trusted.items()
        if name.startswith(f"{suite} by ")
    }


def _hashes(folder: Path) -> dict[str, str]:
    """SHA-256 of each weight file in a folder, by file name."""
    return {path.name: fingerprint(path) for path in sorted(folder.glob("*.safetensors"))}


def tables(
    measured: Mapping[str, Errors],
    unavailable: Mapping[str, str],
    precision: float,
    recall: float,
    eye: EyeErrors,
) -> str:
    """Markdown tables of the error rates.

    First all attributes on undamaged renders, and the missing engines; then the rates on core
    objects and on generated pictures; last the rates under each kind of damage.
    """
    lines = [
        "| attribute | accepts the true, % | accepts the minimally wrong, % | renders | |",
        "|---|---:|---:|---:|---|",
    ]
    for name, each in measured.items():
        error = each[DRAWN]
        verdict = "verified" if error.verified else "**not verified**"
        rates = f"{_percent(error.recall, 1)} | {_percent(error.false_accepts, 1)}"
        lines.append(f"| {name} | {rates} | {error.renders:,} | {verdict} |")
    lines += [
        f"| {name} | | | | **unavailable**: {missing} |" for name, missing in unavailable.items()
    ]
    lines += [
        "",
        f"Core objects in ordinary test scenes: precision {100 * precision:.1f} %, "
        f"recall {100 * recall:.1f} %.",
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
