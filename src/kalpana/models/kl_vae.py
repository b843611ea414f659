"""KL autoencoder of Stable Diffusion: pictures to 4-channel latents, eight times smaller, and back.

Residual convolutions at several resolutions and attention at the lowest (Rombach et al. 2022). The
encoder gives mean and log-variance of a Gaussian posterior, of which the mean is used; scaled by
``scaling_factor`` it has about unit variance. Config words, state dict keys and numbers are those
of ``AutoencoderKL`` of diffusers.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import torch
import torch.nn as nn
from torch import Tensor

from kalpana.models.unet import ACTIVATIONS, Attention, Downsample, ResBlock, Upsample
from kalpana.types import KalpanaError

EPS = 1e-6  # of the group norms
# Linear map from a latent of Stable Diffusion 1 and 2 to its colour: factors of red, green and blue
# for each channel, fitted by K. Turner (discuss.huggingface.co/t/23204, 2022).
COLOURS = (
    (0.298, 0.207, 0.208),
    (0.187, 0.286, 0.173),
    (-0.158, 0.189, 0.264),
    (-0.184, -0.271, -0.473),
)
COLOURS_SCALING = 0.18215  # the scaling_factor for which they were fitted


@dataclass(frozen=True)
class Config:
    """Config of a KL autoencoder, in the words and with the defaults of ``AutoencoderKL``."""

    in_channels: int = 3
    out_channels: int = 3
    down_block_types: tuple[str, ...] = ("DownEncoderBlock2D",)
    up_block_types: tuple[str, ...] = ("UpDecoderBlock2D",)
    block_out_channels: tuple[int, ...] = (64,)  # width of each level
    layers_per_block: int = 1  # one more in the decoder
    act_fn: str = "silu"
    latent_channels: int = 4
    norm_num_groups: int = 32
    sample_size: int = 32  # side of the pictures of its training
    scaling_factor: float = 0.18215
    shift_factor: float | None = None
    use_quant_conv: bool = True
    use_post_quant_conv: bool = True


PRESETS = {
    "sd-1": Config(
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(128, 256, 512, 512),
        layers_per_block=2,
        sample_size=512,
    )
}


class AttentionBlock(Attention):
    """Self-attention with one head over the cells of a feature map (b, d, h, w), as a residual."""

    def __init__(self, width: int, groups: int) -> None:
        super().__init__(width, 1, qkv_bias=True)
        self.group_norm = nn.GroupNorm(groups, width, EPS)

    def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
        y = super().forward(self.group_norm(x).flatten(2).transpose(1, 2))  # b hw d
        return x + y.transpose(1, 2).unflatten(-1, x.shape[-2:])


class Middle(nn.Module):
    """Lowest level: a residual block, attention, and another residual block."""

    def __init__(self, c: Config) -> None:
        super().__init__()
        width = c.block_out_channels[-1]
        self.resnets = nn.ModuleList(_block(c, width, width) for _ in range(2))
        self.attentions = nn.ModuleList([AttentionBlock(width, c.norm_num_groups)])

    def forward(self, x: Tensor) -> Tensor:
        return self.resnets[1](self.attentions[0](self.resnets[0](x)))


class Level(nn.Module):
    """Residual blocks of one resolution, then a change of size, if any."""

    def __init__(self, c: Config, inputs: int, width: int, layers: int, resize: str | None) -> None:
        super().__init__()
        self.resnets = nn.ModuleList(
            _block(c, inputs if k == 0 else width, width) for k in range(layers)
        )
        self.downsamplers = nn.ModuleList([Downsample(width, 0)] if resize == "down" else [])
        self.upsamplers = nn.ModuleList([Upsample(width)] if resize == "up" else [])

    def forward(self, x: Tensor) -> Tensor:
        for layer in (*self.resnets, *self.downsamplers, *self.upsamplers):
            x = layer(x)
        return x


class Encoder(nn.Module):
    """Pixels (b, 3, h, w) to mean and log-variance (b, 2 latent_channels, h/f, w/f)."""

    def __init__(self, c: Config) -> None:
        super().__init__()
        widths = c.block_out_channels
        self.conv_in = nn.Conv2d(c.in_channels, widths[0], 3, padding=1)
        self.down_blocks = nn.ModuleList(
            Level(c, a, b, c.layers_per_block, None if k == len(widths) - 1 else "down")
            for k, (a, b) in enumerate(pairwise((widths[0], *widths)))
        )
        self.mid_block = Middle(c)
        self.conv_norm_out = nn.GroupNorm(c.norm_num_groups, widths[-1], EPS)
        self.conv_out = nn.Conv2d(widths[-1], 2 * c.latent_channels, 3, padding=1)
        self.act = ACTIVATIONS[c.act_fn]

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv_in(x)
        for level in self.down_blocks:
            x = level(x)
        return self.conv_out(self.act(self.conv_norm_out(self.mid_block(x))))


class Decoder(nn.Module):
    """Latents (b, latent_channels, h/f, w/f) to pixels (b, 3, h, w)."""

    def __init__(self, c: Config) -> None:
        super().__init__()
        widths = c.block_out_channels[::-1]
        self.conv_in = nn.Conv2d(c.latent_channels, widths[0], 3, padding=1)
        self.mid_block = Middle(c)
        self.up_blocks = nn.ModuleList(
            Level(c, a, b, c.layers_per_block + 1, None if k == len(widths) - 1 else "up")
            for k, (a, b) in enumerate(pairwise((widths[0], *widths)))
        )
        self.conv_norm_out = nn.GroupNorm(c.norm_num_groups, widths[-1], EPS)
        self.conv_out = nn.Conv2d(widths[-1], c.out_channels, 3, padding=1)
        self.act = ACTIVATIONS[c.act_fn]

    def forward(self, z: Tensor) -> Tensor:
        x = self.mid_block(self.conv_in(z))
        for level in self.up_blocks:
            x = level(x)
        return self.conv_out(self.act(self.conv_norm_out(x)))


class KLVAE(nn.Module):
    """Pixels (b, 3, h, w) in [-1, 1] to scaled latents (b, latent_channels, h/f, w/f), and back.

    h and w are multiples of ``factor``, f. Raises KalpanaError for a config that contradicts
    itself.
    """

    def __init__(self, config: Config | None = None) -> None:
        super().__init__()
        self.config = c = config or PRESETS["sd-1"]
        check(c)
        self.encoder, self.decoder = Encoder(c), Decoder(c)
        z = c.latent_channels
        self.quant_conv = nn.Conv2d(2 * z, 2 * z, 1) if c.use_quant_conv else nn.Identity()
        self.post_quant_conv = nn.Conv2d(z, z, 1) if c.use_post_quant_conv else nn.Identity()

    @property
    def factor(self) -> int:
        """Number of pixels, along each side, that one latent stands for."""
        return 2 ** (len(self.config.block_out_channels) - 1)

    def shape(self, height: int, width: int, frames: int = 1) -> tuple[int, ...]:
        """Shape (latent_channels, h/f, w/f) of the latents of a picture."""
        return self.config.latent_channels, height // self.factor, width // self.factor

    def encode(self, pixels: Tensor) -> Tensor:
        """Scaled posterior mean (b, latent_channels, h/f, w/f) of pixels (b, 3, h, w)."""
        mean = self.quant_conv(self.encoder(pixels)).chunk(2, 1)[0]
        return (mean - (self.config.shift_factor or 0)) * self.config.scaling_factor

    def decode(self, latents: Tensor) -> Tensor:
        """Pixels (b, 3, h, w); they may be slightly outside [-1, 1], so clamp before saving."""
        z = latents / self.config.scaling_factor + (self.config.shift_factor or 0)
        return self.decoder(self.post_quant_conv(z))

    def preview(self, latents: Tensor) -> Tensor:
        """Preview (b, 3, h/f, w/f) in [-1, 1] of latents; grey unless they are those of Stable
        Diffusion 1 or 2."""
        known = (len(COLOURS), COLOURS_SCALING)
        if (self.config.latent_channels, self.config.scaling_factor) != known:
            return torch.zeros_like(latents[:, :1]).expand(-1, 3, -1, -1)
        return torch.einsum("bchw,cr->brhw", latents, latents.new_tensor(COLOURS)).clamp(-1, 1)


def check(c: Config) -> None:
    """Raises KalpanaError, which names the word, for a config that contradicts itself."""
    levels = len(c.block_out_channels)
    for word, only in (
        ("down_block_types", "DownEncoderBlock2D"),
        ("up_block_types", "UpDecoderBlock2D"),
    ):
        if getattr(c, word) != (only,) * levels:
            raise KalpanaError(
                f"{word} {', '.join(getattr(c, word))} is not supported: write {only} {levels} "
                "times, once for each of the block_out_channels"
            )
    if c.act_fn not in ACTIVATIONS:
        raise KalpanaError(f"act_fn {c.act_fn!r} is unknown: write {', '.join(ACTIVATIONS)}")
    for width in c.block_out_channels:
        if c.norm_num_groups < 1 or width % c.norm_num_groups:
            raise KalpanaError(
                f"norm_num_groups {c.norm_num_groups} does not divide {width}, one of the "
                "block_out_channels"
            )


def _block(c: Config, inputs: int, width: int) -> ResBlock:
    return ResBlock(inputs, width, None, c.norm_num_groups, EPS, c.act_fn)
