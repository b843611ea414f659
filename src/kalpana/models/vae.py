"""VAE: pictures to a grid of 16-channel latents, eight times smaller each way, and back.

A residual convolutional network without norms, as in TAESD. It works at a quarter of the picture's
side; pixel-unshuffle (Shi et al. 2016) does the first two halvings at no cost. The latent is the
mean of a Gaussian posterior of fixed standard deviation (Kingma and Welling 2014, with sigma given,
not learned). A batch norm without affine parameters keeps every channel of the mean at zero mean
and unit variance. With sigma fixed, the KL term to the unit Gaussian could change nothing else.
The batch norm also replaces the scale and shift that other autoencoders leave to their callers.
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
    """Residual block: x + conv(relu(conv(relu(x)))). It is the identity at initialisation."""

    compile_dynamic = True  # the training loop compiles this block, for any shape

    def __init__(self, width: int) -> None:
        super().__init__()
        self.one = nn.Conv2d(width, width, 3, padding=1)
        self.two = nn.Conv2d(width, width, 3, padding=1)
        nn.init.zeros_(self.two.weight)
        nn.init.zeros_(self.two.bias)  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> Tensor:
        return x + self.two(F.relu(self.one(F.relu(x))))


class VAE(nn.Module):
    """Pixels (b, 3, h, w) in [-1, 1] to latents (b, latent, h/8, w/8) of unit variance, and back.

    h and w are multiples of 8.
    """

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
        # Linear map from a latent to the mean colour of its 8x8 pixels, see `fit_preview`.
        self.preview_weight: Tensor
        self.preview_bias: Tensor
        self.register_buffer("preview_weight", torch.zeros(3, c.latent))
        self.register_buffer("preview_bias", torch.zeros(3))

    factor = 8  # pixels a latent, along each side

    def shape(self, height: int, width: int, frames: int = 1) -> tuple[int, ...]:
        """Shape (latent, h/8, w/8) of the latents of a picture."""
        return self.config.latent, height // self.factor, width // self.factor

    def encode(self, pixels: Tensor) -> Tensor:
        """Normalised posterior mean (b, latent, h/8, w/8) of pixels (b, 3, h, w)."""
        return self.norm(self.encoder(pixels))

    def decode(self, latents: Tensor) -> Tensor:
        """Pixels (b, 3, h, w); they may be slightly outside [-1, 1], so clamp before saving."""
        return self.decoder(latents)

    def preview(self, latents: Tensor) -> Tensor:
        """Preview (b, 3, h/8, w/8) in [-1, 1] of latents, at the cost of one matrix product."""
        colours = torch.einsum("bchw,rc->brhw", latents, self.preview_weight)
        return (colours + self.preview_bias[:, None, None]).clamp(-1, 1)

    @torch.no_grad()
    def fit_preview(self, pixels: Tensor) -> None:
        """Fit `preview` by least squares on pictures (b, 3, h, w), once after training."""
        z = self.encode(pixels).movedim(1, -1).flatten(0, -2).double()
        rgb = F.avg_pool2d(pixels, 8).movedim(1, -1).flatten(0, -2).double()
        given = torch.cat((z, torch.ones_like(z[:, :1])), 1)  # n latent+1
        # Normal equations, summed in an order of their own and in fp64: the rounding of LAPACK's
        # lstsq depends on the memory's alignment, and weights would differ from run to run.
        gram = torch.stack([(given * column[:, None]).sum(0) for column in given.unbind(1)])
        moments = torch.stack([(given * column[:, None]).sum(0) for column in rgb.unbind(1)], 1)
        solution = torch.linalg.pinv(gram, hermitian=True) @ moments
        self.preview_weight.copy_(solution[:-1].T)
        self.preview_bias.copy_(solution[-1])
