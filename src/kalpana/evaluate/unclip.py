"""Accuracy of unCLIP by the source of its CLIP vectors: none, the prior, the text vector itself,
and the true picture, with the text in the decoder and without.

The true picture of a prompt is a scene that it describes. Its vector in the decoder is the upper
bound of any prior, and also says what a variation keeps.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from kalpana.evaluate.prompts import Prompt
from kalpana.evaluate.score import atoms, right
from kalpana.evaluate.verifiers.observations import Verifier
from kalpana.pipelines.diffusion import noise
from kalpana.pipelines.unclip import (
    UnclipPipeline,
    draw,
    drawn_vector,
    picture_vectors,
    text_vectors,
)
from kalpana.request import ask
from kalpana.world.render import render

# Sources of the vector, and whether the decoder has the text too.
ROADS = (
    ("none", True),
    ("prior", True),
    ("prior", False),
    ("text vector", True),
    ("text vector", False),
    ("true picture", True),
    ("true picture", False),
)
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Accuracy:
    """Over ``count`` prompts: ``right`` is the share of pictures that are right, ``atoms`` that of
    the facts of their prompts that hold, and ``cosine`` the mean cosine of the vectors to those of
    the true pictures."""

    vector: str
    with_text: bool
    count: int
    right: float
    atoms: float
    cosine: float


@torch.no_grad()
def measure(
    model: UnclipPipeline,
    verifier: Verifier,
    prompts: Sequence[Prompt],
    progress: Progress,
    steps: int | None = None,
) -> list[Accuracy]:
    """Accuracy of each road, and last that of the true pictures themselves, over the prompts."""
    rows, done = [], 0
    pixels = [
        render([prompt.scene(random.Random(f"{prompt.text}/true"))], 128).pixels
        for prompt in prompts
    ]
    true = torch.cat([picture_vectors(model, each) for each in pixels])
    for vector, with_text in ROADS:
        z, seen = _vectors(model, vector, prompts, true), list[Tensor]()
        for row, prompt in zip(z, prompts, strict=True):
            text = prompt.text if with_text else ""
            seed = prompt.seeds(1)[0]
            seen.append(_picture(model, text, row[None], seed, steps, vector == "none"))
            done += 1
            progress(done, len(ROADS) * len(prompts))
        rows.append(_accuracy(model, verifier, prompts, seen, vector, with_text, z, true))
    rows.append(_accuracy(model, verifier, prompts, pixels, "the true pictures", True, true, true))
    return rows


def _accuracy(
    model: UnclipPipeline,
    verifier: Verifier,
    prompts: Sequence[Prompt],
    pixels: Sequence[Tensor],
    vector: str,
    with_text: bool,
    z: Tensor,
    true: Tensor,
) -> Accuracy:
    seen = [verifier.look(each)[0] for each in pixels]
    facts = [atoms(prompt, one) for prompt, one in zip(prompts, seen, strict=True)]
    correct = [right(prompt, one) for prompt, one in zip(prompts, seen, strict=True)]
    cosine = (model.standard.inverse(z) * model.standard.inverse(true)).sum(1).mean()
    count = len(prompts)
    share = sum(sum(each) / len(each) for each in facts) / count
    return Accuracy(vector, with_text, count, sum(correct) / count, share, float(cosine))


def _vectors(model: UnclipPipeline, vector: str, prompts: Sequence[Prompt], true: Tensor) -> Tensor:
    """Standardised vectors (b, d) for the prompts from one source."""
    if vector == "prior":
        return torch.cat([drawn_vector(model, each.text, each.seeds(1)[0]) for each in prompts])
    if vector == "text vector":
        return text_vectors(model, [each.text for each in prompts])
    return true if vector == "true picture" else torch.zeros_like(true)


def _picture(
    model: UnclipPipeline, text: str, z: Tensor, seed: int, steps: int | None, without: bool
) -> Tensor:
    """The picture (1, 3, h, w) of a vector (1, d), or ``without`` one, and of a text if not ""."""
    # A request without any input is refused, and here the vector is one.
    asked = ask(text or "no text", seed=seed, steps=steps)
    request = model.capabilities.resolve(asked)[0].model_copy(update={"prompt": text})
    assert request.width and request.height  # resolved
    shape = model.decoder.codec.shape(request.height, request.width)
    *_, last = draw(model, request, z, noise([seed], shape).to(z), 1.0 if without else 0.0)
    assert last.pixels is not None
    return last.pixels.clamp(-1, 1).cpu()


def markdown(rows: Sequence[Accuracy]) -> str:
    """Table of the roads."""
    lines = [
        "| vector from | text in the decoder | right | facts | cosine to the true vector |",
        "|---|---|---:|---:|---:|",
    ]
    for row in rows:
        text = "yes" if row.with_text else "no"
        cosine = "–" if row.vector == "none" else f"{row.cosine:.2f}"
        lines.append(
            f"| {row.vector} | {text} | {100 * row.right:.0f} | {100 * row.atoms:.0f} | {cosine} |"
        )
    return "\n".join(lines) + f"\n\n{rows[0].count} prompts, one picture each, in per cent."
