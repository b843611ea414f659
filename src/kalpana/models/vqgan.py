"""Pictures as tokens: one net makes a coarse grid of a picture, each cell takes the nearest code, and a second net draws from these.

VQGAN (Esser et al. 2021); one config covers the nets of taming-transformers and our own small one, which starts at a quarter of the
picture's side as ``models/vae.py`` does. Codes are running means of what chose them (van den Oord et al. 2017), compared as they are or by
direction alone (ViT-VQGAN, Yu et al. 2021); one that nothing chooses is put where something is. Or there are none to learn, and each number
is rounded (FSQ, Mentzer et al. 2023). At the end stands what training plays against: a patch discriminator, with its losses as plain
functions. Simplified: the codebook has no gradient, and the nets no dropout.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from itertools import pairwise

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Generator, Tensor

from kalpana.types import KalpanaError


@dataclass(frozen=True)
class Config:
    """The defaults are our own small net: 128 px to 16 x 16 tokens."""

    stem: int = 4  # the picture's side over the first level's; pixel-unshuffle does it for nothing
    widths: tuple[int, ...] = (64, 128)  # of the levels, each half the side of the one before
    depth: int = 2  # residual blocks a level; the decoder has one more
    attend: tuple[
        int, ...
    ] = ()  # levels, counted from 0, where attention follows every block; the middle always has it
    groups: int = 8  # of the group norms
    eps: float = 1e-6  # of the group norms
    latent: int = 64  # channels on either side of the two 1x1 convolutions around the codes
    codebook: tuple[int, int] = (4096, 16)  # how many codes, of how many numbers
    unit: bool = True  # codes, and what is compared with them, have length 1
    fsq: tuple[
        int, ...
    ] = ()  # levels of finite scalar quantisation, one per number; given, it takes the codebook's place
    encoder: bool = True  # False where only the way back is there

    @property
    def factor(self) -> int:
        """The picture's side over the grid's."""
        return self.stem * 2 ** (len(self.widths) - 1)


TAMING = Config(
    stem=1, widths=(128, 128, 256, 256, 512), depth=2, attend=(4,), groups=32, latent=256, codebook=(1024, 256), unit=False,
)  # fmt: skip
PRESETS = {
    "small": Config(),
    "f16-1024": TAMING,
    "f16-16384": replace(TAMING, codebook=(16384, 256)),
}
ROWS = 4096  # vectors compared with the codebook at once; with 16,384 codes that is 256 MB
MARGIN = 1e-3  # of FSQ's range, by which a number may pass its outermost levels; without it the shift of two levels would be infinite


class Attention(nn.Module):
    """x + out(attention(norm(x))), every cell to every other, with one head."""

    def __init__(self, c: Config, width: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(c.groups, width, c.eps)
        self.qkv = nn.Conv2d(width, 3 * width, 1)
        self.out = nn.Conv2d(width, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(self.norm(x)).flatten(2).transpose(1, 2).chunk(3, -1)  # each b hw d
        seen = F.scaled_dot_product_attention(q, k, v).transpose(1, 2)  # b d hw
        return x + self.out(seen.unflatten(-1, x.shape[-2:]))


class Block(nn.Module):
    """skip(x) + conv(silu(norm(conv(silu(norm(x)))))), then attention where asked."""

    def __init__(self, c: Config, inputs: int, width: int, attends: bool) -> None:
        super().__init__()
        self.norm_one, self.norm_two = (
            nn.GroupNorm(c.groups, inputs, c.eps),
            nn.GroupNorm(c.groups, width, c.eps),
        )
        self.one = nn.Conv2d(inputs, width, 3, padding=1)
        self.two = nn.Conv2d(width, width, 3, padding=1)
        self.skip = nn.Conv2d(inputs, width, 1) if inputs != width else nn.Identity()
        self.attention = Attention(c, width) if attends else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        h = self.one(F.silu(self.norm_one(x)))
        return self.attention(self.skip(x) + self.two(F.silu(self.norm_two(h))))


def level(c: Config, inputs: int, width: int, depth: int, attends: bool) -> nn.Sequential:
    return nn.Sequential(*[Block(c, width if k else inputs, width, attends) for k in range(depth)])


def middle(c: Config) -> nn.Sequential:
    return nn.Sequential(
        Block(c, c.widths[-1], c.widths[-1], True), Block(c, c.widths[-1], c.widths[-1], False)
    )


class Encoder(nn.Module):
    """Pixels (b, 3, h, w) to latents (b, d, h/f, w/f) for a quantiser of d numbers, f being the config's factor."""

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
    """Codes (b, d, h/f, w/f) to pixels (b, 3, h, w). Its levels stand as they are passed, the coarsest first."""

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
    """``codes`` (b, d, h, w), whose gradient goes straight on to what they stand for; their ``indices`` (b, h, w) int64; and ``loss``, a
    number, which is the smaller the nearer the encoder keeps to them."""

    codes: Tensor
    indices: Tensor
    loss: Tensor


