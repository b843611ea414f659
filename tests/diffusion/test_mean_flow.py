"""Mean velocities, compared with the exact flow of Gaussian data N(0, SD^2): a path keeps
x_t / sqrt((1 - t)^2 SD^2 + t^2)."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from kalpana.diffusion.denoiser import Process
from kalpana.diffusion.editing import start_at
from kalpana.diffusion.guidance import guide
from kalpana.diffusion.mean_flow import mean_velocity, split_target, to_next
from kalpana.diffusion.samplers import SAMPLERS, sample
from kalpana.diffusion.schedule import times
from kalpana.types import Cond

SD = 0.5
X = torch.randn(3, 2, 4, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def deviation(t: Tensor) -> Tensor:
    return ((1 - t) ** 2 * SD**2 + t**2).sqrt().reshape(-1, 1, 1, 1)


def velocity(x_t: Tensor, t: Tensor) -> Tensor:
    """eps - x0 in expectation, given x_t."""
    a, b = 1 - t, t
    return x_t * ((b - a * SD**2) / (a**2 * SD**2 + b**2)).reshape(-1, 1, 1, 1)


def exact(x_t: Tensor, t: Tensor, s: Tensor) -> Tensor:
    """The mean velocity of the exact path from t to s < t."""
    return (x_t - x_t * deviation(s) / deviation(t)) / (t - s).reshape(-1, 1, 1, 1)


def perfect(x_t: Tensor, t: Tensor, cond: Cond) -> Tensor:
    """The perfect two-time network."""
    assert cond.until is not None
    return x_t - t.reshape(-1, 1, 1, 1) * exact(x_t, t, cond.until.expand(len(t)))


def sampled(timesteps: Tensor, x: Tensor = X) -> list[Tensor]:
    denoiser = Process("flow", "x0").denoiser(to_next(perfect, timesteps))
    denoise = guide(denoiser, Cond(guidance=torch.ones(1)), scale=3.0)
    return [state.x for state in sample(denoise, x, timesteps, SAMPLERS["euler"])]


@pytest.mark.parametrize("steps", [1, 2, 3, 4, 8])
def test_any_number_of_steps_is_exact_with_the_perfect_network(steps: int) -> None:
    timesteps = times(steps)
    for t, x in zip(timesteps[1:], sampled(timesteps), strict=True):
        torch.testing.assert_close(x, X * deviation(t))
    torch.testing.assert_close(x, SD * X)


def test_a_part_of_the_way_is_exact_too() -> None:
    timesteps = start_at(times(4, shift=2.0), 0.6)
    torch.testing.assert_close(sampled(timesteps)[-1], X * SD / deviation(timesteps[0]))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_each_step_reads_the_time_where_it_ends(dtype: torch.dtype) -> None:
    """Two thirds, rounded to the precision of x, is not below itself."""
    read = []

    def network(x_t: Tensor, t: Tensor, cond: Cond) -> Tensor:
        assert cond.until is not None and cond.until.shape == (1,)
        read.append(cond.until.item())
        return x_t

    for steps in (3, 7):
        read.clear()
        denoiser = Process("flow", "x0").denoiser(to_next(network, times(steps)))
        denoise = guide(denoiser, Cond(guidance=torch.ones(1)))
        *_, _ = sample(denoise, X.to(dtype), times(steps), SAMPLERS["euler"])
        assert read == pytest.approx(times(steps)[1:].tolist())


def test_a_prediction_of_the_clean_latents_is_the_velocity() -> None:
    x0, eps, t = X, X.flip(0) + 1, torch.tensor([0.2, 0.5, 1.0], dtype=torch.float64)
    x_t = torch.lerp(x0, eps, t[:, None, None, None])
    torch.testing.assert_close(mean_velocity(x0, x_t, t), eps - x0)


def test_the_error_of_the_target_is_of_second_order_in_the_split() -> None:
    t = torch.tensor([1.0, 0.8, 0.5], dtype=torch.float64)
    s = torch.tensor([0.0, 0.3, 0.1], dtype=torch.float64)

    def error(share: float) -> Tensor:
        target = split_target(velocity(X, t), exact, X, t, s, share)
        return (target - exact(X, t, s)).abs().amax((1, 2, 3))

    ratio = error(0.02) / error(0.01)
    assert torch.all((ratio > 3.8) & (ratio < 4.2)) and error(0.01).max() < 1e-3


def test_targets_that_follow_from_each_other_are_the_steps_of_euler() -> None:
    """With a split of one step of a grid, the fixed point of the targets is Euler's path on it."""
    grid = times(6)

    def learned(x_t: Tensor, t: Tensor, s: Tensor) -> Tensor:
        count = round(float(t[0] - s[0]) * 6)
        if count == 1:
            return velocity(x_t, t)
        return split_target(velocity(x_t, t), learned, x_t, t, s, 1 / count)

    denoiser = Process("flow", "x0").denoiser(
        lambda x_t, t, cond: x_t - t.reshape(-1, 1, 1, 1) * velocity(x_t, t)
    )
    denoise = guide(denoiser, Cond(guidance=torch.ones(1)))
    for k, state in enumerate(sample(denoise, X, grid, SAMPLERS["euler"]), start=1):
        u = learned(X, torch.ones(3, dtype=X.dtype), grid[k].expand(3))
        torch.testing.assert_close(X - (1 - grid[k]) * u, state.x)


def test_the_target_of_a_straight_path_is_exact() -> None:
    """All paths to one point of data are straight."""
    point, t = torch.full_like(X, 0.7), torch.tensor([1.0, 0.6, 0.4], dtype=torch.float64)
    line = lambda x, t, s: mean_velocity(point, x, t)  # noqa: E731
    for share in (0.5, 0.125):
        target = split_target(mean_velocity(point, X, t), line, X, t, t / 3, share)
        torch.testing.assert_close(target, mean_velocity(point, X, t))
