"""Pictures made larger for display, by the small super-resolution network that comes with Kalpana."""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

from kalpana.hub.card import shelf
from kalpana.hub.weights import fingerprint, load_module
from kalpana.models.upscale import Config, Upscaler

FILE = "upscale.safetensors"


@lru_cache(maxsize=1)
def load_upscaler() -> Upscaler:
    """The shipped network, kept. Raises KalpanaError where its file is missing or damaged."""
    return load_module(shelf() / "upscale" / FILE, "upscale", lambda **config: Upscaler(Config(**config)))


@lru_cache(maxsize=1)
def upscaler_files() -> dict[str, str]:
    """Its file and the SHA-256 of it, for receipts."""
    return {FILE: fingerprint(shelf() / "upscale" / FILE)}


def upscale(pixels: Tensor, scale: int) -> Tensor:
    """Pixels (b, 3, h, w) in [-1, 1] as (b, 3, scale h, scale w), scale 2 or 4; one picture at a time, which bounds the memory."""
    network = load_upscaler().to(pixels.device)
    with torch.no_grad():
        return torch.cat([network(picture[None], scale) for picture in pixels])
