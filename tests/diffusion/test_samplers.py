"""Samplers, compared with closed forms.

For Gaussian data N(mu, sd^2) the ideal denoiser is known, and so is the solution of the
probability-flow ODE: x(t) = alpha mu + sqrt(alpha^2 sd^2 + sigma^2) z with a constant z, hence
x(0) = mu + sd x(1).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import Tensor

from kalpana.diffusion.denoiser import Denoise
from kalpana.diffusion.samplers import SAMPLERS, Noise, Sampler, no_noise, sample, step_noise
from kalpana.diffusion.schedule import SPACINGS, Cosine, Flow, Schedule, times
from kalpana.diffusion.solvers import Past, euler

MU, SD = 0.7, 0.5
CENTRES, WIDTH = torch.tensor([[-1.0, 0.5], [0.8, 1.0], [0.2, -1.0]], dtype=torch.float64), 0.2
SCHEDULES = [Flow(), Cosine()]
STOCHASTIC = ("ddpm", "euler-a", "dpm2-a", "dpmpp-sde", "dpmpp-2m-sde", "lcm")
SOLVERS = {name: step for name, step in SAMPLERS.items() if name not in STOCHASTIC}
DENOISING = {name: step for name, step in SAMPLERS.items() if name != "lcm"}
every_solver = pytest.mark.parametrize("step", SOLVERS.values(), ids=SOLVERS)
every_denoising = pytest.mark.parametrize("step", DENOISING.values(), ids=DENOISING)
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


def stream(seed: int = 1) -> Callable[[int], Noise]:
    """Noise of all rows and steps from one generator."""
    generator = torch.Generator().manual_seed(seed)
    return lambda index: lambda x: torch.randn(x.shape, generator=generator, dtype=x.dtype)


def last(
    denoise: Denoise,
    x: Tensor,
    timesteps: Tensor,
    step: Sampler,
    source: Callable[[int], Noise] | None = None,
) -> Tensor:
    *_, state = sample(denoise, x, timesteps, step, source or stream())
    return state.x


def order(errors: list[float]) -> float:
    """Order of convergence: log2 of the ratio of the errors of the two finest grids.

    Each grid has twice the steps of the one before.
    """
    return math.log2(errors[-2] / errors[-1])


@every_schedule
@every_solver
def test_gaussian_noise_goes_where_the_exact_flow_takes_it(
    schedule: Schedule, step: Sampler
) -> None:
    x = noise(256)
    torch.testing.assert_close(
        last(gaussian(schedule), x, times(100), step), MU + SD * x, atol=0.03, rtol=0
    )


@every_schedule
@pytest.mark.parametrize("name, expected", [("euler", 1.0), ("ddim", 1.0), ("heun", 2.0)])
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
@pytest.mark.parametrize(
    "name, expected",
    [("euler", 1), ("ddim", 1), ("heun", 2), ("dpm2", 2), ("dpmpp-2m", 2), ("unipc", 3)],
)
def test_order_of_convergence_on_an_inner_stretch(
    schedule: Schedule, name: str, expected: float
) -> None:
    """From t = 0.95 to 0.05, where lambda is finite and the solvers have their nominal orders."""
    errors = []
    for n in (200, 400):
        grid = torch.linspace(0.95, 0.05, n + 1, dtype=torch.float64)
        got = last(gaussian(schedule), exact(schedule, grid[0]), grid, SAMPLERS[name])
        errors.append((got - exact(schedule, grid[-1])).abs().mean().item())
    assert order(errors) == pytest.approx(expected, abs=0.15)


def exact(schedule: Schedule, t: Tensor) -> Tensor:
    """The solution of the ODE at time t, for Gaussian data."""
    alpha, sigma = schedule.alpha(t), schedule.sigma(t)
    return alpha * MU + (alpha**2 * SD**2 + sigma**2).sqrt() * noise(32)


@every_schedule
@pytest.mark.parametrize(
    "name, expected",
    [("euler", 1), ("heun", 2), ("dpm2", 2), ("dpmpp-2m", 2), ("lms", 4), ("deis", 3)],
)
def test_one_step_after_exact_steps_has_the_order_of_the_solver(
    schedule: Schedule, name: str, expected: int
) -> None:
    """The error of one step of length h is O(h^(order + 1)). The steps with which a multistep
    solver starts have lower orders, so here the steps before are exact."""
    denoise, errors = gaussian(schedule), []
    for h in (0.02, 0.01):
        *before, t, s = 0.5 + h * torch.arange(4, -1, -1, dtype=torch.float64)
        history = [Past(u, exact(schedule, u), denoise(exact(schedule, u), u)) for u in before]
        got = SAMPLERS[name](denoise, exact(schedule, t), t, s, history, no_noise(1))
        errors.append((got - exact(schedule, s)).abs().mean().item())
    assert order(errors) == pytest.approx(expected + 1, abs=0.3)


@every_schedule
def test_second_order_solvers_earn_their_keep_from_end_to_end(schedule: Schedule) -> None:
    x = noise(64)
    errors = {
        name: (last(gaussian(schedule), x, times(40), step) - (MU + SD * x)).abs().mean()
        for name, step in SOLVERS.items()
    }
    for name in ("heun", "dpm2", "unipc", "lms"):
        assert errors[name] < errors["euler"] / 10, name
    for name in ("dpmpp-2m", "deis"):
        assert errors[name] < errors["euler"] / 5, name


@every_schedule
@every_denoising
def test_mixture_keeps_its_mean_variance_and_weights(schedule: Schedule, step: Sampler) -> None:
    n = 6000
    x = last(mixture(schedule), noise(n), times(100, 2.0), step)
    covariance = torch.cov(CENTRES.T, correction=0) + WIDTH**2 * torch.eye(2, dtype=torch.float64)
    torch.testing.assert_close(x.mean(0), CENTRES.mean(0), atol=0.04, rtol=0)
    torch.testing.assert_close(torch.cov(x.T), covariance, atol=0.05, rtol=0)
    nearest = torch.cdist(x, CENTRES).argmin(1)
    torch.testing.assert_close(
        nearest.bincount().double() / n,
        torch.full((3,), 1 / 3, dtype=torch.float64),
        atol=0.03,
        rtol=0,
    )
    # Stochastic samplers of first order are too narrow by O(1 / steps).
    assert (x - CENTRES[nearest]).std().item() == pytest.approx(WIDTH, abs=0.03)


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
    torch.testing.assert_close(euler(denoise, x, t, s, [], no_noise(1)), x + (s - t) * velocity)


@every_sampler
def test_a_batch_of_three_equals_three_singles(step: Sampler) -> None:
    x = noise(3)
    seeds = (7, 0, 2**63 - 1)
    together = last(mixture(Flow()), x, times(12), step, step_noise(seeds))
    singles = [
        last(mixture(Flow()), row[None], times(12), step, step_noise([seed]))
        for row, seed in zip(x, seeds, strict=True)
    ]
    assert torch.equal(together, torch.cat(singles))


@every_sampler
def test_the_stream_counts_and_shows_the_first_estimate_of_each_step(step: Sampler) -> None:
    x = noise(5)
    untouched, denoise = x.clone(), gaussian(Flow())
    states = list(sample(denoise, x, times(6), step, stream()))
    assert [(state.index, state.total) for state in states] == [(i, 6) for i in range(1, 7)]
    before = [x, *(state.x for state in states)]
    for state, x_t, t in zip(states, before, times(6), strict=False):
        assert torch.equal(state.x0, denoise(x_t, t))
    assert torch.equal(x, untouched)


@pytest.mark.parametrize(
    "name, calls",
    [
        (name, {"heun": 11, "dpm2": 10, "dpm2-a": 10, "dpmpp-sde": 10}.get(name, 6))
        for name in SAMPLERS
    ],
)
def test_network_calls_of_six_steps(name: str, calls: int) -> None:
    times_called: list[float] = []
    inner = gaussian(Flow())

    def estimate(x_t: Tensor, t: Tensor) -> Tensor:
        times_called.append(float(t))
        return inner(x_t, t)

    last(Denoise(Flow(), estimate), noise(2), times(6), SAMPLERS[name])
    # The network is never called at t = 0, where nothing is left to denoise.
    assert len(times_called) == calls and min(times_called) > 0


@every_solver
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
        assert {
            state.x.dtype
            for state in sample(point, noise(2).float(), times(4), step, step_noise([1, 2]))
        } == {torch.float32}


def test_closing_the_stream_stops_the_work() -> None:
    times_called: list[Tensor] = []

    def estimate(x_t: Tensor, t: Tensor) -> Tensor:
        times_called.append(t)
        return x_t

    states = sample(Denoise(Flow(), estimate), noise(1), times(50), euler)
    next(states)
    states.close()
    assert len(times_called) == 1


# Stochastic samplers.

every_stochastic = pytest.mark.parametrize("name", STOCHASTIC)
every_eta = pytest.mark.parametrize(
    "name", ["ddim", "euler-a", "dpm2-a", "dpmpp-sde", "dpmpp-2m-sde"]
)


@pytest.mark.slow
@every_schedule
@every_eta
@pytest.mark.parametrize("eta", [0.5, 1.0])
def test_gaussian_data_keep_mean_and_variance_with_any_eta(
    schedule: Schedule, name: str, eta: float
) -> None:
    step = partial(SAMPLERS[name], eta=eta)
    x = last(gaussian(schedule), noise(10_000), times(300), step)
    assert x.mean().item() == pytest.approx(MU, abs=0.01)
    assert x.std().item() == pytest.approx(SD, abs=0.012)


@every_schedule
@pytest.mark.parametrize("steps", [1, 3, 8])
def test_a_consistency_model_keeps_mean_and_variance_in_any_number_of_steps(
    schedule: Schedule, steps: int
) -> None:
    def consistency(x_t: Tensor, t: Tensor) -> Tensor:
        """The end of the exact path through x_t."""
        alpha, sigma = schedule.alpha(t), schedule.sigma(t)
        return MU + SD * (x_t - alpha * MU) / (alpha**2 * SD**2 + sigma**2).sqrt()

    x = last(Denoise(schedule, consistency), noise(20_000), times(steps), SAMPLERS["lcm"])
    assert x.mean().item() == pytest.approx(MU, abs=0.01)
    assert x.std().item() == pytest.approx(SD, abs=0.01)


@every_schedule
def test_a_ddpm_step_is_the_posterior_of_a_gaussian(schedule: Schedule) -> None:
    """Ho et al. 2020, eq. 6 and 7, from the product of two Gaussians: q(x_s | x0) and q(x_t | x_s).

    x_t given x_s has mean a x_s, a = alpha_t / alpha_s, and variance sigma_t^2 - a^2 sigma_s^2.
    """
    t, s = (torch.tensor(u, dtype=torch.float64) for u in (0.7, 0.4))
    alpha, sigma = schedule.alpha, schedule.sigma
    a = alpha(t) / alpha(s)
    added = sigma(t) ** 2 - a**2 * sigma(s) ** 2
    precision = 1 / sigma(s) ** 2 + a**2 / added
    x, x0 = 0.3, 1.2
    mean = (alpha(s) * x0 / sigma(s) ** 2 + a * x / added) / precision
    point = Denoise(schedule, lambda x_t, t: torch.full_like(x_t, x0))
    start = torch.full((200_000,), x, dtype=torch.float64)
    y = SAMPLERS["ddpm"](point, start, t, s, [], stream()(1))
    assert y.mean().item() == pytest.approx(mean.item(), abs=0.005)
    assert y.var().item() == pytest.approx(1 / precision.item(), rel=0.01)


@every_eta
def test_eta_zero_draws_nothing_and_is_the_solver(name: str) -> None:
    solver = {"dpm2-a": "dpm2", "dpmpp-2m-sde": "dpmpp-2m"}.get(name, "euler")
    x, step = noise(8), partial(SAMPLERS[name], eta=0.0)
    *_, state = sample(mixture(Cosine()), x, times(9), step)
    if name == "dpmpp-sde":  # a single-step second-order solver of its own
        return
    expected = last(mixture(Cosine()), x, times(9), SAMPLERS[solver])
    torch.testing.assert_close(state.x, expected)


@every_stochastic
def test_noise_changes_a_sample_and_has_to_be_given(name: str) -> None:
    x, step = noise(2), SAMPLERS[name]
    first, again, other = (
        last(mixture(Flow()), x, times(5), step, step_noise(seeds))
        for seeds in ([1, 2], [1, 2], [1, 3])
    )
    assert torch.equal(first, again)
    assert torch.equal(first[0], other[0]) and not torch.equal(first[1], other[1])
    with pytest.raises(ValueError, match="pass noise=step_noise"):
        list(sample(mixture(Flow()), x, times(5), step))


def test_step_noise_is_gaussian_and_new_in_every_step_draw_and_row() -> None:
    like = torch.zeros(2, 4000, dtype=torch.float64)
    source = step_noise([0, 1])
    draw, later = source(1), source(2)
    rows = torch.cat((draw(like), draw(like), later(like)))
    assert rows.dtype == torch.float64
    torch.testing.assert_close(
        torch.corrcoef(rows), torch.eye(6, dtype=torch.float64), atol=0.07, rtol=0
    )
    assert rows.mean().abs() < 0.02 and rows.std().item() == pytest.approx(1, abs=0.02)


@every_schedule
@pytest.mark.parametrize("name", ["lms", "dpmpp-2m-sde"])
@pytest.mark.parametrize("spacing", SPACINGS)
def test_samplers_reach_the_data_by_every_spacing(
    schedule: Schedule, name: str, spacing: str
) -> None:
    x = noise(4000)
    x = last(gaussian(schedule), x, SPACINGS[spacing](60, 1.0, schedule), SAMPLERS[name])
    assert x.mean().item() == pytest.approx(MU, abs=0.03)
    assert x.std().item() == pytest.approx(SD, abs=0.03)


@pytest.mark.parametrize("eta", [0.0, 0.4, 1.0])
def test_a_step_of_dpm2_a_is_that_of_k_diffusion(eta: float) -> None:
    """By its formulas: x / alpha at noise level sigma / alpha, down to a lower level than that of s
    by way of their geometric mean, and up by fresh noise."""
    t, s = torch.tensor([0.8, 0.5], dtype=torch.float64)
    fresh = noise(4, seed=3)

    def estimate(x_t: Tensor, time: Tensor) -> Tensor:
        return torch.tanh(2 * x_t + time)

    def direction(x: Tensor, level: Tensor) -> Tensor:
        time = level / (1 + level)  # of the flow schedule
        return (x - estimate((1 - time) * x, time)) / level

    x, level, wanted = noise(4) / (1 - t), t / (1 - t), s / (1 - s)
    up = eta * (wanted**2 * (level**2 - wanted**2) / level**2).sqrt()
    down = (wanted**2 - up**2).sqrt()
    middle = (level * down).sqrt()
    halfway = x + direction(x, level) * (middle - level)
    expected = x + direction(halfway, middle) * (down - level) + up * fresh
    denoise = Denoise(Flow(), estimate)
    got = SAMPLERS["dpm2-a"](denoise, (1 - t) * x, t, s, [], lambda x: fresh, eta=eta)  # type: ignore[call-arg]
    torch.testing.assert_close(got, (1 - s) * expected)


@pytest.mark.parametrize("name", STOCHASTIC)
def test_fresh_noise_is_added_and_not_taken_away(name: str) -> None:
    """With an estimate that does not change, a step is a sum in which the noise, of one draw, has a
    positive factor: seeds keep their pictures."""
    denoise = Denoise(Cosine(), lambda x_t, t: torch.full_like(x_t, MU))
    t, s = torch.tensor([0.8, 0.5], dtype=torch.float64)
    x, fresh = noise(4), noise(4, seed=3)
    with_noise, without = (
        SAMPLERS[name](denoise, x, t, s, [], lambda x, share=share: share * fresh)
        for share in (1.0, 0.0)
    )
    factor = (with_noise - without) / fresh
    assert 0 < factor.min() <= Cosine().sigma(s) + 1e-9
    torch.testing.assert_close(factor, factor[:1, :1].expand_as(factor))
