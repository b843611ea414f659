"""Ablations: arms from texts, and two arms of a tiny U-Net."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch import nn

from kalpana.evaluate import ablation
from kalpana.evaluate.ablation import LEVELS, ablate, markdown, read_arms
from kalpana.evaluate.run import first
from kalpana.evaluate.suites import spriteeval
from kalpana.evaluate.verifiers.observations import Observation
from kalpana.hub.weights import save_weights
from kalpana.models import vae
from kalpana.types import KalpanaError

FIELDS: dict[str, Any] = {
    "name": "u", "family": "unet", "num_images": 4, "steps": 2, "batch": 2, "lr": 1e-3,
    "bf16": False, "warmup": 1,
    "model": {
        "block_out_channels": [8, 8], "norm_num_groups": 4, "attention_head_dim": 2,
        "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D"],
        "up_block_types": ["CrossAttnUpBlock2D", "UpBlock2D"],
        "cross_attention_dim": 32, "text_heads": 2, "text_depth": 1,
    },
}  # fmt: skip


class Blind:
    """A verifier that sees nothing."""

    title = "blind"

    def look(self, pixels: torch.Tensor) -> list[Observation]:
        return [Observation() for _ in pixels]


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    torch.manual_seed(2)
    codec = vae.VAE(vae.Config(latent=4, fine=8, coarse=8, encoder=(1, 1), decoder=(1, 1)))
    for p in codec.parameters():
        nn.init.normal_(p, std=0.2)
    save_weights(tmp_path / "vae.safetensors", codec, "vae", codec.config, {})
    path = tmp_path / "unet.yaml"
    path.write_text(yaml.safe_dump(FIELDS | {"vae": str(tmp_path / "vae.safetensors")}))
    return path


def test_arms_are_the_recipe_with_changed_fields(recipe: Path) -> None:
    arms = read_arms(recipe, ["prediction=eps", "schedule=scaled-linear, min_snr_gamma=5"], steps=9)
    assert list(arms) == ["base", "prediction=eps", "schedule=scaled-linear, min_snr_gamma=5"]
    base, eps, other = arms.values()
    assert (base.prediction, eps.prediction, other.prediction) == ("v", "eps", "v")
    assert (other.schedule, other.min_snr_gamma) == ("scaled-linear", 5.0)
    assert all(arm.steps == 9 for arm in arms.values())


@pytest.mark.parametrize(
    ("arm", "message"),
    [
        ("prediction", "write FIELD=VALUE"),
        ("steps=3", "'steps' is the same in all arms"),
        ("prediction=e", "'e' is not one of"),
        ("predicton=eps", "did you mean 'prediction'"),
    ],
)
def test_a_wrong_arm_is_named(recipe: Path, arm: str, message: str) -> None:
    with pytest.raises(KalpanaError, match=message):
        read_arms(recipe, [arm])


def test_a_recipe_of_another_family_is_refused() -> None:
    with pytest.raises(KalpanaError, match="of family vae: an ablation takes"):
        read_arms("vae", [])


@pytest.mark.slow
def test_two_arms_are_trained_and_compared(
    recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in ("train.flow", "train.diffusion", "evaluate.ablation"):
        monkeypatch.setattr(f"kalpana.{module}.HELD_OUT", 8)
    arms = read_arms(recipe, ["prediction=eps"])
    lines: list[str] = []
    prompts = first(spriteeval(dev=True), 1)[:2]
    rows = ablate(arms, Blind(), prompts, tmp_path / "runs", lines.append, "cpu", steps=1)
    assert [row.name for row in rows] == ["base", "prediction=eps"]
    assert all(row.count == 2 and row.right == 0 and row.brightness >= 0 for row in rows)
    assert all(len(row.errors) == len(LEVELS) and min(row.errors) > 0 for row in rows)
    assert (tmp_path / "runs/prediction=eps/unet.safetensors").is_file()
    assert markdown(rows).splitlines()[2].startswith("| base | ")


def test_the_error_of_a_known_network_is_by_hand(recipe: Path) -> None:
    """A network that predicts v = 0 estimates alpha x_t, so that its error is known."""
    from kalpana.hub.weights import find_device
    from kalpana.train.data_cache import silent
    from kalpana.train.loop import make_task

    with pytest.MonkeyPatch.context() as patch:
        for module in ("train.flow", "train.diffusion", "evaluate.ablation"):
            patch.setattr(f"kalpana.{module}.HELD_OUT", 8)
        task = make_task(read_arms(recipe, [])["base"], find_device("cpu"), silent)
        errors = ablation.x0_errors(task)  # type: ignore[arg-type]
    x0 = task.data.held_out(range(8)).x0.float()  # type: ignore[attr-defined]
    eps = torch.randn(x0.shape, generator=torch.Generator().manual_seed(0))
    for level, error in zip(LEVELS, errors, strict=True):
        snr = torch.tensor(2.0 * level).exp()
        alpha, sigma = (snr / (1 + snr)).sqrt(), (1 / (1 + snr)).sqrt()
        by_hand = (alpha * (alpha * x0 + sigma * eps) - x0).square().mean().item()
        assert error == pytest.approx(by_hand, rel=1e-4)
