"""Toy family: a network in pixels with a control map, which predicts eps on the cosine schedule."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kalpana.types import Cond


@dataclass(frozen=True)
class Config:
    width: int = 16
    vocabulary: int = 8192
    length: int = 16


class ToyControl(nn.Module):
    """Convolutions over the noisy picture and the map "edges", which is 0 where it is not given."""

    reads = ("tokens", "control")

    def __init__(self, config: Config | None = None) -> None:
        super().__init__()
        self.config = c = config or Config()
        self.words = nn.Embedding(c.vocabulary, c.width)
        self.time = nn.Linear(2, c.width)
        self.stem = nn.Conv2d(6, c.width, 3, padding=1)
        self.middle = nn.Conv2d(c.width, c.width, 3, padding=1)
        self.head = nn.Conv2d(c.width, 3, 3, padding=1)

    def forward(self, x_t: Tensor, t: Tensor, cond: Cond) -> Tensor:
        assert cond.tokens is not None
        text = self.words(cond.tokens.ids[:, 0])
        if cond.null is not None:
            text = text.masked_fill(cond.null[:, None], 0)
        edges = torch.zeros_like(x_t)
        if cond.control:
            picture, strength = cond.control["edges"].split([3, 1], 1)
            edges = picture * strength
        wave = torch.stack((t.cos(), t.sin()), -1).to(x_t)
        x = self.stem(torch.cat((x_t, edges), 1)) + (text + self.time(wave))[..., None, None]
        return self.head(F.silu(x + self.middle(F.silu(x))))
