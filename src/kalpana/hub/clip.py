"""Loader of public CLIP and SigLIP checkpoints into ``models/clip.py``.

    checkpoint = read(find("openai/clip-vit-base-patch32"))

A folder is in the layout of 🤗 transformers: it holds config.json, the weights as safetensors,
preprocessor_config.json and tokenizer.json, perhaps with tokenizer_config.json. Unsupported
settings are errors that name the field; so are missing and extra tensors.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from kalpana.hub.clip_tokenizer import TEXTS, TEXTS_TOO, Words, to_words
from kalpana.hub.public import hashed, misfit, read_object, read_tensors
from kalpana.models.clip import CLIP, PRESETS, Config
from kalpana.types import KalpanaError

SINGLE, INDEX, PICKLE = "model.safetensors", "model.safetensors.index.json", "pytorch_model.bin"
CONFIG, PICTURES = "config.json", "preprocessor_config.json"

# Defaults in transformers of the fields that a config.json leaves out: they are these models.
MODELS = {"clip": PRESETS["vit-b/32"], "siglip": PRESETS["siglip-b/16-224"]}
ACTIVATIONS = {"gelu": "gelu", "quick_gelu": "quick_gelu", "gelu_pytorch_tanh": "gelu_tanh"}
FIELDS = {
    "vision_config.image_size": "side",
    "vision_config.patch_size": "patch",
    "vision_config.hidden_size": "width",
    "vision_config.num_hidden_layers": "depth",
    "vision_config.num_attention_heads": "heads",
    "vision_config.intermediate_size": "hidden",
    "text_config.vocab_size": "vocabulary",
    "text_config.max_position_embeddings": "length",
    "text_config.hidden_size": "text_width",
    "text_config.num_hidden_layers": "text_depth",
    "text_config.num_attention_heads": "text_heads",
    "text_config.intermediate_size": "text_hidden",
}
ONLY = {
    "quantization_config": None,
    "vision_config.num_channels": 3,
    "vision_config.vision_use_head": True,
}

# Prefixes of our tensor names and of the checkpoint's; INNER holds the names inside a block.
NAMES = {
    "see.patches.": "vision_model.embeddings.patch_embedding.",
    "see.mark": "vision_model.embeddings.class_embedding",
    "see.positions": "vision_model.embeddings.position_embedding.weight",
    "see.before.": "vision_model.pre_layrnorm.",  # spelled so in transformers
    "see.blocks.": "vision_model.encoder.layers.",
    "see.norm.": "vision_model.post_layernorm.",
    "see.gather.out.": "vision_model.head.attention.out_proj.",
    "see.gather.norm.": "vision_model.head.layernorm.",
    "see.gather.": "vision_model.head.",
    "see.project.": "visual_projection.",
    "read.words.": "text_model.embeddings.token_embedding.",
    "read.positions": "text_model.embeddings.position_embedding.weight",
    "read.blocks.": "text_model.encoder.layers.",
    "read.norm.": "text_model.final_layer_norm.",
}
READ = {"end": {"read.project.": "text_projection."}, "last": {"read.project.": "text_model.head."}}
INNER = {
    "norm_one.": "layer_norm1.",
    "norm_two.": "layer_norm2.",
    "attention.out.": "self_attn.out_proj.",
    "attention.qkv.": "self_attn.{}_proj.",
    "feed.up.": "mlp.fc1.",
    "feed.down.": "mlp.fc2.",
}


@dataclass(frozen=True)
class Framing:
    """Preprocessing of a picture to the size of the model's input.

    ``resize``: length of the shorter side, or (height, width), after resizing with Pillow's filter
    of number ``resample``. ``crop``: (height, width) of the middle that is kept, black beyond its
    edges.
    """

    resize: int | tuple[int, int] | None
    crop: tuple[int, int] | None
    resample: int = 3  # Pillow's bicubic


@dataclass(frozen=True)
class Checkpoint:
    """Loaded checkpoint: the model, its preprocessing and tokenizer, and a hash of its weights."""

    model: CLIP
    framing: Framing
    words: Words
    fingerprint: str


def find(name: str) -> Path:
    """Folder of a checkpoint, by its path or by a name like openai/clip-vit-base-patch32.

    A name is looked up in the Hugging Face cache and downloaded into it if it is missing there,
    unless HF_HUB_OFFLINE is set. Raises KalpanaError if there is no such checkpoint or no network.
    """
    if name and Path(name).is_dir():
        return Path(name)
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", name):
        raise KalpanaError(
            f"there is no checkpoint {name!r}: "
            "name a folder, or a model as openai/clip-vit-base-patch32 is named"
        )
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError

    def get(file: str, commit: str | None = None) -> Path:
        try:
            return Path(hf_hub_download(name, file, revision=commit, local_files_only=True))
        except EntryNotFoundError:
            return Path(hf_hub_download(name, file, revision=commit))

    try:
        folder = get(CONFIG).parent
        commit = folder.name  # all files from one commit
        for file in (PICTURES, TEXTS):
            get(file, commit)
        with suppress(EntryNotFoundError):
            get(TEXTS_TOO, commit)
        try:
            get(SINGLE, commit)
        except EntryNotFoundError:
            get(INDEX, commit)
            for file in _shards(folder):
                get(file, commit)
    except KalpanaError:
        raise
    except Exception as error:  # the library has its own class for each of many causes
        reason = str(error).strip().split("\n")[0].rstrip(".")
        raise KalpanaError(
            f"{name} is not in the Hugging Face cache and could not be fetched ({reason}): "
            f"download {CONFIG}, {SINGLE} ({PICKLE} where it has none), {PICTURES}, {TEXTS} and "
            f"{TEXTS_TOO} of https://huggingface.co/{name} into a folder, "
            f"such as {name.split('/')[1]}, and name the folder"
        ) from None
    return folder


def read(folder: Path) -> Checkpoint:
    """Checkpoint in a folder, in fp32 on the CPU.

    Raises KalpanaError if a file is missing or damaged, or a setting is not supported.
    """
    missing = [file for file in (CONFIG, PICTURES, TEXTS) if not (folder / file).is_file()]
    if missing:
        raise KalpanaError(
            f"{folder} lacks {', '.join(missing)}: "
            f"put there all of {CONFIG}, {SINGLE}, {PICTURES} and {TEXTS}"
        )
    files = weights_of(folder)
    config = to_config(folder / CONFIG)
    framing, config = to_framing(folder / PICTURES, config)
    words = to_words(folder, config)
    tensors = {name: tensor for file in files for name, tensor in read_tensors(file).items()}
    with torch.device("meta"):  # no random weights, which would be overwritten
        model = CLIP(config)
    model.load_state_dict(translate(tensors, config, folder), assign=True)
    return Checkpoint(model.eval().requires_grad_(False), framing, words, hashed(files))


def weights_of(folder: Path, kind: str = "AutoModel") -> list[Path]:
    """The safetensors files of a checkpoint, that transformers loads by its class ``kind``.

    Raises KalpanaError if some or all are missing, or only a pickle is there.
    """
    if (folder / SINGLE).is_file():
        return [folder / SINGLE]
    if (folder / INDEX).is_file():
        files = [folder / file for file in _shards(folder)]
        missing = [file.name for file in files if not file.is_file()]
        if missing:
            raise KalpanaError(
                f"{folder} lacks {', '.join(missing)}, which {INDEX} names: fetch what is missing"
            )
        return files
    if (folder / PICKLE).is_file():
        raise KalpanaError(
            f"{folder} has its weights as {PICKLE} alone, a pickle, which can run code when it is "
            f"read: where you trust it, write {SINGLE} with python -c "
            f'"from transformers import {kind} as M; f = {str(folder)!r}; '
            'M.from_pretrained(f).save_pretrained(f)"'
        )
    raise KalpanaError(
        f"{folder} holds no weights: put its {SINGLE} there, or {INDEX} and the files that it names"
    )


def to_config(path: Path) -> Config:
    """Config of a config.json of model_type clip or siglip.

    Raises KalpanaError, which names the field, if a setting is not supported.
    """
    given = read_object(path)
    kind = given.get("model_type")
    if kind not in MODELS:
        raise misfit(path, "model_type", kind, "only clip and siglip can be read")
    base, settings = MODELS[kind], _settings(path, given)

    def count(name: str, default: int | None) -> int:
        value = settings.get(name, default)
        if type(value) is not int or value < 1:
            raise misfit(path, name, value, "only a whole number of 1 or more can be read")
        return value

    for name, only in ONLY.items():
        if settings.get(name, only) != only:
            raise misfit(path, name, settings[name], f"only {json.dumps(only)} can be read")
    changes: dict[str, Any] = {
        ours: count(theirs, getattr(base, ours)) for theirs, ours in FIELDS.items()
    }
    for part, width, heads in (
        ("vision_config", "width", "heads"),
        ("text_config", "text_width", "text_heads"),
    ):
        if changes[width] % changes[heads]:
            raise misfit(
                path,
                f"{part}.num_attention_heads",
                changes[heads],
                f"it should divide hidden_size, {changes[width]}",
            )
    changes |= _of_both_towers(path, settings, base)
    if kind == "clip":
        end = count("text_config.eos_token_id", base.end)
        changes["end"] = None if end == 2 else end  # 2, an old error, stands for the highest id
        changes["features"] = count("projection_dim", base.features)
    else:
        changes["features"] = changes["width"]
        other = settings.get("text_config.projection_size") or changes["text_width"]
        if other != changes["width"]:
            raise misfit(
                path,
                "text_config.projection_size",
                other,
                f"only vision_config.hidden_size can be read, {changes['width']}",
            )
    return replace(base, **changes)


def _settings(path: Path, given: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a config.json, and those of its parts as "vision_config.hidden_size"."""
    settings = dict(given)
    for part in ("vision_config", "text_config"):
        whole = given.get(f"{part}_dict")  # takes precedence in old files, which have both
        whole = given.get(part, {}) if whole is None else whole
        if not isinstance(whole, dict):
            raise misfit(path, part, whole, "it should be an object")
        settings |= {f"{part}.{name}": value for name, value in whole.items()}
    return settings


