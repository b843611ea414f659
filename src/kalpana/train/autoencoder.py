"""Autoencoder training, and the reconstruction metrics PSNR and SSIM."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from kalpana.hub.weights import load_module
from kalpana.models import vae
from kalpana.train import data_cache
from kalpana.train.recipe import Recipe
from kalpana.train.task import HELD_OUT, Metrics, config_of, indices, noise
from kalpana.world.world import World


class AutoencoderTask:
    """Autoencoder, trained with ``reconstruction_loss`` in pixels and no pretrained network.

    With ``latent_anchor_weight`` the latents also stay near those of the ``init`` weights, so that
    a model trained on those keeps working.
    """

    ahead = True

    def __init__(self, recipe: Recipe, device: torch.device, progress: data_cache.Progress) -> None:
        self.recipe, self.device = recipe, device
        channels_last, model = torch.channels_last, vae.VAE(config_of(vae.Config, recipe))
        self.model = model.to(device, memory_format=channels_last)  # type: ignore[call-overload]
        self.before = None  # the frozen autoencoder of ``init``
        if recipe.latent_anchor_weight and recipe.init:
            old = _load(recipe.init)
            self.before = old.to(device, memory_format=channels_last)  # type: ignore[call-overload]
        train, dev = (World(recipe.seed, split, kind=recipe.kind) for split in ("train", "dev"))
        self.pictures = data_cache.pictures(train, recipe.num_images, progress)
        self.dev = data_cache.pictures(dev, HELD_OUT, progress)

    def batch(self, step: int) -> Tensor:
        return torch.from_numpy(self.pictures[rows_of(self.recipe, step, self.pictures)])

    def loss(self, batch: Tensor, rng: Generator) -> tuple[Tensor, Metrics]:
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


def reconstruction_loss(error: Tensor) -> Tensor:
    """Reconstruction loss, a scalar, of the pixel error (b, 3, h, w).

    L1 and L2, L1 at a half and a quarter of the size, and L1 of the differences between neighbours,
    since drawings are edges and flat areas.
    """
    loss = error.abs().mean() + error.square().mean()
    loss = loss + 0.5 * sum(F.avg_pool2d(error, k).abs().mean() for k in (2, 4))
    return loss + 0.5 * (error.diff(dim=-1).abs().mean() + error.diff(dim=-2).abs().mean())


def psnr(square: float) -> float:
    """Peak signal-to-noise ratio in dB of the mean squared error ``square`` between pictures in
    [-1, 1], whose peak is 2."""
    return 10 * float(np.log10(4 / max(square, 1e-12)))


def ssim(a: Tensor, b: Tensor) -> Tensor:
    """Structural similarity (b,) of pictures (b, 3, h, w) in [-1, 1]; 1 for identical pictures.

    Computed per colour channel, with means, variances and covariance under a Gaussian of 1.5 px in
    windows of 11 px (Wang et al. 2004).
    """
    line = torch.exp(-((torch.arange(11, device=a.device) - 5) ** 2) / (2 * 1.5**2))
    line = line / line.sum()
    down, across = (  # band matrices, n - 10 by n
        torch.stack([F.pad(line, (i, n - 11 - i)) for i in range(n - 10)]) for n in a.shape[2:]
    )

    def mean(x: Tensor) -> Tensor:
        return down @ x @ across.T  # convolutions of one channel take far longer

    # In fp32, since a variance is a small difference of large numbers.
    with torch.autocast(a.device.type, enabled=False):
        x, y = a.float(), b.float()
        mx, my = mean(x), mean(y)
        vx, vy, both = mean(x * x) - mx**2, mean(y * y) - my**2, mean(x * y) - mx * my
        c1, c2 = 0.02**2, 0.06**2  # 1% and 3% of the range, which is 2
        ratio = (2 * mx * my + c1) * (2 * both + c2) / ((mx**2 + my**2 + c1) * (vx + vy + c2))
    return ratio.mean((1, 2, 3))
