"""Toy family: a class-conditional network in pixels that predicts v on the cosine schedule. It is
trained on pictures of one colour for each class."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kalpana.train.diffusion import DiffusionBatch, DiffusionRecipe, DiffusionTask
from kalpana.train.task import config_of
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


class ToyUNetRecipe(DiffusionRecipe):
    family: Literal["toy-unet"] = "toy-unet"
    schedule: str = "cosine"
    prediction: str = "v"


class Shades:
    """Data: pictures (3, 16, 16) of class 0 are red, of class 1 green, of class 2 blue."""

    def batch(self, step: int) -> DiffusionBatch:
        label = torch.randint(3, (16,), generator=torch.Generator().manual_seed(step))
        return DiffusionBatch(self._pictures(label), label=label)

    def held_out(self, rows: range) -> DiffusionBatch:
        label = torch.tensor([row % 3 for row in rows])
        return DiffusionBatch(self._pictures(label), label=label)

    def _pictures(self, label: Tensor) -> Tensor:
        shade = 2.0 * F.one_hot(label, 3) - 1
        return 0.8 * shade[..., None, None].expand(-1, -1, 16, 16)

    def decode(self, x0: Tensor) -> Tensor:
        return x0


class ToyUNetTask(DiffusionTask):
    def __init__(self, recipe: ToyUNetRecipe, device: torch.device, progress: Any) -> None:
        super().__init__(recipe, device, ToyUNet(config_of(Config, recipe)), Shades())
