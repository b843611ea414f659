"""Pixels as latents: the codec of diffusion models that work in pixels."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn


@dataclass(frozen=True)
class Config:
    """The identity has no settings."""


class Pixels(nn.Module):
    """Identity codec. Data are in [-limit, limit], so that an estimate of x0 can be clipped."""

    factor = 1
    limit = 1.0

    def __init__(self, config: Config | None = None) -> None:
        super().__init__()
        self.config = config or Config()

    def shape(self, height: int, width: int, frames: int = 1) -> tuple[int, ...]:
        return (3, height, width)

    def encode(self, pixels: Tensor) -> Tensor:
        return pixels

    def decode(self, latents: Tensor) -> Tensor:
        return latents

    def preview(self, latents: Tensor) -> Tensor:
        return latents.clamp(-1, 1)
