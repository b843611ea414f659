"""Toy family: a network of videos, latents (b, f, c, h, w), that predicts the velocity. It is
trained on videos of one level, bright or dark."""

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


class ToyVideo(nn.Module):
    """3-D convolutions over frames, rows and columns, shifted by the mean of the word vectors."""

    reads = ("tokens",)

    def __init__(self, config: Config | None = None) -> None:
        super().__init__()
        self.config = c = config or Config()
        self.words = nn.Embedding(c.vocabulary, c.width)
        self.time = nn.Linear(2, c.width)
        self.stem = nn.Conv3d(4, c.width, 3, padding=1)
        self.middle = nn.Conv3d(c.width, c.width, 3, padding=1)
        self.head = nn.Conv3d(c.width, 4, 3, padding=1)

    def forward(self, x_t: Tensor, t: Tensor, cond: Cond) -> Tensor:
        assert cond.tokens is not None
        mask = cond.tokens.mask[..., None]
        text = (self.words(cond.tokens.ids) * mask).sum(1) / mask.sum(1)
        if cond.null is not None:
            text = text.masked_fill(cond.null[:, None], 0)
        wave = torch.stack((t.cos(), t.sin()), -1).to(x_t)
        shift = (text + self.time(wave))[..., None, None, None]
        x = F.silu(self.stem(x_t.transpose(1, 2)) + shift)  # b w f h w
        return self.head(x + F.silu(self.middle(x))).transpose(1, 2)


class ToyVideoRecipe(DiffusionRecipe):
    family: Literal["toy-video"] = "toy-video"
    prediction: str = "flow"


class Levels:
    """Data: latents (4, 4, 8, 8) of four frames, all 1 for "day" and all -1 for "night"."""

    def __init__(self) -> None:
        self.words = Tokenizer.load()

    def batch(self, step: int) -> DiffusionBatch:
        day = torch.randint(2, (8,), generator=torch.Generator().manual_seed(step))
        return self._videos(day.tolist())

    def held_out(self, rows: range) -> DiffusionBatch:
        return self._videos([row % 2 for row in rows])

    def _videos(self, day: list[int]) -> DiffusionBatch:
        level = torch.tensor([2.0 * each - 1 for each in day])
        words = ["day" if each else "night" for each in day]
        tokens = self.words.encode(words, Config.length)
        return DiffusionBatch(level.view(-1, 1, 1, 1, 1).expand(-1, 4, 4, 8, 8), tokens)

    def decode(self, x0: Tensor) -> Tensor:
        return x0[:, 0, :3]


class ToyVideoTask(DiffusionTask):
    def __init__(self, recipe: ToyVideoRecipe, device: torch.device, progress: Any) -> None:
        super().__init__(recipe, device, ToyVideo(config_of(Config, recipe)), Levels())
