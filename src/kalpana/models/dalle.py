"""Pictures as tokens: a transformer over the words of a caption and the codes of a picture, said one after another or many at once.

DALL-E (Ramesh et al. 2021) reads caption and picture as one stream and says of every token what comes next. Here the stream runs both
ways with the same weights: a caption and then the picture it asks for, or a picture and then the caption that tells of it, each part
opened by a token of its own. MaskGIT (Chang et al. 2022) is made of the same parts, but looks both ways: some cells of the picture are
hidden, and it says all of them at once.

In the dress of models/dit.py: RMSNorm and QK-norm, SwiGLU, rotary positions over three axes (word, row, column) and fixed sines of
row and column beside them. A cell then stands where it stands, however long the caption is and on whichever side of it; nothing of it
must be learned. Simplified: every layer attends to everything, there is no dropout, and MaskGIT smooths no labels.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Generator, Tensor
from torch.autograd.function import once_differentiable

from kalpana.models.dit import Rotation, SwiGLU, frequencies, norm, positions, rope_tables, rotate
from kalpana.types import Cond


@dataclass(frozen=True)
class Config:
    width: int = 256
    depth: int = 8
    heads: int = 4
    vocabulary: int = 8192  # of words
    length: int = 64  # caption tokens at most
    codes: int = (
        1024  # of the picture; the number after the last begins a picture (DALL-E) or hides a cell
    )
    rows: int = 16  # of the picture, in codes
    columns: int = 16
    aside: int = (
        0  # numbers that training asks of each cell, a third of the way up, beside the tokens
    )


ROWS, MANY = (
    256,
    16384,
)  # of features whose logits are in memory together: on a CPU, whose caches hold so many, and elsewhere
TEXT = 1 / 8  # the part that words have in DALL-E's loss (Ramesh et al. 2021, section 2.2)
Attend = Callable[
    [Tensor, Tensor, Tensor], Tensor
]  # queries, keys and values to what each query gathers, all (b, n, l, d/n)


class Attention(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.gain = nn.Parameter(
            torch.ones(heads)
        )  # queries and keys are of one length: without it no head could look very hard
        self.out = nn.Linear(width, width, bias=False)

    def forward(self, x: Tensor, rotation: Rotation, attend: Attend) -> Tensor:
        qkv = self.qkv(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)  # 3 b n l d/n
        q, k = rotate(norm(qkv[:2]), rotation).to(
            qkv.dtype
        )  # both at once: a step of one token is so short that each call counts
        q = q * self.gain.to(q.dtype)[:, None, None]
        return self.out(attend(q, k, qkv[2]).transpose(1, 2).flatten(2))  # b l d


class Block(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.attention = Attention(width, heads)
        self.feed = SwiGLU(width)

    def forward(self, x: Tensor, rotation: Rotation, attend: Attend) -> Tensor:
        x = x + self.attention(norm(x), rotation, attend)
        return x + self.feed(norm(x))


class TextEmbedding(nn.Module):
    """``(cond, b)`` to embeddings (b, l, d) and their mask (b, l). A row without a caption is one null token."""

    def __init__(self, vocabulary: int, width: int) -> None:
        super().__init__()
        self.words = nn.Embedding(vocabulary, width)
        self.null = nn.Parameter(torch.zeros(width))

    def forward(self, cond: Cond, b: int) -> tuple[Tensor, Tensor]:
        if cond.tokens is None:
            return self.null.expand(b, 1, -1), torch.ones(
                b, 1, dtype=torch.bool, device=self.null.device
            )
        words, mask = self.words(cond.tokens.ids), cond.tokens.mask
        if cond.null is not None:
            first = torch.arange(mask.shape[1], device=mask.device) == 0
            words = torch.where(cond.null[:, None, None], self.null, words)
            mask = torch.where(cond.null[:, None], first, mask)
        return words, mask


@dataclass(frozen=True)
class Loss:
    """Cross-entropies in nats, the mean over all words that are said and over all cells."""

    text: Tensor
    image: Tensor

    def total(self, text: float = TEXT) -> Tensor:
        """Both as one number, of which words have the part ``text``."""
        return text * self.text + (1 - text) * self.image


@dataclass
class Cache:
    """What a stream has left behind in every block, so that no token is read twice. ``DALLE.step`` adds to it."""

    text: bool  # whether words are to come next, or cells
    mask: Tensor  # (b, L) of the whole stream, False at padding, which is not looked at
    positions: Tensor  # (L, d)
    rotation: Rotation  # (L, d/n/2)
    kept: list[Tensor] = field(
        default_factory=list
    )  # keys and values of each block, (2, b, n, L, d/n)
    length: int = 0  # tokens read so far, padding among them

    def attend(self, depth: int, bias: Tensor, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Keep the m new keys and values of the block at this depth, and let m queries look at all so far with a ``bias`` (b, 1, m, l)."""
        if depth == len(self.kept):
            self.kept.append(k.new_zeros(2, *k.shape[:2], self.mask.shape[1], k.shape[-1]))
        end = bias.shape[-1]
        keys, values = self.kept[depth][..., :end, :]
        keys[:, :, self.length :], values[:, :, self.length :] = k, v
        return F.scaled_dot_product_attention(q, keys, values, attn_mask=bias)


