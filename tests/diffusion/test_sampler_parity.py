"""Samplers, compared with those of diffusers and k-diffusion on a small random network.

Both start at a finite noise level and share the noise of stochastic samplers.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor

from kalpana.diffusion.denoiser import Denoise
from kalpana.diffusion.samplers import SAMPLERS, Noise, sample
from kalpana.diffusion.schedule import Cosine, Flow, Schedule

DTYPE = torch.float64
# Otherwise the last step of these schedulers of diffusers is of first order.
SECOND = {"solver_order": 2, "final_sigmas_type": "sigma_min"}
WEIGHT = torch.randn(6, 6, generator=torch.Generator().manual_seed(1), dtype=DTYPE) / 2
X = torch.randn(3, 6, generator=torch.Generator().manual_seed(2), dtype=DTYPE)
every_schedule = pytest.mark.parametrize("schedule", [Flow(), Cosine()], ids=["flow", "cosine"])


def network(schedule: Schedule) -> Denoise:
    """A random estimate of x0 that depends on the sample and, smoothly, on the time."""

    def estimate(x_t: Tensor, t: Tensor) -> Tensor:
        return torch.tanh(x_t @ WEIGHT + torch.cos(3 * t))

    return Denoise(schedule, estimate)


def one_stream(seed: int) -> Callable[[Any], Noise]:
    """Noise of all steps from one generator, which a reference can draw in the same order."""
    generator = torch.Generator().manual_seed(seed)
    return lambda index: lambda x: torch.randn(x.shape, generator=generator, dtype=DTYPE)


def grid(first: float = 0.93, last: float = 0.04, steps: int = 9) -> Tensor:
    return torch.linspace(first, last, steps + 1, dtype=DTYPE)


def ours(name: str, schedule: Schedule, times: Tensor, **settings: float) -> Tensor:
    step = partial(SAMPLERS[name], **settings)
    *_, state = sample(network(schedule), X, times, step, one_stream(5))
    return state.x


@pytest.fixture
def k_diffusion(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The module k_diffusion.sampling, without the packages that its neighbours need."""
    spec = find_spec("k_diffusion")
    if spec is None or spec.origin is None:
        pytest.skip("the reference: pip install --no-deps k-diffusion")
    package = ModuleType("k_diffusion")
    package.__path__ = [str(Path(spec.origin).parent)]
    monkeypatch.setitem(sys.modules, "k_diffusion", package)
    for name in ("k_diffusion.utils", "torchdiffeq", "torchsde"):
        stub = ModuleType(name)
        stub.odeint = None  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, name, stub)
    package.utils = sys.modules["k_diffusion.utils"]  # type: ignore[attr-defined]
    package.utils.append_dims = lambda x, n: x[(...,) + (None,) * (n - x.ndim)]
    import k_diffusion.sampling as module

    monkeypatch.delitem(sys.modules, "k_diffusion.sampling")
    return module


@every_schedule
@pytest.mark.parametrize("end", [0.04, 0.0])
@pytest.mark.parametrize(
    ("name", "theirs", "settings"),
    [
        ("euler", "sample_euler", {}),
        ("dpm2", "sample_dpm_2", {}),
        ("lms", "sample_lms", {}),
        ("dpmpp-2m", "sample_dpmpp_2m", {}),
        ("euler-a", "sample_euler_ancestral", {"eta": 1.0}),
        ("euler-a", "sample_euler_ancestral", {"eta": 0.4}),
        ("dpm2-a", "sample_dpm_2_ancestral", {"eta": 1.0}),
        ("dpm2-a", "sample_dpm_2_ancestral", {"eta": 0.4}),
        ("dpmpp-sde", "sample_dpmpp_sde", {"eta": 1.0}),
        ("dpmpp-sde", "sample_dpmpp_sde", {"eta": 0.4}),
        ("dpmpp-2m-sde", "sample_dpmpp_2m_sde", {"eta": 1.0}),
        ("dpmpp-2m-sde", "sample_dpmpp_2m_sde", {"eta": 0.4}),
    ],
)
def test_k_diffusion(
    k_diffusion: ModuleType,
    schedule: Schedule,
    end: float,
    name: str,
    theirs: str,
    settings: dict[str, float],
) -> None:
    times = grid(last=end)
    alpha, levels = schedule.alpha(times), schedule.sigma(times) / schedule.alpha(times)

    def model(y: Tensor, level: Tensor) -> Tensor:
        """Their model: a function of x / alpha and sigma / alpha."""
        ratio = level.flatten()[0]
        t = ratio / (1 + ratio) if schedule == Flow() else torch.atan(ratio) * 2 / torch.pi
        return network(schedule)(schedule.alpha(t) * y, t)

    extra: dict[str, Any] = dict(settings)
    if settings:
        draw = one_stream(5)(0)
        extra["noise_sampler"] = lambda *_: draw(X)
    y = getattr(k_diffusion, theirs)(model, X / alpha[0], levels, disable=True, **extra)
    torch.testing.assert_close(ours(name, schedule, times, **settings), alpha[-1] * y)


