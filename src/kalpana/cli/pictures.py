"""Reads the pictures named on a command line in batches and prints one result for each."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import typer

from kalpana.cli.console import print_json
from kalpana.types import KalpanaError

# For each picture of a batch: the fields of the JSON output, and the text of the text output.
Say = Callable[[list[Any]], Iterable[tuple[dict[str, Any], str]]]
Read = Callable[[Path], Any]  # reads a file, or raises KalpanaError


def tell(
    pictures: Sequence[Path], together: int, say: Say, as_json: bool, read: Read | None = None
) -> None:
    """Prints the result of ``say`` for each picture, in batches of ``together``; ``read`` reads a
    file, by default as a picture.

    Pictures that cannot be read are listed on stderr; they make the exit code 1.
    Raises: KalpanaError where no picture can be read.
    """
    from kalpana.understand.folder import shown

    found, broken, reading = list[dict[str, Any]](), 0, opened(pictures, read)
    while batch := list(islice(reading, together)):
        images = []
        for path, picture in batch:
            if isinstance(picture, str):
                print(f"not read: {shown(path)}: {picture}", file=sys.stderr)
                broken += 1
            else:
                images.append((path, picture))
        results = say([picture for _, picture in images])
        for (path, _), (fields, line) in zip(images, results, strict=True):
            found.append({"path": path.encode("utf-8", "backslashreplace").decode(), **fields})
            if not as_json:
                for part in line.splitlines() or [""]:
                    print(f"{shown(path)}: {part}", flush=True)
    if not found:
        raise KalpanaError(f"none of the pictures can be read ({broken} tried)")
    if as_json:
        print_json(found)
    raise typer.Exit(1 if broken else 0)


def opened(given: Sequence[Path], read: Read | None = None) -> Iterator[tuple[str, Any]]:
    """Yields (path, picture) for each picture, and for those in each folder sorted by path.

    In place of a picture that cannot be read: the reason.
    """
    from kalpana.understand.folder import read_image, walk

    for path in given:
        files, closed = walk(path) if path.is_dir() else ([], [])
        yield from ((str(path / os.fsdecode(entry.path)), entry.reason) for entry in closed)
        if path.is_dir() and not files:
            yield str(path), "there are no pictures in it"
        inside = [path / os.fsdecode(file.path) for file in files]
        for picture in inside if path.is_dir() else [path]:
            try:
                yield str(picture), (read or read_image)(picture)
            except KalpanaError as error:
                yield str(picture), str(error).removeprefix(f"{picture} cannot be read: ")
