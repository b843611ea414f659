"""Tiny Stable Diffusion models with random weights: a folder in the layout of diffusers, and the
outputs of their parts by our code and by diffusers and transformers.

    python tests/toys/stable_diffusion.py

writes what diffusers and transformers compute to stable_diffusion.safetensors beside this file, so
that the comparison needs neither of them.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from kalpana.diffusion.guidance import guide
from kalpana.diffusion.samplers import SAMPLERS, sample
from kalpana.diffusion.schedule import times
from kalpana.hub import stable_diffusion as hub
from kalpana.hub.clip import checkpoint_names
from kalpana.models import clip, kl_vae, unet
from kalpana.models.kl_vae import KLVAE
from kalpana.models.text_unet import CLIPText
from kalpana.models.unet import UNet
from kalpana.types import Cond

REFERENCE = Path(__file__).with_suffix(".safetensors")
BASE: dict[str, Any] = {
    "sample_size": 8,
    "in_channels": 4,
    "out_channels": 4,
    "block_out_channels": [16, 32, 32],
    "down_block_types": ["CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"],
    "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"],
    "layers_per_block": 1,
    "cross_attention_dim": 24,
    "attention_head_dim": 4,
    "norm_num_groups": 8,
}
UNETS: dict[str, dict[str, Any]] = {
    "text": {"layers_per_block": 2},
    "linear": {"use_linear_projection": True, "attention_head_dim": [2, 4, 8]},
    "label": {"num_class_embeds": 5},
    "inpainting": {"in_channels": 9},
    "words": {
        "flip_sin_to_cos": False,
        "freq_shift": 1,
        "norm_eps": 1e-3,
        "act_fn": "gelu",
        "mid_block_type": "UNetMidBlock2D",
        "transformer_layers_per_block": 2,
    },
}
VAE: dict[str, Any] = {
    "block_out_channels": [16, 32, 32],
    "down_block_types": ["DownEncoderBlock2D"] * 3,
    "up_block_types": ["UpDecoderBlock2D"] * 3,
    "layers_per_block": 1,
    "norm_num_groups": 8,
    "latent_channels": 4,
    "scaling_factor": 0.18215,
    "sample_size": 32,
}
TEXT: dict[str, Any] = {
    "model_type": "clip_text_model",
    "architectures": ["CLIPTextModel"],
    "vocab_size": 520,
    "hidden_size": 24,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
    "max_position_embeddings": 77,
    "hidden_act": "quick_gelu",
    "layer_norm_eps": 1e-5,
    "bos_token_id": 518,
    "eos_token_id": 519,
}
SCHEDULER: dict[str, Any] = {
    "_class_name": "PNDMScheduler",
    "num_train_timesteps": 1000,
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "clip_sample": False,
    "set_alpha_to_one": False,
    "skip_prk_steps": True,
    "steps_offset": 1,
    "trained_betas": None,
}
PROMPTS = ["a red ball, two cats' hats", "  Größe 42 in the\tSUN "]
STEPS, GUIDANCE, SEED = 20, 5.0, 7


@torch.no_grad()
def stir(module: Any, seed: int = 0) -> Any:
    """The module with random weights, drawn in the order of their names, with which every part has
    an effect."""
    rng = torch.Generator().manual_seed(seed)
    for name, p in sorted(module.named_parameters()):
        if p.ndim > 1:
            p.copy_(torch.randn(p.shape, generator=rng) * p[0].numel() ** -0.5)
        else:
            one = "norm" in name and name.endswith("weight")
            p.copy_(one + 0.1 * torch.randn(p.shape, generator=rng))
    return module.eval()


def tuples(words: dict[str, Any]) -> dict[str, Any]:
    """Words of a config with tuples in place of lists."""
    return {k: tuple(v) if isinstance(v, list) else v for k, v in words.items()}


def our_text() -> CLIPText:
    """Our text encoder of the folder."""
    fields = {ours: TEXT[word] for word, ours in hub.TEXT_FIELDS.items()}
    config = clip.Config(**fields, activation="quick_gelu", eps=1e-5, text_pool="end")
    return stir(CLIPText(config, ()), 2)


def our_unet(name: str) -> UNet:
    return stir(UNet(unet.Config(**tuples(BASE | UNETS[name]))))


def our_vae() -> KLVAE:
    return stir(KLVAE(kl_vae.Config(**tuples(VAE))), 1)


def write(folder: Path, network: str = "text", dtype: torch.dtype = torch.float32) -> Path:
    """A model in the layout of diffusers, with all its files, in a folder."""
    parts = {
        "unet": ("diffusers", "UNet2DConditionModel"),
        "vae": ("diffusers", "AutoencoderKL"),
        "text_encoder": ("transformers", "CLIPTextModel"),
        "tokenizer": ("transformers", "CLIPTokenizer"),
        "scheduler": ("diffusers", "PNDMScheduler"),
    }
    for part in parts:
        (folder / part).mkdir(parents=True, exist_ok=True)
    kind = "Inpaint" if network == "inpainting" else ""
    index = {"_class_name": f"StableDiffusion{kind}Pipeline", "safety_checker": [None, None]}
    put(folder / "model_index.json", index | {name: list(each) for name, each in parts.items()})
    unet_words = {"_class_name": "UNet2DConditionModel"} | BASE | UNETS[network]
    put(folder / "unet/config.json", unet_words)
    put(folder / "vae/config.json", {"_class_name": "AutoencoderKL", "force_upcast": True} | VAE)
    put(folder / "text_encoder/config.json", TEXT)
    put(folder / "scheduler/scheduler_config.json", SCHEDULER)
    text = our_text()
    tensors = dict[str, Tensor]()
    for name, tensor in text.state_dict().items():
        theirs = checkpoint_names(f"read.{name}", text.config)
        tensors |= dict(zip(theirs, tensor.chunk(len(theirs)), strict=True))
    names = ("unet/diffusion_pytorch_model", "vae/diffusion_pytorch_model", "text_encoder/model")
    states = (our_unet(network).state_dict(), our_vae().state_dict(), tensors)
    for file, state in zip(names, states, strict=True):
        state = {name: tensor.to(dtype).contiguous() for name, tensor in state.items()}
        save_file(state, folder / f"{file}.safetensors", {"format": "pt"})
    _write_tokenizer(folder / "tokenizer")
    return folder


def put(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value), encoding="utf-8")


def _write_tokenizer(folder: Path) -> None:
    """A byte-level vocabulary with a few merges."""
    from tokenizers import pre_tokenizers

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    merges = ["r e", "b a", "ba l", "t s</w>", "a t", "h at"]
    tokens = [*letters, *(f"{letter}</w>" for letter in letters)]
    tokens += [merge.replace(" ", "") for merge in merges]
    tokens += ["<|startoftext|>", "<|endoftext|>"]
    put(folder / "vocab.json", {token: k for k, token in enumerate(tokens)})
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *merges]), encoding="utf-8")
    special = {"bos": "<|startoftext|>", "eos": "<|endoftext|>", "pad": "<|endoftext|>"}
    about = {f"{name}_token": token for name, token in special.items()}
    put(folder / "tokenizer_config.json", about | {"model_max_length": 77})


def inputs() -> dict[str, Tensor]:
    """Inputs of the parts."""
    rng = torch.Generator().manual_seed(3)
    return {
        "x": torch.randn(2, 9, 10, 6, generator=rng),  # no multiple of what the levels divide by
        "timesteps": torch.tensor([3, 700]),
        "text": torch.randn(2, 7, 24, generator=rng),
        "mask": torch.arange(7) < torch.tensor([[7], [4]]),
        "label": torch.tensor([1, 3]),
        "pixels": torch.rand(2, 3, 16, 24, generator=rng) * 2 - 1,
        "latents": torch.randn(2, 4, 4, 6, generator=rng),
        "noise": torch.randn(4, 8, 8, generator=torch.Generator().manual_seed(SEED))[None],
    }


@torch.no_grad()
def ours(folder: Path) -> dict[str, Tensor]:
    """Outputs by our code; the last two by the model in the folder, see ``write``."""
    given, out = inputs(), dict[str, Tensor]()
    x, t = given["x"], (given["timesteps"] + 1) / 1000
    known = torch.cat((x[:, 5:], 1 - x[:, 4:5]), 1)
    for name in UNETS:
        cond = Cond(label=given["label"], known=known)
        out[f"unet.{name}"] = our_unet(name)(x[:, :4], t, cond, (given["text"], given["mask"]))
    vae, scale = our_vae(), VAE["scaling_factor"]
    out["vae.encode"] = vae.encode(given["pixels"]) / scale
    out["vae.decode"] = vae.decode(given["latents"] * scale)
    checkpoint = hub.read(folder)
    tokens = checkpoint.words.encode(PROMPTS)
    out["ids"] = tokens.ids
    out["text"] = checkpoint.network.text.encode(tokens.ids)
    cond = Cond(tokens=checkpoint.words.encode(PROMPTS[:1]))
    denoise = guide(checkpoint.process.denoiser(checkpoint.network), cond, GUIDANCE)
    *_, last = sample(denoise, given["noise"], times(STEPS), SAMPLERS["euler"])
    out["sampled"] = last.x
    return out


@torch.no_grad()
def reference(folder: Path) -> dict[str, Tensor]:
    """The same outputs by diffusers and transformers."""
    from diffusers import (
        AutoencoderKL,
        DDIMScheduler,
        StableDiffusionPipeline,
        UNet2DConditionModel,
    )

    given, out = inputs(), dict[str, Tensor]()
    for name, changes in UNETS.items():
        network: nn.Module = stir(UNet2DConditionModel(**tuples(BASE | changes)))
        out[f"unet.{name}"] = network(
            given["x"][:, : changes.get("in_channels", 4)],
            given["timesteps"],
            encoder_hidden_states=given["text"],
            encoder_attention_mask=given["mask"],
            class_labels=given["label"] if "num_class_embeds" in changes else None,
        ).sample
    vae = stir(AutoencoderKL(**tuples(VAE)), 1)
    out["vae.encode"] = vae.encode(given["pixels"]).latent_dist.mode()
    out["vae.decode"] = vae.decode(given["latents"]).sample
    pipe = StableDiffusionPipeline.from_pretrained(folder, safety_checker=None)
    pipe.set_progress_bar_config(disable=True)
    out["ids"] = pipe.tokenizer(
        PROMPTS, padding="max_length", max_length=77, truncation=True, return_tensors="pt"
    ).input_ids
    out["text"] = pipe.text_encoder(out["ids"])[0]
    # Timesteps 999, 949, ..., 49 and then the data, which are our times.
    steps = {"timestep_spacing": "trailing", "set_alpha_to_one": True, "clip_sample": False}
    pipe.scheduler = DDIMScheduler.from_config(pipe.scheduler.config, **steps)
    out["sampled"] = pipe(
        PROMPTS[0],
        height=32,
        width=32,
        num_inference_steps=STEPS,
        guidance_scale=GUIDANCE,
        latents=given["noise"],
        output_type="latent",
    ).images
    return out


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as place:
        tensors = reference(write(Path(place)))
    save_file({name: each.contiguous() for name, each in tensors.items()}, REFERENCE)
    sys.stdout.write(f"{REFERENCE}: {REFERENCE.stat().st_size} bytes\n")
