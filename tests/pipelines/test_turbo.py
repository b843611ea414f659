"""Pictures in few steps, by a tiny two-time network with built-in guidance."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from kalpana.hub.card import Card, write_card, write_hashes
from kalpana.hub.weights import save_weights
from kalpana.models import turbo_dit, vae
from kalpana.pipelines import load
from kalpana.pipelines.diffusion import DiffusionPipeline
from kalpana.pipelines.replay import replay
from kalpana.types import Cond, KalpanaError, Output


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("turbo")
    torch.manual_seed(0)
    config = turbo_dit.Config(width=32, depth=2, heads=2, text_depth=1, fine=8, step_width=32)
    network = turbo_dit.TurboDiT(config)
    codec = vae.VAE(vae.Config(fine=8, coarse=8, encoder=(1, 1), decoder=(1, 1)))
    for parameter in [*network.parameters(), *codec.parameters()]:
        nn.init.normal_(parameter, std=0.2)
    codec.fit_preview(torch.rand(4, 3, 32, 32) * 2 - 1)
    save_weights(folder / "turbo_dit.safetensors", network, "turbo", config, {})
    save_weights(folder / "vae.safetensors", codec, "vae", codec.config, {})
    capabilities = {"sizes": ("32x32",), "defaults": {"size": "32x32"}}
    write_card(folder, Card(name="turbo", family="turbo", capabilities=capabilities))
    write_hashes(folder)
    return folder


@pytest.fixture
def turbo(weights: Path) -> DiffusionPipeline:
    model = load(str(weights), "cpu")
    assert isinstance(model, DiffusionPipeline)
    return model


def outputs(turbo: DiffusionPipeline, **fields: Any) -> tuple[Output, ...]:
    *_, last = turbo.generate("a red cat", **fields)
    assert last.result is not None
    return last.result.outputs


def pixels(model: DiffusionPipeline, **fields: Any) -> np.ndarray:
    (output,) = outputs(model, **{"seed": 1} | fields)
    return np.asarray(output.image).astype(int)


@pytest.mark.parametrize(("fields", "steps"), [({}, 4), ({"steps": 1}, 1), ({"steps": 8}, 8)])
def test_a_step_is_one_call_of_the_network_whatever_the_guidance(
    turbo: DiffusionPipeline,
    fields: dict[str, Any],
    steps: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    calls, forward = list[tuple[float, float, float, int]](), turbo_dit.TurboDiT.forward

    def record(self: turbo_dit.TurboDiT, x_t: Tensor, t: Tensor, cond: Cond) -> Tensor:
        assert cond.until is not None and cond.guidance is not None
        calls.append((t.item(), cond.until.item(), cond.guidance.item(), len(x_t)))
        return forward(self, x_t, t, cond)

    monkeypatch.setattr(turbo_dit.TurboDiT, "forward", record)
    outputs(turbo, seed=1, n=2, guidance=3, **fields)
    assert calls == [(1 - k / steps, 1 - (k + 1) / steps, 3.0, 2) for k in range(steps)]


def test_guidance_and_steps_have_an_effect(turbo: DiffusionPipeline) -> None:
    usual = pixels(turbo)
    assert np.array_equal(usual, pixels(turbo, steps=4, guidance=4.5, sampler="euler"))
    for fields in ({"guidance": 1}, {"guidance": 8}, {"steps": 1}, {"steps": 8}):
        assert np.abs(pixels(turbo, **fields) - usual).max() > 1


@pytest.mark.parametrize("steps", [1, 4])
def test_a_picture_is_the_same_alone_and_in_a_batch(turbo: DiffusionPipeline, steps: int) -> None:
    together = outputs(turbo, seeds=(7, 3, 9), steps=steps)
    for seed, output in zip((7, 3, 9), together, strict=True):
        (alone,) = outputs(turbo, seed=seed, steps=steps)
        # Up to the rounding of matrix products this small; see tests/models for the real size.
        apart = np.asarray(alone.image).astype(int) - np.asarray(output.image)
        assert np.abs(apart).max() <= 1


def test_a_picture_is_replayed(turbo: DiffusionPipeline, weights: Path, tmp_path: Path) -> None:
    (output,) = outputs(turbo, seed=5, guidance=2, steps=2, model=str(weights))
    path = output.save(tmp_path / "cat.png").path
    assert path is not None and replay(path)[1].bytes


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"negative_prompt": "a dog"}, "negative_prompt 'a dog' cannot be used"),
        ({"sampler": "heun"}, "sampler 'heun' cannot be used .*no such setting"),
        ({"spacing": "karras"}, "spacing 'karras' cannot be used .*no such setting"),
        ({"guidance_rescale": 0.5}, "guidance_rescale 0.5 cannot be used"),
        ({"guidance": 0.5}, "guidance 0.5 cannot be used .*built in, from 1 to 8"),
        ({"guidance": 9}, "guidance 9.0 cannot be used .*built in, from 1 to 8"),
        ({"image": "x.png", "source_prompt": "a dog"}, "source_prompt"),
    ],
)
def test_what_it_does_not_have_is_refused(
    turbo: DiffusionPipeline, fields: dict[str, Any], message: str, tmp_path: Path
) -> None:
    Image.new("RGB", (32, 32)).save(tmp_path / "x.png")
    if "image" in fields:
        fields = fields | {"image": tmp_path / "x.png"}
    with pytest.raises(KalpanaError, match=message):
        turbo.generate("a red cat", **fields)


def test_pictures_are_changed_filled_in_and_larger(
    turbo: DiffusionPipeline, tmp_path: Path
) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "x.png")
    mask = np.zeros((32, 32), np.uint8)
    mask[:, 16:] = 255
    Image.fromarray(mask).save(tmp_path / "mask.png")
    changed = pixels(turbo, image=tmp_path / "x.png", strength=0.3)
    stronger = pixels(turbo, image=tmp_path / "x.png", strength=0.8)
    assert not np.array_equal(changed, stronger) and not np.array_equal(stronger, pixels(turbo))
    filled = pixels(turbo, image=tmp_path / "x.png", mask=tmp_path / "mask.png")
    assert np.array_equal(filled[:, :16], noise[:, :16])
    assert not np.array_equal(filled[:, 16:], noise[:, 16:])
    assert pixels(turbo, size="48x32").shape == (32, 48, 3)
