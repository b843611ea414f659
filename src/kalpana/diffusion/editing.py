"""Image-to-image, inpainting, edits by two prompts and larger canvases, as a start of the sampling
and wrappers of a denoiser, a step or a network. None of them needs training.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

import torch
from torch import Tensor

from kalpana.diffusion.denoiser import Denoise
from kalpana.diffusion.samplers import Sampler
from kalpana.diffusion.schedule import Schedule
from kalpana.diffusion.solvers import History, Noise
from kalpana.types import Cond

Network = Callable[[Tensor, Tensor, Cond], Tensor]


def start_at(times: Tensor, strength: float) -> Tensor:
    """Timesteps of image-to-image: from ``strength`` down to 0, by the steps of ``times`` below it.

    Strength 1 leaves ``times`` (n + 1,) as they are; 0 gives (1,), no step at all.
    """
    below = times[times < strength]
    return torch.cat((below.new_tensor([strength]), below))


def noised(schedule: Schedule, x0: Tensor, eps: Tensor, t: Tensor) -> Tensor:
    """x_t of clean latents and noise at one time: alpha(t) x0 + sigma(t) eps."""
    return schedule.alpha(t) * x0 + schedule.sigma(t) * eps


def inpaint(denoise: Denoise, x0: Tensor, mask: Tensor) -> Denoise:
    """Inpainting: the estimate is kept where ``mask`` is 1, and replaced by the known ``x0`` where
    it is 0; values between blend both.

    ``x0`` and ``mask`` broadcast to the sample. A sample that starts as ``noised(x0, eps)`` then
    stays, where the mask is 0, exactly on the straight path from eps to x0 under the deterministic
    solvers, so that the network always sees the known part at the right noise level (blended latent
    diffusion, Avrahami et al. 2022, with the noise of the start in place of fresh noise).
    """

    def estimate(x_t: Tensor, t: Tensor) -> Tensor:
        return mask * denoise(x_t, t) + (1 - mask) * x0

    return replace(denoise, estimate=estimate)


def flow_edit(step: Sampler, source: Denoise, x0: Tensor, mask: Tensor | float = 1.0) -> Sampler:
    """FlowEdit (Kulikov et al. 2024): a sampler that changes clean latents ``x0`` from what one
    prompt describes to what another describes, without inversion.

    The sample is ``x0`` plus the difference of two paths, 0 at first. In every step ``x0`` is
    noised afresh; ``step`` moves it by ``source``, the denoiser of the first prompt, and with the
    difference added by the denoiser that is sampled, that of the second prompt; both results give
    the new difference. For the flow schedule and Euler steps this is algorithm 1, ``z += dt *
    (v_target(z + x_t - x0) - v_source(x_t))``; the paths of another schedule differ in the same
    way. ``step`` is one without history or noise of its own. Where ``mask`` is 0, ``x0`` stays.
    """

    def edit(
        denoise: Denoise, x: Tensor, t: Tensor, s: Tensor, history: History, noise: Noise
    ) -> Tensor:
        x_t = noised(denoise.schedule, x0, noise(x), t)
        target = step(denoise, x_t + (x - x0), t, s, [], noise)
        return x0 + mask * (target - step(source, x_t, t, s, [], noise))

    return edit


def tiled(network: Network, window: tuple[int, int], factor: int = 1) -> Network:
    """Network for canvases larger than its training: the mean of its predictions in overlapping
    windows (MultiDiffusion, Bar-Tal et al. 2023).

    ``window`` is (h, w) in latents; windows overlap by at least half, and a prediction weighs less
    near the edges of its window. ``factor`` is the number of pixels a latent, by which control maps
    are cropped. Every window is conditioned on the whole prompt. On a canvas of the size of the
    window it is the network itself.
    """

    def wide(x_t: Tensor, t: Tensor, cond: Cond) -> Tensor:
        if x_t.shape[-2:] == window:
            return network(x_t, t, cond)
        total, weight = torch.zeros_like(x_t), x_t.new_zeros(x_t.shape[-2:])
        bump = _bump(window[0])[:, None] * _bump(window[1])
        bump = bump.to(x_t)
        for rows, columns in windows((x_t.shape[-2], x_t.shape[-1]), window):
            part = network(
                x_t[..., rows, columns].contiguous(), t, _crop(cond, rows, columns, factor)
            )
            total[..., rows, columns] += bump * part
            weight[rows, columns] += bump
        return total / weight

    return wide


def windows(canvas: tuple[int, int], window: tuple[int, int]) -> Iterator[tuple[slice, slice]]:
    """Slices (rows, columns) of windows that cover a canvas evenly and overlap by at least half."""
    for top in _starts(canvas[0], window[0]):
        for left in _starts(canvas[1], window[1]):
            yield slice(top, top + window[0]), slice(left, left + window[1])


def _starts(length: int, window: int) -> list[int]:
    """First indices of windows along one axis."""
    count = 1 + -(-(length - window) * 2 // window)
    return [round(k * (length - window) / max(count - 1, 1)) for k in range(count)]


def _bump(n: int) -> Tensor:
    """Weights (n,) in a window: triangular, highest in the middle, above 0 at the edges."""
    return 1 - (torch.arange(n, dtype=torch.float32) - (n - 1) / 2).abs() / ((n + 1) / 2)


def _crop(cond: Cond, rows: slice, columns: slice, factor: int) -> Cond:
    """The condition of one window: known latents and control maps are cropped to it."""

    def pixels(axis: slice) -> slice:
        return slice(axis.start * factor, axis.stop * factor)

    return replace(
        cond,
        known=None if cond.known is None else cond.known[..., rows, columns],
        control=cond.control
        and {k: each[..., pixels(rows), pixels(columns)] for k, each in cond.control.items()},
    )
