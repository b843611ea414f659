"""Public VQGAN checkpoints, read into ``models/vqgan.py`` from a folder.

    checkpoint = read(Path("vqgan-f16-16384"))

A folder holds one file of safetensors, and what stands beside it tells the layout: a .yaml is the model.yaml of taming-transformers, a
config.json that of VQModel in 🤗 diffusers, and nothing is needed for min-dalle's detoker, which is the decoder of DALL-E mini and may be
named as a file. What this version cannot follow is an error that names the field; so is a tensor too many or too few.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor

from kalpana.hub.public import misfit, read_object, read_tensors
from kalpana.hub.weights import fingerprint
from kalpana.models.vqgan import PRESETS, VQGAN, Config
from kalpana.types import KalpanaError

CONFIG, PICKLES = "config.json", (".ckpt", ".bin", ".pt", ".pth")
CONVERT = (
    "import torch; from safetensors.torch import save_file; t = torch.load({!r}, 'cpu', weights_only=False); "
    "save_file({{k: v.contiguous() for k, v in t.get('state_dict', t).items()}}, {!r})"
)


@dataclass(frozen=True)
class Layout:
    """Our names and theirs, by their beginnings, as regular expressions; then those of a block's parts, {} being q, k and v in turn."""

    names: dict[str, str]
    parts: dict[str, str]
    finest: bool  # whether the decoder's levels are counted from the finest


TAMING = Layout(
    {
        r"quantiser\.vectors": "quantize.embedding.weight",
        r"encoder\.narrow\.": "quant_conv.",
        r"decoder\.widen\.": "post_quant_conv.",
        r"encoder\.levels\.(\d+)\.(\d+)\.attention\.": r"encoder.down.\1.attn.\2.",
        r"encoder\.levels\.(\d+)\.(\d+)\.": r"encoder.down.\1.block.\2.",
        r"encoder\.downs\.(\d+)\.": r"encoder.down.\1.downsample.conv.",
        r"decoder\.levels\.(\d+)\.(\d+)\.attention\.": r"decoder.up.\1.attn.\2.",
        r"decoder\.levels\.(\d+)\.(\d+)\.": r"decoder.up.\1.block.\2.",
        r"decoder\.ups\.(\d+)\.": r"decoder.up.\1.upsample.conv.",
        r"(..)coder\.middle\.0\.attention\.": r"\1coder.mid.attn_1.",
        r"(..)coder\.middle\.0\.": r"\1coder.mid.block_1.",
        r"(..)coder\.middle\.1\.": r"\1coder.mid.block_2.",
        r"(..)coder\.stem\.": r"\1coder.conv_in.",
        r"(..)coder\.norm\.": r"\1coder.norm_out.",
        r"(..)coder\.head\.": r"\1coder.conv_out.",
    },
    {
        "norm_one": "norm1",
        "one": "conv1",
        "norm_two": "norm2",
        "two": "conv2",
        "skip": "nin_shortcut",
        "qkv": "{}",
        "out": "proj_out",
    },
    finest=True,
)
DETOKENIZER = replace(TAMING, names={**TAMING.names, r"quantiser\.vectors": "embedding.weight"})
DIFFUSERS = Layout(
    {
        r"quantiser\.vectors": "quantize.embedding.weight",
        r"encoder\.narrow\.": "quant_conv.",
        r"decoder\.widen\.": "post_quant_conv.",
        r"encoder\.levels\.(\d+)\.(\d+)\.attention\.": r"encoder.down_blocks.\1.attentions.\2.",
        r"encoder\.levels\.(\d+)\.(\d+)\.": r"encoder.down_blocks.\1.resnets.\2.",
        r"encoder\.downs\.(\d+)\.": r"encoder.down_blocks.\1.downsamplers.0.conv.",
        r"decoder\.levels\.(\d+)\.(\d+)\.attention\.": r"decoder.up_blocks.\1.attentions.\2.",
        r"decoder\.levels\.(\d+)\.(\d+)\.": r"decoder.up_blocks.\1.resnets.\2.",
        r"decoder\.ups\.(\d+)\.": r"decoder.up_blocks.\1.upsamplers.0.conv.",
        r"(..)coder\.middle\.0\.attention\.": r"\1coder.mid_block.attentions.0.",
        r"(..)coder\.middle\.(\d+)\.": r"\1coder.mid_block.resnets.\2.",
        r"(..)coder\.stem\.": r"\1coder.conv_in.",
        r"(..)coder\.norm\.": r"\1coder.conv_norm_out.",
        r"(..)coder\.head\.": r"\1coder.conv_out.",
    },
    {
        "norm_one": "norm1", "one": "conv1", "norm_two": "norm2", "two": "conv2", "skip": "conv_shortcut",
        "norm": "group_norm", "qkv": "to_{}", "out": "to_out.0",
    },
    finest=False,
)  # fmt: skip
OLD = {
    "query": "to_q",
    "key": "to_k",
    "value": "to_v",
    "proj_attn": "to_out.0",
}  # as diffusers once called them

