"""Rows of the benchmark table, and the timer of all benchmarks."""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from unittest.mock import MagicMock


@dataclass(frozen=True)
class Row:
    """One measurement: its name, the value with its unit, the target or "–", and the method."""

    what: str
    value: str
    target: str
    how: str

    def __str__(self) -> str:
        return f"| {self.what} | {self.value} | {self.target} | {self.how} |"


def duration(work: Callable[[], object], seconds: float) -> float:
    """Median seconds of a call of ``work``.

    Calls fill ``seconds``, at least one, after one call to warm up.
    """
    work()
    taken: list[float] = []
    while not taken or sum(taken) < seconds:
        start = time.perf_counter()
        work()
        taken.append(time.perf_counter() - start)
    return statistics.median(taken)


@contextmanager
def stand_ins(names: Sequence[str]) -> Iterator[None]:
    """Mock modules of these names, so that a peer can be imported that needs but never calls them.

    Modules that are already imported stay.
    """
    absent = [name for name in names if name not in sys.modules]
    sys.modules |= {name: MagicMock() for name in absent}
    try:
        yield
    finally:
        for name in absent:
            del sys.modules[name]


def main(rows: Callable[[bool], Iterator[Row]]) -> None:
    """Print each row as soon as it is measured.

    ``--quick`` only shows that the script works; its numbers mean nothing.
    """
    parser = argparse.ArgumentParser(description=sys.modules["__main__"].__doc__)
    parser.add_argument(
        "--quick",
        action="store_true",
        help="smallest sizes and one call each: the numbers mean nothing",
    )
    quick = parser.parse_args().quick
    for row in rows(quick):
        print(row, flush=True)
