"""Pictures named on a command line, read and told of one after another."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from kalpana.cli.console import print_json
from kalpana.types import KalpanaError

if TYPE_CHECKING:
    from PIL.Image import Image

Say = Callable[
    ["list[Image]"], Iterable[tuple[dict[str, Any], str]]
]  # of each picture what goes into JSON, and the same as a line


def tell(pictures: Sequence[Path], together: int, say: Say, as_json: bool) -> None:
    """Print what ``say`` says of each picture, ``together`` at a time, and name those that cannot be read; exit code 1 where some cannot.
    Raises KalpanaError where none can be read."""
    from kalpana.understand.folder import shown

    found, broken, reading = list[dict[str, Any]](), 0, opened(pictures)
    while batch := list(islice(reading, together)):
        images = []
        for path, picture in batch:
            if isinstance(picture, str):
                print(f"not read: {shown(path)}: {picture}", file=sys.stderr)
                broken += 1
            else:
                images.append((path, picture))
        for (path, _), (fields, line) in zip(
            images, say([picture for _, picture in images]), strict=True
        ):
            found.append({"path": path.encode("utf-8", "backslashreplace").decode(), **fields})
            if not as_json:
                print(f"{shown(path)}: {line}", flush=True)
    if as_json:
        print_json(found)
    if not found:
        raise KalpanaError(f"none of the pictures can be read ({broken} tried)")
    raise typer.Exit(1 if broken else 0)


def opened(given: Sequence[Path]) -> Iterator[tuple[str, Image | str]]:
    """Each picture, and those in each folder by path, read as it is asked for; or why it cannot be read."""
    from kalpana.understand.folder import read_image, walk

    for path in given:
        files, closed = walk(path) if path.is_dir() else ([], [])
        yield from ((str(path / os.fsdecode(each.path)), each.reason) for each in closed)
        if path.is_dir() and not files:
            yield str(path), "there are no pictures in it"
        for each in [path / os.fsdecode(file.path) for file in files] if path.is_dir() else [path]:
            try:
                yield str(each), read_image(each)
            except KalpanaError as error:
                yield str(each), str(error).removeprefix(f"{each} cannot be read: ")
