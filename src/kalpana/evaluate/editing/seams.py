"""Seams of inpainting: what a model fills in, against the true picture.

The box of one object of a dev scene, and a margin around it, is generated anew by the scene's
prompt. The seam is how much the steps of colour across the border of the mask differ from the true
ones; verifier A says whether the object is in the mask. A model that was trained with known latents
is also measured without them, as every other model inpaints (``diffusion.editing.inpaint``).
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn as nn
from PIL import Image
from torch import Tensor

from kalpana.evaluate.editing.edits import asking, autoencoded, generated
from kalpana.evaluate.editing.estimate import Estimate, mean, share, table
from kalpana.evaluate.prompts import Prompt
from kalpana.evaluate.score import THRESHOLDS
from kalpana.evaluate.suites import places_for, spriteeval
from kalpana.evaluate.verifiers.observations import Observation, Verifier, best
from kalpana.media import to_images, to_pixels
from kalpana.pipelines.diffusion import DiffusionPipeline
from kalpana.pipelines.pipeline import Pipeline
from kalpana.request import ask
from kalpana.types import Cond
from kalpana.world import maps
from kalpana.world.render import render
from kalpana.world.scene import Group, Scene
from kalpana.world.sheet import captioned

MARGIN = 6  # pixels around the object's box that are generated anew, too
WAYS = {
    "grey": "grey in the mask (floor)",
    "training-free": "training-free",
    "trained": "trained input",
    "autoencoded": "true, autoencoded (ceiling)",
}
SHOWN = {
    "grey": "",
    "training-free": "training-free",
    "trained": "trained input",
    "true": "true render",
}
Box = tuple[int, int, int, int]  # left, top, right, bottom in pixels, ends excluded
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Hole:
    """A dev scene by its prompt, the group of the object to be filled in, and the masked box."""

    prompt: Prompt
    scene: Scene
    group: Group
    box: Box


@dataclass(frozen=True)
class Seam:
    """Scores of one ``way``, a key of WAYS: the seam in 8-bit levels, and the share of pictures
    with the object in the mask."""

    way: str
    count: int
    seam: Estimate
    object: Estimate


class WithoutKnown(nn.Module):
    """A network that was trained with known latents, run without them."""

    def __init__(self, network: Any) -> None:
        super().__init__()
        self.network, self.config = network, network.config
        self.reads = tuple(name for name in network.reads if name != "known")

    def forward(self, x_t: Tensor, t: Tensor, cond: Cond) -> Tensor:
        prediction: Tensor = self.network(x_t, t, cond)
        return prediction


def models(model: Pipeline) -> dict[str, Pipeline]:
    """The model by way of inpainting: also without its trained input, where it works without."""
    if not isinstance(model, DiffusionPipeline) or "known" not in model.network.reads:
        return {"training-free": model}
    if not getattr(model.network, "blends", False):  # it needs the known latents
        return {"trained": model}
    free = replace(model, network=WithoutKnown(model.network))
    return {"training-free": free, "trained": model}


def measure(model: Pipeline, verifier: Verifier, count: int, progress: Progress) -> list[Seam]:
    """Scores of a model's inpainting over ``count`` dev scenes."""
    scores: dict[str, list[tuple[float, bool]]] = {}
    for i, hole in enumerate(holes(count)):
        true = render([hole.scene]).pixels
        for way, pixels in _pictures(model, hole, true):
            (seen,) = verifier.look(pixels)
            scores.setdefault(way, []).append(
                (seam(pixels, true, mask_of(hole)), inside(hole, seen))
            )
        progress(i + 1, count)
    rows = []
    for way in WAYS:
        if way in scores:
            levels, found = zip(*scores[way], strict=True)
            rows.append(Seam(way, count, mean(levels), share(found)))
    return rows


