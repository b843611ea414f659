"""CLIP and SigLIP: an image tower and a text tower with a shared feature space.

Features of matching pictures and texts have a high cosine similarity. CLIP (Radford et al. 2021)
trains them with a softmax over the batch, SigLIP (Zhai et al. 2023) with a sigmoid over every pair.
One config covers both, in the forms that OpenAI, open_clip and Google published, and our own small
model, whose image tower has a few convolutions before the patches (Xiao et al. 2021). Simplified:
no ResNets, pictures of one size, no dropout.
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
    """Config of a CLIP. The defaults are our own small model.

    Its text tower has bidirectional attention and mean pooling: with only four layers, a single
    token can gather little from the others, while the mean takes every word directly into the
    feature. The image tower has mean pooling too (Beyer et al. 2022).
    """

    side: int = 64  # of the pictures
    patch: int = 8
    # Widths of the convolutions before the patches, each of which halves the side; none in the
    # public models.
    stem: tuple[int, ...] = (48, 96)
    width: int = 192
    depth: int = 6
    heads: int = 3
    hidden: int = 768
    # Mean of all patches, a class token (CLIP), or attention with a learned query (SigLIP).
    image_pool: Literal["mean", "class", "attention"] = "mean"
    vocabulary: int = 8192
    length: int = 64  # maximum number of text tokens
    text_width: int = 192
    text_depth: int = 4
    text_heads: int = 3
    text_hidden: int = 768
    # Mean of all words, the end token with causal attention (CLIP), or the last position, even if
    # it is padding (SigLIP).
    text_pool: Literal["mean", "end", "last"] = "mean"
    # Id of the end token; None: the end is the highest id in the row, as in OpenAI's code.
    end: int | None = None
    # Width of the shared feature space; equal to ``width`` where image_pool is "attention".
    features: int = 192
    activation: Literal["gelu", "quick_gelu", "gelu_tanh"] = "gelu"
    eps: float = 1e-6  # of the layer norms
    loss: Literal["softmax", "sigmoid"] = "softmax"  # the sigmoid has a learned bias
    # Normalisation of the pixels: mean and standard deviation of red, green and blue in [0, 1].
    mean: tuple[float, ...] = (0.5, 0.5, 0.5)
    deviation: tuple[float, ...] = (0.5, 0.5, 0.5)


BASE = Config(
    side=224, patch=32, stem=(), width=768, depth=12, heads=12, hidden=3072, image_pool="class",
    vocabulary=49408, length=77, text_width=512, text_depth=12, text_heads=8, text_hidden=2048,
    text_pool="end", end=49407, features=512, activation="quick_gelu", eps=1e-5,
    mean=(0.48145466, 0.4578275, 0.40821073), deviation=(0.26862954, 0.26130258, 0.27577711),
)  # fmt: skip
PRESETS = {
    "small": Config(),
    "vit-b/32": BASE,
    "vit-b/16": replace(BASE, patch=16),
    "vit-l/14": replace(
        BASE, patch=14, width=1024, depth=24, heads=16, hidden=4096, text_width=768, text_heads=12,
        text_hidden=3072, features=768
    ),
    "siglip-b/16-224": replace(
        BASE, patch=16, image_pool="attention", vocabulary=32000, length=64, text_width=768,
        text_heads=12, text_hidden=3072, text_pool="last", features=768, activation="gelu_tanh",
        eps=1e-6, loss="sigmoid", mean=(0.5,) * 3, deviation=(0.5,) * 3,
    ),
}  # fmt: skip
LIMIT = 100.0  # maximum of the softmax's scale (Radford et al. 2021, section 2.5)
GROUPS = 8  # of a stem's group norms
PARTS, ROWS = 4, 16  # texts are encoded in at most PARTS parts, of at least ROWS rows


def silu(x: Tensor) -> Tensor:
    """SiLU of x, in place where x needs no gradient."""
    return F.silu(x, inplace=not x.requires_grad)


def gelu_tanh(x: Tensor) -> Tensor:
    return F.gelu(x, approximate="tanh")


# Functions f and scales s; the activation is f(s x) / s. Quick GELU, x sigmoid(1.702 x), is
# silu(1.702 x) / 1.702.
ACTIVATIONS: dict[str, tuple[Callable[[Tensor], Tensor], float]] = {
    "gelu": (F.gelu, 1),
    "quick_gelu": (silu, 1.702),
    "gelu_tanh": (gelu_tanh, 1),
}


class Attention(nn.Module):
    """Multi-head self-attention of x (b, l, d).

    ``bias`` (b or 1, 1, l or 1, l), if given, is added to the scores. With ``place`` (b,), the only
    query of each row is the token at that position, and the output is (b, 1, d).
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)

    def forward(self, x: Tensor, bias: Tensor | None = None, place: Tensor | None = None) -> Tensor:
        if place is None:
            qkv = self.qkv(x).unflatten(-1, (3, self.heads, -1))
            q, k, v = qkv.permute(2, 0, 3, 1, 4)  # each b n l d/n
        else:
            width, weight, shift = x.shape[-1], self.qkv.weight, self.qkv.bias
            q = F.linear(at(x, place), weight[:width], shift[:width])  # b 1 d
            q = q.unflatten(-1, (self.heads, -1)).transpose(1, 2)  # b n 1 d/n
            kv = F.linear(x, weight[width:], shift[width:]).unflatten(-1, (2, self.heads, -1))
            k, v = kv.permute(2, 0, 3, 1, 4)  # each b n l d/n
        bias = None if bias is None else bias.to(q.dtype)
        # Written out: the backward pass of torch's fused CPU kernel takes five times as long in
        # bf16, and twenty times as long with a mask.
        if x.requires_grad and x.device.type == "cpu":
            scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-1, -2)  # b n l l
            x = (scores if bias is None else scores + bias).softmax(-1).to(v.dtype) @ v
        else:
            x = F.scaled_dot_product_attention(q, k, v, bias)
        return self.out(x.transpose(1, 2).flatten(2))  # b l d


