"""Training of the U-Net: it learns a few captioned latents; its text encoder may be given."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from kalpana.hub.card import Card, write_card, write_hashes
from kalpana.hub.weights import load_module, read_process, save_weights
from kalpana.models import dit, text_unet, vae
from kalpana.pipelines import load
from kalpana.train.checkpoint import State
from kalpana.train.data_cache import silent
from kalpana.train.flow import UNetRecipe, UNetTask
from kalpana.train.loop import make_optimizers, train, train_step
from kalpana.train.recipe import check_recipe, read_recipe
from kalpana.types import Cond, KalpanaError, Tokens

CPU = torch.device("cpu")
MODEL: dict[str, Any] = {
    "block_out_channels": (16, 32), "norm_num_groups": 8, "attention_head_dim": 2,
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
    "cross_attention_dim": 32, "text_heads": 2, "text_depth": 1,
}  # fmt: skip
COMMON: dict[str, Any] = {
    "name": "u", "num_images": 4, "steps": 130, "batch": 4, "lr": 5e-3, "warmup": 10,
    "bf16": False, "ema_decay": 0.98, "caption_dropout": 0.0, "model": MODEL,
}  # fmt: skip


@pytest.fixture(autouse=True)
def few_held_out(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("flow", "diffusion"):
        monkeypatch.setattr(f"kalpana.train.{module}.HELD_OUT", 8)


@pytest.fixture(scope="module")
def codec(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(2)
    network = vae.VAE(vae.Config(latent=4, fine=8, coarse=8, encoder=(1, 1), decoder=(1, 1)))
    for p in network.parameters():
        nn.init.normal_(p, std=0.2)
    path = tmp_path_factory.mktemp("vae") / "vae.safetensors"
    save_weights(path, network, "vae", network.config, {})
    return path


@pytest.fixture(scope="module")
def transformer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(3)
    network = dit.DiT(dit.Config(width=32, depth=1, heads=2, text_depth=1, fine=8, channels=4))
    path = tmp_path_factory.mktemp("dit") / "dit.safetensors"
    save_weights(path, network, "flow", network.config, {})
    return path


@pytest.mark.slow
def test_four_pictures_are_learned(codec: Path) -> None:
    """The error at fixed times and noise falls to a third of that of the empty prediction, and with
    the captions of other pictures it is higher."""
    torch.manual_seed(0)
    recipe = UNetRecipe(**COMMON, vae=codec)
    task = UNetTask(recipe, CPU, silent)
    batch = task.data.batch(0)
    rng = torch.Generator().manual_seed(5)
    t, eps = torch.rand(4, generator=rng), torch.randn(batch.x0.shape, generator=rng)

    def error(shift: int = 0) -> float:
        assert batch.tokens is not None
        ids, mask = batch.tokens.ids, batch.tokens.mask
        cond = Cond(Tokens(ids.roll(shift, 0), mask.roll(shift, 0)))
        with torch.no_grad():
            return task._error(batch.x0.float(), t, eps, cond)[0].mean().item()

    before = error()
    ema = {name: value.clone() for name, value in task.model.state_dict().items()}
    state = State(task.model, ema, make_optimizers(task.model, recipe))
    for _ in range(recipe.steps):
        train_step(task, state, recipe, task.batch(state.step))
        state.step += 1
    assert error() < before / 3
    assert max(error(shift) for shift in range(1, 4)) > 1.1 * error()


@pytest.mark.slow
def test_a_trained_folder_answers_requests(codec: Path, transformer: Path, tmp_path: Path) -> None:
    """With the text encoder of a flow transformer, which training leaves as it is."""
    fields = COMMON | {"steps": 3, "text_encoder": transformer, "vae": codec}
    train(UNetRecipe(**fields), tmp_path / "run", device="cpu")
    path = tmp_path / "run/unet.safetensors"
    network, source = load_module(path, "unet"), load_module(transformer, "flow")
    for name, value in network.text.state_dict().items():
        assert torch.equal(value, source.state_dict()[name]), name
    assert read_process(path) == {"schedule": "cosine", "prediction": "v"}
    (tmp_path / "run/vae.safetensors").write_bytes(codec.read_bytes())
    capabilities = {"sizes": ("128x128",), "defaults": {"steps": 2}}
    write_card(tmp_path / "run", Card(name="u", family="unet", capabilities=capabilities))
    write_hashes(tmp_path / "run")
    *_, last = load(str(tmp_path / "run"), "cpu").generate("a red ball", seed=0)
    assert last.result is not None and last.result.outputs[0].image.size == (128, 128)


def test_what_does_not_fit_is_named(codec: Path, transformer: Path) -> None:
    with pytest.raises(KalpanaError, match="field 'aux_weight': a U-Net has no auxiliary head"):
        check_recipe(UNetRecipe(**COMMON, vae=codec, aux_weight=0.1))
    wider = COMMON | {"model": MODEL | {"cross_attention_dim": 64}}
    with pytest.raises(KalpanaError, match=r"'text_encoder': null in .* is \(32,\), .* \(64,\)"):
        UNetTask(UNetRecipe(**wider, vae=codec, text_encoder=transformer), CPU, silent)


def test_the_shipped_recipe_fits_the_shipped_weights() -> None:
    recipe = read_recipe("unet")
    assert isinstance(recipe, UNetRecipe) and recipe.prediction == "v"
    with torch.device("meta"):
        ours, source = text_unet.TextUNet().text, dit.DiT().state_dict()
    assert {name: p.shape for name, p in ours.state_dict().items()}.items() <= {
        name: p.shape for name, p in source.items()
    }.items()
