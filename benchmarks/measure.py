"""A row of the table of measurements, and the clock that fills it."""

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
    """One measurement: what was measured, the value with its unit, the target or "–", and how it was taken."""

    what: str
    value: str
    target: str
    how: str

    def __str__(self) -> str:
        return f"| {self.what} | {self.value} | {self.target} | {self.how} |"


def duration(work: Callable[[], object], seconds: float) -> float:
    """Seconds a call of ``work`` takes: the median over the calls that fill ``seconds``, at least one, after one to warm up."""
    work()
    taken: list[float] = []
    while not taken or sum(taken) < seconds:
        start = time.perf_counter()
        work()
        taken.append(time.perf_counter() - start)
    return statistics.median(taken)


@contextmanager
def stand_ins(names: Sequence[str]) -> Iterator[None]:
    """Inside, a peer can be imported that imports modules of these names and calls nothing of them here; those there already stay."""
    absent = [name for name in names if name not in sys.modules]
    sys.modules |= {name: MagicMock() for name in absent}
    try:
        yield
    finally:
        for name in absent:
            del sys.modules[name]


def main(rows: Callable[[bool], Iterator[Row]]) -> None:
    """Print each row as soon as it is measured; ``--quick`` only shows that the script works, its numbers mean nothing."""
    parser = argparse.ArgumentParser(description=sys.modules["__main__"].__doc__)
    parser.add_argument(
        "--quick",
        action="store_true",
        help="the smallest sizes, one call each: numbers without meaning",
    )
    quick = parser.parse_args().quick
    for row in rows(quick):
        print(row, flush=True)