class MLP(nn.Module):
    """Feed-forward layer, with the norm before it and the residual sum after it.

    The scale of the activation is folded into the vectors of the norm, the bias and the sum, so
    that the widest tensor is passed over only once.
    """

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
    """Pre-norm transformer block."""

    compile_dynamic = True  # the training loop compiles this block, for any shape

    def __init__(self, width: int, heads: int, hidden: int, activation: str, eps: float) -> None:
        super().__init__()
        self.norm_one, self.norm_two = nn.LayerNorm(width, eps), nn.LayerNorm(width, eps)
        self.attention = Attention(width, heads)
        self.feed = MLP(width, hidden, activation)

    def forward(self, x: Tensor, bias: Tensor | None = None, place: Tensor | None = None) -> Tensor:
        """Output (b, l, d); with ``place`` (b,), only that at the given position of each row.

        The latter is (b, 1, d).
        """
        y = self.attention(self.norm_one(x), bias, place)
        return self.feed((x if place is None else at(x, place)) + y, self.norm_two)


def at(x: Tensor, place: Tensor) -> Tensor:
    """Features (b, 1, d) at position ``place`` (b,) of each row of x (b, l, d)."""
    return x[torch.arange(len(x), device=x.device), place][:, None]


class AttentionPool(nn.Module):
    """Attention pooling: patches (b, l, d) to one feature (b, d) (Lee et al. 2019, section 3.2).

    A learned query attends to all patches; a feed-forward layer follows.
    """

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
        q = self.query(self.probe).expand(len(x), -1, -1)  # b 1 d
        q = q.unflatten(-1, (self.heads, -1)).transpose(1, 2)  # b n 1 d/n
        kv = self.keys(x).unflatten(-1, (2, self.heads, -1))
        k, v = kv.permute(2, 0, 3, 1, 4)  # each b n l d/n
        x = self.out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(1))  # b d
        return self.feed(x, self.norm)


class PatchEmbed(nn.Conv2d):
    """Patch embedding: pixels (b, 3, h, w) to patches (b, l, d), row by row.

    A convolution whose stride is its kernel size, as one matrix product: on a CPU in bf16, the
    backward pass of the convolution takes nine times as long as in fp32.
    """

    def forward(self, pixels: Tensor) -> Tensor:
        x = pixels
        for axis in (2, 3):
            x = x.unfold(axis, self.stride[0], self.stride[0])  # in the end b 3 h/p w/p p p
        x = x.permute(0, 2, 3, 1, 4, 5).flatten(3).flatten(1, 2)  # b l 3·p·p
        return F.linear(x, self.weight.flatten(1), self.bias)


