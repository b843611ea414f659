"""Stepwise call: a blocking function that reports its steps, as an iterator of them.

The function runs in a thread of its own, and only while the iterator is asked for the next step, so
that two never run at once. Closing the iterator ends the function at its next report.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import AbstractContextManager, nullcontext
from queue import SimpleQueue
from threading import Thread
from typing import Any, TypeVar

T = TypeVar("T")
R = TypeVar("R")


class Stopped(BaseException):
    """Raised in a function whose iterator was closed, by its next report."""


def stepwise(
    function: Callable[[Callable[[T], None]], R],
    around: Callable[[], AbstractContextManager[Any]] = nullcontext,
) -> Generator[T, None, R]:
    """Iterator of what ``function(report)`` reports; its result is that of the generator.

    ``around`` gives a context for each turn of the function, whose errors are raised here.
    """
    turns, answers = SimpleQueue[bool](), SimpleQueue[tuple[str, Any]]()

    def report(item: T) -> None:
        answers.put(("step", item))
        if not turns.get():
            raise Stopped

    def run() -> None:
        if not turns.get():
            return
        try:
            answers.put(("result", function(report)))
        except BaseException as error:  # raised in the thread of the iterator
            answers.put(("error", error))

    thread = Thread(target=run, name="stepwise", daemon=True)
    thread.start()
    try:
        while True:
            with around():
                turns.put(True)
                kind, value = answers.get()
            if kind == "result":
                return value
            if kind == "error":
                raise value
            yield value
    finally:
        turns.put(False)
        thread.join()
