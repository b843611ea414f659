"""The training loop: exact resume, atomic checkpoints, clear errors, and learning."""

from __future__ import annotations

import math
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from kalpana.hub.weights import load_module, read_weights
from kalpana.metrics import psnr
from kalpana.train import checkpoint, data_cache
from kalpana.train.autoencoder import AutoencoderRecipe, AutoencoderTask
from kalpana.train.data_cache import silent
from kalpana.train.detector import DetectorRecipe
from kalpana.train.diffusion import DiffusionBatch, noise_times
from kalpana.train.flow import FlowRecipe, FlowTask
from kalpana.train.loop import batches, make_optimizers, schedule, split, train
from kalpana.train.patch_labels import sizes
from kalpana.train.reader import ReaderRecipe
from kalpana.train.recipe import read_recipe, recipes_dir, trained_families
from kalpana.train.task import autocast, layout_error
from kalpana.train.vqgan import VQGANRecipe
from kalpana.types import KalpanaError, Tokens
from kalpana.world.world import World, kind_of

TINY_VAE = {"latent": 4, "fine": 8, "coarse": 8, "encoder": (1, 1), "decoder": (1, 1)}
COMMON: dict[str, Any] = {
    "name": "tiny", "num_images": 8, "steps": 10, "batch": 4, "lr": 2e-3, "warmup": 2,
    "log_every": 5, "sample_every": 100,
}  # fmt: skip
VAE_RECIPE = AutoencoderRecipe(**COMMON, model=TINY_VAE)
DETECTOR_RECIPE = DetectorRecipe(
    **COMMON | {"num_images": 100, "batch": 3},
    model={"fine": 8, "coarse": 8, "deep": 8, "depth": (1, 1, 1, 1), "embedding": 4},
)
VQGAN_RECIPE = VQGANRecipe(
    **COMMON | {"batch": 2},
    model={"widths": (8, 8), "depth": 1, "groups": 4, "latent": 8, "codebook": (32, 4)},
    perceptual_net=Path("weights/verifier-a/detector.safetensors"),
    gan_start=0.3,
)
READER_RECIPE = ReaderRecipe(
    **COMMON | {"num_images": 100, "batch": 3}, model={"width": 8, "hidden": 8}
)

COMPILER = pytest.mark.skipif(
    shutil.which("g++") is None,
    reason="torch.compile needs a C++ compiler, g++, and there is none here",
)


def quiet(line: str) -> None:
    pass


@pytest.fixture(scope="module")
def vae(tmp_path_factory: pytest.TempPathFactory) -> Path:
    weights = train(VAE_RECIPE, tmp_path_factory.mktemp("vae"), echo=quiet)
    assert weights is not None
    return weights


def flow_recipe(vae: Path, **fields: Any) -> FlowRecipe:
    model = {"width": 32, "depth": 2, "heads": 2, "text_depth": 1, "fine": 8}
    return FlowRecipe(**{**COMMON, "model": model, "vae": vae, "optimizer": "muon", **fields})


@pytest.mark.filterwarnings(  # torch's own, while it compiles
    "ignore::DeprecationWarning", "ignore:The .grad attribute:UserWarning"
)
@pytest.mark.slow
@pytest.mark.parametrize(
    ("family", "compiled"),
    [
        ("vae", False),
        ("vqgan", False),
        ("flow", False),
        ("detector", False),
        ("reader", False),
        pytest.param("flow", True, marks=COMPILER, id="flow-compiled"),
    ],
)
def test_five_and_five_steps_equal_ten_bit_for_bit(
    family: str, compiled: bool, vae: Path, tmp_path: Path
) -> None:
    recipes = {
        "vae": VAE_RECIPE,
        "vqgan": VQGAN_RECIPE,
        "detector": DETECTOR_RECIPE,
        "reader": READER_RECIPE,
    }
    recipe = (recipes.get(family) or flow_recipe(vae, aux_weight=0.3)).model_copy(
        update={"compile": compiled}
    )
    whole = train(recipe, tmp_path / "whole", echo=quiet)
    early = train(recipe, tmp_path / "parts", until=5, echo=quiet, weights=True)
    assert early is not None, "the weights of a run that goes on"
    assert read_weights(early, recipe.family).provenance["samples"] == 5 * recipe.batch
    before = early.read_bytes()
    parts = train(recipe, tmp_path / "parts", echo=quiet)
    assert whole is not None and parts is not None and parts.read_bytes() != before
    for file in ("checkpoint.safetensors", whole.name):
        one, two = (safetensors_of(tmp_path / run / file) for run in ("whole", "parts"))
        assert one.keys() == two.keys()
        for name in one:
            assert torch.equal(one[name], two[name]), f"{name} in {file}"