# What can be read of a model.yaml, the fields of its ddconfig among the others: ours of the same meaning, the only value that can be
# followed, the rest, and what changes nothing about tokens and pictures.
YAML_FIELDS = {"num_res_blocks": "depth", "z_channels": "latent"}
YAML_ONLY = {
    "double_z": False,
    "in_channels": 3,
    "out_ch": 3,
    "resamp_with_conv": True,
    "give_pre_end": False,
    "remap": None,
}
YAML_READ = {"embed_dim", "n_embed", "ch", "ch_mult", "resolution", "attn_resolutions"}
YAML_IDLE = {
    "dropout",
    "lossconfig",
    "monitor",
    "ckpt_path",
    "image_key",
    "ignore_keys",
    "colorize_nlabels",
    "sane_index_shape",
}
# The same of a config.json, with what it means where it leaves one out.
JSON_FIELDS = {
    "layers_per_block": "depth",
    "latent_channels": "latent",
    "norm_num_groups": "groups",
}
JSON_ONLY = {
    "in_channels": 3,
    "out_channels": 3,
    "act_fn": "silu",
    "norm_type": "group",
    "mid_block_add_attention": True,
}
JSON_USUAL = {
    "layers_per_block": 1, "latent_channels": 3, "norm_num_groups": 32, "num_vq_embeddings": 256, "vq_embed_dim": None,
    "block_out_channels": [64], "down_block_types": ["DownEncoderBlock2D"], "up_block_types": ["UpDecoderBlock2D"],
}  # fmt: skip
JSON_IDLE = {"sample_size", "scaling_factor", "lookup_from_codebook", "force_upcast"}


@dataclass(frozen=True)
class Checkpoint:
    """A folder, read: the ``model``, in fp32 on the CPU, and a hash of its weights."""

    model: VQGAN
    fingerprint: str


@dataclass(frozen=True)
class Settings:
    """The fields of a file, by name. Each method raises KalpanaError, which names the field, where it cannot be followed."""

    path: Path
    values: Mapping[str, Any]

    def count(self, name: str) -> int:
        """A whole number of 1 or more."""
        if type(value := self.values.get(name)) is not int or value < 1:
            raise self.bad(name, "only a whole number of 1 or more can be read")
        return value

    def counts(self, name: str) -> tuple[int, ...]:
        """Several of them, or none."""
        values = self.values.get(name)
        if not isinstance(values, list) or not all(
            type(value) is int and value > 0 for value in values
        ):
            raise self.bad(name, "only a list of whole numbers of 1 or more can be read")
        return tuple(values)

    def kinds(self, name: str, plain: str, attends: str, count: int) -> list[bool]:
        """Which of so many blocks have attention."""
        values = self.values.get(name)
        if (
            not isinstance(values, list)
            or any(value not in (plain, attends) for value in values)
            or len(values) != count
        ):
            raise self.bad(name, f"only {plain} and {attends} can be read, {count} of them")
        return [value == attends for value in values]

    def check(self, only: Mapping[str, Any], known: set[str]) -> None:
        """Nothing is asked for that is not known, and of ``only`` nothing but what it says."""
        for name, value in self.values.items():
            if name not in known | set(only):
                raise self.bad(name, "this version does not know it")
            if name in only and value != only[name]:
                raise self.bad(name, f"only {json.dumps(only[name])} can be read")

    def bad(self, name: str, hint: str) -> KalpanaError:
        return misfit(self.path, name, self.values.get(name), hint)


