"""Single-object domain randomisation ("cards"), so that CLIP learns shape and not style.

A sprite is patched with another artist's sprite of the same concept, warped, recoloured and inked
along its edges, each at random, and put on a background (domain randomisation, Tobin et al. 2017;
patches after CutMix, Yun et al. 2019). Artists are sampled evenly, also those who drew a concept in
several styles. Captions of cards name no colour.
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

CORE = 0.6  # share of cards with a core class
FINE = 1.5  # resolution at which cards are made, as a multiple of the picture's
PATCHED, RECOLOURED, INKED = 0.4, 0.67, 0.5  # shares of the cards
LOOSE = 0.3  # share of captions of single objects that are keywords
HUES = {  # prefixes of words for colours
    "en": (*COLORS, *(name for names in grammar_en.COLORS.values() for name in names)),
    "hi": tuple(name.rstrip("ाी") for names in grammar_hi.COLORS.values() for name in names),
}
LUMA = torch.tensor((0.299, 0.587, 0.114))


class Cards:
    """Generator of cards: ``cards(count, step)`` returns pictures (count, 3, side, side) uint8 and
    their concepts, a function of the step; sprites of the styles in ``without`` are not used."""

    def __init__(self, side: int, without: Sequence[str] = ()) -> None:
        self.side = side
        self.rows = {concept: _rows_by_artist(concept, without) for concept in lexicon()}
        self.every = [concept for concept, artists in self.rows.items() if artists]
        self.core = [concept for concept in self.every if lexicon()[concept].core]

    def __call__(self, count: int, step: int) -> tuple[Tensor, list[str]]:
        rng, generator = random.Random(f"cards/{step}"), Generator().manual_seed(step)
        concepts = [
            rng.choice(self.core if rng.random() < CORE else self.every) for _ in range(count)
        ]
        one, other = (
            self._sprites([rng.choice(rng.choice(self.rows[concept])) for concept in concepts])
            for _ in range(2)
        )
        sprites = warped(patched(one, other, generator), round(FINE * self.side), generator)
        sprites = apply_to_share(RECOLOURED, recoloured, sprites, generator)
        sprites = apply_to_share(INKED, inked, sprites, generator)
        sprites = F.interpolate(sprites, (self.side, self.side), mode="area")
        background = places.paint([_background(rng) for _ in range(count)], self.side)
        pixels = sprites[:, :3] + background * (1 - sprites[:, 3:])
        return pixels.clamp(0, 1).mul(255).round().to(torch.uint8), concepts

    def _sprites(self, rows: list[int]) -> Tensor:
        """Sprites (n, 4, s, s) of these rows of the atlas, with premultiplied alpha."""
        sprites = atlas.load().pixels[torch.tensor(rows)].float() / 255
        sprites[:, :3] *= sprites[:, 3:]
        return sprites


def _rows_by_artist(concept: str, without: Sequence[str]) -> list[list[int]]:
    """Rows of the atlas that show a concept, one list per artist: the first word of the style."""
    artists: dict[str, list[int]] = defaultdict(list)
    for style, rows in sprites_of(concept).items():
        if style not in without:
            artists[style.split("-")[0]] += rows
    return list(artists.values())


def apply_to_share(
    share: float,
    paint: Callable[[Tensor, Generator], Tensor],
    sprites: Tensor,
    generator: Generator,
) -> Tensor:
    """Sprites with ``paint`` applied to a random ``share`` of them."""
    chosen = (torch.rand(len(sprites), generator=generator) < share).nonzero()[:, 0]
    if not len(chosen):
        return sprites
    return sprites.index_copy(0, chosen, paint(sprites[chosen], generator))


def patched(sprites: Tensor, others: Tensor, generator: Generator) -> Tensor:
    """Sprites (n, 4, s, s), in a PATCHED share of which smooth regions come from ``others``."""
    n, side = len(sprites), sprites.shape[-1]
    use = torch.rand(n, generator=generator)[:, None, None, None] < PATCHED
    coarse = torch.randn(n, 1, 3, 3, generator=generator)
    field = F.interpolate(coarse, (side, side), mode="bilinear", align_corners=True)
    return torch.where(use & (field > 0), others, sprites)


def warped(sprites: Tensor, side: int, generator: Generator) -> Tensor:
    """Sprites (n, 4, side, side), randomly rotated, scaled, sheared, shifted, mirrored and bent."""
    n = len(sprites)
    turn, shear, size, wide, mirror, x, y, much = torch.rand(8, n, generator=generator)
    angle, scale = (turn - 0.5) * math.radians(50), 1 / (0.35 + 0.5 * size)
    stretch = (0.7 * (wide - 0.5)).exp()
    a, b = angle.cos() * stretch, angle.sin()
    top, bottom = (a, -b + 0.4 * (shear - 0.5)), (b, angle.cos() / stretch)
    rows = torch.stack((torch.stack(top, 1), torch.stack(bottom, 1)), 1)  # n 2 2
    rows = rows * scale[:, None, None]
    rows[:, :, 0] *= torch.where(mirror < 0.5, -1.0, 1.0)[:, None]
    free = (scale - 1).clamp(min=0)
    move = torch.stack(((2 * x - 1) * free, (2 * y - 1) * free), 1)[..., None]
    grid = F.affine_grid(torch.cat((rows, move), 2), [n, 4, side, side], align_corners=False)
    coarse = torch.randn(n, 2, 5, 5, generator=generator)
    bend = F.interpolate(coarse, (side, side), mode="bicubic").permute(0, 2, 3, 1)
    grid = grid + 0.12 * much[:, None, None, None] * bend
    return F.grid_sample(sprites, grid, align_corners=False)


def recoloured(sprites: Tensor, generator: Generator) -> Tensor:
    """Sprites (n, 4, s, s) of random hue, saturation, brightness and contrast; some posterised."""
    n = len(sprites)
    turn, much, light, contrast, flat, tones = torch.rand(6, n, 1, 1, 1, generator=generator)
    rgb, alpha = sprites.split((3, 1), 1)
    luma = (rgb * LUMA.view(1, 3, 1, 1)).sum(1, keepdim=True)
    shuffled = torch.stack([each[torch.randperm(3, generator=generator)] for each in rgb - luma])
    hue = torch.where(turn < 0.4, rgb - luma, shuffled) * torch.where(much < 0.2, 0.0, 0.5 + much)
    other = (luma + hue - alpha / 2) * (0.7 + 0.8 * contrast) + alpha * (0.5 + 0.4 * (light - 0.5))
    levels = (2 + 4 * tones).round()
    smooth = F.avg_pool2d(other, 5, 1, 2, count_include_pad=False)
    other = torch.where(flat < 0.3, (smooth * levels).round() / levels, other)
    return torch.cat((torch.minimum(other.clamp(min=0), alpha), alpha), 1)


def inked(sprites: Tensor, generator: Generator) -> Tensor:
    """Sprites (n, 4, s, s) with dark lines of random colour and width along their edges."""
    n = len(sprites)
    least, thick = torch.rand(2, n, 1, 1, 1, generator=generator)
    ink = 0.3 * torch.rand(n, 3, 1, 1, generator=generator)
    soft = F.avg_pool2d(sprites, 3, 1, 1, count_include_pad=False)
    across = F.pad(soft[..., 2:] - soft[..., :-2], (1, 1)).abs()
    down = F.pad(soft[..., 2:, :] - soft[..., :-2, :], (0, 0, 1, 1)).abs()
    edge = torch.maximum(across, down).amax(1, keepdim=True)
    line = ((edge - 0.1 - 0.3 * least) * 6).clamp(0, 1)
    thicker = torch.where(thick < 0.8, F.max_pool2d(line, 3, 1, 1), F.max_pool2d(line, 5, 1, 2))
    line = torch.where(thick < 0.4, line, thicker)
    rgb, alpha = sprites.split((3, 1), 1)
    return torch.cat((rgb * (1 - line) + ink * line, torch.maximum(alpha, line)), 1)


def caption_for(concept: str, language: str, rng: random.Random) -> str:
    """A caption of one object of the concept, without a colour, or some of its keywords."""
    if rng.random() < LOOSE:
        return loosely(concept, language, rng)
    group, named = Group(concept), lexicon()[concept]
    if language == "en":
        return rng.choice(grammar_en.ONE).format(a=grammar_en.phrase(group, named, rng))
    template, phrase = rng.choice(grammar_hi.ONE), grammar_hi.phrase(group, named, rng)
    return template.format(a=phrase, picture=rng.choice(grammar_hi.PICTURES))


def loosely(concept: str, language: str, rng: random.Random) -> str:
    """One to four of the concept's names and keywords, comma-separated; keywords that name a colour
    are not used."""
    named = lexicon()[concept]
    names = (
        (named.en, *named.synonyms_en)
        if language == "en"
        else (named.hi.singular, *named.synonyms_hi)
    )
    words = [
        keyword
        for keyword in keywords()[concept][language]
        if not any(word.startswith(HUES[language]) for word in keyword.lower().split())
    ]
    choices = (*words, rng.choice(names))
    return ", ".join(rng.sample(choices, min(rng.randint(1, 4), len(words) + 1)))


def _background(rng: random.Random) -> Background:
    if rng.random() < 0.4:
        return Background("place", rng.choice(PLACES), rng.randrange(1 << 30))
    kind = rng.choice(("flat", "gradient"))
    return Background(kind, rng.choice(BACKDROPS), rng.randrange(1 << 30))
