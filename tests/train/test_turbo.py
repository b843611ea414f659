"""Distillation to few steps: targets and loss by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Generator, Tensor, nn

from kalpana.diffusion.denoiser import Process
from kalpana.diffusion.guidance import guide
from kalpana.diffusion.mean_flow import to_next
from kalpana.diffusion.samplers import SAMPLERS, sample
from kalpana.diffusion.schedule import times
from kalpana.hub.weights import load_module, provenance, read_process, save_weights
from kalpana.models import dit, vae
from kalpana.models.dit import precision_weighted_x0
from kalpana.train.diffusion import DiffusionBatch
from kalpana.train.loop import train
from kalpana.train.task import autocast, has_bf16, noise
from kalpana.train.turbo import TurboRecipe, TurboTask, step_times
from kalpana.types import Cond, KalpanaError, Tokens

VAE = vae.Config(latent=4, fine=8, coarse=8, encoder=(1, 1), decoder=(1, 1))
DIT = dit.Config(width=32, depth=1, heads=2, text_depth=1, channels=4, fine=8)


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("weights")
    torch.manual_seed(0)
    codec, image = vae.VAE(VAE), dit.DiT(DIT)
    for parameter in [*codec.parameters(), *image.parameters()]:
        nn.init.normal_(parameter, std=0.1)
    save_weights(folder / "vae.safetensors", codec, "vae", VAE, {})
    save_weights(folder / "dit.safetensors", image, "flow", DIT, {})
    other = {"schedule": "cosine", "prediction": "v"}
    save_weights(folder / "v.safetensors", image, "flow", DIT, {}, other)
    return folder


def recipe(weights: Path, **fields: Any) -> TurboRecipe:
    settings = {"name": "c", "vae": weights / "vae.safetensors", "kind": "everything"}
    settings |= {"image_model": weights / "dit.safetensors", "num_images": 16, "batch": 16}
    settings |= {"steps": 2, "lr": 1e-3, "bf16": False, "warmup": 1}
    return TurboRecipe(**settings | fields)


def task(weights: Path, **fields: Any) -> TurboTask:
    return TurboTask(recipe(weights, **fields), torch.device("cpu"), lambda done, total: None)


def loss(made: TurboTask, progress: float = 0.0) -> tuple[float, float]:
    value, metrics = made.loss(made.batch(0), Generator().manual_seed(3), progress)
    return value.item(), metrics["error"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("fields", "progress"),
    [
        ({"same_time_share": 1.0}, 0.0),
        ({"same_time_share": 1.0, "own_share": 1.0}, 1.0),
        ({"interval": (0.999, 1.0), "guidance": (5.0, 5.0), "same_time_share": 1.0}, 0.0),
    ],
)
def test_the_student_starts_without_error_where_the_target_is_the_plain_velocity(
    weights: Path, fields: dict[str, Any], progress: float
) -> None:
    assert loss(task(weights, **{"guidance": (1.0, 1.0)} | fields), progress) == (
        pytest.approx(0, abs=1e-9),
        pytest.approx(0, abs=1e-9),
    )


@torch.no_grad()
def test_the_loss_of_guidance_is_that_computed_by_hand(weights: Path) -> None:
    """At first the student lacks (w - 1) times the difference of the teacher's two velocities."""
    fields: dict[str, Any] = {"same_time_share": 1.0, "caption_dropout": 0.0}
    made = task(weights, **fields, guidance=(3.0, 3.0), interval=(0.4, 0.8), loss_floor=0.05)
    batch, rng = made.batch(0), Generator().manual_seed(3)
    x0 = batch.x0.float()
    t, _ = step_times(16, rng, 1.0, 0.25)
    for _ in range(3):  # guidance, dropped captions, rows of the own path
        torch.rand(16, generator=rng)
    x_t = torch.lerp(x0, noise(x0, rng), t[:, None, None, None])
    cond, image = Cond(batch.tokens), made.teacher
    apart = image(x_t, t, cond) - image(x_t, t, cond.dropped())
    within = ((t > 0.4) & (t <= 0.8)).float()
    wanted = within * (2 * apart / t[:, None, None, None]).square().mean((1, 2, 3))
    assert 0 < within.sum() < 16 and wanted.max() > 1e-3
    value, error = loss(made)
    assert error == pytest.approx(wanted.mean().item(), rel=1e-4)
    assert value == pytest.approx((wanted / (wanted + 0.05)).mean().item(), rel=1e-4)


