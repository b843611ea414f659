"""DALL-E and MaskGIT: transformers over caption tokens and the VQGAN tokens of a picture.

DALL-E (Ramesh et al. 2021) models caption and picture as one stream and predicts every token from
those before it. Here the same weights model both orders: caption then picture, and picture then
caption. Each part starts with its own begin token. MaskGIT (Chang et al. 2022) has the same blocks
with bidirectional attention: some cells of the picture are masked, and it predicts all of them at
once.

Same layers as models/dit.py: RMSNorm and QK-norm, SwiGLU, rotary positions over three axes
(word, row, column) and a fixed sinusoidal embedding of row and column. So the position of a cell
does not depend on the length of the caption or on the order, and is not learned. Simplified: every
layer attends to the whole sequence, there is no dropout, and MaskGIT has no label smoothing.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Generator, Tensor

from kalpana.models.layers import (
    Rotation,
    SwiGLU,
    TextEmbedding,
    frequencies,
    fused_cross_entropy,
    norm,
    positions,
    rope_tables,
    rotate,
)
from kalpana.types import Cond


@dataclass(frozen=True)
class Config:
    width: int = 256
    depth: int = 8
    heads: int = 4
    vocabulary: int = 8192  # text tokens
    length: int = 64  # maximum number of caption tokens
    # Image tokens. Id ``codes`` itself is the begin token (DALL-E) and the mask token.
    codes: int = 1024
    rows: int = 16  # of the picture, in image tokens
    columns: int = 16
    # Outputs of the auxiliary head for each cell, after a third of the blocks; 0: no head.
    aux_outputs: int = 0


TEXT = 1 / 8  # weight of the text in DALL-E's loss (Ramesh et al. 2021, section 2.2)
# Attention function: queries, keys and values to outputs, all (b, n, l, d/n).
Attend = Callable[[Tensor, Tensor, Tensor], Tensor]


class Attention(nn.Module):
    """Self-attention of x (b, l, d) with QK-norm and rotary positions.

    ``attend`` decides which positions attend to which.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        # Per-head scale: QK-norm alone bounds the logits and forbids sharp attention.
        self.gain = nn.Parameter(torch.ones(heads))
        self.out = nn.Linear(width, width, bias=False)

    def forward(self, x: Tensor, rotation: Rotation, attend: Attend) -> Tensor:
        qkv = self.qkv(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)  # 3 b n l d/n
        # Both in one call: in a step of one token the overhead of each call counts.
        q, k = rotate(norm(qkv[:2]), rotation).to(qkv.dtype)
        q = q * self.gain.to(q.dtype)[:, None, None]
        return self.out(attend(q, k, qkv[2]).transpose(1, 2).flatten(2))  # b l d


class Block(nn.Module):
    """Pre-norm transformer block: attention, then SwiGLU."""

    compile_dynamic = True  # the training loop compiles this block, for any shape

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.attention = Attention(width, heads)
        self.feed = SwiGLU(width)

    def forward(self, x: Tensor, rotation: Rotation, attend: Attend) -> Tensor:
        x = x + self.attention(norm(x), rotation, attend)
        return x + self.feed(norm(x))


@dataclass(frozen=True)
class Loss:
    """Mean cross-entropies in nats, over all predicted text tokens and over all cells."""

    text: Tensor
    image: Tensor

    def total(self, text: float = TEXT) -> Tensor:
        """Weighted mean of both, a scalar; ``text`` is the weight of the text in [0, 1]."""
        return text * self.text + (1 - text) * self.image


