"""U-Net: residual convolutions and cross-attention to the text, at several resolutions.

The network of latent diffusion (Rombach et al. 2022). Each level of the way down keeps its
features; the way up reads them again. Config words, state dict keys and numbers are those of
``UNet2DConditionModel`` of diffusers, so that Stable Diffusion 1 and 2 load without a key map. A
network conditioned on classes has ``num_class_embeds`` and no ``cross_attention_dim``: its
transformer blocks then have self-attention only. Simplified: no dropout, and the time, a number in
[0, 1], replaces the index of a timestep.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import pairwise

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor

from kalpana.types import Cond, KalpanaError

Text = tuple[Tensor, Tensor | None]  # text features (b, l, d), and their mask (b, l) or None


@dataclass(frozen=True)
class Config:
    """Config of a U-Net, in the words and with the defaults of ``UNet2DConditionModel``.

    Blocks of a level are CrossAttn… (a transformer block after each residual one) or plain.
    """

    sample_size: int = 64  # side of the latents of its training
    in_channels: int = 4  # 2c + 1 for inpainting: latents, mask, latents of the known part
    out_channels: int = 4
    block_out_channels: tuple[int, ...] = (320, 640, 1280, 1280)  # width of each level
    down_block_types: tuple[str, ...] = (*["CrossAttnDownBlock2D"] * 3, "DownBlock2D")
    mid_block_type: str = "UNetMidBlock2DCrossAttn"
    up_block_types: tuple[str, ...] = ("UpBlock2D", *["CrossAttnUpBlock2D"] * 3)
    layers_per_block: int = 2  # one more on the way up
    cross_attention_dim: int | None = 1280  # width of the text features; None: no text
    attention_head_dim: int | tuple[int, ...] = 8  # number of heads (the word is a misnomer)
    transformer_layers_per_block: int = 1
    norm_num_groups: int = 32
    norm_eps: float = 1e-5
    act_fn: str = "silu"
    flip_sin_to_cos: bool = True  # of the timestep embedding
    freq_shift: float = 0
    use_linear_projection: bool = False  # around the transformer blocks, in place of 1x1 convs
    num_class_embeds: int | None = None  # number of classes; None: no classes


BASE = Config(cross_attention_dim=768)
PRESETS = {
    "sd-1": BASE,
    "sd-1-inpainting": replace(BASE, in_channels=9),
    "sd-2": replace(
        BASE,
        cross_attention_dim=1024,
        attention_head_dim=(5, 10, 20, 20),
        use_linear_projection=True,
    ),
}

TIMESTEPS = 1000  # of the discrete process: time t is timestep 1000 t - 1, so that 1 is the last
ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "silu": F.silu,
    "swish": F.silu,
    "mish": F.mish,
    "gelu": F.gelu,
    "relu": F.relu,
}


def timestep_embedding(t: Tensor, width: int, flip: bool, shift: float) -> Tensor:
    """Sinusoidal embedding (b, width) of times t (b,) in [0, 1] (Ho et al. 2020).

    ``flip``: cosines first; ``shift``: of the divisor of the exponents.
    """
    half = width // 2
    exponents = torch.arange(half, device=t.device) / (half - shift)
    angles = (TIMESTEPS * t - 1)[:, None] * torch.exp(-math.log(10000) * exponents)
    parts = (angles.cos(), angles.sin()) if flip else (angles.sin(), angles.cos())
    return torch.cat(parts, -1)


class TimestepMLP(nn.Module):
    """Two linear layers on the timestep embedding."""

    def __init__(self, width: int, hidden: int, act: str) -> None:
        super().__init__()
        self.linear_1, self.linear_2 = nn.Linear(width, hidden), nn.Linear(hidden, hidden)
        self.act = ACTIVATIONS[act]

    def forward(self, x: Tensor) -> Tensor:
        return self.linear_2(self.act(self.linear_1(x)))


class ResBlock(nn.Module):
    """Residual block of two convolutions; the time embedding (b, time) is added between them."""

    compile_dynamic = False  # the training loop compiles this block, for each shape anew

    def __init__(
        self, inputs: int, width: int, time: int | None, groups: int, eps: float, act: str
    ) -> None:
        super().__init__()
        self.norm1 = nn.GroupNorm(groups, inputs, eps)
        self.conv1 = nn.Conv2d(inputs, width, 3, padding=1)
        self.time_emb_proj = None if time is None else nn.Linear(time, width)
        self.norm2 = nn.GroupNorm(groups, width, eps)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1)
        self.conv_shortcut = None if inputs == width else nn.Conv2d(inputs, width, 1)
        self.act = ACTIVATIONS[act]

    def forward(self, x: Tensor, time: Tensor | None = None) -> Tensor:
        y = self.conv1(self.act(self.norm1(x)))
        if self.time_emb_proj is not None:
            assert time is not None
            y = y + self.time_emb_proj(self.act(time))[..., None, None]
        y = self.conv2(self.act(self.norm2(y)))
        return y + (x if self.conv_shortcut is None else self.conv_shortcut(x))


class Attention(nn.Module):
    """Attention of x (b, l, d) to ``context`` (b, k, context width), or to itself.

    ``bias`` (b, 1, 1, k) is added to the scores.
    """

    def __init__(self, width: int, heads: int, context: int | None = None, qkv_bias: bool = False):
        super().__init__()
        self.heads = heads
        self.to_q = nn.Linear(width, width, bias=qkv_bias)
        self.to_k, self.to_v = (nn.Linear(context or width, width, bias=qkv_bias) for _ in range(2))
        self.to_out = nn.ModuleList([nn.Linear(width, width)])

    def forward(
        self, x: Tensor, context: Tensor | None = None, bias: Tensor | None = None
    ) -> Tensor:
        context = x if context is None else context
        q, k, v = (
            layer(each).unflatten(-1, (self.heads, -1)).transpose(1, 2)  # b n l d/n
            for layer, each in ((self.to_q, x), (self.to_k, context), (self.to_v, context))
        )
        bias = None if bias is None else bias.to(q.dtype)
        # Written out: the backward pass of torch's fused CPU kernel takes five times as long in
        # bf16, and twenty times as long with a mask.
        if q.requires_grad and q.device.type == "cpu":
            scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-1, -2)  # b n l k
            y = (scores if bias is None else scores + bias).softmax(-1).to(v.dtype) @ v
        else:
            y = F.scaled_dot_product_attention(q, k, v, bias)
        return self.to_out[0](y.transpose(1, 2).flatten(2))  # b l d


class GEGLU(nn.Module):
    """Linear layer gated by GELU (Shazeer 2020)."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.proj = nn.Linear(width, 2 * hidden)

    def forward(self, x: Tensor) -> Tensor:
        value, gate = self.proj(x).chunk(2, -1)
        return value * F.gelu(gate)


