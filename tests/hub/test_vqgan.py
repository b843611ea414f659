"""Loader of VQGAN checkpoints: equal to other implementations with the same random weights.

These are 🤗 diffusers, min-dalle and taming-transformers.
"""

from __future__ import annotations

import copy
import importlib.util
import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
import yaml
from diffusers import VQModel
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from kalpana.hub.vqgan import from_yaml, read
from kalpana.hub.weights import fingerprint
from kalpana.models.vqgan import PRESETS, VQGAN, Codebook
from kalpana.types import KalpanaError

SMALL = {
    "block_out_channels": (16, 16, 32),
    "down_block_types": ("DownEncoderBlock2D",) * 3,
    "up_block_types": ("UpDecoderBlock2D",) * 3,
    "layers_per_block": 1,
    "latent_channels": 6,
    "num_vq_embeddings": 40,
    "vq_embed_dim": 5,
    "norm_num_groups": 4,
}
ATTENDS = {
    **SMALL,
    "down_block_types": (
        "DownEncoderBlock2D",
        "AttnDownEncoderBlock2D",
        "AttnDownEncoderBlock2D",
    ),
    "layers_per_block": 2,
    "up_block_types": ("AttnUpDecoderBlock2D", "AttnUpDecoderBlock2D", "UpDecoderBlock2D"),
    "vq_embed_dim": None,
}
F16 = {
    "block_out_channels": (128, 128, 256, 256, 512),
    "down_block_types": ("DownEncoderBlock2D",) * 4 + ("AttnDownEncoderBlock2D",),
    "up_block_types": ("AttnUpDecoderBlock2D",) + ("UpDecoderBlock2D",) * 4,
    "layers_per_block": 2,
    "latent_channels": 256,
    "num_vq_embeddings": 1024,
}
# As published with the weights of 1,024 codes.
YAML = """
model:
  base_learning_rate: 4.5e-06
  target: taming.models.vqgan.VQModel
  params:
    embed_dim: 256
    n_embed: 1024
    ddconfig:
      double_z: false
      z_channels: 256
      resolution: 256
      in_channels: 3
      out_ch: 3
      ch: 128
      ch_mult: [1, 1, 2, 2, 4]
      num_res_blocks: 2
      attn_resolutions: [16]
      dropout: 0.0
    lossconfig:
      target: taming.modules.losses.vqperceptual.VQLPIPSWithDiscriminator
      params:
        disc_conditional: false
        disc_in_channels: 3
        disc_start: 0
        disc_weight: 0.75
        disc_num_layers: 2
        codebook_weight: 1.0
"""
TINY_DD = {
    "double_z": False,
    "z_channels": 6,
    "resolution": 32,
    "in_channels": 3,
    "out_ch": 3,
    "ch": 32,
    "ch_mult": [1, 2],
    "num_res_blocks": 1,
    "attn_resolutions": [16],
    "dropout": 0.0,
}


@torch.no_grad()
def stir(model: nn.Module) -> nn.Module:
    """Model with random weights under which every part has an effect.

    As initialised, the scales are 1 and the codes are almost 0.
    """
    torch.manual_seed(3)
    for name, p in model.named_parameters():
        if p.ndim > 1:
            p.normal_(std=0.5 if "embedding" in name else p[0].numel() ** -0.5)
        else:
            p.normal_(1.0 if "norm" in name and name.endswith("weight") else 0.0, 0.1)
    return model.eval()


