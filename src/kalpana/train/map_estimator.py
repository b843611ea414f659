"""Training of the map estimator on pictures of the world and their exact maps."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Generator, Tensor

from kalpana.models import map_estimator
from kalpana.train import data_cache
from kalpana.train.autoencoder import rows_of
from kalpana.train.recipe import PoolRecipe
from kalpana.train.task import HELD_OUT, Metrics, config_of, noise
from kalpana.world.controls import control_maps
from kalpana.world.world import World

KINDS = tuple(map_estimator.PLANES)
SHEET = 8  # pictures of a sample sheet


class MapRecipe(PoolRecipe):
    """Recipe of a map estimator."""

    family: Literal["maps"] = "maps"
    blur_share: float = Field(
        default=0.5,
        ge=0,
        le=1,
        description="share of the pictures that are blurred, as generated ones are",
    )
    noise_std: float = Field(
        default=0.05, ge=0, description="largest standard deviation of the noise in a picture"
    )


@dataclass(frozen=True)
class MapBatch:
    """Pictures (b, 3, h, w) uint8, and their maps (b, c, h, w) in [0, 1] by kind."""

    pictures: Tensor
    maps: dict[str, Tensor]


class MapTask:
    """Map estimator: the sum of the binary cross-entropies of all planes, which have soft targets.

    Half of the pictures are blurred, and all have noise, contrast and brightness of their own.
    """

    ahead = True

    def __init__(
        self, recipe: MapRecipe, device: torch.device, progress: data_cache.Progress
    ) -> None:
        self.recipe, self.device = recipe, device
        self.model = map_estimator.MapEstimator(config_of(map_estimator.Config, recipe)).to(device)
        self.train, self.dev = (
            World(recipe.seed, split, kind=recipe.kind) for split in ("train", "dev")
        )
        self.pictures = data_cache.pictures(self.train, recipe.num_images, progress)
        self.held_out = data_cache.pictures(self.dev, HELD_OUT, progress)

    def batch(self, step: int) -> MapBatch:
        rows = rows_of(self.recipe, step, self.pictures)
        return MapBatch(torch.from_numpy(self.pictures[rows]), self._maps(self.train, rows))

    def loss(self, batch: MapBatch, rng: Generator, progress: float) -> tuple[Tensor, Metrics]:
        pixels = self._degraded(data_cache.floats(batch.pictures, self.device), rng)
        found = self.model(pixels)
        errors = {
            kind: F.binary_cross_entropy_with_logits(found[kind].float(), batch.maps[kind])
            for kind in KINDS
        }
        return torch.stack(list(errors.values())).sum(), {k: e.item() for k, e in errors.items()}

    def evaluate(self) -> tuple[Metrics, Tensor]:
        """Mean absolute error of each kind of map on dev pictures; the sheet has a row of pictures
        and, for each kind, a row of true and a row of estimated maps."""
        errors: dict[str, list[float]] = {kind: [] for kind in KINDS}
        sheet: list[Tensor] = []
        for start in range(0, len(self.held_out), 32):
            rows = np.arange(start, min(start + 32, len(self.held_out)))
            pixels = data_cache.floats(self.held_out[rows], self.device)
            true, found = self._maps(self.dev, rows), self.model.maps(pixels)
            for kind in KINDS:
                wanted = true[kind].expand(-1, 3, -1, -1).to(self.device)
                errors[kind].append((found[kind] - wanted).abs().mean().item())
                if not start:
                    sheet += [2 * each[:SHEET] - 1 for each in (wanted, found[kind])]
            if not start:
                sheet.insert(0, pixels[:SHEET])
        return {f"dev_{k}": float(np.mean(each)) for k, each in errors.items()}, torch.cat(sheet)

    def finish(self) -> None:
        pass

    def _maps(self, world: World, rows: np.ndarray) -> dict[str, Tensor]:
        found = control_maps([world.scene(int(row)) for row in rows], KINDS)
        return {
            kind: found[kind][:, :planes].contiguous()
            for kind, planes in map_estimator.PLANES.items()
        }

    def _degraded(self, pixels: Tensor, rng: Generator) -> Tensor:
        """Pictures in [-1, 1] with random blur, contrast, brightness and noise."""

        def uniform(low: float, high: float) -> Tensor:
            draw = torch.rand(len(pixels), 1, 1, 1, generator=rng).to(pixels)
            return low + (high - low) * draw

        blurred = F.avg_pool2d(F.pad(pixels, (1,) * 4, mode="replicate"), 3, 1)
        x = torch.where(uniform(0, 1) < self.recipe.blur_share, blurred, pixels)
        x = x * uniform(0.8, 1.2) + uniform(-0.1, 0.1)
        return (x + uniform(0, self.recipe.noise_std) * noise(x, rng)).clamp(-1, 1)