class DALLE(nn.Module):
    """One stream of words and cells. All at once by ``forward``; token by token by ``start_image`` or ``start_text``, then ``step``."""

    def __init__(self, config: Config | None = None) -> None:
        super().__init__()
        self.config = c = config or Config()
        self.captions = TextEmbedding(c.vocabulary, c.width)
        self.codes = nn.Embedding(c.codes + 1, c.width)
        self.blocks = nn.ModuleList([Block(c.width, c.heads) for _ in range(c.depth)])
        self.say = nn.Linear(c.width, c.vocabulary, bias=False)
        self.show = nn.Linear(c.width, c.codes, bias=False)
        self.aside = nn.Linear(c.width, c.aside) if c.aside else None
        _init(self)

    def forward(
        self, cond: Cond, image: Tensor, swapped: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Logits (b, l - 1, vocabulary) of all words but the first, and (b, rows, columns, codes) of all cells of ``image`` (b, rows,
        columns), each from what comes before it. A row is caption and picture; picture and caption where ``swapped`` (b,) says so."""
        words, cells = self._look(cond, image, swapped)
        return self.say(words), self.show(cells).unflatten(
            1, (self.config.rows, self.config.columns)
        )

    def loss(
        self,
        cond: Cond,
        image: Tensor,
        swapped: Tensor | None = None,
        aside: list[Tensor] | None = None,
        hidden: Tensor | None = None,
    ) -> Loss:
        """How wrong the network is about image ids (b, rows, columns) and, in rows that have one, their caption. What is said of the cells,
        (b, hw, config.aside), of each before it is seen, is added to the list ``aside`` if one is given. Cells that are ``hidden`` (b,
        rows, columns) are asked for, but not shown to what comes after them."""
        seen = image if hidden is None else image.masked_fill(hidden, self.config.codes)
        words, cells = self._look(cond, seen, swapped, aside)
        wrong = fused_cross_entropy(cells.flatten(0, 1), self.show, image.flatten()) / image.numel()
        if cond.tokens is None:
            return Loss(torch.zeros_like(wrong), wrong)
        said = (
            cond.tokens.mask[:, 1:]
            if cond.null is None
            else cond.tokens.mask[:, 1:] & ~cond.null[:, None]
        )
        return Loss(
            fused_cross_entropy(words[said], self.say, cond.tokens.ids[:, 1:][said])
            / said.sum().clamp(min=1),
            wrong,
        )

    def _look(
        self, cond: Cond, image: Tensor, swapped: Tensor | None, aside: list[Tensor] | None = None
    ) -> tuple[Tensor, Tensor]:
        """Features (b, l - 1, d) from which all words but the first are said, and (b, hw, d) from which cells are shown."""
        c, b = self.config, len(image)
        words, mask = self.captions(cond, b)  # b l d, b l
        length = words.shape[1]
        x = torch.cat((words, self._open(image)), 1)  # b l+1+hw d
        places = torch.cat((word_places(length, x.device), cell_places(c, x.device)))  # l+1+hw 3

        # Padding is brought to the end of the stream, where no token looks, and so a causal attention needs no mask.
        late = torch.zeros_like(mask[:, :1]) if swapped is None else swapped[:, None]
        part = F.pad(
            torch.where(mask, 2 * late, 3), (0, 1 + c.rows * c.columns), value=1
        )  # a caption is 0 or 2, the picture 1, padding 3
        order = part.argsort(stable=True)  # b l+1+hw
        x = torch.take_along_dim(x + positions(places[:, 1:], c.width).to(x), order[..., None], 1)
        rotation, back = (
            rope_tables(angles(places, c)[order].unsqueeze(1)),
            order.argsort(1)[..., None],
        )  # the first b 1 l+1+hw d/n/2
        for depth, block in enumerate(self.blocks, start=1):
            x = block(x, rotation, causal)
            if aside is not None and self.aside is not None and depth == math.ceil(c.depth / 3):
                aside.append(self.aside(torch.take_along_dim(x, back, 1)[:, length:-1]))
        x = norm(torch.take_along_dim(x, back, 1))
        return x[:, : length - 1], x[:, length:-1]

    @torch.no_grad()
    def start_image(self, cond: Cond, b: int) -> Cache:
        """A cache of b rows that have read their captions; ``step`` then draws, and its first token is number ``codes``."""
        c = self.config
        words, mask = self.captions(cond, b)
        places = torch.cat((word_places(words.shape[1], mask.device), cell_places(c, mask.device)))
        cache = self._cache(False, F.pad(mask, (0, 1 + c.rows * c.columns), value=True), places)
        self._read(cache, words)
        return cache

    @torch.no_grad()
    def start_text(self, image: Tensor) -> Cache:
        """A cache that has seen image ids (b, rows, columns); ``step`` then speaks, and its first token is the text's begin token."""
        c, cells = self.config, self._open(image)
        places = torch.cat((cell_places(c, image.device), word_places(c.length, image.device)))
        cache = self._cache(
            True, torch.ones(len(image), len(places), dtype=torch.bool, device=image.device), places
        )
        self._read(cache, cells)
        return cache

    @torch.no_grad()
    def step(self, cache: Cache, ids: Tensor) -> Tensor:
        """Logits (b, codes or vocabulary) of the token after ``ids`` (b, m), the next m of the stream, which the cache then holds."""
        embed, head = (self.captions.words, self.say) if cache.text else (self.codes, self.show)
        return head(norm(self._read(cache, embed(ids))[:, -1]))

    def _open(self, image: Tensor) -> Tensor:
        """Embeddings (b, 1 + hw, d) of a begin token and the picture's cells."""
        return self.codes(F.pad(_flat(image, self.config), (1, 0), value=self.config.codes))

    def _cache(self, text: bool, mask: Tensor, places: Tensor) -> Cache:
        return Cache(
            text,
            mask,
            positions(places[:, 1:], self.config.width).to(self.codes.weight),
            rope_tables(angles(places, self.config)),
        )

    def _read(self, cache: Cache, x: Tensor) -> Tensor:
        """Features (b, m, d) of the next m tokens, from their embeddings (b, m, d)."""
        start, end = cache.length, cache.length + x.shape[1]
        if end > cache.mask.shape[1]:
            raise ValueError(
                f"the stream ends after {cache.mask.shape[1]} tokens: give {cache.mask.shape[1] - start} more at most"
            )
        count = torch.arange(end, device=x.device)
        look = cache.mask[:, None, None, :end] & (count <= count[start:, None])
        bias = torch.where(look, 0.0, -math.inf).to(x.dtype)  # b 1 m end
        cos, sin = (each[start:end] for each in cache.rotation)
        x = x + cache.positions[start:end]
        for depth, block in enumerate(self.blocks):
            x = block(x, (cos, sin), partial(cache.attend, depth, bias))
        cache.length = end
        return x


class MaskGIT(nn.Module):
    """``network(cond, image) -> logits`` (b, rows, columns, codes) of image ids (b, rows, columns), where number ``codes`` hides a cell."""

    def __init__(self, config: Config | None = None) -> None:
        super().__init__()
        self.config = c = config or Config()
        self.captions = TextEmbedding(c.vocabulary, c.width)
        self.codes = nn.Embedding(c.codes + 1, c.width)
        self.blocks = nn.ModuleList([Block(c.width, c.heads) for _ in range(c.depth)])
        self.show = nn.Linear(c.width, c.codes, bias=False)
        self.aside = nn.Linear(c.width, c.aside) if c.aside else None
        _init(self)

    def forward(self, cond: Cond, image: Tensor) -> Tensor:
        return self.show(self._look(cond, image)).unflatten(
            1, (self.config.rows, self.config.columns)
        )

    def loss(
        self, cond: Cond, image: Tensor, hidden: Tensor, aside: list[Tensor] | None = None
    ) -> Tensor:
        """The mean cross-entropy, in nats, of the cells of ``image`` (b, rows, columns) that are ``hidden`` (b, rows, columns). What is
        said of all cells, (b, hw, config.aside), is added to the list ``aside`` if one is given."""
        cells = self._look(cond, image.masked_fill(hidden, self.config.codes), aside)
        return (
            fused_cross_entropy(cells[hidden.flatten(1)], self.show, image[hidden]) / hidden.sum()
        )

    def _look(self, cond: Cond, image: Tensor, aside: list[Tensor] | None = None) -> Tensor:
        """Features (b, hw, d) from which cells are shown."""
        c = self.config
        words, mask = self.captions(cond, len(image))  # b l d, b l
        length = words.shape[1]
        x = torch.cat((words, self.codes(_flat(image, c))), 1)  # b l+hw d
        places = torch.cat((word_places(length, x.device), cell_places(c, x.device)[1:]))  # l+hw 3
        x, rotation = x + positions(places[:, 1:], c.width).to(x), rope_tables(angles(places, c))
        bias = F.pad(torch.where(mask, 0.0, -1e4), (0, c.rows * c.columns))[
            :, None, None, :
        ]  # b 1 1 l+hw: padding is not looked at
        for depth, block in enumerate(self.blocks, start=1):
            x = block(x, rotation, partial(full, bias=bias))
            if aside is not None and self.aside is not None and depth == math.ceil(c.depth / 3):
                aside.append(self.aside(x[:, length:]))
        return norm(x[:, length:])


def fused_cross_entropy(x: Tensor, head: nn.Linear, wanted: Tensor) -> Tensor:
    """The sum of cross-entropies, in nats, of ids ``wanted`` (n,) by the logits that a ``head`` without bias makes of features x (n, d).

    Logits, chances and gradients of a few rows at a time are made and forgotten: all at once they are far more numbers than all else in
    a step, and moving them takes longer than working them out (as in Liger's fused linear cross-entropy, Hsu et al. 2024).
    """
    return _Unlikely.apply(x, head.weight, wanted)


class _Unlikely(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, wanted: Tensor) -> Tensor:
        device, learns = x.device.type, any(ctx.needs_input_grad)
        size = ROWS if device == "cpu" else MANY
        dtype = (
            torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else weight.dtype
        )
        of_x, of_weight = torch.empty_like(x), torch.zeros_like(weight)
        total = x.new_zeros((), dtype=torch.promote_types(weight.dtype, torch.float32))
        rows, weight = x.to(dtype), weight.to(dtype)
        with torch.autocast(device, enabled=False):
            for part, ids, gradient in zip(
                rows.split(size), wanted[:, None].split(size), of_x.split(size), strict=True
            ):
                chance = (part @ weight.T).to(total.dtype)  # r v, logits as yet
                chance -= chance.amax(1, keepdim=True)
                right = chance.gather(1, ids)
                mass = chance.exp_().sum(1, keepdim=True)
                total += (mass.log() - right).sum()
                if learns:
                    wrong = (
                        (chance / mass)
                        .scatter_add_(1, ids, chance.new_full(ids.shape, -1.0))
                        .to(dtype)
                    )
                    gradient.copy_(wrong @ weight)
                    of_weight += wrong.T @ part
        ctx.save_for_backward(of_x, of_weight)
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, None]:
        of_x, of_weight = ctx.saved_tensors
        return of_x * gradient, of_weight * gradient, None


