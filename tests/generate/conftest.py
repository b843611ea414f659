"""A model small enough to be made afresh: real networks with random weights, saved and loaded as trained ones are."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from kalpana.generate import load
from kalpana.generate.text_to_image import TextToImage
from kalpana.hub.card import Card, seal, write_card
from kalpana.hub.weights import save_weights
from kalpana.models import dit, vae
from kalpana.request import Capabilities, Defaults


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tiny")
    torch.manual_seed(0)
    network = dit.DiT(dit.Config(width=32, depth=2, heads=2, text_depth=1))
    decoder = vae.VAE(vae.Config(fine=8, coarse=8, encoder=(1, 1), decoder=(1, 1)))
    for parameter in [*network.parameters(), *decoder.parameters()]:
        nn.init.normal_(parameter, std=0.2)  # as they are made they draw nothing: their last layers are zero
    decoder.fit_preview(torch.rand(4, 3, 32, 32) * 2 - 1)
    save_weights(folder / "dit.safetensors", network, "flow", network.config, {})
    save_weights(folder / "vae.safetensors", decoder, "vae", decoder.config, {})
    capabilities = Capabilities(sizes=("32x32", "64x32"), defaults=Defaults(steps=4, size="32x32"))
    write_card(folder, Card(name="tiny", family="flow", tasks=("text-to-image",), capabilities=capabilities))
    seal(folder)
    return folder


@pytest.fixture
def model(folder: Path) -> TextToImage:
    return load(str(folder))