def pictures(side: int, b: int = 2) -> Tensor:
    rng = torch.Generator().manual_seed(4)
    return (
        torch.rand(b, 3, side, side + side // 2, generator=rng)
        + torch.rand(b, 3, 1, 1, generator=rng)
        - 1
    )


def as_taming(state: dict[str, Tensor], levels: int) -> dict[str, Tensor]:
    """Weights of diffusers' VQModel under the names of taming-transformers."""
    out = {}
    for name, tensor in state.items():
        name = re.sub(
            r"up_blocks\.(\d)", lambda found: f"up.{levels - 1 - int(found[1])}", name
        ).replace("down_blocks", "down")
        name = re.sub(
            r"mid_block\.resnets\.(\d)", lambda found: f"mid.block_{int(found[1]) + 1}", name
        )
        for old, new in (
            ("mid_block.attentions.0", "mid.attn_1"),
            ("resnets", "block"),
            ("attentions", "attn"),
            ("samplers.0.conv", "sample.conv"),
            ("conv_shortcut", "nin_shortcut"),
            ("group_norm", "norm"),
            ("to_out.0", "proj_out"),
            ("to_", ""),
            ("conv_norm_out", "norm_out"),
        ):
            name = name.replace(old, new)
        out[name] = tensor[..., None, None] if "attn" in name and tensor.ndim == 2 else tensor
    return out


def save_taming(folder: Path, state: dict[str, Tensor], about: Any) -> Path:
    folder.mkdir(exist_ok=True)
    save_file(
        {name: tensor.contiguous() for name, tensor in state.items()}, folder / "last.safetensors"
    )
    (folder / "model.yaml").write_text(about if isinstance(about, str) else yaml.safe_dump(about))
    return folder


@torch.no_grad()
def compare(theirs: Any, ours: VQGAN, pixels: Tensor) -> None:
    """Compare our latents, tokens and pictures in fp32 with the reference in fp64.

    The reference in fp32 may itself be 1e-5 off.
    """
    theirs = copy.deepcopy(theirs).double()
    latents = theirs.encode(pixels.double()).latents
    codes, _, (_, _, tokens) = theirs.quantize(latents)
    drawn = theirs.decode(latents).sample
    assert latents.std() > 0.1 and drawn.std() > 0.1  # else there would be little to compare
    assert len(tokens.unique()) > min(len(tokens), 40) // 4
    found = ours(pixels)
    assert torch.equal(ours.encode(pixels).flatten(), tokens.flatten())
    assert torch.equal(found.indices.flatten(), tokens.flatten())
    near(found.latents, latents)
    near(ours.quantiser.codes(found.indices), codes)
    near(found.pixels, drawn)
    near(ours.decode(found.indices), drawn)


def near(ours: Tensor, theirs: Tensor) -> None:
    assert ours.dtype == torch.float32 and ours.shape == theirs.shape
    assert (ours - theirs).abs().max() < 1e-5


@pytest.fixture(scope="session")
def models() -> dict[str, Any]:
    return {"small": stir(VQModel(**SMALL)), "attends": stir(VQModel(**ATTENDS))}


@pytest.fixture
def small(models: dict[str, Any], tmp_path: Path) -> Path:
    models["small"].save_pretrained(tmp_path / "small")
    return tmp_path / "small"


@pytest.fixture
def tame(tmp_path: Path) -> Path:
    """Small checkpoint in the form of taming-transformers, with its discriminator."""
    shape = {
        "block_out_channels": (32, 64),
        "down_block_types": ("DownEncoderBlock2D", "AttnDownEncoderBlock2D"),
        "latent_channels": 6,
        "up_block_types": ("AttnUpDecoderBlock2D", "UpDecoderBlock2D"),
        "num_vq_embeddings": 40,
        "vq_embed_dim": 5,
    }
    state = as_taming(stir(VQModel(**shape)).state_dict(), 2) | {
        "loss.discriminator.main.0.weight": torch.ones(4)
    }
    about = {
        "model": {
            "target": "taming.models.vqgan.VQModel",
            "params": {"embed_dim": 5, "n_embed": 40, "ddconfig": TINY_DD},
        }
    }
    return save_taming(tmp_path / "tame", state, about)


# Parity.


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["small", "attends"])
def test_latents_tokens_and_pictures_are_those_of_diffusers(
    kind: str, models: dict[str, Any], tmp_path: Path
) -> None:
    models[kind].save_pretrained(tmp_path)
    checkpoint = read(tmp_path)
    assert checkpoint.fingerprint == fingerprint(tmp_path / "diffusion_pytorch_model.safetensors")
    for side in (8, 24):
        compare(models[kind], checkpoint.model, pictures(side))


