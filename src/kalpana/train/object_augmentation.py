"""Cards: things alone, drawn as no style of the art draws them, so that what is learned of a thing is its shape more than its manner.

A sprite is patched with another hand's drawing of the same thing, warped, its colours are turned, faded or cut to a few, and its edges are
inked, at random, before it is laid on a background (domain randomisation, Tobin et al. 2017; the patches after CutMix, Yun et al. 2019).
No hand is shown more often because it drew a thing in several finishes. Nothing said of a card names a colour.
"""

from __future__ import annotations

import math
import random
from collections import defaultdict
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from kalpana.world import atlas, grammar_en, grammar_hi, places
from kalpana.world.lexicon import keywords, lexicon, sprites_of
from kalpana.world.scene import BACKDROPS, COLORS, PLACES, Background, Group

CORE = 0.6  # how often a card shows a core class
FINE = 1.5  # times finer than the picture, that all is drawn before it is made small
PATCHED, RECOLOURED, INKED = 0.4, 0.67, 0.5  # shares of the cards
LOOSE = 0.3  # how often a thing alone is said by keywords
HUES = {  # how words for colours begin
    "en": (*COLORS, *(name for names in grammar_en.COLORS.values() for name in names)),
    "hi": tuple(name.rstrip("ाी") for names in grammar_hi.COLORS.values() for name in names),
}
LUMA = torch.tensor((0.299, 0.587, 0.114))


class Cards:
    """``cards(count, step)``: pictures (count, 3, side, side) uint8, and the concept of each; of no style in ``without``."""

    def __init__(self, side: int, without: Sequence[str] = ()) -> None:
        self.side = side
        self.rows = {concept: _by_hand(concept, without) for concept in lexicon()}
        self.every = [concept for concept, hands in self.rows.items() if hands]
        self.core = [concept for concept in self.every if lexicon()[concept].core]

    def __call__(self, count: int, step: int) -> tuple[Tensor, list[str]]:
        rng, luck = random.Random(f"cards/{step}"), Generator().manual_seed(step)
        concepts = [
            rng.choice(self.core if rng.random() < CORE else self.every) for _ in range(count)
        ]
        one, other = (
            self._sprites([rng.choice(rng.choice(self.rows[concept])) for concept in concepts])
            for _ in range(2)
        )
        drawn = warped(patched(one, other, luck), round(FINE * self.side), luck)
        drawn = apply_to_share(RECOLOURED, recoloured, drawn, luck)
        drawn = apply_to_share(INKED, inked, drawn, luck)
        drawn = F.interpolate(drawn, (self.side, self.side), mode="area")
        below = places.paint([_background(rng) for _ in range(count)], self.side)
        pixels = drawn[:, :3] + below * (1 - drawn[:, 3:])
        return pixels.clamp(0, 1).mul(255).round().to(torch.uint8), concepts

    def _sprites(self, rows: list[int]) -> Tensor:
        """Sprites (n, 4, s, s), from here on premultiplied."""
        sprites = atlas.load().pixels[torch.tensor(rows)].float() / 255
        sprites[:, :3] *= sprites[:, 3:]
        return sprites


def _by_hand(concept: str, without: Sequence[str]) -> list[list[int]]:
    """The rows of the atlas that show a concept, by whose hand they are: the first word of the style."""
    hands: dict[str, list[int]] = defaultdict(list)
    for style, rows in sprites_of(concept).items():
        if style not in without:
            hands[style.split("-")[0]] += rows
    return list(hands.values())


def apply_to_share(
    share: float, paint: Callable[[Tensor, Generator], Tensor], sprites: Tensor, luck: Generator
) -> Tensor:
    """The sprites, about this share of them painted."""
    chosen = (torch.rand(len(sprites), generator=luck) < share).nonzero()[:, 0]
    return sprites.index_copy(0, chosen, paint(sprites[chosen], luck)) if len(chosen) else sprites


def patched(sprites: Tensor, others: Tensor, luck: Generator) -> Tensor:
    """Sprites (n, 4, s, s), of some of which a part is as in the others."""
    n, side = len(sprites), sprites.shape[-1]
    use = torch.rand(n, generator=luck)[:, None, None, None] < PATCHED
    field = F.interpolate(
        torch.randn(n, 1, 3, 3, generator=luck), (side, side), mode="bilinear", align_corners=True
    )
    return torch.where(use & (field > 0), others, sprites)


