"""The Pipeline interface of all generating models, and the shared code that turns the output of
a model, batch by batch, into a stream of steps that ends in pictures or videos with receipts."""

from __future__ import annotations

import time
import unicodedata
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from PIL.Image import Image
from torch import Tensor

from kalpana import __version__
from kalpana.capabilities import Capabilities
from kalpana.media import to_images, to_pixels
from kalpana.pipelines.editing import Edit, read_edit
from kalpana.pipelines.rerank import Ranker, Words, best
from kalpana.pipelines.upscale import load_upscaler, upscale
from kalpana.request import Request, clean
from kalpana.text.tokenizer import language
from kalpana.text.transliterate import hint, transliterate
from kalpana.types import KalpanaError, Output, Result, Step, Video
from kalpana.world.expansion import expand

TOGETHER = 8  # largest batch of pictures: more take memory and gain no speed
TEXTS = "prompt", "negative_prompt", "source_prompt"  # fields of a request that the model reads
TOLD = 12  # most unknown words that a warning lists


class Pipeline(Protocol):
    """A loaded model that answers requests; ``files`` maps its file names to their SHA-256."""

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
        """A stream of steps, one for each generation step; the last one carries the Result.
        Closing the iterator cancels.

        Raises KalpanaError at the call, before the first Step, if the request needs a capability
        that the model lacks, or has ``best_of`` above 1 without a ranker.
        """
        ...


@dataclass(frozen=True)
class Progress:
    """One generation step of a batch, one of ``total``, the same number for every batch of a
    request: a ``preview`` (b, 3, h, w) in [-1, 1], or None, and in the last step the ``pixels``
    (b, 3, h, w). Videos have shape (b, f, 3, h, w). ``facts`` are added to the receipts, one for
    each picture."""

    stage: str
    total: int
    preview: Tensor | None
    pixels: Tensor | None = None
    facts: tuple[Mapping[str, Any], ...] = ()


# Generates the pictures of a resolved request, which fit into one batch, from its input picture.
Draw = Callable[[Request, Edit | None], Iterator[Progress]]


class NoWords:
    """The text input of a model that reads no text: nothing is cut off and no word is unknown."""

    def cut(self, text: str, /) -> str:
        return ""

    def unknown(self, text: str, /) -> tuple[str, ...]:
        return ()


@dataclass(frozen=True)
class Taught:
    """The text input of a model that knows some more words, in lower case."""

    words: Words
    more: set[str]

    def cut(self, text: str, /) -> str:
        return self.words.cut(text)

    def unknown(self, text: str, /) -> tuple[str, ...]:
        return tuple(w for w in self.words.unknown(text) if w.casefold() not in self.more)


def answer(
    model: Pipeline,
    words: Words,
    request: Request,
    draw: Draw,
    rank_by: Ranker | None = None,
    more: Mapping[str, Any] | None = None,
    together: int = TOGETHER,
    notes: tuple[str, ...] = (),
    read: Callable[[Request], Edit | None] = read_edit,
) -> Iterator[Step]:
    """The stream of ``Pipeline.generate`` for a model that reads text by ``words``, the input
    picture by ``read``, and generates batches of at most ``together`` pictures by ``draw``.
    ``more`` is added to the receipts, and ``notes`` to the warnings.

    Raises KalpanaError at the call, as ``Pipeline.generate`` and ``read_edit``."""
    if request.best_of > 1:
        if "seconds" in model.capabilities.uses:
            raise KalpanaError(
                f"best_of ranks pictures, and model {request.model!r} makes videos: leave it out"
            )
        return best(
            lambda each: answer(model, words, each, draw, None, more, together, notes, read),
            request,
            rank_by,
            together,
            model.capabilities.resolve(request)[0].label,
        )
    request = request.seeded()
    resolved, ignored = model.capabilities.resolve(request)
    asked, resolved, spelled = request, *_transliterated(resolved, model.capabilities)
    edit = read(resolved)
    receipt, warnings = _receipt(model, words, asked, resolved, ignored)
    warnings = (*notes, *spelled, *warnings)
    if edit is not None:
        warnings = (*warnings, *edit.warnings)
    receipt["warnings"] = list(warnings)
    together = 1 if resolved.expand else together  # each picture has a prompt of its own
    return _steps(resolved, edit, draw, receipt | dict(more or {}), warnings, together)


