"""Best-of-n: of several candidates for a picture, keeps the one with the highest CLIP similarity
to the prompt.

It wraps the generation of a request, as guidance wraps a denoiser, and is independent of the model
family. Each candidate is an ordinary picture with its own seed (``Request.candidates``), so the one
kept can be generated again from its seed alone, without the others and without the CLIP.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import chain
from typing import Protocol

from PIL.Image import Image
from torch import Tensor

from kalpana.errors import shorten
from kalpana.request import Request, clean
from kalpana.types import KalpanaError, Output, Result, Step

Draw = Callable[[Request], Iterator[Step]]


class Words(Protocol):
    """Limits of a model's text input: ``cut`` returns the end of a text that exceeds its length,
    and ``unknown`` the words of a text that the model does not know."""

    def cut(self, text: str, /) -> str: ...
    def unknown(self, text: str, /) -> tuple[str, ...]: ...


class Ranker(Protocol):
    """A joint encoder of images and texts, such as CLIP: unit vectors (n, d) in one space.
    ``fingerprint`` is the hash of its weights. ``understand.encoder.load`` returns one."""

    @property
    def name(self) -> str: ...
    @property
    def fingerprint(self) -> str: ...
    @property
    def words(self) -> Words: ...
    def images(self, images: Sequence[Image], /) -> Tensor: ...
    def texts(self, texts: Sequence[str], /) -> Tensor: ...


def best(
    draw: Draw, request: Request, ranker: Ranker | None, together: int, label: str | None = None
) -> Iterator[Step]:
    """The stream of a request with ``best_of`` above 1. It is made of streams of ``draw``, each
    with at most ``together`` candidates, or with all candidates of one picture. Without a prompt,
    ``label`` is the name of the class that the pictures are ranked by.

    A picture has the seed of the candidate that was kept, and its receipt lists all candidates.
    Raises KalpanaError at the call, before the first Step, if there is no ranker, or as ``draw``.
    """
    if ranker is None or isinstance(ranker, str):
        raise KalpanaError(
            f"best_of {request.best_of} needs a CLIP to rank by: "
            "give rank_by=load('clip'), or of a folder, "
            "where load is kalpana.understand.encoder.load"
        )
    request = request.seeded()
    first, *others = parts = list(request.parts(together))
    # The first stream is made at once, so that its errors are raised before the first Step.
    streams = chain((draw(_candidates(first)),), (draw(_candidates(part)) for part in others))
    return _select(request, parts, streams, ranker, clean(request.prompt or label or ""))


def _candidates(request: Request) -> Request:
    """The request for all candidates of the pictures of a request, picture by picture."""
    seeds = [each for seed in request.each_seed() for each in request.candidates(seed)]
    return request.updated(n=len(seeds), seed=None, seeds=seeds, best_of=1)


def _select(
    request: Request,
    parts: Sequence[Request],
    streams: Iterator[Iterator[Step]],
    ranker: Ranker,
    text: str,
) -> Iterator[Step]:
    """The stream of a request: the steps of its candidates' streams, counted on from one stream to
    the next, and a Result of the candidates nearest to a text."""
    began, done = time.perf_counter(), 0  # done: steps of the streams before
    text_features, warnings = ranker.texts([text])[0], _warnings(ranker, text)
    pictures: list[Output] = []
    for k, (part, stream) in enumerate(zip(parts, streams, strict=True)):
        for step in stream:
            # All streams have the same number of steps.
            index, total = done + step.index, done + step.total * (len(parts) - k)
            eta = (time.perf_counter() - began) / index * (total - index)
            if step.result is None:
                yield replace(step, index=index, total=total, eta=eta)
        assert step.result is not None
        remaining, done = iter(step.result.outputs), index
        warnings = list(dict.fromkeys([*step.result.warnings, *warnings]))
        for seed in part.each_seed():
            candidates = [next(remaining) for _ in range(request.best_of)]
            image_features = ranker.images([each.image for each in candidates])
            scores: list[float] = (image_features @ text_features).tolist()
            kept = candidates[scores.index(max(scores))]
            ranking = {
                "seed": seed,
                "ranked_by": {"name": ranker.name, "sha256": ranker.fingerprint},
                "candidates": [
                    {"seed": each.seed, "score": round(score, 6)}
                    for each, score in zip(candidates, scores, strict=True)
                ],
            }
            changes = {"request": request.to_json(), "warnings": warnings, "best_of": ranking}
            pictures.append(replace(kept, receipt=kept.receipt | changes))
        if done < total:
            yield Step(done, total, None, eta, stage="rank")
    yield Step(
        total, total, None, 0.0, stage="rank", result=Result(tuple(pictures), tuple(warnings))
    )


def _warnings(ranker: Ranker, text: str) -> list[str]:
    """The warnings for the user about text that the ranker cuts off or does not know."""
    warnings = []
    if cut := ranker.words.cut(text):
        warnings.append(
            f"best_of: the prompt is too long for model {ranker.name!r}, "
            f"which ranks without {shorten(cut)}"
        )
    if unknown := ranker.words.unknown(text):
        warnings.append(
            f"best_of: model {ranker.name!r} never met {shorten(', '.join(unknown))}; "
            "it may rank without"
        )
    return warnings
