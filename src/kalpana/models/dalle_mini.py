"""An encoder reads the words; a decoder, looking at them, says the picture's tokens one after another.

DALL-E mini (Dayma et al. 2021): BART (Lewis et al. 2020) from text to the codes of a VQGAN, with the layer norms of NormFormer (Shleifer
et al. 2021) around attention and inside a gated feed-forward (GEGLU, Shazeer 2020), learned positions and no biases but those of the
norms. As published; simplified: no dropout, and every norm has a gain, where those before a matrix were left without one.
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

from kalpana.models.dalle import fused_cross_entropy
from kalpana.types import Tokens


@dataclass(frozen=True)
class Config:
    """The defaults are our own small model."""

    vocabulary: int = 8192  # of the text
    length: int = 64  # text tokens read at most
    width: int = 256
    heads: int = 4
    hidden: int = 704  # of the feed-forward
    text_depth: int = 4  # blocks of the encoder
    depth: int = 8  # of the decoder
    codes: int = 1024  # in the codebook of the pictures: what is drawn is one of them
    start: int = 1024  # the token before the first
    image_vocabulary: int = (
        1025  # tokens the decoder has rows for: the codes, the start token, and perhaps padding
    )
    image_length: int = 256  # tokens of a picture
    aside: int = 0  # numbers that training asks of each image token, a third of the way up the decoder, beside the tokens


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
    """What a query finds in keys and values, brought to a scale of its own by a layer norm."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query, self.keys, self.out = (
            nn.Linear(width, k * width, bias=False) for k in (1, 2, 1)
        )
        self.after = nn.LayerNorm(width)

    def look(self, x: Tensor) -> Tensor:
        """The keys and values (2, b, n, l, d/n) of what is to be attended to, x (b, l, d)."""
        return self.keys(x).unflatten(-1, (2, self.heads, -1)).permute(2, 0, 3, 1, 4)

    def forward(
        self, x: Tensor, seen: Tensor, bias: Tensor | None = None, causal: bool = False
    ) -> Tensor:
        q, (k, v) = (
            self.query(x).unflatten(-1, (self.heads, -1)).transpose(1, 2),
            seen,
        )  # b n l d/n, and twice b n L d/n
        bias = None if bias is None else bias.to(q.dtype)
        if (
            bias is not None and x.requires_grad and x.device.type == "cpu"
        ):  # going back, torch's fused kernel takes twenty times as long
            x = ((q * q.shape[-1] ** -0.5) @ k.transpose(-1, -2) + bias).softmax(-1).to(v.dtype) @ v
        else:
            x = F.scaled_dot_product_attention(q, k, v, bias, is_causal=causal)
        return self.after(self.out(x.transpose(1, 2).flatten(2)))  # b l d


class MLP(nn.Module):
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
    def __init__(self, c: Config) -> None:
        super().__init__()
        self.norm_own, self.own = nn.LayerNorm(c.width), Attention(c.width, c.heads)
        self.feed = MLP(c.width, c.hidden)

    def forward(self, x: Tensor, bias: Tensor) -> Tensor:
        y = self.norm_own(x)
        x = x + self.own(y, self.own.look(y), bias)
        return x + self.feed(x)


class DecoderBlock(nn.Module):
    def __init__(self, c: Config) -> None:
        super().__init__()
        self.norm_own, self.own = nn.LayerNorm(c.width), Attention(c.width, c.heads)
        self.norm_text, self.text = nn.LayerNorm(c.width), Attention(c.width, c.heads)
        self.feed = MLP(c.width, c.hidden)

    def forward(
        self, x: Tensor, text: Tensor, bias: Tensor, past: Tensor | None, place: int
    ) -> Tensor:
        """Whole rows x (b, l, d); or, where there is a ``past`` (2, b, n, image_length, d/n), x (b, 1, d) at this ``place``, whose keys and
        values are put there and which looks at all up to it. ``text`` are the text's keys and values."""
        y = self.norm_own(x)
        seen = self.own.look(y)
        if past is not None:
            past[..., place, :] = seen[..., 0, :]
            seen = past[..., : place + 1, :]
        x = x + self.own(y, seen, causal=past is None)
        x = x + self.text(self.norm_text(x), text, bias)
        return x + self.feed(x)


