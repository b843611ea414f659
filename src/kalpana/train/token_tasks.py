"""Training of the token models DALL-E, MaskGIT and DALL-E mini on the tokens of a trained VQGAN.

All three see the same pictures with captions that are worded anew each epoch, some of which are
dropped. Their objectives differ: DALL-E predicts the next token of caption and picture in either
order, MaskGIT hidden image tokens, and DALL-E mini the next image token from an encoded caption.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Generator, Tensor

from kalpana.hub.weights import load_module
from kalpana.models import dalle, dalle_mini
from kalpana.models.vqgan import VQGAN
from kalpana.pipelines.tokens import TokenStep, draw, masked, stream
from kalpana.text.tokenizer import Tokenizer
from kalpana.train import data_cache
from kalpana.train.recipe import CaptionedRecipe, located
from kalpana.train.task import (
    HELD_OUT,
    CaptionSampler,
    Metrics,
    add_auxiliary_loss,
    aux_outputs,
    auxiliary_targets,
    config_of,
    linear_decay,
    moved,
)
from kalpana.types import Cond, KalpanaError, Tokens
from kalpana.world.world import World

PART = 64  # dev pictures per evaluation batch
SHEET = 16  # pictures sampled for a sheet
GUIDANCE = 3.0  # for the pictures of a sheet
Draw = Callable[[Tokens], Tensor]  # samples image ids (b, rows, columns) for b captions
Mean = tuple[Tensor, Tensor | int]  # mean cross-entropy in nats, and its number of tokens
TOKEN_DROPOUT: Any = Field(
    default=0.0,
    ge=0,
    le=1,
    description="share of pictures in which some of the preceding image tokens are hidden, from "
    "none to all, so that the caption is needed; falls linearly to 0",
)


class TokenRecipe(CaptionedRecipe):
    """Recipe of a model of the tokens of a VQGAN."""

    vqgan: Path = Field(
        description="weights of the trained VQGAN, which turns pictures into tokens and back, such "
        "as weights/vqgan/vqgan.safetensors"
    )


class DalleRecipe(TokenRecipe):
    """Recipe of a DALL-E."""

    family: Literal["dalle"] = "dalle"
    image_first_prob: float = Field(
        default=0.25,
        ge=0,
        le=1,
        description="share of pictures that come before their caption, so that captioning is "
        "learned too",
    )
    token_dropout: float = TOKEN_DROPOUT


class MaskGITRecipe(TokenRecipe):
    """Recipe of a MaskGIT."""

    family: Literal["maskgit"] = "maskgit"


class DalleMiniRecipe(TokenRecipe):
    """Recipe of a DALL-E mini."""

    family: Literal["dalle-mini"] = "dalle-mini"
    token_dropout: float = TOKEN_DROPOUT


@dataclass(frozen=True)
class TokenBatch:
    """Batch of a token model."""

    image: Tensor  # image ids (b, rows, columns)
    tokens: Tokens  # of the captions
    layout: Tensor | None = None  # patch labels, see ``task.auxiliary_targets``


class TokenDataset:
    """Training batches and dev set of the token models: image tokens and captions of at most
    ``length`` tokens."""

    def __init__(
        self,
        recipe: TokenRecipe,
        vqgan: VQGAN,
        length: int,
        device: torch.device,
        progress: data_cache.Progress,
    ) -> None:
        self.recipe, self.vqgan, self.length = recipe, vqgan, length
        self.tokenizer = Tokenizer.load()
        self.world, dev = (
            World(recipe.seed, split, kind=recipe.kind) for split in ("train", "dev")
        )
        self.codes = data_cache.codes(
            vqgan, located(recipe.vqgan), self.world, recipe.num_images, device, progress
        )
        self.captions = CaptionSampler(
            recipe, self.world, data_cache.often(recipe, self.world, progress)
        )
        codes = data_cache.codes(vqgan, located(recipe.vqgan), dev, HELD_OUT, device, progress)
        captions = [dev.describe(i)[0] for i in range(HELD_OUT)]
        self.dev = [
            moved(self._token_batch(codes[k : k + PART], captions[k : k + PART]), device)
            for k in range(0, HELD_OUT, PART)
        ]

    def batch(self, step: int) -> TokenBatch:
        rows, captions = zip(*self.captions(step), strict=True)
        batch = self._token_batch(self.codes[list(rows)], captions)
        labels = auxiliary_targets(self.recipe, self.world, rows, batch.image.shape[1])
        return replace(batch, layout=labels)

    def held_out(self, loss: Callable[[TokenBatch], Mean]) -> float:
        """Mean bits per token over the dev pictures; ``loss`` computes it for a batch of them."""
        total, count = 0.0, 0
        for part in self.dev:
            mean, tokens = loss(part)
            total, count = total + bits(mean) * int(tokens), count + int(tokens)
        return total / count

    def sheet(self, draw: Draw) -> Tensor:
        """Pixels of the pictures that ``draw`` samples for the first SHEET dev captions."""
        tokens = self.dev[0].tokens
        return self.vqgan.decode(draw(Tokens(tokens.ids[:SHEET], tokens.mask[:SHEET]))).float()

    def _token_batch(self, codes: np.ndarray, captions: Sequence[str]) -> TokenBatch:
        image = torch.from_numpy(codes.astype(np.int64))
        return TokenBatch(image, self.tokenizer.encode(captions, self.length))


class DalleTask:
    """DALL-E (Ramesh et al. 2021): predicts the next token of caption and picture as one stream.

    In a share ``image_first_prob`` of a batch the picture comes first. The losses of text and image
    tokens are weighted as in ``models/dalle.py``. Only captions before their picture are dropped:
    after it, they are the target.
    """

    ahead = True

    def __init__(
        self, recipe: DalleRecipe, device: torch.device, progress: data_cache.Progress
    ) -> None:
        self.recipe, self.device = recipe, device
        vqgan = load_vqgan(recipe, device)
        self.model = dalle.DALLE(fit(dalle.Config, recipe, grid(vqgan))).to(device)
        self.lessons = TokenDataset(recipe, vqgan, self.model.config.length, device, progress)

    def batch(self, step: int) -> TokenBatch:
        return self.lessons.batch(step)

    def loss(self, batch: TokenBatch, rng: Generator, progress: float) -> tuple[Tensor, Metrics]:
        b = len(batch.image)
        swapped = torch.rand(b, generator=rng) < self.recipe.image_first_prob
        null = torch.rand(b, generator=rng) < self.recipe.caption_dropout
        cond = Cond(batch.tokens, (null & ~swapped).to(self.device))
        hidden = token_dropout(batch.image, linear_decay(self.recipe.token_dropout, progress), rng)
        loss, aux = self.model.loss_with_aux(cond, batch.image, swapped.to(self.device), hidden)
        metrics = {"image": bits(loss.image), "text": bits(loss.text)}
        weight = linear_decay(self.recipe.aux_weight, progress)
        return add_auxiliary_loss(loss.total(), aux, batch.layout, weight, metrics)

    def evaluate(self) -> tuple[Metrics, Tensor]:
        """Bits per token on dev data.

        Image tokens after their caption and, for comparison, without ("alone"); text tokens before
        their picture ("alone") and, if the recipe has pictures first, after it. The sheet has
        samples for dev captions.
        """

        def text(part: TokenBatch, swapped: bool) -> Mean:
            order = torch.full((len(part.image),), swapped, device=self.device)
            loss = self.model.loss(Cond(part.tokens), part.image, order)
            return loss.text, part.tokens.mask[:, 1:].sum()

        def image(part: TokenBatch, cond: Cond) -> Mean:
            return self.model.loss(cond, part.image).image, part.image.numel()

        scores = {
            "dev_image": self.lessons.held_out(lambda part: image(part, Cond(part.tokens))),
            "dev_image_alone": self.lessons.held_out(lambda part: image(part, Cond())),
            "dev_text_alone": self.lessons.held_out(lambda part: text(part, False)),
        }
        if self.recipe.image_first_prob:
            scores["dev_text"] = self.lessons.held_out(lambda part: text(part, True))
        return scores, self.lessons.sheet(self._draw)

    def finish(self) -> None:
        """No final step."""

    def _draw(self, tokens: Tokens) -> Tensor:
        return whole(stream(self.model, Cond(tokens), seeded_generators(tokens), guidance=GUIDANCE))


class MaskGITTask:
    """MaskGIT (Chang et al. 2022): predicts hidden image tokens from the others and the caption.

    The number of hidden tokens follows the cosine schedule of ``dalle.random_mask``.
    """

    ahead = True

    def __init__(
        self, recipe: MaskGITRecipe, device: torch.device, progress: data_cache.Progress
    ) -> None:
        self.recipe, self.device = recipe, device
        vqgan = load_vqgan(recipe, device)
        self.model = dalle.MaskGIT(fit(dalle.Config, recipe, grid(vqgan))).to(device)
        self.lessons = TokenDataset(recipe, vqgan, self.model.config.length, device, progress)

    def batch(self, step: int) -> TokenBatch:
        return self.lessons.batch(step)

    def loss(self, batch: TokenBatch, rng: Generator, progress: float) -> tuple[Tensor, Metrics]:
        hidden = self._random_mask(batch, rng)
        null = torch.rand(len(batch.image), generator=rng) < self.recipe.caption_dropout
        cond = Cond(batch.tokens, null.to(self.device))
        loss, aux = self.model.loss_with_aux(cond, batch.image, hidden)
        weight = linear_decay(self.recipe.aux_weight, progress)
        return add_auxiliary_loss(loss, aux, batch.layout, weight, {"image": bits(loss)})

    def evaluate(self) -> tuple[Metrics, Tensor]:
        """Bits per hidden token of dev pictures, with their captions and, for comparison, without
        ("alone"), under the same masks every time; the sheet has samples for dev captions."""

        def image(part: TokenBatch, cond: Cond, rng: Generator) -> Mean:
            hidden = self._random_mask(part, rng)
            return self.model.loss(cond, part.image, hidden), hidden.sum()

        one, two = Generator().manual_seed(0), Generator().manual_seed(0)
        scores = {
            "dev_image": self.lessons.held_out(lambda part: image(part, Cond(part.tokens), one)),
            "dev_image_alone": self.lessons.held_out(lambda part: image(part, Cond(), two)),
        }
        return scores, self.lessons.sheet(self._draw)

    def finish(self) -> None:
        """No final step."""

    def _random_mask(self, batch: TokenBatch, rng: Generator) -> Tensor:
        return dalle.random_mask(len(batch.image), self.model.config, rng).to(self.device)

    def _draw(self, tokens: Tokens) -> Tensor:
        return whole(masked(self.model, Cond(tokens), seeded_generators(tokens), guidance=GUIDANCE))


class DalleMiniTask:
    """DALL-E mini (Dayma et al. 2021): predicts the next image token from those before it and the
    encoded caption.

    A dropped caption is an empty text, the unconditional side of super-conditioning. The text
    tokenizer is ours, not the published one.
    """

    ahead = True

    def __init__(
        self, recipe: DalleMiniRecipe, device: torch.device, progress: data_cache.Progress
    ) -> None:
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

    def loss(self, batch: TokenBatch, rng: Generator, progress: float) -> tuple[Tensor, Metrics]:
        null = torch.rand(len(batch.image), generator=rng) < self.recipe.caption_dropout
        image = batch.image.flatten(1)
        hidden = token_dropout(image, linear_decay(self.recipe.token_dropout, progress), rng)
        null = null.to(self.device)
        loss, aux = self.model.loss_with_aux(batch.tokens, image, null, hidden)
        weight = linear_decay(self.recipe.aux_weight, progress)
        return add_auxiliary_loss(loss, aux, batch.layout, weight, {"image": bits(loss)})

    def evaluate(self) -> tuple[Metrics, Tensor]:
        """Bits per token of dev pictures, with their captions and, for comparison, without
        ("alone"); the sheet has samples for dev captions."""

        def image(part: TokenBatch, null: bool) -> Mean:
            ids, rows = part.image.flatten(1), torch.full((len(part.image),), null)
            return self.model.loss(part.tokens, ids, rows.to(self.device)), ids.numel()

        scores = {
            "dev_image": self.lessons.held_out(lambda part: image(part, False)),
            "dev_image_alone": self.lessons.held_out(lambda part: image(part, True)),
        }
        return scores, self.lessons.sheet(self._draw)

    def finish(self) -> None:
        """No final step."""

    def _draw(self, tokens: Tokens) -> Tensor:
        generators = seeded_generators(tokens)
        choose = partial(draw, temperature=1.0, top_k=None, top_p=1.0, generators=generators)
        ids = self.model.generate(tokens, choose, GUIDANCE)
        return torch.stack(list(ids), 1).unflatten(1, self.shape)


def load_vqgan(recipe: TokenRecipe, device: torch.device) -> VQGAN:
    """The recipe's VQGAN, on the device.

    Raises KalpanaError if it has no encoder, its factor does not divide the side of the world's
    pictures, or its codes do not fit into uint16.
    """
    network = load_module(located(recipe.vqgan), "vqgan")
    factor, size = network.config.factor, network.quantiser.size
    if network.encoder is None or World.side % factor:
        raise KalpanaError(
            f"recipe {recipe.name}: field 'vqgan': {recipe.vqgan} needs an encoder, "
            f"and a factor that divides {World.side} px, not {factor}"
        )
    if size > 2**16:
        raise KalpanaError(
            f"recipe {recipe.name}: field 'vqgan': {recipe.vqgan} has {size} codes: "
            f"give one of {2**16} at most"
        )
    return network.to(device)


def grid(vqgan: VQGAN) -> dict[str, int]:
    """Config fields that a VQGAN determines: the number of codes, and the rows and columns of the
    token grid of a picture of the world."""
    side = World.side // vqgan.config.factor
    return {"codes": vqgan.quantiser.size, "rows": side, "columns": side}


def fit(kind: type, recipe: TokenRecipe, given: dict[str, int]) -> Any:
    """Config of the network, with the fields ``given`` by the VQGAN, the size of the vocabulary and
    the width of the auxiliary head.

    Raises KalpanaError if the recipe sets one of these to another value, or if the width is not a
    multiple of 4 x heads.
    """
    given = given | {"vocabulary": len(Tokenizer.load()), "aux_outputs": aux_outputs(recipe)}
    config = config_of(kind, recipe, given)
    if config.heads < 1 or config.width % (4 * config.heads):
        raise KalpanaError(
            f"recipe {recipe.name}: field 'model.heads': "
            f"width {config.width} is not a multiple of 4 x {config.heads}"
        )
    return config


def token_dropout(image: Tensor, prob: float, rng: Generator) -> Tensor | None:
    """Mask, shaped like the image ids (b, ...), of the tokens hidden from those after them.

    A picture is chosen with probability ``prob``; of a chosen picture a share of the tokens,
    uniform in [0, 1], is hidden. Returns None if ``prob`` is 0. Preceding image
    tokens predict the next one so well that a model would otherwise hardly learn to use the
    caption.
    """
    if not prob:
        return None
    use, part = torch.rand(2, len(image), *[1] * (image.ndim - 1), generator=rng)
    hidden = (torch.rand(image.shape, generator=rng) < part) & (use < prob)
    return hidden.to(image.device)


def bits(nats: Tensor) -> float:
    """Nats in bits."""
    return nats.item() / math.log(2)


def seeded_generators(tokens: Tokens) -> list[Generator]:
    """One generator per caption, seeded by its position, so that sheets are comparable."""
    return [Generator().manual_seed(k) for k in range(len(tokens))]


def whole(steps: Iterator[TokenStep]) -> Tensor:
    """Image ids (b, rows, columns) of the last step of sampling."""
    (final,) = deque(steps, maxlen=1)
    return final.ids
