"""Inpainting, image-to-image and tiling, against closed forms."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from torch import Tensor

from kalpana.diffusion.denoiser import Denoise, Process
from kalpana.diffusion.editing import inpaint, noised, start_at, tiled, windows
from kalpana.diffusion.samplers import SAMPLERS, sample
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
    assert torch.all(row.diff() >= 0) and 0 < row[3] < 1


def test_a_process_is_named_by_its_weights() -> None:
    with pytest.raises(Exception, match="schedule 'sigmoid' is unknown: write flow, cosine"):
        Process(schedule="sigmoid")
    with pytest.raises(Exception, match="prediction 'score' is unknown: write x0, eps, v, flow"):
        Process(prediction="score")
