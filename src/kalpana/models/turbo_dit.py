"""Turbo DiT: the image transformer as a two-time network with built-in guidance, for few steps.

It predicts the mean velocity from time t down to s (MeanFlow, Geng et al. 2025) of the path under
guidance of a given scale (Meng et al. 2023), in the form of x0 (``diffusion/mean_flow.py``). With
that form the head, the precision-weighted mean and the weights of the image transformer keep their
meaning: for s = t and guidance 1 both networks predict the same thing. The length of the step and
the guidance enter through a small network, zero at initialisation, that is added to the embedding
of the time.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass

import torch
import torch.nn as nn
from torch import Tensor

from kalpana.models import dit
from kalpana.models.dit import DiT
from kalpana.models.layers import frequencies, timestep_embedding
from kalpana.types import Cond

WAVES = 64  # frequencies of the embeddings of the step and of the guidance


@dataclass(frozen=True)
class Config(dit.Config):
    """Fields of the image transformer, and the width of what embeds the step and the guidance."""

    step_width: int = 256


class TurboDiT(DiT):
    """Two-time diffusion transformer: ``network(x_t, t, cond) -> prediction``.

    It reads these fields of the condition, besides ``tokens`` and ``null``:

    - ``until`` (b,) or (1,): the time s of the end of the step; t where it is not given
    - ``guidance`` (b,) or (1,): the guidance scale, 1 where it is not given
    """

    reads: tuple[str, ...] = ("tokens", "until", "guidance")

    def __init__(self, config: Config | None = None) -> None:
        config = config or Config()
        super().__init__(config)
        self.config: Config = config
        last = nn.Linear(config.step_width, 256)
        self.step = nn.Sequential(nn.Linear(4 * WAVES, config.step_width), nn.SiLU(), last)
        self._init()
        nn.init.zeros_(last.weight)

    @classmethod
    def widen(cls, image: DiT, **config: object) -> TurboDiT:
        """A two-time transformer with the weights of an image transformer; it predicts the same
        until it is trained. ``config`` holds other fields of its Config."""
        return cls(Config(**asdict(image.config) | config)).inherit(image)

    def _time_embedding(self, t: Tensor, cond: Cond) -> Tensor:
        length = torch.zeros_like(t) if cond.until is None else t - cond.until.to(t)
        scale = torch.ones_like(t) if cond.guidance is None else cond.guidance.to(t)
        length, scale = torch.broadcast_tensors(length, scale)
        # 1 - 1 / scale: 0 without guidance, below 1 for any.
        waves = torch.cat((slow_wave(length), slow_wave(1 - 1 / scale)), -1)
        return timestep_embedding(t) + self.step(waves)


def slow_wave(x: Tensor) -> Tensor:
    """Sinusoidal embedding (b, 2 WAVES) of numbers x (b,) in [0, 1], smooth in x: the highest
    frequency has less than two periods there."""
    angles = 10 * x[:, None] * frequencies(WAVES, 100, x.device)
    return torch.cat((angles.sin(), angles.cos()), -1)