def _of_both_towers(path: Path, settings: Mapping[str, Any], base: Config) -> dict[str, Any]:
    """Activation and epsilon, which must be equal in both towers."""
    activation = next(theirs for theirs, ours in ACTIVATIONS.items() if ours == base.activation)
    defaults = {"hidden_act": activation, "layer_norm_eps": base.eps}
    shared = {
        name: settings.get(f"vision_config.{name}", default) for name, default in defaults.items()
    }
    for name, value in shared.items():
        if (other := settings.get(f"text_config.{name}", defaults[name])) != value:
            raise misfit(
                path,
                f"text_config.{name}",
                other,
                f"only that of vision_config can be read, {json.dumps(value)}",
            )
    if shared["hidden_act"] not in ACTIVATIONS:
        raise misfit(
            path,
            "vision_config.hidden_act",
            shared["hidden_act"],
            f"only {', '.join(ACTIVATIONS)} can be read",
        )
    return {"activation": ACTIVATIONS[shared["hidden_act"]], "eps": shared["layer_norm_eps"]}


def to_framing(path: Path, config: Config) -> tuple[Framing, Config]:
    """Preprocessing of a preprocessor_config.json, and the config with its mean and deviation.

    Raises KalpanaError, which names the field, if a setting is not supported.
    """
    given, side = read_object(path), config.side
    clip = config.text_pool == "end"

    def setting(name: str, default: Any) -> Any:
        value = given.get(name)
        return default if value is None else value

    def area(name: str) -> int | tuple[int, int]:
        """Length of the shorter side, or height and width."""
        value = setting(name, 224 if clip and name == "size" else {"height": 224, "width": 224})
        if isinstance(value, dict) and set(value) == {"shortest_edge"}:
            value = value["shortest_edge"]
        two = isinstance(value, dict) and set(value) == {"height", "width"}
        sides = (value["height"], value["width"]) if two else (value,)
        if not all(type(each) is int and each > 0 for each in sides):
            raise misfit(
                path, name, value, "only a shortest_edge or a height and width can be read"
            )
        return sides[0] if len(sides) == 1 else (sides[0], sides[1])

    if setting("do_rescale", True) is not True:
        raise misfit(path, "do_rescale", given["do_rescale"], "only true can be read")
    if not math.isclose(float(setting("rescale_factor", 1 / 255)), 1 / 255, rel_tol=1e-6):
        raise misfit(path, "rescale_factor", given["rescale_factor"], "only 1/255 can be read")
    if setting("do_pad", False):
        raise misfit(path, "do_pad", given["do_pad"], "only false can be read")
    resize = area("size") if setting("do_resize", True) else None
    crop = area("crop_size") if setting("do_center_crop", clip) else None
    crop = (crop, crop) if isinstance(crop, int) else crop
    if (crop or resize) != (side, side):
        name = "crop_size" if crop else "size"
        raise misfit(
            path,
            name,
            given.get(name),
            f"pictures should come out {side} x {side}, which is vision_config.image_size",
        )
    resample = setting("resample", 3)
    if resample not in range(6):
        raise misfit(path, "resample", resample, "only 0 to 5, the filters of Pillow, can be read")
    mean, deviation = (0.0,) * 3, (1.0,) * 3
    if setting("do_normalize", True):
        mean = setting("image_mean", config.mean)
        deviation = setting("image_std", config.deviation)
    _check_levels(path, {"image_mean": mean, "image_std": deviation})
    config = replace(config, mean=tuple(mean), deviation=tuple(deviation))
    return Framing(resize, crop, resample), config


