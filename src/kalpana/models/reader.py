"""A reader of short words: a strip of a picture to characters, by connectionist temporal classification.

A small convolutional net makes a sequence of columns of the strip, a recurrent one reads it both ways, and every column says one
character or none (CRNN, Shi et al. 2015; CTC, Graves et al. 2006). Devanagari is read as code points, in their logical order:
a vowel sign that stands before its consonant is seen by the backward half in time.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn as nn
from torch import Tensor

HEIGHT, WIDTH = 32, 128  # of a strip


@dataclass(frozen=True)
class Config:
    characters: str = (
        ""  # all it can write, in order; number 0 is the blank, so the first of them is 1
    )
    width: int = 96
    hidden: int = 128


class Reader(nn.Module):
    """Strips (b, 3, HEIGHT, WIDTH) in [-1, 1] to logits (b, WIDTH / 4, 1 + characters)."""

    def __init__(self, config: Config | None = None) -> None:
        super().__init__()
        self.config = c = config or Config()

        def layer(a: int, b: int, stride: tuple[int, int]) -> nn.Sequential:
            return nn.Sequential(
                nn.Conv2d(a, b, 3, stride=stride, padding=1, bias=False),
                nn.BatchNorm2d(b),
                nn.ReLU(),
            )

        self.look = nn.Sequential(
            layer(3, c.width // 2, (2, 2)),  # b w/2 16 64
            layer(c.width // 2, c.width, (2, 1)),  # b w 8 64
            layer(c.width, c.width, (1, 1)),
            layer(c.width, c.width, (2, 2)),  # b w 4 32
            layer(c.width, c.width, (2, 1)),  # b w 2 32
        )
        self.read = nn.GRU(2 * c.width, c.hidden, 1, batch_first=True, bidirectional=True)
        self.write = nn.Linear(2 * c.hidden, 1 + len(c.characters))

    def forward(self, strips: Tensor) -> Tensor:
        return self.say(self.look(strips))

    def say(self, seen: Tensor) -> Tensor:
        """Logits (b, WIDTH / 4, 1 + characters) of what ``look`` sees (b, width, 2, WIDTH / 4)."""
        columns = seen.flatten(1, 2).transpose(1, 2)  # b 32 2w
        return self.write(self.read(columns)[0])

    @torch.no_grad()
    def words(self, strips: Tensor) -> list[tuple[str, float]]:
        """The likeliest words by the best path, and how sure each is: the least certain of its characters' probabilities."""
        chance, best = self(strips).float().softmax(-1).max(-1)  # b l each
        said = []
        for probabilities, numbers in zip(chance.tolist(), best.tolist(), strict=True):
            kept = [
                (p, n)
                for k, (p, n) in enumerate(zip(probabilities, numbers, strict=True))
                if n and (k == 0 or n != numbers[k - 1])
            ]
            said.append(
                (
                    "".join(self.config.characters[n - 1] for _, n in kept),
                    min((p for p, _ in kept), default=0.0),
                )
            )
        return said
