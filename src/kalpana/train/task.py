"""What every family brings to school, and the helpers they share.

A task's batch is a function of the step alone, which is what makes a run exactly resumable.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import fields
from functools import lru_cache
from typing import Any, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import TypeAdapter, ValidationError
from torch import Generator, Tensor, nn

from kalpana.train.patch_labels import layout, sizes
from kalpana.train.recipe import Recipe
from kalpana.types import KalpanaError
from kalpana.world.world import World

HELD_OUT = 512  # dev pictures that the held-out loss is taken over
SORT = 8  # steps whose captions are sorted by length together, so that little is padded
Metrics = dict[str, float]


class Task(Protocol):
    """A family at school. ``model`` learns; ``loss`` is given a batch on the device and may use ``rng``, on the CPU, seeded by the step."""

    device: torch.device
    file: str  # what its weights are called in a model's folder
    ahead: bool  # whether a batch is made without the device, and so by other processes, ahead of its step

    @property
    def model(self) -> nn.Module: ...
    def batch(self, step: int) -> Any: ...
    def loss(self, batch: Any, rng: Generator) -> tuple[Tensor, Metrics]: ...
    def evaluate(self) -> tuple[Metrics, Tensor]:
        """Held-out scores and a sheet of pictures (b, 3, h, w) in [-1, 1] to look at."""
        ...

    def finish(self) -> None:
        """The last touch before the weights are shipped, which the model then holds averaged."""


def autocast(device: torch.device, wanted: bool = True) -> torch.autocast:
    """Autocast to bfloat16 where it is ``wanted`` and the hardware computes in it: on a CPU without (AVX2 only), a convolution in
    bfloat16 takes some fifteen times as long as in fp32, and a matrix product five hundred times."""
    return torch.autocast(device.type, torch.bfloat16, enabled=wanted and has_bf16(device))


def has_bf16(device: torch.device) -> bool:
    """Whether the device computes in bfloat16."""
    return device.type != "cpu" or bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def moved(batch: Any, device: torch.device) -> Any:
    """The batch, a tensor or a dataclass of batches, on the device."""
    if isinstance(batch, Tensor):
        return batch.to(device)
    return type(batch)(
        **{name: moved(getattr(batch, name), device) for name in batch.__dataclass_fields__}
    )


def noise(like: Tensor, rng: Generator) -> Tensor:
    """Unit Gaussian noise of a tensor's shape and type, on its device: drawn by ``rng`` on the CPU, and elsewhere by a generator that
    ``rng`` seeds."""
    if like.device.type != "cpu":
        rng = Generator(like.device).manual_seed(int(torch.randint(1 << 62, (), generator=rng)))
    return torch.randn(like.shape, generator=rng, device=like.device).to(like)


def indices(recipe: Recipe, step: int, count: int) -> list[tuple[int, int]]:
    """The (picture, round) pairs of a step: the pool in a new order every round."""
    out = []
    for k in range(step * recipe.batch, (step + 1) * recipe.batch):
        around, place = divmod(k, count)
        out.append((int(_order(recipe.seed, around, count)[place]), around))
    return out


@lru_cache(maxsize=2)
def _order(seed: int, around: int, count: int) -> np.ndarray:
    return np.random.default_rng([seed, around]).permutation(count)


class CaptionSampler:
    """The (picture, caption) pairs of each step: of the world's first pictures, whose captions are worded anew each time they come up, and
    of those behind them that the texts ``said`` tell of. In a round each comes up as ``often`` (pictures + said,) as is said. SORT
    steps are dealt together, shortest captions first, in random order."""

    def __init__(
        self, recipe: Recipe, world: World, often: np.ndarray, said: Sequence[str] = ()
    ) -> None:
        self.recipe, self.world, self.often, self.said, self.count = (
            recipe,
            world,
            often,
            said,
            len(often) - len(said),
        )
        self.places = np.repeat(np.arange(len(often)), often)
        self.firsts = often.cumsum() - often
        self.sorted: tuple[int, list[list[tuple[int, str]]]] = (-1, [])

    def __call__(self, step: int) -> list[tuple[int, str]]:
        block = step // SORT
        if self.sorted[0] != block:
            pairs = [
                p
                for s in range(block * SORT, (block + 1) * SORT)
                for p in indices(self.recipe, s, len(self.places))
            ]
            words = [self._worded(place, around) for place, around in pairs]
            words.sort(key=lambda pair: len(pair[1].encode()))
            dealt = [
                words[k : k + self.recipe.batch] for k in range(0, len(words), self.recipe.batch)
            ]
            random.Random(f"{self.recipe.seed}/{block}").shuffle(dealt)
            self.sorted = (block, dealt)
        return self.sorted[1][step % SORT]

    def _worded(self, place: int, around: int) -> tuple[int, str]:
        """The picture at a place of the order, and its caption in this round."""
        row = int(self.places[place])
        if row >= self.count:
            return row, self.said[row - self.count]
        return row, self.world.describe(
            row, around * int(self.often[row]) + place - int(self.firsts[row])
        )[0]


def config_of(kind: type, recipe: Recipe) -> Any:
    """The network's configuration, its defaults changed as the recipe says."""
    known = [field.name for field in fields(kind)]
    for name in recipe.model:
        if name not in known:
            raise KalpanaError(
                f"recipe {recipe.name}: unknown field 'model.{name}': the fields are {', '.join(known)}"
            )
    try:
        return TypeAdapter(kind).validate_python(recipe.model)
    except ValidationError as error:
        first = error.errors()[0]
        raise KalpanaError(
            f"recipe {recipe.name}: field 'model.{'.'.join(map(str, first['loc']))}': {first['msg'].lower()}"
        ) from None


