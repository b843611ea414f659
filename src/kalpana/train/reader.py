"""Reader training on crops of the world's signs, with jittered boxes and degraded pictures."""

from __future__ import annotations

import random
from dataclasses import dataclass
from functools import cache
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from kalpana.models import reader
from kalpana.train import data_cache
from kalpana.train.degradations import Degradations, DegradedRecipe
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
    """All code points that a sign of the world can have, sorted."""
    words = [word for language in signs.words().values() for word in language]
    syllables, letters = set("".join(signs.SYLLABLES)), set("".join(words))
    return "".join(sorted(set(signs.LETTERS) | syllables | letters))


class ReaderRecipe(DegradedRecipe):
    """Recipe of a reader."""

    family: Literal["reader"] = "reader"


@dataclass(frozen=True)
class ReaderBatch:
    """Batch of the reader task."""

    strips: Tensor  # (b, 3, 32, 128)
    numbers: Tensor  # of the characters, from 1, (b, longest), padded with 0
    lengths: Tensor  # (b,) characters per sign


class ReaderTask:
    """CTC (Graves et al. 2006) on the text of signs."""

    ahead = False  # batches are rendered and degraded on the device

    def __init__(
        self, recipe: ReaderRecipe, device: torch.device, progress: data_cache.Progress
    ) -> None:
        self.recipe, self.device = recipe, device
        config = config_of(reader.Config, recipe, {"characters": characters()})
        self.model = reader.Reader(config).to(device)
        self.damage = Degradations(recipe, device)
        scenes = [World(recipe.seed, "dev", kind="text").scene(i) for i in range(HELD_OUT)]
        self.dev = self._written(scenes, None)

    def batch(self, step: int) -> ReaderBatch:
        rng = random.Random(f"{self.recipe.seed}/read/{step}")
        world, count = World(self.recipe.seed, kind="text"), self.recipe.num_images
        scenes = (world.scene(rng.randrange(count)) for _ in range(self.recipe.batch))
        return self._written([respelt(scene, rng) for scene in scenes], rng)

    def _written(self, scenes: list[Scene], rng: random.Random | None) -> ReaderBatch:
        """Batch of the signs of scenes.

        With ``rng`` pictures are degraded, and boxes shifted by up to a twelfth of their sides.
        """
        drawn = render(scenes, masks=True, device=self.device)
        assert drawn.whole is not None
        pixels = drawn.pixels
        if rng is not None:
            generator = torch.Generator().manual_seed(rng.randrange(1 << 40))
            pixels = self.damage(pixels, generator)
        boxes, words = [], []
        for scene, whole in zip(scenes, drawn.whole, strict=True):
            k, sign = signs.sign_of(scene)
            words.append(sign.text)
            box = maps.boxes(whole[k : k + 1].cpu())[0]
            x0, y0, x1, y1 = (edge / drawn.pixels.shape[-1] for edge in box.tolist())
            off = [0.0] * 4 if rng is None else [rng.uniform(-1, 1) / 12 for _ in range(4)]
            w, h = x1 - x0, y1 - y0
            boxes.append((x0 + off[0] * w, y0 + off[1] * h, x1 + off[2] * w, y1 + off[3] * h))
        lengths = torch.tensor([len(word) for word in words])
        numbers = torch.zeros(len(words), int(lengths.max()), dtype=torch.long)
        for i, word in enumerate(words):
            row = [1 + characters().index(letter) for letter in word]
            numbers[i, : len(word)] = torch.tensor(row)
        return ReaderBatch(strips(pixels, boxes), numbers.to(self.device), lengths.to(self.device))

    def loss(self, batch: ReaderBatch, rng: Generator, progress: float) -> tuple[Tensor, Metrics]:
        logits = self.model(batch.strips)
        log_probs = logits.float().log_softmax(-1).transpose(0, 1)  # l b c
        columns = torch.full_like(batch.lengths, len(log_probs))
        return F.ctc_loss(log_probs, batch.numbers, columns, batch.lengths, zero_infinity=True), {}

    def evaluate(self) -> tuple[Metrics, Tensor]:
        """Exact-match accuracy on undegraded dev signs, separately for Latin and Devanagari; the
        sheet has 64 of the strips."""
        words = [word for word, _ in self.model.words(self.dev.strips)]
        truth = [
            "".join(characters()[n - 1] for n in row[:length])
            for row, length in zip(
                self.dev.numbers.tolist(), self.dev.lengths.tolist(), strict=True
            )
        ]
        latin = [a == b for a, b in zip(words, truth, strict=True) if b.isascii()]
        other = [a == b for a, b in zip(words, truth, strict=True) if not b.isascii()]
        scores = {
            "dev_latin": sum(latin) / max(len(latin), 1),
            "dev_devanagari": sum(other) / max(len(other), 1),
        }
        return scores, self.dev.strips[:64]

    def finish(self) -> None:
        """No final step."""
