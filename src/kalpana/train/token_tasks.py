"""The token models at school: DALL-E, MaskGIT and DALL-E mini learn the tokens that a trained VQGAN makes of the world's pictures.

All three see the same pictures beside captions that are worded anew each time round, some of which are left out. What they are asked
differs: what comes next, in either order; what is hidden; and what the words are in tokens of a picture.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Generator, Tensor

from kalpana.hub.weights import load_module
from kalpana.models import dalle, dalle_mini
from kalpana.models.vqgan import VQGAN
from kalpana.models.vqgan import Config as Codec
from kalpana.pipelines.tokens import TokenStep, draw, masked, stream
from kalpana.text.tokenizer import Tokenizer
from kalpana.train import data_cache
from kalpana.train.patch_labels import sizes
from kalpana.train.recipe import Recipe
from kalpana.train.task import (
    HELD_OUT,
    CaptionSampler,
    Metrics,
    add_auxiliary_loss,
    auxiliary_targets,
    config_of,
    linear_decay,
    moved,
)
from kalpana.types import Cond, KalpanaError, Tokens
from kalpana.world.world import World

PART = 64  # dev pictures at a time
SHEET = 16  # pictures on a sheet, which are drawn
GUIDANCE = 3.0  # by this
Draw = Callable[[Tokens], Tensor]  # captions of b pictures to image ids (b, rows, columns)
Mean = tuple[Tensor, Tensor | int]  # a cross-entropy in nats, and of how many tokens it is the mean


@dataclass(frozen=True)
class TokenBatch:
    """A batch: image ids (b, rows, columns), the words for them, what is asked aside, see ``task.asked_aside``, and how likely each picture
    is to be drawn blindly (b,), see ``blinded``."""

    image: Tensor
    tokens: Tokens
    layout: Tensor
    worth: Tensor
    blind: Tensor


class TokenDataset:
    """What the three learn from and are tried on: pictures in tokens, beside captions of at most ``length`` tokens."""

    def __init__(
        self,
        recipe: Recipe,
        vqgan: VQGAN,
        length: int,
        device: torch.device,
        progress: data_cache.Progress,
    ) -> None:
        assert recipe.vqgan is not None
        self.recipe, self.vqgan, self.length = recipe, vqgan, length
        self.tokenizer = Tokenizer.load()
        self.world, dev = (
            World(recipe.seed, split, kind=recipe.kind) for split in ("train", "dev")
        )
        self.codes = data_cache.codes(
            vqgan, recipe.vqgan, self.world, recipe.num_images, device, progress
        )
        self.captions = CaptionSampler(
            recipe, self.world, data_cache.often(recipe, self.world, 0, progress)
        )
        codes, said = (
            data_cache.codes(vqgan, recipe.vqgan, dev, HELD_OUT, device, progress),
            [dev.describe(i)[0] for i in range(HELD_OUT)],
        )
        self.dev = [
            moved(self._told(codes[k : k + PART], said[k : k + PART]), device)
            for k in range(0, HELD_OUT, PART)
        ]

    def batch(self, step: int) -> TokenBatch:
        rows, captions = zip(*self.captions(step), strict=True)
        told = self._told(self.codes[list(rows)], captions)
        shown, worth = auxiliary_targets(self.recipe, self.world, rows, told.image.shape[1], step)
        return replace(
            told,
            layout=shown,
            worth=worth,
            blind=linear_decay(self.recipe.token_dropout, self.recipe, step, len(rows)),
        )

    def held_out(self, wrong: Callable[[TokenBatch], Mean]) -> float:
        """Bits a token, the mean over the dev pictures; ``wrong`` says it of a part of them."""
        total, count = 0.0, 0
        for part in self.dev:
            mean, tokens = wrong(part)
            total, count = total + bits(mean) * int(tokens), count + int(tokens)
        return total / count

    def sheet(self, draw: Draw) -> Tensor:
        """What is drawn for the first dev captions, in pixels."""
        tokens = self.dev[0].tokens
        return self.vqgan.decode(draw(Tokens(tokens.ids[:SHEET], tokens.mask[:SHEET]))).float()

    def _told(self, codes: np.ndarray, captions: Sequence[str]) -> TokenBatch:
        nothing = torch.empty(len(codes), 0)
        return TokenBatch(
            torch.from_numpy(codes.astype(np.int64)),
            self.tokenizer.encode(captions, self.length),
            nothing,
            nothing,
            nothing,
        )


class DalleTask:
    """DALL-E (Ramesh et al. 2021): the next token of caption and picture, in a share ``swap`` of the batch of picture and caption, each
    part's error weighed as ``models/dalle.py`` says. A caption may be left out before its picture; after it, it is what is asked."""

    file = "dalle.safetensors"
    ahead = True

    def __init__(self, recipe: Recipe, device: torch.device, progress: data_cache.Progress) -> None:
        self.recipe, self.device = recipe, device
        vqgan = load_vqgan(recipe, device)
        self.model = dalle.DALLE(fit(dalle.Config, recipe, grid(vqgan))).to(device)
        self.lessons = TokenDataset(recipe, vqgan, self.model.config.length, device, progress)

    def batch(self, step: int) -> TokenBatch:
        return self.lessons.batch(step)

    def loss(self, batch: TokenBatch, rng: Generator) -> tuple[Tensor, Metrics]:
        b = len(batch.image)
        swapped, null = (
            torch.rand(b, generator=rng) < self.recipe.image_first_prob,
            torch.rand(b, generator=rng) < self.recipe.caption_dropout,
        )
        cond = Cond(batch.tokens, (null & ~swapped).to(self.device))
        said: list[Tensor] = []
        hidden = token_dropout(batch.image, batch.blind, rng)
        wrong = self.model.loss(cond, batch.image, swapped.to(self.device), said, hidden)
        return add_auxiliary_loss(
            wrong.total(),
            said,
            batch.layout,
            batch.worth,
            {"image": bits(wrong.image), "text": bits(wrong.text)},
        )

    def evaluate(self) -> tuple[Metrics, Tensor]:
        """Bits a token of dev pictures after their captions and, as a floor, without; of their captions, which come first, and, where the
        order was ever swapped, after the pictures."""

        def text(told: TokenBatch, swapped: bool) -> Mean:
            order = torch.full((len(told.image),), swapped, device=self.device)
            return self.model.loss(Cond(told.tokens), told.image, order).text, told.tokens.mask[
                :, 1:
            ].sum()

        def image(told: TokenBatch, cond: Cond) -> Mean:
            return self.model.loss(cond, told.image).image, told.image.numel()

        scores = {
            "dev_image": self.lessons.held_out(lambda told: image(told, Cond(told.tokens))),
            "dev_image_alone": self.lessons.held_out(lambda told: image(told, Cond())),
            "dev_text_alone": self.lessons.held_out(lambda told: text(told, False)),
        }
        if self.recipe.image_first_prob:
            scores["dev_text"] = self.lessons.held_out(lambda told: text(told, True))
        return scores, self.lessons.sheet(self._draw)

    def finish(self) -> None:
        """Nothing is left to do."""

    def _draw(self, tokens: Tokens) -> Tensor:
        return whole(stream(self.model, Cond(tokens), seeded_generators(tokens), guidance=GUIDANCE))


