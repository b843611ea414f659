"""Generated pictures labelled by eye, and how far a verifier agrees: ``python -m kalpana.evaluate.verifiers.eye_labels VERIFIER``.

Renders alone flatter a verifier: what generators get wrong looks like no render. ``eye/`` holds pictures of single objects that our
default models drew, each with the class it was asked for and what a person saw: right, or a fault (two heads, a blend, a blob, a part
missing). None of them takes part in any training, and nothing is chosen by them.
"""

from __future__ import annotations

import argparse
import csv
import json
import sys
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from kalpana.evaluate.run import BATCH
from kalpana.evaluate.score import THRESHOLDS
from kalpana.evaluate.verifiers.observations import Verifier, best
from kalpana.media import read_picture, to_pixels
from kalpana.types import KalpanaError
from kalpana.world.lexicon import lexicon

EYE = Path(__file__).parent / "eye"
SIDE, COLUMNS = 128, 20
RIGHT = "right"
FAULTS = ("two heads", "blend", "blob", "part missing", "other")


@dataclass(frozen=True)
class Label:
    """What a person saw in one picture: ``eye`` is RIGHT or one of FAULTS; ``concept`` is the lexicon id it was asked for, ``model`` what
    drew it."""

    concept: str
    eye: str
    model: str


@dataclass(frozen=True)
class EyeErrors:
    """The share of the right pictures that a verifier accepts (recall), of the wrong ones, and of these by fault, with their numbers."""

    recall: float
    false_accepts: float
    right: int
    wrong: int
    faults: dict[str, tuple[float, int]]

    def markdown(self) -> str:
        faults = ", ".join(
            f"{name} {100 * share:.0f} % of {n}" for name, (share, n) in self.faults.items()
        )
        return (
            f"Generated pictures labelled by eye: accepts {100 * self.recall:.1f} % of {self.right} right ones and "
            f"{100 * self.false_accepts:.1f} % of {self.wrong} wrong ones ({faults})."
        )


def labels(folder: Path = EYE) -> list[Label]:
    """The labels, in the order of the pictures."""
    return [
        Label(**json.loads(line))
        for line in (folder / "labels.jsonl").read_text(encoding="utf-8").splitlines()
    ]


def pictures(folder: Path = EYE) -> list[Image.Image]:
    """The pictures of the set, SIDE pixels a side."""
    sheet = np.asarray(Image.open(folder / "pictures.webp").convert("RGB"))
    cells = (
        sheet.reshape(sheet.shape[0] // SIDE, SIDE, COLUMNS, SIDE, 3)
        .swapaxes(1, 2)
        .reshape(-1, SIDE, SIDE, 3)
    )
    return [Image.fromarray(cell) for cell in cells[: len(labels(folder))]]


def agreement(verifier: Verifier, folder: Path = EYE) -> EyeErrors:
    """How far a verifier agrees with the eye: it accepts a picture where it finds the class that was asked for."""
    known, images = labels(folder), pictures(folder)
    accepted: dict[str, list[bool]] = defaultdict(list)
    for start in range(0, len(known), BATCH):
        some = known[start : start + BATCH]
        with torch.inference_mode():
            seen = verifier.look(to_pixels(images[start : start + BATCH]))
        for label, one in zip(some, seen, strict=True):
            found = best(one.objects, label.concept)
            accepted[label.eye].append(bool(found) and found[0].score > THRESHOLDS.include)
    wrong = [so for name in FAULTS for so in accepted[name]]
    faults = {
        name: (_share(accepted[name]), len(accepted[name])) for name in FAULTS if accepted[name]
    }
    return EyeErrors(
        _share(accepted[RIGHT]), _share(wrong), len(accepted[RIGHT]), len(wrong), faults
    )


def _share(so: Sequence[bool]) -> float:
    return sum(so) / max(len(so), 1)


def pack(table: Path, out: Path = EYE) -> int:
    """Write the set from a CSV of picture, concept, eye and model, pictures beside it; how many there are. Raises KalpanaError where a line
    is none of ours."""
    rows = list(csv.DictReader(table.open(encoding="utf-8")))
    for number, row in enumerate(rows, 2):
        if row.get("concept") not in lexicon() or row.get("eye") not in (RIGHT, *FAULTS):
            raise KalpanaError(
                f"{table}, line {number}: write a lexicon id as concept, and as eye one of {', '.join((RIGHT, *FAULTS))}"
            )
    sheet = Image.new("RGB", (COLUMNS * SIDE, -(-len(rows) // COLUMNS) * SIDE))
    for k, row in enumerate(rows):
        sheet.paste(
            read_picture(table.parent / row["picture"]), (k % COLUMNS * SIDE, k // COLUMNS * SIDE)
        )
    out.mkdir(parents=True, exist_ok=True)
    sheet.save(out / "pictures.webp", "WEBP", lossless=True, method=6)
    lines = (
        json.dumps({"concept": row["concept"], "eye": row["eye"], "model": row["model"]}) + "\n"
        for row in rows
    )
    (out / "labels.jsonl").write_text("".join(lines), encoding="utf-8")
    return len(rows)


def main() -> None:
    from kalpana.evaluate.verifiers.verifier import DetectorVerifier

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "verifier", type=Path, nargs="+", help="folders of verifiers, such as weights/verifier-b"
    )
    parser.add_argument(
        "--pack",
        type=Path,
        metavar="CSV",
        help="first make the set again from this table and the pictures beside it",
    )
    asked = parser.parse_args()
    try:
        if asked.pack:
            print(f"{pack(asked.pack)} pictures")
        for folder in asked.verifier:
            print(f"{folder.name}: {agreement(DetectorVerifier.load(folder)).markdown()}")
    except KalpanaError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
