"""Captions of pictures by the name of a model."""

from __future__ import annotations

from collections.abc import Sequence

from kalpana.media import Picture, as_images
from kalpana.pipelines import load
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
) -> list[str]:
    """Captions of pictures, one string for each, in their order.

    ``images`` are PIL images, paths or bytes of picture files, or one of these. ``language`` is
    "en" or "hi"; None: the model chooses one for each picture. ``model`` is a DALL-E.

        kalpana.caption("apples.png", language="hi")

    Raises KalpanaError if a picture cannot be read, or the model cannot caption, or not in this
    language.
    """
    return captioner(model, device).caption(as_images(images), language)
