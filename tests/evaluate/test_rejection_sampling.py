"""Rejection sampling: only correct pictures are kept; training uses them with their captions."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from kalpana.evaluate.rejection_sampling import EACH, KEEP, captions, harvest
from kalpana.evaluate.score import right
from kalpana.evaluate.verifiers.observations import Observation, truth
from kalpana.hub.weights import save_weights
from kalpana.media import to_images
from kalpana.models import vae
from kalpana.train.data_cache import HARVEST, harvest_lines, harvested, silent
from kalpana.train.flow import FlowRecipe, FlowTask
from kalpana.train.recipe import read_recipe
from kalpana.types import KalpanaError, Output
from kalpana.world.splits import split_of
from kalpana.world.world import World

CPU = torch.device("cpu")
PROMPTS = list(islice(captions(), 6))


class Knows:
    """A verifier that knows the true picture of each caption, and takes others for empty ones."""

    def __init__(self) -> None:
        self.known: dict[bytes, Observation] = {}

    def look(self, pixels: Tensor) -> list[Observation]:
        return [self.known.get(image.tobytes(), Observation()) for image in to_images(pixels)]


def draws(verifier: Knows, asked: list[str], good: int) -> object:
    """A model that renders the true picture for its first ``good`` seeds, and else an empty one."""
    world = World(0, "train")
    scenes = {world.describe(i)[0]: i for i in range(200)}

    def draw(text: str, seeds: Sequence[int]) -> list[Output]:
        asked.append(text)
        sample = world[scenes[text]]
        (image,) = to_images(sample.image[None])
        verifier.known[image.tobytes()] = truth(sample.truth.scene)
        return [
            Output(image if k < good else Image.new("RGB", image.size), seed, {})
            for k, seed in enumerate(seeds)
        ]

    return draw


def test_captions_are_of_training_scenes_that_a_verifier_without_error_finds_right() -> None:
    world = World(0, "train")
    scenes = {world.describe(i)[0]: world.scene(i) for i in range(100)}
    for prompt in islice(captions(), 20):
        scene = scenes[prompt.text]
        assert split_of(scene) == "train"
        assert right(prompt, truth(scene), strict=True)
        assert not right(prompt, Observation(), strict=True)


def test_a_few_right_pictures_of_each_caption_are_kept_and_none_is_drawn_twice(
    tmp_path: Path,
) -> None:
    verifier, asked = Knows(), list[str]()
    draw = draws(verifier, asked, good=3)
    assert harvest(draw, PROMPTS[:4], verifier, tmp_path, silent) == 4 * KEEP  # type: ignore[arg-type]
    assert [line["right"] for line in harvest_lines(tmp_path)] == [3] * 4
    with (tmp_path / HARVEST).open("a") as file:
        file.write('{"caption": "cut o')  # an incomplete line, as an interrupted run leaves it
    assert harvest(draw, PROMPTS, verifier, tmp_path, silent) == 6 * KEEP  # type: ignore[arg-type]
    assert asked == [prompt.text for prompt in PROMPTS], "a caption was drawn again"
    assert EACH > 3, "wrong pictures were drawn, and none of them kept"
    assert len(list(tmp_path.glob("*.png"))) == 6 * KEEP


@pytest.mark.slow
def test_the_transformer_sees_the_harvest_with_its_captions(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr("kalpana.train.flow.HELD_OUT", 64)
    verifier = Knows()
    harvest(draws(verifier, [], good=1), PROMPTS, verifier, tmp_path / "kept", silent)  # type: ignore[arg-type]
    net = vae.VAE(vae.Config(fine=8, coarse=8, encoder=(1, 1), decoder=(1, 1))).eval()
    save_weights(tmp_path / "vae.safetensors", net, "vae", net.config, {})
    recipe = FlowRecipe(
        name="f",
        model={"width": 32, "depth": 1, "heads": 2},
        vae=tmp_path / "vae.safetensors",
        self_train_dir=tmp_path / "kept",
        num_images=10,
        steps=8,
        batch=4,
        lr=1e-3,
        bf16=False,
    )
    task = FlowTask(recipe, CPU, silent)
    latents, said = harvested(task.data.vae, tmp_path / "kept", CPU)
    assert said == [prompt.text for prompt in PROMPTS]
    # Two epochs of 10 pictures of the pool and 6 kept ones.
    shown = [(i, text) for step in range(8) for i, text in task.data.captions(step)]
    assert sorted(i for i, _ in shown) == sorted([*range(16)] * 2)
    assert {text for i, text in shown if i >= 10} == set(said)
    (step, row) = next(
        (s, r) for s in range(8) for r, (i, _) in enumerate(task.data.captions(s)) if i == 12
    )
    assert np.allclose(task.batch(step).x0[row].numpy(), latents[2].astype(np.float32))
    often = FlowTask(recipe.model_copy(update={"self_train_repeat": 9, "steps": 16}), CPU, silent)
    # One epoch of 10 pictures of the pool and 6 kept ones, nine times each.
    shown = [(i, text) for step in range(16) for i, text in often.data.captions(step)]
    assert sorted(i for i, _ in shown) == sorted([*range(10), *[*range(10, 16)] * 9])
    assert {text for i, text in shown if i == 12} == {said[2]}


def test_a_missing_harvest_and_a_harvest_with_layout_are_refused(tmp_path: Path) -> None:
    with pytest.raises(KalpanaError, match="no harvest in"):
        harvested(vae.VAE(), tmp_path, CPU)
    path = tmp_path / "r.yaml"
    path.write_text(
        "name: f\nfamily: flow\nvae: v\nself_train_dir: h\naux_weight: 0.3\n"
        "steps: 1\nbatch: 1\nlr: 1.0e-3\n"
    )
    with pytest.raises(KalpanaError, match="'aux_weight'"):
        read_recipe(path)
