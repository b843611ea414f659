"""DiT: a diffusion transformer over caption tokens and latent patches in one sequence.

Every block attends over the whole sequence of caption tokens and 2x2 latent patches, as in the
single-stream blocks of FLUX. Trained for x0, it predicts the clean latent (JiT, Li and He 2025).
Convolutions before and after the transformer model detail smaller than a patch and continuity
across patch edges; a long skip connects them (U-ViT, Bao et al. 2023). After Peebles and Xie 2023
(DiT), with later improvements: QK-norm, RMSNorm without gains, SwiGLU, rotary positions (Su et al.
2021) over three axes (word, row, column), and one modulation by the time, shared by all blocks
(PixArt-alpha, Chen et al. 2023).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Self

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor

from kalpana.models.layers import (
    Rotation,
    SwiGLU,
    embed_text,
    frequencies,
    modulate,
    norm,
    positions,
    rope_tables,
    rotate,
    timestep_embedding,
)
from kalpana.models.style import SHARE, Reference, reference_bias, with_reference
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
    aux_outputs: int = 0
    # Mix the prediction with x_t (`precision_weighted_x0`): only for x0 of the flow schedule.
    precision_weighted: bool = True


# Assumed standard deviation of the error of the network's x0 prediction (docs/log.md); see
# `precision_weighted_x0`.
GUESS = 0.1


class Attention(nn.Module):
    """Full self-attention of x (b, l, d) with QK-norm and rotary positions.

    ``bias`` (b, 1, 1, l) is added to the scores.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.out = nn.Linear(width, width, bias=False)

    def forward(
        self, x: Tensor, rotation: Rotation, bias: Tensor, reference: Reference | None = None
    ) -> Tensor:
        qkv = self.qkv(x).unflatten(-1, (3, self.heads, -1))
        q, k, v = qkv.permute(2, 0, 3, 1, 4)  # each b n l d/n
        q, k, key_rotation = norm(q), norm(k), rotation
        if reference is not None:
            q, k, v, bias = reference.share(q, k, v, bias)
            key_rotation = reference.rotation
        q, k = rotate(q, rotation), rotate(k, key_rotation)
        # Written out: at these lengths the backward pass of torch's fused CPU kernel takes twenty
        # times as long.
        scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-1, -2) + bias.to(q.dtype)  # b n l l
        return self.out((scores.softmax(-1) @ v.to(q.dtype)).transpose(1, 2).flatten(2))  # b l d


