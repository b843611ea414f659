"""Text-to-image: the stream, the seeds, the receipts, and the warnings about a prompt."""

from __future__ import annotations

import hashlib
import json
import random
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

import kalpana
from kalpana.diffusion.denoiser import Denoise
from kalpana.diffusion.samplers import SAMPLERS, sample, step_noise
from kalpana.diffusion.schedule import SPACINGS
from kalpana.hub.card import write_hashes
from kalpana.hub.weights import load_module, save_weights
from kalpana.media import to_images, to_pixels
from kalpana.pipelines import load
from kalpana.pipelines.diffusion import DiffusionPipeline, noise
from kalpana.pipelines.pipeline import TOGETHER
from kalpana.pipelines.replay import again
from kalpana.request import Request
from kalpana.types import Cond, KalpanaError, Output, Result, Step

PROMPT = "नीली कार के बाईं ओर तीन लाल सेब"


def result(model: DiffusionPipeline, **fields: Any) -> Result:
    *_, last = model.generate(PROMPT, **fields)
    assert last.result is not None
    return last.result


def pixels(picture: Output) -> np.ndarray:
    return np.asarray(picture.image).astype(int)


def same(a: Output, b: Output) -> bool:
    """Equal up to 1 of 255: a processor may round an 8-bit value the other way, see
    text_to_image."""
    return (
        a.seed == b.seed
        and a.image.size == b.image.size
        and int(np.abs(pixels(a) - pixels(b)).max()) <= 1
    )


def test_a_stream_counts_its_steps_and_ends_in_a_result(
    model: DiffusionPipeline, second_a_step: None
) -> None:
    steps = list(model.generate(PROMPT, n=TOGETHER + 1, seed=0, steps=3))
    assert [step.index for step in steps] == list(range(1, 9)) and {
        step.total for step in steps
    } == {8}
    assert [step.stage for step in steps] == 2 * [*3 * ["denoise"], "decode"]
    assert [step.result is not None for step in steps] == [*7 * [False], True]
    assert [step.eta for step in steps] == [step.total - step.index for step in steps]
    for step in steps[:-1]:
        assert step.preview is not None and step.preview.abs().max() <= 1
        assert step.preview.shape == (TOGETHER if step.index <= 4 else 1, 3, 4, 4)
    assert steps[-1].result is not None and [
        picture.seed for picture in steps[-1].result.outputs
    ] == list(range(TOGETHER + 1))


def test_a_preview_shows_the_estimate_and_not_the_noise(model: DiffusionPipeline) -> None:
    """With one Euler step the estimate is the final latent, which is also decoded."""
    only, last = model.generate(PROMPT, seed=0, steps=1, sampler="euler")
    assert only.preview is not None and last.result is not None
    of_noise = model.codec.preview(noise([0], (16, 4, 4)))
    x0 = latents_of(model, seed=0)
    torch.testing.assert_close(only.preview, model.codec.preview(x0))
    assert not torch.allclose(only.preview, of_noise, atol=0.05)
    assert torch.equal(
        to_pixels([last.result.outputs[0].image]), to_pixels([to_images(model.codec.decode(x0))[0]])
    )


def latents_of(model: DiffusionPipeline, seed: int) -> Tensor:
    """Reference latents of one step from the noise of a seed, by the formula of guidance, without
    sampler, denoiser or wrapper."""
    x, t = noise([seed], (16, 4, 4)), torch.ones(1)
    scale = model.capabilities.defaults.guidance
    x0, x0_null = (
        model.network(x, t, Cond(model.words.encode([PROMPT]))),
        model.network(x, t, Cond()),
    )
    return x0_null + scale * (x0 - x0_null)


def test_a_picture_is_the_same_alone_in_a_batch_and_in_another_order(
    model: DiffusionPipeline,
) -> None:
    batch = result(model, seed=100, n=8).outputs
    assert len({picture.image.tobytes() for picture in batch}) == 8
    for i, picture in enumerate(batch):
        assert same(picture, result(model, seed=100 + i).outputs[0])
    assert all(
        same(a, b)
        for a, b in zip(
            batch, reversed(result(model, seeds=tuple(range(107, 99, -1))).outputs), strict=True
        )
    )
    assert all(
        same(a, b) for a, b in zip(batch, result(model, seed=98, n=13).outputs[2:10], strict=True)
    )