def test_a_whole_pipeline_has_its_vqgan_in_a_folder_of_its_own(
    models: dict[str, Any], tmp_path: Path
) -> None:
    models["small"].save_pretrained(tmp_path / "vqvae")
    (tmp_path / "model_index.json").write_text("{}")
    compare(models["small"], read(tmp_path).model, pictures(8))


def test_attention_may_have_its_old_names(models: dict[str, Any], tmp_path: Path) -> None:
    """diffusers still reads the old names too."""
    models["attends"].save_pretrained(tmp_path)
    path = tmp_path / "diffusion_pytorch_model.safetensors"
    old = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    state = {
        re.sub("|".join(old), lambda found: old[found[0]], name): tensor
        for name, tensor in load_file(path).items()
    }
    assert any("proj_attn" in name for name in state)
    save_file(state, path, {"format": "pt"})
    compare(VQModel.from_pretrained(tmp_path).eval(), read(tmp_path).model, pictures(8))


@pytest.mark.slow
def test_the_published_net_at_full_size(tmp_path: Path) -> None:
    """f16 with 1,024 codes, in taming's layout and 16-bit floats, equals diffusers."""
    with torch.device("meta"):
        model: Any = VQModel(**F16)
    model = stir(model.to_empty(device="cpu")).half()
    folder = save_taming(tmp_path / "f16", as_taming(model.state_dict(), 5), YAML)
    checkpoint = read(folder)
    (folder / "last.safetensors").unlink()  # 144 MB that pytest would keep
    assert checkpoint.model.config == PRESETS["f16-1024"]
    x = pictures(64, 1)[..., :64]
    compare(model.float(), checkpoint.model, x)


def load_alone(package: str, file: str) -> ModuleType:
    """One file of an installed package, without importing the package.

    Importing min-dalle would turn gradients off for the whole process.
    """
    found = importlib.util.find_spec(package)
    assert found is not None and found.submodule_search_locations
    path = Path(found.submodule_search_locations[0]) / file
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.slow
@torch.no_grad()
def test_pictures_of_dalle_mini_are_those_of_min_dalle(tmp_path: Path) -> None:
    detokenizer = load_alone("min_dalle", "models/vqgan_detokenizer.py").VQGanDetokenizer
    with torch.device("meta"):
        theirs, other = detokenizer(), VQModel(**{**F16, "num_vq_embeddings": 16384})
    decoder = {
        name: tensor.shape
        for name, tensor in as_taming(other.state_dict(), 5).items()
        if re.match("decoder|post_quant", name)
    }
    assert {
        name: tensor.shape
        for name, tensor in theirs.state_dict().items()
        if name != "embedding.weight"
    } == decoder
    theirs = stir(theirs.to_empty(device="cpu"))
    # Most output is then in [0, 1], as that of the trained decoder.
    theirs.decoder.conv_out.weight *= 0.3
    theirs.decoder.conv_out.bias += 0.5
    save_file(theirs.state_dict(), tmp_path / "detoker.safetensors")
    (tmp_path / "config.json").write_text("{}")  # of a DALL-E mini that may be in the same folder
    ours = read(tmp_path / "detoker.safetensors").model
    (tmp_path / "detoker.safetensors").unlink()  # 190 MB that pytest would keep
    assert ours.config == replace(PRESETS["f16-16384"], eps=1e-5, encoder=False)
    tokens = torch.randint(16384, (1, 4, 4), generator=torch.Generator().manual_seed(5))
    z = theirs.embedding(tokens).permute(0, 3, 1, 2)
    # VQGanDetokenizer.forward clamps this to [0, 1].
    drawn = theirs.decoder(theirs.post_quant_conv(z))
    assert drawn.std() > 0.1
    near((ours.decode(tokens) + 1) / 2, drawn)
    with pytest.raises(KalpanaError, match="have no encoder"):
        ours.encode(torch.zeros(1, 3, 64, 64))
    with pytest.raises(KalpanaError, match="from 16414 to 16414: this codebook has 0 to 16383"):
        ours.decode(torch.full((1, 4, 4), 16414))  # the larger DALL-E mini has a row for it


