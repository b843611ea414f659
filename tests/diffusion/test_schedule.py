"""Schedules and timesteps, compared with the properties stated in their papers."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from kalpana.diffusion.schedule import Cosine, Flow, Schedule, levels, times

SCHEDULES = [Flow(), Cosine()]


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
