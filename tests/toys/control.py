"""Toy family: a network in pixels with a control map, which predicts eps on the cosine schedule.
It is trained on pictures that equal their maps."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kalpana.text.tokenizer import Tokenizer
from kalpana.train.diffusion import DiffusionBatch, DiffusionRecipe, DiffusionTask
from kalpana.train.task import config_of
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


class ToyControlRecipe(DiffusionRecipe):
    family: Literal["toy-control"] = "toy-control"
    schedule: str = "cosine"
    prediction: str = "eps"


class Copies:
    """Data: pictures (3, 16, 16), white up to some column and black behind it, or the reverse. Each
    is its own map."""

    def __init__(self) -> None:
        self.words = Tokenizer.load()

    def batch(self, step: int) -> DiffusionBatch:
        edge = torch.randint(1, 16, (16,), generator=torch.Generator().manual_seed(step))
        return self._pictures(edge, step % 2)

    def held_out(self, rows: range) -> DiffusionBatch:
        return self._pictures(torch.tensor([1 + row % 15 for row in rows]), 0)

    def _pictures(self, edge: Tensor, flip: int) -> DiffusionBatch:
        white = (torch.arange(16) < edge[:, None]) ^ bool(flip)  # b w
        x0 = (2.0 * white - 1)[:, None, None].expand(-1, 3, 16, -1)
        tokens = self.words.encode(["a map"] * len(edge), Config.length)
        return DiffusionBatch(
            x0, tokens, control={"edges": F.pad(x0, (0, 0, 0, 0, 0, 1), value=1.0)}
        )

    def decode(self, x0: Tensor) -> Tensor:
        return x0


class ToyControlTask(DiffusionTask):
    def __init__(self, recipe: ToyControlRecipe, device: torch.device, progress: Any) -> None:
        super().__init__(recipe, device, ToyControl(config_of(Config, recipe)), Copies())