def _check_levels(path: Path, levels: Mapping[str, Sequence[float]]) -> None:
    """Raises KalpanaError unless mean and deviation are numbers for red, green and blue."""
    for name, three in levels.items():
        if (
            not isinstance(three, Sequence)
            or len(three) != 3
            or not all(isinstance(level, int | float) for level in three)
            or (name == "image_std" and min(three) <= 0)
        ):
            raise misfit(path, name, three, "it should be a number for each of red, green and blue")


def translate(given: Mapping[str, Tensor], config: Config, folder: Path) -> dict[str, Tensor]:
    """State dict of our model from that of 🤗 transformers' ``CLIPModel`` or ``SiglipModel``.

    Raises KalpanaError if a tensor is missing, left over or of another shape.
    """
    # position_ids are not weights: they only count 0, 1, 2, ...
    left = {name: tensor for name, tensor in given.items() if not name.endswith("position_ids")}
    # SigLIP's pooling has one matrix for query, key and value. In ours that of the query is by
    # itself, since it applies to the probe alone.
    for leaf in ("weight", "bias"):
        if (whole := left.pop(f"vision_model.head.attention.in_proj_{leaf}", None)) is not None:
            query, keys = whole.tensor_split([config.width])
            left[f"vision_model.head.query.{leaf}"] = query
            left[f"vision_model.head.keys.{leaf}"] = keys
    with torch.device("meta"):
        wanted = CLIP(config).state_dict()
    state = {}
    for name, like in wanted.items():
        parts = [left.pop(theirs, None) for theirs in checkpoint_names(name, config)]
        found = [part for part in parts if part is not None]
        if len(found) < len(parts):
            raise KalpanaError(
                f"the weights in {folder} lack {', '.join(checkpoint_names(name, config))}: "
                f"they are not those of its {CONFIG}"
            )
        tensor = torch.cat(found).float() if like.ndim else found[0].float().reshape(-1)[0]
        if tensor.shape != like.shape:
            shapes = f"{tuple(tensor.shape)}, and {CONFIG} asks for {tuple(like.shape)}"
            raise KalpanaError(
                f"{checkpoint_names(name, config)[0]} in {folder} is {shapes}: "
                "take both from one model"
            )
        state[name] = tensor
    if left:
        raise KalpanaError(
            f"the weights in {folder} hold {', '.join(sorted(left)[:3])}, "
            f"which a model of its {CONFIG} does not have"
        )
    return state


def checkpoint_names(name: str, config: Config) -> list[str]:
    """The checkpoint's names of the tensors that make up our tensor of this name."""
    for ours, other in (NAMES | READ[config.text_pool]).items():
        if name.startswith(ours):
            name = other + name.removeprefix(ours)
            break
    for ours, other in INNER.items():
        name = name.replace(ours, other)
    return [name.format(letter) for letter in "qkv"] if "{}" in name else [name]


def _shards(folder: Path) -> list[str]:
    """Files named in an index of weights, without repetition."""
    files = read_object(folder / INDEX).get("weight_map")
    if not isinstance(files, dict) or not all(
        isinstance(file, str) and Path(file).name == file for file in files.values()
    ):
        raise misfit(
            folder / INDEX,
            "weight_map",
            files,
            "it should say of each tensor which file beside it holds it",
        )
    return sorted(set(files.values()))