@torch.no_grad()
def test_latents_and_pictures_are_those_of_taming(tmp_path: Path) -> None:
    name = "taming.modules.diffusionmodules.model"
    nets: Any = pytest.importorskip(
        name,
        reason="needs `pip install --no-deps taming-transformers==0.0.1`, "
        "which otherwise also installs torchvision",
    )
    ddconfig = {**TINY_DD, "ch_mult": [1, 1, 2], "num_res_blocks": 2, "attn_resolutions": [8, 16]}
    theirs = nn.Module()
    theirs.encoder, theirs.decoder = nets.Encoder(**ddconfig), nets.Decoder(**ddconfig)
    theirs.quant_conv, theirs.post_quant_conv = nn.Conv2d(6, 5, 1), nn.Conv2d(5, 6, 1)
    theirs.quantize = nn.Module()
    theirs.quantize.embedding = nn.Embedding(40, 5)
    params = {"embed_dim": 5, "n_embed": 40, "ddconfig": ddconfig}
    about = {"model": {"target": "taming.models.vqgan.VQModel", "params": params}}
    ours = read(save_taming(tmp_path / "tame", stir(theirs).state_dict(), about)).model
    x = pictures(32)[..., :32]
    theirs.double()
    latents = theirs.quant_conv(theirs.encoder(x.double()))
    near(ours.encode_latents(x), latents)
    tokens = (
        torch.cdist(latents.movedim(1, -1).flatten(0, 2), theirs.quantize.embedding.weight)
        .argmin(1)
        .view(2, 8, 8)
    )
    assert torch.equal(ours.encode(x), tokens)
    drawn = theirs.decoder(theirs.post_quant_conv(theirs.quantize.embedding(tokens).movedim(-1, 1)))
    near(ours.decode(tokens), drawn)


def test_what_is_read_can_be_asked_and_goes_on_learning(tame: Path) -> None:
    model = read(tame).model
    assert isinstance(model.quantiser, Codebook)
    assert not model.training and not any(p.requires_grad for p in model.parameters())
    before = model.quantiser.vectors.clone()
    found = model(pictures(16))
    model.quantiser.learn(found.latents, found.indices, torch.Generator().manual_seed(0))
    assert not torch.equal(model.quantiser.vectors, before)


# What the config says.


@pytest.mark.parametrize(
    "text, preset",
    [
        (YAML, "f16-1024"),
        (YAML.replace("n_embed: 1024", "n_embed: 16384\n    monitor: val/rec_loss"), "f16-16384"),
        (YAML.replace("taming.models.vqgan.VQModel", "ldm.models.autoencoder.VQModel"), "f16-1024"),
    ],
    ids=["1024", "16384", "latent diffusion"],
)
def test_published_yamls(text: str, preset: str, tmp_path: Path) -> None:
    (tmp_path / "model.yaml").write_text(text)
    assert from_yaml(tmp_path / "model.yaml") == PRESETS[preset]


