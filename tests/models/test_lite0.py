"""EfficientNet-Lite0, compared with the reference implementation with the same random weights."""

from __future__ import annotations

import pytest
import torch

from kalpana.hub.lite0 import translate
from kalpana.models.lite0 import SIDE, Lite0


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # the reference code of 2020 raises warnings
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
    ours = Lite0().double().eval()
    ours.load_state_dict(translate(reference.state_dict()))
    pixels = torch.rand(2, 3, SIDE, SIDE, dtype=torch.float64) * 2 - 1
    with torch.no_grad():
        expected = reference.extract_features(((pixels + 1) * 127.5 - 127) / 128).mean((2, 3))
        features = ours(pixels)
    assert expected.std() > 1e-3
    # Both are in float64, except the folded weights, which are in float32.
    assert torch.allclose(features, expected, atol=1e-4)
