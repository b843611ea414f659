"""Inpainting, image-to-image and tiling, against closed forms."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from torch import Tensor

from kalpana.capabilities import Edits
from kalpana.diffusion.denoiser import Denoise
from kalpana.diffusion.editing import flow_edit, inpaint, noised, start_at, tiled, windows
from kalpana.diffusion.samplers import SAMPLERS, sample, step_noise
from kalpana.diffusion.schedule import SCHEDULES, times
from kalpana.types import Cond


def test_start_at_keeps_the_steps_below_the_strength() -> None:
    full = times(10)
    assert torch.equal(start_at(full, 1.0), full)
    assert start_at(full, 0.0).tolist() == [0.0]
    torch.testing.assert_close(
        start_at(full, 0.45), torch.tensor([0.45, 0.4, 0.3, 0.2, 0.1, 0.0], dtype=torch.float64)
    )


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize(
    "sampler", ["euler", "heun", "dpmpp-2m", "dpm2", "lms", "deis", "unipc", "ddim"]
)
def test_the_known_part_ends_as_given_and_its_path_is_straight(schedule: str, sampler: str) -> None:
    """In the known half every state is alpha(t) x0 + sigma(t) eps with one eps, and it ends at x0;
    the other half is what the denoiser alone gives."""
    process = SCHEDULES[schedule]
    generator = torch.Generator().manual_seed(0)
    x0, eps = (torch.randn(1, 2, 4, 4, generator=generator, dtype=torch.float64) for _ in range(2))
    mask = torch.zeros(1, 1, 4, 4, dtype=torch.float64)
    mask[..., 2:] = 1
    alone = Denoise(process, lambda x_t, t: 0.3 * x_t - 0.1)
    seen: list[tuple[float, Tensor]] = []

    def look(x_t: Tensor, t: Tensor) -> Tensor:
        seen.append((float(t), x_t))
        return alone(x_t, t)

    timesteps = start_at(times(12), 0.8)
    start = noised(process, x0, eps, timesteps[0])
    *_, last = sample(
        inpaint(Denoise(process, look), x0, mask), start, timesteps, SAMPLERS[sampler]
    )
    torch.testing.assert_close(last.x[..., :2], x0[..., :2])
    for t, x_t in seen:
        expected = noised(process, x0, eps, torch.tensor(t, dtype=torch.float64))
        torch.testing.assert_close(x_t[..., :2], expected[..., :2])
    *_, free = sample(alone, start, timesteps, SAMPLERS[sampler])
    torch.testing.assert_close(last.x[..., 2:], free.x[..., 2:])


EDIT_START = start_at(times(20), 0.8)


def edited(
    schedule: str, sampler: str, target: Denoise, source: Denoise, mask: Tensor | float = 1.0
) -> tuple[Tensor, Tensor]:
    """Latents, and what they are edited to."""
    x0 = torch.randn(2, 1, 4, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    step = flow_edit(SAMPLERS[sampler], source, x0, mask)
    *_, last = sample(target, x0, EDIT_START, step, step_noise([3, 4]))
    return x0, last.x


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("sampler", Edits().samplers)
def test_an_edit_to_the_same_prompt_changes_nothing(schedule: str, sampler: str) -> None:
    denoise = Denoise(SCHEDULES[schedule], lambda x_t, t: torch.tanh(2 * x_t) - t)
    x0, result = edited(schedule, sampler, denoise, denoise)
    torch.testing.assert_close(result, x0, rtol=0, atol=1e-10)


def test_an_edit_with_linear_velocities_is_a_geometric_series() -> None:
    """Velocities c x + d differ, at a difference D, by c D + d_target - d_source, whatever the
    noise: n Euler steps of h from 0 give (d_target - d_source) ((1 - c h)^n - 1) / c."""
    c, d_target, d_source = 0.7, -1.5, 0.5

    def denoise(d: float) -> Denoise:
        return Denoise(SCHEDULES["flow"], lambda x_t, t: x_t - t * (c * x_t + d))

    x0, result = edited("flow", "euler", denoise(d_target), denoise(d_source))
    n, h = len(EDIT_START) - 1, 1 / 20
    assert n == 16
    expected = x0 + (d_target - d_source) * ((1 - c * h) ** n - 1) / c
    torch.testing.assert_close(result, expected)


def test_an_edit_is_algorithm_1_of_flow_edit() -> None:
    def target(x: Tensor, t: Tensor) -> Tensor:
        return torch.tanh(x + t)

    def source(x: Tensor, t: Tensor) -> Tensor:
        return torch.sin(3 * x) * t

    flow = SCHEDULES["flow"]
    mask = torch.ones(4, 4, dtype=torch.float64)
    mask[:2] = 0
    x0, result = edited(
        "flow",
        "euler",
        Denoise(flow, lambda x_t, t: x_t - t * target(x_t, t)),
        Denoise(flow, lambda x_t, t: x_t - t * source(x_t, t)),
        mask,
    )
    z, draws = x0, step_noise([3, 4])
    for k, (t, s) in enumerate(pairwise(EDIT_START), start=1):
        z_source = (1 - t) * x0 + t * draws(k)(x0)
        z_target = z + z_source - x0
        z = z + (s - t) * (target(z_target, t) - source(z_source, t)) * mask
    torch.testing.assert_close(result, z)
    assert torch.equal(result[..., :2, :], x0[..., :2, :]) and not torch.equal(result, x0)


@pytest.mark.parametrize(
    ("canvas", "window"), [((8, 8), (8, 8)), ((16, 8), (8, 8)), ((9, 21), (6, 8))]
)
def test_windows_cover_the_canvas_and_overlap_by_half(
    canvas: tuple[int, int], window: tuple[int, int]
) -> None:
    count = torch.zeros(canvas)
    rows = sorted({(r.start, r.stop) for r, _ in windows(canvas, window)})
    for r, c in windows(canvas, window):
        assert (r.stop - r.start, c.stop - c.start) == window
        count[r, c] += 1
    assert count.min() >= 1
    assert rows[0][0] == 0 and rows[-1][1] == canvas[0]
    assert all(b[0] - a[0] <= window[0] / 2 for a, b in pairwise(rows))


def test_tiling_a_pointwise_network_changes_nothing() -> None:
    """A network that treats every latent alone gives the same in windows, with its own crop of the
    known latents and the control maps; the canvas of a window is the network itself."""
    known = torch.rand(1, 2, 10, 12)
    control = {"edges": torch.rand(1, 3, 20, 24)}

    def network(x_t: Tensor, t: Tensor, cond: Cond) -> Tensor:
        assert cond.known is not None and cond.control is not None
        return 2 * x_t + cond.known[:, :1] + cond.control["edges"][:, :1, ::2, ::2] + t

    x_t, cond = torch.rand(1, 2, 10, 12), Cond(known=known, control=control)
    wide = tiled(network, (4, 6), factor=2)
    torch.testing.assert_close(
        wide(x_t, torch.tensor([0.5]), cond), network(x_t, torch.tensor([0.5]), cond)
    )
    assert torch.equal(
        tiled(network, (10, 12), 2)(x_t, torch.tensor([0.5]), cond),
        network(x_t, torch.tensor([0.5]), cond),
    )


def test_tiling_is_a_mean_inside_the_overlap() -> None:
    """Windows that predict their own constants: in the overlap the result lies between them and
    moves monotonically from one to the other."""
    constants = iter((0.0, 1.0, 2.0))
    wide = tiled(lambda x_t, t, cond: torch.full_like(x_t, next(constants)), (4, 4))
    row = wide(torch.zeros(1, 1, 4, 8), torch.zeros(1), Cond())[0, 0, 0]
    assert row[0] == 0 and row[-1] == 2
    # Triangular weights of a window of four: 0.4, 0.8, 0.8, 0.4.
    torch.testing.assert_close(row[2:6], torch.tensor([1.0, 2.0, 4.0, 5.0]) / 3)
