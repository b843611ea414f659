"""What all models that draw from words have in common: how they are asked, and the way from what one of them draws, part by part, to a
stream of steps that ends in pictures with receipts."""

from __future__ import annotations

import time
import unicodedata
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from kalpana import __version__
from kalpana.media import to_images
from kalpana.pipelines.rerank import Ranker, Words, best
from kalpana.pipelines.upscale import load_upscaler, upscale
from kalpana.request import Capabilities, Request, clean
from kalpana.text.tokenizer import language
from kalpana.types import Picture, Result, Step

TOGETHER = 8  # pictures drawn as one batch at most: more take memory and gain no speed
TOLD = 12  # unknown words that a warning names


class Pipeline(Protocol):
    """A model that draws from words, whole and ready; ``files`` maps its files to their SHA-256."""

    @property
    def name(self) -> str: ...
    @property
    def family(self) -> str: ...
    @property
    def capabilities(self) -> Capabilities: ...
    @property
    def files(self) -> dict[str, str]: ...
    @property
    def device(self) -> torch.device: ...
    def generate(
        self, request: Request | str, *, rank_by: Ranker | None = None, **fields: Any
    ) -> Iterator[Step]:
        """A Step for each step of drawing; the last one carries the Result. Closing the iterator cancels.

        Raises KalpanaError at once, before the first Step, where the request asks for what the model cannot do, or for the best of
        several without a ranker.
        """
        ...


@dataclass(frozen=True)
class Progress:
    """A step of drawing a part of a request, one of ``total``, which are as many in every part: a ``preview`` (b, 3, h, w), or None, and
    with the last one the ``pixels`` (b, 3, h, w)."""

    stage: str
    total: int
    preview: Tensor | None
    pixels: Tensor | None = None


Draw = Callable[
    [Request], Iterator[Progress]
]  # of a settled request for at most so many pictures as are drawn together


def answer(
    model: Pipeline,
    words: Words,
    request: Request,
    draw: Draw,
    rank_by: Ranker | None = None,
    more: Mapping[str, Any] | None = None,
    together: int = TOGETHER,
) -> Iterator[Step]:
    """The stream that ``Pipeline.generate`` promises, of a model that reads by these ``words`` and draws at most ``together`` pictures by
    ``draw``; receipts hold what is in ``more`` too."""
    if request.best_of > 1:
        return best(
            lambda each: answer(model, words, each, draw, more=more, together=together),
            request,
            rank_by,
            together,
        )
    request = request.seeded()
    settled, ignored = model.capabilities.resolve(request)
    account, warnings = _account(model, words, request, settled, ignored)
    return _steps(settled, draw, account | dict(more or {}), warnings, together)


@torch.no_grad()
def _steps(
    request: Request, draw: Draw, account: dict[str, Any], warnings: tuple[str, ...], together: int
) -> Iterator[Step]:
    parts = list(request.parts(together))
    began, index, total = time.perf_counter(), 0, 0
    pictures: list[Picture] = []
    for part in parts:
        seeds = part.each_seed()
        for beat in draw(part):
            index, total = index + 1, beat.total * len(parts)
            if beat.pixels is not None:
                pixels = (
                    beat.pixels
                    if request.upscale == 1
                    else upscale(beat.pixels.clamp(-1, 1), request.upscale)
                )
                for image, seed in zip(to_images(pixels), seeds, strict=True):
                    pictures.append(
                        Picture(
                            image,
                            seed,
                            account | {"seed": seed, "resolved": _resolved(request, seed)},
                        )
                    )
            if index < total:
                yield Step(
                    index,
                    total,
                    beat.preview,
                    (time.perf_counter() - began) / index * (total - index),
                    beat.stage,
                )
    yield Step(total, total, None, 0.0, beat.stage, Result(tuple(pictures), warnings))


def _account(
    model: Pipeline, words: Words, asked: Request, settled: Request, ignored: dict[str, str]
) -> tuple[dict[str, Any], tuple[str, ...]]:
    """What the receipts of all pictures of a request share, and what its asker should be told."""
    warnings = [f"{name} was ignored: {why}" for name, why in ignored.items()]
    read = {}
    for name, text in (("prompt", settled.prompt), ("negative_prompt", settled.negative_prompt)):
        if text is None:
            continue
        if controls := sum(
            unicodedata.category(letter) == "Cc" and not letter.isspace() for letter in text
        ):
            warnings.append(f"{name}: control characters ({controls}) were read as spaces")
        text = clean(text)
        cut, unknown = words.cut(text), words.unknown(text)
        told = [word[:40] for word in unknown[:TOLD]]
        if cut:
            warnings.append(
                f"{name}: too long; the last {len(cut):,} characters were not read, from {cut[:40]!r} on"
            )
        if told:
            more = ", ..." if len(unknown) > TOLD else ""
            warnings.append(
                f"{name}: no training caption held {', '.join(told)}{more}; the picture may miss them"
            )
        read[name] = {"language": language(text), "cut_characters": len(cut), "unknown": told}
    account = {
        "kalpana": __version__,
        "torch": torch.__version__,
        "device": model.device.type,
        "request": asked.to_json(),
        "model": {
            "name": model.name,
            "family": model.family,
            "files": model.files | (load_upscaler()[1] if settled.upscale > 1 else {}),
        },
        "read": read,
        "ignored": ignored,
        "warnings": warnings,
    }
    return account, tuple(warnings)


def _resolved(settled: Request, seed: int) -> dict[str, Any]:
    """All fields, but for the prompt, of the request that makes one of the pictures again, alone."""
    return settled.updated(n=1, seed=seed, seeds=None).model_dump(mode="json", exclude={"prompt"})
