"""The latent flow transformer at school."""

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
from kalpana.models import dit, vae
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
    """A batch of the flow task: latents (b, c, h, w) float16, the words for them, ``layout`` (b, 4, h/patch, w/patch; empty if nothing is
    asked of it), and ``worth`` (b,), the weight of that question at this step."""

    latents: Tensor
    tokens: Tokens
    layout: Tensor
    worth: Tensor


class FlowTask:
    """The latent transformer: flow matching (Lipman et al. 2023) with x0 predicted and the error weighed as a velocity's,
    1/t^2, so that both say the same. Captions are worded anew each time round."""

    file = "dit.safetensors"
    ahead = True

    def __init__(self, recipe: Recipe, device: torch.device, progress: data_cache.Progress) -> None:
        assert recipe.vae is not None
        self.recipe, self.device, self.world, self.schedule = (
            recipe,
            device,
            World(recipe.seed, "train", kind=recipe.kind),
            Flow(),
        )
        aside = sum(sizes()) + 2 if recipe.aux_weight else 0
        self.model = dit.DiT(replace(config_of(dit.Config, recipe), aside=aside)).to(device)
        self.decoder = load_module(
            recipe.vae, "vae", lambda **config: vae.VAE(vae.Config(**config))
        ).to(device)
        self.tokenizer = Tokenizer.load()
        self.latents = data_cache.latents(
            self.decoder, recipe.vae, self.world, recipe.num_images, device, progress
        )
        self.harvest, self.said = (
            data_cache.harvested(self.decoder, recipe.self_train_dir, device)
            if recipe.self_train_dir
            else (self.latents[:0], [])
        )
        self.dev = World(recipe.seed, "dev", kind=recipe.kind)
        self.dev_latents = data_cache.latents(
            self.decoder, recipe.vae, self.dev, HELD_OUT, device, progress
        )
        self._captions = CaptionSampler(
            recipe,
            self.world,
            data_cache.often(recipe, self.world, len(self.said), progress),
            self.said,
        )

    def batch(self, step: int) -> LatentBatch:
        rows, captions = zip(*self._captions(step), strict=True)
        tokens = self.tokenizer.encode(captions, self.model.config.length)
        own = len(self.latents)  # rows beyond the pool are of the harvest
        latents = torch.from_numpy(
            np.stack([self.latents[i] if i < own else self.harvest[i - own] for i in rows])
        )
        cells = latents.shape[-1] // self.model.config.patch
        return LatentBatch(
            latents, tokens, *auxiliary_targets(self.recipe, self.world, rows, cells, step)
        )

    def loss(self, batch: LatentBatch, rng: Generator) -> tuple[Tensor, Metrics]:
        x0, b = batch.latents.float(), len(batch.latents)
        t, eps = noise_times(b, rng), noise(x0, rng)
        null = torch.rand(b, generator=rng) < self.recipe.caption_dropout
        said: list[Tensor] = []
        loss = self._velocity_error(
            x0, t.to(x0), eps, Cond(batch.tokens, null.to(self.device)), said
        ).mean()
        return add_auxiliary_loss(
            loss,
            said,
            batch.layout,
            batch.worth,
            {"velocity": loss.item()} if self.recipe.aux_weight else {},
        )

    def _velocity_error(
        self, x0: Tensor, t: Tensor, eps: Tensor, cond: Cond, said: list[Tensor] | None = None
    ) -> Tensor:
        """(b,) mean squared error of the velocity (x_t - x0) / t that an x0 estimate implies."""
        time = t[:, None, None, None]
        prediction = self.model((1 - time) * x0 + time * eps, t, cond, said).float()
        return ((prediction - x0) / time).square().mean((1, 2, 3))

    def evaluate(self) -> tuple[Metrics, Tensor]:
        rng, errors = torch.Generator().manual_seed(0), []
        for start in range(0, HELD_OUT, 64):
            x0 = (
                torch.from_numpy(np.array(self.dev_latents[start : start + 64]))
                .to(self.device)
                .float()
            )
            t, eps = noise_times(64, rng).to(x0), torch.randn(x0.shape, generator=rng).to(x0)
            errors.append(
                self._velocity_error(x0, t, eps, Cond(self._words(range(start, start + 64))))
            )
        x = torch.randn(32, *self.dev_latents.shape[1:], generator=rng).to(self.device)
        denoise = guide(Denoiser(self.model, self.schedule), Cond(self._words(range(32))), 3.0)
        for state in sample(denoise, x, times(20), SAMPLERS["dpmpp-2m"]):
            x = state.x
        return {"dev_loss": torch.cat(errors).mean().item()}, self.decoder.decode(x.float()).float()

    def finish(self) -> None:
        """Nothing is left to do."""

    def _words(self, indices: range) -> Tokens:
        return self.tokenizer.encode(
            [self.dev.describe(i)[0] for i in indices], self.model.config.length
        ).to(self.device)


def noise_times(count: int, rng: Generator) -> Tensor:
    """Logit-normal times (Esser et al. 2024, eq. 19) that lean to noise: median 0.69, middle half 0.53 to 0.81."""
    return torch.sigmoid(0.8 + 1.0 * torch.randn(count, generator=rng))
