"""Video captioner: a transformer that writes a caption after the keyframes of a video.

The stream is that of a DALL-E whose picture comes first (models/dalle.py), with the same blocks, so
its weights are a start: the duration, the VQGAN tokens of a few keyframes, then the caption, each
token predicted from those before it. Only the caption is predicted. Squares of ``patch`` x
``patch`` tokens are merged into one cell by a linear layer that tells their places apart, as in ViT
(Dosovitskiy et al. 2021), so a keyframe of 16 x 16 tokens is 4 x 4 cells.

Positions are rotary, over time, row and column: keyframes have times before 0, and words count from
0. Each keyframe also has a learned embedding.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn as nn
from torch import Tensor

from kalpana.models import dalle
from kalpana.models.dalle import (
    DALLE,
    Block,
    Cache,
    advance,
    causal,
    init_blocks,
    word_places,
)
from kalpana.models.layers import (
    fused_cross_entropy,
    norm,
    positions,
    rope_tables,
    timestep_embedding,
)
from kalpana.types import Tokens


@dataclass(frozen=True)
class Config:
    width: int = 256
    depth: int = 8
    heads: int = 4
    vocabulary: int = 8192  # text tokens
    length: int = 64  # maximum number of caption tokens
    codes: int = 4096  # of the VQGAN
    # Keyframes of a video. An odd number has the middle, where what returns is out of view.
    frames: int = 7
    grid: int = 16  # rows, and columns, of a keyframe in tokens
    patch: int = 4  # rows, and columns, of the tokens that are merged into one cell

    @property
    def cells(self) -> int:
        """Cells of a keyframe."""
        return (self.grid // self.patch) ** 2


class VideoCaptioner(nn.Module):
    """Autoregressive transformer over keyframes and then their caption.

    ``forward`` predicts all text tokens at once, for training. ``start_text``, and then ``step``,
    predict token by token with a cache.
    """

    def __init__(self, config: Config | None = None) -> None:
        super().__init__()
        self.config = c = config or Config()
        self.codes = nn.Embedding(c.codes, c.width)
        self.merge = nn.Linear(c.patch**2 * c.width, c.width, bias=False)
        self.moments = nn.Parameter(torch.zeros(c.frames, 1, c.width))
        self.duration = nn.Linear(256, c.width)
        self.words = nn.Embedding(c.vocabulary, c.width)
        self.blocks = nn.ModuleList([Block(c.width, c.heads) for _ in range(c.depth)])
        self.say = nn.Linear(c.width, c.vocabulary, bias=False)
        self._init()

    def forward(self, frames: Tensor, seconds: Tensor, ids: Tensor) -> Tensor:
        """Logits (b, l, vocabulary) of the text token after each of ``ids`` (b, l).

        ``frames`` (b, f, grid, grid) are the VQGAN tokens of the keyframes, and ``seconds`` (b,)
        the durations of the videos.
        """
        return self.say(self._features(frames, seconds, ids))

    def loss(self, frames: Tensor, seconds: Tensor, tokens: Tokens) -> Tensor:
        """Mean cross-entropy in nats of all text tokens but the first."""
        mask = tokens.mask[:, 1:]
        x = self._features(frames, seconds, tokens.ids[:, :-1])[mask]
        return fused_cross_entropy(x, self.say, tokens.ids[:, 1:][mask]) / mask.sum()

    def _features(self, frames: Tensor, seconds: Tensor, ids: Tensor) -> Tensor:
        """Features (b, l, d) before the head."""
        seen = self._embed_video(frames, seconds)  # b 1+fhw d
        x = torch.cat((seen, self.words(ids)), 1)  # b 1+fhw+l d
        places = self._places(ids.shape[1])
        x = x + positions(places[:, 1:], self.config.width).to(x)
        rotation = rope_tables(self._angles(places))
        for block in self.blocks:
            x = block(x, rotation, causal)  # padding is at the end, so no mask is needed
        return norm(x[:, seen.shape[1] :])

    @torch.no_grad()
    def start_text(self, frames: Tensor, seconds: Tensor) -> Cache:
        """Cache after the keyframes. ``step`` then predicts text tokens.

        The first token to give to ``step`` is the begin token of the text.
        """
        places = self._places(self.config.length)
        mask = torch.ones(len(frames), len(places), dtype=torch.bool, device=frames.device)
        cache = Cache(
            True,
            mask,
            positions(places[:, 1:], self.config.width).to(self.codes.weight),
            rope_tables(self._angles(places)),
        )
        advance(self.blocks, cache, self._embed_video(frames, seconds))
        return cache

    @torch.no_grad()
    def step(self, cache: Cache, ids: Tensor) -> Tensor:
        """Logits (b, vocabulary) of the text token after ``ids`` (b, m), the next m tokens, which
        are added to the cache."""
        return self.say(norm(advance(self.blocks, cache, self.words(ids))[:, -1]))

    @torch.no_grad()
    def start_from(self, other: DALLE) -> None:
        """Takes the words, the codes and the blocks of a DALL-E of equal width, depth, heads,
        vocabulary and codes."""
        self.words.load_state_dict(other.captions.words.state_dict())
        self.codes.weight.copy_(other.codes.weight[:-1])  # without the begin token
        self.blocks.load_state_dict(other.blocks.state_dict())
        self.say.load_state_dict(other.say.state_dict())

    def _embed_video(self, frames: Tensor, seconds: Tensor) -> Tensor:
        """Embeddings (b, 1 + fhw, d) of the duration and of the cells of all keyframes. Raises
        ValueError for another number or size of keyframes."""
        c = self.config
        if frames.shape[1:] != (c.frames, c.grid, c.grid):
            raise ValueError(
                f"keyframes are {tuple(frames.shape)}: give (b, {c.frames}, {c.grid}, {c.grid})"
            )
        side = c.grid // c.patch
        squares = frames.unflatten(3, (side, c.patch)).unflatten(2, (side, c.patch))  # b f h p w q
        squares = squares.transpose(3, 4).flatten(4)  # b f h w pq
        cells = self.merge(self.codes(squares).flatten(4)).flatten(2, 3)  # b f hw d
        # From an eighth of a second to eight minutes, in steps of equal ratio.
        time = ((seconds.float().clamp(0.125, 512).log2() + 3) / 12).clamp(0, 1)  # b
        duration = self.duration(timestep_embedding(time).to(cells))  # b d
        return torch.cat((duration[:, None], (cells + self.moments).flatten(1, 2)), 1)

    def _places(self, length: int) -> Tensor:
        """Time, row and column (1 + fhw + length, 3) of the duration, the cells and the words.

        Rows and columns of a cell are those of the middle of its tokens, counted from 1; words and
        the duration are at row and column 0.
        """
        c, device = self.config, self.moments.device
        middles = torch.arange(c.grid // c.patch, device=device) * c.patch + (c.patch + 1) / 2
        times = torch.arange(-c.frames, 0, device=device).float()
        first = middles.new_tensor([[-c.frames - 1.0, 0.0, 0.0]])
        cells = torch.cartesian_prod(times, middles, middles)
        return torch.cat((first, cells, word_places(length, device).float()))

    def _angles(self, places: Tensor) -> Tensor:
        """Rotary angles (l, d/n/2) of places (l, 3)."""
        c = self.config
        return dalle.angles(places, dalle.Config(width=c.width, heads=c.heads))

    def _init(self) -> None:
        """Initialise as a DALL-E. A merged cell begins near the scaled sum of its tokens."""
        c = self.config
        init_blocks(self.blocks)
        for embedding in (self.words.weight, self.codes.weight, self.moments):
            nn.init.normal_(embedding, std=0.5)
        nn.init.normal_(self.merge.weight, std=0.5 / math.sqrt(c.patch**2 * c.width))
        with torch.no_grad():
            self.merge.weight += torch.eye(c.width).repeat(1, c.patch**2) / c.patch
        nn.init.normal_(self.duration.weight, std=0.03)
        nn.init.zeros_(self.duration.bias)
        nn.init.zeros_(self.say.weight)
