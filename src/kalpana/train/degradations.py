"""What generators do to pictures, done to renders, so that a verifier reads generated pictures as well as drawn ones.

Blur, noise and the seams of patches cost nothing. With an autoencoder in the recipe some pictures go through it and back, and with
a transformer beside it some are noised part of the way and denoised by our own model (SDEdit, Meng et al. 2022): a short way, which
leaves objects what they are, or nearly all the way, after which nothing is left of them but blobs of their colours.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from kalpana.diffusion.denoiser import Denoise, Denoiser
from kalpana.diffusion.samplers import SAMPLERS, sample
from kalpana.diffusion.schedule import Flow
from kalpana.hub.weights import load_module
from kalpana.models import dit, vae
from kalpana.train.recipe import Recipe
from kalpana.train.task import autocast, noise
from kalpana.types import Cond

SHARES = (0.125, 0.0625)  # of a batch: through the autoencoder alone, and noised and drawn again
KEPT, LOST = (
    (0.15, 0.35),
    (0.85, 0.95),
)  # noise times from which objects come back as they were, and as blobs; looked at from 0.6 on
LOST_SHARE = 0.05  # of a batch


class Degradations:
    """``damage(pixels, rng)``: the same pictures (b, 3, h, w), nearly half of them as they were; all chance is ``rng``'s. ``coded`` is
    whether the autoencoder, which takes long, is used."""

    def __init__(self, recipe: Recipe, device: torch.device) -> None:
        self.vae, self.dit = None, None
        if recipe.vae:
            self.vae = load_module(
                recipe.vae, "vae", lambda **config: vae.VAE(vae.Config(**config))
            ).to(device)
        if recipe.sdedit_model:
            self.dit = load_module(
                recipe.sdedit_model, "flow", lambda **config: dit.DiT(dit.Config(**config))
            ).to(device)

    @torch.no_grad()
    def __call__(self, pixels: Tensor, rng: Generator, coded: bool = True) -> Tensor:
        out, b = pixels.clone(), len(pixels)
        order, used = torch.randperm(b, generator=rng), 0
        if self.vae and coded:
            with autocast(pixels.device):
                plain, redrawn = (round(share * b) for share in SHARES)
                rows = order[: plain + redrawn]
                z = self.vae.encode(pixels[rows])
                if self.dit and redrawn:
                    z[plain:] = redraw(self.dit, z[plain:].float(), KEPT, rng).to(z)
                else:
                    rows, z = rows[:plain], z[:plain]
                out[rows] = self.vae.decode(z.float()).float().clamp(-1, 1)
                used = len(rows)
        rest = order[used : used + round((b - used) * 0.45)]
        for row in rest.tolist():
            out[row] = _cheap(out[row], rng)
        return out

    @torch.no_grad()
    def lose(self, pixels: Tensor, rng: Generator) -> tuple[Tensor, Tensor]:
        """The same pictures, of a share of which nothing can be recognised any more, and which these are (k,); none without a
        transformer."""
        rows = torch.randperm(len(pixels), generator=rng)[: round(LOST_SHARE * len(pixels))]
        if self.vae is None or self.dit is None or not len(rows):
            return pixels, rows[:0]
        out = pixels.clone()
        with autocast(pixels.device):
            z = redraw(self.dit, self.vae.encode(pixels[rows]).float(), LOST, rng)
            out[rows] = self.vae.decode(z.float()).float().clamp(-1, 1)
        return out, rows


def redraw(net: dit.DiT, z: Tensor, between: tuple[float, float], rng: Generator) -> Tensor:
    """The latents noised to a random time in this range, one for all, and brought back in three steps without words."""
    low, high = between
    t = low + (high - low) * torch.rand((), generator=rng).item()
    flow = Flow()
    denoiser = Denoiser(net, flow)
    x = (1 - t) * z + t * noise(z, rng)
    denoise = Denoise(flow, lambda x_t, time: denoiser(x_t, time, Cond()))
    for state in sample(denoise, x, [t * (1 - k / 3) for k in range(4)], SAMPLERS["euler"]):
        x = state.x
    return x


def _cheap(x: Tensor, rng: Generator) -> Tensor:
    """One of blur, noise and seams, or two, on a picture (3, h, w)."""
    blur, grain, seams = torch.rand(3, generator=rng).tolist()
    if blur < 0.5:
        side = x.shape[-1]
        small = max(side // 4, int(side / (1.2 + 1.8 * torch.rand((), generator=rng).item())))
        x = F.interpolate(
            F.interpolate(x[None], (small, small), mode="area"), (side, side), mode="bicubic"
        )[0]
    if grain < 0.5:
        x = x + 0.12 * torch.rand((), generator=rng).item() * noise(x, rng)
    if seams < 0.3:
        cells = x.shape[-1] // 16
        lift = 0.05 * torch.randn(3, cells, cells, generator=rng).to(x)
        x = x + F.interpolate(lift[None], x.shape[-2:], mode="nearest")[0]
    return x.clamp(-1, 1)