@pytest.mark.slow
def test_a_batch_is_the_same_split_over_two_processes(
    model: DiffusionPipeline, folder: Path, tmp_path: Path
) -> None:
    code = """
import sys, kalpana
result = kalpana.generate(sys.argv[1], model=sys.argv[2], seed=int(sys.argv[3]), n=4)
for picture in result.outputs:
    picture.image.save(f"{picture.seed}.png")
"""
    halves = [
        subprocess.Popen([sys.executable, "-c", code, PROMPT, str(folder), str(seed)], cwd=tmp_path)
        for seed in (100, 104)
    ]
    assert [half.wait() for half in halves] == [0, 0]
    for picture in result(model, seed=100, n=8).outputs:
        with Image.open(tmp_path / f"{picture.seed}.png") as other:
            assert np.abs(np.asarray(other).astype(int) - pixels(picture)).max() <= 1


def test_noise_is_that_of_the_seed_alone() -> None:
    shape = (16, 4, 4)
    batch = noise([5, 0, 2**63 - 1], shape)
    assert all(
        torch.equal(batch[i], noise([seed], shape)[0]) for i, seed in enumerate([5, 0, 2**63 - 1])
    )
    assert (
        abs(noise(range(200), shape).mean()) < 0.02
        and abs(noise(range(200), shape).std() - 1) < 0.02
    )


def test_the_same_request_gives_the_same_bytes_whatever_was_drawn_before(
    model: DiffusionPipeline,
) -> None:
    first = result(model, seed=3, n=2)
    result(model, seed=9, guidance=1)
    torch.manual_seed(99)
    assert [p.image.tobytes() for p in result(model, seed=3, n=2).outputs] == [
        p.image.tobytes() for p in first.outputs
    ]


def test_drawing_changes_nothing_around_it(model: DiffusionPipeline) -> None:
    request = Request(prompt=PROMPT, seed=1, n=2)
    before = request.model_copy(deep=True)
    weights = {k: v.clone() for k, v in model.network.state_dict().items()}
    states = torch.get_rng_state(), random.getstate()
    for _ in model.generate(request):
        # Between steps, the caller's autograd modes are unchanged.
        assert torch.is_grad_enabled() and not torch.is_inference_mode_enabled()
    assert (
        request == before
        and random.getstate() == states[1]
        and torch.equal(torch.get_rng_state(), states[0])
    )
    assert all(torch.equal(v, weights[k]) for k, v in model.network.state_dict().items())


def test_closing_the_stream_cancels(model: DiffusionPipeline) -> None:
    calls: list[int] = []
    counter = model.network.register_forward_hook(lambda *_: calls.append(1))
    stream = model.generate(PROMPT, seed=1, steps=50)
    next(stream), next(stream)
    stream.close()  # type: ignore[attr-defined]
    counter.remove()
    assert len(calls) == 2 and list(stream) == [] and torch.is_grad_enabled()


@pytest.mark.parametrize(
    ("fields", "size"),
    [
        ({"guidance": 1}, (32, 32)),
        ({"guidance": 0}, (32, 32)),
        ({"steps": 2}, (32, 32)),
        ({"size": "64x32"}, (64, 32)),
        ({"upscale": 2}, (64, 64)),
    ],
)
def test_every_setting_draws_another_picture(
    model: DiffusionPipeline, fields: dict[str, Any], size: tuple[int, int]
) -> None:
    usual = {"seed": 2, "steps": 3, "guidance": 4}
    (picture,) = result(model, **usual | fields).outputs
    (other,) = result(model, **usual).outputs
    assert (picture.image.size, other.image.size) == (size, (32, 32))
    assert picture.image.mode == "RGB" and pixels(picture).std() > 1
    assert picture.image.tobytes() != other.image.tobytes()


