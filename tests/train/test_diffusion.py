"""The loss of diffusion networks: its weights and times, by hand."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from kalpana.diffusion.schedule import SCHEDULES, Discrete
from kalpana.train.data_cache import silent
from kalpana.train.diffusion import discrete_times, min_snr_weight
from kalpana.train.pixels import PixelRecipe, PixelTask
from kalpana.train.recipe import check_recipe
from kalpana.train.turbo import TurboRecipe
from kalpana.types import KalpanaError

MODEL: dict[str, Any] = {
    "block_out_channels": (8, 8), "norm_num_groups": 4, "attention_head_dim": 2,
    "layers_per_block": 1, "down_block_types": ("DownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "UpBlock2D"), "mid_block_type": "UNetMidBlock2D",
}  # fmt: skip


@pytest.mark.parametrize(
    ("prediction", "alpha", "sigma", "gamma", "weight"),
    [
        ("x0", 0.8, 0.6, 5.0, 16 / 9),  # SNR 16/9
        ("x0", 0.8, 0.6, 1.0, 1.0),
        ("eps", 0.8, 0.6, 5.0, 1.0),
        ("eps", 0.8, 0.6, 1.0, 9 / 16),
        ("eps", 0.0, 1.0, 5.0, 1.0),
        ("v", 0.8, 0.6, 5.0, 16 / 25),  # SNR / (SNR + 1)
        ("v", 0.8, 0.6, 1.0, 9 / 25),
        ("v", 0.0, 1.0, 5.0, 0.0),
        ("flow", 0.75, 0.25, 5.0, 5 / 16),  # SNR 9, and x0 = x_t - sigma p
        ("flow", 0.25, 0.75, 5.0, 1 / 16),
    ],
)
def test_the_weight_of_min_snr(
    prediction: str, alpha: float, sigma: float, gamma: float, weight: float
) -> None:
    found = min_snr_weight(prediction, torch.tensor(alpha), torch.tensor(sigma), gamma)
    assert found.item() == pytest.approx(weight, rel=1e-5)


@pytest.mark.parametrize("gamma", [None, 5.0, 0.5])
@pytest.mark.parametrize("prediction", ["x0", "eps", "v"])
def test_the_loss_is_that_computed_by_hand(
    prediction: str, gamma: float | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A fresh network predicts 0, so that its error is that of the target alone."""
    monkeypatch.setattr("kalpana.train.pixels.HELD_OUT", 8)
    recipe = PixelRecipe(
        name="p", steps=1, batch=4, lr=1e-3, num_images=80, model=MODEL, schedule="cosine",
        prediction=prediction, min_snr_gamma=gamma,
    )  # fmt: skip
    task = PixelTask(recipe, torch.device("cpu"), silent)
    batch, t = task.batch(0), torch.tensor([0.1, 0.4, 0.5, 0.8])
    eps = torch.randn(batch.x0.shape, generator=torch.Generator().manual_seed(1))
    alpha, sigma = (f(torch.pi / 2 * t)[:, None, None, None] for f in (torch.cos, torch.sin))
    target = {"x0": batch.x0, "eps": eps, "v": alpha * eps - sigma * batch.x0}[prediction]
    plain = target.square().mean((1, 2, 3))
    if gamma is not None:
        snr = (alpha / sigma).flatten() ** 2
        plain = plain * snr.clamp(max=gamma) / {"x0": 1, "eps": snr, "v": snr + 1}[prediction]
    with torch.no_grad():
        error = task._error(batch.x0, t, eps, task.cond(batch))[0]
    torch.testing.assert_close(error, plain, rtol=1e-4, atol=1e-6)


def test_discrete_times_are_the_steps_of_the_process() -> None:
    t = discrete_times(40_000, torch.Generator().manual_seed(0))
    steps = t * 1000
    torch.testing.assert_close(steps, steps.round(), rtol=0, atol=1e-3)
    assert steps.round().unique().numel() == 1000 and t.min() > 0 and t.max() == 1
    assert t.mean().item() == pytest.approx(0.5005, abs=0.005)


def test_zero_terminal_snr_by_hand() -> None:
    """Lin et al. 2024, algorithm 1, for betas 0.1, 0.2 and 0.3."""
    schedule = Discrete(0.1, 0.3, "linear", zero_snr=True, steps=3)
    roots = [0.9**0.5, (0.9 * 0.8) ** 0.5, (0.9 * 0.8 * 0.7) ** 0.5]
    wanted = [(root - roots[2]) * roots[0] / (roots[0] - roots[2]) for root in roots]
    t = torch.tensor([1 / 3, 2 / 3, 1.0], dtype=torch.float64)
    torch.testing.assert_close(schedule.alpha(t), torch.tensor(wanted, dtype=torch.float64))
    assert wanted[0] == pytest.approx(roots[0])
    end = torch.ones(())
    for name in ("linear-zero-snr", "scaled-linear-zero-snr", "cosine"):
        assert SCHEDULES[name].alpha(end) == 0 < SCHEDULES["linear"].alpha(end) < 0.01


def test_a_student_refuses_times_and_weights_that_it_has_of_its_own() -> None:
    fields: dict[str, Any] = {
        "name": "t", "steps": 1, "batch": 1, "lr": 1e-3, "vae": "v", "image_model": "m",
    }  # fmt: skip
    for field, value in (("timesteps", "discrete"), ("min_snr_gamma", 5.0)):
        with pytest.raises(KalpanaError, match=f"'{field}': a student has times and a weight"):
            check_recipe(TurboRecipe(**fields, **{field: value}))
