"""Loader of public VQGAN checkpoints into ``models/vqgan.py``.

    checkpoint = read(Path("vqgan-f16-16384"))

A folder holds one safetensors file, and the file beside it gives the layout: a .yaml is the
model.yaml of taming-transformers, a config.json that of VQModel in 🤗 diffusers. min-dalle's
detoker, which is the decoder of DALL-E mini, needs neither and may be named as a file. Unsupported
settings are errors that name the field; so are missing and extra tensors.
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
    "import torch; from safetensors.torch import save_file; "
    "t = torch.load({!r}, 'cpu', weights_only=False); "
    "save_file({{k: v.contiguous() for k, v in t.get('state_dict', t).items()}}, {!r})"
)


@dataclass(frozen=True)
class Layout:
    """Mapping of our tensor names to those of a checkpoint.

    ``names`` maps prefixes, as regular expressions; ``parts`` maps names inside a block, where {}
    stands for q, k and v in turn.
    """

    names: dict[str, str]
    parts: dict[str, str]
    finest: bool  # whether the decoder's levels are counted from the finest one


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
        "norm_one": "norm1",
        "one": "conv1",
        "norm_two": "norm2",
        "two": "conv2",
        "skip": "conv_shortcut",
        "norm": "group_norm",
        "qkv": "to_{}",
        "out": "to_out.0",
    },
    finest=False,
)
# Former names in diffusers, and the present ones.
OLD = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}

# Supported fields of a model.yaml, including those of its ddconfig. YAML_FIELDS: our fields of the
# same meaning; YAML_ONLY: the only supported value; YAML_READ: read otherwise; YAML_IDLE: without
# effect on tokens and pictures.
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
# The same for a config.json. JSON_USUAL: defaults of fields that it leaves out.
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
    "layers_per_block": 1,
    "latent_channels": 3,
    "norm_num_groups": 32,
    "num_vq_embeddings": 256,
    "vq_embed_dim": None,
    "block_out_channels": [64],
    "down_block_types": ["DownEncoderBlock2D"],
    "up_block_types": ["UpDecoderBlock2D"],
}
JSON_IDLE = {"sample_size", "scaling_factor", "lookup_from_codebook", "force_upcast"}


@dataclass(frozen=True)
class Checkpoint:
    """Loaded checkpoint: the ``model``, in fp32 on the CPU, and a hash of its weights."""

    model: VQGAN
    fingerprint: str


@dataclass(frozen=True)
class Settings:
    """Fields of a config file, by name.

    Each method raises KalpanaError, which names the field, if its value is not supported.
    """

    path: Path
    values: Mapping[str, Any]

    def count(self, name: str) -> int:
        """Value of a field that is a whole number of 1 or more."""
        if type(value := self.values.get(name)) is not int or value < 1:
            raise self.bad(name, "only a whole number of 1 or more can be read")
        return value

    def counts(self, name: str) -> tuple[int, ...]:
        """Value of a field that is a list, perhaps empty, of whole numbers of 1 or more."""
        values = self.values.get(name)
        if not isinstance(values, list) or not all(
            type(value) is int and value > 0 for value in values
        ):
            raise self.bad(name, "only a list of whole numbers of 1 or more can be read")
        return tuple(values)

    def kinds(self, name: str, plain: str, attends: str, count: int) -> list[bool]:
        """Which of ``count`` blocks have attention."""
        values = self.values.get(name)
        if (
            not isinstance(values, list)
            or any(value not in (plain, attends) for value in values)
            or len(values) != count
        ):
            raise self.bad(name, f"only {plain} and {attends} can be read, {count} of them")
        return [value == attends for value in values]

    def check(self, only: Mapping[str, Any], known: set[str]) -> None:
        """Check that all fields are known, and that those in ``only`` have the given values."""
        for name, value in self.values.items():
            if name not in known | set(only):
                raise self.bad(name, "this version does not know it")
            if name in only and value != only[name]:
                raise self.bad(name, f"only {json.dumps(only[name])} can be read")

    def bad(self, name: str, hint: str) -> KalpanaError:
        """Error, to be raised, for a field whose value is not supported."""
        return misfit(self.path, name, self.values.get(name), hint)


def read(folder: Path) -> Checkpoint:
    """Checkpoint in a folder, in its subfolder vqvae, or in a file of min-dalle's detoker.

    Raises KalpanaError if a file is missing or damaged, or a setting is not supported.
    """
    folder = folder / "vqvae" if (folder / "vqvae").is_dir() else folder
    weights = folder if folder.is_file() else weights_of(folder)
    folder = weights.parent
    yamls = sorted(folder.glob("*.yaml"))
    given = read_tensors(weights)
    detoker = "embedding.weight" in given  # configs beside it belong to other models
    if len(yamls) > 1 and not detoker:
        raise KalpanaError(
            f"{folder} holds {', '.join(path.name for path in yamls)}: "
            f"leave there the one that belongs to {weights.name}"
        )
    if detoker:
        # Its group norms have torch's default eps.
        config, layout = replace(PRESETS["f16-16384"], eps=1e-5, encoder=False), DETOKENIZER
    elif yamls:
        config, layout = from_yaml(yamls[0]), TAMING
    elif (folder / CONFIG).is_file():
        config, layout = from_json(folder / CONFIG), DIFFUSERS
    else:
        raise KalpanaError(
            f"{folder} does not say what its weights are: "
            f"put the model.yaml of taming-transformers or {CONFIG} beside them"
        )
    state = translate(given, config, layout, weights)
    if layout is DETOKENIZER:  # its pixels are in [0, 1], ours in [-1, 1]
        state["decoder.head.weight"] *= 2
        state["decoder.head.bias"] = state["decoder.head.bias"] * 2 - 1
    with torch.device("meta"):  # no random weights, which would be overwritten
        model = VQGAN(config)
    model.load_state_dict(state, assign=True)
    return Checkpoint(model.eval().requires_grad_(False), fingerprint(weights))


def weights_of(folder: Path) -> Path:
    """The safetensors file in a folder.

    Raises KalpanaError if there is none, more than one, or only a pickle.
    """
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
                f"{path} is a pickle, which can run code when it is read: where you trust it, "
                f'write safetensors with python -c "{code}" '
                "(a .ckpt may need pip install pytorch-lightning)"
            )
    raise KalpanaError(f"{folder} holds no weights: put a file of safetensors there")


def from_yaml(path: Path) -> Config:
    """Config of a model.yaml of taming-transformers.

    Raises KalpanaError, which names the field, if a setting is not supported.
    """
    try:
        whole = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise KalpanaError(f"{path} is no YAML: {' '.join(str(error).split())}") from None
    model = whole.get("model") if isinstance(whole, dict) else None
    params = model.get("params") if isinstance(model, dict) else None
    ddconfig = params.get("ddconfig") if isinstance(params, dict) else None
    if (
        not isinstance(model, dict)
        or not isinstance(params, dict)
        or not isinstance(ddconfig, dict)
    ):
        raise KalpanaError(
            f"{path} should hold model, in it target and params, and in these ddconfig"
        )
    if not str(model.get("target")).endswith(".VQModel"):
        raise Settings(path, model).bad("target", "only taming.models.vqgan.VQModel can be read")
    settings = Settings(
        path, {name: value for name, value in (params | ddconfig).items() if name != "ddconfig"}
    )
    settings.check(YAML_ONLY, {*YAML_FIELDS, *YAML_READ, *YAML_IDLE})
    side, attended = settings.count("resolution"), settings.counts("attn_resolutions")
    multipliers = settings.counts("ch_mult")
    if multipliers[:1] != (1,):
        raise settings.bad("ch_mult", "only a list that begins with 1 can be read")
    widths = tuple(settings.count("ch") * each for each in multipliers)
    return replace(
        PRESETS["f16-1024"],
        widths=widths,
        attend=tuple(i for i in range(len(widths)) if side // 2**i in attended),
        codebook=(settings.count("n_embed"), settings.count("embed_dim")),
        **{ours: settings.count(theirs) for theirs, ours in YAML_FIELDS.items()},  # type: ignore[arg-type]
    )


def from_json(path: Path) -> Config:
    """Config of the config.json of a VQModel of diffusers.

    Raises KalpanaError, which names the field, if a setting is not supported.
    """
    given = read_object(path)
    if given.get("_class_name") != "VQModel":
        raise Settings(path, given).bad("_class_name", "only VQModel can be read")
    fields = {name: value for name, value in given.items() if not name.startswith("_")}
    settings = Settings(path, JSON_USUAL | fields)
    settings.check(JSON_ONLY, {*JSON_USUAL, *JSON_IDLE})
    widths = settings.counts("block_out_channels")
    down = settings.kinds(
        "down_block_types", "DownEncoderBlock2D", "AttnDownEncoderBlock2D", len(widths)
    )
    up = settings.kinds("up_block_types", "UpDecoderBlock2D", "AttnUpDecoderBlock2D", len(widths))
    if up != down[::-1]:
        raise settings.bad(
            "up_block_types", "only those of down_block_types in reverse can be read"
        )
    code_width = "latent_channels" if settings.values["vq_embed_dim"] is None else "vq_embed_dim"
    return replace(
        PRESETS["f16-1024"],
        widths=widths,
        attend=tuple(i for i, attends in enumerate(down) if attends),
        codebook=(settings.count("num_vq_embeddings"), settings.count(code_width)),
        **{ours: settings.count(theirs) for theirs, ours in JSON_FIELDS.items()},  # type: ignore[arg-type]
    )


def translate(
    given: Mapping[str, Tensor], config: Config, layout: Layout, weights: Path
) -> dict[str, Tensor]:
    """State dict of our model from one in another layout.

    Raises KalpanaError if a tensor is missing, left over or of another shape.
    """
    # "loss." is taming's discriminator and the like.
    left = {
        _present(name): tensor for name, tensor in given.items() if not name.startswith("loss.")
    }
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
                f"{weights} lacks {', '.join(names)}, which a model of its config has: "
                "take both from one place"
            )
        tensor = torch.cat(found).float()
        if like.ndim - tensor.ndim == 2:  # a matrix is a 1x1 convolution
            tensor = tensor[..., None, None]
        if tensor.shape != like.shape:
            shapes = f"{tuple(tensor.shape)}, and its config asks for {tuple(like.shape)}"
            raise KalpanaError(f"{names[0]} in {weights} is {shapes}: take both from one place")
        state[name] = tensor
    if left:
        names = sorted(left)[:3]
        raise KalpanaError(
            f"{weights} holds {', '.join(names)}, which a model of its config does not have"
        )
    return state


def _theirs(name: str, config: Config, layout: Layout) -> list[str]:
    """The checkpoint's names of the tensors that make up our tensor of this name."""
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
            inner = f"{layout.parts.get(part, part)}.{leaf}" if part else leaf
            name = found.expand(other) + inner
            break
    return [name.format(letter) for letter in "qkv"] if "{}" in name else [name]


def _present(name: str) -> str:
    """Present name in diffusers of a tensor that may have its former name."""
    return re.sub(r"\.(query|key|value|proj_attn)\.", lambda found: f".{OLD[found[1]]}.", name)
