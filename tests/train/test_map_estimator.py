"""Training of the map estimator."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from kalpana.hub.weights import load_module
from kalpana.models.map_estimator import Config, MapEstimator
from kalpana.train.data_cache import floats
from kalpana.train.loop import train
from kalpana.train.map_estimator import MapRecipe, MapTask
from kalpana.world.controls import control_maps
from kalpana.world.world import World

SMALL: dict[str, Any] = {"fine": 16, "coarse": 16, "depth": 1, "dilations": (1, 2)}


def recipe(**fields: Any) -> MapRecipe:
    settings = {"name": "m", "kind": "puppets", "model": SMALL, "num_images": 8, "steps": 40}
    settings |= {"batch": 8, "lr": 3e-3, "warmup": 1, "bf16": False, "ema_decay": 0.5}
    return MapRecipe(**settings | fields)


def task(**fields: Any) -> MapTask:
    return MapTask(recipe(**fields), torch.device("cpu"), lambda done, total: None)


@pytest.fixture(autouse=True)
def few_held_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kalpana.train.map_estimator.HELD_OUT", 16)


def test_a_batch_holds_pictures_with_their_own_maps() -> None:
    made = task()
    batch, again = made.batch(3), made.batch(3)
    assert torch.equal(batch.pictures, again.pictures)
    assert {kind: each.shape[1] for kind, each in batch.maps.items()} == {
        "outlines": 1, "depth": 1, "pose": 3
    }  # fmt: skip
    world = World(0, "train", kind="puppets")
    pixels = world.images(range(8))
    for picture, pose in zip(floats(batch.pictures), batch.maps["pose"], strict=True):
        row = int((pixels - picture).abs().mean((1, 2, 3)).argmin())
        assert torch.equal(pose, control_maps([world.scene(row)], ["pose"])["pose"][0])


def test_the_loss_is_the_sum_of_the_cross_entropies_of_the_planes() -> None:
    made = task(blur_share=0.0, noise_std=0.0)
    made.model.head[0].weight.data.zero_()
    made.model.head[0].bias.data.fill_(-1.0)  # type: ignore[union-attr]
    batch = made.batch(0)
    loss, parts = made.loss(batch, torch.Generator().manual_seed(0), 0.0)
    p = torch.sigmoid(torch.tensor(-1.0))
    for kind, truth in batch.maps.items():
        wanted = -(truth * p.log() + (1 - truth) * (1 - p).log()).mean()
        assert parts[kind] == pytest.approx(wanted.item(), rel=1e-5)
    assert loss.item() == pytest.approx(sum(parts.values()), rel=1e-5)


@pytest.mark.slow
def test_a_run_learns_and_its_weights_estimate_maps_of_any_size(tmp_path: Path) -> None:
    path = train(recipe(steps=80, lr=1e-2), tmp_path, echo=lambda line: None)
    assert path == tmp_path / "map_estimator.safetensors"
    network: MapEstimator = load_module(path, "maps")
    assert network.config == Config(**SMALL)
    world = World(0, "train", kind="puppets")
    pixels = world.images(range(8))
    truth = control_maps([world.scene(i) for i in range(8)], ["depth"])["depth"]
    found = network.maps(pixels)["depth"]
    assert torch.corrcoef(torch.stack((found.flatten(), truth.flatten())))[0, 1] > 0.4
    wide = network.maps(pixels[:1, :, :60, :100])
    assert {kind: tuple(each.shape) for kind, each in wide.items()} == {
        kind: (1, 3, 60, 100) for kind in ("outlines", "depth", "pose")
    }
    assert all(each.min() >= 0 and each.max() <= 1 for each in wide.values())
