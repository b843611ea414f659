"""Autoencoder training."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from pydantic import Field
from torch import Generator, Tensor

from kalpana.hub.weights import load_module
from kalpana.metrics import psnr
from kalpana.models import vae
from kalpana.train import data_cache
from kalpana.train.losses import reconstruction_loss
from kalpana.train.recipe import PoolRecipe, Recipe, located
from kalpana.train.task import HELD_OUT, Metrics, config_of, indices, noise
from kalpana.world.world import World


class AutoencoderRecipe(PoolRecipe):
    """Recipe of an autoencoder."""

    family: Literal["vae"] = "vae"
    posterior_std: float = Field(
        default=0.1,
        ge=0,
        description="standard deviation of the posterior: the noise added to latents before they "
        "are decoded",
    )
    latent_anchor_weight: float = Field(
        default=0.0,
        ge=0,
        description="weight of the squared distance from the latents of init, so that models "
        "trained on those latents keep working",
    )

    def problems(self) -> Iterator[tuple[str, str]]:
        yield from super().problems()
        if self.latent_anchor_weight and self.init is None:
            yield (
                "latent_anchor_weight",
                "there is nothing to stay near to: name the autoencoder in init",
            )


class AutoencoderTask:
    """Autoencoder, trained with ``reconstruction_loss`` in pixels and no pretrained network.

    With ``latent_anchor_weight`` the latents also stay near those of the ``init`` weights, so that
    a model trained on those keeps working.
    """

    ahead = True

    def __init__(
        self, recipe: AutoencoderRecipe, device: torch.device, progress: data_cache.Progress
    ) -> None:
        self.recipe, self.device = recipe, device
        channels_last, model = torch.channels_last, vae.VAE(config_of(vae.Config, recipe))
        self.model = model.to(device, memory_format=channels_last)  # type: ignore[call-overload]
        self.before = None  # the frozen autoencoder of ``init``
        if recipe.latent_anchor_weight and recipe.init:
            old = _load(located(recipe.init))
            self.before = old.to(device, memory_format=channels_last)  # type: ignore[call-overload]
        train, dev = (World(recipe.seed, split, kind=recipe.kind) for split in ("train", "dev"))
        self.pictures = data_cache.pictures(train, recipe.num_images, progress)
        self.dev = data_cache.pictures(dev, HELD_OUT, progress)

    def batch(self, step: int) -> Tensor:
        return torch.from_numpy(self.pictures[rows_of(self.recipe, step, self.pictures)])

    def loss(self, batch: Tensor, rng: Generator, progress: float) -> tuple[Tensor, Metrics]:
        x = data_cache.floats(batch)
        z = self.model.encode(x)
        apart = self._apart(z, x)
        z = z + self.recipe.posterior_std * noise(z, rng)
        error = self.model.decode(z).float() - x
        metrics = {"psnr": psnr(error.square().mean().item()), "apart": apart.item()}
        return reconstruction_loss(error) + self.recipe.latent_anchor_weight * apart, metrics

    def _apart(self, z: Tensor, batch: Tensor) -> Tensor:
        """Mean squared distance of the latents from those of the ``init`` weights; 0 without."""
        if self.before is None:
            return z.new_zeros(())
        with torch.no_grad():
            old = self.before.encode(batch)
        return (z - old).float().square().mean()

    def evaluate(self) -> tuple[Metrics, Tensor]:
        """PSNR of dev pictures, from their latents and from latents with noise of std 0.1, and,
        with an anchor, the distance from the old latents; the sheet has 32 pictures, then their
        reconstructions."""
        clean, noisy, apart, sheet = [], [], [], []
        rng = torch.Generator().manual_seed(0)
        for start in range(0, len(self.dev), 64):
            x = data_cache.floats(self.dev[start : start + 64], self.device)
            z = self.model.encode(x)
            y = self.model.decode(z).float()
            apart.append(self._apart(z, x).item())
            clean.append((y.clamp(-1, 1) - x).square().mean((1, 2, 3)))
            rough = self.model.decode(z + 0.1 * torch.randn(z.shape, generator=rng).to(z)).float()
            noisy.append((rough.clamp(-1, 1) - x).square().mean((1, 2, 3)))
            if not start:
                sheet = [x[:32], y[:32]]
        scores = {
            "dev_psnr": psnr(torch.cat(clean).mean().item()),
            "dev_psnr_noise_0.1": psnr(torch.cat(noisy).mean().item()),
        }
        if self.before is not None:
            scores["dev_apart"] = float(np.mean(apart))
        return scores, torch.cat(sheet)

    def finish(self) -> None:
        """Fit the linear preview of the latents to dev pictures."""
        self.model.fit_preview(data_cache.floats(self.dev[:256], self.device))


def _load(path: Path) -> vae.VAE:
    return load_module(path, "vae")


def rows_of(
    recipe: Recipe, step: int, pictures: np.ndarray, count: int | None = None
) -> np.ndarray:
    """Sorted indices of a step's pictures in a pool, ``count`` of them if given.

    Sorted, because sequential reads from disk are faster.
    """
    return np.sort([i for i, _ in indices(recipe, step, len(pictures))][:count])