def read(folder: Path) -> Checkpoint:
    """The checkpoint in a folder, or in the folder vqvae in it; or a file of min-dalle's detoker. Raises KalpanaError where something is
    missing or damaged, or asks for what is not to be had."""
    folder = folder / "vqvae" if (folder / "vqvae").is_dir() else folder
    weights = folder if folder.is_file() else weights_of(folder)
    folder = weights.parent
    yamls = sorted(folder.glob("*.yaml"))
    given = read_tensors(weights)
    detoker = "embedding.weight" in given  # what stands beside it belongs to others
    if len(yamls) > 1 and not detoker:
        raise KalpanaError(
            f"{folder} holds {', '.join(path.name for path in yamls)}: leave there the one that belongs to {weights.name}"
        )
    if detoker:
        config, layout = (
            replace(PRESETS["f16-16384"], eps=1e-5, encoder=False),
            DETOKENIZER,
        )  # its group norms have torch's own eps
    elif yamls:
        config, layout = from_yaml(yamls[0]), TAMING
    elif (folder / CONFIG).is_file():
        config, layout = from_json(folder / CONFIG), DIFFUSERS
    else:
        raise KalpanaError(
            f"{folder} does not say what its weights are: put the model.yaml of taming-transformers or {CONFIG} beside them"
        )
    state = translate(given, config, layout, weights)
    if layout is DETOKENIZER:  # it draws in [0, 1]
        state["decoder.head.weight"] *= 2
        state["decoder.head.bias"] = state["decoder.head.bias"] * 2 - 1
    with torch.device("meta"):  # nothing is drawn at random only to be written over
        model = VQGAN(config)
    model.load_state_dict(state, assign=True)
    return Checkpoint(model.eval().requires_grad_(False), fingerprint(weights))


def weights_of(folder: Path) -> Path:
    """The one file of safetensors in a folder. Raises KalpanaError where there is none or more, or only a pickle."""
    if not folder.is_dir():
        raise KalpanaError(f"there is no folder {folder}: name one that holds a VQGAN")
    found = sorted(folder.glob("*.safetensors"))
    if len(found) == 1:
        return found[0]
    if found:
        raise KalpanaError(
            f"{folder} holds {', '.join(path.name for path in found)}: leave one of them there"
        )
    for path in sorted(folder.iterdir()):
        if path.suffix in PICKLES:
            code = CONVERT.format(str(path), str(path.with_suffix(".safetensors")))
            raise KalpanaError(
                f"{path} is a pickle, which can run code when it is read: where you trust it, write safetensors with "
                f'python -c "{code}" (a .ckpt may need pip install pytorch-lightning)'
            )
    raise KalpanaError(f"{folder} holds no weights: put a file of safetensors there")