def auxiliary_targets(
    recipe: Recipe, world: World, rows: Sequence[int], cells: int, step: int
) -> tuple[Tensor, Tensor]:
    """What a recipe with ``layout`` asks of its network beside the pictures in these rows of the pool: what each of cells x cells shows
    (b, 4, cells, cells; empty if nothing is asked), and (b,) what that weighs at this step."""
    shown = (
        np.stack([layout(world.scene(i), cells) for i in rows])
        if recipe.aux_weight
        else np.empty((len(rows), 0), np.float32)
    )
    return torch.from_numpy(shown), linear_decay(recipe.aux_weight, recipe, step, len(rows))


def linear_decay(much: float, recipe: Recipe, step: int, b: int) -> Tensor:
    """(b,) so ``much`` at the first step of a recipe's run, and evenly less until nothing is left at its end."""
    return torch.full((b,), much * (1 - step / recipe.steps))


def add_auxiliary_loss(
    loss: Tensor, said: Sequence[Tensor], layout: Tensor, worth: Tensor, metrics: Metrics
) -> tuple[Tensor, Metrics]:
    """A loss and its metrics, and with them how wrong the network is about what it was asked aside, if it ``said`` anything."""
    if not said:
        return loss, metrics
    wrong = layout_error(said[0].float(), layout).mean()
    return loss + worth.mean() * wrong, {**metrics, "layout": wrong.item()}


def layout_error(said: Tensor, truth: Tensor) -> Tensor:
    """(b,) how wrong the patches are, ``said`` (b, hw, classes + colours + 2), about ``truth`` (b, 4, h, w), see ``world.layout``:
    the cross-entropies of class and colour, and where there is a thing half the distance, in cells, to its middle."""
    parts, of = (
        said.transpose(1, 2).split([*sizes(), 2], 1),
        truth.flatten(2),
    )  # b k hw each, b 4 hw
    there = (of[:, 0] > 0).float()
    away = (parts[2] - of[:, 2:]).abs().mean(1)
    kind, color = (F.cross_entropy(parts[k], of[:, k].long(), reduction="none") for k in (0, 1))
    return (kind + color).mean(1) + 0.5 * (away * there).sum(1) / there.sum(1).clamp(min=1)