class MaskGITTask:
    """MaskGIT (Chang et al. 2022): the cells that are hidden, as many as its cosine schedule says, from the others and the caption."""

    file = "maskgit.safetensors"
    ahead = True

    def __init__(self, recipe: Recipe, device: torch.device, progress: data_cache.Progress) -> None:
        self.recipe, self.device = recipe, device
        vqgan = load_vqgan(recipe, device)
        self.model = dalle.MaskGIT(fit(dalle.Config, recipe, grid(vqgan))).to(device)
        self.lessons = TokenDataset(recipe, vqgan, self.model.config.length, device, progress)

    def batch(self, step: int) -> TokenBatch:
        return self.lessons.batch(step)

    def loss(self, batch: TokenBatch, rng: Generator) -> tuple[Tensor, Metrics]:
        hidden, null = (
            self._hide(batch, rng),
            torch.rand(len(batch.image), generator=rng) < self.recipe.caption_dropout,
        )
        said: list[Tensor] = []
        wrong = self.model.loss(Cond(batch.tokens, null.to(self.device)), batch.image, hidden, said)
        return add_auxiliary_loss(wrong, said, batch.layout, batch.worth, {"image": bits(wrong)})

    def evaluate(self) -> tuple[Metrics, Tensor]:
        """Bits a hidden cell of dev pictures, with their captions and, as a floor, without; the same are hidden every time."""

        def image(told: TokenBatch, cond: Cond, rng: Generator) -> Mean:
            hidden = self._hide(told, rng)
            return self.model.loss(cond, told.image, hidden), hidden.sum()

        one, two = Generator().manual_seed(0), Generator().manual_seed(0)
        scores = {
            "dev_image": self.lessons.held_out(lambda told: image(told, Cond(told.tokens), one)),
            "dev_image_alone": self.lessons.held_out(lambda told: image(told, Cond(), two)),
        }
        return scores, self.lessons.sheet(self._draw)

    def finish(self) -> None:
        """Nothing is left to do."""

    def _hide(self, batch: TokenBatch, rng: Generator) -> Tensor:
        return dalle.random_mask(len(batch.image), self.model.config, rng).to(self.device)

    def _draw(self, tokens: Tokens) -> Tensor:
        return whole(masked(self.model, Cond(tokens), seeded_generators(tokens), guidance=GUIDANCE))


