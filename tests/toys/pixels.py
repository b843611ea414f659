"""Toy codec of models that work in pixels: the identity."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Config:
    pass


class Pixels(nn.Module):
    """Codec of models that work in pixels: the identity."""

    factor = 1

    def __init__(self, config: Config | None = None) -> None:
        super().__init__()
        self.config = config or Config()
        self.register_buffer("one", torch.ones(1))  # weight files hold at least one tensor

    def shape(self, height: int, width: int, frames: int = 1) -> tuple[int, ...]:
        return (3, height, width)

    def encode(self, pixels: Tensor) -> Tensor:
        return pixels

    def decode(self, latents: Tensor) -> Tensor:
        return latents

    def preview(self, latents: Tensor) -> Tensor:
        return latents.clamp(-1, 1)
