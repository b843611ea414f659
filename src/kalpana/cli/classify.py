"""The ``classify`` command: zero-shot classification of pictures."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from kalpana.cli.console import lines_of
from kalpana.cli.options import ClipName, Device, Json
from kalpana.cli.pictures import tell

if TYPE_CHECKING:
    from PIL.Image import Image


def classify(
    pictures: Annotated[
        list[Path],
        typer.Argument(
            metavar="PICTURE...", help="pictures, or folders with pictures at any depth"
        ),
    ],
    labels: Annotated[
        str | None, typer.Option(help='the labels, as "a cat, a dog, a person"')
    ] = None,
    labels_file: Annotated[
        str | None, typer.Option(help="a text file of labels, one a line; - is stdin")
    ] = None,
    top: Annotated[
        int,
        typer.Option(min=1, help="how many labels of each picture to print, most likely first"),
    ] = 5,
    sigmoid: Annotated[
        bool | None,
        typer.Option(
            "--sigmoid/--softmax",
            help="each label by itself, or one out of all; by default as the model was trained",
        ),
    ] = None,
    model: ClipName = "clip",
    device: Device = None,
    as_json: Json = False,
) -> None:
    """Classify pictures with the given labels: the best labels of each picture, with probabilities.

    Exit code 1 where some pictures cannot be read.
    """
    from kalpana.errors import shorten
    from kalpana.text.normalize import clean
    from kalpana.understand.classify import checked, directions, sentences
    from kalpana.understand.encoder import PICTURES, load
    from kalpana.understand.photographs import photographic, warning

    listed = [label for label in clean(labels or "").split(",") if label.strip()]
    given = checked([*listed, *(lines_of(labels_file, "labels") if labels_file else ())])
    encoder = load(model, device)
    vectors = directions(encoder, given, sigmoid=sigmoid)
    for label in given:
        if cut := encoder.words.cut(max(sentences(label), key=len)):
            print(
                f"warning: label {shorten(label)} is too long for model {model!r}, "
                f"which does not read {shorten(cut)}",
                file=sys.stderr,
            )
    if unknown := dict.fromkeys(word for label in given for word in encoder.unknown(label)):
        print(
            f"warning: model {model!r} never met {', '.join(unknown)}; it may miss them",
            file=sys.stderr,
        )

    seen = photographs = 0

    def predictions(images: list[Image]) -> Iterator[tuple[dict[str, Any], str]]:
        nonlocal seen, photographs
        seen, photographs = seen + len(images), photographs + sum(map(photographic, images))
        for row in encoder.probabilities(encoder.images(images), vectors, sigmoid):
            best = row.topk(min(top, len(given)))
            predicted = [
                {"label": given[k], "probability": p}
                for p, k in zip(best.values.tolist(), best.indices.tolist(), strict=True)
            ]
            line = ", ".join(f"{entry['label']} {entry['probability']:.1%}" for entry in predicted)
            yield {"labels": predicted}, line

    try:
        tell(pictures, PICTURES, predictions, as_json)
    finally:
        message = warning(model, photographs, seen)
        if message and not encoder.photographs:
            print(f"warning: {message}", file=sys.stderr)
