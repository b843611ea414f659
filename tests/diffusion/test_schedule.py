"""Schedules and timesteps, compared with the properties stated in their papers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import beta

from kalpana.diffusion.schedule import (
    LEVELS,
    SPACINGS,
    Cosine,
    Discrete,
    Flow,
    Schedule,
    half_log_snr,
    levels,
    time_at,
    times,
)
from kalpana.diffusion.schedule import (
    SCHEDULES as NAMED,
)

SCHEDULES = [Flow(), Cosine(), Discrete(zero_snr=True), Discrete(1e-4, 0.02, "linear", True)]


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_ends_are_exact_and_the_way_is_monotone(schedule: Schedule, dtype: torch.dtype) -> None:
    t = torch.linspace(0, 1, 101, dtype=dtype)
    alpha, sigma = schedule.alpha(t), schedule.sigma(t)
    assert (alpha[0], sigma[0], alpha[-1], sigma[-1]) == (1, 0, 0, 1)
    assert (alpha.diff() < 0).all() and (sigma.diff() > 0).all()


def test_flow_sums_to_one_and_cosine_preserves_variance() -> None:
    t = torch.linspace(0, 1, 101, dtype=torch.float64)
    torch.testing.assert_close(Flow().alpha(t) + Flow().sigma(t), torch.ones_like(t))
    torch.testing.assert_close(Cosine().alpha(t) ** 2 + Cosine().sigma(t) ** 2, torch.ones_like(t))


def test_levels_broadcast_over_clips() -> None:
    alpha, sigma = levels(Flow(), torch.tensor([0.0, 0.25]), torch.zeros(2, 3, 4, 8, 8))
    assert alpha.shape == sigma.shape == (2, 1, 1, 1, 1)
    assert sigma.flatten().tolist() == [0.0, 0.25]


@given(steps=st.integers(1, 200), shift=st.floats(0.1, 12))
def test_times_fall_strictly_from_one_to_zero(steps: int, shift: float) -> None:
    t = times(steps, shift)
    assert t.shape == (steps + 1,) and t[0] == 1 and t[-1] == 0
    assert (t.diff() < 0).all()


def test_shift_scales_the_noise_to_signal_ratio() -> None:
    """Esser et al. 2024, eq. 20-23: sigma / alpha of the flow schedule is scaled by ``shift``."""
    plain, shifted = times(10)[1:], times(10, shift=3.0)[1:]
    torch.testing.assert_close(shifted / (1 - shifted), 3 * plain / (1 - plain))


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_time_at_inverts_the_level(schedule: Schedule) -> None:
    t = torch.linspace(0.001, 0.999, 50, dtype=torch.float64)
    torch.testing.assert_close(time_at(schedule, half_log_snr(schedule, t)), t, atol=1e-12, rtol=0)
    assert half_log_snr(Flow(), torch.tensor(0.2)).item() == pytest.approx(np.log(4))


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("spacing", SPACINGS)
@pytest.mark.parametrize("steps", [1, 2, 3, 50, 1000])
def test_every_spacing_falls_strictly_from_one_to_zero(
    schedule: Schedule, spacing: str, steps: int
) -> None:
    t = SPACINGS[spacing](steps, 2.0, schedule)
    assert t.shape == (steps + 1,) and t.dtype == torch.float64
    assert t[0] == 1 and t[-1] == 0 and (t.diff() < 0).all()


def test_spacings_of_time_have_their_closed_forms() -> None:
    """By time without shift; with it, sigma / alpha of the flow schedule is scaled."""
    u = np.linspace(1, 0, 21)
    for name, expected in (("uniform", u), ("quadratic", u**2), ("beta", beta.ppf(u, 0.6, 0.6))):
        plain, shifted = (SPACINGS[name](20, shift, Flow()).numpy() for shift in (1.0, 3.0))
        np.testing.assert_allclose(plain, expected, atol=1e-6)
        np.testing.assert_allclose(shifted, 3 * expected / (1 + 2 * expected), atol=1e-6)


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_spacings_of_levels_have_their_closed_forms(schedule: Schedule) -> None:
    low, high = LEVELS
    u = np.linspace(0, 1, 20)
    levels = {
        "karras": (high ** (1 / 7) + u * (low ** (1 / 7) - high ** (1 / 7))) ** 7,
        "exponential": high ** (1 - u) * low**u,
        "kl-optimal": np.tan(u * np.arctan(low) + (1 - u) * np.arctan(high)),
    }
    for name, expected in levels.items():
        t = SPACINGS[name](20, 1.0, schedule)[1:-1]
        got = schedule.sigma(t) / schedule.alpha(t)
        np.testing.assert_allclose(got.numpy(), expected[1:], rtol=1e-9)


@pytest.mark.parametrize("betas", ["linear", "scaled_linear"])
@pytest.mark.parametrize("zero_snr", [False, True])
def test_a_discrete_schedule_multiplies_its_steps(betas: Any, zero_snr: bool) -> None:
    """alpha^2 after k steps is the product of 1 - beta (Ho et al. 2020, eq. 4), rescaled for zero
    terminal SNR so that the first step is kept and the last is 0 (Lin et al. 2024)."""
    start, end, steps = 0.001, 0.02, 10
    product, alphas = 1.0, []
    for k in range(steps):
        share = k / (steps - 1)
        if betas == "linear":
            beta = start + share * (end - start)
        else:
            beta = (start**0.5 + share * (end**0.5 - start**0.5)) ** 2
        product *= 1 - beta
        alphas.append(product**0.5)
    if zero_snr:
        first, last = alphas[0], alphas[-1]
        alphas = [(each - last) * first / (first - last) for each in alphas]
    schedule = Discrete(start, end, betas, zero_snr, steps)
    t = torch.linspace(0, 1, steps + 1, dtype=torch.float64)
    expected = torch.tensor([1.0, *alphas], dtype=torch.float64)
    torch.testing.assert_close(schedule.alpha(t), expected)
    torch.testing.assert_close(schedule.alpha(t) ** 2 + schedule.sigma(t) ** 2, torch.ones_like(t))
    between = torch.tensor([0.25], dtype=torch.float64)  # halfway from the second to the third step
    torch.testing.assert_close(schedule.alpha(between) ** 2, (expected[2:4] ** 2).mean()[None])


@pytest.mark.parametrize(
    ("name", "first", "last"),
    [
        ("linear", 1 - 1e-4, 4.0358e-5),  # of DDPM
        ("scaled-linear", 1 - 0.00085, 0.00466009),  # of Stable Diffusion 1
        ("scaled-linear-zero-snr", 1 - 0.00085, 0.0),
    ],
)
def test_named_schedules_end_at_the_published_products(
    name: str, first: float, last: float
) -> None:
    """alpha^2 after the first and the last of 1,000 steps, as ``alphas_cumprod`` of diffusers."""
    t = torch.tensor([0.001, 1.0], dtype=torch.float64)
    assert (NAMED[name].alpha(t) ** 2).tolist() == pytest.approx([first, last], rel=1e-4, abs=1e-12)


@pytest.mark.parametrize("spacing", SPACINGS)
def test_a_schedule_that_ends_at_less_noise_is_spaced_within_it(spacing: str) -> None:
    """As that of Stable Diffusion, whose sigma / alpha is 14.6 at t = 1; here it is 3."""

    class Weak(Flow):
        def alpha(self, t: torch.Tensor) -> torch.Tensor:
            return 1 - t * 2 / 3

    t = SPACINGS[spacing](500, 1.0, Weak())
    assert t[0] == 1 and t[-1] == 0 and (t.diff() < 0).all()
    if spacing == "exponential":
        ratio = Weak().sigma(t) / Weak().alpha(t)
        assert ratio[0] == pytest.approx(3) and ratio[-2] == pytest.approx(LEVELS[0])
        torch.testing.assert_close(ratio[2:-1] / ratio[1:-2], (ratio[1] / ratio[0]).expand(498))
