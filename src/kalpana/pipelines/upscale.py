"""Pictures made larger for display, by the small super-resolution network that comes with Kalpana."""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

from kalpana.hub.card import find_model, read_card
from kalpana.hub.weights import load_module
from kalpana.models.upscale import Config, Upscaler

FILE = "upscale.safetensors"


@lru_cache(maxsize=1)
def load_upscaler() -> tuple[Upscaler, dict[str, str]]:
    """The shipped network, kept, and the SHA-256 of its file by name. Raises KalpanaError where it is missing, changed or damaged."""
    folder = find_model("upscale")
    files = read_card(folder).files
    return load_module(
        folder / FILE, "upscale", lambda **config: Upscaler(Config(**config)), files
    ), files


def upscale(pixels: Tensor, scale: int) -> Tensor:
    """Pixels (b, 3, h, w) in [-1, 1] as (b, 3, scale h, scale w), scale 2 or 4; one picture at a time, which bounds the memory."""
    network = load_upscaler()[0].to(pixels.device)
    with torch.no_grad():
        return torch.cat([network(picture[None], scale) for picture in pixels])
