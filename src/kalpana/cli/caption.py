"""Pictures put into words."""

from __future__ import annotations

import sys
from itertools import islice
from pathlib import Path
from typing import Annotated, Any

import typer

from kalpana.cli.classify import opened
from kalpana.cli.console import print_json
from kalpana.cli.options import Device, Json
from kalpana.types import KalpanaError


def caption(
    pictures: Annotated[list[Path], typer.Argument(metavar="PICTURE...", help="pictures, or folders with pictures at any depth")],
    model: Annotated[str, typer.Option(help="a DALL-E: a name from `kalpana models`, or a folder of weights")] = "dalle",
    language: Annotated[
        str | None, typer.Option(help="language of the words, en or hi; without it the model chooses for each picture")
    ] = None,
    device: Device = None,
    as_json: Json = False,
) -> None:
    """Say in words what each picture shows; exit code 1 where some pictures cannot be read."""
    from kalpana.generate import load
    from kalpana.generate.drawer import TOGETHER
    from kalpana.generate.text_to_tokens import TextToTokens
    from kalpana.understand.folder import shown

    teller = load(model, device)
    if not isinstance(teller, TextToTokens):
        raise KalpanaError(f"model {teller.name!r} is of family {teller.family!r}, which says nothing of pictures: name a DALL-E")
    teller.caption([], language)  # a mistake is found before the first picture is read
    found, broken, reading = list[dict[str, Any]](), 0, opened(pictures)
    while batch := list(islice(reading, TOGETHER)):
        images = []
        for path, picture in batch:
            if isinstance(picture, str):
                print(f"not read: {shown(path)}: {picture}", file=sys.stderr)
                broken += 1
            else:
                images.append((path, picture))
        for (path, _), text in zip(images, teller.caption([picture for _, picture in images], language), strict=True):
            found.append({"path": path.encode("utf-8", "backslashreplace").decode(), "caption": text})
            if not as_json:
                print(f"{shown(path)}: {text}", flush=True)
    if as_json:
        print_json(found)
    if not found:
        raise KalpanaError(f"none of the pictures can be read ({broken} tried)")
    raise typer.Exit(1 if broken else 0)
