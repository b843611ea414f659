"""Training of unCLIP: its decoder, on latents with CLIP vectors, and its prior, on the vectors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from kalpana.diffusion.guidance import guide
from kalpana.diffusion.samplers import SAMPLERS, sample
from kalpana.diffusion.schedule import times
from kalpana.hub.weights import load_module
from kalpana.models import prior
from kalpana.models.clip import CLIP
from kalpana.models.prior import PRIOR_GUIDANCE, PRIOR_STEPS, Prior, text_cond
from kalpana.models.unclip import Standard, Unclip, with_noise
from kalpana.text.tokenizer import Tokenizer
from kalpana.train import data_cache
from kalpana.train.diffusion import (
    PART,
    SHEET,
    DiffusionBatch,
    DiffusionRecipe,
    DiffusionTask,
)
from kalpana.train.flow import LatentData, WidenedRecipe, widened
from kalpana.train.recipe import located
from kalpana.train.task import HELD_OUT, CaptionSampler, Metrics, config_of, moved, noise
from kalpana.types import Cond, Tokens
from kalpana.world.world import World


class UnclipRecipe(WidenedRecipe):
    """Recipe of a decoder of unCLIP."""

    family: Literal["unclip"] = "unclip"
    clip_model: Path = Field(
        description="weights of the CLIP, such as weights/clip/clip.safetensors"
    )
    caption_dropout: float = Field(
        default=0.5, ge=0, le=1, description="share of captions dropped, apart from the vectors"
    )
    vector_dropout: float = Field(
        default=0.1, ge=0, le=1, description="share of CLIP vectors dropped, apart from the text"
    )
    vector_noise: float = Field(
        default=0.5, ge=0, lt=1, description="highest level of the noise on the CLIP vectors"
    )


class UnclipData(LatentData):
    """Latents, captions and CLIP vectors of a pool of pictures.

    ``standard`` has the constants of the vectors of the pool.
    """

    def __init__(self, recipe: UnclipRecipe, clip: CLIP, *args: Any) -> None:
        super().__init__(recipe, *args)
        self.recipe: UnclipRecipe = recipe
        *_, device, progress = args
        self.vectors, self.dev_vectors = (
            data_cache.vectors(clip, located(recipe.clip_model), world, count, device, progress)
            for world, count in ((self.world, recipe.num_images), (self.dev, HELD_OUT))
        )
        self.standard = fitted(self.vectors)

    def batch(self, step: int) -> DiffusionBatch:
        """The plain batch, and vectors with noise of random levels, 1 where they are dropped."""
        rng = torch.Generator().manual_seed(self.recipe.seed * 1_000_003 + step)
        z = self.standard(floats([self.vectors[row] for row, _ in self.captions(step)]))
        level = self.recipe.vector_noise * torch.rand(len(z), generator=rng)
        level[torch.rand(len(z), generator=rng) < self.recipe.vector_dropout] = 1
        return replace(super().batch(step), embedding=with_noise(z, noise(z, rng), level))

    def held_out(self, rows: range) -> DiffusionBatch:
        z = self.standard(floats(self.dev_vectors[rows.start : rows.stop]))
        return replace(super().held_out(rows), embedding=with_noise(z, z, torch.zeros(len(z))))


def floats(rows: Sequence[np.ndarray] | np.ndarray) -> Tensor:
    """Rows of a cached array as one float tensor."""
    return torch.from_numpy(np.array(rows)).float()


def fitted(vectors: np.ndarray) -> Standard:
    """Standardisation with the constants of unit vectors (n, d)."""
    standard = Standard(vectors.shape[1])
    standard.fit(floats(vectors))
    return standard


class UnclipTask(DiffusionTask):
    """Diffusion task of the decoder of unCLIP, started from an image transformer."""

    def __init__(
        self, recipe: UnclipRecipe, device: torch.device, progress: data_cache.Progress
    ) -> None:
        vae = load_module(located(recipe.vae), "vae").to(device)
        clip = load_module(located(recipe.clip_model), "clip").to(device)
        model = widened(Unclip, recipe, features=clip.config.features)
        length, patch = model.config.length, model.config.patch
        data = UnclipData(recipe, clip, vae, length, patch, device, progress)
        model.standard.load_state_dict(data.standard.state_dict())
        super().__init__(recipe, device, model, data)

    def cond(self, batch: DiffusionBatch, null: Tensor | None = None) -> Cond:
        """Text and vectors of a batch; ``null`` (b,) drops the text alone."""
        tokens = batch.tokens
        assert tokens is not None
        if null is not None:
            tokens = Tokens(tokens.ids, tokens.mask & ~null[:, None])
        return Cond(tokens=tokens, embedding=batch.embedding)


class PriorRecipe(DiffusionRecipe):
    """Recipe of a prior of unCLIP."""

    refuses: ClassVar = {
        "aux_weight": "a prior has no auxiliary head",
        "schedule": "a prior is of schedule flow",
        "prediction": "a prior predicts x0",
    }

    family: Literal["unclip-prior"] = "unclip-prior"
    clip_model: Path = Field(
        description="weights of the CLIP, such as weights/clip/clip.safetensors"
    )


class PriorData:
    """CLIP vectors and captions of a pool of pictures."""

    def __init__(
        self, recipe: PriorRecipe, clip: CLIP, device: torch.device, progress: data_cache.Progress
    ) -> None:
        self.recipe, self.length, self.tokenizer = recipe, clip.config.length, Tokenizer.load()
        self.world, self.dev = (
            World(recipe.seed, split, kind=recipe.kind) for split in ("train", "dev")
        )
        self.vectors, self.dev_vectors = (
            data_cache.vectors(clip, located(recipe.clip_model), world, count, device, progress)
            for world, count in ((self.world, recipe.num_images), (self.dev, HELD_OUT))
        )
        self.standard = fitted(self.vectors)
        often = data_cache.often(recipe, self.world, progress)
        self.captions = CaptionSampler(recipe, self.world, often)
        self.dev_pictures = data_cache.pictures(self.dev, HELD_OUT, progress)

    def batch(self, step: int) -> DiffusionBatch:
        rows, captions = zip(*self.captions(step), strict=True)
        z = self.standard(floats([self.vectors[row] for row in rows]))
        return DiffusionBatch(z, self.tokenizer.encode(captions, self.length))

    def held_out(self, rows: range) -> DiffusionBatch:
        captions = [self.dev.describe(i)[0] for i in rows]
        z = self.standard(floats(self.dev_vectors[rows.start : rows.stop]))
        return DiffusionBatch(z, self.tokenizer.encode(captions, self.length))

    def decode(self, x0: Tensor) -> Tensor:
        """The held-out pictures (b, 3, h, w) whose vectors are nearest to x0 (b, d)."""
        vectors = self.standard.inverse(x0.float().cpu()) @ floats(self.dev_vectors).T
        return data_cache.floats(self.dev_pictures[vectors.argmax(1).numpy()])


class PriorTask(DiffusionTask):
    """Diffusion task of the prior of unCLIP, on standardised CLIP vectors."""

    data: PriorData

    def __init__(
        self, recipe: PriorRecipe, device: torch.device, progress: data_cache.Progress
    ) -> None:
        with torch.random.fork_rng(devices=[]):  # the network's own weights do not depend on it
            clip = load_module(located(recipe.clip_model), "clip").to(device)
        self.tower = clip.read
        model = Prior(config_of(prior.Config, recipe, {"features": clip.config.features}))
        data = PriorData(recipe, clip, device, progress)
        model.standard.load_state_dict(data.standard.state_dict())
        super().__init__(recipe, device, model, data)

    def cond(self, batch: DiffusionBatch, null: Tensor | None = None) -> Cond:
        assert batch.tokens is not None
        with torch.no_grad():
            return text_cond(self.tower, batch.tokens, null)

    def evaluate(self) -> tuple[Metrics, Tensor]:
        """Error, and cosine of the vectors sampled for dev captions to those of their pictures, and
        of the text vectors; the sheet has the dev pictures nearest to the first of them."""
        scores = list[tuple[Tensor, Tensor, Tensor]]()
        rng, drawn = torch.Generator().manual_seed(0), list[Tensor]()
        for start in range(0, HELD_OUT, PART):
            batch = moved(self.data.held_out(range(start, start + PART)), self.device)
            cond = self.cond(batch)
            t, eps = self.times(len(batch.x0), rng).to(batch.x0), noise(batch.x0, rng)
            error = self._error(batch.x0, t, eps, cond)[0]
            x = noise(batch.x0, rng)
            denoise = guide(self.process.denoiser(self.model), cond, PRIOR_GUIDANCE)
            for state in sample(denoise, x, times(PRIOR_STEPS), SAMPLERS["dpmpp-2m"]):
                x = state.x
            drawn.append(x)
            true = self.model.standard.inverse(batch.x0)
            assert cond.embedding is not None
            text = cond.embedding[:, 0]
            cosine = (self.model.standard.inverse(x) * true).sum(1)
            scores.append((error, cosine, (text * true).sum(1)))
        loss, cosine, direct = (torch.cat(each).mean().item() for each in zip(*scores, strict=True))
        metrics = {"prior_loss": loss, "prior_cosine": cosine, "text_cosine": direct}
        return metrics, self.data.decode(torch.cat(drawn)[:SHEET])
