"""Training of the autoencoder: the value of its loss, its preview, and its metrics."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Generator, Tensor

from kalpana.metrics import psnr
from kalpana.models.vae import VAE, Config
from kalpana.train.autoencoder import AutoencoderRecipe, AutoencoderTask
from kalpana.train.data_cache import silent
from kalpana.train.losses import reconstruction_loss

TINY: dict[str, Any] = {"latent": 4, "fine": 8, "coarse": 8, "encoder": (1, 1), "decoder": (1, 1)}
RECIPE = AutoencoderRecipe(name="v", model=TINY, num_images=8, steps=10, batch=4, lr=1e-3)


def by_hand(error: np.ndarray) -> float:
    """L1 + L2 + half of L1 of means of 2 x 2 and of 4 x 4 pixels + half of L1 of differences."""

    def pooled(k: int) -> float:
        b, c, h, w = error.shape
        return float(np.abs(error.reshape(b, c, h // k, k, w // k, k).mean((3, 5))).mean())

    steps = [np.abs(np.diff(error, axis=axis)).mean() for axis in (2, 3)]
    return float(
        np.abs(error).mean() + (error**2).mean() + (pooled(2) + pooled(4)) / 2 + sum(steps) / 2
    )


@pytest.fixture
def task(monkeypatch: pytest.MonkeyPatch) -> AutoencoderTask:
    monkeypatch.setattr("kalpana.train.autoencoder.HELD_OUT", 64)
    torch.manual_seed(0)
    task = AutoencoderTask(RECIPE, torch.device("cpu"), silent)
    with torch.no_grad():
        for p in task.model.parameters():
            p.add_(0.1 * torch.randn_like(p))
    task.model.eval()
    return task


def test_the_reconstruction_loss_by_hand() -> None:
    error = torch.randn(2, 3, 8, 12, generator=Generator().manual_seed(1))
    assert reconstruction_loss(error).item() == pytest.approx(by_hand(error.numpy()), rel=1e-5)
    assert reconstruction_loss(torch.full((1, 3, 8, 8), -0.5)).item() == pytest.approx(1.25)


@pytest.mark.parametrize("std", [0.0, 0.3])
def test_the_loss_is_that_of_noisy_latents(std: float, task: AutoencoderTask) -> None:
    task.recipe = RECIPE.model_copy(update={"posterior_std": std})
    batch = task.batch(0)
    loss, metrics = task.loss(batch, Generator().manual_seed(3), 0.0)
    x = batch.float() / 127.5 - 1
    z = task.model.encode(x)
    z = z + std * torch.randn(z.shape, generator=Generator().manual_seed(3))
    error = (task.model.decode(z) - x).detach().numpy()
    assert loss.item() == pytest.approx(by_hand(error), rel=1e-4)
    assert metrics["psnr"] == pytest.approx(10 * np.log10(4 / (error**2).mean()), abs=1e-3)


def test_the_peak_of_psnr_is_two() -> None:
    assert psnr(0.04) == pytest.approx(20.0) and psnr(4.0) == pytest.approx(0.0)


def placed(pixels: Tensor, offset: int) -> Tensor:
    """The same pictures at another place of memory."""
    room = torch.empty(pixels.numel() + offset)[offset:]
    return room.copy_(pixels.flatten()).view_as(pixels)


def test_a_preview_is_the_best_linear_map_and_the_same_to_the_last_bit() -> None:
    torch.manual_seed(0)
    net = VAE(Config(**TINY)).eval()
    for p in net.parameters():
        torch.nn.init.normal_(p, std=0.3)
    pixels, found = torch.rand(6, 3, 32, 32) * 2 - 1, []
    for offset in range(6):
        net.fit_preview(placed(pixels, offset))
        found.append((net.preview_weight.clone(), net.preview_bias.clone()))
    assert all(
        torch.equal(one, two) for pair in found for one, two in zip(pair, found[0], strict=True)
    )
    z = net.encode(pixels).movedim(1, -1).reshape(-1, 4).double().detach().numpy()
    rgb = pixels.view(6, 3, 4, 8, 4, 8).mean((3, 5)).movedim(1, -1).reshape(-1, 3).double().numpy()
    wanted = np.linalg.lstsq(np.c_[z, np.ones(len(z))], rgb, rcond=None)[0]
    assert np.allclose(found[0][0].numpy(), wanted[:-1].T, atol=1e-5)
    assert np.allclose(found[0][1].numpy(), wanted[-1], atol=1e-5)
