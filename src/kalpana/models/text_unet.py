"""Text-conditioned U-Net: a text encoder, and a U-Net that attends to its features.

Two encoders. ``TextBlocks`` is that of our own small model, the word embedding and the text-only
blocks of the diffusion transformer, whose weights it can start from. ``CLIPText`` is the text tower
of CLIP, as Stable Diffusion uses it: the features of every position after the last norm.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor

from kalpana.models import clip, dit, unet
from kalpana.models.layers import embed_text, frequencies, norm, rope_tables
from kalpana.models.unet import Text, UNet
from kalpana.types import Cond, KalpanaError


@dataclass(frozen=True)
class Config(unet.Config):
    """Config of our own small model: the words of the U-Net, and those of its text encoder.

    The width of the text encoder is ``cross_attention_dim``.
    """

    sample_size: int = 16
    in_channels: int = 16
    out_channels: int = 16
    block_out_channels: tuple[int, ...] = (96, 192, 256)
    down_block_types: tuple[str, ...] = (*["CrossAttnDownBlock2D"] * 2, "DownBlock2D")
    up_block_types: tuple[str, ...] = ("UpBlock2D", *["CrossAttnUpBlock2D"] * 2)
    layers_per_block: int = 1
    cross_attention_dim: int | None = 256
    attention_head_dim: int | tuple[int, ...] = 4
    vocabulary: int = 8192
    length: int = 64  # maximum number of caption tokens
    text_depth: int = 2
    text_heads: int = 4


class TextEncoder(Protocol):
    """Encoder ``(cond, b) -> text features`` (b, l, d) and their mask, which owns the features of
    rows without text."""

    def __call__(self, cond: Cond, b: int, /) -> Text: ...


class TextBlocks(nn.Module):
    """The word embedding and the text-only blocks of ``models.dit.DiT``, by the same names."""

    def __init__(self, c: Config) -> None:
        super().__init__()
        width, heads = c.cross_attention_dim, c.text_heads
        if width is None or heads < 1 or width % (2 * heads):
            raise KalpanaError(
                f"cross_attention_dim is {width}, the width of the text: "
                f"write a multiple of {2 * heads}, twice the text_heads"
            )
        self.width, self.heads = width, heads
        self.words = nn.Embedding(c.vocabulary, self.width)
        self.null = nn.Parameter(torch.zeros(self.width))
        self.text = nn.ModuleList([dit.Block(self.width, self.heads) for _ in range(c.text_depth)])
        nn.init.normal_(self.words.weight, std=0.5)
        nn.init.normal_(self.null, std=0.5)
        for block in self.text:
            assert isinstance(block, dit.Block)
            with torch.no_grad():
                block.offset[[2, 5]] = (2 * max(c.text_depth, 1)) ** -0.5  # the gates are open

    def forward(self, cond: Cond, b: int) -> Text:
        words, mask = embed_text(self.words, self.null, cond, b)  # b l d, b l
        pairs = self.width // self.heads // 2
        grid = 2 * (pairs * 3 // 8)  # pairs that DiT rotates by row and column, here by nothing
        index = torch.arange(words.shape[1], device=words.device).unsqueeze(1)
        angles = F.pad(index * frequencies(pairs - grid, 1000, words.device), (0, grid))
        bias = torch.where(mask, 0.0, -1e4)[:, None, None, :]
        no_time, rotation = words.new_zeros(len(words), 6, self.width), rope_tables(angles)
        for block in self.text:
            words = block(words, no_time, rotation, bias)
        return norm(words), mask


class CLIPText(nn.Module):
    """Text tower of CLIP without pooling: tokens (b, length) to features of every position.

    ``config`` holds the text fields of a CLIP; ``empty`` are the ids of the empty text, which
    stands for no text. Nothing is masked: padding takes part, as it did in training.
    """

    def __init__(self, config: clip.Config, empty: tuple[int, ...]) -> None:
        super().__init__()
        self.config, self.empty, c = config, empty, config
        self.words = nn.Embedding(c.vocabulary, c.text_width)
        self.positions = nn.Parameter(torch.zeros(c.length, c.text_width))
        self.blocks = nn.ModuleList(
            clip.Block(c.text_width, c.text_heads, c.text_hidden, c.activation, c.eps)
            for _ in range(c.text_depth)
        )
        self.norm = nn.LayerNorm(c.text_width, c.eps)

    def forward(self, cond: Cond, b: int) -> Text:
        empty = torch.tensor(self.empty, device=self.positions.device).expand(b, -1)
        ids = empty if cond.tokens is None else cond.tokens.ids
        if cond.null is not None:
            ids = torch.where(cond.null[:, None], empty, ids)
        return self.encode(ids), None

    def encode(self, ids: Tensor) -> Tensor:
        """Features (b, l, d) of token ids (b, l)."""
        places = torch.arange(ids.shape[1], device=ids.device)
        x = self.words(ids) + self.positions[: len(places)]
        causal = clip.unseen(places > places[:, None])[None, None]  # 1 1 l l
        for block in self.blocks:
            x = block(x, causal)
        return self.norm(x)


class TextUNet(nn.Module):
    """U-Net with a text encoder: ``network(x_t, t, cond) -> prediction``.

    Without ``text``, the encoder is ``TextBlocks`` of the config.
    """

    reads: tuple[str, ...] = ("tokens",)  # fields of Cond; more by the config of the U-Net

    def __init__(self, config: unet.Config | None = None, text: nn.Module | None = None) -> None:
        super().__init__()
        self.config = config = config or Config()
        if text is None:
            assert isinstance(config, Config)
            text = TextBlocks(config)
        self.text, self.unet = text, UNet(config)
        self.reads = ("tokens", *self.unet.reads)

    def forward(self, x_t: Tensor, t: Tensor, cond: Cond) -> Tensor:
        """Prediction (b, out_channels, h, w)."""
        return self.unet(x_t, t, cond, self.text(cond, len(x_t)))