@torch.no_grad()
def test_the_target_of_a_step_is_the_teacher_first_and_then_the_student(weights: Path) -> None:
    made = task(weights)
    batch = made.batch(0)
    assert batch.tokens is not None
    x_t, t = batch.x0.float() + 1, torch.linspace(0.3, 1, 16)
    s = torch.where(torch.arange(16) % 2 == 0, t, t / 4)
    cond = Cond(batch.tokens, torch.zeros(16).bool(), guidance=torch.full((16,), 2.0))
    v, m = made._velocity(x_t, t, cond), t - 0.25 * (t - s)
    x_m = x_t - (t - m)[:, None, None, None] * v
    x0 = made.model(x_m, m, Cond(batch.tokens, until=s, guidance=cond.guidance))
    two_time = 0.25 * v + 0.75 * (x_m - x0) / m[:, None, None, None]
    wanted = torch.where((s < t)[:, None, None, None], two_time, v)
    progress = 2 / 3  # of the way from 1/2 to 1/8
    torch.testing.assert_close(
        made._target(x_t, t, s, cond, progress), wanted, rtol=1e-3, atol=1e-4
    )
    assert not torch.allclose(wanted[1::2], v[1::2])


def test_times_have_their_shares() -> None:
    t, s = step_times(20_000, Generator().manual_seed(0), 0.4, 0.25)
    same = t == s
    assert torch.all((s >= 0) & (s <= t) & (t <= 1))
    assert same.float().mean().item() == pytest.approx(0.4, abs=0.01)
    for ends in (t[~same] == 1, s[~same] == 0):
        assert ends.float().mean().item() == pytest.approx(0.25, abs=0.01)
    assert (t[same] < 1).all() and (s[same] > 0).all()


@pytest.mark.parametrize("bf16", [False, True])
def test_every_parameter_learns_and_the_teacher_does_not(bf16: bool, weights: Path) -> None:
    """Also under autocast, which remembers weights that were cast without a gradient."""
    if bf16 and not has_bf16(torch.device("cpu")):
        pytest.skip("this CPU has no bfloat16")
    made = task(weights, caption_dropout=0.5)
    nn.init.normal_(made.model.step[2].weight, std=0.1)
    with autocast(torch.device("cpu"), bf16):
        value, _ = made.loss(made.batch(0), Generator().manual_seed(0), 0.9)
    value.backward()
    for name, parameter in made.model.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), name
        assert name.startswith("words") or parameter.grad.abs().max() > 0, name
    assert all(parameter.grad is None for parameter in made.teacher.parameters())


@pytest.mark.slow
def test_the_error_falls(weights: Path) -> None:
    made = task(weights, same_time_share=1.0, own_share=0.0, guidance=(4.0, 4.0))
    optimizer, batch, errors = torch.optim.Adam(made.model.parameters(), 1e-4), made.batch(0), []
    for _ in range(60):
        value, metrics = made.loss(batch, Generator().manual_seed(0), 0.0)
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        errors.append(metrics["error"])
    assert errors[-1] < errors[0] / 2


@pytest.mark.slow
def test_a_run_is_saved_with_its_teacher_and_has_pictures(
    weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in ("flow", "diffusion"):
        monkeypatch.setattr(f"kalpana.train.{module}.HELD_OUT", 8)
    path = train(recipe(weights), tmp_path, echo=lambda line: None)
    assert path == tmp_path / "turbo_dit.safetensors"
    assert load_module(path, "turbo").step[2].weight.abs().max() > 0  # it was trained
    assert list(provenance(path)["teacher"]) == ["dit.safetensors"]
    assert read_process(path) == {"schedule": "flow", "prediction": "x0"}
    assert (tmp_path / "step-000002.png").is_file()


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("aux_weight", 0.3),
        ("schedule", "cosine"),
        ("prediction", "v"),
        ("guidance", (0.5, 3.0)),
        ("guidance", (4.0, 3.0)),
        ("interval", (0.5, 0.5)),
        ("interval", (0.0, 1.5)),
    ],
)
def test_settings_that_it_cannot_use_are_problems(weights: Path, field: str, value: Any) -> None:
    assert field in dict(recipe(weights, **{field: value}).problems())


@pytest.mark.parametrize(
    ("file", "message"),
    [
        ("vae.safetensors", "holds weights of family 'vae', not 'flow'"),
        ("v.safetensors", "field 'image_model': .* another process than x0 of flow"),
    ],
)
def test_another_teacher_is_refused(weights: Path, file: str, message: str) -> None:
    with pytest.raises(KalpanaError, match=message):
        task(weights, image_model=weights / file)


