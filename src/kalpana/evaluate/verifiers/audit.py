"""A verifier checked by eye: sheets of a run's pictures with their prompts and without the verdicts, and the table of both.

``python -m kalpana.evaluate.verifiers.audit RUN`` writes audit-1.png and so on, and audit.csv with a line for each picture. Write y, n or ? (cannot
tell) behind each, looking at the sheets alone, and run the command again: it prints how eye and verifier agree.
"""

from __future__ import annotations

import argparse
import csv
import json
import random
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from kalpana.evaluate.run import VERDICTS, first
from kalpana.evaluate.suites import Prompt, load
from kalpana.media import read_picture
from kalpana.types import KalpanaError
from kalpana.world.sheet import captioned

PICTURES, A_SHEET = 100, 20
ANSWERS = {"y": "right", "n": "wrong", "?": "cannot tell"}


def choose(prompts: Sequence[Prompt], names: Sequence[str], count: int, seed: int = 0) -> list[str]:
    """``count`` of the pictures (file names that begin with the prompt's number), as many of each task as of any other, in random
    order."""
    rng = random.Random(seed)
    tasks: dict[str, list[str]] = {}
    for name in sorted(names):
        tasks.setdefault(prompts[int(name.split("-")[0])].task, []).append(name)
    for mine in tasks.values():
        rng.shuffle(mine)
    chosen = [mine[k] for k in range(count) for mine in tasks.values() if k < len(mine)][:count]
    return rng.sample(chosen, len(chosen))


def ask(
    run: Path, prompts: Sequence[Prompt], verdicts: dict[str, bool], count: int = PICTURES
) -> Path:
    """Write the sheets and the list to fill in into the run's folder; where the list is."""
    chosen = choose(prompts, list(verdicts), count)
    for k in range(0, len(chosen), A_SHEET):
        some = chosen[k : k + A_SHEET]
        images = [read_picture(run / name) for name in some]
        texts = [
            f"{k + i + 1}. {prompts[int(name.split('-')[0])].text}" for i, name in enumerate(some)
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
    """The confusion table in Markdown, in all and by task. Raises KalpanaError where an answer is none of y, n and ?."""
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
        "| task | agree | verifier too kind | verifier too strict |",
        "|---|---:|---:|---:|",
    ]
    for task in dict.fromkeys(["all", *(prompt.task for prompt in prompts)]):
        agree, kind, strict = (
            counts[task, "y", True] + counts[task, "n", False],
            counts[task, "n", True],
            counts[task, "y", False],
        )
        if agree + kind + strict:
            lines.append(f"| {task} | {agree} of {agree + kind + strict} | {kind} | {strict} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path, help="the folder of a run of kalpana evaluate")
    parser.add_argument("--pictures", type=int, default=PICTURES)
    options = parser.parse_args()
    try:
        about = json.loads((options.run / "run.json").read_text(encoding="utf-8"))
        verdicts = json.loads((options.run / VERDICTS).read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise SystemExit(
            f"error: {error.filename} is not there: give the folder of a finished run of kalpana evaluate"
        ) from None
    suite = about["suite"]
    prompts = first(load(suite.removesuffix("-dev"), suite.endswith("-dev")), about["limit"])
    path = options.run / "audit.csv"
    if not path.exists():
        print(
            f"look at the sheets in {options.run} and fill in {ask(options.run, prompts, verdicts, options.pictures)}"
        )
        return
    with path.open(encoding="utf-8", newline="") as file:
        try:
            print(table(list(csv.DictReader(file)), prompts, verdicts), end="")
        except KalpanaError as error:
            raise SystemExit(f"error: {error}") from None


if __name__ == "__main__":
    main()
