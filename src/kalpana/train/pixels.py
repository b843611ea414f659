"""Training of the class-conditional U-Net in pixels (DDPM, Ho et al. 2020) on single objects."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from kalpana.diffusion.denoiser import PREDICTIONS
from kalpana.diffusion.guidance import clipped, guide
from kalpana.diffusion.samplers import SAMPLERS, State, sample
from kalpana.diffusion.schedule import SCHEDULES, times
from kalpana.models import unet
from kalpana.models.pixels import Pixels
from kalpana.train import data_cache
from kalpana.train.diffusion import DiffusionBatch, DiffusionRecipe, DiffusionTask
from kalpana.train.task import HELD_OUT, config_of, indices
from kalpana.types import Cond
from kalpana.world.classes import CLASSES
from kalpana.world.defaults import house_style, sprites_for
from kalpana.world.lexicon import lexicon
from kalpana.world.scene import Background, Group, Scene, SceneObject

SIZES = 0.75, 0.85  # least and greatest length of the object, as shares of the side
SHIFT = 0.04  # greatest distance of its middle from that of the picture, along each side
GROUND = "light blue"  # some objects are white
STEPS, GUIDANCE = 50, 2.0  # of the pictures of a sheet


class PixelRecipe(DiffusionRecipe):
    """Recipe of a class-conditional U-Net in pixels."""

    refuses: ClassVar = dict.fromkeys(
        ("kind", "oversample", "aux_weight"), "its data are single objects with a class"
    )
    family: Literal["pixel-unet"] = "pixel-unet"
    size: Literal[32, 64] = Field(default=32, description="side of the pictures in pixels")
    schedule: str = Field(default="linear", description=f"noise schedule: {', '.join(SCHEDULES)}")
    prediction: str = Field(
        default="eps", description=f"what the network predicts: {', '.join(PREDICTIONS)}"
    )
    timesteps: Literal["logit-normal", "discrete"] = Field(
        default="discrete", description=DiffusionRecipe.model_fields["timesteps"].description
    )


@dataclass(frozen=True)
class ClassScenes:
    """Scenes of one object in the house style, with the colours and the facing of its drawing, near
    the middle of a plain background: what a class leaves open has one value. Scene i has class
    ``i % 80`` and depends on seed, split and i."""

    seed: int = 0
    split: str = "train"

    def __call__(self, index: int) -> Scene:
        rng = random.Random(f"{self.seed}/{self.split}/classes/{index}")
        group = Group(_ids()[CLASSES[index % len(CLASSES)]])
        style = house_style([group])
        assert style is not None
        (sprite,) = sprites_for([group], style)
        x, y = (0.5 + rng.uniform(-SHIFT, SHIFT) for _ in range(2))
        item = SceneObject(sprite, x, y, rng.uniform(*SIZES))
        return Scene((item,), (group,), Background("flat", GROUND), style=style)


@cache
def _ids() -> dict[str, str]:
    """Id of each concept by its English name."""
    return {concept.en: concept.id for concept in lexicon().values()}


class ClassData:
    """Pictures of ClassScenes, the first ``num_images`` of them, with their classes."""

    def __init__(self, recipe: PixelRecipe, progress: data_cache.Progress) -> None:
        self.recipe = recipe
        self.train, self.dev = (
            data_cache.scenes(
                f"icons-{split}-{recipe.seed}",
                ClassScenes(recipe.seed, split),
                recipe.size,
                count,
                progress,
            )
            for split, count in (("train", recipe.num_images), ("dev", HELD_OUT))
        )

    def batch(self, step: int) -> DiffusionBatch:
        rows = [row for row, _ in indices(self.recipe, step, len(self.train))]
        return DiffusionBatch(data_cache.floats(self.train[rows]), label=classes_of(rows))

    def held_out(self, rows: range) -> DiffusionBatch:
        pixels = data_cache.floats(self.dev[rows.start : rows.stop])
        return DiffusionBatch(pixels, label=classes_of(rows))

    def decode(self, x0: Tensor) -> Tensor:
        return x0


def classes_of(rows: list[int] | range) -> Tensor:
    """Class ids (b,) of the scenes of these indices."""
    return torch.tensor(rows) % len(CLASSES)


class PixelTask(DiffusionTask):
    """Diffusion task of a U-Net on pixels, conditioned on the class."""

    def __init__(
        self, recipe: PixelRecipe, device: torch.device, progress: data_cache.Progress
    ) -> None:
        given = {
            "sample_size": recipe.size,
            "in_channels": 3,
            "out_channels": 3,
            "cross_attention_dim": None,
            "num_class_embeds": len(CLASSES),
        }
        network = unet.UNet(config_of(unet.Config, recipe, given))
        super().__init__(recipe, device, network, ClassData(recipe, progress))

    def sampling(self, x: Tensor, cond: Cond) -> Iterator[State]:
        denoise = clipped(guide(self.process.denoiser(self.network), cond, GUIDANCE), Pixels.limit)
        return sample(denoise, x, times(STEPS), SAMPLERS["ddim"])
