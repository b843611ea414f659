"""Two towers, one for pictures and one for words, whose features point the same way where the two belong together.

CLIP (Radford et al. 2021) learns them by a softmax over the batch, SigLIP (Zhai et al. 2023) by a sigmoid over every pair. One config
covers both, in the forms that OpenAI, open_clip and Google published, and our own small model, which looks at a picture by a few
convolutions before it is cut into patches (Xiao et al. 2021). Simplified: no ResNets, pictures of one size, no dropout.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Literal

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor

from kalpana.types import KalpanaError, Tokens


@dataclass(frozen=True)
class Config:
    """The defaults are our own small model. Its words look at each other both ways and are averaged: in four layers one token has
    little time to gather what the others say, and so every word reaches the feature in one step. Its patches are averaged too (Beyer et
    al. 2022)."""

    side: int = 64  # of the pictures
    patch: int = 8
    stem: tuple[int, ...] = (
        48,
        96,
    )  # widths of what comes before the patches and halves the side, each by a convolution; none in the public ones
    width: int = 192
    depth: int = 6
    heads: int = 3
    hidden: int = 768
    image_pool: Literal["mean", "class", "attention"] = (
        "mean"  # of all patches; a token of its own (CLIP); a learned query (SigLIP)
    )
    vocabulary: int = 8192
    length: int = 64  # tokens read at most
    text_width: int = 192
    text_depth: int = 4
    text_heads: int = 3
    text_hidden: int = 768
    text_pool: Literal["mean", "end", "last"] = (
        "mean"  # of all words; causal, the end token (CLIP); the last place, be it padding (SigLIP)
    )
    end: int | None = (
        None  # id of the end token; None where it is the highest in the row, as OpenAI had it
    )
    features: int = (
        192  # of the space that both towers share; the width itself where image_pool is "attention"
    )
    activation: Literal["gelu", "quick_gelu", "gelu_tanh"] = "gelu"
    eps: float = 1e-6  # of the layer norms
    loss: Literal["softmax", "sigmoid"] = "softmax"  # the sigmoid brings a bias
    mean: tuple[float, ...] = (
        0.5,
        0.5,
        0.5,
    )  # of red, green and blue in [0, 1]: what the image tower takes for 0
    deviation: tuple[float, ...] = (0.5, 0.5, 0.5)  # and for 1 more


BASE = Config(
    side=224, patch=32, stem=(), width=768, depth=12, heads=12, hidden=3072, image_pool="class",
    vocabulary=49408, length=77, text_width=512, text_depth=12, text_heads=8, text_hidden=2048, text_pool="end", end=49407,
    features=512, activation="quick_gelu", eps=1e-5,
    mean=(0.48145466, 0.4578275, 0.40821073), deviation=(0.26862954, 0.26130258, 0.27577711),
)  # fmt: skip
PRESETS = {
    "small": Config(),
    "vit-b/32": BASE,
    "vit-b/16": replace(BASE, patch=16),
    "vit-l/14": replace(
        BASE, patch=14, width=1024, depth=24, heads=16, hidden=4096, text_width=768, text_heads=12, text_hidden=3072, features=768
    ),
    "siglip-b/16-224": replace(
        BASE, patch=16, image_pool="attention", vocabulary=32000, length=64, text_width=768, text_heads=12, text_hidden=3072,
        text_pool="last", features=768, activation="gelu_tanh", eps=1e-6, loss="sigmoid", mean=(0.5,) * 3, deviation=(0.5,) * 3,
    ),
}  # fmt: skip
LIMIT = 100.0  # what a softmax's scale may reach (Radford et al. 2021, section 2.5)
GROUPS = 8  # of a stem's norms
PARTS, ROWS = 4, 16  # texts go through in so many parts at most, of so many rows at least


def silu(x: Tensor) -> Tensor:
    return F.silu(x, inplace=not x.requires_grad)


def gelu_tanh(x: Tensor) -> Tensor:
    return F.gelu(x, approximate="tanh")


# As f and s, the activation being f(s x) / s. Quick GELU, x sigmoid(1.702 x), is the SiLU of 1.702 x, over 1.702.
ACTIVATIONS: dict[str, tuple[Callable[[Tensor], Tensor], float]] = {
    "gelu": (F.gelu, 1),
    "quick_gelu": (silu, 1.702),
    "gelu_tanh": (gelu_tanh, 1),
}


class Attention(nn.Module):
    """Full attention, with a ``bias`` (b or 1, 1, l or 1, l) added to the scores where one is given. Only the token at ``place`` (b,) of
    each row looks at the others where one is given, and (b, 1, d) comes out."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)

    def forward(self, x: Tensor, bias: Tensor | None = None, place: Tensor | None = None) -> Tensor:
        if place is None:
            q, k, v = (
                self.qkv(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
            )  # each b n l d/n
        else:
            width, weight, shift = x.shape[-1], self.qkv.weight, self.qkv.bias
            q = (
                F.linear(at(x, place), weight[:width], shift[:width])
                .unflatten(-1, (self.heads, -1))
                .transpose(1, 2)
            )  # b n 1 d/n
            k, v = (
                F.linear(x, weight[width:], shift[width:])
                .unflatten(-1, (2, self.heads, -1))
                .permute(2, 0, 3, 1, 4)
            )  # each b n l d/n
        bias = None if bias is None else bias.to(q.dtype)
        if (
            x.requires_grad and x.device.type == "cpu"
        ):  # going back, torch's fused kernel takes five times as long in bf16, masked twenty
            scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-1, -2)  # b n l l
            x = (scores if bias is None else scores + bias).softmax(-1).to(v.dtype) @ v
        else:
            x = F.scaled_dot_product_attention(q, k, v, bias)
        return self.out(x.transpose(1, 2).flatten(2))  # b l d