def by_hand(
    model: DiffusionPipeline, sampler: str, shift: float, low: float, high: float
) -> np.ndarray:
    """The picture of seed 2 in four steps with guidance 5, as (height, width, 3) levels."""
    x = torch.randn(1, *model.codec.shape(32, 32), generator=torch.Generator().manual_seed(2))
    tokens = model.words.encode([PROMPT])
    text, null = Cond(tokens=tokens), Cond(tokens=tokens, null=torch.tensor([True]))
    network = model.process.denoiser(model.network)

    def estimate(x_t: Tensor, t: Tensor) -> Tensor:
        x0 = network(x_t, t, text)
        if not low < float(t) <= high:
            return x0
        other = network(x_t, t, null)
        return other + 5 * (x0 - other)

    even = np.arange(4, -1, -1) / 4
    timesteps = (shift * even / (1 + (shift - 1) * even)).tolist()
    denoise = Denoise(model.process.levels, estimate)
    for state in sample(denoise, x, timesteps, SAMPLERS[sampler], step_noise([2])):
        x = state.x
    return (model.codec.decode(x)[0].permute(1, 2, 0).clamp(-1, 1) * 127.5 + 127.5).numpy()


@torch.no_grad()
@pytest.mark.parametrize(
    ("sampler", "shift", "low", "high"),
    [
        *((name, 1.0, 0.0, 1.0) for name in SAMPLERS),
        ("euler", 3.0, 0.0, 1.0),
        ("euler", 1.0, 0.8, 1.0),
        ("euler", 1.0, 0.0, 0.8),
    ],
)
def test_sampler_shift_and_interval_of_guidance_are_those_that_are_asked_for(
    model: DiffusionPipeline, sampler: str, shift: float, low: float, high: float
) -> None:
    able = model.capabilities
    defaults = able.defaults.model_copy(update={"shift": shift, "interval": (low, high)})
    changed = replace(model, capabilities=able.model_copy(update={"defaults": defaults}))
    fields = {"sampler": sampler, "seed": 2, "steps": 4, "guidance": 5}
    (picture,) = result(changed, **fields).outputs
    assert np.abs(pixels(picture) - by_hand(model, sampler, shift, low, high)).max() < 1.5
    (usual,) = result(model, **fields | {"sampler": "euler"}).outputs
    twin = "ddim" if (shift, low, high) == (1, 0, 1) else ""  # deterministic, it is euler
    assert same(picture, usual) == (sampler in (twin, "euler") and bool(twin))


@pytest.mark.parametrize(
    ("fields", "usual"),
    [
        ({"sampler": "ddim", "eta": 0.5}, {"sampler": "ddim"}),
        ({"sampler": "ddim", "eta": 1}, {"sampler": "ddim", "eta": 0.5}),
        ({"sampler": "euler-a", "eta": 0.5}, {"sampler": "euler-a"}),
        ({"sampler": "dpm2-a", "eta": 0.5}, {"sampler": "dpm2-a"}),
        ({"sampler": "dpmpp-sde", "eta": 0.5}, {"sampler": "dpmpp-sde"}),
        ({"sampler": "dpmpp-2m-sde", "eta": 0.5}, {"sampler": "dpmpp-2m-sde"}),
        *(({"spacing": name}, {}) for name in SPACINGS if name != "uniform"),
        ({"guidance_rescale": 0.7}, {}),
        ({"guidance_rescale": 0.7}, {"guidance_rescale": 0.3}),
    ],
)
def test_settings_of_the_sampling_change_the_picture_and_are_in_the_receipt(
    model: DiffusionPipeline, fields: dict[str, Any], usual: dict[str, Any]
) -> None:
    (picture,) = result(model, seed=2, guidance=4, **fields).outputs
    (other,) = result(model, seed=2, guidance=4, **usual).outputs
    assert not same(picture, other)
    assert {name: picture.receipt["resolved"][name] for name in fields} == fields


@pytest.mark.slow
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_a_picture_in_a_batch_is_the_picture_alone_by_every_sampler(
    model: DiffusionPipeline, sampler: str
) -> None:
    together = result(model, seeds=(7, 3, 9), sampler=sampler).outputs
    alone = [result(model, seed=seed, sampler=sampler).outputs[0] for seed in (7, 3, 9)]
    assert all(same(one, other) for one, other in zip(together, alone, strict=True))


def test_a_negative_prompt_is_what_guidance_leads_away_from(model: DiffusionPipeline) -> None:
    """With the prompt itself as negative prompt, guidance has no effect."""
    (cancelled,) = result(model, seed=2, guidance=5, negative_prompt=PROMPT).outputs
    (plain,) = result(model, seed=2, guidance=1).outputs
    assert same(cancelled, plain)
    assert not same(
        result(model, seed=2, guidance=5, negative_prompt="a blue car").outputs[0], plain
    )