class Block(nn.Module):
    """Transformer block: attention and SwiGLU, each shifted, scaled and gated (adaLN).

    The modulation is the six shared vectors ``time`` (b, 6, d) plus the block's learned offsets.
    """

    compile_dynamic = True  # the training loop compiles this block, for any shape

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.attention = Attention(width, heads)
        self.feed = SwiGLU(width)
        self.offset = nn.Parameter(torch.zeros(6, width))

    def forward(
        self,
        x: Tensor,
        time: Tensor,
        rotation: Rotation,
        bias: Tensor,
        reference: Reference | None = None,
    ) -> Tensor:
        modulation = (time + self.offset).unsqueeze(2)  # b 6 1 d
        shift_a, scale_a, gate_a, shift_f, scale_f, gate_f = modulation.unbind(1)  # each b 1 d
        x = x + gate_a * self.attention(modulate(x, shift_a, scale_a), rotation, bias, reference)
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
    """Diffusion transformer: ``network(x_t, t, cond) -> prediction``.

    Latents are (b, channels, h, w), with h and w multiples of ``patch``; t is (b,) in [0, 1].
    """

    reads: tuple[str, ...] = ("tokens",)  # fields of Cond, beside ``null``

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
        self.aux_head = nn.Linear(c.width, c.aux_outputs) if c.aux_outputs else None
        self.final = nn.Linear(256, 2 * c.width)
        self.unpatch = nn.Linear(c.width, c.fine * c.patch**2)
        self.after = nn.ModuleList([ConvBlock(c.fine) for _ in range(2)])
        self.head = nn.Conv2d(c.fine, c.channels, 3, padding=1)
        self._init()

    def forward(self, x_t: Tensor, t: Tensor, cond: Cond) -> Tensor:
        """Prediction (b, channels, h, w)."""
        return self._predict(x_t, t, cond, with_aux=False)[0]

    def forward_with_aux(self, x_t: Tensor, t: Tensor, cond: Cond) -> tuple[Tensor, Tensor]:
        """Prediction, and the auxiliary outputs (b, hw, config.aux_outputs) of the patches.

        Only networks with ``aux_outputs`` have these.
        """
        prediction, aux = self._predict(x_t, t, cond, with_aux=True)
        assert aux is not None
        return prediction, aux

    def _predict(
        self, x_t: Tensor, t: Tensor, cond: Cond, with_aux: bool
    ) -> tuple[Tensor, Tensor | None]:
        h, w = x_t.shape[-2] // self.config.patch, x_t.shape[-1] // self.config.patch
        rows, style = len(x_t), cond.style
        if style is not None:
            x_t, t, cond = with_reference(x_t, t, cond)
        words, mask = embed_text(self.words, self.null, cond, len(x_t))  # b l d, b l
        rows_columns = torch.meshgrid(torch.arange(h), torch.arange(w), indexing="ij")
        grid = torch.stack(rows_columns, -1).flatten(0, 1).to(x_t.device)  # hw 2
        wave = self._time_embedding(t, cond)  # b 256
        time = self._time(wave, cond).unflatten(-1, (6, -1))  # b 6 d
        length = words.shape[1]
        angles = self._angles(length, grid)  # l+hw d/n/2
        bias = -1e4 * (~mask).float()  # masks the padding

        # The text-only blocks are not conditioned on the time.
        no_time, text_rotation = torch.zeros_like(time), rope_tables(angles[:length])
        for block in self.text:
            words = block(words, no_time, text_rotation, bias[:, None, None])
        if (extra := self._extra(wave, cond)) is not None:
            words, bias = (torch.cat(pair, 1) for pair in zip((words, bias), extra, strict=True))
            still = angles.new_zeros(words.shape[1] - length, angles.shape[1])
            angles = torch.cat((angles[:length], still, angles[length:]))  # l+k+hw d/n/2
            length = words.shape[1]
        bias = F.pad(bias, (0, h * w))[:, None, None]  # b 1 1 l+hw
        fine = self.before(self._stem(x_t, cond), wave)  # b c h·p w·p
        patches = F.pixel_unshuffle(fine, self.config.patch).flatten(2).transpose(1, 2)
        image = self.patches(patches)  # b hw d
        image = image + positions(grid, self.config.width)
        x, rotation = torch.cat((words, image), 1), rope_tables(angles)  # b l+hw d
        aux, aux_depth = None, math.ceil(self.config.depth / 3)
        reference = None if style is None else self._reference(style, angles, grid, len(x))
        first = self.config.depth // SHARE
        for depth, block in enumerate(self.blocks, start=1):
            x = block(x, time, rotation, bias, reference if depth > first else None)
            if with_aux and self.aux_head is not None and depth == aux_depth:
                aux = self.aux_head(x[:, length:])  # b hw aux

        shift, scale = self.final(wave).unsqueeze(1).chunk(2, -1)
        x = self.unpatch(modulate(x[:, length:], shift, scale))  # b hw c·p·p
        fine = fine + F.pixel_shuffle(x.transpose(1, 2).unflatten(-1, (h, w)), self.config.patch)
        for block in self.after:
            fine = block(fine, wave)
        prediction = self.head(fine)
        if self.config.precision_weighted:
            prediction = precision_weighted_x0(prediction, x_t, t)
        return prediction[:rows], aux

    def _reference(self, style: Tensor, angles: Tensor, grid: Tensor, rows: int) -> Reference:
        """The style reference in a batch of ``rows``; its columns follow those of the picture, so
        that its layout is not copied."""
        strength, length = float(style[0, -1, 0, 0]), len(angles) - len(grid)
        beside = grid + torch.stack((torch.zeros_like(grid[-1, 1]), grid[-1, 1] + 1))
        return Reference(
            length,
            strength,
            rope_tables(torch.cat((angles, self._angles(0, beside)))),
            reference_bias(rows, length, len(grid), strength).to(style.device),
        )

    def _time_embedding(self, t: Tensor, cond: Cond) -> Tensor:
        """Embedding (b, 256) of the times."""
        return timestep_embedding(t)

    def _stem(self, x_t: Tensor, cond: Cond) -> Tensor:
        """First features (b, fine, h, w) of the noisy latents."""
        return self.stem(x_t.contiguous(memory_format=torch.channels_last))

    def _time(self, wave: Tensor, cond: Cond) -> Tensor:
        """Time embedding (b, 6d) of the sinusoidal one (b, 256): the modulation of the blocks."""
        return self.time(wave)

    def _extra(self, wave: Tensor, cond: Cond) -> tuple[Tensor, Tensor] | None:
        """Tokens (b, k, d) after the words, which have no position, and the bias (b, k) of their
        keys; None here. ``wave`` (b or 1, 256) is the sinusoidal embedding of the time."""
        return None

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

    def inherit(self, image: DiT) -> Self:
        """This network, with the weights of an image transformer where they have the same name."""
        own, given = self.state_dict(), image.state_dict()
        self.load_state_dict(own | {name: given[name] for name in own.keys() & given.keys()})
        return self

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


def precision_weighted_x0(
    guess: Tensor, x_t: Tensor, t: Tensor, deviation: float = GUESS
) -> Tensor:
    """Precision-weighted mean of two x0 estimates: the network's ``guess`` and x_t / (1 - t).

    The second estimate has a standard deviation of t / (1 - t); the guess is assumed to have
    ``deviation`` at all times. So the guess weighs less as t approaches 0, and the network's own
    artefacts vanish there. c_skip has the same role in Karras et al. 2022, eq. 7.
    """
    t = t.reshape(-1, *[1] * (x_t.ndim - 1)).to(x_t)
    weight_x_t, total = deviation**2 * (1 - t), deviation**2 * (1 - t) ** 2 + t**2
    return (weight_x_t * x_t + t**2 * guess) / total
