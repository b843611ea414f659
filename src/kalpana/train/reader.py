"""The reader at school: signs of the world, cut out by their boxes, a little off, and damaged as a generator would."""

from __future__ import annotations

import random
from dataclasses import dataclass, replace
from functools import cache

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from kalpana.models import reader
from kalpana.train import data_cache
from kalpana.train.degradations import Degradations
from kalpana.train.recipe import Recipe
from kalpana.train.sign_augmentation import respelt
from kalpana.train.task import HELD_OUT, Metrics, config_of
from kalpana.world import maps
from kalpana.world.crops import strips
from kalpana.world.kinds import signs
from kalpana.world.render import render
from kalpana.world.scene import Scene
from kalpana.world.world import World


@cache
def characters() -> str:
    """Every code point that a sign of the world can hold, in order."""
    every = (
        set(signs.LETTERS)
        | set("".join(signs.SYLLABLES))
        | set("".join(word for words in signs.words().values() for word in words))
    )
    return "".join(sorted(every))


@dataclass(frozen=True)
class ReaderBatch:
    """A batch of the reader: strips (b, 3, 32, 128), the numbers of their characters (b, most), padded with 0, and how many there are."""

    strips: Tensor
    numbers: Tensor
    lengths: Tensor


class ReaderTask:
    """CTC on signs (Graves et al. 2006)."""

    file = "reader.safetensors"
    ahead = False  # it is drawn and damaged on the device

    def __init__(self, recipe: Recipe, device: torch.device, progress: data_cache.Progress) -> None:
        self.recipe, self.device = recipe, device
        self.model = reader.Reader(
            replace(config_of(reader.Config, recipe), characters=characters())
        ).to(device)
        self.damage = Degradations(recipe, device)
        self.dev = self._written(
            [World(recipe.seed, "dev", kind="text").scene(i) for i in range(HELD_OUT)], None
        )

    def batch(self, step: int) -> ReaderBatch:
        rng = random.Random(f"{self.recipe.seed}/read/{step}")
        world = World(self.recipe.seed, kind="text")
        scenes = (
            world.scene(rng.randrange(self.recipe.num_images)) for _ in range(self.recipe.batch)
        )
        return self._written([respelt(scene, rng) for scene in scenes], rng)

    def _written(self, scenes: list[Scene], rng: random.Random | None) -> ReaderBatch:
        """The signs of scenes; with ``rng`` damaged, and cut out by boxes that are off by up to a twelfth of their sides."""
        drawn = render(scenes, masks=True, device=self.device)
        assert drawn.whole is not None
        pixels = (
            drawn.pixels
            if rng is None
            else self.damage(drawn.pixels, torch.Generator().manual_seed(rng.randrange(1 << 40)))
        )
        boxes, words = [], []
        for scene, whole in zip(scenes, drawn.whole, strict=True):
            k, sign = signs.sign_of(scene)
            words.append(sign.text)
            x0, y0, x1, y1 = (
                edge / drawn.pixels.shape[-1]
                for edge in maps.boxes(whole[k : k + 1].cpu())[0].tolist()
            )
            off = [0.0] * 4 if rng is None else [rng.uniform(-1, 1) / 12 for _ in range(4)]
            w, h = x1 - x0, y1 - y0
            boxes.append((x0 + off[0] * w, y0 + off[1] * h, x1 + off[2] * w, y1 + off[3] * h))
        lengths = torch.tensor([len(word) for word in words])
        numbers = torch.zeros(len(words), int(lengths.max()), dtype=torch.long)
        for i, word in enumerate(words):
            numbers[i, : len(word)] = torch.tensor(
                [1 + characters().index(letter) for letter in word]
            )
        return ReaderBatch(strips(pixels, boxes), numbers.to(self.device), lengths.to(self.device))

    def loss(self, batch: ReaderBatch, rng: Generator) -> tuple[Tensor, Metrics]:
        said = self.model(batch.strips).float().log_softmax(-1).transpose(0, 1)  # l b c
        columns = torch.full_like(batch.lengths, len(said))
        return F.ctc_loss(said, batch.numbers, columns, batch.lengths, zero_infinity=True), {}

    def evaluate(self) -> tuple[Metrics, Tensor]:
        """The share of dev signs, undamaged, that are read to the last character; Latin and Devanagari apart."""
        said = [word for word, _ in self.model.words(self.dev.strips)]
        truth = [
            "".join(characters()[n - 1] for n in row[:length])
            for row, length in zip(
                self.dev.numbers.tolist(), self.dev.lengths.tolist(), strict=True
            )
        ]
        latin = [a == b for a, b in zip(said, truth, strict=True) if b.isascii()]
        other = [a == b for a, b in zip(said, truth, strict=True) if not b.isascii()]
        scores = {
            "dev_latin": sum(latin) / max(len(latin), 1),
            "dev_devanagari": sum(other) / max(len(other), 1),
        }
        return scores, self.dev.strips[:64]

    def finish(self) -> None:
        """Nothing is left to do."""
