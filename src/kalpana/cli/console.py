"""What passes between a command and its terminal: lines in, progress and JSON out, and Ctrl-C."""

from __future__ import annotations

import json
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from kalpana.types import KalpanaError, Result, Step


def lines_of(name: str, what: str = "prompts") -> list[str]:
    """The lines of a UTF-8 text file that are not blank; "-" is stdin."""
    try:
        data = sys.stdin.buffer.read() if name == "-" else Path(name).read_bytes()
        return [line for line in data.decode("utf-8-sig").splitlines() if line.strip()]
    except OSError as error:
        raise KalpanaError(f"{what} cannot be read from {name}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise KalpanaError(f"{what} cannot be read from {name}: it is not UTF-8 text") from None


@contextmanager
def asked_to_stop() -> Iterator[list[int]]:
    """Inside, the first Ctrl-C only fills the list, so that no picture is lost while it is written; a second one stops at once."""
    asked: list[int] = []

    def note(number: int, frame: object) -> None:
        asked.append(number)
        signal.signal(signal.SIGINT, signal.default_int_handler)

    before = signal.signal(signal.SIGINT, note)
    try:
        yield asked
    finally:
        signal.signal(signal.SIGINT, before)


def watch(stream: Iterator[Step], label: str = "", stop: Sequence[int] = ()) -> Result:
    """The result of a stream, its progress drawn on stderr while it runs, and its warnings printed there.

    Raises KeyboardInterrupt at the next step after ``stop`` was filled, unless that step carries the result.
    """
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[left]}"),
    )
    console = Console(stderr=True)
    # Rich would send what is printed meanwhile to stderr, paths included.
    with Progress(
        *columns,
        console=console,
        transient=True,
        redirect_stdout=False,
        disable=not console.is_terminal,
    ) as bar:
        task = bar.add_task(label, total=None, left="")
        for step in stream:
            if stop and not step.result:
                raise KeyboardInterrupt
            left = "" if step.eta is None else f"{step.eta:.0f} s left"
            bar.update(
                task,
                total=step.total,
                completed=step.index,
                description=f"{label} {step.stage}".strip(),
                left=left,
            )
    assert step.result is not None
    for warning in step.result.warnings:
        print(f"warning: {warning}", file=sys.stderr, flush=True)
    return step.result


@contextmanager
def counting(label: str) -> Iterator[Callable[..., None]]:
    """A progress bar on stderr with the time to go; inside, call ``progress(done, total)``, perhaps with another
    ``label``."""
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )

    console = Console(stderr=True)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    with Progress(
        *columns,
        console=console,
        transient=True,
        redirect_stdout=False,
        disable=not console.is_terminal,
    ) as bar:
        task = bar.add_task(label, total=None)

        def progress(done: int, total: int, label: str = label) -> None:
            bar.update(task, completed=done, total=total, description=label)

        yield progress


def print_json(value: Any) -> None:
    print(json.dumps(value, ensure_ascii=False, indent=2))
