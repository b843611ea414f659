"""Training data and tasks of unCLIP: the decoder and the prior."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file

from kalpana.hub.weights import load_module, read_process, save_weights
from kalpana.media import to_images, to_pixels
from kalpana.models import clip, dit, vae
from kalpana.models.clip import unit
from kalpana.train import data_cache, unclip
from kalpana.train.loop import train
from kalpana.train.task import HELD_OUT
from kalpana.train.unclip import PriorRecipe, PriorTask, UnclipRecipe, UnclipTask
from kalpana.types import Cond, KalpanaError, Tokens
from kalpana.world.world import World

VAE = vae.Config(latent=4, fine=8, coarse=8, encoder=(1, 1), decoder=(1, 1))
DIT = dit.Config(width=32, depth=1, heads=2, text_depth=1, channels=4, fine=8)
SIZES = {"width": 24, "depth": 1, "heads": 2, "hidden": 48}
CLIP = clip.Config(
    side=32, stem=(), features=24, **SIZES, **{f"text_{name}": n for name, n in SIZES.items()}
)


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("weights")
    torch.manual_seed(0)
    save_weights(folder / "vae.safetensors", vae.VAE(VAE), "vae", VAE, {})
    save_weights(folder / "dit.safetensors", dit.DiT(DIT), "flow", DIT, {})
    save_weights(folder / "clip.safetensors", clip.CLIP(CLIP), "clip", CLIP, {})
    return folder


def recipe(weights: Path, **fields: Any) -> UnclipRecipe:
    settings = {"name": "u", "vae": weights / "vae.safetensors", "num_images": 24}
    settings |= {
        "clip_model": weights / "clip.safetensors",
        "image_model": weights / "dit.safetensors",
    }
    settings |= {"steps": 3, "batch": 16, "lr": 1e-3, "bf16": False, "warmup": 1}
    return UnclipRecipe(**settings | fields)


def prior_recipe(weights: Path, **fields: Any) -> PriorRecipe:
    settings = {"name": "p", "clip_model": weights / "clip.safetensors", "num_images": 24}
    settings |= {"model": {"width": 32, "depth": 2, "heads": 2, "hidden": 64}}
    settings |= {"steps": 3, "batch": 16, "lr": 1e-3, "bf16": False, "warmup": 1}
    return PriorRecipe(**settings | fields)


CPU = torch.device("cpu")


def task(weights: Path, **fields: Any) -> UnclipTask:
    return UnclipTask(recipe(weights, **fields), CPU, data_cache.silent)


def prior_task(weights: Path, **fields: Any) -> PriorTask:
    return PriorTask(prior_recipe(weights, **fields), CPU, data_cache.silent)


def test_vectors_are_those_of_the_pictures_resized(weights: Path) -> None:
    """Within what bf16 rounds: as the CLIP sees the pictures when Pillow resizes them."""
    model, world = load_module(weights / "clip.safetensors", "clip"), World(3)
    found = data_cache.vectors(model, weights / "clip.safetensors", world, 3, CPU)
    pixels = torch.from_numpy(np.array(data_cache.pictures(world, 3)))
    images = [each.resize((32, 32), 3) for each in to_images(pixels / 127.5 - 1)]  # bicubic
    with torch.no_grad():
        wanted = unit(model.image(to_pixels(images)))
    assert found.shape == (3, 24) and found.dtype == np.float16
    assert (torch.from_numpy(np.array(found)).float() * wanted).sum(1).min() > 0.999


@pytest.mark.slow
def test_batches_hold_noisy_vectors_of_their_pictures_and_are_repeatable(weights: Path) -> None:
    made, levels = task(weights, vector_noise=0.4, vector_dropout=0.25), []
    for step in range(20):
        batch, again = made.batch(step), made.batch(step)
        assert batch.embedding is not None and again.embedding is not None
        assert torch.equal(batch.embedding, again.embedding)
        levels.append(batch.embedding[:, -1])
    level = torch.cat(levels)
    assert 0.15 < (level == 1).float().mean() < 0.35  # dropped
    rest = level[level < 1]
    assert rest.max() <= 0.4 and abs(float(rest.mean()) - 0.2) < 0.03
    plain = task(weights, vector_noise=0, vector_dropout=0).batch(0)
    rows = [row for row, _ in made.data.captions(0)]
    vectors = torch.from_numpy(np.array(made.data.vectors[rows])).float()
    assert plain.embedding is not None
    torch.testing.assert_close(plain.embedding[:, :-1], made.data.standard(vectors))
    assert plain.embedding[:, -1].abs().max() == 0


def test_the_loss_is_the_velocity_error_with_text_and_vectors_dropped_apart(weights: Path) -> None:
    """By hand, from the same random numbers."""
    made = task(weights)
    torch.nn.init.normal_(made.model.vector_time.weight, std=0.5)
    torch.nn.init.normal_(made.model.head.weight, std=0.5)
    batch = made.batch(0)
    loss, _ = made.loss(batch, torch.Generator().manual_seed(5), 0.0)
    rng, b = torch.Generator().manual_seed(5), len(batch.x0)
    t = torch.sigmoid(0.8 + torch.randn(b, generator=rng))
    x0 = batch.x0.float()
    eps = torch.randn(x0.shape, generator=rng)
    dropped = torch.rand(b, generator=rng) < 0.5
    assert batch.tokens is not None and 0 < dropped.sum() < b
    errors = []
    for k in range(b):
        tokens = Tokens(batch.tokens.ids[[k]], batch.tokens.mask[[k]] & ~dropped[k])
        x_t = (1 - t[k]) * x0[[k]] + t[k] * eps[[k]]
        cond = Cond(tokens, embedding=batch.embedding[[k]])  # type: ignore[index]
        velocity = (x_t - made.model(x_t, t[[k]], cond)) / t[k]
        errors.append((velocity - (eps[k] - x0[k])).square().mean())
    torch.testing.assert_close(loss, torch.stack(errors).mean(), rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_a_run_saves_the_decoder_with_the_constants_of_its_pool(
    weights: Path, tmp_path: Path
) -> None:
    path = train(recipe(weights), tmp_path, echo=lambda line: None)
    assert path == tmp_path / "unclip.safetensors"
    network, made = load_module(path, "unclip"), task(weights)
    assert torch.equal(network.standard.mean, made.data.standard.mean)
    assert torch.equal(network.standard.deviation, made.data.standard.deviation)
    assert network.vector_time.weight.abs().max() > 0  # it was trained
    assert read_process(path) == {"schedule": "flow", "prediction": "x0"}


@pytest.mark.slow
@pytest.mark.parametrize("make", [recipe, prior_recipe])
def test_a_run_that_is_stopped_goes_on_exactly(weights: Path, tmp_path: Path, make: Any) -> None:
    def run(folder: str, until: int | None = None) -> Path | None:
        return train(make(weights), tmp_path / folder, until, echo=lambda line: None)

    whole = run("whole")
    assert run("parts", 1) is None
    parts = run("parts")
    assert whole is not None and parts is not None
    tensors = load_file(whole)
    assert all(torch.equal(each, tensors[name]) for name, each in load_file(parts).items())


@pytest.mark.slow
def test_the_prior_learns_which_vectors_belong_to_which_texts(weights: Path) -> None:
    """Two texts with a vector each: the drawn vectors come to those of their own texts."""
    made = prior_task(weights, num_images=2)
    model, z = (
        made.model,
        F.normalize(torch.randn(2, 24, generator=torch.Generator().manual_seed(0))),
    )
    z = z * 24**0.5
    tokens = made.data.tokenizer.encode(["a red car", "three blue cats"] * 8, 64)
    batch = unclip.DiffusionBatch(z.repeat(8, 1), tokens)
    optimizer = torch.optim.AdamW(model.parameters(), 3e-3)

    def cosine() -> float:
        cond = made.cond(batch)
        x = torch.randn(16, 24, generator=torch.Generator().manual_seed(1))
        denoise = unclip.guide(made.process.denoiser(model), cond, 1.0)
        for state in unclip.sample(denoise, x, unclip.times(8), unclip.SAMPLERS["euler"]):
            x = state.x
        return float(F.cosine_similarity(x, batch.x0).mean())

    with torch.no_grad():
        before = cosine()
    for step in range(150):
        optimizer.zero_grad()
        loss, _ = made.loss(batch, torch.Generator().manual_seed(step), 0.0)
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        assert before < 0.5 and cosine() > 0.8


@pytest.mark.slow
def test_a_prior_is_trained_and_scored(weights: Path, tmp_path: Path) -> None:
    path = train(prior_recipe(weights), tmp_path, echo=lambda line: None)
    assert path == tmp_path / "unclip_prior.safetensors"
    network = load_module(path, "unclip-prior")
    assert network.config.features == 24 and network.head.weight.abs().max() > 0
    made = prior_task(weights)
    with torch.no_grad():
        scores, sheet = made.evaluate()
    assert scores.keys() == {"prior_loss", "prior_cosine", "text_cosine"}
    assert sheet.shape == (32, 3, 128, 128)
    # The sheet shows the held-out pictures that are nearest; to their own vectors, themselves.
    batch = made.data.held_out(range(4))
    own = data_cache.floats(data_cache.pictures(made.data.dev, HELD_OUT)[:4])
    assert torch.equal(made.data.decode(batch.x0), own)


@pytest.mark.parametrize("field", ["self_train_dir", "aux_weight"])
def test_fields_that_the_decoder_cannot_use_are_problems(weights: Path, field: str) -> None:
    value = weights if field == "self_train_dir" else 0.3
    assert field in dict(recipe(weights, **{field: value}).problems())


@pytest.mark.parametrize(
    ("field", "value"), [("aux_weight", 0.3), ("prediction", "eps"), ("schedule", "cosine")]
)
def test_fields_that_the_prior_cannot_use_are_problems(
    weights: Path, field: str, value: Any
) -> None:
    assert dict(prior_recipe(weights, **{field: value}).problems()).keys() == {field}
    assert not dict(prior_recipe(weights).problems())


def test_another_family_cannot_be_the_clip(weights: Path) -> None:
    with pytest.raises(KalpanaError, match="holds weights of family 'vae', not 'clip'"):
        task(weights, clip_model=weights / "vae.safetensors")


@pytest.mark.slow
def test_a_clip_whose_words_have_another_width_is_refused(weights: Path, tmp_path: Path) -> None:
    other = clip.Config(side=32, stem=(), features=24, text_width=32, text_depth=1, text_heads=2)
    save_weights(tmp_path / "clip.safetensors", clip.CLIP(other), "clip", other, {})
    made = prior_task(weights, clip_model=tmp_path / "clip.safetensors")
    with pytest.raises(KalpanaError, match="text_width is its number of features, 24"):
        made.loss(made.batch(0), torch.Generator().manual_seed(0), 0.0)
