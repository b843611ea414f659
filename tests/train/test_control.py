"""Training data and task of the control transformer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from kalpana.hub.weights import load_module, provenance, save_weights
from kalpana.models import dit, vae
from kalpana.train.control import ControlRecipe, ControlTask, maps_of, random_mask
from kalpana.train.loop import train
from kalpana.types import KalpanaError
from kalpana.world.world import World

VAE = vae.Config(latent=4, fine=8, coarse=8, encoder=(1, 1), decoder=(1, 1))
DIT = dit.Config(width=32, depth=1, heads=2, text_depth=1, channels=4, fine=8)


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("weights")
    torch.manual_seed(0)
    save_weights(folder / "vae.safetensors", vae.VAE(VAE), "vae", VAE, {})
    save_weights(folder / "dit.safetensors", dit.DiT(DIT), "flow", DIT, {"samples": 7})
    return folder


def recipe(weights: Path, **fields: Any) -> ControlRecipe:
    settings = {"name": "c", "vae": weights / "vae.safetensors", "kind": "everything"}
    settings |= {"image_model": weights / "dit.safetensors", "num_images": 24, "extra_images": 8}
    settings |= {"steps": 3, "batch": 16, "lr": 1e-3, "bf16": False, "warmup": 1}
    return ControlRecipe(**settings | fields)


def task(weights: Path, **fields: Any) -> ControlTask:
    return ControlTask(recipe(weights, **fields), torch.device("cpu"), lambda done, total: None)


@pytest.mark.slow
def test_batches_hold_pictures_with_and_without_maps_and_masks(weights: Path) -> None:
    made, kinds, without, masked, count = task(weights), set[str](), 0, 0, 0
    for step in range(12):
        batch, again = made.batch(step), made.batch(step)
        assert batch.control is not None and batch.known is not None and again.known is not None
        assert torch.equal(batch.x0, again.x0) and torch.equal(batch.known, again.known)
        strengths = {kind: each[:, 3].amax((1, 2)) for kind, each in batch.control.items()}
        kinds |= strengths.keys()
        some = torch.stack(list(strengths.values())).amax(0) > 0
        given = batch.known[:, -1].amax((1, 2)) > 0
        assert not torch.any(some & given)  # a picture has maps or a mask
        mask = batch.known[:, -1:]
        assert torch.equal(batch.known[:, :-1], batch.x0.float() * mask)
        without, masked = without + int((~some).sum()), masked + int(given.sum())
        count += len(some)
        loss, _ = made.loss(batch, torch.Generator().manual_seed(step), 0.0)
        assert loss.isfinite()
    assert kinds == {"edges", "outlines", "depth", "boxes", "pose", "glyphs"}
    assert 0.3 < without / count < 0.5  # 25 % plain and 15 % masked, of which a fifth gives nothing
    assert 0.05 < masked / count < 0.2


@pytest.mark.slow
def test_maps_are_of_the_pictures_they_come_with(weights: Path) -> None:
    """The latents of an extra picture come with the letters of its own sign."""
    made = task(weights, num_images=1, extra_images=200, extra_kind="text", batch=8)
    batch = made.batch(0)
    assert batch.control is not None
    latents = torch.from_numpy(np.array(made.data.more)).float()
    glyphs = batch.control["glyphs"]
    for row in (glyphs[:, 3].amax((1, 2)) > 0).nonzero()[:, 0].tolist():
        match = (latents - batch.x0[row].float()).abs().amax((1, 2, 3)).argmin()
        scene = World(0, "train", kind="text").scene(int(match))
        assert torch.equal(maps_of([scene], [("glyphs",)])["glyphs"][0], glyphs[row])


def test_a_picture_without_the_map_has_strength_0() -> None:
    scenes = [World(0, "dev", kind="text").scene(i) for i in range(2)]
    found = maps_of(scenes, [("glyphs", "edges"), ()])
    assert set(found) == {"glyphs", "edges"}
    for each in found.values():
        assert torch.all(each[0, 3] == 1) and torch.all(each[1, 3] == 0)
        assert torch.all(each[1, :3] == -1) and each.abs().max() <= 1


def test_masks_give_a_part_the_whole_or_nothing() -> None:
    rng = np.random.default_rng(0)
    shares = [float(random_mask(rng, 16).mean()) for _ in range(300)]
    assert shares.count(0.0) > 30 and shares.count(0.5) > 30  # nothing; a half
    assert max(shares) < 1 and 0.3 < np.mean(shares) < 0.8


@pytest.mark.slow
def test_a_run_starts_as_the_image_model_and_is_saved_with_its_process(
    weights: Path, tmp_path: Path
) -> None:
    path = train(recipe(weights), tmp_path, echo=lambda line: None)
    assert path == tmp_path / "control_dit.safetensors"
    network = load_module(path, "control")
    assert network.config.kinds == ("edges", "outlines", "depth", "boxes", "pose", "glyphs")
    assert network.join.weight.abs().max() > 0  # it was trained
    assert provenance(path)["grown_from"] == {"samples": 7}


@pytest.mark.slow
def test_a_run_goes_on_from_a_control_transformer(weights: Path, tmp_path: Path) -> None:
    """The maps and the rest of the network start as they were."""
    path = train(recipe(weights), tmp_path / "first", echo=lambda line: None)
    assert path is not None
    before = load_module(path, "control").state_dict()
    after = task(weights, image_model=path).model.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)


@pytest.mark.parametrize("field", ["self_train_dir", "aux_weight"])
def test_fields_that_it_cannot_use_are_problems(weights: Path, field: str) -> None:
    value = weights if field == "self_train_dir" else 0.3
    assert field in dict(recipe(weights, **{field: value}).problems())


def test_another_family_cannot_be_the_start(weights: Path) -> None:
    with pytest.raises(KalpanaError, match="holds weights of family 'vae', not 'flow'"):
        task(weights, image_model=weights / "vae.safetensors")
