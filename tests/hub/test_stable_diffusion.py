"""Stable Diffusion: every part and whole samples against diffusers and transformers, the folder
and its faults, and requests to it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor
from toys import stable_diffusion as toy

import kalpana
from kalpana.diffusion.denoiser import Process
from kalpana.diffusion.schedule import Discrete
from kalpana.hub.stable_diffusion import find_files, process_of, read
from kalpana.models.kl_vae import COLOURS, KLVAE, PRESETS
from kalpana.pipelines import load
from kalpana.pipelines.diffusion import DiffusionPipeline, noise
from kalpana.types import KalpanaError


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return toy.write(tmp_path_factory.mktemp("sd"))


@pytest.fixture(scope="module")
def ours(folder: Path) -> dict[str, Tensor]:
    return toy.ours(folder)


@pytest.fixture(scope="module")
def model(folder: Path) -> DiffusionPipeline:
    found = load(str(folder), "cpu")
    assert isinstance(found, DiffusionPipeline)
    return found


def check(ours: dict[str, Tensor], reference: dict[str, Tensor]) -> None:
    assert ours.keys() == reference.keys()
    assert torch.equal(ours.pop("ids"), reference.pop("ids"))
    for name, wanted in reference.items():
        scale = max(wanted.std().item(), 1) if name == "sampled" else 1
        assert (ours[name] - wanted).abs().max() < (1e-3 if name == "sampled" else 1e-4) * scale
        assert wanted.std() > 0.1, name


@pytest.mark.slow
def test_parts_and_samples_equal_stored_ones_of_diffusers(ours: dict[str, Tensor]) -> None:
    check(dict(ours), load_file(toy.REFERENCE))
    assert toy.REFERENCE.stat().st_size < 100_000


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_parts_and_samples_equal_those_of_diffusers(ours: dict[str, Tensor], folder: Path) -> None:
    for package in ("diffusers", "transformers"):
        pytest.importorskip(package, reason=f"{package} is the reference")
    check(dict(ours), toy.reference(folder))


def test_the_public_autoencoder_by_its_numbers() -> None:
    with torch.device("meta"):
        vae = KLVAE(PRESETS["sd-1"])
    assert sum(p.numel() for p in vae.parameters()) == 83_653_863
    assert len(vae.state_dict()) == 248
    assert vae.factor == 8 and vae.shape(512, 768) == (4, 64, 96)


def test_a_preview_is_the_linear_map_of_a_latent() -> None:
    vae = toy.our_vae()
    latent = (0.5, -0.5, 0.25, 0.1)
    latents = torch.tensor(latent).view(1, 4, 1, 1).expand(1, 4, 2, 3)
    wanted = [sum(latent[c] * COLOURS[c][k] for c in range(4)) for k in range(3)]
    torch.testing.assert_close(vae.preview(latents)[0, :, 1, 2], torch.tensor(wanted))
    grey = KLVAE(replace(vae.config, scaling_factor=1.0))
    assert (grey.preview(latents) == 0).all() and grey.preview(latents).shape == (1, 3, 2, 3)


@pytest.mark.slow
def test_a_request_is_answered(model: DiffusionPipeline, ours: dict[str, Tensor]) -> None:
    """The picture is the decoded sample of the reference, and the receipt says what made it."""
    fields: dict[str, Any] = {"steps": toy.STEPS, "guidance": toy.GUIDANCE, "seed": toy.SEED}
    torch.testing.assert_close(noise([toy.SEED], (4, 8, 8)), toy.inputs()["noise"])
    *steps, last = model.generate(toy.PROMPTS[0], sampler="euler", **fields)
    assert last.result is not None and len(steps) == toy.STEPS
    (output,) = last.result.outputs
    pixels = ((model.codec.decode(ours["sampled"])[0].clamp(-1, 1) + 1) * 127.5).permute(1, 2, 0)
    assert np.abs(np.asarray(output.image) - pixels.numpy()).max() <= 1.5
    assert output.image.size == (32, 32)
    assert output.receipt["model"]["files"].keys() == {
        "unet/diffusion_pytorch_model.safetensors", "vae/diffusion_pytorch_model.safetensors",
        "text_encoder/model.safetensors",
    }  # fmt: skip


@pytest.mark.slow
def test_defaults_and_one_picture_at_a_time(folder: Path) -> None:
    result = kalpana.generate("two cats", model=str(folder), n=2, seed=1, steps=2)
    assert [output.seed for output in result.outputs] == [1, 2]
    resolved = result.outputs[0].receipt["resolved"]
    assert (resolved["guidance"], resolved["size"]) == (7.5, "32x32")
    alone = kalpana.generate("two cats", model=str(folder), seed=2, steps=2).outputs[0]
    assert np.array_equal(np.asarray(alone.image), np.asarray(result.outputs[1].image))


@pytest.mark.slow
def test_prompt_negative_prompt_image_and_size_have_effects(folder: Path) -> None:
    picture = Image.fromarray(np.arange(32 * 32 * 3, dtype=np.uint8).reshape(32, 32, 3))
    shared: dict[str, Any] = {"model": str(folder), "seed": 1, "steps": 3}
    pictures = [
        kalpana.generate("cats", **shared),
        kalpana.generate("a ball", **shared),
        kalpana.generate("cats", negative_prompt="hats", **shared),
        kalpana.generate("cats", image=picture, strength=0.5, **shared),
    ]
    arrays = [np.asarray(each.outputs[0].image) for each in pictures]
    assert len({array.tobytes() for array in arrays}) == len(arrays)
    wide = kalpana.generate("cats", size="128x64", **shared)
    assert wide.outputs[0].image.size == (128, 64)  # in windows of 32x32
    long = kalpana.generate("cat " * 100, **shared)
    assert "too long" in long.warnings[0]


@pytest.mark.slow
@pytest.mark.parametrize("network", ["text", "inpainting"])
def test_inpainting_keeps_what_is_not_masked(network: str, tmp_path: Path) -> None:
    model = load(str(toy.write(tmp_path, network)), "cpu")
    rng = np.random.default_rng(0)
    picture = Image.fromarray(rng.integers(0, 255, (32, 32, 3), dtype=np.uint8))
    mask = Image.new("L", (32, 32), 0)
    mask.paste(255, (0, 0, 16, 16))
    *_, last = model.generate("cats", image=picture, mask=mask, seed=0, steps=3)
    assert last.result is not None
    out, given = np.asarray(last.result.outputs[0].image), np.asarray(picture)
    assert (out[16:] == given[16:]).all() and (out[:, 16:] == given[:, 16:]).all()
    assert (out[:16, :16] != given[:16, :16]).any()
    *_, plain = model.generate("cats", seed=0, steps=3)
    assert plain.result is not None


@pytest.mark.slow
def test_an_inpainting_network_reads_the_picture_around_the_mask(tmp_path: Path) -> None:
    """Nothing but the known part differs, and the masked part does: under the mask the network is
    given nothing."""
    model = load(str(toy.write(tmp_path, "inpainting")), "cpu")
    mask = Image.new("L", (32, 32), 0)
    mask.paste(255, (0, 0, 16, 32))

    def left(colour: str, under: str) -> np.ndarray:
        picture = Image.new("RGB", (32, 32), colour)
        picture.paste(under, (0, 0, 16, 32))
        *_, last = model.generate("cats", image=picture, mask=mask, seed=0, steps=3)
        assert last.result is not None
        return np.asarray(last.result.outputs[0].image)[:, :16]

    assert (left("red", "white") != left("blue", "white")).any()
    assert np.array_equal(left("red", "white"), left("red", "black"))


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_read_as_fp32(dtype: torch.dtype, tmp_path: Path) -> None:
    checkpoint = read(toy.write(tmp_path, dtype=dtype))
    wanted = toy.our_unet("text").state_dict()
    for name, tensor in checkpoint.network.unet.state_dict().items():
        assert tensor.dtype == torch.float32
        assert torch.equal(tensor, wanted[name].to(dtype).float())


@pytest.mark.slow
def test_an_fp16_variant_and_old_names_are_read(tmp_path: Path, ours: dict[str, Tensor]) -> None:
    toy.write(tmp_path)
    path = tmp_path / "vae/diffusion_pytorch_model.safetensors"
    former = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    tensors = load_file(path)
    for name in list(tensors):
        for new, old in former.items():
            if f".{new}." in name:
                tensor = tensors.pop(name)
                shape = (*tensor.shape, 1, 1) if tensor.ndim == 2 else tensor.shape
                tensors[name.replace(f".{new}.", f".{old}.")] = tensor.reshape(shape)
    path.unlink()
    save_file(tensors, path.with_name("diffusion_pytorch_model.fp16.safetensors"))
    text = tmp_path / "text_encoder/model.safetensors"  # as transformers 5 writes it
    bare = {name.removeprefix("text_model."): t for name, t in load_file(text).items()}
    save_file(bare, text)
    codec = read(tmp_path).codec
    with torch.no_grad():
        encoded = codec.encode(toy.inputs()["pixels"]) / codec.config.scaling_factor
    torch.testing.assert_close(encoded, ours["vae.encode"])


def test_the_padding_token_is_that_of_the_special_tokens(tmp_path: Path) -> None:
    """Stable Diffusion 2 states two: "!" there, and the end token in tokenizer_config.json."""
    toy.write(tmp_path)
    toy.put(tmp_path / "tokenizer/special_tokens_map.json", {"pad_token": "!"})
    number = json.loads((tmp_path / "tokenizer/vocab.json").read_text())["!"]
    (row,) = read(tmp_path).words.encode(["a"]).ids.tolist()
    assert row[:3] == [518, row[1], 519] and row[3:] == [number] * 74


def test_all_that_is_missing_is_named_before_weights_are_read(tmp_path: Path) -> None:
    toy.write(tmp_path)
    (tmp_path / "unet/diffusion_pytorch_model.safetensors").write_bytes(b"no weights")
    (tmp_path / "vae/diffusion_pytorch_model.safetensors").unlink()
    (tmp_path / "tokenizer/merges.txt").unlink()
    with pytest.raises(KalpanaError, match=r"lacks tokenizer/merges\.txt, vae/diffusion_pytorch"):
        load(str(tmp_path))
    (tmp_path / "vae/diffusion_pytorch_model.bin").touch()
    with pytest.raises(KalpanaError, match=r"vae/diffusion_pytorch_model\.bin are pickles"):
        find_files(tmp_path)


def changed(path: Path, **words: Any) -> None:
    toy.put(path, json.loads(path.read_text()) | words)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("file", "words", "message"),
    [
        ("model_index.json", {"controlnet": ["diffusers", "ControlNetModel"]}, "field controlnet"),
        ("unet/config.json", {"colour": 1}, "field colour is 1: this word is not known"),
        ("unet/config.json", {"dropout": 0.1}, "field dropout is 0.1: only 0 can be read"),
        ("unet/config.json", {"layers_per_block": "two"}, "field layers_per_block is \"two\""),
        ("unet/config.json", {"in_channels": 5}, "in_channels 5 is not supported"),
        ("unet/config.json", {"num_class_embeds": 9}, "field num_class_embeds is 9: only null"),
        ("unet/config.json", {"cross_attention_dim": 32}, "the config of the text gives 24"),
        ("unet/config.json", {"block_out_channels": [16, 32, 64]}, "and config.json asks for"),
        ("unet/config.json", {"layers_per_block": 3}, "lacks down_blocks.0"),
        ("vae/config.json", {"use_quant_conv": False}, "holds quant_conv.bias, quant_conv.weight"),
        ("vae/config.json", {"latents_mean": [0.0]}, "field latents_mean"),
        ("vae/config.json", {"act_fn": "tanh"}, "act_fn 'tanh' is unknown"),
        ("text_encoder/config.json", {"hidden_act": "relu"}, "field hidden_act is \"relu\""),
        ("text_encoder/config.json", {"vocab_size": 100}, "more than the 100"),
        ("text_encoder/config.json", {"model_type": "t5"}, "field model_type is \"t5\""),
        ("scheduler/scheduler_config.json", {"prediction_type": "flow"}, "field prediction_type"),
        ("scheduler/scheduler_config.json", {"beta_schedule": "sqrt"}, "field beta_schedule"),
        ("scheduler/scheduler_config.json", {"beta_end": 2.0}, "betas should rise"),
        ("scheduler/scheduler_config.json", {"num_train_timesteps": 50}, "only 1000 can be read"),
        ("scheduler/scheduler_config.json", {"clip_sample": True}, "only false can be read"),
        ("scheduler/scheduler_config.json", {"warp": 1}, "field warp is 1: this word is not known"),
    ],
)  # fmt: skip
def test_what_is_not_supported_is_named(
    file: str, words: dict[str, Any], message: str, tmp_path: Path
) -> None:
    changed(toy.write(tmp_path) / file, **words)
    with pytest.raises(KalpanaError) as caught:
        load(str(tmp_path))
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_a_scheduler_gives_the_process(tmp_path: Path) -> None:
    path = tmp_path / "scheduler_config.json"
    toy.put(path, toy.SCHEDULER)
    assert process_of(path) == Process("scaled-linear", "eps")
    changed(path, prediction_type="v_prediction", rescale_betas_zero_snr=True)
    assert process_of(path) == Process("scaled-linear-zero-snr", "v")
    changed(path, prediction_type="sample", beta_schedule="linear", beta_start=0.001)
    assert process_of(path) == Process(Discrete(0.001, 0.012, "linear", True), "x0")
    toy.put(path, {word: value for word, value in toy.SCHEDULER.items() if word != "beta_end"})
    with pytest.raises(KalpanaError, match="field beta_end is null: it is missing"):
        process_of(path)


@pytest.mark.parametrize("betas", ["linear", "scaled_linear"])
@pytest.mark.parametrize("zero_snr", [False, True])
def test_noise_levels_equal_those_of_diffusers(betas: Any, zero_snr: bool) -> None:
    diffusers = pytest.importorskip("diffusers", reason="diffusers is the reference")
    theirs = diffusers.DDIMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule=betas, rescale_betas_zero_snr=zero_snr
    )
    t = (torch.arange(1000) + 1).double() / 1000
    ours = Discrete(0.00085, 0.012, betas, zero_snr).alpha(t) ** 2
    torch.testing.assert_close(ours.float(), theirs.alphas_cumprod, atol=1e-6, rtol=1e-4)
