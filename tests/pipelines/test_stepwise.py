"""A blocking function as an iterator of its steps."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from kalpana.pipelines.stepwise import stepwise


def counting(log: list[str], until: int = 3) -> Callable[[Callable[[int], None]], str]:
    def function(report: Callable[[int], None]) -> str:
        try:
            for k in range(until):
                log.append(f"work {k}")
                report(k)
            return "result"
        finally:
            log.append("end")

    return function


def test_steps_come_one_by_one_and_the_result_last() -> None:
    log, steps = list[str](), list[int]()

    def run() -> Iterator[int]:
        result = yield from stepwise(counting(log))
        assert result == "result"

    for k in run():
        assert log[-1] == f"work {k}"  # the function waits
        steps.append(k)
    assert steps == [0, 1, 2] and log[-1] == "end"


def test_closing_ends_the_function_at_its_report() -> None:
    log = list[str]()
    steps = stepwise(counting(log, 1000))
    assert next(steps) == 0 and next(steps) == 1
    steps.close()
    assert log == ["work 0", "work 1", "end"]
    assert not [each for each in threading.enumerate() if each.name == "stepwise"]


def test_a_function_that_was_never_started_does_nothing() -> None:
    log = list[str]()
    stepwise(counting(log)).close()
    assert log == []


def test_errors_are_raised_in_the_iterator_and_turns_have_a_context() -> None:
    inside = [False]

    @contextmanager
    def around() -> Iterator[None]:
        inside[0] = True
        yield
        inside[0] = False

    def fail(report: Callable[[int], None]) -> None:
        assert inside[0]
        report(0)
        raise ZeroDivisionError("of the function")

    steps = stepwise(fail, around)
    assert next(steps) == 0 and not inside[0]
    with pytest.raises(ZeroDivisionError, match="of the function"):
        next(steps)
