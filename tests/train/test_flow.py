"""Diffusion training: the value of the loss for every process, conditions, shipped process."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Generator, Tensor, nn

from kalpana.hub.weights import load_module, read_weights, save_weights
from kalpana.models.dit import DiT
from kalpana.models.vae import VAE, Config
from kalpana.text.tokenizer import Tokenizer
from kalpana.train.data_cache import silent
from kalpana.train.diffusion import DiffusionBatch, DiffusionRecipe, DiffusionTask, noise_times
from kalpana.train.flow import FlowRecipe, FlowTask
from kalpana.train.loop import train
from kalpana.types import Cond, KalpanaError, Tokens

CPU = torch.device("cpu")
PROCESSES = [(s, p) for s in ("flow", "cosine") for p in ("x0", "eps", "v", "flow")]
COMMON: dict[str, Any] = {"name": "f", "num_images": 8, "steps": 10, "batch": 4, "lr": 1e-3}


@pytest.fixture(autouse=True)
def few_held_out(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("flow", "diffusion"):
        monkeypatch.setattr(f"kalpana.train.{module}.HELD_OUT", 8)


@pytest.fixture(scope="module")
def vae(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(2)
    network = VAE(Config(latent=4, fine=8, coarse=8, encoder=(1, 1), decoder=(1, 1)))
    for p in network.parameters():
        nn.init.normal_(p, std=0.2)
    path = tmp_path_factory.mktemp("vae") / "vae.safetensors"
    save_weights(path, network, "vae", network.config, {})
    return path


def build(vae: Path, **fields: Any) -> FlowTask:
    torch.manual_seed(0)
    model = {"width": 32, "depth": 2, "heads": 2, "text_depth": 1, "fine": 8}
    task = FlowTask(FlowRecipe(**COMMON | {"model": model, "vae": vae} | fields), CPU, silent)
    with torch.no_grad():
        for p in task.model.parameters():
            p.add_(0.1 * torch.randn_like(p))
    return task


def drawn(b: int, shape: torch.Size, share: float, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """Times, noise and dropped rows, in the order in which the loss draws them."""
    rng = Generator().manual_seed(seed)
    t = noise_times(b, rng)
    eps = torch.randn(shape, generator=rng)
    return t, eps, torch.rand(b, generator=rng) < share


@pytest.mark.parametrize(("schedule", "prediction"), PROCESSES)
def test_the_loss_by_hand(schedule: str, prediction: str, vae: Path) -> None:
    """Row by row: of x0 under the flow schedule it is the error of the velocity eps - x0, of all
    others the error of the prediction itself."""
    task = build(vae, schedule=schedule, prediction=prediction, caption_dropout=0.5)
    batch = task.batch(0)
    x0 = batch.x0.float()
    times, noise, dropped = drawn(4, x0.shape, 0.5, seed=1)
    assert dropped.any() and not dropped.all() and batch.tokens is not None
    errors = []
    for k, t in enumerate(times.tolist()):
        angle = math.pi / 2 * t
        alpha, sigma = (1 - t, t) if schedule == "flow" else (math.cos(angle), math.sin(angle))
        row, eps = x0[k : k + 1], noise[k : k + 1]
        x_t = alpha * row + sigma * eps
        text = Cond(Tokens(batch.tokens.ids[k : k + 1], batch.tokens.mask[k : k + 1]))
        p = task.model(x_t, torch.tensor([t]), Cond() if dropped[k] else text)
        if (schedule, prediction) == ("flow", "x0"):
            errors.append(((x_t - p) / t - (eps - row)).square().mean())
        else:
            target = {"x0": row, "eps": eps, "v": alpha * eps - sigma * row, "flow": eps - row}
            errors.append((p - target[prediction]).square().mean())
    loss, metrics = task.loss(batch, Generator().manual_seed(1), 0.0)
    assert loss.item() == pytest.approx(torch.stack(errors).mean().item(), rel=1e-3)
    assert metrics == {}
    loss.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in task.model.parameters())


@pytest.mark.slow
@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_a_share_of_the_captions_is_dropped(share: float, vae: Path) -> None:
    task, given = build(vae, caption_dropout=share, batch=4), list[Tensor]()
    plain = task.cond

    def record(batch: DiffusionBatch, null: Tensor | None = None) -> Cond:
        assert null is not None
        given.append(null)
        return plain(batch, null)

    task.cond = record  # type: ignore[method-assign]
    batch = task.batch(0)
    for seed in range(50):
        task.loss(batch, Generator().manual_seed(seed), 0.0)
    assert torch.cat(given).float().mean().item() == pytest.approx(share, abs=0.1)
    assert batch.tokens is not None
    other = replace(batch, tokens=replace(batch.tokens, ids=batch.tokens.ids.flip(1)))
    one, two = (task.loss(each, Generator().manual_seed(3), 0.0)[0] for each in (batch, other))
    assert torch.equal(one, two) == (share == 1)


def test_the_auxiliary_loss_falls_to_nothing(vae: Path) -> None:
    task = build(vae, aux_weight=0.3)
    batch = task.batch(2)
    assert batch.layout is not None and batch.layout.shape == (4, 4, 8, 8)
    for progress in (0.0, 0.25, 0.9):
        loss, metrics = task.loss(batch, Generator().manual_seed(1), progress)
        wanted = metrics["error"] + 0.3 * (1 - progress) * metrics["layout"]
        assert loss.item() == pytest.approx(wanted, rel=1e-5) and metrics["layout"] > 0
    assert build(vae).batch(2).layout is None


@pytest.mark.slow
@pytest.mark.parametrize(("schedule", "prediction"), PROCESSES)
def test_weights_say_for_which_process_they_were_trained(
    schedule: str, prediction: str, vae: Path, tmp_path: Path
) -> None:
    model = {"width": 32, "depth": 1, "heads": 2, "text_depth": 1, "fine": 8}
    process = {"schedule": schedule, "prediction": prediction}
    recipe = FlowRecipe(**COMMON | process | {"model": model, "vae": vae, "steps": 1})
    path = train(recipe, tmp_path, echo=lambda line: None)
    assert path is not None
    weights = read_weights(path, "flow")
    assert weights.process == process and weights.provenance["recipe"]["schedule"] == schedule
    assert list(weights.provenance["vae"]) == ["vae.safetensors"]
    network = load_module(path, "flow")
    assert isinstance(network, DiT)
    assert network.config.precision_weighted == ((schedule, prediction) == ("flow", "x0"))
    assert network.config.channels == 4
    assert math.isfinite(weights.provenance["scores"]["dev_loss"])


def test_a_network_that_fits_no_latents_is_an_error(vae: Path) -> None:
    with pytest.raises(KalpanaError, match=r"'model.channels': it is 16, where .* give 4"):
        build(vae, model={"channels": 16})


class Labels(nn.Module):
    """A network of pixels that reads a label: each class shifts the prediction by its number."""

    reads: tuple[str, ...] = ("label",)

    def __init__(self) -> None:
        super().__init__()
        self.shift = nn.Parameter(torch.arange(3.0))

    def forward(self, x_t: Tensor, t: Tensor, cond: Cond) -> Tensor:
        if not self.reads:
            return x_t + self.shift[1]
        assert cond.label is not None and cond.tokens is None
        null = torch.zeros_like(cond.label, dtype=torch.bool) if cond.null is None else cond.null
        shift = self.shift[cond.label].masked_fill(null, 0.0)
        return x_t + shift[:, None, None, None]


class Pictures:
    """Data that are pixels with labels."""

    def batch(self, step: int) -> DiffusionBatch:
        x0 = torch.rand(6, 3, 8, 8, generator=Generator().manual_seed(step))
        return DiffusionBatch(x0, label=torch.tensor([0, 1, 2, 0, 1, 2]))

    def held_out(self, rows: range) -> DiffusionBatch:
        return DiffusionBatch(torch.zeros(len(rows), 3, 8, 8), label=torch.arange(len(rows)) % 3)

    def decode(self, x0: Tensor) -> Tensor:
        return x0


@pytest.mark.parametrize("reads", [("label",), ()])
def test_any_network_is_trained_on_any_data(reads: tuple[str, ...]) -> None:
    """Labels in place of captions, pixels in place of latents; and no condition at all."""
    recipe = DiffusionRecipe(
        **COMMON, family="labels", schedule="cosine", prediction="eps", caption_dropout=0.0
    )
    network = Labels()
    network.reads = reads
    task = DiffusionTask(recipe, CPU, network, Pictures())
    batch = task.batch(0)
    t, eps, _ = drawn(6, batch.x0.shape, 0.0, seed=2)
    angle = (math.pi / 2 * t)[:, None, None, None]
    shift = torch.tensor([0.0, 1, 2, 0, 1, 2] if reads else [1.0] * 6)[:, None, None, None]
    wanted = (angle.cos() * batch.x0 + angle.sin() * eps + shift - eps).square().mean()
    loss, _ = task.loss(batch, Generator().manual_seed(2), 0.0)
    assert loss.item() == pytest.approx(wanted.item(), rel=1e-5)
    with torch.no_grad():
        scores, sheet = task.evaluate()
    assert math.isfinite(scores["dev_loss"]) and sheet.shape == (8, 3, 8, 8)


def test_captions_of_a_batch_are_those_of_its_latents(vae: Path) -> None:
    task, tokenizer = build(vae, kind="objects"), Tokenizer.load()
    pairs, batch = task.data.captions(3), task.batch(3)
    assert batch.tokens is not None
    for k, (row, caption) in enumerate(pairs):
        assert torch.equal(batch.x0[k], torch.from_numpy(task.data.latents[row].copy()))
        alone = tokenizer.encode([caption]).ids[0]
        assert torch.equal(batch.tokens.ids[k, : len(alone)], alone)