def safetensors_of(path: Path) -> dict[str, torch.Tensor]:
    from safetensors.torch import load_file

    return load_file(path)


def test_weights_carry_config_and_provenance(vae: Path) -> None:
    weights = read_weights(vae, "vae")
    assert weights.config == TINY_VAE
    assert weights.provenance["samples"] == 40
    assert weights.provenance["recipe"]["lr"] == 2e-3
    assert set(weights.provenance["scores"]) == {"dev_psnr", "dev_psnr_noise_0.1"}
    net = load_module(vae, "vae")
    assert net.preview_weight.abs().sum() > 0


@pytest.mark.slow
def test_a_run_can_start_from_the_weights_of_another(vae: Path, tmp_path: Path) -> None:
    """With a learning rate near 0 the weights stay equal; only batch-norm statistics change."""
    again = train(
        VAE_RECIPE.model_copy(update={"init": vae, "lr": 1e-12, "steps": 1}), tmp_path, echo=quiet
    )
    assert again is not None
    before, after = (read_weights(path, "vae").tensors for path in (vae, again))
    assert all(
        torch.equal(before[name], after[name])
        for name in before
        if name.endswith("weight") and "preview" not in name
    )


def test_an_anchor_costs_the_square_of_how_far_the_latents_have_moved(
    vae: Path, tmp_path: Path
) -> None:
    """It costs nothing on the weights of ``init``; a recipe without ``init`` is refused."""
    recipe = VAE_RECIPE.model_copy(update={"init": vae, "posterior_std": 0.0})
    free, held = (
        AutoencoderTask(
            recipe.model_copy(update={"latent_anchor_weight": anchor}), torch.device("cpu"), silent
        )
        for anchor in (0.0, 3.0)
    )
    batch, rng = held.batch(0), torch.Generator()
    for task in (free, held):
        task.model.load_state_dict(read_weights(vae, "vae").tensors)
        task.model.eval()
    assert held.loss(batch, rng, 0.0)[0].item() == pytest.approx(
        free.loss(batch, rng, 0.0)[0].item(), rel=1e-6
    )
    for task in (free, held):
        # Every latent falls by a half.
        task.model.norm.running_mean += 0.5 * task.model.norm.running_var.sqrt()
    loss, metrics = held.loss(batch, rng, 0.0)
    assert metrics["apart"] == pytest.approx(0.25, rel=1e-3)
    assert loss.item() == pytest.approx(free.loss(batch, rng, 0.0)[0].item() + 3 * 0.25, rel=1e-3)
    path = tmp_path / "recipe.yaml"
    path.write_text(
        "name: v\nfamily: vae\nlatent_anchor_weight: 1\nsteps: 1\nbatch: 1\nlr: 1.0e-3\n"
    )
    with pytest.raises(KalpanaError, match="'latent_anchor_weight'"):
        read_recipe(path)


@pytest.mark.slow
def test_a_pool_drawn_by_several_processes_is_that_drawn_by_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn = []
    for name, alone in (("one", 1000), ("several", 1)):
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / name))
        monkeypatch.setattr(data_cache, "ALONE", alone)
        drawn.append(data_cache.pictures(World(2), 150))
    assert (
        drawn[0].shape == (150, 3, 128, 128)
        and (drawn[0] == drawn[1]).all()
        and drawn[0].std() > 10
    )


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2])
def test_batches_made_ahead_by_other_processes_are_those_made_when_asked_for(
    workers: int, vae: Path
) -> None:
    """In the same order, for any first and last step; the global random state stays the same."""
    task = FlowTask(flow_recipe(vae, aux_weight=0.3, num_images=40), torch.device("cpu"), silent)
    steps, before = range(3, 21), torch.get_rng_state()
    ahead = list(batches(task, steps, workers))
    assert torch.equal(torch.get_rng_state(), before) and len(ahead) == len(steps)
    for step, batch in zip(steps, ahead, strict=True):
        asked = task.batch(step)
        for name in ("x0", "layout"):
            assert torch.equal(getattr(batch, name), getattr(asked, name))
        assert torch.equal(batch.tokens.ids, asked.tokens.ids) and torch.equal(
            batch.tokens.mask, asked.tokens.mask
        )


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device here")
@pytest.mark.parametrize("family", ["vae", "vqgan", "flow", "detector", "reader"])
def test_a_gpu_learns_what_a_cpu_learns(family: str, vae: Path, tmp_path: Path) -> None:
    """Not bit for bit, since a GPU has its own noise, but with similar held-out scores."""
    recipes = {
        "vae": VAE_RECIPE,
        "vqgan": VQGAN_RECIPE,
        "detector": DETECTOR_RECIPE,
        "reader": READER_RECIPE,
    }
    recipe, found = recipes.get(family) or flow_recipe(vae, aux_weight=0.3), {}
    for device in ("cpu", "cuda"):
        weights = train(recipe, tmp_path / device, device=device, echo=quiet)
        assert weights is not None
        found[device] = read_weights(weights, family).provenance["scores"]
    assert found["cuda"] == pytest.approx(found["cpu"], rel=0.2, abs=0.05)