class Downsample(nn.Module):
    """Strided convolution, then a residual one: (b, inputs, h, w) to (b, width, h/2, w/2)."""

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
        with_class, widths = c.image_pool == "class", (3, *c.stem)
        patch = c.patch // 2 ** len(c.stem)
        self.stem = nn.Sequential(*[Downsample(a, b, c.eps) for a, b in pairwise(widths)])
        self.patches = PatchEmbed(widths[-1], c.width, patch, patch, bias=not with_class)
        self.mark = nn.Parameter(torch.zeros(c.width)) if with_class else None  # the class token
        self.positions = nn.Parameter(torch.zeros((c.side // c.patch) ** 2 + with_class, c.width))
        self.before = nn.LayerNorm(c.width, c.eps) if with_class else nn.Identity()
        self.blocks = nn.ModuleList(
            [Block(c.width, c.heads, c.hidden, c.activation, c.eps) for _ in range(c.depth)]
        )
        self.norm = nn.LayerNorm(c.width, c.eps)
        pools = c.image_pool == "attention"
        self.gather = (
            AttentionPool(c.width, c.heads, c.hidden, c.activation, c.eps) if pools else None
        )
        self.project = nn.Identity() if pools else nn.Linear(c.width, c.features, bias=False)

    def forward(self, pixels: Tensor) -> Tensor:
        """Features (b, features). Raises ValueError for pixels of another size."""
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
        if self.mark is not None:  # the last block computes the class token only
            first = torch.zeros(len(x), dtype=torch.int64, device=x.device)
            return self.project(self.norm(last(x, place=first)[:, 0]))
        x = self.norm(last(x))
        return self.project(x.mean(1) if self.gather is None else self.gather(x))


class TextTower(nn.Module):
    """Tokens (b, l), l at most ``length``, to features (b, features).

    Texts are encoded in parts of similar length, each cut after the last position that any of its
    texts needs.
    """

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
            cut = Tokens(tokens.ids[part, :length], tokens.mask[part, :length])
            features.append(self._features(cut, last[part]))
        return torch.cat(features)[order.argsort()]

    def _last(self, tokens: Tokens) -> Tensor:
        """Last position (b,) of each row that the feature depends on."""
        c, ids = self.config, tokens.ids
        if c.text_pool == "mean":
            return tokens.mask.sum(1) - 1
        if c.text_pool == "end":
            # argmax takes the first of several end tokens.
            return (ids if c.end is None else (ids == c.end).int()).argmax(1)
        return torch.full((len(ids),), ids.shape[1] - 1, device=ids.device)

    def states(self, tokens: Tokens) -> Tensor:
        """States (b, l, d) of the tokens, whose projected mean over the real ones is the feature;
        of towers with mean pooling."""
        assert self.config.text_pool == "mean"
        x = self.words(tokens.ids) + self.positions[: tokens.ids.shape[1]]  # b l d
        bias = unseen(~tokens.mask[:, None])[:, None]  # b 1 1 l
        for block in self.blocks:
            x = block(x, bias)
        return self.norm(x)

    def pooled(self, states: Tensor, mask: Tensor) -> Tensor:
        """Features (b, features) of states (b, l, d) and the mask (b, l) of the real tokens."""
        weight = mask[..., None].to(states.dtype)
        return self.project((states * weight).sum(1) / weight.sum(1))

    def _features(self, tokens: Tokens, last: Tensor) -> Tensor:
        """Features (b, features) of tokens (b, l), with ``last`` (b,) from ``_last``."""
        if self.config.text_pool == "mean":
            return self.pooled(self.states(tokens), tokens.mask)
        pool, places = self.config.text_pool, torch.arange(tokens.ids.shape[1], device=last.device)
        x = self.words(tokens.ids) + self.positions[: len(places)]  # b l d
        bias = None
        if pool != "last":
            bias = unseen(places > places[:, None])[None, None]  # 1 1 l l
        *blocks, final = self.blocks
        for block in blocks:
            x = block(x, bias)
        bias = unseen(places > last[:, None])[:, None, None]  # b 1 1 l
        return self.project(self.norm(final(x, bias, last)[:, 0]))


def unseen(where: Tensor) -> Tensor:
    """Attention bias: -1e4 where the mask ``where`` is True, 0 elsewhere."""
    return -1e4 * where.float()


class CLIP(nn.Module):
    """Image and text tower with a shared feature space.

    ``image`` and ``text`` give features (b, features), which are not normalised. ``logits`` are the
    scaled cosine similarities of all pairs. Raises KalpanaError for a config that contradicts
    itself.
    """

    def __init__(self, config: Config | None = None) -> None:
        super().__init__()
        self.config = c = config or Config()
        if c.image_pool == "attention" and c.features != c.width:
            raise KalpanaError(
                f"features is {c.features}: "
                f"write {c.width}, the width, where image_pool is 'attention'"
            )
        if c.patch % 2 ** len(c.stem) or any(width % GROUPS for width in c.stem):
            raise KalpanaError(
                f"stem is {c.stem}: give multiples of {GROUPS}, "
                f"and no more than halve a patch of {c.patch} to whole pixels"
            )
        self.see, self.read = ImageTower(c), TextTower(c)
        sigmoid = c.loss == "sigmoid"
        # Initial scale and bias as in both papers.
        self.logit_scale = nn.Parameter(torch.tensor(math.log(10 if sigmoid else 1 / 0.07)))
        self.logit_bias = nn.Parameter(torch.tensor(-10.0)) if sigmoid else None
        self._init()

    def image(self, pixels: Tensor) -> Tensor:
        """Features (b, features) of pixels (b, 3, side, side) in [-1, 1]."""
        return self.see(pixels)

    def text(self, tokens: Tokens) -> Tensor:
        """Features (b, features) of tokens (b, l).

        Where text_pool is "last", l must be ``length``.
        """
        return self.read(tokens)

    def logits(self, image: Tensor, text: Tensor) -> Tensor:
        """Logits (images, texts) of features (images, d) and (texts, d).

        They are for a softmax over texts or, in a model with a bias, for a sigmoid of each pair.
        """
        logits = self.logit_scale.exp() * cosines(unit(image), unit(text))
        return logits if self.logit_bias is None else logits + self.logit_bias

    def loss(self, image: Tensor, text: Tensor, true: Tensor | None = None) -> Tensor:
        """Loss of the config for features (images, d) and (texts, d), a scalar.

        ``true`` (images, texts) is as in ``contrastive`` and ``sigmoid``.
        """
        if self.logit_bias is not None:
            return sigmoid(unit(image), unit(text), self.logit_scale.exp(), self.logit_bias, true)
        # Clamp the parameter and not its use in the loss: there it would lose its gradient.
        with torch.no_grad():
            self.logit_scale.clamp_(max=math.log(LIMIT))
        return contrastive(unit(image), unit(text), self.logit_scale.exp(), true)

    def _init(self) -> None:
        """Initialise as in the code of CLIP: residual branches are scaled by (2 depth)^-1/2."""
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
    """Features (…, d) normalised to length 1."""
    return F.normalize(features, dim=-1)


def cosines(image: Tensor, text: Tensor) -> Tensor:
    """Cosine similarities (images, texts) of unit features.

    In fp32 under autocast too: with bf16, logits scaled by 100 would be wrong by up to 0.4.
    """
    with torch.autocast(image.device.type, enabled=False):
        return image.float() @ text.float().T


def contrastive(image: Tensor, text: Tensor, scale: Tensor, true: Tensor | None = None) -> Tensor:
    """InfoNCE loss of unit features (images, d) and (texts, d), a scalar.

    The mean of two cross-entropies: of each picture's own text among all texts, and of each text's
    own picture among all pictures (Radford et al. 2021, figure 3). For b pairs with equal logits it
    is log b.

    ``true`` (images, texts) is True at matching pairs; None: the i-th picture and the i-th text
    match. Where a picture has several texts, or a text several pictures, the target probability is
    shared evenly among them (UniCL, Yang et al. 2022). A text without a picture is a negative only.
    There is no bias, since a softmax does not depend on it.
    """
    logits, true = scale * cosines(image, text), _true(image, true)
    texts, images = true.sum(1, keepdim=True), true.sum(0)  # matches of each picture, each text
    image_loss = -(true / texts * logits.log_softmax(1)).sum() / len(image)
    text_loss = -(true / images.clamp(min=1) * logits.log_softmax(0)).sum() / (images > 0).sum()
    return (image_loss + text_loss) / 2


def sigmoid(
    image: Tensor, text: Tensor, scale: Tensor, bias: Tensor, true: Tensor | None = None
) -> Tensor:
    """Sigmoid loss of unit features (images, d) and (texts, d), a scalar.

    Minus the sum over i, j of log sigmoid(z (scale cos + bias)), divided by the number of pictures;
    z is 1 where picture i and text j match and -1 elsewhere (Zhai et al. 2023, equation 1).
    ``true`` is as in ``contrastive``.
    """
    sign = 2 * _true(image, true) - 1
    return -F.logsigmoid(sign * (scale * cosines(image, text) + bias)).sum() / len(image)


def _true(image: Tensor, true: Tensor | None) -> Tensor:
    """Matches (images, texts) as floats; the identity where ``true`` is None."""
    return torch.eye(len(image), device=image.device) if true is None else true.float()