class DalleMiniTask:
    """DALL-E mini (Dayma et al. 2021): the picture's next token, from those before it and the caption, which an encoder reads. A caption
    that is left out is an empty text, from which super-conditioning leads away. The words are our tokenizer's, not those published."""

    file = "dalle_mini.safetensors"
    ahead = True

    def __init__(self, recipe: Recipe, device: torch.device, progress: data_cache.Progress) -> None:
        self.recipe, self.device = recipe, device
        vqgan = load_vqgan(recipe, device)
        shape = grid(vqgan)
        size, cells = shape["codes"], shape["rows"] * shape["columns"]
        given = {"codes": size, "start": size, "image_vocabulary": size + 1, "image_length": cells}
        self.model = dalle_mini.DalleMini(fit(dalle_mini.Config, recipe, given)).to(device)
        self.shape = (shape["rows"], shape["columns"])
        self.lessons = TokenDataset(recipe, vqgan, self.model.config.length, device, progress)

    def batch(self, step: int) -> TokenBatch:
        return self.lessons.batch(step)

    def loss(self, batch: TokenBatch, rng: Generator) -> tuple[Tensor, Metrics]:
        said: list[Tensor] = []
        null = torch.rand(len(batch.image), generator=rng) < self.recipe.caption_dropout
        wrong, _ = self._wrong(
            batch, null, said, token_dropout(batch.image.flatten(1), batch.blind, rng)
        )
        return add_auxiliary_loss(wrong, said, batch.layout, batch.worth, {"image": bits(wrong)})

    def evaluate(self) -> tuple[Metrics, Tensor]:
        """Bits a token of dev pictures, with their captions and, as a floor, without."""

        def image(told: TokenBatch, null: bool) -> Mean:
            return self._wrong(told, torch.full((len(told.image),), null))

        scores = {
            "dev_image": self.lessons.held_out(lambda told: image(told, False)),
            "dev_image_alone": self.lessons.held_out(lambda told: image(told, True)),
        }
        return scores, self.lessons.sheet(self._draw)

    def finish(self) -> None:
        """Nothing is left to do."""

    def _wrong(
        self,
        told: TokenBatch,
        null: Tensor,
        said: list[Tensor] | None = None,
        hidden: Tensor | None = None,
    ) -> Mean:
        return self.model.loss(
            told.tokens, told.image.flatten(1), null.to(self.device), said, hidden
        ), told.image.numel()

    def _draw(self, tokens: Tokens) -> Tensor:
        choose = partial(
            draw, temperature=1.0, top_k=None, top_p=1.0, generators=seeded_generators(tokens)
        )
        drawn = self.model.generate(tokens, choose, GUIDANCE)
        return torch.stack(list(drawn), 1).unflatten(1, self.shape)