def test_bfloat16_is_left_alone_where_the_hardware_has_none(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    layer, x = torch.nn.Linear(4, 4), torch.randn(2, 4)
    for has, wanted, dtype in (
        (True, True, torch.bfloat16),
        (True, False, torch.float32),
        (False, True, torch.float32),
    ):
        monkeypatch.setattr("kalpana.train.task.has_bf16", lambda device, has=has: has)
        with autocast(torch.device("cpu"), wanted):
            assert layer(x).dtype == dtype


@pytest.mark.slow
def test_it_learns(vae: Path, tmp_path: Path) -> None:
    """Eight pictures and their captions are memorised: the loss falls by 40 % in a few seconds."""
    lines: list[str] = []
    train(
        flow_recipe(vae, steps=120, lr=5e-3, caption_dropout=0.0, bf16=False, log_every=10),
        tmp_path,
        echo=lines.append,
    )
    losses = [float(line.split("loss ")[1].split()[0]) for line in lines if "  loss " in line]
    assert sum(losses[-3:]) < 0.6 * losses[0] * 3


@pytest.mark.slow
def test_a_kill_in_the_middle_of_a_save_leaves_the_checkpoint_before(tmp_path: Path) -> None:
    """A process that saves in a loop is killed by SIGKILL: its checkpoint always loads."""
    path, recipe = str(tmp_path / "c.safetensors"), VAE_RECIPE.model_dump_json()
    code = f"""
import json, torch
from pathlib import Path
from kalpana.train import checkpoint
from kalpana.train.recipe import saved_recipe
net = torch.nn.Linear(1500, 1500)
state = checkpoint.State(net, {{k: v.clone() for k, v in net.state_dict().items()}}, [])
print("ready", flush=True)
while True:
    state.step += 1
    for p in net.parameters(): torch.nn.init.constant_(p, state.step)
    checkpoint.save(Path({path!r}), state, saved_recipe(json.loads({recipe!r})))
    print(state.step, flush=True)
"""
    net = torch.nn.Linear(1500, 1500)
    for after in (1, 3, 4):
        with subprocess.Popen(
            [sys.executable, "-c", code], stdout=subprocess.PIPE, text=True
        ) as process:
            assert process.stdout is not None
            for _ in range(after + 1):
                process.stdout.readline()
            os.kill(process.pid, signal.SIGKILL)  # during the next save
        state = checkpoint.State(
            net, {name: value.clone() for name, value in net.state_dict().items()}, []
        )
        checkpoint.load(tmp_path / "c.safetensors", state, VAE_RECIPE)
        assert state.step >= after
        assert (net.weight == state.step).all() and (net.bias == state.step).all()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "workers", "code"),
    [
        (signal.SIGINT, 0, 130),
        (signal.SIGINT, 2, 130),
        (signal.SIGTERM, 2, 0),
        (signal.SIGHUP, 2, 0),
    ],
)
def test_a_signal_to_all_its_processes_saves_and_leaves(
    kind: signal.Signals, workers: int, code: int, tmp_path: Path
) -> None:
    recipe, run = tmp_path / "r.yaml", tmp_path / "run"
    fields = {**VAE_RECIPE.model_dump(mode="json"), "steps": 100000, "log_every": 1}
    recipe.write_text(yaml.safe_dump(fields), encoding="utf-8")
    command = ["-m", "kalpana", "train", recipe, "--out", run, "--workers", str(workers)]
    with subprocess.Popen(
        [sys.executable, *command],
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    ) as process:
        assert process.stdout is not None
        assert any("loss" in line for line in process.stdout), "it ended before its first step"
        os.killpg(process.pid, kind)
        rest = process.stdout.read()
    assert process.returncode == code
    assert "goes on from here" in rest
    assert (run / "checkpoint.safetensors").exists()


