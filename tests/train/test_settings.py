"""Every setting of every recipe has an effect: three steps with another value end elsewhere."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from kalpana.families import FAMILIES
from kalpana.hub.weights import save_weights
from kalpana.train import recaptions
from kalpana.train.checkpoint import FREE, State
from kalpana.train.data_cache import silent
from kalpana.train.loop import make_optimizers, make_task, start_from, train_step
from kalpana.train.recipe import Recipe, recipe_class, trained_families
from kalpana.train.task import has_bf16
from kalpana.train.video_cache import Bucket
from kalpana.world.video import Videos

CPU = torch.device("cpu")
STEPS = 3
HALVES = {"widths": (8, 8, 8, 8), "depth": 1, "groups": 4, "latent": 8, "codebook": (32, 4)}
SMALL_VAE = {"latent": 4, "fine": 8, "coarse": 8, "encoder": (1, 1), "decoder": (1, 1)}
SMALL_EYES = {"fine": 8, "coarse": 8, "deep": 8, "depth": (1, 1, 1, 1), "embedding": 4}
TOWERS = {
    "side": 32, "patch": 8, "width": 32, "depth": 1, "heads": 2, "hidden": 64, "text_width": 32,
    "text_depth": 1, "text_heads": 2, "text_hidden": 64, "features": 32,
}  # fmt: skip
TOKENS = {"width": 32, "depth": 2, "heads": 2}
COMMON: dict[str, Any] = {
    "name": "s", "num_images": 24, "steps": 4, "batch": 4, "lr": 1e-2, "warmup": 2, "bf16": False,
}  # fmt: skip
# The networks of the runs, and what these runs need.
BASE: dict[str, dict[str, Any]] = {
    "vae": {"model": SMALL_VAE},
    "vqgan": {"model": HALVES, "gan_start": 0.5, "sign_page_share": 0.25,
              "perceptual_net": "detector", "ocr_net": "reader"},
    "flow": {"model": {"width": 32, "depth": 1, "heads": 2, "text_depth": 1, "fine": 8},
             "vae": "vae", "kind": "everything"},
    "unet": {"model": {"block_out_channels": (8, 8), "norm_num_groups": 4, "text_depth": 1,
                       "cross_attention_dim": 32, "attention_head_dim": 2, "text_heads": 2,
                       "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
                       "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D")},
             "vae": "vae", "kind": "everything"},
    "pixel-unet": {"model": {"block_out_channels": (8, 8), "norm_num_groups": 4,
                             "attention_head_dim": 2, "layers_per_block": 1,
                             "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
                             "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D")}},
    "control": {"model": {"map_width": 8}, "vae": "vae", "image_model": "flow",
                "kind": "everything", "extra_images": 6},
    "unclip": {"model": {"vector_tokens": 2}, "vae": "vae", "image_model": "flow",
               "clip_model": "clip", "kind": "everything"},
    "unclip-prior": {"model": {"width": 32, "depth": 1, "heads": 2, "hidden": 64},
                     "clip_model": "clip", "kind": "everything"},
    "turbo": {"model": {"step_width": 8}, "vae": "vae", "image_model": "flow",
              "kind": "everything", "same_time_share": 0.3, "loss_floor": 1e-3},
    "lora": {"model": {"rank": 2}, "vae": "vae", "image_model": "flow", "data": "pictures",
             "word": "zorb", "kind": "everything", "prior_share": 0.5},
    "video-vae": {"model": {**SMALL_VAE, "motion_fine": 8, "motion_coarse": 8,
                            "motion_encoder": (1, 1), "motion_decoder": (1, 1)}, "vae": "vae"},
    "video": {"vae": "video-vae", "image_model": "flow", "kind": "everything", "num_videos": 6},
    "dalle": {"model": TOKENS, "vqgan": "vqgan", "kind": "everything"},
    "maskgit": {"model": TOKENS, "vqgan": "vqgan", "kind": "everything"},
    "dalle-mini": {"model": {**TOKENS, "hidden": 64, "text_depth": 1}, "vqgan": "vqgan",
                   "kind": "everything"},
    "video-captioner": {"model": {"frames": 3, "grid": 2, "patch": 1}, "vqgan": "vqgan",
                        "dalle": "dalle", "num_videos": 6},
    "clip": {"model": TOWERS, "batch": 8},
    "maps": {"model": {"fine": 8, "coarse": 8, "depth": 1, "dilations": (1,)}},
    "detector": {"model": SMALL_EYES, "batch": 8, "vae": "vae", "sdedit_model": "flow",
                 "init": "detector"},
    "reader": {"model": {"width": 8, "hidden": 8}, "batch": 16, "vae": "vae",
               "sdedit_model": "flow"},
}  # fmt: skip
TIMES = ("logit-normal", "discrete")  # one of them is the default
# Another value for each setting. Those of every family are tried on the autoencoder, the others on
# each family that has them. A word names a network of ``networks``.
EVERY: dict[str, Any] = {
    "model": {**SMALL_VAE, "fine": 16}, "init": "vae", "seed": 1, "num_images": 12, "steps": 3,
    "batch": 2, "grad_accum": 2, "lr": 2e-2, "weight_decay": 0.5, "warmup": 3,
    "lr_decay_share": 0.9, "grad_clip": 1e-3, "ema_decay": 0.1, "bf16": True,
}  # fmt: skip
OWN: dict[str, Any] = {
    "kind": "hands", "posterior_std": 0.5, "latent_anchor_weight": 2.0,
    "caption_dropout": 1.0, "oversample": 3, "aux_weight": 0.5, "schedule": "linear",
    "prediction": "eps", "text_encoder": "flow", "self_train_dir": "harvest",
    "self_train_repeat": 9,
    "image_first_prob": 1.0, "token_dropout": 1.0, "held_out_styles": ("noto",),
    "object_augment_share": 0.5, "downsampled_styles": ("noto", "fluent-3d", "openmoji"),
    "perceptual_net": None, "perceptual_weight": 3.0, "ocr_net": None, "ocr_weight": 3.0,
    "sign_page_share": 0.5, "freeze_encoder": True, "gan_weight": 1.0, "gan_start": 1.0,
    "lecam_weight": 9.0, "sdedit_model": None, "image_model": "other-flow", "num_videos": 12,
    "extra_kind": "hands", "extra_images": 24, "extra_share": 0.9, "data": "other-pictures",
    "word": "flim", "prior_share": 0.0, "guidance": (3.0, 5.0), "interval": (0.5, 0.8),
    "same_time_share": 1.0, "end_share": 1.0, "own_share": 1.0, "first_split": 0.9,
    "last_split": 0.4, "loss_floor": 10.0, "dalle": "other-dalle",
    "clip_model": "other-clip", "vector_dropout": 1.0, "vector_noise": 0.9,
    "blur_share": 1.0, "noise_std": 0.5,
    "captions": "noisy", "captions_file": "other-captions",
    "min_snr_gamma": 0.5, "size": 64,
}  # fmt: skip
# Values in place of those above where these are a family's defaults.
OTHER = {("pixel-unet", "schedule"): "cosine", ("pixel-unet", "prediction"): "v"}
# Other autoencoders, for the fields that name one; None where it may be left out.
OTHERS: dict[str, tuple[str, str | None]] = {
    "flow": ("vae", "other-vae"),
    "unet": ("vae", "other-vae"),
    "control": ("vae", "other-vae"),
    "turbo": ("vae", "other-vae"),
    "unclip": ("vae", "other-vae"),
    "lora": ("vae", "other-vae"),
    "video-vae": ("vae", "other-vae"),
    "video": ("vae", "other-video-vae"),
    "detector": ("vae", None),
    "reader": ("vae", None),
    **dict.fromkeys(
        ("dalle", "maskgit", "dalle-mini", "video-captioner"), ("vqgan", "other-vqgan")
    ),
}
# What a setting needs to have an effect.
WITH: dict[str, dict[str, Any]] = {
    "latent_anchor_weight": {"init": "vae"}, "freeze_encoder": {"init": "vqgan"},
    "self_train_repeat": {"self_train_dir": "harvest"},
    "vae": {"sdedit_model": None},
    "captions_file": {"captions": "captioner", "captions_file": "captions"},
}  # fmt: skip
# Settings that change no weights, which other tests hold: gradient caching has the same gradients.
SAME = {*FREE, "family", "grad_cache_chunk"}
# Settings that a family refuses, which other tests hold.
REFUSED = {
    ("unet", "aux_weight"), ("control", "aux_weight"), ("control", "self_train_dir"),
    ("control", "self_train_repeat"), ("lora", "aux_weight"), ("lora", "self_train_dir"),
    ("lora", "self_train_repeat"), ("turbo", "aux_weight"), ("turbo", "schedule"),
    ("turbo", "prediction"), ("unclip", "aux_weight"), ("unclip", "self_train_dir"),
    ("unclip", "self_train_repeat"), ("unclip-prior", "aux_weight"), ("unclip-prior", "schedule"),
    ("unclip-prior", "prediction"), ("turbo", "timesteps"), ("turbo", "min_snr_gamma"),
    ("pixel-unet", "kind"), ("pixel-unet", "oversample"), ("pixel-unet", "aux_weight"),
}  # fmt: skip

CASES = [("vae", name, value) for name, value in EVERY.items()]
for family in trained_families():
    kind = recipe_class(family)
    assert kind is not None
    own = [name for name in kind.model_fields if name in OWN and (family, name) not in REFUSED]
    CASES += [(family, name, OTHER.get((family, name), OWN[name])) for name in own]
    if "timesteps" in kind.model_fields and family != "turbo":
        (other,) = {*TIMES} - {kind.model_fields["timesteps"].default}
        CASES.append((family, "timesteps", other))
CASES += [(family, *pair) for family, pair in OTHERS.items()]
CASES.append(("flow", "optimizer", "muon"))  # which an autoencoder, all convolutions, cannot have


def test_no_setting_is_forgotten() -> None:
    covered = {(family, name) for family, name, _ in CASES}
    for family in trained_families():
        kind = recipe_class(family)
        assert kind is not None
        own = kind.model_fields.keys() - Recipe.model_fields.keys() - SAME
        assert {(family, name) for name in own} - REFUSED <= covered
    assert Recipe.model_fields.keys() - SAME <= {name for _, name, _ in CASES}


@pytest.fixture(scope="module")
def networks(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Small networks with random weights, a folder of self-training pictures, and two others."""
    folder, paths = tmp_path_factory.mktemp("networks"), {}
    for name in (
        "vae", "other-vae", "vqgan", "other-vqgan", "flow", "other-flow", "video-vae",
        "other-video-vae", "dalle", "other-dalle", "clip", "other-clip", "detector", "reader",
    ):  # fmt: skip
        torch.manual_seed(len(name))
        family = FAMILIES[name.removeprefix("other-")]
        config = BASE[family.name]["model"] | {
            "reader": {"characters": "abc"}, "flow": {"channels": 4},
            "dalle": {"codes": 32, "rows": 4, "columns": 4},
        }.get(family.name, {})  # fmt: skip
        if name == "detector":
            from kalpana.train.detector import tail
            from kalpana.train.detector_labels import labels

            config = config | {"classes": len(labels()), "concepts": len(tail())}
        network = family.build(**config)
        for p in network.parameters():
            nn.init.normal_(p, std=0.2)
        paths[name] = folder / f"{name}.safetensors"
        save_weights(paths[name], network, family.name, network.config, {})
    paths["harvest"] = folder / "harvest"
    paths["harvest"].mkdir()
    Image.new("RGB", (128, 128), "red").save(paths["harvest"] / "0.png")
    line = {"caption": "a red square", "kept": ["0.png"]}
    (paths["harvest"] / "harvest.jsonl").write_text(json.dumps(line) + "\n")
    for name, color in (("pictures", "red"), ("other-pictures", "blue")):
        paths[name] = folder / name
        paths[name].mkdir()
        Image.new("RGB", (40, 32), color).save(paths[name] / "0.png")
    for name, text in (("captions", "a red cat"), ("other-captions", "a blue dog")):
        paths[name] = folder / f"{name}.jsonl"
        rows = [recaptions.about(Videos(0), {}), *[{"en": text, "hi": text}] * 400]
        paths[name].write_text("".join(json.dumps(row) + "\n" for row in rows))
    return paths


