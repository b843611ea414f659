"""A run's folder: lock, checkpoints, log, and what may change between two parts of a run."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch import Generator, Tensor, nn
from typer.testing import CliRunner

from kalpana.cli.main import app
from kalpana.hub.weights import load_module, provenance, save_weights
from kalpana.models.vae import VAE, Config
from kalpana.train import checkpoint, loop
from kalpana.train.autoencoder import AutoencoderRecipe
from kalpana.train.checkpoint import State
from kalpana.train.detector import DetectorBatch
from kalpana.train.loop import make_optimizers, seconds_left, split, train, train_step
from kalpana.train.reader import ReaderRecipe
from kalpana.train.recipe import Recipe
from kalpana.types import KalpanaError

TINY = {"latent": 4, "fine": 8, "coarse": 8, "encoder": (1, 1), "decoder": (1, 1)}
COMMON: dict[str, Any] = {
    "name": "tiny", "model": TINY, "num_images": 8, "steps": 1000, "batch": 4, "lr": 2e-3,
    "warmup": 2, "log_every": 1, "sample_every": 1000,
}  # fmt: skip
RECIPE = AutoencoderRecipe(**COMMON)


def quiet(line: str) -> None:
    pass


@pytest.fixture(autouse=True)
def few_held_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kalpana.train.autoencoder.HELD_OUT", 64)


@contextmanager
def disk_of(size: int) -> Iterator[None]:
    """Context in which no file of this process can be larger than ``size`` bytes."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def steps_in(log: Path) -> list[int]:
    return [json.loads(line)["step"] for line in log.read_text().splitlines()]


@pytest.mark.slow
def test_a_second_run_is_refused_and_a_killed_one_neither_locks_nor_logs_twice(
    tmp_path: Path,
) -> None:
    recipe, out = RECIPE.model_copy(update={"save_every": 3}), tmp_path / "run"
    file = tmp_path / "r.yaml"
    file.write_text(yaml.safe_dump(recipe.model_dump(mode="json")), encoding="utf-8")
    code = f"""
import kalpana.train.autoencoder
kalpana.train.autoencoder.HELD_OUT = 64
from kalpana.cli import app
app(["train", {str(file)!r}, "--out", {str(out)!r}])
"""
    with subprocess.Popen(
        [sys.executable, "-c", code],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    ) as process:
        assert process.stdout is not None
        try:
            assert any("tiny 5/" in line for line in process.stdout), "it ended too early"
            with pytest.raises(KalpanaError, match="another process works in") as error:
                train(recipe, out, until=1, echo=quiet)
        finally:
            os.kill(process.pid, signal.SIGKILL)
    assert "\n" not in str(error.value)
    with (out / "log.jsonl").open("a") as log:
        log.write('{"step": 9, "lo')  # cut off in the middle
    (out / f".checkpoint.safetensors.{process.pid}.part").touch()
    lines: list[str] = []
    header = checkpoint_header(out)
    assert train(recipe, out, until=int(header["step"]) + 4, echo=lines.append) is None
    assert lines[0] == f"tiny: resuming from step {header['step']}"
    assert steps_in(out / "log.jsonl") == list(range(1, int(header["step"]) + 5))
    assert not list(out.glob("*.part")) and not list(out.glob(".*.part"))
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    events = accumulator.EventAccumulator(str(out))
    events.Reload()
    assert [event.step for event in events.Scalars("loss")] == steps_in(out / "log.jsonl")


def checkpoint_header(out: Path) -> dict[str, str]:
    from safetensors import safe_open

    with safe_open(out / "checkpoint.safetensors", "pt") as file:
        return dict(file.metadata())


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    network = VAE(Config(**TINY))  # type: ignore[arg-type]
    path = tmp_path / "one" / "vae.safetensors"
    save_weights(path, network, "vae", network.config, {})
    return path


@pytest.mark.slow
def test_only_what_changes_what_is_learned_keeps_a_run_from_going_on(
    weights: Path, tmp_path: Path
) -> None:
    recipe, out = RECIPE.model_copy(update={"init": weights}), tmp_path / "run"
    train(recipe, out, until=1, echo=quiet)
    moved = tmp_path / "two" / "vae.safetensors"
    moved.parent.mkdir()
    moved.write_bytes(weights.read_bytes())
    other = {"name": "other", "log_every": 7, "sample_every": 9, "save_every": 11, "init": moved}
    train(recipe.model_copy(update=other), out, until=2, echo=quiet)
    assert checkpoint_header(out)["step"] == "2"
    for field, value in (("lr", 1e-3), ("seed", 5), ("posterior_std", 0.2), ("grad_accum", 2)):
        with pytest.raises(KalpanaError, match=f"differs in {field}: undo that"):
            train(recipe.model_copy(update={field: value}), out, echo=quiet)
    network = load_module(weights, "vae")
    network.decoder[0].weight.add_(1)
    save_weights(moved, network, "vae", network.config, {})
    with pytest.raises(KalpanaError, match="differs in init"):
        train(recipe.model_copy(update={"init": moved}), out, echo=quiet)


