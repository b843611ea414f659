"""The Task interface that each family implements for training, and helpers that tasks share.

A task's batch is a function of the step alone, which makes a run exactly resumable.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import TypeAdapter
from torch import Generator, Tensor, nn

from kalpana.train.patch_labels import layout, sizes
from kalpana.train.recipe import CaptionedRecipe, Recipe, config_problems
from kalpana.types import KalpanaError
from kalpana.world.world import World

HELD_OUT = 512  # dev pictures over which held-out scores are computed
SORT = 8  # steps whose captions are sorted by length together, to keep padding short
Metrics = dict[str, float]


class Task(Protocol):
    """Training task of one family: its model, batches, loss and held-out evaluation.

    A batch is a tensor, or a dataclass of tensors, of dicts of tensors and of such dataclasses;
    what it does not have is None. ``loss`` gets a batch that is on the device, and ``progress``,
    the share of the run so far in [0, 1), by which weights fall. Its random numbers come from
    ``rng``, a CPU generator that the loop seeds by the step.
    """

    device: torch.device
    ahead: bool  # whether batches need no device, so that worker processes can prefetch them

    @property
    def model(self) -> nn.Module: ...
    def batch(self, step: int) -> Any: ...
    def loss(self, batch: Any, rng: Generator, progress: float) -> tuple[Tensor, Metrics]: ...
    def evaluate(self) -> tuple[Metrics, Tensor]:
        """Held-out scores, and a sample sheet of pictures (b, 3, h, w) in [-1, 1]."""
        ...

    def finish(self) -> None:
        """Final step before the weights are saved; the model then holds the averaged weights."""


def autocast(device: torch.device, wanted: bool = True) -> torch.autocast:
    """Autocast context to bfloat16, enabled where it is ``wanted`` and the hardware supports it.

    On a CPU without bfloat16 (AVX2 only) a convolution in bfloat16 takes about 15 times as long as
    in fp32, and a matrix product about 500 times.
    """
    return torch.autocast(device.type, torch.bfloat16, enabled=wanted and has_bf16(device))


def has_bf16(device: torch.device) -> bool:
    """Whether the device supports bfloat16."""
    return device.type != "cpu" or bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def moved(batch: Any, device: torch.device) -> Any:
    """A batch, see ``Task``, moved to the device."""
    if batch is None or isinstance(batch, Tensor):
        return None if batch is None else batch.to(device)
    if isinstance(batch, dict):
        return {name: moved(value, device) for name, value in batch.items()}
    return type(batch)(
        **{name: moved(getattr(batch, name), device) for name in batch.__dataclass_fields__}
    )


def noise(like: Tensor, rng: Generator) -> Tensor:
    """Unit Gaussian noise with the shape, dtype and device of ``like``.

    On a CPU ``rng`` samples it; on another device a generator there does, which ``rng`` seeds.
    """
    if like.device.type != "cpu":
        rng = Generator(like.device).manual_seed(int(torch.randint(1 << 62, (), generator=rng)))
    return torch.randn(like.shape, generator=rng, device=like.device).to(like)


def indices(recipe: Recipe, step: int, count: int) -> list[tuple[int, int]]:
    """The (example, epoch) pairs of a step; the ``count`` examples are shuffled every epoch."""
    out = []
    for k in range(step * recipe.batch, (step + 1) * recipe.batch):
        epoch, place = divmod(k, count)
        out.append((int(_order(recipe.seed, epoch, count)[place]), epoch))
    return out


@lru_cache(maxsize=2)
def _order(seed: int, epoch: int, count: int) -> np.ndarray:
    return np.random.default_rng([seed, epoch]).permutation(count)


class CaptionSampler:
    """Samples the (row, caption) pairs of each step.

    The first rows are pictures of the world; their captions are worded anew each time they come
    up. The rows behind them are self-training pictures, whose captions are fixed. In an epoch row
    i comes up ``often[i]`` times; ``often`` is (pictures + captions,). The pairs of SORT steps are
    sorted by caption length and cut into batches, which then come in random order.
    """

    def __init__(
        self, recipe: Recipe, world: World, often: np.ndarray, captions: Sequence[str] = ()
    ) -> None:
        self.recipe, self.world, self.often, self.captions = recipe, world, often, captions
        self.count = len(often) - len(captions)  # pictures of the world
        self.rows = np.repeat(np.arange(len(often)), often)  # of an epoch, before shuffling
        self.firsts = often.cumsum() - often  # index in ``rows`` of each row's first occurrence
        self.sorted: tuple[int, list[list[tuple[int, str]]]] = (-1, [])

    def __call__(self, step: int) -> list[tuple[int, str]]:
        block = step // SORT
        if self.sorted[0] != block:
            steps, size = range(block * SORT, (block + 1) * SORT), self.recipe.batch
            places = [p for s in steps for p in indices(self.recipe, s, len(self.rows))]
            pairs = [self._caption(place, epoch) for place, epoch in places]
            pairs.sort(key=lambda pair: len(pair[1].encode()))
            batches = [pairs[k : k + size] for k in range(0, len(pairs), size)]
            random.Random(f"{self.recipe.seed}/{block}").shuffle(batches)
            self.sorted = (block, batches)
        return self.sorted[1][step % SORT]

    def _caption(self, place: int, epoch: int) -> tuple[int, str]:
        """The row at a place of ``rows``, and its caption in this epoch."""
        row = int(self.rows[place])
        if row >= self.count:
            return row, self.captions[row - self.count]
        take = epoch * int(self.often[row]) + place - int(self.firsts[row])
        return row, self.world.describe(row, take)[0]


def config_of(kind: type, recipe: Recipe, given: Mapping[str, Any] | None = None) -> Any:
    """Config of the network: its defaults, updated by the recipe's ``model`` fields, and the fields
    that are ``given`` by the data or by other settings.

    Raises KalpanaError for an unknown field, a value of the wrong type, and a field of the recipe
    that differs from the given one.
    """
    for place, message in config_problems(kind, recipe.model):
        raise KalpanaError(f"recipe {recipe.name}: field '{'.'.join(place)}': {message}")
    for name, value in (given or {}).items():
        if recipe.model.get(name, value) != value:
            raise KalpanaError(
                f"recipe {recipe.name}: field 'model.{name}': it is {recipe.model[name]}, "
                f"where the data and the other fields give {value}: leave it out"
            )
    return TypeAdapter(kind).validate_python({**recipe.model, **(given or {})})


def aux_outputs(recipe: CaptionedRecipe) -> int:
    """Number of outputs of the auxiliary head, 0 if the recipe has no auxiliary loss."""
    return sum(sizes()) + 2 if recipe.aux_weight else 0


def auxiliary_targets(
    recipe: CaptionedRecipe, world: World, rows: Sequence[int], cells: int
) -> Tensor | None:
    """Patch labels (b, 4, cells, cells) of the pictures in these rows of the pool, see
    ``patch_labels.layout``; None if the recipe has no auxiliary loss."""
    if not recipe.aux_weight:
        return None
    return torch.from_numpy(np.stack([layout(world.scene(i), cells) for i in rows]))


def linear_decay(start: float, progress: float) -> float:
    """A value that is ``start`` at the start of the run and falls linearly to 0 at its end."""
    return start * (1 - progress)


def add_auxiliary_loss(
    loss: Tensor, logits: Tensor | None, layout: Tensor | None, weight: float, metrics: Metrics
) -> tuple[Tensor, Metrics]:
    """The loss plus the weighted patch-label loss, and the metrics with that loss as "layout".

    ``logits`` are the patch logits, see ``layout_error``, or None for a network without auxiliary
    head; loss and metrics are then returned as they are.
    """
    if logits is None or layout is None:
        return loss, metrics
    error = layout_error(logits.float(), layout).mean()
    return loss + weight * error, {**metrics, "layout": error.item()}


def layout_error(logits: Tensor, truth: Tensor) -> Tensor:
    """(b,) patch-label loss of logits (b, hw, classes + colours + 2) against ``truth``.

    ``truth`` is (b, 4, h, w), see ``patch_labels.layout``. The loss is the mean cross-entropy of
    class and of colour, plus, over cells that show an object, half the mean absolute error of the
    offset to the object's middle, in cells.
    """
    parts = logits.transpose(1, 2).split([*sizes(), 2], 1)  # b k hw each
    target = truth.flatten(2)  # b 4 hw
    there = (target[:, 0] > 0).float()
    away = (parts[2] - target[:, 2:]).abs().mean(1)
    kind, color = (F.cross_entropy(parts[k], target[:, k].long(), reduction="none") for k in (0, 1))
    return (kind + color).mean(1) + 0.5 * (away * there).sum(1) / there.sum(1).clamp(min=1)
