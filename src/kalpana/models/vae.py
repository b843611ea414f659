"""The autoencoder: pictures to a grid of 16-channel latents eight times smaller each way, and back.

A residual convolutional net works at a quarter of the picture's side (pixel-unshuffle does the first two halvings for
nothing, Shi et al. 2016), as in TAESD without norms. The latent is the mean of a Gaussian posterior of fixed width
(Kingma and Welling 2014, with sigma given, not learned); a batch norm without affine on it keeps every channel at zero
mean and unit variance, which is all that the KL term to the unit Gaussian could still move, and is the scale and shift
that other autoencoders leave to their callers.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class Config:
    latent: int = 16  # channels of the latent
    fine: int = 64  # width at a quarter of the picture's side
    coarse: int = 128  # width at an eighth
    encoder: tuple[int, int] = (2, 3)  # residual blocks: fine, coarse
    decoder: tuple[int, int] = (4, 4)  # residual blocks: fine, coarse


class Block(nn.Module):
    """x + conv(relu(conv(relu(x)))), which starts as the identity."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.one = nn.Conv2d(width, width, 3, padding=1)
        self.two = nn.Conv2d(width, width, 3, padding=1)
        nn.init.zeros_(self.two.weight)
        nn.init.zeros_(self.two.bias)  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> Tensor:
        return x + self.two(F.relu(self.one(F.relu(x))))


class VAE(nn.Module):
    """Pixels (b, 3, h, w) in [-1, 1] to latents (b, 16, h/8, w/8) of unit variance, and back. h and w are multiples of 8."""

    def __init__(self, config: Config | None = None) -> None:
        super().__init__()
        self.config = c = config or Config()
        self.encoder = nn.Sequential(
            nn.PixelUnshuffle(4),  # b 48 h/4 w/4
            nn.Conv2d(48, c.fine, 3, padding=1),
            *[Block(c.fine) for _ in range(c.encoder[0])],
            nn.Conv2d(c.fine, c.coarse, 4, stride=2, padding=1),  # b coarse h/8 w/8
            *[Block(c.coarse) for _ in range(c.encoder[1])],
            nn.Conv2d(c.coarse, c.latent, 1),
        )
        self.norm = nn.BatchNorm2d(c.latent, affine=False, momentum=0.01)
        self.decoder = nn.Sequential(
            nn.Conv2d(c.latent, c.coarse, 3, padding=1),
            *[Block(c.coarse) for _ in range(c.decoder[1])],
            nn.Conv2d(c.coarse, 4 * c.fine, 1),
            nn.PixelShuffle(2),  # b fine h/4 w/4
            *[Block(c.fine) for _ in range(c.decoder[0])],
            nn.Conv2d(c.fine, 48, 3, padding=1),
            nn.PixelShuffle(4),  # b 3 h w
        )
        # The least-squares map from a latent to the mean colour under it; fitted once after training, see `fit_preview`.
        self.preview_weight: Tensor
        self.preview_bias: Tensor
        self.register_buffer("preview_weight", torch.zeros(3, c.latent))
        self.register_buffer("preview_bias", torch.zeros(3))

    def encode(self, pixels: Tensor) -> Tensor:
        """The posterior's mean, normalised: (b, latent, h/8, w/8)."""
        return self.norm(self.encoder(pixels))

    def decode(self, latents: Tensor) -> Tensor:
        """Pixels (b, 3, h, w); a little outside [-1, 1] at times, so clamp before saving."""
        return self.decoder(latents)

    def preview(self, latents: Tensor) -> Tensor:
        """A rough picture (b, 3, h/8, w/8) in [-1, 1] for the price of one small matrix product."""
        return (
            torch.einsum("bchw,rc->brhw", latents, self.preview_weight)
            + self.preview_bias[:, None, None]
        ).clamp(-1, 1)

    @torch.no_grad()
    def fit_preview(self, pixels: Tensor) -> None:
        """Fit `preview` by least squares on these pictures (b, 3, h, w)."""
        z = self.encode(pixels).movedim(1, -1).flatten(0, -2)
        rgb = F.avg_pool2d(pixels, 8).movedim(1, -1).flatten(0, -2)
        solution = torch.linalg.lstsq(torch.cat((z, torch.ones_like(z[:, :1])), 1), rgb).solution
        self.preview_weight.copy_(solution[:-1].T)
        self.preview_bias.copy_(solution[-1])
