"""Human audit of a verifier: sheets of a run's pictures without verdicts, and the confusion table.

    kalpana evaluate audit RUN

The first call writes audit-1.png and so on, and audit.csv with a row for each picture. Write y, n
or ? (cannot tell) into the last column, looking at the sheets alone, and run the command again: it
prints the agreement of person and verifier.
"""

from __future__ import annotations

import csv
import json
import random
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from kalpana.evaluate.prompts import Prompt
from kalpana.evaluate.run import VERDICTS, first
from kalpana.evaluate.suites import load
from kalpana.media import read_picture
from kalpana.types import KalpanaError
from kalpana.world.sheet import captioned

PICTURES, A_SHEET = 100, 20
ANSWERS = {"y": "right", "n": "wrong", "?": "cannot tell"}


def choose(prompts: Sequence[Prompt], names: Sequence[str], count: int, seed: int = 0) -> list[str]:
    """File names of ``count`` pictures, balanced over the tasks, in random order.

    A file name begins with the number of its prompt.
    """
    rng = random.Random(seed)
    tasks: dict[str, list[str]] = {}
    for name in sorted(names):
        tasks.setdefault(prompts[int(name.split("-")[0])].task, []).append(name)
    for group in tasks.values():
        rng.shuffle(group)
    chosen = [group[k] for k in range(count) for group in tasks.values() if k < len(group)][:count]
    return rng.sample(chosen, len(chosen))


def ask(
    run: Path, prompts: Sequence[Prompt], verdicts: dict[str, bool], count: int = PICTURES
) -> Path:
    """Write the sheets and the table to fill in into the run's folder; returns the table's path."""
    chosen = choose(prompts, list(verdicts), count)
    for k in range(0, len(chosen), A_SHEET):
        batch = chosen[k : k + A_SHEET]
        images = [read_picture(run / name) for name in batch]
        texts = [
            f"{k + i + 1}. {prompts[int(name.split('-')[0])].text}" for i, name in enumerate(batch)
        ]
        captioned(images, texts, columns=5).save(run / f"audit-{k // A_SHEET + 1}.png")
    path = run / "audit.csv"
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("number", "picture", "prompt", "eye"))
        writer.writerows(
            (k + 1, name, prompts[int(name.split("-")[0])].text, "")
            for k, name in enumerate(chosen)
        )
    return path


def table(
    rows: Sequence[dict[str, str]], prompts: Sequence[Prompt], verdicts: dict[str, bool]
) -> str:
    """Confusion table of person and verifier in Markdown, over all pictures and by task.

    Raises KalpanaError if an answer is not y, n or ?.
    """
    counts: Counter[tuple[str, str, bool]] = Counter()
    for row in rows:
        eye = row["eye"].strip().lower()
        if eye not in ANSWERS:
            raise KalpanaError(
                f"picture {row['number']} has the answer {row['eye']!r}: write y, n or ?"
            )
        for task in ("all", prompts[int(row["picture"].split("-")[0])].task):
            counts[task, eye, verdicts[row["picture"]]] += 1
    lines = ["| by eye | verifier: right | verifier: wrong |", "|---|---:|---:|"]
    lines += [
        f"| {name} | {counts['all', eye, True]} | {counts['all', eye, False]} |"
        for eye, name in ANSWERS.items()
    ]
    lines += [
        "",
        "| task | agree | verifier too lenient | verifier too strict |",
        "|---|---:|---:|---:|",
    ]
    for task in dict.fromkeys(["all", *(prompt.task for prompt in prompts)]):
        agree = counts[task, "y", True] + counts[task, "n", False]
        lenient, strict = counts[task, "n", True], counts[task, "y", False]
        total = agree + lenient + strict
        if total:
            lines.append(f"| {task} | {agree} of {total} | {lenient} | {strict} |")
    return "\n".join(lines) + "\n"


def audit(run: Path, pictures: int = PICTURES) -> str:
    """What to do next, where a run has no audit.csv (written then); else the confusion table.

    Raises KalpanaError if the run is not finished, or an answer is not one of ANSWERS.
    """
    try:
        about = json.loads((run / "run.json").read_text(encoding="utf-8"))
        verdicts = json.loads((run / VERDICTS).read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise KalpanaError(
            f"{error.filename} is not there: give the folder of a finished run of kalpana evaluate"
        ) from None
    suite = about["suite"]
    prompts = first(load(suite.removesuffix("-dev"), suite.endswith("-dev")), about["limit"])
    path = run / "audit.csv"
    if not path.exists():
        answers = ask(run, prompts, verdicts, pictures)
        return f"look at the sheets in {run} and fill in {answers}\n"
    with path.open(encoding="utf-8", newline="") as file:
        return table(list(csv.DictReader(file)), prompts, verdicts)
