"""Samplers, compared with closed forms.

For Gaussian data N(mu, sd^2) the ideal denoiser is known, and so is the solution of the
probability-flow ODE: x(t) = alpha mu + sqrt(alpha^2 sd^2 + sigma^2) z with a constant z, hence
x(0) = mu + sd x(1).
"""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from kalpana.diffusion.denoiser import Denoise
from kalpana.diffusion.samplers import SAMPLERS, Sampler, euler, sample
from kalpana.diffusion.schedule import Cosine, Flow, Schedule, times

MU, SD = 0.7, 0.5
CENTRES, WIDTH = torch.tensor([[-1.0, 0.5], [0.8, 1.0], [0.2, -1.0]], dtype=torch.float64), 0.2
SCHEDULES = [Flow(), Cosine()]
every_sampler = pytest.mark.parametrize("step", SAMPLERS.values(), ids=SAMPLERS)
every_schedule = pytest.mark.parametrize("schedule", SCHEDULES, ids=["flow", "cosine"])


def gaussian(schedule: Schedule) -> Denoise:
    """E[x0 | x_t] for x0 ~ N(MU, SD^2)."""

    def estimate(x_t: Tensor, t: Tensor) -> Tensor:
        alpha, sigma = schedule.alpha(t), schedule.sigma(t)
        return MU + alpha * SD**2 / (alpha**2 * SD**2 + sigma**2) * (x_t - alpha * MU)

    return Denoise(schedule, estimate)


def mixture(schedule: Schedule) -> Denoise:
    """E[x0 | x_t] for three equally likely Gaussians of WIDTH in the plane.

    It is the mean of their posterior means, weighted by their posterior probabilities.
    """

    def estimate(x_t: Tensor, t: Tensor) -> Tensor:
        alpha, sigma = schedule.alpha(t), schedule.sigma(t)
        variance = alpha**2 * WIDTH**2 + sigma**2
        offset = x_t[:, None] - alpha * CENTRES  # b centres 2
        share = torch.softmax(-offset.square().sum(-1) / (2 * variance), dim=1)
        return (share[..., None] * (CENTRES + alpha * WIDTH**2 / variance * offset)).sum(1)

    return Denoise(schedule, estimate)


