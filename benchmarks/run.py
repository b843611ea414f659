"""Run every benchmark in its own process; write the table of docs/benchmarks.md: `make bench`."""

from __future__ import annotations

import argparse
import datetime
import os
import platform
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

HERE = Path(__file__).parent
DOCUMENT = HERE.parent / "docs" / "benchmarks.md"
MARK = "<!-- below: written by make bench -->\n"
SCRIPTS = ("world", "vae", "train", "warm", "cold", "search", "embed", "tokens", "video")


def machine() -> str:
    """The processor, its cores, the memory and the versions, in one line."""
    facts = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    names = [
        line.partition(":")[2].strip()
        for line in facts.splitlines()
        if line.startswith("model name")
    ]
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    parts = [
        names[0] if names else platform.processor() or platform.machine(),
        f"{os.cpu_count()} cores",
        f"{memory:.0f} GiB",
        f"{platform.system()}, Python {platform.python_version()}",
        *(f"{package} {version(package)}" for package in ("torch", "kalpana")),
    ]
    return " · ".join(parts)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--quick",
        action="store_true",
        help="only check that every script runs; nothing is written",
    )
    quick = parser.parse_args().quick
    lines = ["| what | value | target | how |", "|---|---|---|---|"]
    print(*lines, sep="\n", flush=True)
    for script in SCRIPTS:
        with subprocess.Popen(
            [sys.executable, HERE / f"{script}.py", *(["--quick"] if quick else [])],
            stdout=subprocess.PIPE,
            text=True,
        ) as process:
            assert process.stdout is not None
            for line in process.stdout:
                print(line, end="", flush=True)
                if line.startswith("|"):  # a row, and not output of the profiler
                    lines.append(line.rstrip())
        if process.returncode:
            raise SystemExit(f"benchmarks/{script}.py failed; docs/benchmarks.md is as it was")
    if not quick:
        prose = DOCUMENT.read_text(encoding="utf-8").partition(MARK)[0]
        dated = f"{datetime.date.today().isoformat()} · {machine()}"
        DOCUMENT.write_text(
            f"{prose}{MARK}\n{dated}\n\n" + "\n".join(lines) + "\n", encoding="utf-8"
        )
        print(f"\nwritten to {DOCUMENT.relative_to(HERE.parent)}: {dated}")


if __name__ == "__main__":
    main()