def load_vqgan(recipe: Recipe, device: torch.device) -> VQGAN:
    """The VQGAN of the recipe. Raises KalpanaError where it does not turn the world's pictures into tokens that a pool can hold."""
    assert recipe.vqgan is not None
    network = load_module(recipe.vqgan, "vqgan", lambda **config: VQGAN(Codec(**config)))
    factor, size = network.config.factor, network.quantiser.size
    if network.encoder is None or World.side % factor:
        raise KalpanaError(
            f"recipe {recipe.name}: field 'vqgan': {recipe.vqgan} needs an encoder, and a factor that divides {World.side} px, not {factor}"
        )
    if size > 2**16:
        raise KalpanaError(
            f"recipe {recipe.name}: field 'vqgan': {recipe.vqgan} has {size} codes: give one of {2**16} at most"
        )
    return network.to(device)


def grid(vqgan: VQGAN) -> dict[str, int]:
    """How many codes there are, and the rows and columns in which they make a picture of the world."""
    side = World.side // vqgan.config.factor
    return {"codes": vqgan.quantiser.size, "rows": side, "columns": side}


def fit(kind: type, recipe: Recipe, given: dict[str, int]) -> Any:
    """The network's configuration, of which the tokenizers decide the ``given`` fields and the size of the vocabulary. Raises KalpanaError
    where the recipe says otherwise, or wants heads that do not fit the width."""
    aside = sum(sizes()) + 2 if recipe.aux_weight else 0
    config, given = (
        config_of(kind, recipe),
        given | {"vocabulary": len(Tokenizer.load()), "aside": aside},
    )
    for name, value in given.items():
        if recipe.model.get(name, value) != value:
            raise KalpanaError(
                f"recipe {recipe.name}: field 'model.{name}': it is {recipe.model[name]}, where the tokenizer has {value}: leave it out"
            )
    if config.heads < 1 or config.width % (4 * config.heads):
        raise KalpanaError(
            f"recipe {recipe.name}: field 'model.heads': width {config.width} is not a multiple of 4 x {config.heads}"
        )
    return replace(config, **given)


def token_dropout(image: Tensor, likely: Tensor, rng: Generator) -> Tensor | None:
    """Which cells of image ids (b, ...) are hidden from those after them: in pictures chosen as ``likely`` (b,) as said any part of them,
    uniformly from none to all; None where none can be. A picture tells so much of its next cell that words are hardly needed while it
    is there."""
    if not likely.any():
        return None
    use, part = torch.rand(2, len(image), *[1] * (image.ndim - 1), generator=rng)
    chosen = use < likely.cpu().view_as(use)
    return ((torch.rand(image.shape, generator=rng) < part) & chosen).to(image.device)


def bits(nats: Tensor) -> float:
    return nats.item() / math.log(2)


def seeded_generators(tokens: Tokens) -> list[Generator]:
    """A generator for each caption's picture, the same every time."""
    return [Generator().manual_seed(k) for k in range(len(tokens))]


def whole(drawing: Iterator[TokenStep]) -> Tensor:
    """The image ids (b, rows, columns) that drawing ends with."""
    (drawn,) = deque(drawing, maxlen=1)
    return drawn.ids
