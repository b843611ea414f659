"""VQGAN+CLIP behind the Pipeline interface: text-to-image by optimisation.

It uses the CLIP and the VQGAN shipped with Kalpana, or those of its folder. It has no weights of
its own and is shipped as a card only. For options without a request field, such as other image
parameters, initial pictures and settings, call ``vqgan_clip``.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from kalpana.capabilities import Capabilities
from kalpana.hub.card import Card, clip_of, vqgan_of
from kalpana.media import to_images
from kalpana.pipelines.editing import Edit
from kalpana.pipelines.image_parameters import Canvas, load_canvas
from kalpana.pipelines.pipeline import Progress, answer
from kalpana.pipelines.rerank import Ranker
from kalpana.pipelines.vqgan_clip import Prompt, Settings, parse, vqgan_clip
from kalpana.request import Request, ask
from kalpana.types import Step
from kalpana.understand.encoder import Encoder
from kalpana.understand.encoder import load as load_encoder


@dataclass(frozen=True)
class TextByClip:
    """A loaded VQGAN+CLIP pipeline: a CLIP and the canvas that it optimises. ``files`` maps the
    weights of both to their SHA-256."""

    name: str
    family: str
    capabilities: Capabilities = field(repr=False)
    files: dict[str, str] = field(repr=False)
    clip: Encoder = field(repr=False)
    canvas: Canvas = field(repr=False)

    @classmethod
    def read(cls, folder: Path, card: Card, device: str | None = None) -> TextByClip:
        """The pipeline of the card in a folder. Raises KalpanaError if there is no CLIP or no
        VQGAN, and as ``understand.encoder.load`` and ``load_canvas``."""
        capabilities = card.usable()
        assert capabilities is not None
        clip = load_encoder(str(clip_of(folder)), device)
        vqgan_path = vqgan_of(folder)
        canvas = load_canvas("vqgan", vqgan_path.parent, device)
        return cls(
            name=card.name,
            family=card.family,
            capabilities=capabilities,
            files={"clip": clip.fingerprint, vqgan_path.stem: canvas.about["sha256"]},
            clip=clip,
            canvas=canvas,
        )

    @property
    def device(self) -> torch.device:
        return self.clip.model.logit_scale.device

    def generate(
        self, request: Request | str, *, rank_by: Ranker | None = None, **fields: Any
    ) -> Iterator[Step]:
        """A stream of steps, one for each optimisation step; the last one carries the Result.
        Closing the iterator cancels.

        The prompt may hold several weighted prompts, as in "a castle:1 | fog:0.5 | text:-1". A
        negative prompt is added to them with weight -1. Cutouts are never mirrored, so that the
        CLIP can tell left from right. An image is where the optimisation starts.

        Raises KalpanaError at the call if the request cannot be fulfilled.
        """
        return answer(
            self, self.clip.words, ask(request, **fields), self._draw, rank_by, together=1
        )

    def _draw(self, request: Request, edit: Edit | None) -> Iterator[Progress]:
        assert request.steps and request.width and request.height  # resolved
        (seed,) = request.each_seed()
        prompts = parse(request.prompt) + (
            () if request.negative_prompt is None else (Prompt(request.negative_prompt, -1.0),)
        )
        settings, size = Settings(steps=request.steps, flip=0), (request.width, request.height)
        start: Any = "noise" if edit is None else to_images(edit.pixels)[0]
        steps = vqgan_clip(prompts, self.clip, self.canvas, settings, seed, size=size, start=start)
        for step in steps:
            pixels = step.preview if step.result else None
            yield Progress(step.stage, step.total, step.preview, pixels)