def straight_through(x: Tensor, y: Tensor) -> Tensor:
    """y, with x's gradient (the straight-through estimator, Bengio et al. 2013)."""
    return x + (y - x).detach()


class Codebook(nn.Module):
    """Latents (b, d, h, w) to the nearest of ``size`` codes of d numbers.

    Nothing is learned by asking: ``start`` makes the codes of a first batch, and ``learn`` moves them after every further one. Under
    autocast too, all is compared in fp32.
    """

    def __init__(self, size: int, numbers: int, unit: bool) -> None:
        super().__init__()
        self.size, self.unit = size, unit
        self.vectors: Tensor
        self.sizes: Tensor
        self.ages: Tensor
        self.register_buffer("vectors", torch.randn(size, numbers) * numbers**-0.5)
        self.register_buffer(
            "sizes", torch.ones(size)
        )  # running mean of how many vectors choose the code in a batch
        self.register_buffer(
            "ages", torch.zeros(size, dtype=torch.int64)
        )  # batches since it was last chosen

    def forward(self, latents: Tensor) -> QuantizerOutput:
        """The nearest codes; the loss is the mean square of what lies between, from which the encoder alone learns (the commitment loss,
        which usually weighs 0.25)."""
        z = self._measure(latents)  # b h w d
        indices = self.nearest(z)
        codes = F.embedding(indices, self._measured())
        return QuantizerOutput(
            straight_through(z, codes).movedim(-1, 1), indices, (z - codes).square().mean()
        )

    def codes(self, indices: Tensor) -> Tensor:
        """Codes (b, d, h, w) of indices (b, h, w)."""
        return F.embedding(indices, self._measured()).movedim(-1, 1)

    @torch.no_grad()
    def nearest(self, z: Tensor) -> Tensor:
        """Indices (…) of the codes nearest to vectors (…, d): the largest z·e - |e|²/2, which is the smallest |z - e|²."""
        codes, rows = self._measured(), z.flatten(0, -2)
        with torch.autocast(z.device.type, enabled=False):
            half = codes.square().sum(1) / 2
            likeness = (torch.addmm(half, part, codes.T, beta=-1) for part in rows.split(ROWS))
            # On a CPU topk takes a third of argmax's time.
            found = [
                part.topk(1).indices if z.device.type == "cpu" else part.argmax(1)
                for part in likeness
            ]
        return torch.cat(found).view(z.shape[:-1])

    @torch.no_grad()
    def start(self, latents: Tensor, rng: Generator, rounds: int = 10) -> None:
        """Make the codes of these latents (b, d, h, w): k-means from vectors that ``rng`` draws, empty codes drawn anew in every round."""
        rows = self._measure(latents).flatten(0, -2)
        if len(rows) < self.size:
            raise KalpanaError(
                f"{len(rows)} vectors are too few to start {self.size} codes from: give a batch that has more"
            )
        self.vectors.copy_(rows[_draw(rows, self.size, rng)])
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
        """Move each code towards the latents (b, d, h, w) that chose it, as the ``indices`` (b, h, w) say: it is their running mean. Then
        put a vector of this batch, which ``rng`` draws, in the place of each code that nothing chose in the last ``patience`` batches;
        gives back how many those were."""
        rows, counts = self._measure(latents).flatten(0, -2), count(indices, self.size)
        means = (
            torch.zeros_like(self.vectors).index_add_(0, indices.flatten(), rows)
            / counts.clamp(min=1)[:, None]
        )
        self.sizes.lerp_(counts, 1 - decay)
        share = (
            (1 - decay) * counts / self.sizes.clamp(min=1e-12)
        )  # of this batch in the mean; none where nothing chose the code
        self.vectors.copy_(self._measured().lerp(means, share[:, None]))
        self.ages.add_(1).masked_fill_(counts > 0, 0)
        dead = (self.ages >= patience).nonzero().flatten()[: len(rows)]
        self.vectors[dead] = rows[_draw(rows, len(dead), rng)]
        self.sizes[dead], self.ages[dead] = 1.0, 0
        return len(dead)

    def _measure(self, latents: Tensor) -> Tensor:
        """The latents (b, d, h, w) as vectors (b, h, w, d) in fp32, of length 1 where codes are."""
        z = latents.movedim(1, -1).float()
        return F.normalize(z, dim=-1) if self.unit else z

    def _measured(self) -> Tensor:
        """The codes (size, d), which neither their mean nor a file in bf16 leaves at length 1."""
        return F.normalize(self.vectors, dim=-1) if self.unit else self.vectors