def test_a_weaker_model_is_what_guidance_leads_away_from(
    model: DiffusionPipeline, folder: Path, tmp_path: Path
) -> None:
    """Guided by itself, a model is as without guidance; by another one, its picture differs, and
    the receipt holds both."""
    (plain,) = result(model, seed=2, guidance=1).outputs
    assert same(result(model, seed=2, guidance=3, guide_model=str(folder)).outputs[0], plain)
    weak = tmp_path / "weak"
    shutil.copytree(folder, weak)
    network = load_module(weak / "dit.safetensors", "flow")
    torch.nn.init.normal_(network.head.weight, std=0.1)
    save_weights(weak / "dit.safetensors", network, "flow", network.config, {})
    write_hashes(weak)
    (guided,) = result(model, seed=2, guidance=3, guide_model=str(weak)).outputs
    assert not same(guided, plain) and not same(
        guided, result(model, seed=2, guidance=3).outputs[0]
    )
    assert guided.receipt["guide"]["files"] == load(str(weak)).files
    assert guided.receipt["request"]["guide_model"] == str(weak)
    *_, last = again(model, guided.receipt)
    assert last.result is not None and same(last.result.outputs[0], guided)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"guide_model": "no-such"}, "there is no model 'no-such'"),
        ({"guide_model": "FOLDER", "guidance": 1}, "guide_model .* guidance 1 is off"),
        ({"guide_model": "FOLDER", "guidance": 3, "negative_prompt": "a dog"},
         "negative_prompt .* cannot be used .*: guide_model takes its place"),
        ({"guide_model": "OTHER", "guidance": 3}, "another noise schedule, prediction or auto"),
    ],
)  # fmt: skip
def test_a_guide_that_does_not_fit_is_named(
    model: DiffusionPipeline, folder: Path, tmp_path: Path, fields: dict[str, Any], message: str
) -> None:
    if fields["guide_model"] == "OTHER":  # the same network for another process
        shutil.copytree(folder, tmp_path / "other")
        network = load_module(folder / "dit.safetensors", "flow")
        process = {"schedule": "cosine", "prediction": "v"}
        path = tmp_path / "other/dit.safetensors"
        save_weights(path, network, "flow", network.config, {}, process)
        write_hashes(tmp_path / "other")
    places = {"FOLDER": str(folder), "OTHER": str(tmp_path / "other")}
    given = fields | {"guide_model": places.get(fields["guide_model"], fields["guide_model"])}
    with pytest.raises(KalpanaError, match=message):
        model.generate(PROMPT, **given)


def test_what_the_model_cannot_do_is_refused_at_once_or_listed(model: DiffusionPipeline) -> None:
    with pytest.raises(KalpanaError, match="size '40x32' cannot be used"):
        model.generate(PROMPT, size="40x32")  # raised at the call, not at the first step
    lenient = result(model, size="40x32", strict=False, seed=1)
    assert "size" in lenient.outputs[0].receipt["ignored"] and any(
        "size was ignored" in warning for warning in lenient.warnings
    )
    assert same(lenient.outputs[0], result(model, seed=1).outputs[0])


@pytest.mark.slow
def test_a_cut_prompt_and_unknown_words_are_told(model: DiffusionPipeline) -> None:
    *_, last = model.generate("a red apple " * 8334, seed=1, steps=1)
    assert last.result is not None
    (warning,) = last.result.warnings
    assert "prompt: too long; the last 9" in warning and len(warning) < 200
    receipt = last.result.outputs[0].receipt
    assert (
        99_000 < receipt["read"]["prompt"]["cut_characters"] < 100_008
        and len(receipt["request"]["prompt"]) == 100_008
    )

    *_, last = model.generate("a red qwertyuiop\x07 and a zxcvbnm", seed=1, steps=1)
    assert last.result is not None
    assert any("qwertyuiop, zxcvbnm" in warning for warning in last.result.warnings)
    assert any("control characters (1)" in warning for warning in last.result.warnings)
    assert last.result.outputs[0].receipt["warnings"] == list(last.result.warnings)


