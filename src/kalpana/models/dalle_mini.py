"""DALL-E mini: an encoder-decoder from caption tokens to VQGAN tokens (Dayma et al. 2021).

The encoder reads the caption, and the decoder predicts the image tokens one by one with
cross-attention to it. The architecture is BART (Lewis et al. 2020), with the layer norms of
NormFormer (Shleifer et al. 2021) around attention and inside a gated feed-forward (GEGLU, Shazeer
2020), learned positions, and no biases except in the norms. It loads the published weights.
Simplified: no dropout, and every norm has a gain, while in the original the norms before a linear
layer have none.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import cast

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor

from kalpana.models.layers import fused_cross_entropy
from kalpana.types import Cond, Tokens


@dataclass(frozen=True)
class Config:
    """Config of a DALL-E mini. The defaults are our own small model."""

    vocabulary: int = 8192  # of the text
    length: int = 64  # maximum number of text tokens
    width: int = 256
    heads: int = 4
    hidden: int = 704  # of the feed-forward
    text_depth: int = 4  # blocks of the encoder
    depth: int = 8  # of the decoder
    codes: int = 1024  # codebook size; only these ids are sampled
    start: int = 1024  # id of the start token
    image_vocabulary: int = 1025  # embedding rows: the codes, the start token, perhaps padding
    image_length: int = 256  # tokens of a picture
    # Outputs of the auxiliary head for each image token, after a third of the decoder; 0: no head.
    aux_outputs: int = 0


PRESETS = {
    "small": Config(),
    "mini": Config(
        vocabulary=50264,
        width=1024,
        heads=16,
        hidden=2730,
        text_depth=12,
        depth=12,
        codes=16384,
        start=16384,
        image_vocabulary=16385,
    ),
    "mega": Config(
        vocabulary=50272,
        width=2048,
        heads=32,
        hidden=4096,
        text_depth=24,
        depth=24,
        codes=16384,
        start=16384,
        image_vocabulary=16416,
    ),
}


class Attention(nn.Module):
    """Multi-head attention, with a layer norm on its output (NormFormer)."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query, self.keys, self.out = (
            nn.Linear(width, k * width, bias=False) for k in (1, 2, 1)
        )
        self.after = nn.LayerNorm(width)

    def look(self, x: Tensor) -> Tensor:
        """Keys and values (2, b, n, l, d/n) of x (b, l, d)."""
        return self.keys(x).unflatten(-1, (2, self.heads, -1)).permute(2, 0, 3, 1, 4)

    def forward(
        self, x: Tensor, seen: Tensor, bias: Tensor | None = None, causal: bool = False
    ) -> Tensor:
        """Attention (b, l, d) of queries x (b, l, d) to keys and values ``seen`` (2, b, n, L, d/n).

        ``bias`` (b, 1, 1, L) is added to the scores.
        """
        q = self.query(x).unflatten(-1, (self.heads, -1)).transpose(1, 2)  # b n l d/n
        k, v = seen  # each b n L d/n
        bias = None if bias is None else bias.to(q.dtype)
        # With a mask, the backward pass of torch's fused CPU kernel takes twenty times as long.
        if bias is not None and x.requires_grad and x.device.type == "cpu":
            x = ((q * q.shape[-1] ** -0.5) @ k.transpose(-1, -2) + bias).softmax(-1).to(v.dtype) @ v
        else:
            x = F.scaled_dot_product_attention(q, k, v, bias, is_causal=causal)
        return self.after(self.out(x.transpose(1, 2).flatten(2)))  # b l d


