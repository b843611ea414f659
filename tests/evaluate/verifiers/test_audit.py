"""Human audit: the sheets cover every task without verdicts, and the table counts the answers."""

from __future__ import annotations

import csv
import json
from collections import Counter
from pathlib import Path

import pytest
from PIL import Image
from typer.testing import CliRunner

from kalpana.cli import app
from kalpana.evaluate.run import VERDICTS, first
from kalpana.evaluate.suites import load
from kalpana.evaluate.verifiers.audit import ask, choose, table
from kalpana.types import KalpanaError

PROMPTS = first(load("spriteeval", dev=True), 5)
NAMES = [f"{i:04d}-{k}.png" for i in range(len(PROMPTS)) for k in range(4)]


def test_every_task_is_looked_at_alike_and_the_order_gives_nothing_away() -> None:
    chosen = choose(PROMPTS, NAMES, 24)
    assert set(Counter(PROMPTS[int(name[:4])].task for name in chosen).values()) == {4}
    assert len(set(chosen)) == 24 and chosen != sorted(chosen)
    assert choose(PROMPTS, NAMES[::-1], 24) == chosen
    assert set(choose(PROMPTS, NAMES[:7], 100)) == set(NAMES[:7])


def test_answers_become_a_confusion_table(tmp_path: Path) -> None:
    verdicts = {name: k % 3 > 0 for k, name in enumerate(NAMES)}
    for name in NAMES:
        Image.new("RGB", (128, 128)).save(tmp_path / name)
    path = ask(tmp_path, PROMPTS, verdicts, count=30)
    assert sorted(p.name for p in tmp_path.glob("audit*")) == [
        "audit-1.png",
        "audit-2.png",
        "audit.csv",
    ]
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 30 and "True" not in path.read_text()
    with pytest.raises(KalpanaError, match="picture 1 has the answer ''"):
        table(rows, PROMPTS, verdicts)
    for row in rows:  # a person who agrees with the verifier except for two pictures
        row["eye"] = "y" if verdicts[row["picture"]] else "n"
    right = next(row for row in rows if row["eye"] == "y")
    wrong = next(row for row in rows if row["eye"] == "n")
    right["eye"], wrong["eye"] = "N", "?"
    said = table(rows, PROMPTS, verdicts)
    yes = sum(row["eye"] == "y" for row in rows)
    assert f"| right | {yes} | 0 |\n| wrong | 1 | {30 - yes - 2} |\n| cannot tell | 0 | 1 |" in said
    assert "| all | 28 of 29 | 1 | 0 |" in said


@pytest.mark.slow
def test_the_command_asks_first_and_then_counts(tmp_path: Path) -> None:
    command = ["evaluate", "audit", str(tmp_path), "--pictures", "6"]
    missing = CliRunner().invoke(app, command)
    assert missing.exit_code == 2 and missing.stderr.count("\n") == 1
    assert "run.json is not there" in missing.stderr
    (tmp_path / "run.json").write_text(json.dumps({"suite": "spriteeval-dev", "limit": 5}))
    (tmp_path / VERDICTS).write_text(json.dumps(dict.fromkeys(NAMES, True)))
    for name in NAMES:
        Image.new("RGB", (128, 128)).save(tmp_path / name)
    assert "audit.csv" in CliRunner().invoke(app, command).stdout
    path = tmp_path / "audit.csv"
    path.write_text(
        "\n".join(line + ("" if "eye" in line else "y") for line in path.read_text().splitlines())
    )
    assert "| right | 6 | 0 |" in CliRunner().invoke(app, command).stdout
