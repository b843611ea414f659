"""Training of the latent flow transformer."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Generator, Tensor

from kalpana.diffusion.denoiser import Denoiser
from kalpana.diffusion.guidance import guide
from kalpana.diffusion.samplers import SAMPLERS, sample
from kalpana.diffusion.schedule import Flow, times
from kalpana.hub.weights import load_module
from kalpana.models import dit
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
    noise,
)
from kalpana.types import Cond, Tokens
from kalpana.world.world import World


@dataclass(frozen=True)
class LatentBatch:
    """Batch of the flow task."""

    latents: Tensor  # (b, c, h, w) float16
    tokens: Tokens  # of the captions
    layout: Tensor  # patch labels (b, 4, h/patch, w/patch), or (b, 0) without auxiliary loss
    worth: Tensor  # (b,) weight of the auxiliary loss at this step


class FlowTask:
    """Flow matching (Lipman et al. 2023) of a latent transformer that predicts x0.

    The x0 error is weighted by 1/t^2, which equals the velocity error. Captions are worded anew
    each epoch.
    """

    ahead = True

    def __init__(self, recipe: Recipe, device: torch.device, progress: data_cache.Progress) -> None:
        assert recipe.vae is not None
        self.recipe, self.device, self.schedule = recipe, device, Flow()
        self.world = World(recipe.seed, "train", kind=recipe.kind)
        aside = sum(sizes()) + 2 if recipe.aux_weight else 0
        self.model = dit.DiT(replace(config_of(dit.Config, recipe), aside=aside)).to(device)
        self.decoder = load_module(recipe.vae, "vae").to(device)
        self.tokenizer = Tokenizer.load()
        self.latents = data_cache.latents(
            self.decoder, recipe.vae, self.world, recipe.num_images, device, progress
        )
        self.extra_latents, self.extra_captions = (  # of self-training
            data_cache.harvested(self.decoder, recipe.self_train_dir, device)
            if recipe.self_train_dir
            else (self.latents[:0], [])
        )
        self.dev = World(recipe.seed, "dev", kind=recipe.kind)
        self.dev_latents = data_cache.latents(
            self.decoder, recipe.vae, self.dev, HELD_OUT, device, progress
        )
        often = data_cache.often(recipe, self.world, len(self.extra_captions), progress)
        self._captions = CaptionSampler(recipe, self.world, often, self.extra_captions)

    def batch(self, step: int) -> LatentBatch:
        rows, captions = zip(*self._captions(step), strict=True)
        tokens = self.tokenizer.encode(captions, self.model.config.length)
        pool = len(self.latents)  # rows from here on are self-training pictures
        latents = torch.from_numpy(
            np.stack([self.latents[i] if i < pool else self.extra_latents[i - pool] for i in rows])
        )
        cells = latents.shape[-1] // self.model.config.patch
        targets = auxiliary_targets(self.recipe, self.world, rows, cells, step)
        return LatentBatch(latents, tokens, *targets)

    def loss(self, batch: LatentBatch, rng: Generator) -> tuple[Tensor, Metrics]:
        x0, b = batch.latents.float(), len(batch.latents)
        t, eps = noise_times(b, rng), noise(x0, rng)
        null = torch.rand(b, generator=rng) < self.recipe.caption_dropout
        cond, logits = Cond(batch.tokens, null.to(self.device)), list[Tensor]()
        loss = self._velocity_error(x0, t.to(x0), eps, cond, logits).mean()
        metrics = {"velocity": loss.item()} if self.recipe.aux_weight else {}
        return add_auxiliary_loss(loss, logits, batch.layout, batch.worth, metrics)

    def _velocity_error(
        self, x0: Tensor, t: Tensor, eps: Tensor, cond: Cond, logits: list[Tensor] | None = None
    ) -> Tensor:
        """(b,) mean squared error of the velocity (x_t - x0) / t implied by the x0 estimate.

        Patch logits of the auxiliary head, if the network has one, are appended to ``logits``.
        """
        time = t[:, None, None, None]
        prediction = self.model((1 - time) * x0 + time * eps, t, cond, logits).float()
        return ((prediction - x0) / time).square().mean((1, 2, 3))

    def evaluate(self) -> tuple[Metrics, Tensor]:
        """Velocity error on dev latents; the sheet has samples for the first 32 dev captions."""
        rng, errors = torch.Generator().manual_seed(0), []
        for start in range(0, HELD_OUT, 64):
            rows = np.array(self.dev_latents[start : start + 64])
            x0 = torch.from_numpy(rows).to(self.device).float()
            t, eps = noise_times(64, rng).to(x0), torch.randn(x0.shape, generator=rng).to(x0)
            cond = Cond(self._tokens(range(start, start + 64)))
            errors.append(self._velocity_error(x0, t, eps, cond))
        x = torch.randn(32, *self.dev_latents.shape[1:], generator=rng).to(self.device)
        denoise = guide(Denoiser(self.model, self.schedule), Cond(self._tokens(range(32))), 3.0)
        for state in sample(denoise, x, times(20), SAMPLERS["dpmpp-2m"]):
            x = state.x
        return {"dev_loss": torch.cat(errors).mean().item()}, self.decoder.decode(x.float()).float()

    def finish(self) -> None:
        """No final step."""

    def _tokens(self, indices: range) -> Tokens:
        captions = [self.dev.describe(i)[0] for i in indices]
        return self.tokenizer.encode(captions, self.model.config.length).to(self.device)


def noise_times(count: int, rng: Generator) -> Tensor:
    """Logit-normal times (count,) in (0, 1) (Esser et al. 2024, eq. 19), skewed towards noise:
    median 0.69, quartiles 0.53 and 0.81."""
    return torch.sigmoid(0.8 + 1.0 * torch.randn(count, generator=rng))