@pytest.mark.slow
@pytest.mark.parametrize(
    "field, value",
    [
        ("target", "taming.models.vqgan.GumbelVQ"),
        ("target", None),
        ("embed_dim", None),
        ("n_embed", 0),
        ("remap", "used.npy"),
        ("use_quantize", True),
        ("ch", "32"),
        ("ch_mult", [2, 4]),
        ("ch_mult", []),
        ("ch_mult", [1, 2.5]),
        ("double_z", True),
        ("in_channels", 1),
        ("out_ch", 4),
        ("attn_resolutions", 16),
        ("resolution", True),
        ("resamp_with_conv", False),
        ("give_pre_end", True),
        ("attn_type", "linear"),
        ("num_res_blocks", [1, 2]),
    ],
)
def test_fields_of_a_yaml_that_cannot_be_followed_are_named(
    field: str, value: Any, tame: Path
) -> None:
    about = yaml.safe_load((tame / "model.yaml").read_text())
    model = about["model"]
    place = next(
        (
            place
            for place in (model, model["params"], model["params"]["ddconfig"])
            if field in place
        ),
        None,
    )
    (model["params"]["ddconfig"] if place is None else place)[field] = value
    (tame / "model.yaml").write_text(yaml.safe_dump(about))
    with pytest.raises(KalpanaError, match=rf"model\.yaml: field {field} is ") as caught:
        read(tame)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "text", ["model: [", "[1, 2]", "model: {target: a.VQModel, params: {n_embed: 3}}", "", "- \x00"]
)
def test_yamls_that_are_none(text: str, tame: Path) -> None:
    (tame / "model.yaml").write_text(text)
    with pytest.raises(KalpanaError, match=r"model\.yaml (is no YAML|should hold model)") as caught:
        read(tame)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "field, value",
    [
        ("_class_name", "AutoencoderKL"),
        ("in_channels", 4),
        ("out_channels", 1),
        ("act_fn", "relu"),
        ("norm_type", "spatial"),
        ("mid_block_add_attention", False),
        ("block_out_channels", [16, 0, 32]),
        ("block_out_channels", 16),
        ("layers_per_block", 1.0),
        ("latent_channels", None),
        ("num_vq_embeddings", "40"),
        ("vq_embed_dim", -1),
        ("down_block_types", ["DownEncoderBlock2D"] * 2),
        ("down_block_types", ["DownEncoderBlock2D", "DownEncoderBlock2D", ["x"]]),
        ("down_block_types", "DownEncoderBlock2D"),
        ("up_block_types", ["UpDecoderBlock2D", "UpDecoderBlock2D", "AttnUpDecoderBlock2D"]),
        ("some_new_field", 1),
    ],
)
def test_fields_of_a_config_that_cannot_be_followed_are_named(
    field: str, value: Any, small: Path
) -> None:
    given = json.loads((small / "config.json").read_text())
    (small / "config.json").write_text(json.dumps({**given, field: value}))
    with pytest.raises(KalpanaError, match=rf"config\.json: field {field} is ") as caught:
        read(small)
    assert "\n" not in str(caught.value)


def test_what_a_config_leaves_out_is_as_diffusers_has_it(tmp_path: Path) -> None:
    with torch.device("meta"):
        model = VQModel()
    stir(model.to_empty(device="cpu")).save_pretrained(tmp_path)
    (tmp_path / "config.json").write_text('{"_class_name": "VQModel"}')
    compare(model, read(tmp_path).model, pictures(8))


def test_groups_that_do_not_divide_a_width(small: Path) -> None:
    given = json.loads((small / "config.json").read_text())
    (small / "config.json").write_text(json.dumps({**given, "norm_num_groups": 5}))
    with pytest.raises(
        KalpanaError, match=r"groups is 5: it should divide every width, \(16, 16, 32\)"
    ):
        read(small)


def test_a_config_that_is_no_json(small: Path) -> None:
    for text, said in (("{", "is no JSON"), ("[1]", "should hold an object")):
        (small / "config.json").write_text(text)
        with pytest.raises(KalpanaError, match=rf"config\.json {said}"):
            read(small)


# The tensors.


