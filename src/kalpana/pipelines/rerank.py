"""Of several pictures drawn for one, the one that fits its prompt best, by the cosine of the vectors that a CLIP gives them.

It wraps whatever draws a request, as guidance wraps a denoiser, and no family hears of it. The candidates are ordinary pictures with
seeds of their own (``Request.candidates``), so the one that is kept comes again by its seed alone, without the others and the CLIP.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import chain
from typing import Protocol

from PIL.Image import Image
from torch import Tensor

from kalpana.request import Request, clean, shorten
from kalpana.types import KalpanaError, Picture, Result, Step

Draw = Callable[[Request], Iterator[Step]]


class Words(Protocol):
    """How a ranker reads: what of a text it leaves out, and the words of a text that it never met."""

    def cut(self, text: str, /) -> str: ...
    def unknown(self, text: str, /) -> tuple[str, ...]: ...


class Ranker(Protocol):
    """What puts pictures and texts into one space, as unit vectors (n, d): ``understand.encoder.load`` gives one. ``fingerprint`` is the
    hash of its weights."""

    @property
    def name(self) -> str: ...
    @property
    def fingerprint(self) -> str: ...
    @property
    def words(self) -> Words: ...
    def images(self, images: Sequence[Image], /) -> Tensor: ...
    def texts(self, texts: Sequence[str], /) -> Tensor: ...


def best(draw: Draw, request: Request, ranker: Ranker | None, together: int) -> Iterator[Step]:
    """The stream of a request with ``best_of`` above 1, out of streams of ``draw``, each of at most ``together`` candidates, or of all
    those of one picture. A picture has the seed of the candidate that was kept, and its receipt tells of the others.

    Raises KalpanaError at once, before the first Step, where there is no ranker, or where ``draw`` does.
    """
    if ranker is None or isinstance(ranker, str):
        raise KalpanaError(
            f"best_of {request.best_of} needs a CLIP to rank by: give rank_by=load('clip'), or of a folder, "
            "where load is kalpana.understand.encoder.load"
        )
    request = request.seeded()
    first, *others = parts = list(request.parts(together))
    return _keep(
        request,
        parts,
        chain((draw(_candidates(first)),), (draw(_candidates(part)) for part in others)),
        ranker,
    )


def _candidates(request: Request) -> Request:
    """The request for all that are drawn for a request, picture by picture."""
    seeds = [each for seed in request.each_seed() for each in request.candidates(seed)]
    return request.updated(n=len(seeds), seed=None, seeds=seeds, best_of=1)


def _keep(
    request: Request, parts: Sequence[Request], streams: Iterator[Iterator[Step]], ranker: Ranker
) -> Iterator[Step]:
    began, done = time.perf_counter(), 0  # steps of the streams before
    text = clean(request.prompt)
    words, warnings = ranker.texts([text])[0], _unread(ranker, text)
    pictures: list[Picture] = []
    for k, (part, stream) in enumerate(zip(parts, streams, strict=True)):
        for step in stream:
            index, total = (
                done + step.index,
                done + step.total * (len(parts) - k),
            )  # one stream is as long as another
            eta = (time.perf_counter() - began) / index * (total - index)
            if step.result is None:
                yield replace(step, index=index, total=total, eta=eta)
        assert step.result is not None
        drawn, done = iter(step.result.pictures), index
        warnings = list(dict.fromkeys([*step.result.warnings, *warnings]))
        for seed in part.each_seed():
            mine = [next(drawn) for _ in range(request.best_of)]
            scores: list[float] = (ranker.images([each.image for each in mine]) @ words).tolist()
            kept = mine[scores.index(max(scores))]
            account = {
                "seed": seed,
                "ranked_by": {"name": ranker.name, "sha256": ranker.fingerprint},
                "candidates": [
                    {"seed": each.seed, "score": round(score, 6)}
                    for each, score in zip(mine, scores, strict=True)
                ],
            }
            changes = {"request": request.to_json(), "warnings": warnings, "best_of": account}
            pictures.append(replace(kept, receipt=kept.receipt | changes))
        if done < total:
            yield Step(done, total, None, eta, stage="rank")
    yield Step(
        total, total, None, 0.0, stage="rank", result=Result(tuple(pictures), tuple(warnings))
    )


def _unread(ranker: Ranker, text: str) -> list[str]:
    """What the asker should be told of how the ranker reads the text."""
    warnings = []
    if cut := ranker.words.cut(text):
        warnings.append(
            f"best_of: the prompt is too long for model {ranker.name!r}, which ranks without {shorten(cut)}"
        )
    if unknown := ranker.words.unknown(text):
        warnings.append(
            f"best_of: model {ranker.name!r} never met {shorten(', '.join(unknown))}; it may rank without"
        )
    return warnings