class Encoder(nn.Module):
    """Tokens of at most ``length`` to features (b, l, d)."""

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
    """Image tokens (b, l) to logits (b, l, image_vocabulary) of the token after each."""

    def __init__(self, c: Config) -> None:
        super().__init__()
        self.codes = nn.Embedding(c.image_vocabulary, c.width)
        self.positions = nn.Parameter(torch.zeros(c.image_length, c.width))
        self.before = nn.LayerNorm(c.width)
        self.blocks = nn.ModuleList([DecoderBlock(c) for _ in range(c.depth)])
        self.norm = nn.LayerNorm(c.width)
        self.head = nn.Linear(c.width, c.image_vocabulary, bias=False)
        self.aside = nn.Linear(c.width, c.aside) if c.aside else None

    def look(self, text: Tensor) -> list[Tensor]:
        """Each block's keys and values (2, b, n, l, d/n) of the text's features (b, l, d), which are the same for every image token."""
        return [cast(DecoderBlock, block).text.look(text) for block in self.blocks]

    def forward(
        self,
        image: Tensor,
        text: list[Tensor],
        bias: Tensor,
        past: list[Tensor] | None = None,
        place: int = 0,
    ) -> Tensor:
        """Logits of whole rows, or, with each block's ``past``, of the one token (b, 1) at this ``place``."""
        return self.head(self.features(image, text, bias, past, place))  # b l image_vocabulary

    def features(
        self,
        image: Tensor,
        text: list[Tensor],
        bias: Tensor,
        past: list[Tensor] | None = None,
        place: int = 0,
        aside: list[Tensor] | None = None,
    ) -> Tensor:
        """What the logits are made of, (b, l, d). What is said of the tokens, (b, l, config.aside), of each before it is seen, is added to
        the list ``aside`` if one is given."""
        x = self.before(self.codes(image) + self.positions[place : place + image.shape[1]])  # b l d
        for i, block in enumerate(self.blocks):
            x = block(x, text[i], bias, None if past is None else past[i], place)
            if (
                aside is not None
                and self.aside is not None
                and i + 1 == math.ceil(len(self.blocks) / 3)
            ):
                aside.append(self.aside(x))
        return self.norm(x)


class DalleMini(nn.Module):
    """``model(tokens, image)`` gives the logits that are trained; ``generate`` draws pictures, a token at a time."""

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
        """Logits (b, l, image_vocabulary) of each of the image tokens (b, l), given those before it and the text; the rows of ``null`` (b,)
        bool are told nothing."""
        return self.decoder(*self._given(tokens, image, null))

    def loss(
        self,
        tokens: Tokens,
        image: Tensor,
        null: Tensor | None = None,
        aside: list[Tensor] | None = None,
        hidden: Tensor | None = None,
    ) -> Tensor:
        """The mean cross-entropy, in nats, of the image tokens (b, l), each given those before it that are not ``hidden`` (b, l), and the
        text. For ``aside`` see ``Decoder.features``."""
        seen = image if hidden is None else image.masked_fill(hidden, self.config.start)
        features = self.decoder.features(*self._given(tokens, seen, null), aside=aside)
        return (
            fused_cross_entropy(features.flatten(0, 1), self.decoder.head, image.flatten())
            / image.numel()
        )

    def _given(
        self, tokens: Tokens, image: Tensor, null: Tensor | None
    ) -> tuple[Tensor, list[Tensor], Tensor]:
        """What the decoder is given of whole rows."""
        tokens = tokens if null is None else silence(tokens, null)
        before = F.pad(image[:, :-1], (1, 0), value=self.config.start)
        return before, self.decoder.look(self.encoder(tokens)), padding_bias(tokens.mask)

    @torch.no_grad()
    def generate(
        self, tokens: Tokens, draw: Callable[[Tensor], Tensor], condition_factor: float = 1.0
    ) -> Iterator[Tensor]:
        """The image tokens of each place in turn (b,), ``image_length`` times; closing the iterator cancels.

        ``draw`` takes logits (b, codes) to ids (b,): it owns temperature, top-k, top-p and the random numbers, which a row should have for
        itself if it is to be the same in any batch. A ``condition_factor`` other than 1 guides away from no text (super-conditioning), for
        which the network runs on 2b rows.
        """
        c, b = self.config, len(tokens)
        guided = condition_factor != 1
        if guided:
            both = Tokens(tokens.ids.repeat(2, 1), tokens.mask.repeat(2, 1))
            tokens = silence(both, torch.arange(2 * b, device=both.ids.device) >= b)
        text, bias = (
            [seen.contiguous() for seen in self.decoder.look(self.encoder(tokens))],
            padding_bias(tokens.mask),
        )
        past = [seen.new_empty(*seen.shape[:3], c.image_length, seen.shape[-1]) for seen in text]
        ids = tokens.ids.new_full((b,), c.start)
        for place in range(c.image_length):
            last = ids.repeat(2) if guided else ids
            logits = self.decoder(last[:, None], text, bias, past, place)[
                :, 0, : c.codes
            ].float()  # b codes, or 2b codes
            if guided:
                told, untold = logits.chunk(2)
                logits = untold + condition_factor * (told - untold)
            ids = draw(logits)
            yield ids


def silence(tokens: Tokens, null: Tensor) -> Tokens:
    """The tokens, of which the rows of ``null`` (b,) bool keep the first and the last alone: the start and the end of an empty text."""
    place = torch.arange(tokens.ids.shape[1], device=tokens.ids.device)
    end = tokens.ids.gather(1, tokens.mask.sum(1, keepdim=True) - 1)  # b 1
    null = null[:, None]
    return Tokens(
        torch.where(null & (place == 1), end, tokens.ids), torch.where(null, place < 2, tokens.mask)
    )


def padding_bias(mask: Tensor) -> Tensor:
    """What to add to scores (b, n, l, L) so that padding, where ``mask`` (b, L) is False, is not looked at: (b, 1, 1, L)."""
    return torch.where(mask, 0.0, -1e4)[:, None, None, :]