def noise(b: int, seed: int = 0) -> Tensor:
    return torch.randn(b, 2, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def last(denoise: Denoise, x: Tensor, timesteps: Tensor, step: Sampler) -> Tensor:
    *_, state = sample(denoise, x, timesteps, step)
    return state.x


def order(errors: list[float]) -> float:
    """Order of convergence: log2 of the ratio of the errors of the two finest grids.

    Each grid has twice the steps of the one before.
    """
    return math.log2(errors[-2] / errors[-1])


@every_schedule
@every_sampler
def test_gaussian_noise_goes_where_the_exact_flow_takes_it(
    schedule: Schedule, step: Sampler
) -> None:
    x = noise(256)
    torch.testing.assert_close(
        last(gaussian(schedule), x, times(100), step), MU + SD * x, atol=0.03, rtol=0
    )


@every_schedule
@pytest.mark.parametrize("name, expected", [("euler", 1.0), ("heun", 2.0)])
def test_order_of_convergence_from_pure_noise_to_data(
    schedule: Schedule, name: str, expected: float
) -> None:
    x = noise(32)
    errors = [
        (last(gaussian(schedule), x, times(n), SAMPLERS[name]) - (MU + SD * x)).abs().mean().item()
        for n in (80, 160)
    ]
    assert order(errors) == pytest.approx(expected, abs=0.1)


@every_schedule
@pytest.mark.parametrize("name, expected", [("euler", 1.0), ("heun", 2.0), ("dpmpp-2m", 2.0)])
def test_order_of_convergence_on_an_inner_stretch(
    schedule: Schedule, name: str, expected: float
) -> None:
    """From t = 0.95 to 0.05, where lambda is finite and DPM-Solver++ has its nominal order."""

    def exact(t: float) -> Tensor:
        alpha, sigma = (
            f(torch.tensor(t, dtype=torch.float64)) for f in (schedule.alpha, schedule.sigma)
        )
        return alpha * MU + (alpha**2 * SD**2 + sigma**2).sqrt() * noise(32)

    grids = [torch.linspace(0.95, 0.05, n + 1, dtype=torch.float64) for n in (200, 400)]
    errors = [
        (last(gaussian(schedule), exact(0.95), grid, SAMPLERS[name]) - exact(0.05))
        .abs()
        .mean()
        .item()
        for grid in grids
    ]
    assert order(errors) == pytest.approx(expected, abs=0.15)


@every_schedule
def test_second_order_solvers_earn_their_keep_from_end_to_end(schedule: Schedule) -> None:
    x = noise(64)
    errors = {
        name: (last(gaussian(schedule), x, times(40), step) - (MU + SD * x)).abs().mean()
        for name, step in SAMPLERS.items()
    }
    assert errors["heun"] < errors["euler"] / 10 and errors["dpmpp-2m"] < errors["euler"] / 5


@every_schedule
@every_sampler
@pytest.mark.parametrize("shift", [1.0, 3.0])
def test_mixture_keeps_its_mean_variance_and_weights(
    schedule: Schedule, step: Sampler, shift: float
) -> None:
    n = 6000
    x = last(mixture(schedule), noise(n), times(100, shift), step)
    covariance = torch.cov(CENTRES.T, correction=0) + WIDTH**2 * torch.eye(2, dtype=torch.float64)
    torch.testing.assert_close(x.mean(0), CENTRES.mean(0), atol=0.04, rtol=0)
    torch.testing.assert_close(torch.cov(x.T), covariance, atol=0.05, rtol=0)
    nearest = torch.cdist(x, CENTRES).argmin(1)
    torch.testing.assert_close(
        nearest.bincount().double() / n,
        torch.full((3,), 1 / 3, dtype=torch.float64),
        atol=0.02,
        rtol=0,
    )
    assert (x - CENTRES[nearest]).std().item() == pytest.approx(WIDTH, abs=0.02)


@every_schedule
@every_sampler
@pytest.mark.parametrize("steps", [1, 2, 7])
def test_a_point_of_data_is_met_exactly(schedule: Schedule, step: Sampler, steps: int) -> None:
    """With a constant estimate every solver is exact, also in one step from pure noise.

    The infinite lambda at pure noise does not reach the result.
    """
    point = Denoise(schedule, lambda x_t, t: torch.full_like(x_t, MU))
    torch.testing.assert_close(
        last(point, noise(4), times(steps), step), torch.full((4, 2), MU, dtype=torch.float64)
    )


def test_an_euler_step_of_flow_is_a_step_along_the_velocity() -> None:
    x, t, s = noise(8), torch.tensor(0.8), torch.tensor(0.6)
    denoise = gaussian(Flow())
    velocity = (x - denoise(x, t)) / t
    torch.testing.assert_close(euler(denoise, x, t, s, []), x + (s - t) * velocity)


@every_sampler
def test_a_batch_of_three_equals_three_singles(step: Sampler) -> None:
    x = noise(3)
    together = last(mixture(Flow()), x, times(12), step)
    assert torch.equal(
        together, torch.cat([last(mixture(Flow()), row[None], times(12), step) for row in x])
    )


@every_sampler
def test_the_stream_counts_and_shows_the_first_estimate_of_each_step(step: Sampler) -> None:
    x = noise(5)
    untouched, denoise = x.clone(), gaussian(Flow())
    states = list(sample(denoise, x, times(6), step))
    assert [(state.index, state.total) for state in states] == [(i, 6) for i in range(1, 7)]
    before = [x, *(state.x for state in states)]
    for state, x_t, t in zip(states, before, times(6), strict=False):
        assert torch.equal(state.x0, denoise(x_t, t))
    assert torch.equal(x, untouched)


@pytest.mark.parametrize("name, calls", [("euler", 6), ("heun", 11), ("dpmpp-2m", 6)])
def test_network_calls_of_six_steps(name: str, calls: int) -> None:
    times_called: list[float] = []
    inner = gaussian(Flow())

    def estimate(x_t: Tensor, t: Tensor) -> Tensor:
        times_called.append(float(t))
        return inner(x_t, t)

    last(Denoise(Flow(), estimate), noise(2), times(6), SAMPLERS[name])
    # The network is never called at t = 0, where nothing is left to denoise.
    assert len(times_called) == calls and min(times_called) > 0


@every_sampler
def test_sampling_may_begin_part_of_the_way(step: Sampler) -> None:
    """As in img2img: from t = 0.6 the exact flow preserves each point's quantile."""
    z, t = noise(64), 0.6
    x = (1 - t) * MU + math.sqrt((1 - t) ** 2 * SD**2 + t**2) * z
    grid = [t * k / 60 for k in range(60, -1, -1)]
    torch.testing.assert_close(
        last(gaussian(Flow()), x, torch.tensor(grid), step), MU + SD * z, atol=0.03, rtol=0
    )


@every_sampler
def test_the_state_keeps_the_precision_of_the_noise(step: Sampler) -> None:
    point = Denoise(Flow(), lambda x_t, t: x_t.clamp(-1, 1))
    with torch.inference_mode():
        assert {state.x.dtype for state in sample(point, noise(2).float(), times(4), step)} == {
            torch.float32
        }


def test_closing_the_stream_stops_the_work() -> None:
    times_called: list[Tensor] = []

    def estimate(x_t: Tensor, t: Tensor) -> Tensor:
        times_called.append(t)
        return x_t

    stream = sample(Denoise(Flow(), estimate), noise(1), times(50), euler)
    next(stream)
    stream.close()
    assert len(times_called) == 1
