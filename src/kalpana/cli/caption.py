"""The ``caption`` command: captions of pictures."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from kalpana.cli.options import Device, Json
from kalpana.cli.pictures import tell

if TYPE_CHECKING:
    from PIL.Image import Image


def caption(
    pictures: Annotated[
        list[Path],
        typer.Argument(
            metavar="PICTURE...", help="pictures, or folders with pictures at any depth"
        ),
    ],
    model: Annotated[
        str, typer.Option(help="a DALL-E: a name from `kalpana models`, or a folder of weights")
    ] = "dalle",
    language: Annotated[
        str | None,
        typer.Option(
            help="language of the captions, en or hi; without it the model chooses for each picture"
        ),
    ] = None,
    device: Device = None,
    as_json: Json = False,
) -> None:
    """Caption pictures with a DALL-E; exit code 1 where some pictures cannot be read."""
    from kalpana.pipelines.captions import captioner
    from kalpana.pipelines.pipeline import TOGETHER

    pipeline = captioner(model, device)
    pipeline.caption([], language)  # fails on a wrong language before the first picture is read

    def captions(images: list[Image]) -> Iterator[tuple[dict[str, Any], str]]:
        return (({"caption": text}, text) for text in pipeline.caption(images, language))

    tell(pictures, TOGETHER, captions, as_json)
