"""Degraded renders: who is degraded, how, and when the autoencoder and SDEdit come in."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Generator, Tensor

from kalpana.train.data_cache import silent
from kalpana.train.degradations import Degradations
from kalpana.train.detector import DetectorRecipe, DetectorTask
from kalpana.train.reader import ReaderRecipe, ReaderTask

CPU = torch.device("cpu")
COMMON: dict[str, Any] = {"name": "d", "num_images": 50, "steps": 6, "batch": 32, "lr": 1e-3}
DETECTOR = DetectorRecipe(
    **COMMON | {"batch": 3},
    model={"fine": 8, "coarse": 8, "deep": 8, "depth": (1, 1, 1, 1), "embedding": 4},
)
READER = ReaderRecipe(**COMMON, model={"width": 8, "hidden": 8})


@pytest.fixture(autouse=True)
def few_held_out(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("detector", "reader"):
        monkeypatch.setattr(f"kalpana.train.{module}.HELD_OUT", 8)


class Mark:
    """An autoencoder whose reconstructions are all of one value."""

    def encode(self, pixels: Tensor) -> Tensor:
        return pixels

    def decode(self, latents: Tensor) -> Tensor:
        return torch.full_like(latents, 0.25)


def changed(one: Tensor, two: Tensor) -> int:
    return int((one != two).flatten(1).any(1).sum())


@pytest.mark.parametrize(("coded", "count"), [(True, 4), (False, 0)])
def test_an_eighth_is_encoded_and_decoded_where_it_may_be(coded: bool, count: int) -> None:
    degrade, pixels = Degradations(DETECTOR, CPU), torch.rand(32, 3, 32, 32) - 0.5
    degrade.vae = Mark()  # type: ignore[assignment]
    out = degrade(pixels, Generator().manual_seed(0), coded)
    assert int((out == 0.25).flatten(1).all(1).sum()) == count
    # 45 % of the others may get blur, noise or seams.
    cheap = changed(out, pixels) - count
    assert 0.4 * (32 - count) * 0.6 < cheap <= round(0.45 * (32 - count))


def test_a_reader_is_trained_on_degraded_pictures() -> None:
    task = ReaderTask(READER, CPU, silent)
    degraded = task.batch(0)
    task.damage = lambda pixels, rng: pixels  # type: ignore[assignment]
    plain = task.batch(0)
    assert torch.equal(degraded.numbers, plain.numbers)
    assert 4 <= changed(degraded.strips, plain.strips) <= 15
    task.damage = Degradations(READER, CPU)
    assert torch.equal(task.batch(0).strips, degraded.strips)


def test_the_boxes_of_a_reader_are_shifted_and_those_of_its_dev_set_are_not() -> None:
    task = ReaderTask(READER, CPU, silent)
    task.damage = lambda pixels, rng: pixels  # type: ignore[assignment]
    from random import Random

    from kalpana.world.world import World

    scenes = [World(0, kind="text").scene(i) for i in range(4)]
    exact, again = (task._written(scenes, None).strips for _ in range(2))
    shifted = task._written(scenes, Random(0)).strips
    assert torch.equal(exact, again) and changed(exact, shifted) == 4
    assert (exact - shifted).abs().mean() < 0.5


def coded_at(recipe: DetectorRecipe) -> list[bool]:
    """For each step, whether the autoencoder may be used."""
    task, given = DetectorTask(recipe, CPU, silent), list[bool]()

    def record(pixels: Tensor, rng: Generator, coded: bool, large: object) -> Tensor:
        given.append(coded)
        return pixels

    lose = task.damage.lose
    task.damage = record  # type: ignore[assignment]
    task.damage.lose = lose  # type: ignore[attr-defined]
    for step in range(recipe.steps):
        task.batch(step)
    return given


@pytest.mark.slow
def test_a_detector_meets_the_autoencoder_in_the_second_half_or_from_weights_at_once() -> None:
    assert coded_at(DETECTOR) == [False] * 3 + [True] * 3
    assert coded_at(DETECTOR.model_copy(update={"init": "weights"})) == [True] * 6