class FSQ(nn.Module):
    """Latents (b, d, h, w) to points of a grid: the i-th number is rounded to one of ``levels[i]`` values in [-1, 1]. One of these is 0; of
    an even number of them, one more lies below it than above. The index counts the grid's points."""

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
        """The points rounded to; the loss is 0, for nothing has to be drawn anywhere."""
        z, middle = latents.movedim(1, -1).float(), self.levels // 2
        half = (self.levels - 1) * (1 + MARGIN) / 2
        offset = torch.where(self.levels % 2 == 0, 0.5, 0.0)
        bounded = (z + (offset / half).atanh()).tanh() * half - offset  # b h w d, 0 where z is 0
        whole = bounded.round()
        indices = ((whole.long() + middle) * self.places).sum(-1)
        return QuantizerOutput(
            (straight_through(bounded, whole) / middle).movedim(-1, 1), indices, z.new_zeros(())
        )

    def codes(self, indices: Tensor) -> Tensor:
        """Codes (b, d, h, w) of indices (b, h, w)."""
        middle = self.levels // 2
        return ((indices[..., None] // self.places % self.levels - middle) / middle).movedim(-1, 1)


@dataclass(frozen=True)
class VQGANOutput:
    """What training looks at: the ``pixels``, drawn again; the ``latents`` (b, d, h, w) before they were quantised and the ``indices``
    (b, h, w) they got, for ``Codebook.learn``; and the quantiser's ``loss``."""

    pixels: Tensor
    latents: Tensor
    indices: Tensor
    loss: Tensor


class VQGAN(nn.Module):
    """Pixels (b, 3, h, w) in [-1, 1] to tokens (b, h/f, w/f), integers from 0 to ``quantiser.size`` - 1, and back."""

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
        latents = self.look(pixels)
        found = self.quantiser(latents)
        return VQGANOutput(self.draw(found.codes), latents, found.indices, found.loss)

    def encode(self, pixels: Tensor) -> Tensor:
        """Tokens (b, h/f, w/f) int64."""
        return self.quantiser(self.look(pixels)).indices

    def decode(self, indices: Tensor) -> Tensor:
        """Pixels (b, 3, h, w) of tokens (b, h/f, w/f); a little outside [-1, 1] at times, so clamp before saving."""
        if indices.ndim != 3 or not indices.numel() or indices.is_floating_point():
            raise KalpanaError(
                f"tokens are {indices.dtype} {tuple(indices.shape)}: give integers (b, rows, columns)"
            )
        low, high = (int(bound) for bound in indices.aminmax())
        if low < 0 or high >= self.quantiser.size:
            raise KalpanaError(
                f"tokens run from {low} to {high}: this codebook has 0 to {self.quantiser.size - 1}"
            )
        return self.draw(self.quantiser.codes(indices))

    def look(self, pixels: Tensor) -> Tensor:
        """Latents (b, d, h/f, w/f), which have not yet been quantised."""
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

    def draw(self, codes: Tensor) -> Tensor:
        """Pixels (b, 3, h, w) of codes (b, d, h/f, w/f), in [-1, 1] but for a little."""
        return self.decoder(
            codes.contiguous()
        )  # channels last, as they come, torch's group norms are half as exact

    @property
    def last(self) -> Tensor:
        """The decoder's last weights, where ``balance`` compares gradients."""
        return self.decoder.head.weight


def count(indices: Tensor, size: int) -> Tensor:
    """How often each of ``size`` codes is among the indices: (size,), in floating point."""
    return torch.bincount(indices.flatten(), minlength=size).float()


def used(counts: Tensor) -> Tensor:
    """The share of codes, in [0, 1], that were chosen at all."""
    return (counts > 0).float().mean()


def perplexity(counts: Tensor) -> Tensor:
    """exp(-sum p log p) of the codes' shares p: how many codes, all equally often chosen, would tell as much."""
    return torch.special.entr(counts / counts.sum()).sum().exp()


def _draw(rows: Tensor, n: int, rng: Generator) -> Tensor:
    """The places of n different rows."""
    return torch.randperm(len(rows), generator=rng)[:n].to(rows.device)


class Discriminator(nn.Module):
    """Pixels (b, 3, h, w) to logits (b, 1, about h / 2^depth, about w / 2^depth): is what is here real? (PatchGAN, Isola et al. 2017, with
    group norms in place of batch norms, so that no picture is judged by the others in its batch.)"""

    def __init__(self, width: int = 64, depth: int = 3) -> None:
        super().__init__()
        widths = [width * min(2**i, 8) for i in range(depth + 1)]
        self.layers = nn.Sequential(nn.Conv2d(3, width, 4, stride=2, padding=1), nn.LeakyReLU(0.2))
        for i, (a, b) in enumerate(pairwise(widths), start=1):
            stride = 2 if i < depth else 1
            self.layers.extend(
                [
                    nn.Conv2d(a, b, 4, stride, padding=1, bias=False),
                    nn.GroupNorm(8, b),
                    nn.LeakyReLU(0.2),
                ]
            )
        self.layers.append(nn.Conv2d(widths[-1], 1, 4, padding=1))
        for layer in self.layers:
            if isinstance(layer, nn.Conv2d):
                nn.init.normal_(layer.weight, std=0.02)

    def forward(self, pixels: Tensor) -> Tensor:
        return self.layers(pixels)


def hinge(real: Tensor, fake: Tensor) -> Tensor:
    """The discriminator's loss of its logits for real and for drawn pictures: the mean of max(0, 1 - real) and max(0, 1 + fake)."""
    return (F.relu(1 - real).mean() + F.relu(1 + fake).mean()) / 2


def generator_loss(fake: Tensor) -> Tensor:
    """What the decoder is to lower: minus the mean logit for what it draws."""
    return -fake.mean()


@dataclass(frozen=True)
class LeCamEMA:
    """Running means of the discriminator's logits, two numbers, 0 at first."""

    real: Tensor
    fake: Tensor

    def follow(self, real: Tensor, fake: Tensor, decay: float = 0.99) -> LeCamEMA:
        """The anchors after one more batch of logits."""
        means = (logits.detach().float().mean() for logits in (real, fake))
        return LeCamEMA(
            *(
                old.lerp(new, 1 - decay)
                for old, new in zip((self.real, self.fake), means, strict=True)
            )
        )


def lecam(real: Tensor, fake: Tensor, anchors: LeCamEMA) -> Tensor:
    """What is added to ``hinge``, times a small weight, so that few pictures are not learned by heart: logits of real pictures are pulled
    down to the anchor of drawn ones, and those up to theirs (Tseng et al. 2021; the rectifiers are in their code)."""
    return F.relu(real - anchors.fake).square().mean() + F.relu(anchors.real - fake).square().mean()


def adaptive_gan_weight(loss: Tensor, against: Tensor, last: Tensor, limit: float = 1e4) -> Tensor:
    """The weight, a number, with which the loss ``against`` the discriminator moves the decoder's last layer as much as the other does: the
    ratio of their gradients' lengths there (Esser et al. 2021, equation 7; 1e-4 and the limit are in their code). Both graphs are kept."""
    one, two = (
        torch.autograd.grad(each, last, retain_graph=True)[0].norm() for each in (loss, against)
    )
    return (one / (two + 1e-4)).clamp(max=limit)