class MLP(nn.Module):
    """Gated feed-forward (GEGLU, Shazeer 2020) with a layer norm before and inside it."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.up = nn.Linear(width, 2 * hidden, bias=False)
        self.between = nn.LayerNorm(hidden)
        self.down = nn.Linear(hidden, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        gate, value = self.up(self.norm(x)).chunk(2, -1)
        return self.down(self.between(F.gelu(gate) * value))


class EncoderBlock(nn.Module):
    compile_dynamic = True  # the training loop compiles this block, for any shape

    def __init__(self, c: Config) -> None:
        super().__init__()
        self.norm_own, self.own = nn.LayerNorm(c.width), Attention(c.width, c.heads)
        self.feed = MLP(c.width, c.hidden)

    def forward(self, x: Tensor, bias: Tensor) -> Tensor:
        y = self.norm_own(x)
        x = x + self.own(y, self.own.look(y), bias)
        return x + self.feed(x)


class DecoderBlock(nn.Module):
    compile_dynamic = True  # the training loop compiles this block, for any shape

    def __init__(self, c: Config) -> None:
        super().__init__()
        self.norm_own, self.own = nn.LayerNorm(c.width), Attention(c.width, c.heads)
        self.norm_text, self.text = nn.LayerNorm(c.width), Attention(c.width, c.heads)
        self.feed = MLP(c.width, c.hidden)

    def forward(
        self, x: Tensor, text: Tensor, bias: Tensor, past: Tensor | None, place: int
    ) -> Tensor:
        """Features (b, l, d) of whole rows x (b, l, d), or of one token with a cache.

        ``text`` holds the text's keys and values. Where the cache ``past`` (2, b, n, image_length,
        d/n) is given, x (b, 1, d) is the token at ``place``; its keys and values are written to the
        cache, and it attends to all tokens up to it.
        """
        y = self.norm_own(x)
        keys_values = self.own.look(y)
        if past is not None:
            past[..., place, :] = keys_values[..., 0, :]
            keys_values = past[..., : place + 1, :]
        x = x + self.own(y, keys_values, causal=past is None)
        x = x + self.text(self.norm_text(x), text, bias)
        return x + self.feed(x)


class Encoder(nn.Module):
    """Text encoder: tokens (b, l), l at most ``length``, to features (b, l, d)."""

    def __init__(self, c: Config) -> None:
        super().__init__()
        self.words = nn.Embedding(c.vocabulary, c.width)
        self.positions = nn.Parameter(torch.zeros(c.length, c.width))
        self.before = nn.LayerNorm(c.width)
        self.blocks = nn.ModuleList([EncoderBlock(c) for _ in range(c.text_depth)])
        self.norm = nn.LayerNorm(c.width)

    def forward(self, tokens: Tokens) -> Tensor:
        x = self.before(self.words(tokens.ids) + self.positions[: tokens.ids.shape[1]])  # b l d
        bias = padding_bias(tokens.mask)
        for block in self.blocks:
            x = block(x, bias)
        return self.norm(x)


class Decoder(nn.Module):
    """Image decoder: image tokens (b, l) to logits (b, l, image_vocabulary) of the next token."""

    def __init__(self, c: Config) -> None:
        super().__init__()
        self.codes = nn.Embedding(c.image_vocabulary, c.width)
        self.positions = nn.Parameter(torch.zeros(c.image_length, c.width))
        self.before = nn.LayerNorm(c.width)
        self.blocks = nn.ModuleList([DecoderBlock(c) for _ in range(c.depth)])
        self.norm = nn.LayerNorm(c.width)
        self.head = nn.Linear(c.width, c.image_vocabulary, bias=False)
        self.aux_head = nn.Linear(c.width, c.aux_outputs) if c.aux_outputs else None

    def look(self, text: Tensor) -> list[Tensor]:
        """Keys and values (2, b, n, l, d/n), for each block, of the text's features (b, l, d).

        They are the same for every image token.
        """
        return [cast(DecoderBlock, block).text.look(text) for block in self.blocks]

    def forward(
        self,
        image: Tensor,
        text: list[Tensor],
        bias: Tensor,
        past: list[Tensor] | None = None,
        place: int = 0,
    ) -> Tensor:
        """Logits (b, l, image_vocabulary) of whole rows, or of one token with a cache.

        ``past`` is the cache of each block; with it, ``image`` (b, 1) is the token at ``place``.
        """
        return self.head(self.features(image, text, bias, past, place)[0])  # b l image_vocabulary

    def features(
        self,
        image: Tensor,
        text: list[Tensor],
        bias: Tensor,
        past: list[Tensor] | None = None,
        place: int = 0,
    ) -> tuple[Tensor, Tensor | None]:
        """Features (b, l, d) before the head, and of whole rows the auxiliary outputs, if there is
        an auxiliary head; for the arguments see ``forward``."""
        x = self.before(self.codes(image) + self.positions[place : place + image.shape[1]])  # b l d
        aux, aux_depth = None, math.ceil(len(self.blocks) / 3)
        for i, block in enumerate(self.blocks):
            x = block(x, text[i], bias, None if past is None else past[i], place)
            if past is None and self.aux_head is not None and i + 1 == aux_depth:
                aux = self.aux_head(x)  # b l aux
        return self.norm(x), aux


class DalleMini(nn.Module):
    """Encoder-decoder: ``model(tokens, image)`` gives logits for training.

    ``generate`` samples pictures, one token at a time.
    """

    def __init__(self, config: Config | None = None) -> None:
        super().__init__()
        self.config = c = config or Config()
        self.encoder, self.decoder = Encoder(c), Decoder(c)
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Embedding):
                nn.init.normal_(module.weight, std=0.02)
        for positions in (self.encoder.positions, self.decoder.positions):
            nn.init.normal_(positions, std=0.02)

    def forward(self, tokens: Tokens, image: Tensor, null: Tensor | None = None) -> Tensor:
        """Logits (b, l, image_vocabulary) of the image tokens (b, l).

        Each is given the image tokens before it and the text. Rows where ``null`` (b,) bool is True
        get an empty text.
        """
        return self.decoder(*self._decoder_inputs(tokens, image, null))

    def loss(
        self,
        tokens: Tokens,
        image: Tensor,
        null: Tensor | None = None,
        hidden: Tensor | None = None,
    ) -> Tensor:
        """Mean cross-entropy in nats of the image tokens (b, l), a scalar.

        Each is predicted from the image tokens before it and the text. Tokens where ``hidden``
        (b, l) is True are predicted, but masked in the input (token dropout).
        """
        return self.loss_with_aux(tokens, image, null, hidden)[0]

    def loss_with_aux(
        self,
        tokens: Tokens,
        image: Tensor,
        null: Tensor | None = None,
        hidden: Tensor | None = None,
    ) -> tuple[Tensor, Tensor | None]:
        """Loss as in ``loss``, and the auxiliary outputs (b, l, config.aux_outputs), each from the
        tokens before its own; None without an auxiliary head."""
        shown = image if hidden is None else image.masked_fill(hidden, self.config.start)
        features, aux = self.decoder.features(*self._decoder_inputs(tokens, shown, null))
        total = fused_cross_entropy(features.flatten(0, 1), self.decoder.head, image.flatten())
        return total / image.numel(), aux

    def _decoder_inputs(
        self, tokens: Tokens, image: Tensor, null: Tensor | None
    ) -> tuple[Tensor, list[Tensor], Tensor]:
        """Arguments of the decoder for whole rows: input ids, text keys and values, bias."""
        tokens = tokens if null is None else silence(tokens, null)
        before = F.pad(image[:, :-1], (1, 0), value=self.config.start)
        return before, self.decoder.look(self.encoder(tokens)), padding_bias(tokens.mask)

    @torch.no_grad()
    def generate(
        self, tokens: Tokens, draw: Callable[[Tensor], Tensor], condition_factor: float = 1.0
    ) -> Iterator[Tensor]:
        """Iterator over image token ids (b,), one place after another, ``image_length`` times.

        Closing the iterator cancels. ``draw`` maps logits (b, codes) to ids (b,): it applies
        temperature, top-k and top-p and samples. Rows are the same in any batch only if it uses one
        random generator a row. A ``condition_factor`` other than 1 is classifier-free
        guidance from the empty text (super-conditioning); the network then runs on 2b rows.
        """
        c, b = self.config, len(tokens)
        guided = condition_factor != 1
        if guided:
            cond = Cond(tokens)
            both = Cond.cat(cond, cond.dropped())
            assert both.tokens is not None and both.null is not None
            tokens = silence(both.tokens, both.null)
        text = [kv.contiguous() for kv in self.decoder.look(self.encoder(tokens))]
        bias = padding_bias(tokens.mask)
        past = [kv.new_empty(*kv.shape[:3], c.image_length, kv.shape[-1]) for kv in text]
        ids = tokens.ids.new_full((b,), c.start)
        for place in range(c.image_length):
            last = ids.repeat(2) if guided else ids
            logits = self.decoder(last[:, None], text, bias, past, place)
            logits = logits[:, 0, : c.codes].float()  # b codes, or 2b codes
            if guided:
                prompted, null = logits.chunk(2)
                logits = null + condition_factor * (prompted - null)
            ids = draw(logits)
            yield ids


def silence(tokens: Tokens, null: Tensor) -> Tokens:
    """Tokens with an empty text, only start and end token, in rows where ``null`` (b,) is True."""
    place = torch.arange(tokens.ids.shape[1], device=tokens.ids.device)
    end = tokens.ids.gather(1, tokens.mask.sum(1, keepdim=True) - 1)  # b 1
    null = null[:, None]
    return Tokens(
        torch.where(null & (place == 1), end, tokens.ids), torch.where(null, place < 2, tokens.mask)
    )


def padding_bias(mask: Tensor) -> Tensor:
    """Attention bias (b, 1, 1, L), -1e4 at padding, where ``mask`` (b, L) is False."""
    return (-1e4 * (~mask).float())[:, None, None, :]
