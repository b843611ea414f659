"""CRNN text recogniser: a strip of a picture with a short word to characters.

A small convolutional network turns the strip into a sequence of columns, a bidirectional GRU reads
it, and every column predicts one character or the blank (CRNN, Shi et al. 2015; CTC, Graves et al.
2006). Devanagari is predicted as code points in logical order. A vowel sign that is drawn before
its consonant but encoded after it needs the context from the right, that of the backward GRU.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn as nn
from torch import Tensor

HEIGHT, WIDTH = 32, 128  # of a strip


@dataclass(frozen=True)
class Config:
    characters: str = ""  # all characters, in order; class 0 is the blank, so the first is class 1
    width: int = 96
    hidden: int = 128


class Reader(nn.Module):
    """Text recogniser: strips (b, 3, HEIGHT, WIDTH) in [-1, 1] to logits.

    The logits are (b, WIDTH / 4, 1 + characters); class 0 is the CTC blank.
    """

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
        """Logits (b, WIDTH / 4, 1 + characters) from the features of ``look``.

        The features are (b, width, 2, WIDTH / 4).
        """
        columns = seen.flatten(1, 2).transpose(1, 2)  # b 32 2w
        return self.write(self.read(columns)[0])

    @torch.no_grad()
    def words(self, strips: Tensor) -> list[tuple[str, float]]:
        """Words by greedy CTC decoding (best path), with the confidence of each in [0, 1].

        The confidence is the smallest probability of the word's characters; 0 for an empty word.
        """
        best_probabilities, best = self(strips).float().softmax(-1).max(-1)  # b l each
        words = []
        for probabilities, classes in zip(best_probabilities.tolist(), best.tolist(), strict=True):
            kept = [
                (p, n)
                for k, (p, n) in enumerate(zip(probabilities, classes, strict=True))
                if n and (k == 0 or n != classes[k - 1])
            ]
            word = "".join(self.config.characters[n - 1] for _, n in kept)
            words.append((word, min((p for p, _ in kept), default=0.0)))
        return words