class MLP(nn.Module):
    """A feed-forward layer with the norm before it and the sum after it, which take its activation's scale into their vectors: so what is
    widest is passed through once."""

    def __init__(self, width: int, hidden: int, activation: str) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(width, hidden), nn.Linear(hidden, width)
        self.activation, self.scale = ACTIVATIONS[activation]

    def forward(self, x: Tensor, norm: nn.LayerNorm) -> Tensor:
        s = self.scale
        y = F.layer_norm(x, norm.normalized_shape, s * norm.weight, s * norm.bias, norm.eps)
        y = self.activation(F.linear(y, self.up.weight, s * self.up.bias))  # b l hidden
        return torch.add(x, F.linear(y, self.down.weight, s * self.down.bias), alpha=1 / s)  # b l d


class Block(nn.Module):
    def __init__(self, width: int, heads: int, hidden: int, activation: str, eps: float) -> None:
        super().__init__()
        self.norm_one, self.norm_two = nn.LayerNorm(width, eps), nn.LayerNorm(width, eps)
        self.attention = Attention(width, heads)
        self.feed = MLP(width, hidden, activation)

    def forward(self, x: Tensor, bias: Tensor | None = None, place: Tensor | None = None) -> Tensor:
        """(b, l, d) to the same, or to what comes out at ``place`` (b,) of each row alone, (b, 1, d)."""
        y = self.attention(self.norm_one(x), bias, place)
        return self.feed((x if place is None else at(x, place)) + y, self.norm_two)


def at(x: Tensor, place: Tensor) -> Tensor:
    """What is at ``place`` (b,) of each row of x (b, l, d): (b, 1, d)."""
    return x[torch.arange(len(x), device=x.device), place][:, None]


class AttentionPool(nn.Module):
    """Patches (b, l, d) to one feature (b, d): a learned query attends to all, then a feed-forward (Lee et al. 2019, section 3.2)."""

    def __init__(self, width: int, heads: int, hidden: int, activation: str, eps: float) -> None:
        super().__init__()
        self.heads = heads
        self.probe = nn.Parameter(torch.zeros(1, 1, width))
        self.query, self.keys, self.out = (
            nn.Linear(width, width),
            nn.Linear(width, 2 * width),
            nn.Linear(width, width),
        )
        self.norm = nn.LayerNorm(width, eps)
        self.feed = MLP(width, hidden, activation)

    def forward(self, x: Tensor) -> Tensor:
        q = (
            self.query(self.probe)
            .expand(len(x), -1, -1)
            .unflatten(-1, (self.heads, -1))
            .transpose(1, 2)
        )  # b n 1 d/n
        k, v = (
            self.keys(x).unflatten(-1, (2, self.heads, -1)).permute(2, 0, 3, 1, 4)
        )  # each b n l d/n
        x = self.out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(1))  # b d
        return self.feed(x, self.norm)