@dataclass
class Cache:
    """Key-value cache of a stream of at most L tokens. ``DALLE.step`` appends to it."""

    text: bool  # True: text tokens come next; False: image tokens
    mask: Tensor  # (b, L) of the whole stream, False at padding
    positions: Tensor  # (L, d)
    rotation: Rotation  # (L, d/n/2)
    kept: list[Tensor] = field(default_factory=list)  # (2, b, n, L, d/n) of each block
    length: int = 0  # tokens cached so far, padding included

    def attend(self, depth: int, bias: Tensor, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Attention of m new queries to all tokens so far, whose keys and values it caches.

        q, k and v (b, n, m, d/n) are of the block at index ``depth``; ``bias`` (b, 1, m, l) is
        added to the scores.
        """
        if depth == len(self.kept):
            self.kept.append(k.new_zeros(2, *k.shape[:2], self.mask.shape[1], k.shape[-1]))
        end = bias.shape[-1]
        keys, values = self.kept[depth][..., :end, :]
        keys[:, :, self.length :], values[:, :, self.length :] = k, v
        return F.scaled_dot_product_attention(q, keys, values, attn_mask=bias)


def advance(blocks: nn.ModuleList, cache: Cache, x: Tensor) -> Tensor:
    """Features (b, m, d) of the next m tokens of a stream, from their embeddings (b, m, d), which
    the cache then holds."""
    start, end = cache.length, cache.length + x.shape[1]
    if end > cache.mask.shape[1]:
        raise ValueError(
            f"the stream ends after {cache.mask.shape[1]} tokens: "
            f"give {cache.mask.shape[1] - start} more at most"
        )
    index = torch.arange(end, device=x.device)
    visible = cache.mask[:, None, None, :end] & (index <= index[start:, None])
    bias = torch.where(visible, 0.0, -math.inf).to(x.dtype)  # b 1 m end
    cos, sin = (each[start:end] for each in cache.rotation)
    x = x + cache.positions[start:end]
    for depth, block in enumerate(blocks):
        x = block(x, (cos, sin), partial(cache.attend, depth, bias))
    cache.length = end
    return x


class DALLE(nn.Module):
    """Autoregressive transformer over caption and picture as one stream of tokens.

    ``forward`` predicts all tokens at once, for training. ``start_image`` or ``start_text``, and
    then ``step``, predict token by token with a cache.
    """

    def __init__(self, config: Config | None = None) -> None:
        super().__init__()
        self.config = c = config or Config()
        self.captions = TextEmbedding(c.vocabulary, c.width)
        self.codes = nn.Embedding(c.codes + 1, c.width)
        self.blocks = nn.ModuleList([Block(c.width, c.heads) for _ in range(c.depth)])
        self.say = nn.Linear(c.width, c.vocabulary, bias=False)
        self.show = nn.Linear(c.width, c.codes, bias=False)
        self.aux_head = nn.Linear(c.width, c.aux_outputs) if c.aux_outputs else None
        _init(self)

    def forward(
        self, cond: Cond, image: Tensor, swapped: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Logits of text tokens and of image tokens, each given the tokens before it.

        Text: (b, l - 1, vocabulary), for all tokens but the first. Image: (b, rows, columns,
        codes), for all cells of ``image`` (b, rows, columns). A row is caption then picture, or
        picture then caption where ``swapped`` (b,) bool is True.
        """
        c = self.config
        words, cells, _ = self._features(cond, image, swapped)
        return self.say(words), self.show(cells).unflatten(1, (c.rows, c.columns))

    def loss(
        self,
        cond: Cond,
        image: Tensor,
        swapped: Tensor | None = None,
        hidden: Tensor | None = None,
    ) -> Loss:
        """Loss for image ids (b, rows, columns) and, in rows that have one, for their caption.

        Cells where ``hidden`` (b, rows, columns) is True are predicted, but masked in the input of
        later tokens (token dropout).
        """
        return self.loss_with_aux(cond, image, swapped, hidden)[0]

    def loss_with_aux(
        self,
        cond: Cond,
        image: Tensor,
        swapped: Tensor | None = None,
        hidden: Tensor | None = None,
    ) -> tuple[Loss, Tensor | None]:
        """Loss as in ``loss``, and the auxiliary outputs (b, hw, config.aux_outputs), each from the
        tokens before its cell; None without an auxiliary head."""
        shown = image if hidden is None else image.masked_fill(hidden, self.config.codes)
        words, cells, middle = self._features(cond, shown, swapped)
        aux = None if self.aux_head is None else self.aux_head(middle)
        total = fused_cross_entropy(cells.flatten(0, 1), self.show, image.flatten())
        image_loss = total / image.numel()
        if cond.tokens is None:
            return Loss(torch.zeros_like(image_loss), image_loss), aux
        mask = cond.tokens.mask[:, 1:]
        predicted = mask if cond.null is None else mask & ~cond.null[:, None]
        wanted = cond.tokens.ids[:, 1:][predicted]
        total = fused_cross_entropy(words[predicted], self.say, wanted)
        return Loss(total / predicted.sum().clamp(min=1), image_loss), aux

    def _features(
        self, cond: Cond, image: Tensor, swapped: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Features before the heads, of text tokens (b, l - 1, d) and of cells (b, hw, d), and of
        cells after a third of the blocks.

        Text features are those that predict all tokens but the first.
        """
        c, b = self.config, len(image)
        words, mask = self.captions(cond, b)  # b l d, b l
        length = words.shape[1]
        x = torch.cat((words, self._embed_image(image)), 1)  # b l+1+hw d
        places = torch.cat((word_places(length, x.device), cell_places(c, x.device)))  # l+1+hw 3

        # Each row is sorted into its order: a caption is 0 or 2, the picture 1, padding 3. With the
        # padding at the end of the stream, causal attention needs no mask.
        late = torch.zeros_like(mask[:, :1]) if swapped is None else swapped[:, None]
        part = F.pad(torch.where(mask, 2 * late, 3), (0, 1 + c.rows * c.columns), value=1)
        order = part.argsort(stable=True)  # b l+1+hw
        x = torch.take_along_dim(x + positions(places[:, 1:], c.width).to(x), order[..., None], 1)
        rotation = rope_tables(angles(places, c)[order].unsqueeze(1))  # b 1 l+1+hw d/n/2
        middle = x
        for depth, block in enumerate(self.blocks, start=1):
            x = block(x, rotation, causal)
            if depth == math.ceil(c.depth / 3):
                middle = x
        inverse = order.argsort(1)[..., None]
        x, middle = (
            norm(torch.take_along_dim(x, inverse, 1)),
            torch.take_along_dim(middle, inverse, 1),
        )
        return x[:, : length - 1], x[:, length:-1], middle[:, length:-1]

    @torch.no_grad()
    def start_image(self, cond: Cond, b: int) -> Cache:
        """Cache of b rows after their captions. ``step`` then predicts image tokens.

        The first token to give to ``step`` is the picture's begin token, id ``codes``.
        """
        c = self.config
        words, mask = self.captions(cond, b)
        places = torch.cat((word_places(words.shape[1], mask.device), cell_places(c, mask.device)))
        cache = self._cache(False, F.pad(mask, (0, 1 + c.rows * c.columns), value=True), places)
        advance(self.blocks, cache, words)
        return cache

    @torch.no_grad()
    def start_text(self, image: Tensor) -> Cache:
        """Cache after image ids (b, rows, columns). ``step`` then predicts text tokens.

        The first token to give to ``step`` is the begin token of the text.
        """
        c, cells = self.config, self._embed_image(image)
        places = torch.cat((cell_places(c, image.device), word_places(c.length, image.device)))
        mask = torch.ones(len(image), len(places), dtype=torch.bool, device=image.device)
        cache = self._cache(True, mask, places)
        advance(self.blocks, cache, cells)
        return cache

    @torch.no_grad()
    def step(self, cache: Cache, ids: Tensor) -> Tensor:
        """Logits (b, codes or vocabulary) of the token after ``ids`` (b, m).

        ``ids`` are the next m tokens of the stream and are added to the cache. Raises ValueError
        where the stream would become longer than caption and picture together.
        """
        embed, head = (self.captions.words, self.say) if cache.text else (self.codes, self.show)
        return head(norm(advance(self.blocks, cache, embed(ids))[:, -1]))

    def _embed_image(self, image: Tensor) -> Tensor:
        """Embeddings (b, 1 + hw, d) of a begin token and the picture's cells."""
        return self.codes(F.pad(_flat(image, self.config), (1, 0), value=self.config.codes))

    def _cache(self, text: bool, mask: Tensor, places: Tensor) -> Cache:
        """Empty cache of a stream with tokens at ``places`` (L, 3)."""
        return Cache(
            text,
            mask,
            positions(places[:, 1:], self.config.width).to(self.codes.weight),
            rope_tables(angles(places, self.config)),
        )


class MaskGIT(nn.Module):
    """Masked image-token model: ``network(cond, image) -> logits`` (b, rows, columns, codes).

    ``image`` (b, rows, columns) are image ids, with id ``codes`` at masked cells.
    """

    def __init__(self, config: Config | None = None) -> None:
        super().__init__()
        self.config = c = config or Config()
        self.captions = TextEmbedding(c.vocabulary, c.width)
        self.codes = nn.Embedding(c.codes + 1, c.width)
        self.blocks = nn.ModuleList([Block(c.width, c.heads) for _ in range(c.depth)])
        self.show = nn.Linear(c.width, c.codes, bias=False)
        self.aux_head = nn.Linear(c.width, c.aux_outputs) if c.aux_outputs else None
        _init(self)

    def forward(self, cond: Cond, image: Tensor) -> Tensor:
        c = self.config
        return self.show(self._features(cond, image)[0]).unflatten(1, (c.rows, c.columns))

    def loss(self, cond: Cond, image: Tensor, hidden: Tensor) -> Tensor:
        """Mean cross-entropy in nats of the cells of ``image`` that are masked in the input.

        ``image`` and the mask ``hidden`` are (b, rows, columns).
        """
        return self.loss_with_aux(cond, image, hidden)[0]

    def loss_with_aux(
        self, cond: Cond, image: Tensor, hidden: Tensor
    ) -> tuple[Tensor, Tensor | None]:
        """Loss as in ``loss``, and the auxiliary outputs (b, hw, config.aux_outputs); None without
        an auxiliary head."""
        cells, middle = self._features(cond, image.masked_fill(hidden, self.config.codes))
        total = fused_cross_entropy(cells[hidden.flatten(1)], self.show, image[hidden])
        return total / hidden.sum(), None if self.aux_head is None else self.aux_head(middle)

    def _features(self, cond: Cond, image: Tensor) -> tuple[Tensor, Tensor]:
        """Features (b, hw, d) of the cells before the head, and after a third of the blocks."""
        c = self.config
        words, mask = self.captions(cond, len(image))  # b l d, b l
        length = words.shape[1]
        x = torch.cat((words, self.codes(_flat(image, c))), 1)  # b l+hw d
        places = torch.cat((word_places(length, x.device), cell_places(c, x.device)[1:]))  # l+hw 3
        x, rotation = x + positions(places[:, 1:], c.width).to(x), rope_tables(angles(places, c))
        bias = F.pad(-1e4 * (~mask).float(), (0, c.rows * c.columns))  # masks the padding
        bias = bias[:, None, None, :]  # b 1 1 l+hw
        middle = x
        for depth, block in enumerate(self.blocks, start=1):
            x = block(x, rotation, partial(full, bias=bias))
            if depth == math.ceil(c.depth / 3):
                middle = x
        return norm(x[:, length:]), middle[:, length:]


def random_mask(b: int, config: Config, rng: Generator) -> Tensor:
    """Random mask for training MaskGIT, (b, rows, columns) bool, True at masked cells.

    Each picture has ceil(cos(pi/2 r) hw) masked cells, r uniform in [0, 1): the cosine schedule
    (Chang et al. 2022, section 3.3), in which high mask ratios are a little more frequent.
    """
    cells = config.rows * config.columns
    count = (torch.cos(math.pi / 2 * torch.rand(b, 1, generator=rng)) * cells).ceil()
    rank = torch.rand(b, cells, generator=rng).argsort(1).argsort(1)
    return (rank < count).unflatten(1, (config.rows, config.columns))


def causal(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Causal attention: each position attends to itself and to those before it."""
    return F.scaled_dot_product_attention(q, k, v, is_causal=True)


def full(q: Tensor, k: Tensor, v: Tensor, bias: Tensor) -> Tensor:
    """Full attention, with a ``bias`` (b, 1, 1, l) added to the scores."""
    if q.device.type != "cpu":
        return F.scaled_dot_product_attention(
            q, k, v, bias.to(q.dtype).expand(-1, -1, q.shape[-2], -1)
        )
    # Written out: with a mask, the backward pass of torch's fused CPU kernel takes twenty times as
    # long.
    scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-1, -2) + bias.to(q.dtype)  # b n l l
    return scores.softmax(-1).to(v.dtype) @ v


def word_places(count: int, device: torch.device) -> Tensor:
    """Word, row and column (count, 3) of text tokens: their index, and 0 for row and column."""
    return F.pad(torch.arange(count, device=device)[:, None], (0, 2))


def cell_places(c: Config, device: torch.device) -> Tensor:
    """Word, row and column (1 + hw, 3) of a picture's begin token, all 0, and of its cells.

    Rows and columns are counted from 1; the word of a cell is 0.
    """
    cells = torch.cartesian_prod(
        torch.arange(1, c.rows + 1, device=device), torch.arange(1, c.columns + 1, device=device)
    )
    return F.pad(cells, (1, 0, 1, 0))


def angles(places: Tensor, c: Config) -> Tensor:
    """Rotary angles (l, d/n/2) of places (l, 3): a quarter for the word, the rest for the grid."""
    pairs = c.width // c.heads // 2
    cell = pairs * 3 // 8
    axes = zip(places.unbind(1), (pairs - 2 * cell, cell, cell), (1000, 100, 100), strict=True)
    return torch.cat(
        [axis[:, None] * frequencies(count, base, places.device) for axis, count, base in axes], 1
    )


def _flat(image: Tensor, c: Config) -> Tensor:
    """Image ids (b, rows, columns) as (b, hw). Raises ValueError for another shape."""
    if image.shape[1:] != (c.rows, c.columns):
        raise ValueError(f"image ids are {tuple(image.shape)}: give (b, {c.rows}, {c.columns})")
    return image.flatten(1)


def init_blocks(blocks: nn.ModuleList) -> None:
    """Initialise the blocks of a network.

    The output layers are scaled by 1 / sqrt(2 depth), so that the residual branches start small.
    """
    for block in blocks:
        assert isinstance(block, Block)
        for inside in (block.attention.qkv, block.attention.out, block.feed.up, block.feed.down):
            nn.init.xavier_uniform_(inside.weight)
        with torch.no_grad():
            for last in (block.attention.out, block.feed.down):
                last.weight /= math.sqrt(2 * len(blocks))


def _init(network: DALLE | MaskGIT) -> None:
    """Initialise the weights. The heads start at zero, so that all tokens are equally likely."""
    init_blocks(network.blocks)
    for embedding in (network.captions.words.weight, network.captions.null, network.codes.weight):
        nn.init.normal_(embedding, std=0.5)
    for head in (network.show, *([network.say] if isinstance(network, DALLE) else [])):
        nn.init.zeros_(head.weight)
