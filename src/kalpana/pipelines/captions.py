"""Captions of pictures and videos by the name of a model."""

from __future__ import annotations

import os
from collections.abc import Sequence

from PIL import Image

from kalpana.media import Picture, as_images, is_video, read_keyframes
from kalpana.pipelines import load, video_captions
from kalpana.pipelines.text_to_tokens import TextToTokens
from kalpana.types import KalpanaError


def captioner(model: str = "dalle", device: str | None = None) -> TextToTokens:
    """The model of a name or folder, if it captions pictures. Raises KalpanaError if it does not,
    and as ``load``."""
    pipeline = load(model, device)
    if not isinstance(pipeline, TextToTokens):
        raise KalpanaError(
            f"model {pipeline.name!r} is of family {pipeline.family!r}, which says nothing of "
            "pictures: name a DALL-E"
        )
    return pipeline


def caption(
    images: Picture | Sequence[Picture],
    language: str | None = None,
    model: str = "dalle",
    device: str | None = None,
    video_model: str = video_captions.FAMILY,
) -> list[str]:
    """Captions of pictures and videos, one string for each, in their order.

    ``images`` are PIL images, paths or bytes of files of pictures or videos, or one of these.
    ``language`` is "en" or "hi"; None: the model chooses one for each. ``model`` is a DALL-E, which
    captions pictures, and ``video_model`` a video captioner; each is loaded if it is needed.

        kalpana.caption("apples.png", language="hi")
        kalpana.caption("clip.mp4", language="en")

    Raises KalpanaError if a file cannot be read, or a model cannot caption, or not in this
    language.
    """
    given = [images] if isinstance(images, Image.Image | str | os.PathLike | bytes) else images
    videos = {
        k: each
        for k, each in enumerate(given)
        if not isinstance(each, Image.Image) and is_video(each)
    }
    stills, texts = [k for k in range(len(given)) if k not in videos], dict[int, str]()
    if stills or not given:
        images = as_images([given[k] for k in stills])
        texts |= zip(stills, captioner(model, device).caption(images, language), strict=True)
    if videos:
        pipeline = video_captions.load(video_model, device)
        frames = [read_keyframes(each, pipeline.frames, pipeline.size) for each in videos.values()]
        texts |= zip(videos, pipeline.caption(frames, language), strict=True)
    return [texts[k] for k in range(len(given))]