def test_broken_and_foreign_checkpoints_are_clear_errors(tmp_path: Path) -> None:
    train(VAE_RECIPE, tmp_path, until=2, echo=quiet)
    file = tmp_path / "checkpoint.safetensors"
    whole = file.read_bytes()
    file.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(KalpanaError, match="broken"):
        train(VAE_RECIPE, tmp_path, echo=quiet)
    file.write_bytes(whole)
    with pytest.raises(KalpanaError, match="differs in lr"):
        train(VAE_RECIPE.model_copy(update={"lr": 1.0}), tmp_path, echo=quiet)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "name: x\nfamily: vae\nnum_images: 8\nsteps: 1\nbatch: 1\nlr: 1\nbath: 3",
            "line 7: field 'bath': unknown field: did you mean 'batch'",
        ),
        ("name: x\nfamily: vae\nnum_images: 8\nsteps: many\nbatch: 1\nlr: 1", "field 'steps'"),
        ("name: x\nfamily: gan\nnum_images: 8\nsteps: 1\nbatch: 1\nlr: 1", "field 'family'"),
        ("name: x\nfamily: flow\nnum_images: 8\nsteps: 1\nbatch: 1\nlr: 1", "field 'vae'"),
        (
            "name: x\nfamily: vae\nnum_images: 8\nsteps: 1\nbatch: 1\nlr: 1\nkind: ghosts",
            "'kind'.*ghosts.*is not one of objects",
        ),
        ("name: [x", "not YAML"),
        ("", "no fields"),
    ],
)
def test_recipe_errors_name_the_field(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "r.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(KalpanaError, match=message) as error:
        read_recipe(path)
    assert "\n" not in str(error.value)


def test_an_unknown_model_field_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(KalpanaError, match=r"model\.depht"):
        train(VAE_RECIPE.model_copy(update={"model": {"depht": 3}}), tmp_path, echo=quiet)


def test_shipped_recipes_are_valid_and_every_family_has_one() -> None:
    shipped = [read_recipe(path) for path in recipes_dir().glob("*.yaml")]
    assert {recipe.family for recipe in shipped} == set(trained_families())


@pytest.mark.slow
def test_a_flow_learns_from_every_kind_where_the_recipe_says_so(vae: Path) -> None:
    task = FlowTask(
        flow_recipe(vae, num_images=64, kind="everything", aux_weight=0.3),
        torch.device("cpu"),
        silent,
    )
    assert {kind_of(task.data.world.scene(i)) for i in range(256)} > {"objects", "hands", "text"}
    batch = task.batch(2)
    loss, _ = task.loss(batch, torch.Generator().manual_seed(0), 0.0)
    assert loss.isfinite() and batch.layout is not None and batch.layout.shape[1] == 4


def test_batches_do_not_depend_on_what_was_asked_before(vae: Path) -> None:
    one, two = (FlowTask(flow_recipe(vae), torch.device("cpu"), silent) for _ in range(2))
    one.batch(3), one.batch(9)
    a, b = one.batch(5), two.batch(5)
    assert torch.equal(a.x0, b.x0) and torch.equal(a.tokens.ids, b.tokens.ids)


def test_a_round_shows_every_picture_once_and_captions_match(vae: Path) -> None:
    task = FlowTask(flow_recipe(vae, num_images=64, batch=4), torch.device("cpu"), silent)
    shown = [pair for step in range(16) for pair in task.data.captions(step)]
    assert sorted(i for i, _ in shown) == list(range(64))
    assert all(words == task.data.world.describe(i, 0)[0] for i, words in shown)


def test_the_layouts_error_is_that_of_its_parts() -> None:
    """Equal logits cost log(classes) + log(colours) and half the mean offset error; correct and
    confident ones cost nothing."""
    kinds, colors = sizes()
    truth = torch.zeros(2, 4, 2, 2)
    truth[0, 0, 0, 1], truth[0, 1, 0, 1], truth[0, 2, 0, 1], truth[0, 3, 0, 1] = 7, 3, 1.5, -0.5
    uniform = layout_error(torch.zeros(2, 4, kinds + colors + 2), truth)
    assert torch.allclose(
        uniform, math.log(kinds) + math.log(colors) + torch.tensor([0.5, 0.0]), atol=1e-5
    )
    logits = torch.zeros(2, 4, kinds + colors + 2)
    logits[..., 0] = logits[..., kinds] = 50
    logits[0, 1, [0, kinds]], logits[0, 1, [7, kinds + 3]] = 0, 50
    logits[0, 1, -2:] = torch.tensor([1.5, -0.5])
    assert torch.allclose(layout_error(logits, truth), torch.zeros(2), atol=1e-5)


@pytest.mark.slow
def test_a_patch_said_aside_starts_afresh_on_weights_without_one(vae: Path, tmp_path: Path) -> None:
    lines: list[str] = []
    first = train(flow_recipe(vae, steps=1), tmp_path / "first", echo=quiet)
    again = train(
        flow_recipe(vae, steps=1, init=first, aux_weight=0.3, lr=1e-12),
        tmp_path / "second",
        echo=lines.append,
    )
    assert first is not None and again is not None
    assert any("aux_head.bias, aux_head.weight start afresh" in line for line in lines)
    third = train(
        flow_recipe(vae, steps=1, init=again, lr=1e-12), tmp_path / "third", echo=lines.append
    )
    assert third is not None
    assert any(
        "aux_head.bias, aux_head.weight of" in line and "are left out" in line for line in lines
    )
    assert not any("aux_head" in name for name in read_weights(third, "flow").tensors)
    before, after = (read_weights(path, "flow") for path in (first, again))
    assert all(
        torch.allclose(after.tensors[name], value, atol=1e-6)
        for name, value in before.tensors.items()
    )
    assert after.provenance["init"] == before.provenance


def test_accumulated_parts_cover_the_batch() -> None:
    tokens = Tokens(torch.arange(16).view(8, 2), torch.ones(8, 2, dtype=torch.bool))
    batch = DiffusionBatch(torch.arange(8.0).view(8, 1, 1, 1), tokens)
    parts, shares = zip(*split(batch, 4), strict=True)
    assert shares == (0.25,) * 4 and all(part.layout is None for part in parts)
    assert torch.equal(torch.cat([p.x0 for p in parts]), batch.x0)
    assert torch.equal(torch.cat([p.tokens.ids for p in parts]), batch.tokens.ids)


def test_the_gradient_of_four_parts_is_that_of_the_whole_batch() -> None:
    x = torch.randn(8, 3)
    net = torch.nn.Linear(3, 1)
    net(x).square().mean().backward()
    assert net.weight.grad is not None
    whole = net.weight.grad.clone()
    net.zero_grad()
    for part, share in split(x, 4):
        (share * net(part).square().mean()).backward()
    assert torch.allclose(net.weight.grad, whole, atol=1e-6)


def test_the_rate_rises_stays_and_falls_to_nothing() -> None:
    recipe = VAE_RECIPE.model_copy(update={"steps": 1000, "warmup": 100, "lr_decay_share": 0.4})
    rates = [schedule(step, recipe) for step in range(1000)]
    assert rates[0] == 0.01 and rates[99:600] == [1.0] * 501
    assert rates[800] == pytest.approx(0.5) and rates[-1] == pytest.approx(1 / 400)


def test_muon_takes_the_matrices_inside_blocks_and_adamw_the_rest(vae: Path) -> None:
    model = FlowTask(flow_recipe(vae), torch.device("cpu"), silent).model
    muon, adamw = make_optimizers(model, flow_recipe(vae))
    inside = {id(p) for group in muon.param_groups for p in group["params"]}
    outside = {id(p) for group in adamw.param_groups for p in group["params"]}
    assert inside | outside == {id(p) for p in model.parameters()} and not inside & outside
    assert inside == {
        id(p)
        for name, p in model.named_parameters()
        if p.ndim == 2 and "offset" not in name and name.startswith(("text", "blocks"))
    }


def test_times_lean_to_noise_as_said() -> None:
    t = noise_times(200_000, torch.Generator().manual_seed(0))
    low, middle, high = t.quantile(torch.tensor([0.25, 0.5, 0.75])).tolist()
    assert (round(low, 2), round(middle, 2), round(high, 2)) == (0.53, 0.69, 0.81)


def test_psnr_of_a_known_error() -> None:
    assert psnr(0.04) == pytest.approx(20.0)
