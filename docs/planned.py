"""Planned layouts before and after, for docs/control.md: ``python docs/planned.py OUT``.

Dev prompts of four suites, evenly spaced, two seeds each, with and without a planned layout, by
verifier A. Pictures and verdicts go to OUT, and a run in it is resumed; the figure with the planned
maps is written next to this file. Prompts and seeds were fixed before any result was seen.
"""

from __future__ import annotations

import json
import random
import sys
from collections import Counter
from pathlib import Path

from kalpana.evaluate.score import right
from kalpana.evaluate.suites import load
from kalpana.evaluate.verifiers.verifier import DetectorVerifier
from kalpana.hub.card import find_model
from kalpana.media import to_images, to_pixels
from kalpana.pipelines import last
from kalpana.pipelines import load as load_model
from kalpana.pipelines.planner import plan_layout
from kalpana.world.sheet import captioned

EVERY = {"counts58": 10, "hard": 12, "unseen": 30, "spriteeval": 40}  # every so many prompts
PLANS, SEEDS = ("words", "layout"), 2
FIGURE = (
    "exactly seven stars",
    "आठ लाल सेब",
    "a rocket above the moon",
    "a small cat and a large dog",
)


def measure(out: Path) -> None:
    """Append the verdicts that are missing in OUT/verdicts.jsonl: correct, and strictly correct."""
    out.mkdir(parents=True, exist_ok=True)
    model, verifier = load_model("default"), DetectorVerifier.load(find_model("verifier-a"))
    prompts = [
        (suite, prompt) for suite, step in EVERY.items() for prompt in load(suite, True)[::step]
    ]
    random.Random(0).shuffle(prompts)
    file = out / "verdicts.jsonl"
    done = len(file.read_text(encoding="utf-8").splitlines()) if file.exists() else 0
    for k, (suite, prompt) in enumerate(prompts[done:], start=done):
        row: dict[str, object] = {"suite": suite, "prompt": prompt.text}
        for plan in PLANS:
            seeds = tuple(prompt.seeds(SEEDS))
            outputs = last(model.generate(prompt.text, seeds=seeds, plan=plan)).outputs
            for i, output in enumerate(outputs):
                output.save(out / f"{k:03}-{plan}-{i}.png")
            seen = verifier.look(to_pixels([output.image for output in outputs]))
            row[plan] = [[right(prompt, each), right(prompt, each, True)] for each in seen]
        with file.open("a", encoding="utf-8") as lines:
            lines.write(json.dumps(row, ensure_ascii=False) + "\n")


def table(out: Path) -> str:
    """The shares of correct pictures in per cent, and the pictures gained and lost, as Markdown."""
    rows = [json.loads(line) for line in (out / "verdicts.jsonl").open(encoding="utf-8")]
    text = "| dev prompts | pictures | words | layout | gained | lost | strict words | layout |\n"
    text += "|---|---:|---:|---:|---:|---:|---:|---:|\n"
    for suite in (*EVERY, "all"):
        mine = [row for row in rows if suite in (row["suite"], "all")]
        pairs = [pair for row in mine for pair in zip(row["words"], row["layout"], strict=True)]
        loose = Counter((before[0], after[0]) for before, after in pairs)
        n = len(pairs)
        before, after, *strict = (
            f"{100 * sum(pair[side][kind] for pair in pairs) / n:.0f}"
            for kind in (0, 1)
            for side in (0, 1)
        )
        cells = (suite, n, before, after, loose[False, True], loose[True, False], *strict)
        text += f"| {' | '.join(map(str, cells))} |\n"
    return text


def figure(path: Path) -> None:
    """A row for each prompt: two planned maps and the pictures with them, and without."""
    model, cells = load_model("default"), []
    for prompt in FIGURE:
        pictures = {
            plan: last(model.generate(prompt, seeds=(0, 1), plan=plan)).outputs for plan in PLANS
        }
        for seed in (0, 1):
            plan = plan_layout(prompt, seed)
            assert plan is not None
            cells += [
                (f"planned: {prompt}", to_images(2 * plan.map[None] - 1)[0]),
                ("with the layout", pictures["layout"][seed].image),
                ("without", pictures["words"][seed].image),
            ]
    sheet = captioned([image for _, image in cells], [text for text, _ in cells], columns=6)
    sheet.save(path, quality=90)


if __name__ == "__main__":
    measure(Path(sys.argv[1]))
    print(table(Path(sys.argv[1])), end="")
    figure(Path(__file__).with_suffix(".webp"))