@pytest.mark.slow
@pytest.mark.parametrize(
    "change, said",
    [
        (
            lambda t: {k: v for k, v in t.items() if k != "quant_conv.bias"},
            r"lacks quant_conv\.bias, which",
        ),
        (
            lambda t: {k: v for k, v in t.items() if k != "decoder.up.1.attn.0.k.bias"},
            r"lacks decoder\.up\.1\.attn\.0\.q\.bias, .*k\.bias",
        ),
        (
            lambda t: t | {"encoder.down.0.attn.0.q.bias": torch.ones(1)},
            r"holds encoder\.down\.0\.attn\.0\.q\.bias, which",
        ),
        (
            lambda t: t | {"quantize.embedding.weight": torch.ones(50, 5)},
            r"embedding\.weight .* is \(50, 5\), .* asks for \(40, 5\)",
        ),
        (
            lambda t: t | {"quant_conv.weight": torch.ones(5, 7)},
            r"quant_conv\.weight .* is \(5, 7, 1, 1\)",
        ),
    ],
)
def test_tensors_that_do_not_fit_are_named(
    change: Callable[[dict[str, Tensor]], dict[str, Tensor]], said: str, tame: Path
) -> None:
    save_file(change(load_file(tame / "last.safetensors")), tame / "last.safetensors")
    with pytest.raises(KalpanaError, match=said) as caught:
        read(tame)
    assert "\n" not in str(caught.value)


@pytest.mark.slow
def test_a_pickle_is_refused_and_the_line_that_it_asks_for_converts_it(tame: Path) -> None:
    state = load_file(tame / "last.safetensors")
    before = read(tame).model.state_dict()
    (tame / "last.safetensors").unlink()
    torch.save({"state_dict": state, "epoch": 3, "callbacks": {}}, tame / "last.ckpt")
    with pytest.raises(
        KalpanaError, match=r"last\.ckpt is a pickle, which can run code.*pytorch-lightning"
    ) as caught:
        read(tame)
    assert "\n" not in str(caught.value)
    command = re.search(r'python (-c "[^"]*")', str(caught.value))
    assert command is not None
    subprocess.run(
        [sys.executable, *shlex.split(command[1])],
        check=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    after = read(tame).model.state_dict()
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())


@pytest.mark.parametrize("name", ["diffusion_pytorch_model.bin", "detoker.pt", "vqgan.pth"])
def test_other_pickles_are_refused(name: str, tmp_path: Path) -> None:
    torch.save({"a": torch.ones(1)}, tmp_path / name)
    with pytest.raises(KalpanaError, match=rf"{name} is a pickle"):
        read(tmp_path)


def test_folders_that_hold_no_checkpoint(tame: Path, tmp_path: Path) -> None:
    with pytest.raises(KalpanaError, match=r"there is no folder .*nowhere"):
        read(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(
        KalpanaError, match="empty holds no weights: put a file of safetensors there"
    ):
        read(tmp_path / "empty")
    weights = tame / "last.safetensors"
    (tame / "other.safetensors").write_bytes(weights.read_bytes())
    with pytest.raises(
        KalpanaError, match=r"holds last\.safetensors, other\.safetensors: leave one"
    ):
        read(tame)
    (tame / "other.safetensors").unlink()
    (tame / "config.yaml").write_text(YAML)
    with pytest.raises(KalpanaError, match=r"holds config\.yaml, model\.yaml: leave there the one"):
        read(tame)
    (tame / "config.yaml").unlink()
    about = (tame / "model.yaml").read_text()
    (tame / "model.yaml").unlink()
    with pytest.raises(
        KalpanaError,
        match=r"does not say what its weights are: put the model\.yaml .* or config\.json",
    ):
        read(tame)
    (tame / "model.yaml").write_text(about)
    weights.write_bytes(weights.read_bytes()[:3000])
    with pytest.raises(KalpanaError, match=r"last\.safetensors is damaged or cut short"):
        read(tame)