@pytest.mark.slow
def test_a_full_disk_is_one_line_and_leaves_the_checkpoint_before(tmp_path: Path) -> None:
    train(RECIPE, tmp_path, until=1, echo=quiet)
    before = (tmp_path / "checkpoint.safetensors").read_bytes()
    with pytest.raises(KalpanaError, match="cannot write the checkpoint") as error, disk_of(9999):
        train(RECIPE, tmp_path, until=2, echo=quiet)
    assert "\n" not in str(error.value) and "too large" in str(error.value)
    assert (tmp_path / "checkpoint.safetensors").read_bytes() == before
    assert not list(tmp_path.glob(".*.part"))
    short = RECIPE.model_copy(update={"steps": 1})
    with pytest.raises(KalpanaError, match="cannot"), disk_of(300_000):  # at the sample sheet
        train(short, tmp_path / "short", echo=quiet)
    assert train(short, tmp_path / "short", echo=quiet) is not None


def test_a_closed_terminal_does_not_end_a_run(tmp_path: Path) -> None:
    def closed(line: str) -> None:
        raise OSError(5, "Input/output error")

    assert train(RECIPE, tmp_path, until=2, echo=closed) is None
    assert checkpoint_header(tmp_path)["step"] == "2"


def test_a_folder_that_cannot_be_made_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(KalpanaError, match=r"cannot read or write .*file/run"):
        train(RECIPE, tmp_path / "file/run", echo=quiet)


def test_a_gradient_that_is_not_finite_is_one_line(weights: Path, tmp_path: Path) -> None:
    network = load_module(weights, "vae")
    network.decoder[0].weight.fill_(float("nan"))
    save_weights(weights, network, "vae", network.config, {})
    with pytest.raises(KalpanaError, match="not finite at step 0: lower lr"):
        train(RECIPE.model_copy(update={"init": weights}), tmp_path / "run", echo=quiet)


@pytest.mark.slow
def test_what_is_logged_shown_and_saved_how_often(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    saved, save = list[int](), checkpoint.save

    def record(path: Path, state: State, recipe: Any) -> None:
        saved.append(state.step)
        save(path, state, recipe)

    monkeypatch.setattr(checkpoint, "save", record)
    often = {"log_every": 2, "sample_every": 3, "save_every": 4}
    train(RECIPE.model_copy(update=often), tmp_path, until=7, echo=quiet)
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if "loss" in line] == [2, 4, 6, 7]
    assert [line["step"] for line in lines if "dev_psnr" in line] == [3, 6]
    assert [path.name for path in sorted(tmp_path.glob("*.png"))] == [
        "step-000003.png", "step-000006.png",
    ]  # fmt: skip
    assert saved == [4, 7]


@pytest.mark.parametrize("recipe", [
    RECIPE.model_copy(update={"optimizer": "muon"}),
    ReaderRecipe(**COMMON | {"model": {"width": 8, "hidden": 8}, "compile": True}),
])  # fmt: skip
def test_what_a_network_cannot_have_is_refused(recipe: Recipe, tmp_path: Path) -> None:
    field = "compile" if recipe.compile else "optimizer"
    with pytest.raises(KalpanaError, match=f"field '{field}': .* leave it out"):
        train(recipe, tmp_path, echo=quiet)


def test_the_time_left_is_that_of_the_steps_left() -> None:
    state = State(nn.Linear(1, 1), {}, [], step=250, seconds=100.0)
    assert seconds_left(state, RECIPE) == pytest.approx(300.0)  # 750 steps of 0.4 s


class Line:
    """A minimal task: the mean square of a linear layer's output."""

    device, ahead = torch.device("cpu"), True

    def __init__(self) -> None:
        torch.manual_seed(0)
        self.model, self.seen = nn.Linear(3, 1), list[float]()

    def loss(
        self, batch: Tensor, rng: Generator, progress: float
    ) -> tuple[Tensor, dict[str, float]]:
        self.seen.append(progress)
        loss = self.model(batch).square().mean()
        return loss, {"again": loss.item()}


@pytest.mark.parametrize("parts", [2, 3, 4, 8])
def test_accumulated_parts_weigh_as_much_as_their_rows(parts: int) -> None:
    """Loss, metrics and gradient are those of the whole batch, also where the parts differ in size
    or are fewer than asked for."""
    x, found = torch.randn(4, 3, generator=Generator().manual_seed(1)), []
    for count in (1, parts):
        task, fields = Line(), {"grad_accum": count, "grad_clip": 1e9, "bf16": False}
        recipe = RECIPE.model_copy(update=fields)
        state = State(
            task.model,
            {k: v.clone() for k, v in task.model.state_dict().items()},
            make_optimizers(task.model, recipe),
        )
        metrics = train_step(task, state, recipe, x)  # type: ignore[arg-type]
        found.append((metrics, task.model.weight.grad))
        assert len(task.seen) == min(count, 4) and set(task.seen) == {0.0}
    (whole, gradient), (other, accumulated) = found
    assert other == pytest.approx(whole, rel=1e-6) and whole["again"] == whole["loss"]
    assert torch.allclose(accumulated, gradient, rtol=1e-5)


