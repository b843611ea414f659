"""DiT: a diffusion transformer over caption tokens and latent patches in one sequence.

Every block attends over the whole sequence of caption tokens and 2x2 latent patches, as in the
single-stream blocks of FLUX. The network predicts the clean latent x0 (JiT, Li and He 2025).
Convolutions before and after the transformer model detail smaller than a patch and continuity
across patch edges; a long skip connects them (U-ViT, Bao et al. 2023). After Peebles and Xie 2023
(DiT), with later improvements: QK-norm, RMSNorm without gains, SwiGLU, rotary positions (Su et al.
2021) over three axes (word, row, column), and one modulation by the time, shared by all blocks
(PixArt-alpha, Chen et al. 2023).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor

from kalpana.types import Cond


@dataclass(frozen=True)
class Config:
    width: int = 256
    depth: int = 8
    heads: int = 4
    text_depth: int = 2  # text-only blocks before the shared ones
    vocabulary: int = 8192
    length: int = 64  # maximum number of caption tokens
    channels: int = 16  # of the latent
    patch: int = 2
    fine: int = 96  # width of the convolutions around the patches
    # Outputs of the auxiliary head for each patch, after a third of the blocks; 0: no head.
    aside: int = 0


# Assumed standard deviation of the error of the network's x0 prediction (docs/log.md); see
# `precision_weighted_x0`.
GUESS = 0.1
Rotation = tuple[Tensor, Tensor]  # cosines and sines, (l, d/n/2) each


class Attention(nn.Module):
    """Full self-attention of x (b, l, d) with QK-norm and rotary positions.

    ``bias`` (b, 1, 1, l) is added to the scores.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.out = nn.Linear(width, width, bias=False)

    def forward(self, x: Tensor, rotation: Rotation, bias: Tensor) -> Tensor:
        qkv = self.qkv(x).unflatten(-1, (3, self.heads, -1))
        q, k, v = qkv.permute(2, 0, 3, 1, 4)  # each b n l d/n
        q, k = rotate(norm(q), rotation), rotate(norm(k), rotation)
        # Written out: at these lengths the backward pass of torch's fused CPU kernel takes twenty
        # times as long.
        scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-1, -2) + bias.to(q.dtype)  # b n l l
        return self.out((scores.softmax(-1) @ v.to(q.dtype)).transpose(1, 2).flatten(2))  # b l d


class SwiGLU(nn.Module):
    """Gated feed-forward (Shazeer 2020), 8/3 as wide inside, rounded up to a multiple of 64."""

    def __init__(self, width: int) -> None:
        super().__init__()
        hidden = math.ceil(width * 8 / 3 / 64) * 64
        self.up = nn.Linear(width, 2 * hidden, bias=False)
        self.down = nn.Linear(hidden, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        gate, value = self.up(x).chunk(2, -1)
        return self.down(F.silu(gate) * value)


class Block(nn.Module):
    """Transformer block: attention and SwiGLU, each shifted, scaled and gated (adaLN).

    The modulation is the six shared vectors ``time`` (b, 6, d) plus the block's learned offsets.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.attention = Attention(width, heads)
        self.feed = SwiGLU(width)
        self.offset = nn.Parameter(torch.zeros(6, width))

    def forward(self, x: Tensor, time: Tensor, rotation: Rotation, bias: Tensor) -> Tensor:
        modulation = (time + self.offset).unsqueeze(2)  # b 6 1 d
        shift_a, scale_a, gate_a, shift_f, scale_f, gate_f = modulation.unbind(1)  # each b 1 d
        x = x + gate_a * self.attention(modulate(x, shift_a, scale_a), rotation, bias)
        return x + gate_f * self.feed(modulate(x, shift_f, scale_f))


class ConvBlock(nn.Module):
    """Residual block x + conv(silu(conv(silu(x)))), modulated by the time between its convolutions.

    It is the identity at initialisation.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.one = nn.Conv2d(width, width, 3, padding=1)
        self.time = nn.Linear(256, 2 * width)
        self.two = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x: Tensor, wave: Tensor) -> Tensor:
        shift, scale = self.time(wave)[..., None, None].chunk(2, 1)  # each b c 1 1
        return x + self.two(F.silu(torch.addcmul(shift, self.one(F.silu(x)), 1 + scale)))


