"""Training of the control transformer: maps and masks of the world's scenes, beside captions."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from kalpana.hub.weights import load_module
from kalpana.models.control_dit import ControlDiT
from kalpana.train import data_cache
from kalpana.train.diffusion import DiffusionBatch, DiffusionTask
from kalpana.train.flow import LatentData, WidenedRecipe, widened
from kalpana.train.recipe import located
from kalpana.world.controls import KINDS, available, control_maps
from kalpana.world.world import World

# Shares of the pictures: without maps, with one, with two or three, with a mask (inpainting).
WITHOUT, ONE, SEVERAL, MASKED = 0.25, 0.45, 0.15, 0.15
GLYPHS = 0.7  # share of the maps of a picture with a sign that are its glyphs
EXTRA_WITHOUT = 0.15  # share of the pictures of the second pool without maps


class ControlRecipe(WidenedRecipe):
    """Recipe of a control transformer."""

    family: Literal["control"] = "control"
    extra_kind: str = Field(
        default="text", description="a kind of pictures that come up more often"
    )
    extra_images: int = Field(
        default=0, ge=0, description="pictures of this kind, besides those of the pool"
    )
    extra_share: float | None = Field(
        default=None,
        ge=0,
        le=1,
        description="share of the samples that are of this kind; by default its share of all "
        "pictures",
    )

    def problems(self) -> Iterator[tuple[str, str]]:
        yield from super().problems()
        if self.extra_share and not self.extra_images:
            yield "extra_share", "there are no extra_images: give their number too, or leave it out"


class ControlData(LatentData):
    """Latents, captions, control maps and masks of a pool of pictures, and of a second pool of
    another kind, which is ``extra_share`` of the samples."""

    def __init__(self, recipe: ControlRecipe, *args: Any) -> None:
        super().__init__(recipe, *args)
        self.recipe: ControlRecipe = recipe
        vae, _, _, device, progress = args
        self.extra = World(recipe.seed, "train", kind=recipe.extra_kind)
        self.more = (
            data_cache.latents(
                vae, located(recipe.vae), self.extra, recipe.extra_images, device, progress
            )
            if recipe.extra_images
            else self.latents[:0]
        )
        share = recipe.extra_images / (recipe.extra_images + recipe.num_images)
        self.extra_share = share if recipe.extra_share is None else recipe.extra_share

    def batch(self, step: int) -> DiffusionBatch:
        rng = np.random.default_rng([self.recipe.seed, step])
        plain = super().batch(step)
        rows = [row for row, _ in self.captions(step)]
        scenes = [self.world.scene(row) for row in rows]
        captions = [caption for _, caption in self.captions(step)]
        x0 = plain.x0.clone()
        extra = rng.random(len(rows)) < self.extra_share
        for k in extra.nonzero()[0]:
            row = int(rng.integers(len(self.more)))
            scenes[k] = self.extra.scene(row)
            captions[k] = self.extra.describe(row, int(rng.integers(1 << 30)))[0]
            x0[k] = torch.from_numpy(np.array(self.more[row]))
        without = np.where(extra, EXTRA_WITHOUT, WITHOUT + MASKED)
        chosen = [
            self._chosen(rng, available(scene), share)
            for scene, share in zip(scenes, without.tolist(), strict=True)
        ]
        masked = rng.random(len(rows)) < MASKED / (1 - SEVERAL - ONE)
        masks = torch.stack(
            [
                random_mask(rng, x0.shape[-1]) if not kinds and mask else torch.zeros(x0.shape[-2:])
                for kinds, mask in zip(chosen, masked, strict=True)
            ]
        )[:, None]  # 1: given
        return DiffusionBatch(
            x0,
            self._tokens(captions),
            control=maps_of(scenes, chosen),
            known=torch.cat((x0.float() * masks, masks), 1),
        )

    def held_out(self, rows: range) -> DiffusionBatch:
        scenes = [self.dev.scene(i) for i in rows]
        rng = np.random.default_rng(0)
        chosen = [self._chosen(rng, available(scene), WITHOUT + MASKED) for scene in scenes]
        return replace(super().held_out(rows), control=maps_of(scenes, chosen))

    def _chosen(
        self, rng: np.random.Generator, kinds: tuple[str, ...], without: float
    ) -> tuple[str, ...]:
        """The kinds of map that a picture comes with; none for a share ``without``."""
        roll = (rng.random() - without) / (1 - without)
        if roll < 0:
            return ()
        if "glyphs" in kinds and rng.random() < GLYPHS:
            return ("glyphs",)
        count = 1 if roll < ONE / (ONE + SEVERAL) else int(rng.integers(2, 4))
        return tuple(rng.permutation(kinds)[:count].tolist())


class ControlTask(DiffusionTask):
    """Diffusion task of the control transformer, started from an image transformer."""

    data: ControlData

    def __init__(
        self, recipe: ControlRecipe, device: torch.device, progress: data_cache.Progress
    ) -> None:
        vae = load_module(located(recipe.vae), "vae").to(device)
        model = widened(ControlDiT, recipe)
        length, patch = model.config.length, model.config.patch
        data = ControlData(recipe, vae, length, patch, device, progress)
        super().__init__(recipe, device, model, data)


def maps_of(scenes: list[Any], chosen: list[tuple[str, ...]]) -> dict[str, Tensor]:
    """Control (b, 4, h, w) by kind: the chosen maps of each scene in [-1, 1], and strength 1 where
    there is one."""
    found = {}
    for kind in KINDS:
        rows = [k for k, kinds in enumerate(chosen) if kind in kinds]
        if not rows:
            continue
        drawn = control_maps([scenes[k] for k in rows], [kind])[kind]
        whole = torch.zeros(len(scenes), 4, *drawn.shape[-2:])
        whole[:, :3] = -1
        whole[rows, :3], whole[rows, 3] = 2 * drawn - 1, 1.0
        found[kind] = whole
    return found


def random_mask(rng: np.random.Generator, side: int) -> Tensor:
    """Random mask (side, side) of the given latents, 1 where they are given: around a box, or a
    half, or nothing."""
    mask = torch.ones(side, side)
    roll = rng.random()
    if roll < 0.2:
        return torch.zeros(side, side)
    if roll < 0.4:
        half = mask.clone()
        half[: side // 2] = 0
        return torch.rot90(half, int(rng.integers(4)))
    h, w = rng.integers(side // 4, side * 3 // 4 + 1, 2)
    top, left = rng.integers(0, side - h + 1), rng.integers(0, side - w + 1)
    mask[top : top + h, left : left + w] = 0
    return mask
