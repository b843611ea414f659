"""Degradations of renders that imitate generated pictures, so that verifiers read both.

Blur, noise and the seams of patches are cheap. With an autoencoder in the recipe, some pictures are
encoded and decoded. With a transformer as well, some are noised and denoised by our own model
(SDEdit, Meng et al. 2022): at low noise times, which leave objects recognisable, or at times near
1, after which only blobs of their colours are left.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Generator, Tensor

from kalpana.diffusion.denoiser import Denoise, Denoiser
from kalpana.diffusion.samplers import SAMPLERS, sample
from kalpana.diffusion.schedule import Flow
from kalpana.hub.weights import load_module
from kalpana.models import dit
from kalpana.train.recipe import Recipe, located
from kalpana.train.task import autocast, noise
from kalpana.types import Cond

SHARES = (0.125, 0.0625)  # of a batch: encoded and decoded alone, and also through SDEdit
LARGE_SHARE = 0.25  # of a batch, at most: pictures of large objects alone through SDEdit
# Ranges of noise times, chosen by eye. From KEPT objects come back as they were. From KEPT_LARGE
# large ones do, with the look of generated pictures: whole ones whole, corrupted ones corrupted.
# From LOST only blobs of their colours come back.
KEPT, KEPT_LARGE, LOST = (0.15, 0.35), (0.3, 0.55), (0.85, 0.95)
LOST_SHARE = 0.05  # of a batch: made unrecognisable


class DegradedRecipe(Recipe):
    """Recipe of a network of a verifier, which is trained on degraded renders."""

    vae: Path | None = Field(
        default=None,
        description="weights of an autoencoder that encodes and decodes a share of the pictures",
    )
    sdedit_model: Path | None = Field(
        default=None,
        description="weights of a flow transformer that noises a share of the pictures part of the "
        "way and denoises them (SDEdit)",
    )

    def problems(self) -> Iterator[tuple[str, str]]:
        yield from super().problems()
        if self.sdedit_model and self.vae is None:
            yield "sdedit_model", "it works on latents: name their autoencoder as 'vae'"
        if self.compile:
            yield "compile", f"a {self.family} has no blocks to compile: leave it out"


class Degradations:
    """Degrades a random part of a batch: ``degrade(pixels, rng)`` with pictures (b, 3, h, w).

    A good part of the pictures stays unchanged. All random numbers come from ``rng``. ``coded``
    says whether the autoencoder, which is slow, may be used, and ``large`` which rows show large
    objects alone.
    """

    def __init__(self, recipe: DegradedRecipe, device: torch.device) -> None:
        self.vae, self.dit = None, None
        if recipe.vae:
            network = load_module(located(recipe.vae), "vae")
            self.vae = network.to(device)
        if recipe.sdedit_model:
            flow = load_module(located(recipe.sdedit_model), "flow")
            self.dit = flow.to(device)

    @torch.no_grad()
    def __call__(
        self, pixels: Tensor, rng: Generator, coded: bool = True, large: Sequence[int] = ()
    ) -> Tensor:
        out, b = pixels.clone(), len(pixels)
        order = torch.randperm(b, generator=rng).tolist()
        if self.vae and coded:
            plain, redrawn = (round(share * b) for share in SHARES)
            parts: list[tuple[list[int], tuple[float, float] | None]] = []
            if self.dit:
                chosen = [row for row in order if row in set(large)][: round(LARGE_SHARE * b)]
                order = [row for row in order if row not in set(chosen)]
                parts += [(chosen, KEPT_LARGE), (order[:redrawn], KEPT)]
                order = order[redrawn:]
            parts.append((order[:plain], None))
            order = order[plain:]
            with autocast(pixels.device):
                for rows, between in parts:
                    if rows:
                        z = self.vae.encode(pixels[rows])
                        if self.dit and between:
                            z = redraw(self.dit, z.float(), between, rng).to(z)
                        out[rows] = self.vae.decode(z.float()).float().clamp(-1, 1)
        rest = order[: round(len(order) * 0.45)]
        for row in rest:
            out[row] = _degrade_pixels(out[row], rng)
        return out

    @torch.no_grad()
    def lose(self, pixels: Tensor, rng: Generator) -> tuple[Tensor, Tensor]:
        """The pictures with a LOST_SHARE of them made unrecognisable, and the rows of these (k,).

        Without an autoencoder and a transformer k is 0.
        """
        rows = torch.randperm(len(pixels), generator=rng)[: round(LOST_SHARE * len(pixels))]
        if self.vae is None or self.dit is None or not len(rows):
            return pixels, rows[:0]
        out = pixels.clone()
        with autocast(pixels.device):
            z = redraw(self.dit, self.vae.encode(pixels[rows]).float(), LOST, rng)
            out[rows] = self.vae.decode(z.float()).float().clamp(-1, 1)
        return out, rows


def redraw(net: dit.DiT, z: Tensor, between: tuple[float, float], rng: Generator) -> Tensor:
    """SDEdit: latents noised to a random time in the range ``between`` and denoised in three steps.

    The time is the same for all rows; there is no caption.
    """
    low, high = between
    t = low + (high - low) * torch.rand((), generator=rng).item()
    flow = Flow()
    denoiser = Denoiser(net, flow)
    x = (1 - t) * z + t * noise(z, rng)
    denoise = Denoise(flow, lambda x_t, time: denoiser(x_t, time, Cond()))
    for state in sample(denoise, x, [t * (1 - k / 3) for k in range(4)], SAMPLERS["euler"]):
        x = state.x
    return x


def _degrade_pixels(x: Tensor, rng: Generator) -> Tensor:
    """A picture (3, h, w) in [-1, 1] with blur, noise and seams, each applied at random."""
    blur, grain, seams = torch.rand(3, generator=rng).tolist()
    if blur < 0.5:
        side = x.shape[-1]
        small = max(side // 4, int(side / (1.2 + 1.8 * torch.rand((), generator=rng).item())))
        reduced = F.interpolate(x[None], (small, small), mode="area")
        x = F.interpolate(reduced, (side, side), mode="bicubic")[0]
    if grain < 0.5:
        x = x + 0.12 * torch.rand((), generator=rng).item() * noise(x, rng)
    if seams < 0.3:
        cells = x.shape[-1] // 16
        lift = 0.05 * torch.randn(3, cells, cells, generator=rng).to(x)
        x = x + F.interpolate(lift[None], x.shape[-2:], mode="nearest")[0]
    return x.clamp(-1, 1)
