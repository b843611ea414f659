"""Super-resolution of finished pictures for display, by the small network shipped with Kalpana."""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

from kalpana.hub.card import find_model, read_card
from kalpana.hub.weights import load_module
from kalpana.models.upscale import Upscaler

FILE = "upscale.safetensors"


@lru_cache(maxsize=1)
def load_upscaler() -> tuple[Upscaler, dict[str, str]]:
    """The shipped network, cached, and the SHA-256 of its files by name. Raises KalpanaError if it
    is missing, changed or damaged."""
    folder = find_model("upscale")
    files = read_card(folder).files
    network = load_module(folder / FILE, "upscale", files)
    return network, files


def upscale(pixels: Tensor, scale: int) -> Tensor:
    """Enlarged pixels (b, 3, scale h, scale w) of pixels (b, 3, h, w) in [-1, 1]; ``scale`` is 2
    or 4. One picture at a time, which bounds the memory."""
    network = load_upscaler()[0].to(pixels.device)
    with torch.no_grad():
        return torch.cat([network(picture[None], scale) for picture in pixels])