def random_mask(b: int, config: Config, rng: Generator) -> Tensor:
    """Cells to hide in training, (b, rows, columns) bool: ceil(cos(pi/2 r) hw) of each picture, r uniform in [0, 1), so that a little
    more often many than few are hidden (Chang et al. 2022, section 3.3, the cosine schedule)."""
    cells = config.rows * config.columns
    count = (torch.cos(math.pi / 2 * torch.rand(b, 1, generator=rng)) * cells).ceil()
    rank = torch.rand(b, cells, generator=rng).argsort(1).argsort(1)
    return (rank < count).unflatten(1, (config.rows, config.columns))


def causal(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Each looks at itself and at what comes before it."""
    return F.scaled_dot_product_attention(q, k, v, is_causal=True)


def full(q: Tensor, k: Tensor, v: Tensor, bias: Tensor) -> Tensor:
    """All look at all, with a ``bias`` (b, 1, 1, l) added to the scores."""
    if q.device.type != "cpu":
        return F.scaled_dot_product_attention(
            q, k, v, bias.to(q.dtype).expand(-1, -1, q.shape[-2], -1)
        )
    # Written out: masked, torch's fused CPU kernel takes twenty times as long going backward.
    scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-1, -2) + bias.to(q.dtype)  # b n l l
    return scores.softmax(-1).to(v.dtype) @ v


def word_places(count: int, device: torch.device) -> Tensor:
    """Word, row and column (count, 3) of words: their index, and no row or column."""
    return F.pad(torch.arange(count, device=device)[:, None], (0, 2))


def cell_places(c: Config, device: torch.device) -> Tensor:
    """Word, row and column (1 + hw, 3) of a picture's begin token, all 0, and of its cells, with rows and columns counted from 1."""
    cells = torch.cartesian_prod(
        torch.arange(1, c.rows + 1, device=device), torch.arange(1, c.columns + 1, device=device)
    )
    return F.pad(cells, (1, 0, 1, 0))


def angles(places: Tensor, c: Config) -> Tensor:
    """Rotary angles (l, d/n/2) of places (l, 3): a quarter of them turn with the word's index, the rest with row and column."""
    pairs = c.width // c.heads // 2
    cell = pairs * 3 // 8
    axes = zip(places.unbind(1), (pairs - 2 * cell, cell, cell), (1000, 100, 100), strict=True)
    return torch.cat(
        [axis[:, None] * frequencies(count, base, places.device) for axis, count, base in axes], 1
    )


def _flat(image: Tensor, c: Config) -> Tensor:
    """Image ids (b, rows, columns) as (b, hw)."""
    if image.shape[1:] != (c.rows, c.columns):
        raise ValueError(f"image ids are {tuple(image.shape)}: give (b, {c.rows}, {c.columns})")
    return image.flatten(1)


def _init(network: DALLE | MaskGIT) -> None:
    """Each block adds little at first, the less the deeper the network; its heads say nothing yet, so that all tokens are as likely."""
    for block in network.blocks:
        assert isinstance(block, Block)
        for inside in (block.attention.qkv, block.attention.out, block.feed.up, block.feed.down):
            nn.init.xavier_uniform_(inside.weight)
        with torch.no_grad():
            for last in (block.attention.out, block.feed.down):
                last.weight /= math.sqrt(2 * network.config.depth)
    for embedding in (network.captions.words.weight, network.captions.null, network.codes.weight):
        nn.init.normal_(embedding, std=0.5)
    for head in (network.show, *([network.say] if isinstance(network, DALLE) else [])):
        nn.init.zeros_(head.weight)