class FeedForward(nn.Module):
    """GEGLU and a linear layer, four times as wide inside."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.net = nn.Sequential(
            GEGLU(width, 4 * width), nn.Identity(), nn.Linear(4 * width, width)
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)


class TransformerBlock(nn.Module):
    """Pre-norm self-attention, cross-attention to the text if there is any, and feed-forward."""

    def __init__(self, width: int, heads: int, context: int | None) -> None:
        super().__init__()
        self.norm1, self.attn1 = nn.LayerNorm(width), Attention(width, heads)
        self.norm2 = None if context is None else nn.LayerNorm(width)
        self.attn2 = None if context is None else Attention(width, heads, context)
        self.norm3, self.ff = nn.LayerNorm(width), FeedForward(width)

    def forward(self, x: Tensor, context: Tensor | None, bias: Tensor | None) -> Tensor:
        x = x + self.attn1(self.norm1(x))
        if self.attn2 is not None and self.norm2 is not None:
            x = x + self.attn2(self.norm2(x), context, bias)
        return x + self.ff(self.norm3(x))


class Transformer(nn.Module):
    """Transformer blocks over the cells of a feature map x (b, d, h, w), as one residual step."""

    def __init__(self, c: Config, width: int, heads: int) -> None:
        super().__init__()
        self.linear = c.use_linear_projection
        self.norm = nn.GroupNorm(c.norm_num_groups, width, eps=1e-6)
        self.proj_in, self.proj_out = (
            nn.Linear(width, width) if self.linear else nn.Conv2d(width, width, 1) for _ in range(2)
        )
        self.transformer_blocks = nn.ModuleList(
            TransformerBlock(width, heads, c.cross_attention_dim)
            for _ in range(c.transformer_layers_per_block)
        )

    def forward(self, x: Tensor, context: Tensor | None, bias: Tensor | None) -> Tensor:
        size = x.shape[-2:]
        y = self.norm(x)
        if not self.linear:
            y = self.proj_in(y)
        y = y.flatten(2).transpose(1, 2)  # b hw d
        if self.linear:
            y = self.proj_in(y)
        for block in self.transformer_blocks:
            y = block(y, context, bias)
        if self.linear:
            y = self.proj_out(y)
        y = y.transpose(1, 2).unflatten(-1, size)  # b d h w
        return x + (y if self.linear else self.proj_out(y))


class Downsample(nn.Module):
    """Strided convolution: (b, d, h, w) to (b, d, h/2, w/2).

    ``padding`` 0 pads only on the right and below, as autoencoders do.
    """

    def __init__(self, width: int, padding: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width, width, 3, stride=2, padding=padding)
        self.padding = padding

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x if self.padding else F.pad(x, (0, 1, 0, 1)))


class Upsample(nn.Module):
    """Nearest neighbours to ``size`` (h, w), twice the side if None, then a convolution."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x: Tensor, size: tuple[int, int] | None = None) -> Tensor:
        return self.conv(F.interpolate(x, size or (2 * x.shape[-2], 2 * x.shape[-1])))