class PatchEmbed(nn.Conv2d):
    """Pixels (b, 3, h, w) to a feature (b, l, d) for each patch, row by row: a convolution whose stride is its size, as one matrix product.
    On a CPU in bf16 the way back of the convolution itself takes nine times as long as in fp32."""

    def forward(self, pixels: Tensor) -> Tensor:
        x = pixels
        for axis in (2, 3):
            x = x.unfold(axis, self.stride[0], self.stride[0])  # in the end b 3 h/p w/p p p
        return F.linear(
            x.permute(0, 2, 3, 1, 4, 5).flatten(3).flatten(1, 2), self.weight.flatten(1), self.bias
        )


class Downsample(nn.Module):
    """A convolution that halves the side, and one around each of its cells that is added: (b, a, h, w) to (b, width, h/2, w/2)."""

    def __init__(self, inputs: int, width: int, eps: float) -> None:
        super().__init__()
        self.down = nn.Conv2d(inputs, width, 3, stride=2, padding=1)
        self.norm = nn.GroupNorm(GROUPS, width, eps)
        self.around = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.down(x.contiguous(memory_format=torch.channels_last))
        return x + self.around(F.silu(self.norm(x)))


class ImageTower(nn.Module):
    """Pixels (b, 3, side, side) in [-1, 1] to features (b, features)."""

    def __init__(self, c: Config) -> None:
        super().__init__()
        self.config = c
        marked, widths, patch = c.image_pool == "class", (3, *c.stem), c.patch // 2 ** len(c.stem)
        self.stem = nn.Sequential(*[Downsample(a, b, c.eps) for a, b in pairwise(widths)])
        self.patches = PatchEmbed(widths[-1], c.width, patch, patch, bias=not marked)
        self.mark = nn.Parameter(torch.zeros(c.width)) if marked else None
        self.positions = nn.Parameter(torch.zeros((c.side // c.patch) ** 2 + marked, c.width))
        self.before = nn.LayerNorm(c.width, c.eps) if marked else nn.Identity()
        self.blocks = nn.ModuleList(
            [Block(c.width, c.heads, c.hidden, c.activation, c.eps) for _ in range(c.depth)]
        )
        self.norm = nn.LayerNorm(c.width, c.eps)
        gathers = c.image_pool == "attention"
        self.gather = (
            AttentionPool(c.width, c.heads, c.hidden, c.activation, c.eps) if gathers else None
        )
        self.project = nn.Identity() if gathers else nn.Linear(c.width, c.features, bias=False)

    def forward(self, pixels: Tensor) -> Tensor:
        c = self.config
        if pixels.shape[1:] != (3, c.side, c.side):
            raise ValueError(f"pixels are {tuple(pixels.shape)}: give (b, 3, {c.side}, {c.side})")
        mean, deviation = (
            pixels.new_tensor(levels)[:, None, None] for levels in (c.mean, c.deviation)
        )
        x = pixels * (0.5 / deviation) + (0.5 - mean) / deviation
        x = self.patches(self.stem(x.to(self.positions.dtype)))  # b hw d
        if self.mark is not None:
            x = torch.cat((self.mark.expand(len(x), 1, -1), x), 1)  # b 1+hw d
        x = self.before(x + self.positions)
        *blocks, last = self.blocks
        for block in blocks:
            x = block(x)
        if self.mark is not None:  # nothing else is read, so the last block works out nothing else
            return self.project(
                self.norm(
                    last(x, place=torch.zeros(len(x), dtype=torch.int64, device=x.device))[:, 0]
                )
            )
        x = self.norm(last(x))
        return self.project(x.mean(1) if self.gather is None else self.gather(x))


class TextTower(nn.Module):
    """Tokens of at most ``length`` to features (b, features). Texts of about one length go through together, and what lies behind the
    last token that counts in any of them is left out."""

    def __init__(self, c: Config) -> None:
        super().__init__()
        self.config = c
        self.words = nn.Embedding(c.vocabulary, c.text_width)
        self.positions = nn.Parameter(torch.zeros(c.length, c.text_width))
        self.blocks = nn.ModuleList(
            [
                Block(c.text_width, c.text_heads, c.text_hidden, c.activation, c.eps)
                for _ in range(c.text_depth)
            ]
        )
        self.norm = nn.LayerNorm(c.text_width, c.eps)
        self.project = nn.Linear(c.text_width, c.features, bias=c.text_pool == "last")

    def forward(self, tokens: Tokens) -> Tensor:
        last = self._last(tokens)
        order, features = last.argsort(), list[Tensor]()
        for part in order.chunk(max(min(PARTS, len(order) // ROWS), 1)):
            length = max(last[part].tolist(), default=0) + 1
            features.append(
                self._features(
                    Tokens(tokens.ids[part, :length], tokens.mask[part, :length]), last[part]
                )
            )
        return torch.cat(features)[order.argsort()]

    def _last(self, tokens: Tokens) -> Tensor:
        """The place (b,) in each row behind which nothing counts."""
        c, ids = self.config, tokens.ids
        if c.text_pool == "mean":
            return tokens.mask.sum(1) - 1
        if c.text_pool == "end":
            return (ids if c.end is None else (ids == c.end).int()).argmax(
                1
            )  # the first of several
        return torch.full((len(ids),), ids.shape[1] - 1, device=ids.device)

    def _features(self, tokens: Tokens, last: Tensor) -> Tensor:
        pool, places = self.config.text_pool, torch.arange(tokens.ids.shape[1], device=last.device)
        x = self.words(tokens.ids) + self.positions[: len(places)]  # b l d
        bias = None
        if pool != "last":
            bias = unseen(
                ~tokens.mask[:, None] if pool == "mean" else (places > places[:, None])[None]
            )[:, None]  # b or 1, 1, 1 or l, l
        *blocks, final = self.blocks
        for block in blocks:
            x = block(x, bias)
        if pool == "mean":
            mask = tokens.mask[..., None].to(x.dtype)
            return self.project((self.norm(final(x, bias)) * mask).sum(1) / mask.sum(1))
        return self.project(
            self.norm(final(x, unseen(places > last[:, None])[:, None, None], last)[:, 0])
        )


def unseen(where: Tensor) -> Tensor:
    """What to add to scores where a token is not to be seen."""
    return torch.where(where, -1e4, 0.0)


class CLIP(nn.Module):
    """``image`` and ``text`` give features (b, features), of any length; ``logits`` say how well each picture and each text agree."""

    def __init__(self, config: Config | None = None) -> None:
        super().__init__()
        self.config = c = config or Config()
        if c.image_pool == "attention" and c.features != c.width:
            raise KalpanaError(
                f"features is {c.features}: write {c.width}, the width, where image_pool is 'attention'"
            )
        if c.patch % 2 ** len(c.stem) or any(width % GROUPS for width in c.stem):
            raise KalpanaError(
                f"stem is {c.stem}: give multiples of {GROUPS}, and no more than halve a patch of {c.patch} to whole pixels"
            )
        self.see, self.read = ImageTower(c), TextTower(c)
        sigmoid = c.loss == "sigmoid"
        self.logit_scale = nn.Parameter(
            torch.tensor(math.log(10 if sigmoid else 1 / 0.07))
        )  # as both papers start
        self.logit_bias = nn.Parameter(torch.tensor(-10.0)) if sigmoid else None
        self._init()

    def image(self, pixels: Tensor) -> Tensor:
        """Features (b, features) of pixels (b, 3, side, side) in [-1, 1]."""
        return self.see(pixels)

    def text(self, tokens: Tokens) -> Tensor:
        """Features (b, features) of tokens; where text_pool is "last", all rows must be ``length`` long."""
        return self.read(tokens)

    def logits(self, image: Tensor, text: Tensor) -> Tensor:
        """Logits (images, texts) of features (images, d) and (texts, d), for a softmax over texts or, with a bias, for a sigmoid."""
        logits = self.logit_scale.exp() * cosines(unit(image), unit(text))
        return logits if self.logit_bias is None else logits + self.logit_bias

    def loss(self, image: Tensor, text: Tensor, true: Tensor | None = None) -> Tensor:
        """The config's loss of features (images, d) and (texts, d); ``true`` as in the losses below."""
        if self.logit_bias is not None:
            return sigmoid(unit(image), unit(text), self.logit_scale.exp(), self.logit_bias, true)
        with (
            torch.no_grad()
        ):  # moved back rather than clamped on the way, which would leave it without a gradient
            self.logit_scale.clamp_(max=math.log(LIMIT))
        return contrastive(unit(image), unit(text), self.logit_scale.exp(), true)

    def _init(self) -> None:
        """After the code of CLIP: each block adds little at first, the less the deeper the tower."""
        c = self.config
        for tower, width, depth in (
            (self.see, c.width, c.depth),
            (self.read, c.text_width, c.text_depth),
        ):
            nn.init.normal_(tower.positions, std=0.01)
            if isinstance(tower.project, nn.Linear):
                nn.init.normal_(tower.project.weight, std=width**-0.5)
            for block in tower.blocks:
                assert isinstance(block, Block)
                nn.init.normal_(block.attention.qkv.weight, std=width**-0.5)
                nn.init.normal_(block.attention.out.weight, std=width**-0.5 * (2 * depth) ** -0.5)
                nn.init.normal_(block.feed.up.weight, std=(2 * width) ** -0.5)
                nn.init.normal_(block.feed.down.weight, std=width**-0.5 * (2 * depth) ** -0.5)
        nn.init.normal_(self.read.words.weight, std=0.02)
        if self.see.mark is not None:
            nn.init.normal_(self.see.mark, std=c.width**-0.5)
        if self.see.gather is not None:
            nn.init.normal_(self.see.gather.probe, std=c.width**-0.5)


def unit(features: Tensor) -> Tensor:
    """The features (…, d) brought to length 1."""
    return F.normalize(features, dim=-1)


def cosines(image: Tensor, text: Tensor) -> Tensor:
    """Products (images, texts) of unit features in fp32, under autocast too: bf16 would be off by 0.4 once they are scaled by 100."""
    with torch.autocast(image.device.type, enabled=False):
        return image.float() @ text.float().T


def contrastive(image: Tensor, text: Tensor, scale: Tensor, true: Tensor | None = None) -> Tensor:
    """InfoNCE of unit features (images, d) and (texts, d), a number: the cross-entropy of each picture's own text among all, and of each
    text's picture (Radford et al. 2021, figure 3). Of b pairs that say nothing it is log b.

    ``true`` (images, texts) says what belongs together; the i-th of both where it is None. Where a picture has several texts, or a
    text several pictures, the probability is to be shared evenly among them (UniCL, Yang et al. 2022); a text that has no picture is only
    ever among the wrong ones. A bias would move all logits alike, which a softmax does not see.
    """
    logits, true = scale * cosines(image, text), _true(image, true)
    own, theirs = true.sum(1, keepdim=True), true.sum(0)
    across = -(true / own * logits.log_softmax(1)).sum() / len(image)
    down = -(true / theirs.clamp(min=1) * logits.log_softmax(0)).sum() / (theirs > 0).sum()
    return (across + down) / 2


def sigmoid(
    image: Tensor, text: Tensor, scale: Tensor, bias: Tensor, true: Tensor | None = None
) -> Tensor:
    """The sigmoid loss of unit features (images, d) and (texts, d), a number: minus the sum over i, j of log sigmoid(z (scale cos + bias)),
    z being 1 where picture i and text j belong together and -1 elsewhere, over the number of pictures (Zhai et al. 2023, equation 1).
    ``true`` as in ``contrastive``."""
    sign = 2 * _true(image, true) - 1
    return -F.logsigmoid(sign * (scale * cosines(image, text) + bias)).sum() / len(image)


def _true(image: Tensor, true: Tensor | None) -> Tensor:
    return torch.eye(len(image), device=image.device) if true is None else true.float()
