"""Classifier-free guidance of a small network; loss guidance compared with closed forms.

The network depends on its tokens, their mask and the null rows. The closed forms are those of
Gaussian data.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest
import torch
from scipy.special import dawsn
from torch import Tensor

from kalpana.diffusion.denoiser import Denoise, Denoiser
from kalpana.diffusion.guidance import autoguide, clipped, guide, loss_guidance, rescaled
from kalpana.diffusion.samplers import SAMPLERS, Sampler, sample
from kalpana.diffusion.schedule import Cosine, Flow, Schedule, times
from kalpana.diffusion.solvers import euler
from kalpana.types import Cond, Tokens

NULL = -0.5


@dataclass
class Network:
    """x0 = the masked mean of the row's token ids / 10 (NULL for null rows), plus 0.1 x_t.

    ``calls`` records the number of rows of each call.
    """

    calls: list[int] = field(default_factory=list)

    def __call__(self, x_t: Tensor, t: Tensor, cond: Cond) -> Tensor:
        assert len(x_t) == len(t)
        self.calls.append(len(x_t))
        if cond.tokens is None:
            return NULL + 0.1 * x_t
        mean = (cond.tokens.ids * cond.tokens.mask).sum(1) / cond.tokens.mask.sum(1) / 10
        if cond.null is not None:
            mean = torch.where(cond.null, NULL, mean)
        return mean[:, None, None, None] + 0.1 * x_t


def words(*rows: list[int]) -> Cond:
    length = max(map(len, rows))
    ids = torch.tensor([row + [0] * (length - len(row)) for row in rows])
    mask = torch.tensor([[True] * len(row) + [False] * (length - len(row)) for row in rows])
    return Cond(Tokens(ids, mask))


@pytest.fixture
def network() -> Network:
    return Network()


X = torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(0))
COND = words([3, 5], [7, 8, 9])
T = torch.tensor(0.5, dtype=torch.float64)


def denoiser(network: Network) -> Denoiser:
    return Denoiser(network, Flow())


def test_guidance_one_is_the_bare_denoiser_in_one_call(network: Network) -> None:
    bare = denoiser(network)(X, T, COND)
    assert torch.equal(guide(denoiser(network), COND, 1.0, negative=words([1], [1]))(X, T), bare)
    assert network.calls == [2, 2]


def test_guidance_one_needs_no_tokens(network: Network) -> None:
    assert torch.equal(guide(denoiser(network), Cond())(X, T), NULL + 0.1 * X)
    with pytest.raises(ValueError, match="null=True"):
        guide(denoiser(network), Cond(), 2.0)


def test_guided_estimates_extrapolate_from_the_null_condition_in_one_call_of_both(
    network: Network,
) -> None:
    guided = guide(denoiser(network), COND, 3.0)(X, T)
    assert network.calls == [4]
    prompted, null = network(X, T.expand(2), COND), network(X, T.expand(2), Cond())
    torch.testing.assert_close(guided, 3 * prompted - 2 * null)


def test_guidance_zero_is_the_null_condition(network: Network) -> None:
    torch.testing.assert_close(
        guide(denoiser(network), COND, 0.0)(X, T), network(X, T.expand(2), Cond())
    )


def test_rows_already_null_stay_null(network: Network) -> None:
    cond = Cond(COND.tokens, torch.tensor([True, False]))
    guided = guide(denoiser(network), cond, 4.0)(X, T)
    torch.testing.assert_close(guided[0], (NULL + 0.1 * X)[0])
    torch.testing.assert_close(guided[1], guide(denoiser(network), COND, 4.0)(X, T)[1])


def test_the_interval_is_open_below_and_closed_above(network: Network) -> None:
    denoise = guide(denoiser(network), COND, 3.0, interval=(0.25, 0.75))
    for t, rows in [(1.0, 2), (0.7501, 2), (0.75, 4), (0.5, 4), (0.2501, 4), (0.25, 2), (0.1, 2)]:
        network.calls.clear()
        denoise(X, torch.tensor(t, dtype=torch.float64))
        assert network.calls == [rows], t


def test_the_whole_interval_guides_every_step(network: Network) -> None:
    list(sample(guide(denoiser(network), COND, 3.0), X, times(5), euler))
    assert network.calls == [4] * 5


@pytest.mark.parametrize(
    "negative", [words([1, 2], [2, 2, 2, 2, 6]), words([1], [2])], ids=["longer", "shorter"]
)
def test_a_negative_prompt_takes_the_place_of_null(network: Network, negative: Cond) -> None:
    guided = guide(denoiser(network), COND, 3.0, negative=negative)(X, T)
    assert network.calls == [4]
    torch.testing.assert_close(
        guided, 3 * network(X, T.expand(2), COND) - 2 * network(X, T.expand(2), negative)
    )
    # n + w (c - n) = c + (1 - w)(n - c)
    swapped = guide(denoiser(network), negative, -2.0, negative=COND)(X, T)
    torch.testing.assert_close(swapped, guided)


@pytest.mark.parametrize("share", [0.0, 0.7, 1.0])
def test_rescaled_guidance_has_the_contrast_between_guided_and_conditional(
    network: Network, share: float
) -> None:
    """Lin et al. 2023, eq. 15 and 16."""
    x0 = denoiser(network)(X, T, COND)
    plain = guide(denoiser(network), COND, 5.0)(X, T) * torch.linspace(1, 3, 4)
    got = rescaled(plain, x0, share)
    for row, before, target in zip(got, plain, x0, strict=True):
        expected = share * target.std() + (1 - share) * before.std()
        torch.testing.assert_close(row.std(), expected)
        torch.testing.assert_close(row / row.std(), before / before.std())
    if share == 0:
        assert torch.equal(got, plain)
    torch.testing.assert_close(
        guide(denoiser(network), COND, 5.0, rescale=share)(X, T),
        rescaled(guide(denoiser(network), COND, 5.0)(X, T), x0, share),
    )


@pytest.mark.slow
def test_rescaling_is_that_of_diffusers() -> None:
    pipelines = pytest.importorskip(
        "diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion",
        reason="the reference: pip install diffusers",
    )
    x0, guided = X, 4 * X.roll(1, 2) + 0.3
    expected = pipelines.rescale_noise_cfg(guided, x0, guidance_rescale=0.7)
    torch.testing.assert_close(rescaled(guided, x0, 0.7), expected)


def test_autoguidance_leads_away_from_the_weaker_network() -> None:
    """For a true mean 1 and a weak network that says 0.6, scale w gives 0.6 + 0.4 w."""
    good, weak = (
        Denoise(Flow(), lambda x_t, t, mean=mean: torch.full_like(x_t, mean)) for mean in (1.0, 0.6)
    )
    for scale, expected in ((0.0, 0.6), (1.0, 1.0), (2.0, 1.4)):
        denoise = autoguide(good, weak, scale)
        *_, last = sample(denoise, X, times(3), euler)
        torch.testing.assert_close(last.x, torch.full_like(X, expected))


def test_autoguidance_has_an_interval_and_a_rescale() -> None:
    calls = []

    def weak(x_t: Tensor, t: Tensor) -> Tensor:
        calls.append(round(float(t), 2))
        return x_t / 2

    good, other = Denoise(Flow(), lambda x_t, t: x_t), Denoise(Flow(), weak)
    denoise = autoguide(good, other, 3.0, (0.2, 0.7))
    for t, factor in ((0.2, 1.0), (0.21, 2.0), (0.7, 2.0), (0.71, 1.0)):
        torch.testing.assert_close(denoise(X, torch.tensor(t)), factor * X)
    assert calls == [0.21, 0.7]
    # The guided estimate has twice the deviation of the good one: all of it is taken back.
    half, full = (
        autoguide(good, other, 3.0, rescale=share)(X, torch.ones(())) for share in (0.5, 1)
    )
    torch.testing.assert_close(full, X)
    torch.testing.assert_close(half, 1.5 * X)


def test_estimates_are_clipped_to_the_range_of_the_data() -> None:
    wide = Denoise(Flow(), lambda x_t, t: 3 * x_t)
    torch.testing.assert_close(clipped(wide, 1.0)(X, torch.ones(())), (3 * X).clamp(-1, 1))
    assert clipped(wide, 1.0).schedule == wide.schedule


def test_inputs_are_unchanged_by_a_call(network: Network) -> None:
    x, ids, mask = X.clone(), COND.tokens.ids.clone(), COND.tokens.mask.clone()
    null = torch.tensor([False, False])
    cond = Cond(COND.tokens, null)
    denoise = guide(denoiser(network), cond, 3.0, negative=words([1], [2]))
    list(sample(denoise, X, times(3), euler))
    assert (
        torch.equal(X, x)
        and torch.equal(COND.tokens.ids, ids)
        and torch.equal(COND.tokens.mask, mask)
        and not null.any()
    )


# Loss guidance. Data are N(MU, V), so the ideal denoiser and the posterior of x0 given x_t are
# known.

MU, V = 0.7, 0.25
every_schedule = pytest.mark.parametrize("schedule", [Flow(), Cosine()], ids=["flow", "cosine"])
SOLVERS = {name: SAMPLERS[name] for name in ("euler", "heun", "dpmpp-2m")}
every_sampler = pytest.mark.parametrize("step", SOLVERS.values(), ids=SOLVERS)


def gaussian(schedule: Schedule) -> Denoise:
    """E[x0 | x_t]."""

    def estimate(x_t: Tensor, t: Tensor) -> Tensor:
        alpha, sigma = schedule.alpha(t), schedule.sigma(t)
        return MU + alpha * V / (alpha**2 * V + sigma**2) * (x_t - alpha * MU)

    return Denoise(schedule, estimate)


def posterior_variance(schedule: Schedule, t: Tensor) -> Tensor:
    """Var[x0 | x_t]."""
    alpha, sigma = schedule.alpha(t), schedule.sigma(t)
    return sigma**2 * V / (alpha**2 * V + sigma**2)


def sample_moments(denoise: Denoise, step: Sampler) -> tuple[float, float]:
    """Mean and variance of the samples.

    A denoiser that is linear at each time maps noise z to mean + deviation * z, so two samples, of
    z = 0 and z = 1, determine both.
    """
    *_, state = sample(denoise, torch.tensor([[0.0], [1.0]], dtype=torch.float64), times(400), step)
    mean, more = state.x.flatten().tolist()
    return mean, (more - mean) ** 2


@every_schedule
@every_sampler
@pytest.mark.parametrize("weight", [1.0, -2.0])
def test_a_linear_score_draws_from_the_tilted_gaussian(
    schedule: Schedule, step: Sampler, weight: float
) -> None:
    """N(MU, V) times exp(w c x0) is N(MU + w c V, V)."""
    denoise = loss_guidance(gaussian(schedule), lambda x0: 1.5 * x0.sum(1), weight)
    mean, variance = sample_moments(denoise, step)
    assert mean == pytest.approx(MU + weight * 1.5 * V, abs=0.01)
    assert variance == pytest.approx(V, rel=0.02)


@every_schedule
@every_sampler
def test_the_likelihood_of_an_observation_draws_from_the_posterior(
    schedule: Schedule, step: Sampler
) -> None:
    """For an observation y ~ N(x0, s): given x_t, y ~ N(estimate, s + Var[x0 | x_t])."""
    y, s = 1.6, 0.1

    def observed(x_t: Tensor, t: Tensor) -> Tensor:
        spread = s + posterior_variance(schedule, t)
        return loss_guidance(
            gaussian(schedule), lambda x0: -(x0 - y).square().sum(1) / (2 * spread)
        )(x_t, t)

    mean, variance = sample_moments(Denoise(schedule, observed), step)
    assert mean == pytest.approx((MU * s + y * V) / (V + s), abs=0.01)
    assert variance == pytest.approx(V * s / (V + s), rel=0.02)


@every_schedule
@every_sampler
def test_a_score_that_takes_the_estimate_for_the_truth_is_followed_too_far(
    schedule: Schedule, step: Sampler
) -> None:
    """The same without Var[x0 | x_t], which is unknown for scores of pictures.

    Over u = x / alpha and w = V + (sigma / alpha)^2 the ODE is de / dw = e / 2w + e V^2 / (2 s w^2)
    - (y - MU) V / (2 s w), with e = u - MU. It is solved from w = infinity to V with the
    integrating factor sqrt(w) exp(-V^2 / (2 s w)), which leaves Dawson's integral.
    """
    y, s = 1.6, 0.1
    denoise = loss_guidance(gaussian(schedule), lambda x0: -(x0 - y).square().sum(1) / (2 * s))
    mean, variance = sample_moments(denoise, step)
    root = math.sqrt(V / (2 * s))
    assert mean == pytest.approx(MU + V / s * (y - MU) * dawsn(root) / root, abs=0.01)
    assert variance == pytest.approx(V * math.exp(-V / s), rel=0.02)
    assert variance < V * s / (V + s)


@every_schedule
def test_the_shift_is_the_covariance_of_x0_times_the_gradient(schedule: Schedule) -> None:
    """Tweedie's formula, for correlated data in the plane and a non-linear score."""
    cov = torch.tensor([[0.5, 0.3], [0.3, 0.4]], dtype=torch.float64)
    x_t = torch.randn(5, 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    original = x_t.clone()

    def estimate(x: Tensor, t: Tensor) -> Tensor:
        alpha, sigma = schedule.alpha(t), schedule.sigma(t)
        marginal = alpha**2 * cov + sigma**2 * torch.eye(2, dtype=x.dtype)
        return alpha * x @ torch.linalg.inv(marginal) @ cov

    for time in (0.9, 0.5, 0.1):
        t = torch.tensor(time, dtype=torch.float64)
        alpha, sigma = schedule.alpha(t), schedule.sigma(t)
        x0 = estimate(x_t, t)
        precision = torch.linalg.inv(cov) + alpha**2 / sigma**2 * torch.eye(2, dtype=x_t.dtype)
        # The gradient of sum cos(3 x0), times (prior precision + likelihood precision)^-1.
        shift = -3 * torch.sin(3 * x0) @ torch.linalg.inv(precision)
        guided = loss_guidance(
            Denoise(schedule, estimate), lambda x0: torch.cos(3 * x0).sum(1), 2.0
        )(x_t, t)
        torch.testing.assert_close(guided, x0 + 2 * shift)
        assert not guided.requires_grad
    assert torch.equal(x_t, original) and not x_t.requires_grad


def test_rows_are_steered_alone_and_under_no_grad_too(network: Network) -> None:
    denoise = loss_guidance(
        guide(denoiser(network), COND, 3.0), lambda x0: -x0.square().mean((1, 2, 3)), 5.0
    )
    with torch.no_grad():
        both = denoise(X, T)
    first = loss_guidance(
        guide(denoiser(network), words([3, 5]), 3.0), lambda x0: -x0.square().mean((1, 2, 3)), 5.0
    )(X[:1], T)
    torch.testing.assert_close(both[:1], first)
    assert torch.equal(
        loss_guidance(guide(denoiser(network), COND), lambda x0: x0.mean((1, 2, 3)), 0.0)(X, T),
        guide(denoiser(network), COND)(X, T),
    )


def test_pure_noise_is_not_steered_and_a_score_is_one_number_a_row() -> None:
    one = torch.ones((), dtype=torch.float64)
    x = torch.randn(3, 2, generator=torch.Generator().manual_seed(2))
    assert torch.equal(
        loss_guidance(gaussian(Flow()), lambda x0: x0.sum(1))(x, one), gaussian(Flow())(x, one)
    )
    scores: list[Callable[[Tensor], Tensor]] = [lambda x0: x0, lambda x0: x0.sum()]
    for score in scores:
        with pytest.raises(ValueError, match="one number a row"):
            loss_guidance(gaussian(Flow()), score)(x, one / 2)
