"""Cost of models: FLOPs against a count by hand, sums over training runs, and process memory."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Generator, Tensor, nn

from kalpana.evaluate.cost import Cost, memory, sample, training
from kalpana.hub.card import read_card, weights_dir
from kalpana.hub.weights import files_of, provenance, save_weights
from kalpana.models.vae import Config
from kalpana.train.autoencoder import AutoencoderRecipe
from kalpana.train.flow import FlowRecipe
from kalpana.train.recipe import Recipe, located, saved_recipe
from kalpana.types import KalpanaError


class Line:
    """A minimal task: a linear layer from five numbers to three."""

    def __init__(self, recipe: Recipe, *_: Any) -> None:
        self.recipe, self.model = recipe, nn.Linear(5, 3)

    def batch(self, step: int) -> Tensor:
        return torch.ones(self.recipe.batch, 5)

    def loss(
        self, batch: Tensor, rng: Generator, progress: float
    ) -> tuple[Tensor, dict[str, float]]:
        return self.model(batch).sum(), {}


RECIPE = FlowRecipe(name="line", vae=Path("v"), steps=8, batch=32, lr=1e-3)


@pytest.fixture
def line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kalpana.train.flow.FlowTask", Line)


def test_a_sample_costs_a_product_and_a_sum_a_weight_there_and_as_many_back(line: None) -> None:
    # The backward pass reaches only the weights: the inputs need no gradient.
    assert sample(RECIPE) == 2 * 5 * 3 + 2 * 5 * 3


def test_all_sittings_count_and_weights_that_say_nothing_are_told(
    line: None, tmp_path: Path
) -> None:
    first = {"recipe": {"gone": 1}, "samples": 100}
    latest = {"recipe": RECIPE.model_dump(mode="json"), "samples": 20, "init": first}
    save_weights(tmp_path / "two.safetensors", nn.Linear(1, 1), "flow", Config(), latest)
    assert training(tmp_path / "two.safetensors") == 120 * 60
    grown = latest | {"init": {"grown_from": first}}  # enlarged between two runs
    save_weights(tmp_path / "grown.safetensors", nn.Linear(1, 1), "flow", Config(), grown)
    assert training(tmp_path / "grown.safetensors") == 120 * 60
    save_weights(tmp_path / "mute.safetensors", nn.Linear(1, 1), "flow", Config(), {})
    with pytest.raises(KalpanaError, match="does not say how it was trained"):
        training(tmp_path / "mute.safetensors")


@pytest.mark.slow
def test_every_shipped_model_says_how_it_was_trained_in_any_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fields of earlier recipes are read by their new names, paths lead to the shipped files."""
    monkeypatch.chdir(tmp_path)
    files = [file for file in weights_dir().glob("*/*.safetensors") if "recipe" in provenance(file)]
    recipes = [saved_recipe(provenance(file)["recipe"]) for file in files]
    assert {recipe.family for recipe in recipes} >= {"vae", "control", "vqgan", "dalle", "clip"}
    used = [
        located(path)
        for recipe in recipes
        for name in ("vae", "vqgan", "image_model", "dalle")
        if (path := getattr(recipe, name, None))
    ]
    assert used and all(files_of(path)[0].exists() for path in used)
    old = {"name": "a", "family": "vae", "steps": 1, "batch": 2, "lr": 1e-3, "pool": 7}
    read = saved_recipe(old | {"noise": 0.5})
    assert isinstance(read, AutoencoderRecipe)
    assert (read.num_images, read.posterior_std) == (7, 0.5)


@pytest.mark.slow
def test_a_process_that_draws_takes_more_than_its_weights(folder: Path) -> None:
    cost = Cost.of(str(folder), "a red apple")
    # Random weights have no training metadata.
    assert cost.parameters == read_card(folder).parameters and cost.flops is None
    # torch alone takes more than the lower bound.
    assert cost.memory is not None and 100 * 2**20 < cost.memory < 8 * 2**30
    assert memory(str(folder), "a red apple") > 4 * cost.parameters


@pytest.mark.slow
def test_a_model_that_cannot_draw_is_told(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(KalpanaError, match=r"could be drawn to measure memory: .*no such model"):
        memory(str(tmp_path / "no such model"), "a red apple")


@pytest.mark.slow
def test_what_the_process_that_asks_holds_is_not_counted(folder: Path) -> None:
    held = np.ones(2**28, dtype=np.float64)  # 2 GiB
    assert memory(str(folder), "a red apple") < held.nbytes
