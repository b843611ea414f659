"""Smoke tests of the benchmarks with --quick: they run and print a table.

The numbers are not checked, since they need an idle machine.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

SHARED = ("measure", "run")  # the helper module, and the script that runs all benchmarks
SCRIPTS = [
    path
    for path in sorted((Path(__file__).parents[1] / "benchmarks").glob("*.py"))
    if path.stem not in SHARED
]


@pytest.mark.slow
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
    # Without output, a peer or its dependency is not installed, and stderr says so.
    assert lines or "left out" in done.stderr
