"""Loader of Stable Diffusion 1 and 2 checkpoints in the layout of 🤗 diffusers.

    checkpoint = read(Path("stable-diffusion-v1-5"))

A folder holds model_index.json and folders for the U-Net, the autoencoder and the text encoder
(config.json and weights as safetensors, in fp32, fp16 or bf16, which are read as fp32), for the
tokenizer (vocab.json and merges.txt) and for the scheduler, whose config gives the noise schedule
and the kind of prediction. Of the scheduler only these are read: sampler and steps are those of the
request. A safety checker is not read. Unsupported settings are errors that name the field; so are
missing and extra tensors.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from pydantic import TypeAdapter, ValidationError
from torch import Tensor, nn

from kalpana.diffusion.denoiser import Process
from kalpana.diffusion.schedule import SCHEDULES, Discrete, Schedule
from kalpana.hub.clip import ACTIVATIONS, checkpoint_names
from kalpana.hub.clip_tokenizer import MERGES, VOCABULARY, Words, read_bpe
from kalpana.hub.diffusers_folder import class_of
from kalpana.hub.public import misfit, read_object, read_tensors
from kalpana.hub.vqgan import OLD
from kalpana.hub.weights import fingerprint
from kalpana.models import clip, kl_vae, unet
from kalpana.models.kl_vae import KLVAE
from kalpana.models.text_unet import CLIPText, TextUNet
from kalpana.types import KalpanaError

INDEX, CONFIG, SCHEDULER = "model_index.json", "config.json", "scheduler_config.json"
PIPELINES = tuple(f"StableDiffusion{kind}Pipeline" for kind in ("", "Img2Img", "Inpaint"))
PARTS = ("unet", "vae", "text_encoder", "tokenizer", "scheduler")
UNUSED = ("feature_extractor", "safety_checker", "image_encoder", "requires_safety_checker")
# Names of the weights in a part, without suffix, in order of preference.
WEIGHTS = {
    "unet": ("diffusion_pytorch_model", "diffusion_pytorch_model.fp16"),
    "vae": ("diffusion_pytorch_model", "diffusion_pytorch_model.fp16"),
    "text_encoder": ("model", "model.fp16"),
}
# Words of UNet2DConditionModel, and the values with which our network is the same.
UNET_ONLY: dict[str, tuple[Any, ...]] = {
    "addition_embed_type": (None,),
    "addition_embed_type_num_heads": (64,),
    "addition_time_embed_dim": (None,),
    "attention_type": ("default",),
    "center_input_sample": (False,),
    "class_embed_type": (None,),
    "class_embeddings_concat": (False,),
    "conv_in_kernel": (3,),
    "conv_out_kernel": (3,),
    "cross_attention_norm": (None,),
    "downsample_padding": (1,),
    "dropout": (0,),
    "dual_cross_attention": (False,),
    "encoder_hid_dim": (None,),
    "encoder_hid_dim_type": (None,),
    "mid_block_only_cross_attention": (None, False),
    "mid_block_scale_factor": (1,),
    "num_attention_heads": (None,),
    "num_class_embeds": (None,),
    "only_cross_attention": (False,),
    "projection_class_embeddings_input_dim": (None,),
    "resnet_out_scale_factor": (1,),
    "resnet_skip_time_act": (False,),
    "resnet_time_scale_shift": ("default",),
    "reverse_transformer_layers_per_block": (None,),
    "time_cond_proj_dim": (None,),
    "time_embedding_act_fn": (None,),
    "time_embedding_dim": (None,),
    "time_embedding_type": ("positional",),
    "timestep_post_act": (None,),
    "upcast_attention": (None, False, True),  # we compute in fp32
}
VAE_ONLY: dict[str, tuple[Any, ...]] = {
    "force_upcast": (False, True),  # we compute in fp32
    "latents_mean": (None,),
    "latents_std": (None,),
    "mid_block_add_attention": (True,),
}
TEXT_FIELDS = {
    "vocab_size": "vocabulary",
    "max_position_embeddings": "length",
    "hidden_size": "text_width",
    "num_hidden_layers": "text_depth",
    "num_attention_heads": "text_heads",
    "intermediate_size": "text_hidden",
}
TEXT_ONLY: dict[str, tuple[Any, ...]] = {
    "model_type": ("clip_text_model", "clip"),
    "quantization_config": (None,),
}
# Words of a scheduler. The first say what the network was trained for; the others how diffusers
# would take its steps, of which only these values change nothing in the process.
SCHEDULER_ONLY: dict[str, tuple[Any, ...]] = {
    "clip_sample": (False,),
    "num_train_timesteps": (unet.TIMESTEPS,),
    "thresholding": (False,),
    "trained_betas": (None,),
    "use_flow_sigmas": (None, False),
}
STEPS = (
    "algorithm_type", "clip_sample_range", "disable_corrector", "dynamic_thresholding_ratio",
    "euler_at_final", "final_sigmas_type", "flow_shift", "interpolation_type",
    "lambda_min_clipped", "lower_order_final", "original_inference_steps", "predict_x0",
    "sample_max_value", "set_alpha_to_one", "shift_terminal", "sigma_max", "sigma_min",
    "skip_prk_steps", "solver_order", "solver_p", "solver_type", "steps_offset", "time_shift_type",
    "timestep_scaling", "timestep_spacing", "timestep_type", "use_beta_sigmas",
    "use_dynamic_shifting", "use_exponential_sigmas", "use_karras_sigmas", "use_lu_lambdas",
    "variance_type",
)  # fmt: skip
PREDICTIONS = {"epsilon": "eps", "v_prediction": "v", "sample": "x0"}
BETAS = ("linear", "scaled_linear")


@dataclass(frozen=True)
class Checkpoint:
    """Loaded checkpoint: the network with its text encoder, the autoencoder, the tokenizer, the
    process it was trained for, and the SHA-256 of its weights by their paths in the folder."""

    network: TextUNet
    codec: KLVAE
    words: Words
    process: Process
    files: dict[str, str]


def takes(folder: Path) -> bool:
    """Whether the pipeline in a folder is a Stable Diffusion 1 or 2, by its class. Raises
    KalpanaError if it is none of diffusers."""
    return class_of(folder) in PIPELINES


def read(folder: Path) -> Checkpoint:
    """Checkpoint in a folder, in fp32 on the CPU.

    Raises KalpanaError if a file is missing or damaged, or a setting is not supported. All small
    files are read before the weights.
    """
    check_index(folder / INDEX)
    files = find_files(folder)
    unet_config = unet_config_of(folder / "unet" / CONFIG)
    vae_config = vae_config_of(folder / "vae" / CONFIG)
    text_config = text_config_of(folder / "text_encoder" / CONFIG)
    process = process_of(folder / "scheduler" / SCHEDULER)
    words = read_bpe(folder / "tokenizer", text_config)
    for word, value, other, part in (
        ("cross_attention_dim", unet_config.cross_attention_dim, text_config.text_width, "text"),
        ("out_channels", unet_config.out_channels, vae_config.latent_channels, "vae"),
    ):
        if value != other:
            raise misfit(
                folder / "unet" / CONFIG, word, value, f"the config of the {part} gives {other}"
            )
    empty = tuple(words.encode([""]).ids[0].tolist())
    with torch.device("meta"):  # no random weights, which would be overwritten
        network = TextUNet(unet_config, CLIPText(text_config, empty))
        codec = KLVAE(vae_config)
    fill(
        network.text,
        files["text_encoder"],
        lambda own: checkpoint_names(f"read.{own}", text_config),
    )
    fill(network.unet, files["unet"])
    fill(codec, files["vae"])
    return Checkpoint(
        network.eval().requires_grad_(False),
        codec.eval().requires_grad_(False),
        words,
        process,
        {str(path.relative_to(folder)): fingerprint(path) for path in files.values()},
    )


def check_index(path: Path) -> None:
    """Raises KalpanaError unless a model_index.json is that of a Stable Diffusion 1 or 2."""
    given = read_object(path)
    if (name := given.get("_class_name")) not in PIPELINES:
        raise misfit(path, "_class_name", name, f"only {', '.join(PIPELINES)} can be read")
    for word, value in given.items():
        if word[0] != "_" and word not in (*PARTS, *UNUSED) and value not in (None, [None, None]):
            raise misfit(path, word, value, f"only {', '.join(PARTS)} can be read")


def find_files(folder: Path) -> dict[str, Path]:
    """The weights of each part of a folder.

    Raises KalpanaError, which names all that is missing; a pickle, which can run code when it is
    read, is not taken.
    """
    small = [f"{part}/{CONFIG}" for part in WEIGHTS]
    small += [f"tokenizer/{VOCABULARY}", f"tokenizer/{MERGES}", f"scheduler/{SCHEDULER}"]
    missing, pickles = [name for name in small if not (folder / name).is_file()], list[str]()
    found = {}
    for part, names in WEIGHTS.items():
        paths = [folder / part / f"{name}.safetensors" for name in names]
        if there := [path for path in paths if path.is_file()]:
            found[part] = there[0]
            continue
        missing.append(str(paths[0].relative_to(folder)))
        pickles += [f"{part}/{path.name}" for path in sorted((folder / part).glob("*.bin"))]
    if not missing:
        return found
    hint = "put them there"
    if pickles:
        hint = (
            f"{', '.join(pickles)} are pickles, which can run code when they are read: where you "
            'trust them, write safetensors with python -c "from diffusers import DiffusionPipeline '
            f"as P; f = {str(folder)!r}; P.from_pretrained(f, use_safetensors=False)"
            '.save_pretrained(f)"'
        )
    raise KalpanaError(f"{folder} lacks {', '.join(missing)}: {hint}")


def unet_config_of(path: Path) -> unet.Config:
    """Config of a unet/config.json. Raises KalpanaError, which names the field, if a setting is not
    supported."""
    return _config(path, unet.Config, UNET_ONLY)


def vae_config_of(path: Path) -> kl_vae.Config:
    """Config of a vae/config.json. Raises KalpanaError as ``unet_config_of``."""
    return _config(path, kl_vae.Config, VAE_ONLY)


def text_config_of(path: Path) -> clip.Config:
    """Text fields of a CLIP in a text_encoder/config.json. Raises KalpanaError as
    ``unet_config_of``."""
    given = read_object(path)
    _check_only(path, given, TEXT_ONLY)
    # What a file leaves out has the value that transformers gives it.
    values = {ours: given.get(word, getattr(clip.BASE, ours)) for word, ours in TEXT_FIELDS.items()}
    for word, ours in TEXT_FIELDS.items():
        if type(values[ours]) is not int or values[ours] < 1:
            raise misfit(path, word, values[ours], "only a whole number of 1 or more can be read")
    if values["text_width"] % values["text_heads"]:
        raise misfit(
            path,
            "num_attention_heads",
            values["text_heads"],
            f"it should divide hidden_size, {values['text_width']}",
        )
    act = given.get("hidden_act", "quick_gelu")
    if act not in ACTIVATIONS:
        raise misfit(path, "hidden_act", act, f"only {', '.join(ACTIVATIONS)} can be read")
    eps = given.get("layer_norm_eps", clip.BASE.eps)
    return _validated(
        path,
        clip.Config,
        {**values, "activation": ACTIVATIONS[act], "eps": eps, "text_pool": "end"},
    )


def process_of(path: Path) -> Process:
    """Diffusion process of a scheduler_config.json, whatever solver it names.

    Raises KalpanaError as ``unet_config_of``.
    """
    given = {word: value for word, value in read_object(path).items() if word[0] != "_"}
    _check_only(path, given, SCHEDULER_ONLY)
    read = ("beta_start", "beta_end", "beta_schedule", "prediction_type", "rescale_betas_zero_snr")
    for word in given:
        if word not in (*read, *SCHEDULER_ONLY, *STEPS):
            raise misfit(path, word, given[word], "this word is not known")
    name = given.get("prediction_type", "epsilon")
    if name not in PREDICTIONS:
        raise misfit(path, "prediction_type", name, f"only {', '.join(PREDICTIONS)} can be read")
    for word in ("beta_start", "beta_end", "beta_schedule"):
        if word not in given:  # schedulers of diffusers have different defaults
            raise misfit(path, word, None, "it is missing: give that of the model's training")
    if (betas := given["beta_schedule"]) not in BETAS:
        raise misfit(path, "beta_schedule", betas, f"only {', '.join(BETAS)} can be read")
    values = {word: given[word] for word in ("beta_start", "beta_end")}
    zero_snr = given.get("rescale_betas_zero_snr", False)
    schedule = _validated(path, Discrete, {**values, "betas": betas, "zero_snr": zero_snr})
    if not 0 < schedule.beta_start <= schedule.beta_end < 1:
        raise misfit(path, "beta_end", schedule.beta_end, "betas should rise inside 0 and 1")
    names = {each: key for key, each in SCHEDULES.items()}
    known: str | Schedule = names.get(schedule, schedule)
    return Process(known, PREDICTIONS[name])


def _config(path: Path, kind: Any, only: Mapping[str, tuple[Any, ...]]) -> Any:
    """Config, a dataclass, of a config.json whose other words have values of ``only``."""
    given = {word: value for word, value in read_object(path).items() if word[0] != "_"}
    _check_only(path, given, only)
    known = kind.__dataclass_fields__
    for word in given:
        if word not in known and word not in only:
            raise misfit(path, word, given[word], "this word is not known")
    return _validated(path, kind, {k: v for k, v in given.items() if k in known})


def _validated(path: Path, kind: Any, values: Mapping[str, Any]) -> Any:
    """A dataclass of values whose types are checked."""
    try:
        return TypeAdapter(kind).validate_python(dict(values))
    except ValidationError as error:
        first = error.errors()[0]
        raise misfit(path, str(first["loc"][0]), first["input"], first["msg"].lower()) from None


def _check_only(path: Path, given: Mapping[str, Any], only: Mapping[str, tuple[Any, ...]]) -> None:
    """Raises KalpanaError for a word with a value that is not among those of ``only``."""
    for word, values in only.items():
        if word in given and given[word] not in values:
            shown = ", ".join("null" if v is None else str(v).lower() for v in values)
            raise misfit(path, word, given[word], f"only {shown} can be read")


def fill(
    module: nn.Module, path: Path, names: Callable[[str], Sequence[str]] = lambda own: [own]
) -> None:
    """Load a module on the meta device with the tensors of a file, in fp32.

    ``names`` maps its tensor names to those of the file, of which several are stacked. Raises
    KalpanaError if a tensor is missing, left over or of another shape.
    """
    left = {_current(name): tensor for name, tensor in read_tensors(path).items()}
    left = {name: tensor for name, tensor in left.items() if not name.endswith("position_ids")}
    bare = not any(name.startswith("text_model.") for name in left)
    state = dict[str, Tensor]()
    for own, like in module.state_dict().items():
        wanted = [name.removeprefix("text_model.") if bare else name for name in names(own)]
        if lost := [name for name in wanted if name not in left]:
            raise KalpanaError(
                f"{path} lacks {', '.join(lost)}: it holds not the weights of its {CONFIG}"
            )
        tensor = torch.cat([left.pop(name).float() for name in wanted])
        if tensor.numel() == like.numel() and tensor.ndim == 4 and like.ndim == 2:
            tensor = tensor.flatten(1)  # old files have 1x1 convolutions in place of matrices
        if tensor.shape != like.shape:
            raise KalpanaError(
                f"{wanted[0]} in {path} is {tuple(tensor.shape)}, and {CONFIG} asks for "
                f"{tuple(like.shape)}: take both from one model"
            )
        state[own] = tensor
    if left:
        raise KalpanaError(
            f"{path} holds {', '.join(sorted(left)[:3])}, which a model of its {CONFIG} does not "
            "have"
        )
    module.load_state_dict(state, assign=True)


def _current(name: str) -> str:
    """Today's name in diffusers of a tensor; the attention of autoencoders had others."""
    former = "|".join(OLD)
    return re.sub(rf"(attentions\.\d+\.)({former})\.", lambda m: f"{m[1]}{OLD[m[2]]}.", name)