@pytest.mark.parametrize(
    "prompt", ["🍎", "تفاحة حمراء", "a लाल 苹果", "\u202ea cat\u200f", "'\"; DROP", "<eos><pad>"]
)
def test_odd_prompts_draw(model: DiffusionPipeline, prompt: str) -> None:
    *_, last = model.generate(prompt, seed=1, steps=1)
    assert isinstance(last, Step) and last.result is not None
    (picture,) = last.result.outputs
    assert picture.receipt["request"]["prompt"] == prompt and picture.image.size == (32, 32)
    # The prompt is read: its picture differs from that of another prompt by the same noise.
    *_, other = model.generate(PROMPT, seed=1, steps=1)
    assert other.result is not None and not same(picture, other.result.outputs[0])


def test_a_receipt_says_how_the_picture_was_made(model: DiffusionPipeline, folder: Path) -> None:
    *_, last = model.generate(PROMPT, seed=5, n=2, model=str(folder))
    assert last.result is not None
    picture = last.result.outputs[1]
    receipt = json.loads(json.dumps(picture.receipt))
    assert receipt == picture.receipt
    assert receipt["request"] == {"prompt": PROMPT, "seed": 5, "n": 2, "model": str(folder)}
    assert receipt["seed"] == receipt["resolved"]["seed"] == 6 and receipt["resolved"]["n"] == 1
    assert (receipt["resolved"]["steps"], receipt["resolved"]["sampler"]) == (4, "dpmpp-2m")
    for name in ("dit.safetensors", "vae.safetensors"):
        assert (
            receipt["model"]["files"][name]
            == hashlib.sha256((folder / name).read_bytes()).hexdigest()
        )
    assert (
        receipt["read"]["prompt"]["language"] == "hi" and receipt["kalpana"] == kalpana.__version__
    )


def test_a_model_is_loaded_once_and_again_when_its_files_change(
    folder: Path, tmp_path: Path
) -> None:
    assert load(str(folder)) is load(str(folder))
    for file in folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    copy = load(str(tmp_path))
    assert copy is not load(str(folder)) and copy is load(str(tmp_path))
    (tmp_path / "vae.safetensors").write_bytes((tmp_path / "vae.safetensors").read_bytes()[:-8])
    with pytest.raises(KalpanaError, match="not the file its card describes"):
        load(str(tmp_path))


def test_weights_in_the_wrong_places_are_refused(folder: Path, tmp_path: Path) -> None:
    for name, source in {
        "dit.safetensors": "vae.safetensors",
        "vae.safetensors": "dit.safetensors",
    }.items():
        (tmp_path / name).write_bytes((folder / source).read_bytes())
    card = json.loads((folder / "card.json").read_text(encoding="utf-8"))
    (tmp_path / "card.json").write_text(json.dumps(card | {"files": {}}))
    with pytest.raises(KalpanaError, match="holds weights of family 'vae', not 'flow'"):
        load(str(tmp_path))
    (tmp_path / "card.json").write_text(
        json.dumps(card | {"files": card["files"] | {"bpe.json": "0" * 64}})
    )
    with pytest.raises(KalpanaError, match="another tokenizer"):
        load(str(tmp_path))


def test_a_model_that_does_not_draw_from_words_says_so() -> None:
    with pytest.raises(
        KalpanaError, match="'upscale' is of family 'upscale', which draws nothing from words"
    ):
        load("upscale")


def test_several_prompts_give_their_pictures_in_order(folder: Path) -> None:
    prompts, fields = ["a cat", PROMPT], {"model": str(folder), "seed": 4, "steps": 2}
    found = kalpana.generate(prompts, **fields).outputs
    alone = [kalpana.generate(prompt, **fields).outputs[0] for prompt in prompts]
    assert [each.receipt["request"]["prompt"] for each in found] == prompts
    assert all(same(one, other) for one, other in zip(found, alone, strict=True))
    with pytest.raises(KalpanaError, match="the list is empty"):
        kalpana.generate([])


def test_calling_the_package_gives_back_the_result(folder: Path) -> None:
    request = Request(prompt=PROMPT, model=str(folder), seed=4)
    (picture,) = kalpana.generate(request, steps=2).outputs
    assert same(picture, kalpana.generate(PROMPT, model=str(folder), seed=4, steps=2).outputs[0])
    assert kalpana.Request is Request
    with pytest.raises(KalpanaError, match="no field 'step'"):
        kalpana.generate(PROMPT, step=2)