# ------------------------------------------------- Gaussian data, whose guided paths are known

MEANS = 0.6, 0.2  # of data with the caption and without
SD = 0.5


def guided_mean(guidance: Tensor) -> Tensor:
    """Mean of the Gaussian whose paths those of the guided teacher are: its estimate of x0 is
    affine in the mean."""
    return MEANS[1] + guidance * (MEANS[0] - MEANS[1])


def deviation(t: Tensor) -> Tensor:
    return ((1 - t) ** 2 * SD**2 + t**2).sqrt()


class Exact(nn.Module):
    """Ideal denoiser of N(mean, SD^2), with the mean of the caption or, in null rows, without."""

    def forward(self, x_t: Tensor, t: Tensor, cond: Cond) -> Tensor:
        assert cond.null is not None
        mean = torch.where(cond.null, MEANS[1], MEANS[0])[:, None, None, None]
        a = (1 - t)[:, None, None, None]
        return mean + a * SD**2 / deviation(t)[:, None, None, None] ** 2 * (x_t - a * mean)


class Pixelwise(nn.Module):
    """Two-time student: a small network of each number, its times and the guidance."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(4, 64), nn.SiLU(), nn.Linear(64, 64), nn.SiLU(), nn.Linear(64, 1)
        )

    def forward(self, x_t: Tensor, t: Tensor, cond: Cond) -> Tensor:
        assert cond.until is not None and cond.guidance is not None
        rows = torch.stack((t, t - cond.until.expand_as(t), cond.guidance.expand_as(t)), 1)
        spread = rows[:, :, None, None].expand(-1, -1, *x_t.shape[2:])
        guess = self.layers(torch.cat((x_t, spread), 1).movedim(1, -1)).movedim(-1, 1)
        return precision_weighted_x0(guess, x_t, t)


def student(steps: int) -> tuple[TurboTask, list[tuple[float, float]]]:
    """A task with the exact teacher, and its student after some steps; (loss, error) of each."""
    torch.manual_seed(0)
    task = object.__new__(TurboTask)
    task.recipe = TurboRecipe(
        name="g", vae=Path("-"), image_model=Path("-"), steps=1, batch=1, lr=1e-3,
        guidance=(1.0, 3.0), interval=(0.0, 1.0), caption_dropout=0.0,
    )  # fmt: skip
    task.device, task.model, task.teacher = torch.device("cpu"), Pixelwise(), Exact()
    tokens = Tokens(torch.zeros(64, 1, dtype=torch.long), torch.ones(64, 1, dtype=torch.bool))
    optimizer, seen = torch.optim.Adam(task.model.parameters(), 3e-3), []
    decay = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, max(steps, 1))
    for step in range(steps):
        rng = Generator().manual_seed(step)
        x0 = MEANS[0] + SD * torch.randn(64, 1, 4, 4, generator=rng)
        value, metrics = task.loss(DiffusionBatch(x0, tokens), rng, step / steps)
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        decay.step()
        seen.append((value.item(), metrics["error"]))
    return task, seen


@torch.no_grad()
def missed(task: TurboTask, steps: int, guidance: float) -> float:
    """Root mean square distance of the student's samples from the exact ends of their paths."""
    x = torch.randn(256, 1, 4, 4, generator=Generator().manual_seed(1))
    cond = Cond(guidance=torch.tensor([guidance]))
    denoise = guide(Process("flow", "x0").denoiser(to_next(task.model, times(steps))), cond)
    *_, last = sample(denoise, x, times(steps), SAMPLERS["euler"])
    exact = guided_mean(torch.tensor(guidance)) + SD * x
    return float((last.x - exact).square().mean().sqrt())


@pytest.mark.slow
def test_the_student_learns_the_exact_mean_velocity_of_gaussian_data() -> None:
    """Any number of steps reaches the ends of the exact paths, for every guidance; a wrong sign, or
    another order of the times, would lead elsewhere."""
    task, seen = student(1000)
    for guidance in (1.0, 2.0, 3.0):
        for steps in (1, 2, 4, 8):
            assert missed(task, steps, guidance) < 0.15, (steps, guidance)
    start, end = (sum(error for _, error in seen[k : k + 50]) / 50 for k in (0, 950))
    assert end < start / 20