class DiT(nn.Module):
    """Diffusion transformer: ``network(x_t, t, cond) -> x0``.

    Latents are (b, channels, h, w), with h and w multiples of ``patch``; t is (b,) in [0, 1].
    """

    reads = ("tokens",)  # fields of Cond, beside ``null``

    def __init__(self, config: Config | None = None) -> None:
        super().__init__()
        self.config = c = config or Config()
        self.words = nn.Embedding(c.vocabulary, c.width)
        # Embedding of the null condition: one token that replaces the whole caption.
        self.null = nn.Parameter(torch.zeros(c.width))
        self.text = nn.ModuleList([Block(c.width, c.heads) for _ in range(c.text_depth)])
        self.stem = nn.Conv2d(c.channels, c.fine, 3, padding=1)
        self.before = ConvBlock(c.fine)
        self.patches = nn.Linear(c.fine * c.patch**2, c.width)
        self.time = nn.Sequential(
            nn.Linear(256, c.width), nn.SiLU(), nn.Linear(c.width, 6 * c.width)
        )
        self.blocks = nn.ModuleList([Block(c.width, c.heads) for _ in range(c.depth)])
        self.aside = nn.Linear(c.width, c.aside) if c.aside else None
        self.final = nn.Linear(256, 2 * c.width)
        self.unpatch = nn.Linear(c.width, c.fine * c.patch**2)
        self.after = nn.ModuleList([ConvBlock(c.fine) for _ in range(2)])
        self.head = nn.Conv2d(c.fine, c.channels, 3, padding=1)
        self._init()

    def forward(
        self, x_t: Tensor, t: Tensor, cond: Cond, aside: list[Tensor] | None = None
    ) -> Tensor:
        """Estimate of x0, (b, channels, h, w).

        The auxiliary outputs (b, hw, config.aside) are appended to the list ``aside`` where one is
        given.
        """
        h, w = x_t.shape[-2] // self.config.patch, x_t.shape[-1] // self.config.patch
        words, mask = self._embed_text(cond, len(x_t))  # b l d, b l
        rows_columns = torch.meshgrid(torch.arange(h), torch.arange(w), indexing="ij")
        grid = torch.stack(rows_columns, -1).flatten(0, 1).to(x_t.device)  # hw 2
        wave = timestep_embedding(t)  # b 256
        time = self.time(wave).unflatten(-1, (6, -1))  # b 6 d
        length = words.shape[1]
        angles = self._angles(length, grid)  # l+hw d/n/2
        bias = F.pad(torch.where(mask, 0.0, -1e4), (0, h * w))  # masks the padding
        bias = bias[:, None, None, :]  # b 1 1 l+hw

        # The text-only blocks are not conditioned on the time.
        no_time, text_rotation = torch.zeros_like(time), rope_tables(angles[:length])
        for block in self.text:
            words = block(words, no_time, text_rotation, bias[..., :length])
        stem = self.stem(x_t.contiguous(memory_format=torch.channels_last))
        fine = self.before(stem, wave)  # b c h·p w·p
        patches = F.pixel_unshuffle(fine, self.config.patch).flatten(2).transpose(1, 2)
        image = self.patches(patches)  # b hw d
        image = image + positions(grid, self.config.width)
        x, rotation = torch.cat((words, image), 1), rope_tables(angles)  # b l+hw d
        aside_depth = math.ceil(self.config.depth / 3)
        for depth, block in enumerate(self.blocks, start=1):
            x = block(x, time, rotation, bias)
            if aside is not None and self.aside is not None and depth == aside_depth:
                aside.append(self.aside(x[:, length:]))

        shift, scale = self.final(wave).unsqueeze(1).chunk(2, -1)
        x = self.unpatch(modulate(x[:, length:], shift, scale))  # b hw c·p·p
        fine = fine + F.pixel_shuffle(x.transpose(1, 2).unflatten(-1, (h, w)), self.config.patch)
        for block in self.after:
            fine = block(fine, wave)
        return precision_weighted_x0(self.head(fine), x_t, t)

    def _embed_text(self, cond: Cond, b: int) -> tuple[Tensor, Tensor]:
        """Token embeddings (b, l, d) and their mask (b, l). Null rows have one null token."""
        if cond.tokens is None:
            mask = torch.ones(b, 1, dtype=torch.bool, device=self.null.device)
            return self.null.expand(b, 1, -1), mask
        words, mask = self.words(cond.tokens.ids), cond.tokens.mask
        if cond.null is not None:
            first = torch.arange(mask.shape[1], device=mask.device) == 0
            words = torch.where(cond.null[:, None, None], self.null, words)
            mask = torch.where(cond.null[:, None], first, mask)
        return words, mask

    def _angles(self, length: int, grid: Tensor) -> Tensor:
        """Rotary angles (length + hw, d/n/2): a quarter for the word index, the rest for the grid.

        ``grid`` (hw, 2) holds row and column of each patch, which have three eighths each.
        """
        pairs = self.config.width // self.config.heads // 2
        per_axis = pairs * 3 // 8
        index = torch.arange(length, device=grid.device).unsqueeze(1)
        word = index * frequencies(pairs - 2 * per_axis, 1000, grid.device)
        image = (grid.unsqueeze(-1) * frequencies(per_axis, 100, grid.device)).flatten(1)
        return torch.cat((F.pad(word, (0, 2 * per_axis)), F.pad(image, (pairs - 2 * per_axis, 0))))

    def _init(self) -> None:
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Conv2d):
                nn.init.xavier_uniform_(module.weight)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        nn.init.normal_(self.words.weight, std=0.5)
        nn.init.normal_(self.null, std=0.5)
        fine = [self.before, *self.after]
        for zero in (
            self.time[2],
            self.final,
            self.head,
            *(b.time for b in fine),
            *(b.two for b in fine),
        ):
            nn.init.zeros_(zero.weight)
        for block in [*self.text, *self.blocks]:
            with torch.no_grad():
                # The gates are open from the first step, but small enough for stable training.
                block.offset[[2, 5]] = 1 / math.sqrt(2 * self.config.depth)


