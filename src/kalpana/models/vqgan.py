"""VQGAN: an image tokenizer with an encoder, a quantiser and a decoder (Esser et al. 2021).

The encoder maps a picture to a coarse grid of latents, the quantiser replaces each latent by the
nearest code, and the decoder maps codes to pixels. One config covers the networks of
taming-transformers and our own small one, which starts at a quarter of the picture's side, as
``models/vae.py`` does.

There are two quantisers. In the codebook, each code is a running mean of the latents assigned to it
(van den Oord et al. 2017), and the distance is Euclidean or, with unit codes, the cosine distance
(ViT-VQGAN, Yu et al. 2021); unused codes are replaced by latents of the batch. FSQ learns no codes
and rounds each number of a latent (Mentzer et al. 2023). At the end of the file are the patch
discriminator for training and its losses, as plain functions. Simplified: the codebook has no
gradient, and the networks have no dropout.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Generator, Tensor

from kalpana.types import KalpanaError


@dataclass(frozen=True)
class Config:
    """Config of a VQGAN. The defaults are our own small network: 128 px to 16 x 16 tokens."""

    stem: int = 4  # downsampling by pixel-unshuffle, before the first level
    widths: tuple[int, ...] = (64, 128)  # of the levels; each halves the side of the one before
    depth: int = 2  # residual blocks a level; the decoder has one more
    # Levels, counted from 0, where attention follows every block; the middle always has it.
    attend: tuple[int, ...] = ()
    groups: int = 8  # of the group norms
    eps: float = 1e-6  # of the group norms
    latent: int = 64  # channels outside the two 1x1 convolutions around the quantiser
    codebook: tuple[int, int] = (4096, 16)  # number of codes, and numbers in each
    unit: bool = True  # codes and latents are normalised to length 1 before they are compared
    # Levels of finite scalar quantisation, one per number; where given, it replaces the codebook.
    fsq: tuple[int, ...] = ()
    encoder: bool = True  # False: a decoder only

    @property
    def factor(self) -> int:
        """Downsampling factor: the picture's side over the grid's."""
        return self.stem * 2 ** (len(self.widths) - 1)


TAMING = Config(
    stem=1, widths=(128, 128, 256, 256, 512), depth=2, attend=(4,), groups=32, latent=256,
    codebook=(1024, 256), unit=False,
)  # fmt: skip
PRESETS = {
    "small": Config(),
    "f16-1024": TAMING,
    "f16-16384": replace(TAMING, codebook=(16384, 256)),
}
ROWS = 4096  # vectors compared with the codebook at once; with 16,384 codes that is 256 MB
# Share of FSQ's range by which a number may exceed its outermost levels; without it the offset
# (atanh) for two levels would be infinite.
MARGIN = 1e-3


class Attention(nn.Module):
    """Full self-attention over all cells, with one head: x + out(attention(norm(x)))."""

    def __init__(self, c: Config, width: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(c.groups, width, c.eps)
        self.qkv = nn.Conv2d(width, 3 * width, 1)
        self.out = nn.Conv2d(width, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(self.norm(x)).flatten(2).transpose(1, 2).chunk(3, -1)  # each b hw d
        attended = F.scaled_dot_product_attention(q, k, v).transpose(1, 2)  # b d hw
        return x + self.out(attended.unflatten(-1, x.shape[-2:]))


class Block(nn.Module):
    """Residual block: skip(x) + conv(silu(norm(conv(silu(norm(x)))))), then optional attention."""

    compile_dynamic = False  # the training loop compiles this block, for each shape anew

    def __init__(self, c: Config, inputs: int, width: int, attends: bool) -> None:
        super().__init__()
        self.norm_one, self.norm_two = (
            nn.GroupNorm(c.groups, channels, c.eps) for channels in (inputs, width)
        )
        self.one = nn.Conv2d(inputs, width, 3, padding=1)
        self.two = nn.Conv2d(width, width, 3, padding=1)
        self.skip = nn.Conv2d(inputs, width, 1) if inputs != width else nn.Identity()
        self.attention = Attention(c, width) if attends else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        h = self.one(F.silu(self.norm_one(x)))
        return self.attention(self.skip(x) + self.two(F.silu(self.norm_two(h))))


def level(c: Config, inputs: int, width: int, depth: int, attends: bool) -> nn.Sequential:
    """``depth`` blocks at one resolution, from ``inputs`` channels to ``width``."""
    return nn.Sequential(*[Block(c, width if k else inputs, width, attends) for k in range(depth)])


def middle(c: Config) -> nn.Sequential:
    """Two blocks at the coarsest resolution, the first with attention."""
    width = c.widths[-1]
    return nn.Sequential(Block(c, width, width, True), Block(c, width, width, False))


class Encoder(nn.Module):
    """Encoder: pixels (b, 3, h, w) to latents (b, d, h/f, w/f).

    d is ``numbers``, the dimension of the quantiser; f is the config's factor.
    """

    def __init__(self, c: Config, numbers: int) -> None:
        super().__init__()
        self.config = c
        self.stem = nn.Conv2d(3 * c.stem**2, c.widths[0], 3, padding=1)
        steps = list(zip((c.widths[0], *c.widths), c.widths, strict=False))
        self.levels = nn.ModuleList(
            [level(c, a, b, c.depth, i in c.attend) for i, (a, b) in enumerate(steps)]
        )
        self.downs = nn.ModuleList(
            [nn.Conv2d(width, width, 3, stride=2) for width in c.widths[:-1]]
        )
        self.middle = middle(c)
        self.norm = nn.GroupNorm(c.groups, c.widths[-1], c.eps)
        self.head = nn.Conv2d(c.widths[-1], c.latent, 3, padding=1)
        self.narrow = nn.Conv2d(c.latent, numbers, 1)

    def forward(self, pixels: Tensor) -> Tensor:
        x = self.stem(F.pixel_unshuffle(pixels, self.config.stem))
        for i, blocks in enumerate(self.levels):
            if i:
                x = self.downs[i - 1](F.pad(x, (0, 1, 0, 1)))  # half the side
            x = blocks(x)
        return self.narrow(self.head(F.silu(self.norm(self.middle(x)))))


class Decoder(nn.Module):
    """Decoder: codes (b, d, h/f, w/f) to pixels (b, 3, h, w). Levels are ordered coarsest first."""

    def __init__(self, c: Config, numbers: int) -> None:
        super().__init__()
        self.config = c
        self.widen = nn.Conv2d(numbers, c.latent, 1)
        self.stem = nn.Conv2d(c.latent, c.widths[-1], 3, padding=1)
        self.middle = middle(c)
        widths, last = c.widths[::-1], len(c.widths) - 1
        steps = list(zip((widths[0], *widths), widths, strict=False))
        self.levels = nn.ModuleList(
            [level(c, a, b, c.depth + 1, last - i in c.attend) for i, (a, b) in enumerate(steps)]
        )
        self.ups = nn.ModuleList([nn.Conv2d(width, width, 3, padding=1) for width in widths[:-1]])
        self.norm = nn.GroupNorm(c.groups, widths[-1], c.eps)
        self.head = nn.Conv2d(widths[-1], 3 * c.stem**2, 3, padding=1)

    def forward(self, codes: Tensor) -> Tensor:
        x = self.middle(self.stem(self.widen(codes)))
        for i, blocks in enumerate(self.levels):
            if i:
                x = self.ups[i - 1](F.interpolate(x, scale_factor=2.0))  # twice the side
            x = blocks(x)
        return F.pixel_shuffle(self.head(F.silu(self.norm(x))), self.config.stem)


@dataclass(frozen=True)
class QuantizerOutput:
    """Output of a quantiser.

    ``codes`` (b, d, h, w) pass their gradient straight through to the latents. ``indices``
    (b, h, w) are int64. ``loss`` is the commitment loss, a scalar.
    """

    codes: Tensor
    indices: Tensor
    loss: Tensor


def straight_through(x: Tensor, y: Tensor) -> Tensor:
    """Straight-through estimator (Bengio et al. 2013): the value of y with the gradient of x."""
    return x + (y - x).detach()


class Codebook(nn.Module):
    """Vector quantiser: latents (b, d, h, w) to the nearest of ``size`` codes of d numbers.

    ``forward`` does not change the codes: ``start`` initialises them from a first batch, and
    ``learn`` updates them after each further batch. Distances are in fp32, under autocast too.
    """

    def __init__(self, size: int, numbers: int, unit: bool) -> None:
        super().__init__()
        self.size, self.unit = size, unit
        self.vectors: Tensor
        self.sizes: Tensor
        self.ages: Tensor
        self.register_buffer("vectors", torch.randn(size, numbers) * numbers**-0.5)
        # Running mean of the vectors a batch that are assigned to each code.
        self.register_buffer("sizes", torch.ones(size))
        # Batches since each code was last used.
        self.register_buffer("ages", torch.zeros(size, dtype=torch.int64))

    def forward(self, latents: Tensor) -> QuantizerOutput:
        """Nearest codes of latents (b, d, h, w), with the commitment loss.

        The loss is the mean squared distance between latents and codes; only the encoder gets a
        gradient from it. Its usual weight is 0.25.
        """
        z = self._to_vectors(latents)  # b h w d
        indices = self.nearest(z)
        codes = F.embedding(indices, self._normalised_codes())
        return QuantizerOutput(
            straight_through(z, codes).movedim(-1, 1), indices, (z - codes).square().mean()
        )

    def codes(self, indices: Tensor) -> Tensor:
        """Codes (b, d, h, w) of indices (b, h, w)."""
        return F.embedding(indices, self._normalised_codes()).movedim(-1, 1)

    @torch.no_grad()
    def nearest(self, z: Tensor) -> Tensor:
        """Indices (…) of the codes e nearest to vectors z (…, d).

        The largest z·e - |e|²/2 is the smallest |z - e|².
        """
        codes, rows = self._normalised_codes(), z.flatten(0, -2)
        with torch.autocast(z.device.type, enabled=False):
            half = codes.square().sum(1) / 2
            scores = (torch.addmm(half, part, codes.T, beta=-1) for part in rows.split(ROWS))
            # On a CPU topk takes a third of argmax's time.
            indices = [
                part.topk(1).indices if z.device.type == "cpu" else part.argmax(1)
                for part in scores
            ]
        return torch.cat(indices).view(z.shape[:-1])

    @torch.no_grad()
    def start(self, latents: Tensor, rng: Generator, rounds: int = 10) -> None:
        """Initialise the codes from latents (b, d, h, w) by k-means.

        The first centres are random vectors of the batch, sampled with ``rng``. Empty codes are
        sampled again in every round. Raises KalpanaError for fewer vectors than codes.
        """
        rows = self._to_vectors(latents).flatten(0, -2)
        if len(rows) < self.size:
            raise KalpanaError(
                f"{len(rows)} vectors are too few to start {self.size} codes from: "
                "give a batch that has more"
            )
        self.vectors.copy_(rows[_random_rows(rows, self.size, rng)])
        for _ in range(rounds):
            self.learn(latents, self.nearest(rows), rng, decay=0, patience=1)

    @torch.no_grad()
    def learn(
        self,
        latents: Tensor,
        indices: Tensor,
        rng: Generator,
        decay: float = 0.99,
        patience: int = 200,
    ) -> int:
        """Update the codes by one batch and return the number of codes that were replaced.

        Each code moves to the running mean of the latents (b, d, h, w) assigned to it by
        ``indices`` (b, h, w) (van den Oord et al. 2017, equations 6 to 8). Then each code that was
        unused in the last ``patience`` batches is replaced by a random vector of this batch,
        sampled with ``rng``.
        """
        rows, counts = self._to_vectors(latents).flatten(0, -2), count(indices, self.size)
        sums = torch.zeros_like(self.vectors).index_add_(0, indices.flatten(), rows)
        means = sums / counts.clamp(min=1)[:, None]
        self.sizes.lerp_(counts, 1 - decay)
        # Weight of this batch in the running mean; 0 for codes that it does not use.
        share = (1 - decay) * counts / self.sizes.clamp(min=1e-12)
        self.vectors.copy_(self._normalised_codes().lerp(means, share[:, None]))
        self.ages.add_(1).masked_fill_(counts > 0, 0)
        dead = (self.ages >= patience).nonzero().flatten()[: len(rows)]
        self.vectors[dead] = rows[_random_rows(rows, len(dead), rng)]
        self.sizes[dead], self.ages[dead] = 1.0, 0
        return len(dead)

    def _to_vectors(self, latents: Tensor) -> Tensor:
        """Latents (b, d, h, w) as vectors (b, h, w, d) in fp32, of length 1 where codes are."""
        z = latents.movedim(1, -1).float()
        return F.normalize(z, dim=-1) if self.unit else z

    def _normalised_codes(self) -> Tensor:
        """Codes (size, d), normalised: a running mean and rounding to bf16 change their length."""
        return F.normalize(self.vectors, dim=-1) if self.unit else self.vectors


class FSQ(nn.Module):
    """Finite scalar quantiser: latents (b, d, h, w) to points of a grid (Mentzer et al. 2023).

    The i-th number is rounded to one of ``levels[i]`` values in [-1, 1]. One of these is 0; for an
    even number of levels, one more lies below 0 than above. The index enumerates the points.
    """

    def __init__(self, levels: tuple[int, ...]) -> None:
        super().__init__()
        if min(levels) < 2:
            raise KalpanaError(f"fsq is {levels}: every number needs 2 levels or more")
        self.size = math.prod(levels)
        self.levels: Tensor
        self.places: Tensor
        self.register_buffer("levels", torch.tensor(levels), persistent=False)
        self.register_buffer(
            "places",
            torch.tensor([math.prod(levels[:i]) for i in range(len(levels))]),
            persistent=False,
        )

    def forward(self, latents: Tensor) -> QuantizerOutput:
        """Nearest grid points of latents (b, d, h, w). The loss is 0: FSQ needs no commitment."""
        z, middle = latents.movedim(1, -1).float(), self.levels // 2
        half = (self.levels - 1) * (1 + MARGIN) / 2
        offset = 0.5 * (self.levels % 2 == 0).float()
        bounded = (z + (offset / half).atanh()).tanh() * half - offset  # b h w d, 0 where z is 0
        rounded = bounded.round()
        indices = ((rounded.long() + middle) * self.places).sum(-1)
        return QuantizerOutput(
            (straight_through(bounded, rounded) / middle).movedim(-1, 1), indices, z.new_zeros(())
        )

    def codes(self, indices: Tensor) -> Tensor:
        """Codes (b, d, h, w) of indices (b, h, w)."""
        middle = self.levels // 2
        return ((indices[..., None] // self.places % self.levels - middle) / middle).movedim(-1, 1)


@dataclass(frozen=True)
class VQGANOutput:
    """Output of ``VQGAN.forward``, for training.

    ``pixels`` are the reconstruction. ``latents`` (b, d, h, w) before quantisation and their
    ``indices`` (b, h, w) are the arguments of ``Codebook.learn``. ``loss`` is the quantiser's.
    """

    pixels: Tensor
    latents: Tensor
    indices: Tensor
    loss: Tensor


class VQGAN(nn.Module):
    """Image tokenizer: pixels (b, 3, h, w) in [-1, 1] to tokens (b, h/f, w/f), and back.

    Tokens are integers from 0 to ``quantiser.size`` - 1; f is the config's factor.
    Raises KalpanaError for a config whose groups or attention levels do not fit its widths.
    """

    def __init__(self, config: Config | None = None) -> None:
        super().__init__()
        self.config = c = config or Config()
        if any(width % c.groups for width in c.widths):
            raise KalpanaError(f"groups is {c.groups}: it should divide every width, {c.widths}")
        if not set(c.attend) <= set(range(len(c.widths))):
            raise KalpanaError(f"attend is {c.attend}: the levels are 0 to {len(c.widths) - 1}")
        numbers = len(c.fsq) or c.codebook[1]
        self.encoder = Encoder(c, numbers) if c.encoder else None
        self.quantiser = FSQ(c.fsq) if c.fsq else Codebook(*c.codebook, c.unit)
        self.decoder = Decoder(c, numbers)

    def forward(self, pixels: Tensor) -> VQGANOutput:
        latents = self.encode_latents(pixels)
        quantised = self.quantiser(latents)
        return VQGANOutput(
            self.decode_latents(quantised.codes), latents, quantised.indices, quantised.loss
        )

    @property
    def factor(self) -> int:
        """Number of pixels, along each side, that one token stands for."""
        return self.config.factor

    def shape(self, height: int, width: int, frames: int = 1) -> tuple[int, ...]:
        """Shape (h/f, w/f) of the tokens of a picture."""
        return height // self.factor, width // self.factor

    def encode(self, pixels: Tensor) -> Tensor:
        """Tokens (b, h/f, w/f) int64 of pixels (b, 3, h, w). Raises as ``encode_latents`` does."""
        return self.quantiser(self.encode_latents(pixels)).indices

    def decode(self, indices: Tensor) -> Tensor:
        """Pixels (b, 3, h, w) of tokens (b, h/f, w/f).

        Values may be slightly outside [-1, 1]: clamp before saving. Raises KalpanaError for tokens
        that are not integers (b, rows, columns) from 0 to ``quantiser.size`` - 1.
        """
        if indices.ndim != 3 or not indices.numel() or indices.is_floating_point():
            raise KalpanaError(
                f"tokens are {indices.dtype} {tuple(indices.shape)}: "
                "give integers (b, rows, columns)"
            )
        low, high = (int(bound) for bound in indices.aminmax())
        if low < 0 or high >= self.quantiser.size:
            raise KalpanaError(
                f"tokens run from {low} to {high}: this codebook has 0 to {self.quantiser.size - 1}"
            )
        return self.decode_latents(self.quantiser.codes(indices))

    def preview(self, indices: Tensor) -> Tensor:
        """Pixels (b, 3, h, w) in [-1, 1] of tokens (b, h/f, w/f)."""
        return self.decode(indices).clamp(-1, 1)

    def encode_latents(self, pixels: Tensor) -> Tensor:
        """Latents (b, d, h/f, w/f) of pixels (b, 3, h, w), before quantisation.

        Raises KalpanaError for a network without an encoder, and for pixels that do not have three
        channels or whose height or width is not a multiple of f.
        """
        if self.encoder is None:
            raise KalpanaError(
                "these weights have no encoder: they turn tokens into pictures, not back"
            )
        f = self.config.factor
        if pixels.ndim != 4 or pixels.shape[1] != 3:
            raise KalpanaError(
                f"pixels are {tuple(pixels.shape)}: give (b, 3, h, w), colours alone"
            )
        for name, side in zip(("height", "width"), pixels.shape[2:], strict=True):
            if side % f or not side:
                below = f"{side // f * f} or " if side > f else ""
                raise KalpanaError(
                    f"{name} {side} is not a multiple of {f}: try {below}{side // f * f + f}"
                )
        return self.encoder(pixels)

    def decode_latents(self, codes: Tensor) -> Tensor:
        """Pixels (b, 3, h, w) of codes (b, d, h/f, w/f), at most slightly outside [-1, 1]."""
        # The codes are channels-last, for which torch's group norm has half the accuracy.
        return self.decoder(codes.contiguous())

    @property
    def last(self) -> Tensor:
        """Weights of the decoder's last layer, where ``adaptive_gan_weight`` compares gradients."""
        return self.decoder.head.weight


def count(indices: Tensor, size: int) -> Tensor:
    """Occurrences of each of ``size`` codes among the indices: (size,) float32."""
    return torch.bincount(indices.flatten(), minlength=size).float()


def used(counts: Tensor) -> Tensor:
    """Codebook usage: the share of codes, in [0, 1], with a count above 0."""
    return (counts > 0).float().mean()


def perplexity(counts: Tensor) -> Tensor:
    """Perplexity of the codes' shares p, exp(-sum p log p): the effective number of codes."""
    return torch.special.entr(counts / counts.sum()).sum().exp()


def _random_rows(rows: Tensor, n: int, rng: Generator) -> Tensor:
    """Indices of n rows, sampled without replacement."""
    return torch.randperm(len(rows), generator=rng)[:n].to(rows.device)