def holes(count: int) -> Iterator[Hole]:
    """``count`` different dev scenes of two coloured objects in a place, the same for the same
    number."""
    prompts = [prompt for prompt in spriteeval(dev=True) if prompt.task == "color_attr"]
    rng = random.Random("seams")
    for prompt in rng.sample(prompts, count):
        prompt = asking(prompt.groups, rng.choice(places_for(prompt.groups)))
        scene, k = prompt.scene(rng), rng.randrange(2)
        at = next(i for i, item in enumerate(scene.objects) if item.group == k)
        whole = render([scene], masks=True).whole
        assert whole is not None
        x0, y0, x1, y1 = maps.boxes(whole[0])[at].tolist()
        side = whole[0].shape[-1]
        box = (
            max(x0 - MARGIN, 0),
            max(y0 - MARGIN, 0),
            min(x1 + MARGIN, side),
            min(y1 + MARGIN, side),
        )
        yield Hole(prompt, scene, scene.groups[k], box)


def mask_of(hole: Hole, side: int = 128) -> Tensor:
    """The mask (h, w) of a hole: true where the picture is generated anew."""
    mask = torch.zeros(side, side, dtype=torch.bool)
    x0, y0, x1, y1 = hole.box
    mask[y0:y1, x0:x1] = True
    return mask


def _pictures(model: Pipeline, hole: Hole, true: Tensor) -> Iterator[tuple[str, Tensor]]:
    """The pictures (1, 3, h, w) of a hole by way."""
    mask = mask_of(hole)
    yield "grey", torch.where(mask, torch.zeros(()), true)
    request = ask(
        hole.prompt.text,
        image=to_images(true)[0],
        mask=Image.fromarray(mask.numpy()).convert("L"),
        seed=hole.prompt.seeds(1)[0],
    )
    for way, each in models(model).items():
        yield way, to_pixels([generated(each, request)])
    if (coded := autoencoded(model, true)) is not None:
        yield "autoencoded", torch.where(mask, coded, true)


def seam(pixels: Tensor, true: Tensor, mask: Tensor) -> float:
    """Mean absolute error, in 8-bit levels, of the steps between neighbouring pixels on both sides
    of the border of a mask (h, w), against those of the true picture (1, 3, h, w)."""
    errors = []
    for axis in (-1, -2):
        across = mask.diff(dim=axis)  # of bool: where neighbours differ
        wrong = pixels.diff(dim=axis) - true.diff(dim=axis)
        errors.append(wrong[..., across].flatten())
    return float(torch.cat(errors).abs().mean()) * 127.5


def inside(hole: Hole, seen: Observation) -> bool:
    """Whether the object with its colour is detected with its centre in the mask."""
    x0, y0, x1, y1 = (edge / 128 for edge in hole.box)
    return any(
        item.score > THRESHOLDS.include
        and item.color == hole.group.color
        and x0 <= (item.box[0] + item.box[2]) / 2 <= x1
        and y0 <= (item.box[1] + item.box[3]) / 2 <= y1
        for item in best(seen.objects, hole.group.concept)
    )


def sheet(model: Pipeline, count: int) -> Image.Image:
    """A sheet with a row for each of ``count`` scenes: its hole, what each way fills in, and the
    true picture."""
    images, texts = [], []
    for hole in holes(count):
        true = render([hole.scene]).pixels
        shown = [(way, pixels) for way, pixels in _pictures(model, hole, true) if way in SHOWN]
        for way, pixels in [*shown, ("true", true)]:
            images += to_images(pixels)
            texts.append(hole.prompt.text if way == "grey" else SHOWN[way])
    return captioned(images, texts, columns=len(images) // count)


def markdown(rows: Sequence[Seam]) -> str:
    """The scores as a Markdown table."""
    lines = [
        [WAYS[row.way], row.seam.text(digits=1), row.object.text(100), str(row.count)]
        for row in rows
    ]
    return table(("in the mask", "seam, 8-bit levels", "object right, %", "pictures"), lines)