def precision_weighted_x0(guess: Tensor, x_t: Tensor, t: Tensor) -> Tensor:
    """Precision-weighted mean of two x0 estimates: the network's ``guess`` and x_t / (1 - t).

    The second estimate has a standard deviation of t / (1 - t); the guess is assumed to have one of
    GUESS at all times. So the guess weighs less as t approaches 0, and the network's own artefacts
    vanish there. c_skip has the same role in Karras et al. 2022, eq. 7.
    """
    t = t[:, None, None, None].to(x_t)
    weight_x_t, total = GUESS**2 * (1 - t), GUESS**2 * (1 - t) ** 2 + t**2
    return (weight_x_t * x_t + t**2 * guess) / total


def norm(x: Tensor) -> Tensor:
    """RMSNorm over the last axis, without gains."""
    return F.rms_norm(x, x.shape[-1:])


def modulate(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """RMSNorm with an adaptive scale and shift: norm(x) * (1 + scale) + shift."""
    return torch.addcmul(shift, norm(x), 1 + scale)


def frequencies(n: int, base: float, device: torch.device) -> Tensor:
    """Angular frequencies (n,), geometrically from 1 down to about 1 / base."""
    return base ** -(torch.arange(n, device=device) / n)


def timestep_embedding(t: Tensor) -> Tensor:
    """Sinusoidal embedding (b, 256) of times t (b,) in [0, 1]."""
    angles = 100 * t[:, None] * frequencies(128, 1000, t.device)
    return torch.cat((angles.sin(), angles.cos()), -1)


def positions(grid: Tensor, width: int) -> Tensor:
    """Fixed sinusoidal position embedding (hw, width) of rows and columns ``grid`` (hw, 2).

    Unlike a learned one, it has full strength from the first training step.
    """
    angles = grid.unsqueeze(-1) * frequencies(width // 4, 100, grid.device)  # hw 2 d/4
    return torch.cat((angles.sin(), angles.cos()), -1).flatten(1)


def rope_tables(angles: Tensor) -> Rotation:
    """Cosines and sines, (l, k) each, of rotary angles (l, k)."""
    return angles.cos(), angles.sin()


def rotate(x: Tensor, rotation: Rotation) -> Tensor:
    """Rotary position embedding: x (b, n, l, 2k) with each feature pair (i, i + k) rotated.

    ``rotation`` holds the cosines and sines of the angles, from ``rope_tables``.
    """
    cos, sin = (each.to(x.dtype) for each in rotation)
    a, b = x.chunk(2, -1)
    return torch.cat((a * cos - b * sin, b * cos + a * sin), -1)