class Level(nn.Module):
    """One level of the U-Net: residual blocks, transformers after them, and a change of size.

    ``inputs`` are the channels that each residual block reads. On the way up each block first
    appends the features that the way down has kept.
    """

    def __init__(
        self, c: Config, inputs: tuple[int, ...], width: int, heads: int, attends: bool
    ) -> None:
        super().__init__()
        time = 4 * c.block_out_channels[0]
        self.resnets = nn.ModuleList(
            ResBlock(each, width, time, c.norm_num_groups, c.norm_eps, c.act_fn) for each in inputs
        )
        if attends:
            self.attentions = nn.ModuleList(Transformer(c, width, heads) for _ in inputs)
        self.attends = attends

    def step(self, k: int, x: Tensor, time: Tensor, text: Text | tuple[None, None]) -> Tensor:
        """Output of the k-th residual block and its transformer."""
        x = self.resnets[k](x, time)
        return self.attentions[k](x, *text) if self.attends else x


class DownLevel(Level):
    """A level of the way down: every feature map on it is kept for the way up."""

    def __init__(
        self, c: Config, inputs: int, width: int, heads: int, attends: bool, last: bool
    ) -> None:
        super().__init__(c, (inputs, *[width] * (c.layers_per_block - 1)), width, heads, attends)
        self.downsamplers = None if last else nn.ModuleList([Downsample(width)])

    def forward(
        self, x: Tensor, time: Tensor, text: Text | tuple[None, None], kept: list[Tensor]
    ) -> Tensor:
        for k in range(len(self.resnets)):
            x = self.step(k, x, time, text)
            kept.append(x)
        if self.downsamplers is not None:
            x = self.downsamplers[0](x)
            kept.append(x)
        return x