diffusers = pytest.importorskip("diffusers", reason="the reference: pip install diffusers")


def run(
    scheduler: Any, schedule: Schedule, times: Tensor, noise: Noise | None = None, **settings: Any
) -> Tensor:
    """A run of a scheduler of diffusers, whose network predicts the data, over given times."""
    x = X
    for t, timestep in zip(times, scheduler.timesteps, strict=False):
        prediction = network(schedule)(x, t)
        if scheduler.config.prediction_type == "flow_prediction":
            prediction = (x - prediction) / t
        if noise is not None:
            settings["variance_noise"] = noise(x)
        x = scheduler.step(prediction, timestep, x, **settings, return_dict=False)[0]
    return x


@every_schedule
@pytest.mark.filterwarnings("ignore:__array_:DeprecationWarning")
@pytest.mark.parametrize(
    ("name", "theirs", "config"),
    [
        ("unipc", "UniPCMultistepScheduler", SECOND),
        ("deis", "DEISMultistepScheduler", {"solver_order": 3}),
        ("dpmpp-2m", "DPMSolverMultistepScheduler", SECOND),
        (
            "dpmpp-2m-sde",
            "DPMSolverMultistepScheduler",
            {**SECOND, "algorithm_type": "sde-dpmsolver++"},
        ),
    ],
)
def test_multistep_schedulers_of_diffusers(
    schedule: Schedule, name: str, theirs: str, config: dict[str, Any]
) -> None:
    times, flow = grid(), schedule == Flow()
    scheduler = getattr(diffusers, theirs)(
        prediction_type="flow_prediction" if flow else "sample",
        use_flow_sigmas=flow,
        lower_order_final=False,
        **config,
    )
    scheduler.set_timesteps(len(times) - 1)
    levels = schedule.sigma(times) / (1 if flow else schedule.alpha(times))
    scheduler.sigmas = levels
    scheduler.set_begin_index(0)
    noise = one_stream(5)(0) if name == "dpmpp-2m-sde" else None
    expected = run(scheduler, schedule, times, noise)
    torch.testing.assert_close(ours(name, schedule, times), expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("name", "theirs", "eta"),
    [
        ("ddim", "DDIMScheduler", 0.0),
        ("ddim", "DDIMScheduler", 0.6),
        ("ddpm", "DDPMScheduler", None),
        ("lcm", "LCMScheduler", None),
    ],
)
def test_ancestral_schedulers_of_diffusers(name: str, theirs: str, eta: float | None) -> None:
    """Theirs have 1000 times of a variance-preserving schedule: here the cosine without its end."""
    fine = torch.arange(1001, dtype=DTYPE) / 1001
    signal = Cosine().alpha(fine) ** 2
    scheduler = getattr(diffusers, theirs)(
        trained_betas=(1 - signal[1:] / signal[:-1]).tolist(),
        prediction_type="sample",
        clip_sample=False,
        timestep_spacing="trailing",
        **({"timestep_scaling": 1e9} if name == "lcm" else {}),
    )
    scheduler.alphas_cumprod = signal[1:]
    scheduler.set_timesteps(10)
    scheduler.timesteps = torch.arange(999, 0, -100)
    times = torch.cat((fine[scheduler.timesteps + 1], fine[:1]))
    settings = {"generator": torch.Generator().manual_seed(5)}
    if eta is not None:
        settings["eta"] = eta
    expected = run(scheduler, Cosine(), times, **settings)
    got = ours(name, Cosine(), times, **({} if eta is None else {"eta": eta}))
    torch.testing.assert_close(got, expected, atol=1e-5, rtol=0)
