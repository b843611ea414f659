"""The denoiser: all four kinds of prediction give the same x0."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from kalpana.diffusion.denoiser import PREDICTIONS, Denoiser, Process
from kalpana.diffusion.schedule import Cosine, Flow, Schedule, levels
from kalpana.types import Cond, KalpanaError

SCHEDULES = [Flow(), Cosine()]


def diffused(
    schedule: Schedule, t: Tensor, dtype: torch.dtype = torch.float64
) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    x0, eps = torch.randn(2, len(t), 3, 4, 4, generator=generator, dtype=dtype)
    alpha, sigma = levels(schedule, t, x0)
    return alpha * x0 + sigma * eps, x0, eps


def predicted(kind: str, x0: Tensor, eps: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
    """The definition of each kind of prediction, as in its paper."""
    return {"x0": x0, "eps": eps, "v": alpha * eps - sigma * x0, "flow": eps - x0}[kind]


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("kind", PREDICTIONS)
@given(
    t=st.lists(
        st.one_of(st.floats(0, 1e-4), st.floats(0, 0.9999), st.just(0.0)), min_size=1, max_size=4
    )
)
def test_every_prediction_reads_back_x0(schedule: Schedule, kind: str, t: list[float]) -> None:
    timesteps = torch.tensor(t, dtype=torch.float64)
    x_t, x0, eps = diffused(schedule, timesteps)
    prediction = predicted(kind, x0, eps, *levels(schedule, timesteps, x0))
    denoiser = Denoiser(lambda x, t, cond: prediction, schedule, kind)
    torch.testing.assert_close(denoiser(x_t, timesteps, Cond()), x0, atol=1e-8, rtol=0)


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("kind", PREDICTIONS)
def test_at_pure_noise_all_but_eps_still_know_x0(schedule: Schedule, kind: str) -> None:
    timesteps = torch.ones(2, dtype=torch.float64)
    x_t, x0, eps = diffused(schedule, timesteps)
    prediction = predicted(kind, x0, eps, *levels(schedule, timesteps, x0))
    estimate = Denoiser(lambda x, t, cond: prediction, schedule, kind)(x_t, timesteps, Cond())
    torch.testing.assert_close(estimate, torch.zeros_like(x0) if kind == "eps" else x0)


@pytest.mark.parametrize("kind", PREDICTIONS)
def test_the_training_target_is_what_the_network_is_read_as(kind: str) -> None:
    timesteps = torch.tensor([0.1, 0.5, 0.9], dtype=torch.float64)
    x_t, x0, eps = diffused(Cosine(), timesteps)
    alpha_sigma = levels(Cosine(), timesteps, x0)
    target = PREDICTIONS[kind].target(x0, eps, *alpha_sigma)
    torch.testing.assert_close(target, predicted(kind, x0, eps, *alpha_sigma))
    torch.testing.assert_close(PREDICTIONS[kind].x0(target, x_t, *alpha_sigma), x0)


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("kind", ["v", "flow"])
def test_single_precision_is_enough(schedule: Schedule, kind: str) -> None:
    timesteps = torch.tensor([0.0, 1e-5, 0.3, 1 - 1e-5, 1.0])
    x_t, x0, eps = diffused(schedule, timesteps, torch.float32)
    prediction = predicted(kind, x0, eps, *levels(schedule, timesteps, x0))
    estimate = Denoiser(lambda x, t, cond: prediction, schedule, kind)(x_t, timesteps, Cond())
    torch.testing.assert_close(estimate, x0, atol=2e-6, rtol=0)


def test_the_network_gets_rows_of_full_precision_times_and_the_state_keeps_its_own() -> None:
    seen: list[Tensor] = []

    def network(x: Tensor, t: Tensor, cond: Cond) -> Tensor:
        seen.append(t)
        return x

    x = torch.ones(3, 2, 4, 4, dtype=torch.bfloat16)
    t = torch.tensor(0.999, dtype=torch.float64)
    estimate = Denoiser(network, Flow(), "flow")(x, t, Cond())
    assert estimate.dtype == torch.bfloat16 and estimate.shape == x.shape
    assert seen[0].shape == (3,) and seen[0].dtype == torch.float32
    assert seen[0][0] == torch.tensor(0.999)


def test_a_process_is_of_known_names_or_of_a_schedule_of_ones_own() -> None:
    process = Process("cosine", "v")
    assert process.levels == Cosine() and Process().levels == Flow()
    made = process.denoiser(lambda x, t, cond: x)
    assert (made.schedule, made.prediction) == (Cosine(), "v")
    own = Cosine()
    assert Process(own, "eps").levels is own
    for wrong in ({"schedule": "cosin"}, {"prediction": "x1"}, {"schedule": own, "prediction": ""}):
        with pytest.raises(KalpanaError, match="is unknown: write "):
            Process(**wrong)  # type: ignore[arg-type]
