"""Pictures labelled."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from kalpana.cli.console import lines_of, print_json
from kalpana.cli.options import Device, Json, Seer
from kalpana.types import KalpanaError

if TYPE_CHECKING:
    from PIL.Image import Image


def classify(
    pictures: Annotated[list[Path], typer.Argument(metavar="PICTURE...", help="pictures, or folders with pictures at any depth")],
    labels: Annotated[str | None, typer.Option(help='what they may show, as "a cat, a dog, a person"')] = None,
    labels_file: Annotated[str | None, typer.Option(help="a text file of labels, one a line; - is stdin")] = None,
    top: Annotated[int, typer.Option(min=1, help="how many labels of each picture to print, the likeliest first")] = 5,
    sigmoid: Annotated[
        bool | None, typer.Option("--sigmoid/--softmax", help="each label by itself, or one out of all; by default as the model learned")
    ] = None,
    model: Seer = "clip",
    device: Device = None,
    as_json: Json = False,
) -> None:
    """Say which of the given labels fits each picture best, and how likely; exit code 1 where some pictures cannot be read."""
    from kalpana.request import shorten
    from kalpana.understand.classify import checked, directions, sentences
    from kalpana.understand.encoder import PICTURES, load
    from kalpana.understand.folder import shown

    listed = [label for label in (labels or "").split(",") if label.strip()]
    given = checked([*listed, *(lines_of(labels_file, "labels") if labels_file else ())])
    encoder = load(model, device)
    vectors = directions(encoder, given, sigmoid=sigmoid)
    for label in given:
        if cut := encoder.words.cut(max(sentences(label), key=len)):
            print(f"warning: label {shorten(label)} is too long for model {model!r}, which does not read {shorten(cut)}", file=sys.stderr)
    if unknown := dict.fromkeys(word for label in given for word in encoder.unknown(label)):
        print(f"warning: model {model!r} never met {', '.join(unknown)}; it may miss them", file=sys.stderr)
    found, broken, reading = list[dict[str, Any]](), 0, opened(pictures)
    while batch := list(islice(reading, PICTURES)):
        images = []
        for path, picture in batch:
            if isinstance(picture, str):
                print(f"not read: {shown(path)}: {picture}", file=sys.stderr)
                broken += 1
            else:
                images.append((path, picture))
        chances = encoder.probabilities(encoder.images([picture for _, picture in images]), vectors, sigmoid)
        for (path, _), row in zip(images, chances, strict=True):
            best = row.topk(min(top, len(given)))
            said = [{"label": given[k], "probability": p} for p, k in zip(best.values.tolist(), best.indices.tolist(), strict=True)]
            found.append({"path": path.encode("utf-8", "backslashreplace").decode(), "labels": said})
            if not as_json:
                print(f"{shown(path)}: " + ", ".join(f"{each['label']} {each['probability']:.1%}" for each in said), flush=True)
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
