"""Samplers: the one loop, and the step functions by their names.

A sampler is a function ``step(denoise, x, t, s, history, noise) -> x`` from time t down to s.
``history`` holds the steps before, so that multistep solvers need no loop of their own, and
progress, previews and cancelling are written once. ``noise`` is the source of randomness of the
step.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import NoReturn

import torch
from torch import Tensor

from kalpana.diffusion import solvers, stochastic
from kalpana.diffusion.denoiser import Denoise
from kalpana.diffusion.solvers import History, Noise, Past

Sampler = Callable[[Denoise, Tensor, Tensor, Tensor, History, Noise], Tensor]

SAMPLERS: dict[str, Sampler] = {
    "euler": solvers.euler,
    "heun": solvers.heun,
    "dpmpp-2m": solvers.dpmpp_2m,
    "dpm2": solvers.dpm2,
    "lms": solvers.lms,
    "deis": solvers.deis,
    "unipc": solvers.unipc,
    "ddim": stochastic.ddim,
    "ddpm": stochastic.ddpm,
    "euler-a": stochastic.euler_a,
    "dpm2-a": stochastic.dpm2_a,
    "dpmpp-sde": stochastic.dpmpp_sde,
    "dpmpp-2m-sde": stochastic.dpmpp_2m_sde,
    "lcm": stochastic.lcm,
}


@dataclass(frozen=True)
class State:
    """State after step ``index`` (from 1) of ``total``.

    ``x`` is at the new time. ``x0`` is the estimate at the start of the step.
    """

    index: int
    total: int
    x: Tensor
    x0: Tensor


def no_noise(index: int) -> Noise:
    """Noise source of a sampling that is deterministic: a step that draws noise fails."""

    def draw(x: Tensor) -> NoReturn:
        raise ValueError("this sampler draws noise: pass noise=step_noise(seeds)")

    return draw


def step_noise(seeds: Sequence[int]) -> Callable[[int], Noise]:
    """Noise sources of a stochastic sampling, by the index of its step, for b seeds.

    Each row is drawn on the CPU from a generator of its own, whose seed is a hash of the row's seed
    and the index: a picture never depends on its batch or on what was drawn before.
    """

    def source(index: int) -> Noise:
        generators = [
            torch.Generator().manual_seed(
                int.from_bytes(hashlib.sha256(f"{seed}/step/{index}".encode()).digest()[:4], "big")
            )
            for seed in seeds
        ]

        def draw(x: Tensor) -> Tensor:
            rows = [torch.randn(x.shape[1:], generator=generator) for generator in generators]
            return torch.stack(rows).to(x)

        return draw

    return source


def sample(
    denoise: Denoise,
    x: Tensor,
    times: Tensor | Sequence[float],
    step: Sampler,
    noise: Callable[[int], Noise] = no_noise,
) -> Iterator[State]:
    """Iterator over the State after each step, from ``times[0]`` down to ``times[-1]``.

    ``x`` (b, ...) is the sample at ``times[0]``. ``noise(index)`` is the noise source of one step.
    Closing the iterator cancels the sampling.
    """
    timesteps = torch.as_tensor(times, dtype=torch.float64, device="cpu")
    estimates: list[Tensor] = []
    history: History = []

    def record(x_t: Tensor, t: Tensor) -> Tensor:
        estimates.append(denoise(x_t, t))
        return estimates[-1]

    for index, (t, s) in enumerate(pairwise(timesteps), start=1):
        estimates.clear()
        start = x
        x = step(replace(denoise, estimate=record), x, t, s, history, noise(index))
        history.append(Past(t, start, estimates[0]))
        yield State(index, len(timesteps) - 1, x, estimates[0])
