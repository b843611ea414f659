"""Benchmarks in their smallest form: they run, and say what they measured. Their numbers are for machines with nothing else to do."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

SHARED = ("measure", "run")  # what the others are made with, and what runs them all
SCRIPTS = [
    path
    for path in sorted((Path(__file__).parents[1] / "benchmarks").glob("*.py"))
    if path.stem not in SHARED
]


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_a_benchmark_runs(script: Path) -> None:
    done = subprocess.run(
        [sys.executable, script, "--quick"],
        capture_output=True,
        text=True,
        timeout=300,
        cwd=script.parent,
    )
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert all(line.count(" | ") >= 3 for line in lines)
    assert (
        lines or "left out" in done.stderr
    )  # a peer, or what it needs, is not installed, and that is said
