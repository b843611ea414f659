"""Terminal input and output of the commands: lines of text, progress bars, JSON, and Ctrl-C."""

from __future__ import annotations

import io
import json
import os
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from kalpana.types import KalpanaError, Result, Step


def prepare() -> None:
    """Makes the standard streams safe to use: no output raises because of its characters.

    A closed stream becomes the null device. Characters that a stream's encoding lacks are written
    as backslash escapes.
    """
    for number, (name, mode) in enumerate((("stdin", "r"), ("stdout", "w"), ("stderr", "w"))):
        if getattr(sys, name) is None:
            descriptor = os.open(os.devnull, os.O_RDWR)  # the lowest free one: often ``number``
            if descriptor != number:
                os.dup2(descriptor, number)
                os.close(descriptor)
            raw = io.FileIO(number, mode, closefd=False)
            setattr(sys, name, io.TextIOWrapper(raw, "utf-8"))
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def use_utf8() -> None:
    """Starts the program again in Python's UTF-8 mode (PEP 540) where the locale is not UTF-8.

    Arguments and file names are UTF-8 then, as on most disks; the standard streams keep their
    encoding.
    """
    if sys.getfilesystemencoding() != "utf-8" and not sys.flags.utf8_mode:
        os.environ.setdefault("PYTHONIOENCODING", getattr(sys.stdout, "encoding", "utf-8"))
        os.execv(sys.executable, [sys.executable, "-X", "utf8", *sys.orig_argv[1:]])


def unicode_output() -> bool:
    """Whether stdout can encode every character."""
    return (sys.stdout.encoding or "").lower().replace("-", "").startswith("utf")


def lines_of(name: str, what: str = "prompts") -> list[str]:
    """Lines of a UTF-8 text file, without blank ones; "-" is stdin.

    Raises: KalpanaError where it cannot be read; ``what`` names its content in the message.
    """
    try:
        data = sys.stdin.buffer.read() if name == "-" else Path(name).read_bytes()
        return [line for line in data.decode("utf-8-sig").splitlines() if line.strip()]
    except OSError as error:
        raise KalpanaError(f"{what} cannot be read from {name}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise KalpanaError(f"{what} cannot be read from {name}: it is not UTF-8 text") from None


@contextmanager
def asked_to_stop() -> Iterator[list[int]]:
    """Context that delays Ctrl-C: the first one is appended to the yielded list, the second raises.

    The caller stops at a safe point, so that no picture is lost while it is written.
    """
    signals: list[int] = []

    def handler(number: int, frame: object) -> None:
        signals.append(number)
        signal.signal(signal.SIGINT, signal.default_int_handler)

    before = signal.signal(signal.SIGINT, handler)
    try:
        yield signals
    finally:
        signal.signal(signal.SIGINT, before)


def watch(stream: Iterator[Step], label: str = "", stop: Sequence[int] = ()) -> Result:
    """Runs a stream of steps to its result, with a progress bar and the warnings on stderr.

    Raises: KeyboardInterrupt at the first step after ``stop`` became non-empty, unless that step
    carries the result.
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
    # By default, Rich redirects stdout to stderr meanwhile, including the printed paths.
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
    """Context with a progress bar on stderr that shows the remaining time.

    Yields ``progress(done, total, label=label)``.
    """
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
    """Prints a value as indented JSON, with \\u escapes where stdout has no Unicode."""
    print(json.dumps(value, ensure_ascii=not unicode_output(), indent=2))