@pytest.fixture(autouse=True)
def few_held_out(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (
        "autoencoder", "vqgan", "flow", "diffusion", "token_tasks", "clip", "detector", "reader",
        "video_captioner", "pixels",
    ):  # fmt: skip
        monkeypatch.setattr(f"kalpana.train.{module}.HELD_OUT", 8)
    monkeypatch.setattr("kalpana.train.video_autoencoder.SMALL", 16)
    monkeypatch.setattr("kalpana.train.video_autoencoder.LARGE", 32)
    buckets = {Bucket(16, 16, 5): 0.5, Bucket(16, 32, 3): 0.5}
    monkeypatch.setattr("kalpana.train.video_flow.BUCKETS", buckets)
    monkeypatch.setattr("kalpana.train.video_flow.DEV", Bucket(16, 16, 5))
    monkeypatch.setattr("kalpana.train.video_flow.DEV_VIDEOS", 8)


def learned(family: str, networks: dict[str, Path], fields: dict[str, Any]) -> dict[str, Tensor]:
    """The averaged weights after STEPS steps."""
    kind = recipe_class(family)
    assert kind is not None
    given = {
        name: networks.get(value, value) if isinstance(value, str) and name != "kind" else value
        for name, value in (COMMON | BASE[family] | fields).items()
    }
    recipe = kind(**given)
    torch.manual_seed(recipe.seed)
    task = make_task(recipe, CPU, silent)
    if recipe.init:
        start_from(task, recipe, lambda line: None)
    ema = {name: value.clone() for name, value in task.model.state_dict().items()}
    state = State(task.model, ema, make_optimizers(task.model, recipe))
    for _ in range(STEPS):
        train_step(task, state, recipe, task.batch(state.step))
        state.step += 1
    return ema


_BASELINES: dict[str, dict[str, Tensor]] = {}


@pytest.mark.slow
@pytest.mark.parametrize(("family", "name", "value"), CASES)
def test_a_setting_has_an_effect(
    family: str, name: str, value: Any, networks: dict[str, Path]
) -> None:
    if name == "bf16" and not has_bf16(CPU):
        pytest.skip("this CPU has no bfloat16")
    of_eyes = family in ("detector", "reader")
    extra = {} if name == "vae" and not of_eyes else WITH.get(name, {})
    key = f"{family} {extra}"
    if key not in _BASELINES:
        _BASELINES[key] = learned(family, networks, extra)
    before, after = _BASELINES[key], learned(family, networks, {**extra, name: value})
    assert before.keys() != after.keys() or any(
        before[tensor].shape != after[tensor].shape
        or not torch.equal(before[tensor], after[tensor])
        for tensor in before
    )


@pytest.mark.slow
def test_the_same_settings_end_in_the_same_place(networks: dict[str, Path]) -> None:
    one, two = (learned("vae", networks, {}) for _ in range(2))
    assert all(torch.equal(one[name], two[name]) for name in one)