@torch.no_grad()
def _steps(
    request: Request,
    edit: Edit | None,
    draw: Draw,
    receipt: dict[str, Any],
    warnings: tuple[str, ...],
    together: int,
) -> Iterator[Step]:
    """The stream of a resolved request, batch by batch."""
    parts = list(request.parts(together))
    began, index, total = time.perf_counter(), 0, 0
    pictures: list[Output] = []
    for part in parts:
        seeds, own = part.each_seed(), dict[str, Any]()
        if request.expand:
            part = part.updated(prompt=_expanded(part, seeds[0]))
            own["revised_prompt"] = part.prompt
        for progress in draw(part, edit):
            index, total = index + 1, progress.total * len(parts)
            if progress.pixels is not None:
                facts = progress.facts or ({},) * len(seeds)
                for pixels, seed, more in zip(progress.pixels, seeds, facts, strict=True):
                    own |= {"seed": seed, "resolved": _resolved(request, seed)}
                    found = receipt | own | dict(more)
                    pictures.append(Output(_media(pixels, request, edit), seed, found))
            if index < total:
                eta = (time.perf_counter() - began) / index * (total - index)
                yield Step(index, total, progress.preview, eta, progress.stage)
    yield Step(total, total, None, 0.0, progress.stage, Result(tuple(pictures), warnings))


def _transliterated(
    request: Request, capabilities: Capabilities
) -> tuple[Request, tuple[str, ...]]:
    """The request with Hindi prompts in Latin letters in Devanagari, and notes for the user."""
    if "hi" not in capabilities.languages or request.language == "en":
        return request, ()
    changes, notes = dict[str, str](), list[str]()
    for name in TEXTS:
        text = getattr(request, name)
        if text and (found := transliterate(text)):
            changes[name] = found.text
            notes.append(f"{name}: {found.note}")
        elif text and (advice := hint(text)):
            notes.append(f"{name}: {advice}")
    return request.updated(**changes), tuple(notes)


def _expanded(request: Request, seed: int) -> str:
    """The expanded prompt of the picture of one seed; one of mixed language stays."""
    kind, name = "video" if request.seconds else "picture", language(request.prompt)
    return request.prompt if name == "mixed" else expand(request.prompt, seed, name, kind)


def _media(pixels: Tensor, request: Request, edit: Edit | None) -> Image | Video:
    """The picture of pixels (3, h, w), or the video of pixels (f, 3, h, w), upscaled and put back
    into the input picture where the request asks for it."""
    frames = pixels if pixels.ndim == 4 else pixels[None]
    if edit is not None and pixels.ndim == 3:
        frames = to_pixels([edit.paste(*to_images(frames))])
    if request.upscale > 1:
        frames = upscale(frames.clamp(-1, 1), request.upscale)
    images = tuple(to_images(frames))
    if pixels.ndim == 3:
        return images[0]
    assert request.fps  # resolved
    return Video(images, request.fps)


def _receipt(
    model: Pipeline, words: Words, asked: Request, resolved: Request, ignored: dict[str, str]
) -> tuple[dict[str, Any], tuple[str, ...]]:
    """The part of the receipt that all pictures of a request share, and the warnings for the user.
    ``asked`` is the request as it was given."""
    warnings = [f"{name} was ignored: {why}" for name, why in ignored.items()]
    read = {}
    for name in TEXTS:
        if not (text := getattr(resolved, name)):
            continue
        if controls := sum(
            unicodedata.category(letter) == "Cc" and not letter.isspace() for letter in text
        ):
            warnings.append(f"{name}: control characters ({controls}) were read as spaces")
        text = clean(text)
        cut, unknown = words.cut(text), words.unknown(text)
        listed = [word[:40] for word in unknown[:TOLD]]
        if cut:
            warnings.append(
                f"{name}: too long; "
                f"the last {len(cut):,} characters were not read, from {cut[:40]!r} on"
            )
        if listed:
            more = ", ..." if len(unknown) > TOLD else ""
            warnings.append(
                f"{name}: no training caption held {', '.join(listed)}{more}; "
                "the picture may miss them"
            )
        read[name] = {"language": language(text), "cut_characters": len(cut), "unknown": listed}
    receipt = {
        "kalpana": __version__,
        "torch": torch.__version__,
        "device": model.device.type,
        "request": asked.to_json(),
        "model": {
            "name": model.name,
            "family": model.family,
            "files": model.files | (load_upscaler()[1] if resolved.upscale > 1 else {}),
        },
        "read": read,
        "ignored": ignored,
        "warnings": warnings,
    }
    return receipt, tuple(warnings)


def _resolved(request: Request, seed: int) -> dict[str, Any]:
    """All fields, except the prompt, of the resolved request that generates the picture of one seed
    alone."""
    return request.updated(n=1, seed=seed, seeds=None).model_dump(mode="json", exclude={"prompt"})
