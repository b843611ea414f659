"""Toy codec of videos: every frame alone, 2x2 pixels to 4 latents by a fixed linear map."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn


@dataclass(frozen=True)
class Config:
    channels: int = 4


class FrameCodec(nn.Module):
    """Codec of videos, frame by frame: 2x2 pixels to 4 latents by a fixed linear map, and back."""

    factor = 2

    def __init__(self, config: Config | None = None) -> None:
        super().__init__()
        self.config = config or Config()
        self.register_buffer("basis", torch.linalg.qr(torch.randn(12, 4))[0].T.contiguous())

    def shape(self, height: int, width: int, frames: int = 1) -> tuple[int, ...]:
        return (frames, 4, height // 2, width // 2)

    def encode(self, pixels: Tensor) -> Tensor:
        return torch.einsum("bfchw,kc->bfkhw", F.pixel_unshuffle(pixels, 2), self.basis)

    def decode(self, latents: Tensor) -> Tensor:
        return F.pixel_shuffle(torch.einsum("bfkhw,kc->bfchw", latents, self.basis), 2)

    def preview(self, latents: Tensor) -> Tensor:
        return self.decode(latents).clamp(-1, 1)
