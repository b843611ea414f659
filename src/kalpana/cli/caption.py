"""The ``caption`` command: captions of pictures and videos."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from kalpana.cli.options import Device, Json
from kalpana.cli.pictures import tell

if TYPE_CHECKING:
    from PIL.Image import Image

    from kalpana.media import Keyframes


def caption(
    files: Annotated[
        list[Path],
        typer.Argument(
            metavar="FILE...",
            help="pictures, videos (MP4, GIF, WebP and others), or folders with pictures at any "
            "depth",
        ),
    ],
    model: Annotated[
        str,
        typer.Option(
            help="a DALL-E, for pictures: a name from `kalpana models`, or a folder of weights"
        ),
    ] = "dalle",
    video_model: Annotated[
        str, typer.Option(help="a video captioner, for videos: a name, or a folder of weights")
    ] = "video-captioner",
    language: Annotated[
        str | None,
        typer.Option(
            help="language of the captions, en or hi; without it the model chooses for each "
            "picture, and videos have both"
        ),
    ] = None,
    device: Device = None,
    as_json: Json = False,
) -> None:
    """Caption pictures with a DALL-E, and videos with a video captioner; exit code 1 where some
    files cannot be read."""
    from kalpana.media import Keyframes, is_video, read_keyframes
    from kalpana.pipelines import video_captions
    from kalpana.pipelines.captions import captioner
    from kalpana.pipelines.pipeline import TOGETHER
    from kalpana.understand.folder import read_image

    pictures = cache(lambda: captioner(model, device))
    videos = cache(lambda: video_captions.load(video_model, device))
    # A wrong language or model is told before the first file is read.
    moving = [is_video(path) for path in files]
    if any(moving):
        videos().caption([], language)
    if not all(moving):
        pictures().caption([], language)

    def read(path: Path) -> Image | Keyframes:
        if not is_video(path):
            return read_image(path)
        return read_keyframes(path, videos().frames, videos().size)

    def captions(batch: list[Image | Keyframes]) -> Iterator[tuple[dict[str, Any], str]]:
        images = [each for each in batch if not isinstance(each, Keyframes)]
        seen = [each for each in batch if isinstance(each, Keyframes)]
        told = iter(pictures().caption(images, language) if images else ())
        languages = (language,) if language else video_captions.LANGUAGES
        columns = [videos().caption(seen, each) for each in languages] if seen else []
        rows = zip(*columns, strict=True)
        for each in batch:
            if isinstance(each, Keyframes):
                texts = next(rows)
                yield {"captions": dict(zip(languages, texts, strict=True))}, "\n".join(texts)
            else:
                text = next(told)
                yield {"caption": text}, text

    tell(files, TOGETHER, captions, as_json, read)