def warped(sprites: Tensor, side: int, luck: Generator) -> Tensor:
    """Sprites (n, 4, s, s) turned, scaled, sheared, moved, mirrored and bent a little, in squares of this side."""
    n = len(sprites)
    turn, shear, size, wide, mirror, x, y, much = torch.rand(8, n, generator=luck)
    angle, scale = (turn - 0.5) * math.radians(50), 1 / (0.35 + 0.5 * size)
    stretch = (0.7 * (wide - 0.5)).exp()
    a, b = angle.cos() * stretch, angle.sin()
    rows = torch.stack(
        (torch.stack((a, -b + 0.4 * (shear - 0.5)), 1), torch.stack((b, angle.cos() / stretch), 1)),
        1,
    )  # n 2 2
    rows = rows * scale[:, None, None]
    rows[:, :, 0] *= torch.where(mirror < 0.5, -1.0, 1.0)[:, None]
    free = (scale - 1).clamp(min=0)
    move = torch.stack(((2 * x - 1) * free, (2 * y - 1) * free), 1)[..., None]
    grid = F.affine_grid(torch.cat((rows, move), 2), [n, 4, side, side], align_corners=False)
    bend = F.interpolate(
        torch.randn(n, 2, 5, 5, generator=luck), (side, side), mode="bicubic"
    ).permute(0, 2, 3, 1)
    return F.grid_sample(
        sprites, grid + 0.12 * much[:, None, None, None] * bend, align_corners=False
    )


def recoloured(sprites: Tensor, luck: Generator) -> Tensor:
    """The sprites in other colours: the hue turned, more or less of it, lighter or darker, some in few flat tones."""
    n = len(sprites)
    turn, much, light, contrast, flat, tones = torch.rand(6, n, 1, 1, 1, generator=luck)
    rgb, alpha = sprites.split((3, 1), 1)
    luma = (rgb * LUMA.view(1, 3, 1, 1)).sum(1, keepdim=True)
    shuffled = torch.stack([each[torch.randperm(3, generator=luck)] for each in rgb - luma])
    hue = torch.where(turn < 0.4, rgb - luma, shuffled) * torch.where(much < 0.2, 0.0, 0.5 + much)
    other = (luma + hue - alpha / 2) * (0.7 + 0.8 * contrast) + alpha * (0.5 + 0.4 * (light - 0.5))
    levels = (2 + 4 * tones).round()
    other = torch.where(
        flat < 0.3,
        (F.avg_pool2d(other, 5, 1, 2, count_include_pad=False) * levels).round() / levels,
        other,
    )
    return torch.cat((torch.minimum(other.clamp(min=0), alpha), alpha), 1)


def inked(sprites: Tensor, luck: Generator) -> Tensor:
    """The sprites with lines along their edges, thin or thick, in something dark."""
    n = len(sprites)
    least, thick = torch.rand(2, n, 1, 1, 1, generator=luck)
    ink = 0.3 * torch.rand(n, 3, 1, 1, generator=luck)
    soft = F.avg_pool2d(sprites, 3, 1, 1, count_include_pad=False)
    across, down = (
        F.pad(soft[..., 2:] - soft[..., :-2], (1, 1)).abs(),
        F.pad(soft[..., 2:, :] - soft[..., :-2, :], (0, 0, 1, 1)).abs(),
    )
    edge = torch.maximum(across, down).amax(1, keepdim=True)
    line = ((edge - 0.1 - 0.3 * least) * 6).clamp(0, 1)
    line = torch.where(
        thick < 0.4,
        line,
        torch.where(thick < 0.8, F.max_pool2d(line, 3, 1, 1), F.max_pool2d(line, 5, 1, 2)),
    )
    rgb, alpha = sprites.split((3, 1), 1)
    return torch.cat((rgb * (1 - line) + ink * line, torch.maximum(alpha, line)), 1)


def caption_for(concept: str, language: str, rng: random.Random) -> str:
    """A caption of one such thing, in no colour, or some of its keywords."""
    if rng.random() < LOOSE:
        return loosely(concept, language, rng)
    group, named = Group(concept), lexicon()[concept]
    if language == "en":
        return rng.choice(grammar_en.ONE).format(a=grammar_en.phrase(group, named, rng))
    return rng.choice(grammar_hi.ONE).format(
        a=grammar_hi.phrase(group, named, rng), picture=rng.choice(grammar_hi.PICTURES)
    )


def loosely(concept: str, language: str, rng: random.Random) -> str:
    """One to four of the thing's keywords, none of which names a colour, and of its names."""
    named = lexicon()[concept]
    names = (
        (named.en, *named.synonyms_en)
        if language == "en"
        else (named.hi.singular, *named.synonyms_hi)
    )
    words = [
        each
        for each in keywords()[concept][language]
        if not any(word.startswith(HUES[language]) for word in each.lower().split())
    ]
    return ", ".join(
        rng.sample((*words, rng.choice(names)), min(rng.randint(1, 4), len(words) + 1))
    )


def _background(rng: random.Random) -> Background:
    if rng.random() < 0.4:
        return Background("place", rng.choice(PLACES), rng.randrange(1 << 30))
    return Background(
        rng.choice(("flat", "gradient")), rng.choice(BACKDROPS), rng.randrange(1 << 30)
    )