def test_parts_of_a_detectors_batch_have_the_objects_of_their_pictures() -> None:
    objects = torch.zeros(5, 11)
    objects[:, 0], objects[:, 3] = torch.tensor([0.0, 1, 1, 3, 3]), torch.arange(5.0)
    maps = torch.arange(4.0).view(4, 1, 1, 1)
    batch = DetectorBatch(maps, maps, maps, maps[:, 0], objects)
    parts = [part for part, _ in split(batch, 2)]
    assert [part.pixels.flatten().tolist() for part in parts] == [[0, 1], [2, 3]]
    assert [part.objects[:, 0].tolist() for part in parts] == [[0, 1, 1], [1, 1]]
    assert [part.objects[:, 3].tolist() for part in parts] == [[0, 1, 2], [3, 4]]


def test_the_loss_is_told_how_far_the_run_is() -> None:
    task, recipe = Line(), RECIPE.model_copy(update={"bf16": False})
    state = State(
        task.model,
        {k: v.clone() for k, v in task.model.state_dict().items()},
        make_optimizers(task.model, recipe),
        step=750,
    )
    loop.train_step(task, state, recipe, torch.ones(4, 3))  # type: ignore[arg-type]
    assert task.seen == [0.75]


def test_a_step_by_hand() -> None:
    """The third step of a warm-up of four: the first step of AdamW with its weight decay, whose
    step is the sign of the gradient; the clipped gradient; the averaged weights."""
    task, x = Line(), torch.randn(4, 3, generator=Generator().manual_seed(1))
    fields = {"warmup": 4, "lr": 0.1, "weight_decay": 0.5, "grad_clip": 1e-3, "ema_decay": 0.25}
    recipe = RECIPE.model_copy(update={**fields, "bf16": False})
    before = {name: value.clone() for name, value in task.model.state_dict().items()}
    ema = {name: torch.full_like(value, 2.0) for name, value in before.items()}
    state = State(task.model, ema, make_optimizers(task.model, recipe), step=2)
    metrics = train_step(task, state, recipe, x)  # type: ignore[arg-type]
    error = (x @ before["weight"].T + before["bias"])[:, 0]
    gradient = {"weight": 2 * (error[:, None] * x).mean(0, keepdim=True), "bias": 2 * error.mean()}
    norm = sum(value.square().sum() for value in gradient.values()) ** 0.5
    rate = 0.1 * 3 / 4
    assert metrics["grad"] == pytest.approx(float(norm), rel=1e-5)
    assert metrics["lr"] == pytest.approx(rate)
    for name, old in before.items():
        clipped = task.model.get_parameter(name).grad
        assert clipped is not None
        assert torch.allclose(clipped, gradient[name] * 1e-3 / norm, rtol=1e-3)
        new = task.model.state_dict()[name]
        wanted = old * (1 - rate * 0.5) - rate * gradient[name].sign()
        assert torch.allclose(new, wanted, rtol=1e-3)
        # Early in a run the decay is at most (1 + step) / (10 + step), here 3 / 12.
        assert torch.allclose(ema[name], 0.25 * 2 + 0.75 * new, rtol=1e-5)


def test_muon_decays_weights_too() -> None:
    network = nn.Sequential()
    network.blocks = nn.Sequential(nn.Linear(3, 3))
    recipe = RECIPE.model_copy(update={"optimizer": "muon", "lr": 0.1, "weight_decay": 0.5})
    before = network.blocks[0].weight.detach().clone()  # type: ignore[union-attr]
    muon, _ = make_optimizers(network, recipe)
    for p in network.parameters():
        p.grad = torch.zeros_like(p)
    muon.step()
    after = network.blocks[0].weight  # type: ignore[union-attr]
    assert torch.allclose(after, before * (1 - 0.1 * 0.5), rtol=1e-5)


@pytest.mark.slow
def test_the_command_writes_the_weights_of_a_run_that_stops_early(tmp_path: Path) -> None:
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(RECIPE.model_dump(mode="json")))
    command = ["train", str(tmp_path / "tiny.yaml"), "--out", str(tmp_path / "run"), "--weights"]
    done = CliRunner().invoke(app, command)
    assert done.exit_code == 2 and done.stderr == (
        "error: --weights is for a run that stops early: write also --steps\n"
    )
    done = CliRunner().invoke(app, [*command, "--steps", "2"])
    assert done.exit_code == 0, done.stderr
    weights = tmp_path / "run" / "vae.safetensors"
    assert done.stdout.splitlines()[-1] == str(weights) and "stopped at step 2" in done.stdout
    assert provenance(weights)["samples"] == 2 * RECIPE.batch
