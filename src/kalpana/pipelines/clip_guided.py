"""Words to pictures by VQGAN+CLIP, asked as every other model is: the CLIP and the VQGAN that come with Kalpana, or a folder's own.

Nothing of it was trained to draw, and a card is all it is shipped as. What a request has no field for, such as other canvases, starts and
ingredients, ``vqgan_clip`` takes.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from kalpana.hub.card import Card, clip_of, vqgan_of
from kalpana.pipelines.image_parameters import Canvas, load_canvas
from kalpana.pipelines.pipeline import Progress, answer
from kalpana.pipelines.rerank import Ranker
from kalpana.pipelines.vqgan_clip import Prompt, Settings, parse, vqgan_clip
from kalpana.request import USUAL, Capabilities, Request, ask
from kalpana.types import Step
from kalpana.understand.encoder import Encoder
from kalpana.understand.encoder import load as load_encoder


@dataclass(frozen=True)
class TextByClip:
    """A CLIP and what it has drawn on, whole and ready; ``files`` maps the weights of both to their SHA-256."""

    name: str
    family: str
    capabilities: Capabilities
    files: dict[str, str]
    clip: Encoder
    canvas: Canvas

    @classmethod
    def read(cls, folder: Path, card: Card, device: str | None = None) -> TextByClip:
        """The model whose card is in a folder. Raises KalpanaError where there is no CLIP or VQGAN, or as the ``load`` of either."""
        clip = load_encoder(str(clip_of(folder)), device)
        pictures = vqgan_of(folder)
        canvas = load_canvas("vqgan", pictures.parent, device)
        return cls(
            name=card.name,
            family=card.family,
            capabilities=card.capabilities or USUAL[card.family],
            files={"clip": clip.fingerprint, pictures.stem: canvas.about["sha256"]},
            clip=clip,
            canvas=canvas,
        )

    @property
    def device(self) -> torch.device:
        return self.clip.model.logit_scale.device

    def generate(
        self, request: Request | str, *, rank_by: Ranker | None = None, **fields: Any
    ) -> Iterator[Step]:
        """A Step for each step of optimisation; the last one carries the Result. Closing the iterator cancels.

        The prompt may be several with weights, as "a castle:1 | fog:0.5 | text:-1"; a negative prompt is one more, of weight -1. Cutouts
        are never mirrored, so that left and right mean something.

        Raises KalpanaError at once where the request asks for what cannot be done.
        """
        return answer(
            self, self.clip.words, ask(request, **fields), self._draw, rank_by, together=1
        )

    def _draw(self, request: Request) -> Iterator[Progress]:
        assert request.steps and request.width and request.height  # settled
        (seed,) = request.each_seed()
        prompts = parse(request.prompt) + (
            () if request.negative_prompt is None else (Prompt(request.negative_prompt, -1.0),)
        )
        settings, size = Settings(steps=request.steps, flip=0), (request.width, request.height)
        for step in vqgan_clip(prompts, self.clip, self.canvas, settings, seed, size=size):
            yield Progress(
                step.stage, step.total, step.preview, step.preview if step.result else None
            )
