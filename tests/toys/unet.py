"""Toy family: a class-conditional network in pixels that predicts v on the cosine schedule."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kalpana.types import Cond


@dataclass(frozen=True)
class Config:
    width: int = 16
    classes: int = 3


class ToyUNet(nn.Module):
    """One level down and up again, shifted by class and time; ``classes`` is the null class."""

    reads = ("label",)

    def __init__(self, config: Config | None = None) -> None:
        super().__init__()
        self.config = c = config or Config()
        self.stem = nn.Conv2d(3, c.width, 3, padding=1)
        self.down = nn.Conv2d(c.width, 2 * c.width, 4, stride=2, padding=1)
        self.label = nn.Embedding(c.classes + 1, 2 * c.width)
        self.time = nn.Linear(2, 2 * c.width)
        self.up = nn.ConvTranspose2d(2 * c.width, c.width, 4, stride=2, padding=1)
        self.head = nn.Conv2d(c.width, 3, 3, padding=1)

    def forward(self, x_t: Tensor, t: Tensor, cond: Cond) -> Tensor:
        assert cond.label is not None
        label = cond.label
        if cond.null is not None:
            label = torch.where(cond.null, self.config.classes, label)
        wave = torch.stack((t.cos(), t.sin()), -1).to(x_t)
        shift = self.label(label) + self.time(wave)  # b 2w
        fine = F.silu(self.stem(x_t))
        coarse = F.silu(self.down(fine) + shift[..., None, None])
        return self.head(F.silu(fine + self.up(coarse)))