class UpLevel(Level):
    """A level of the way up: it takes the kept feature maps from the end."""

    def __init__(
        self, c: Config, inputs: tuple[int, ...], width: int, heads: int, attends: bool, last: bool
    ) -> None:
        super().__init__(c, inputs, width, heads, attends)
        self.upsamplers = None if last else nn.ModuleList([Upsample(width)])

    def forward(
        self, x: Tensor, time: Tensor, text: Text | tuple[None, None], kept: list[Tensor]
    ) -> Tensor:
        for k in range(len(self.resnets)):
            x = self.step(k, torch.cat((x, kept.pop()), 1), time, text)
        if self.upsamplers is not None:  # to the size of what the next level appends
            x = self.upsamplers[0](x, kept[-1].shape[-2:])
        return x


class MidLevel(Level):
    """The lowest level: a residual block, then pairs of a transformer and a residual block."""

    def __init__(self, c: Config, width: int, heads: int, attends: bool) -> None:
        super().__init__(c, (width, width) if attends else (width,), width, heads, False)
        if attends:
            self.attentions = nn.ModuleList([Transformer(c, width, heads)])

    def forward(self, x: Tensor, time: Tensor, text: Text | tuple[None, None]) -> Tensor:
        x = self.resnets[0](x, time)
        if len(self.resnets) > 1:
            x = self.resnets[1](self.attentions[0](x, *text), time)
        return x


class UNet(nn.Module):
    """U-Net: ``network(x_t, t, cond, text) -> prediction``, with the text features encoded.

    Latents are (b, c, h, w) of any size; t is (b,) or (1,) in [0, 1]. ``reads`` names the fields of
    Cond that it reads: "label" with classes, "known" for inpainting. Raises KalpanaError for a
    config that contradicts itself.
    """

    reads: tuple[str, ...] = ()

    def __init__(self, config: Config | None = None) -> None:
        super().__init__()
        self.config = c = config or Config()
        check(c)
        widths, time = c.block_out_channels, 4 * c.block_out_channels[0]
        heads = c.attention_head_dim
        heads = heads if isinstance(heads, tuple) else (heads,) * len(widths)
        self.reads = ("label",) * (c.num_class_embeds is not None) + ("known",) * inpaints(c)
        self.conv_in = nn.Conv2d(c.in_channels, widths[0], 3, padding=1)
        self.time_embedding = TimestepMLP(widths[0], time, c.act_fn)
        if c.num_class_embeds is not None:
            self.class_embedding = nn.Embedding(c.num_class_embeds, time)
        self.down_blocks, self.up_blocks = nn.ModuleList(), nn.ModuleList()
        last = len(widths) - 1
        for k, (inputs, width) in enumerate(pairwise((widths[0], *widths))):
            attends = c.down_block_types[k].startswith("Cross")
            self.down_blocks.append(DownLevel(c, inputs, width, heads[k], attends, k == last))
        attends = c.mid_block_type.endswith("CrossAttn")
        self.mid_block = MidLevel(c, widths[-1], heads[-1], attends)
        below = widths[-1]
        for k, kind in enumerate(c.up_block_types):
            level = last - k
            width, above = widths[level], widths[max(level - 1, 0)]
            skips = (*[width] * c.layers_per_block, above)
            before = (below, *[width] * c.layers_per_block)
            sums = tuple(a + b for a, b in zip(before, skips, strict=True))
            attends = kind.startswith("Cross")
            self.up_blocks.append(UpLevel(c, sums, width, heads[level], attends, level == 0))
            below = width
        self.conv_norm_out = nn.GroupNorm(c.norm_num_groups, widths[0], c.norm_eps)
        self.conv_out = nn.Conv2d(widths[0], c.out_channels, 3, padding=1)
        self._init()

    def forward(self, x_t: Tensor, t: Tensor, cond: Cond, text: Text | None = None) -> Tensor:
        """Prediction (b, out_channels, h, w). ``text`` is needed with a cross_attention_dim."""
        c = self.config
        context, mask = (None, None) if text is None else text
        if (context is None) != (c.cross_attention_dim is None):
            raise ValueError("give text features exactly where there is a cross_attention_dim")
        bias = None if mask is None else torch.where(mask, 0.0, -1e4)[:, None, None, :]
        wave = timestep_embedding(t, c.block_out_channels[0], c.flip_sin_to_cos, c.freq_shift)
        time = self.time_embedding(wave.to(self.conv_in.weight.dtype))  # b or 1, time
        if "label" in self.reads and cond.label is not None:
            label = self.class_embedding(cond.label)  # b time
            # Rows without a class have no class embedding.
            time = time + (label if cond.null is None else label * ~cond.null[:, None])
        if "known" in self.reads:
            x_t = torch.cat((x_t, known_channels(cond.known, x_t)), 1)

        x = self.conv_in(x_t.contiguous(memory_format=torch.channels_last))
        kept, pair = [x], (context, bias)
        for level in self.down_blocks:
            x = level(x, time, pair, kept)
        x = self.mid_block(x, time, pair)
        for level in self.up_blocks:
            x = level(x, time, pair, kept)
        return self.conv_out(ACTIVATIONS[c.act_fn](self.conv_norm_out(x)))

    def _init(self) -> None:
        """Every residual branch, and with them the prediction, starts at 0."""
        ends: list[nn.Module] = [self.conv_out]
        ends += [each.conv2 for each in self.modules() if isinstance(each, ResBlock)]
        ends += [each.proj_out for each in self.modules() if isinstance(each, Transformer)]
        for end in ends:
            for parameter in end.parameters():
                nn.init.zeros_(parameter)