def from_yaml(path: Path) -> Config:
    """Our config of a model.yaml of taming-transformers. Raises KalpanaError, which names the field, where there is none."""
    try:
        whole = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise KalpanaError(f"{path} is no YAML: {' '.join(str(error).split())}") from None
    model = whole.get("model") if isinstance(whole, dict) else None
    params = model.get("params") if isinstance(model, dict) else None
    inner = params.get("ddconfig") if isinstance(params, dict) else None
    if not isinstance(model, dict) or not isinstance(params, dict) or not isinstance(inner, dict):
        raise KalpanaError(
            f"{path} should hold model, in it target and params, and in these ddconfig"
        )
    if not str(model.get("target")).endswith(".VQModel"):
        raise Settings(path, model).bad("target", "only taming.models.vqgan.VQModel can be read")
    settings = Settings(
        path, {name: value for name, value in (params | inner).items() if name != "ddconfig"}
    )
    settings.check(YAML_ONLY, {*YAML_FIELDS, *YAML_READ, *YAML_IDLE})
    side, sides, times = (
        settings.count("resolution"),
        settings.counts("attn_resolutions"),
        settings.counts("ch_mult"),
    )
    if times[:1] != (1,):
        raise settings.bad("ch_mult", "only a list that begins with 1 can be read")
    widths = tuple(settings.count("ch") * each for each in times)
    return replace(
        PRESETS["f16-1024"],
        widths=widths,
        attend=tuple(i for i in range(len(widths)) if side // 2**i in sides),
        codebook=(settings.count("n_embed"), settings.count("embed_dim")),
        **{ours: settings.count(theirs) for theirs, ours in YAML_FIELDS.items()},  # type: ignore[arg-type]
    )


def from_json(path: Path) -> Config:
    """Our config of the config.json of a VQModel of diffusers. Raises KalpanaError, which names the field, where there is none."""
    given = read_object(path)
    if given.get("_class_name") != "VQModel":
        raise Settings(path, given).bad("_class_name", "only VQModel can be read")
    settings = Settings(
        path,
        JSON_USUAL | {name: value for name, value in given.items() if not name.startswith("_")},
    )
    settings.check(JSON_ONLY, {*JSON_USUAL, *JSON_IDLE})
    widths = settings.counts("block_out_channels")
    down = settings.kinds(
        "down_block_types", "DownEncoderBlock2D", "AttnDownEncoderBlock2D", len(widths)
    )
    if (
        settings.kinds("up_block_types", "UpDecoderBlock2D", "AttnUpDecoderBlock2D", len(widths))
        != down[::-1]
    ):
        raise settings.bad(
            "up_block_types", "only those of down_block_types in reverse can be read"
        )
    numbers = "latent_channels" if settings.values["vq_embed_dim"] is None else "vq_embed_dim"
    return replace(
        PRESETS["f16-1024"],
        widths=widths,
        attend=tuple(i for i, attends in enumerate(down) if attends),
        codebook=(settings.count("num_vq_embeddings"), settings.count(numbers)),
        **{ours: settings.count(theirs) for theirs, ours in JSON_FIELDS.items()},  # type: ignore[arg-type]
    )


def translate(
    given: Mapping[str, Tensor], config: Config, layout: Layout, weights: Path
) -> dict[str, Tensor]:
    """The state dict of our model from one in another layout. Raises KalpanaError where a tensor is missing, left over or of another
    shape."""
    left = {
        _renamed(name): tensor for name, tensor in given.items() if not name.startswith("loss.")
    }  # taming's discriminator and its like
    with torch.device("meta"):
        wanted = VQGAN(config).state_dict()
    state = {
        "quantiser.sizes": torch.ones(config.codebook[0]),
        "quantiser.ages": torch.zeros(config.codebook[0], dtype=torch.int64),
    }
    for name, like in wanted.items():
        if name in state:
            continue
        names = _theirs(name, config, layout)
        found = [left.pop(theirs) for theirs in names if theirs in left]
        if len(found) < len(names):
            raise KalpanaError(
                f"{weights} lacks {', '.join(names)}, which a model of its config has: take both from one place"
            )
        tensor = torch.cat(found).float()
        tensor = (
            tensor[..., None, None] if like.ndim - tensor.ndim == 2 else tensor
        )  # a matrix is a 1x1 convolution
        if tensor.shape != like.shape:
            shapes = f"{tuple(tensor.shape)}, and its config asks for {tuple(like.shape)}"
            raise KalpanaError(f"{names[0]} in {weights} is {shapes}: take both from one place")
        state[name] = tensor
    if left:
        raise KalpanaError(
            f"{weights} holds {', '.join(sorted(left)[:3])}, which a model of its config does not have"
        )
    return state


def _theirs(name: str, config: Config, layout: Layout) -> list[str]:
    """What the tensors are called there that make up ours."""
    if layout.finest:
        last = len(config.widths) - 1
        name = re.sub(
            r"^(decoder\.levels|decoder\.ups)\.(\d+)",
            lambda found: f"{found[1]}.{last - int(found[2])}",
            name,
        )
    for ours, other in layout.names.items():
        if found := re.match(ours, name):
            part, _, leaf = name[found.end() :].rpartition(".")
            name = found.expand(other) + (
                f"{layout.parts.get(part, part)}.{leaf}" if part else leaf
            )
            break
    return [name.format(letter) for letter in "qkv"] if "{}" in name else [name]


def _renamed(name: str) -> str:
    """What diffusers calls today what it once called otherwise."""
    return re.sub(r"\.(query|key|value|proj_attn)\.", lambda found: f".{OLD[found[1]]}.", name)
