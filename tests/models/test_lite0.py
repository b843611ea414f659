"""EfficientNet-Lite0 beside the reference implementation with the same random weights, and the distances over its features."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import linalg

from kalpana.evaluate.fidelity import fd, features, frechet, mmd
from kalpana.hub.lite0 import translate
from kalpana.models.lite0 import SIDE, Lite0
from kalpana.world.world import World


@pytest.mark.filterwarnings("ignore")  # the reference is of 2020
def test_it_agrees_with_the_reference_implementation() -> None:
    from efficientnet_lite_pytorch import EfficientNet

    torch.manual_seed(0)
    reference = EfficientNet.from_name("efficientnet-lite0").double().eval()
    for module in reference.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(module.weight, 0.8, 1.2)
            torch.nn.init.normal_(module.bias, 0, 0.2)
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.05, 0.2)
    mine = Lite0().double().eval()
    mine.load_state_dict(translate(reference.state_dict()))
    pixels = torch.rand(2, 3, SIDE, SIDE, dtype=torch.float64) * 2 - 1
    with torch.no_grad():
        wanted = reference.extract_features(((pixels + 1) * 127.5 - 127) / 128).mean((2, 3))
        said = mine(pixels)
    assert wanted.std() > 1e-3
    assert torch.allclose(said, wanted, atol=1e-4)  # both count in 64 bits, but for the folded weights, which are kept in 32


def test_the_frechet_distance_of_gaussians_is_the_closed_form() -> None:
    rng = np.random.default_rng(0)
    a = rng.normal(size=(4000, 6)) @ rng.normal(size=(6, 6)) + rng.normal(size=6)
    b = rng.normal(size=(3000, 6)) @ rng.normal(size=(6, 6))
    one, two = np.cov(a.T), np.cov(b.T)
    wanted = ((a.mean(0) - b.mean(0)) ** 2).sum() + np.trace(one + two - 2 * linalg.sqrtm(one @ two).real)
    assert frechet(a, b) == pytest.approx(wanted, rel=1e-6)
    assert frechet(a, a) == pytest.approx(0, abs=1e-8)
    few_a, few_b = rng.normal(size=(20, 50)), rng.normal(size=(30, 50)) * 2  # fewer pictures than features: the other way to the root
    one, two = np.cov(few_a.T), np.cov(few_b.T)
    root = np.sqrt(np.maximum(linalg.eigvals(one @ two).real, 0)).sum()
    wanted = ((few_a.mean(0) - few_b.mean(0)) ** 2).sum() + np.trace(one) + np.trace(two) - 2 * root
    assert frechet(few_a, few_b) == pytest.approx(wanted, rel=1e-4)


def test_the_interval_is_as_wide_as_repetition_says() -> None:
    """The spread of the distance over fresh samples is about what one sample's interval promises."""
    rng = np.random.default_rng(1)
    b = rng.normal(size=(3000, 3))
    fresh = [frechet(rng.normal(size=(400, 3)) + 1.0, b) for _ in range(200)]
    promised = [fd(rng.normal(size=(400, 3)) + 1.0, b, 60) for _ in range(20)]
    widths = [distance.high - distance.low for distance in promised]
    assert np.mean(widths) == pytest.approx(np.subtract(*np.percentile(fresh, (97.5, 2.5))), rel=0.25)


def test_mmd_is_unbiased_and_grows_with_distance() -> None:
    rng = np.random.default_rng(2)
    same = [mmd(rng.normal(size=(40, 4)), rng.normal(size=(50, 4))) for _ in range(300)]
    assert abs(np.mean(same)) < 3 * np.std(same) / np.sqrt(300)
    near, far = (mmd(rng.normal(size=(80, 4)), rng.normal(size=(80, 4)) + shift) for shift in (0.5, 2.0))
    assert 0 < near < far


def test_the_more_a_picture_is_blurred_the_farther_it_is() -> None:
    pixels = World(1).images(range(32))

    def blurred(k: int) -> torch.Tensor:
        return torch.nn.functional.avg_pool2d(torch.nn.functional.pad(pixels, (k // 2,) * 4, mode="replicate"), k, 1)

    real, little, much = (features(x.split(16)) for x in (pixels, blurred(3), blurred(7)))
    assert real.shape == (32, 1280) and 0 < frechet(real, little) < 0.7 * frechet(real, much)