def inpaints(c: Config) -> bool:
    """Whether a U-Net reads, beside its latents, a mask and the latents of the known part."""
    return c.in_channels == 2 * c.out_channels + 1


def known_channels(known: Tensor | None, x_t: Tensor) -> Tensor:
    """Channels (b, 1 + c, h, w) of an inpainting network after x_t (b, c, h, w).

    First the mask, 1 where the latents are sampled, then the known latents. ``known`` is as in
    Cond: latents, and a mask that is 1 where they are given.
    """
    if known is None:
        raise ValueError("give cond.known, which an inpainting network reads")
    known = known.to(x_t)
    return torch.cat((1 - known[:, -1:], known[:, :-1]), 1)


def check(c: Config) -> None:
    """Raises KalpanaError, which names the word, for a config that contradicts itself."""
    levels = len(c.block_out_channels)
    allowed = {
        "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
        "mid_block_type": ("UNetMidBlock2DCrossAttn", "UNetMidBlock2D"),
        "act_fn": tuple(ACTIVATIONS),
    }
    for word, names in allowed.items():
        value = getattr(c, word)
        for each in (value,) if isinstance(value, str) else value:
            if each not in names:
                raise KalpanaError(f"{word} {each!r} is unknown: write {', '.join(names)}")
    for word in ("down_block_types", "up_block_types", "attention_head_dim"):
        value = getattr(c, word)
        if isinstance(value, tuple) and len(value) != levels:
            raise KalpanaError(
                f"{word} has {len(value)} entries: write {levels}, one for each of the "
                "block_out_channels"
            )
    heads = c.attention_head_dim
    heads = heads if isinstance(heads, tuple) else (heads,) * levels
    for width, count in zip(c.block_out_channels, heads, strict=True):
        divisors = {"norm_num_groups": c.norm_num_groups, "attention_head_dim": count}
        for word, divisor in divisors.items():
            if divisor < 1 or width % divisor:
                raise KalpanaError(
                    f"{word} {divisor} does not divide {width}, one of the block_out_channels"
                )
    if c.in_channels != c.out_channels and not inpaints(c):
        raise KalpanaError(
            f"in_channels {c.in_channels} is not supported: write {c.out_channels}, the "
            f"out_channels, or {2 * c.out_channels + 1} for inpainting"
        )
