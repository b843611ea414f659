"""Sampling of pictures and captions: order, frequency and wording."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

from kalpana.train import data_cache
from kalpana.train.flow import FlowRecipe
from kalpana.train.task import SORT, CaptionSampler
from kalpana.world.scene import COLORS
from kalpana.world.world import World

COUNT = 60
RECIPE = FlowRecipe(
    name="f",
    vae=Path("v"),
    num_images=COUNT,
    steps=8,
    batch=4,
    lr=1e-3,
    oversample=3,
)
WORLD = World(0, "train")


def test_several_things_come_up_more_often_and_two_colours_more_often_again(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    often = data_cache.often(RECIPE, WORLD)
    assert len(often) == COUNT and set(often) == {1, 3, 9}
    for i in range(COUNT):
        if len(WORLD.scene(i).objects) < 2:
            assert often[i] == 1
            continue
        texts = " ".join(WORLD.describe(i, take)[0] for take in range(12))  # in both languages
        assert (
            often[i] == 3 or sum(bool(re.search(rf"\b{color}\b", texts)) for color in COLORS) >= 2
        ), texts
    assert (data_cache.often(RECIPE, WORLD) == often).all(), "and is looked up the second time"
    plain = RECIPE.model_copy(update={"oversample": 1})
    assert data_cache.often(plain, WORLD).tolist() == [1] * COUNT


def test_a_round_shows_each_picture_as_often_as_is_said_and_never_in_the_same_words_twice(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    often = torch.ones(SORT * RECIPE.batch - 3, dtype=torch.int64).numpy()
    often[5] = 4  # so that an epoch is SORT steps
    captions = CaptionSampler(RECIPE, WORLD, often, ["what is said of the harvest"])
    rounds = [
        [pair for step in range(start, start + SORT) for pair in captions(step)]
        for start in (0, SORT)
    ]
    for shown in rounds:
        assert sorted(row for row, _ in shown) == sorted([*range(len(often)), 5, 5, 5])
        assert dict(shown)[len(often) - 1] == "what is said of the harvest"
    texts = [text for shown in rounds for row, text in shown if row == 5]
    assert sorted(texts) == sorted(WORLD.describe(5, take)[0] for take in range(8))
