"""Cost of one `kalpana generate` from a cold start: wall seconds and peak memory."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from measure import Row, main

KALPANA = Path(sys.executable).with_name("kalpana")
PROMPT = "three red apples to the left of a blue car"


def launch(*arguments: str) -> tuple[float, float]:
    """Wall seconds and peak resident memory (GiB) of one run of the command in a new process."""
    start = time.perf_counter()
    process = subprocess.Popen(
        [KALPANA, *arguments], stdout=subprocess.DEVNULL, stdin=subprocess.DEVNULL
    )
    _, status, usage = os.wait4(process.pid, 0)
    wall = time.perf_counter() - start
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"kalpana {' '.join(arguments)} failed")
    return wall, usage.ru_maxrss / (2**30 if sys.platform == "darwin" else 2**20)


def rows(quick: bool) -> Iterator[Row]:
    times = 1 if quick else 5
    with tempfile.TemporaryDirectory() as folder:
        short = ["--steps", "2"] if quick else []
        runs = [
            launch("generate", PROMPT, "--seed", str(seed), "--out", folder, *short)
            for seed in range(times)
        ]
    helps = [launch("--help")[0] for _ in range(times)]
    imports = []
    for _ in range(times):
        start = time.perf_counter()
        subprocess.run([sys.executable, "-c", "import kalpana"], check=True)
        imports.append(time.perf_counter() - start)
    how = f"median of {times} new processes, files in the page cache"
    yield Row(
        "generate: cold, one picture",
        f"{statistics.median(wall for wall, _ in runs):.1f} s",
        "≤ 6 s",
        how,
    )
    yield Row(
        "generate: peak memory",
        f"{max(memory for _, memory in runs):.2f} GiB",
        "≤ 1.5 GB",
        "resident, the largest of those runs",
    )
    yield Row("`kalpana --help`", f"{statistics.median(helps):.2f} s", "≤ 0.5 s", how)
    yield Row(
        "`import kalpana`",
        f"{statistics.median(imports):.2f} s",
        "≤ 0.3 s",
        how + ", starting Python included",
    )


if __name__ == "__main__":
    main(rows)
