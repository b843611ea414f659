"""Cards: things alone, drawn as no style of the art draws them, so that what is learned of a thing is its shape more than its manner.

A sprite is warped, its colours are turned, faded or cut to a few, and its edges are inked, at random, before it is laid on a background
(domain randomisation, Tobin et al. 2017). Nothing said of a card names a colour.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from kalpana.world import atlas, grammar_en, grammar_hi, places
from kalpana.world.lexicon import lexicon, sprites_of
from kalpana.world.scene import BACKDROPS, PLACES, Background, Group

CORE = 0.6  # how often a card shows a core class
FINE = 1.5  # times finer than the picture, that all is drawn before it is made small
LUMA = torch.tensor((0.299, 0.587, 0.114))


class Cards:
    """``cards(count, step)``: pictures (count, 3, side, side) uint8, and the concept of each; of no style in ``without``."""

    def __init__(self, side: int, without: Sequence[str] = ()) -> None:
        self.side = side
        self.rows = {
            concept: [row for style, rows in sprites_of(concept).items() if style not in without for row in rows] for concept in lexicon()
        }
        self.every = [concept for concept, rows in self.rows.items() if rows]
        self.core = [concept for concept in self.every if lexicon()[concept].core]

    def __call__(self, count: int, step: int) -> tuple[Tensor, list[str]]:
        rng, luck = random.Random(f"cards/{step}"), Generator().manual_seed(step)
        concepts = [rng.choice(self.core if rng.random() < CORE else self.every) for _ in range(count)]
        rows = torch.tensor([rng.choice(self.rows[concept]) for concept in concepts])
        sprites = atlas.load().pixels[rows].float() / 255  # n 4 s s
        sprites[:, :3] *= sprites[:, 3:]  # from here on premultiplied
        drawn = inked(recoloured(warped(sprites, round(FINE * self.side), luck), luck), luck)
        drawn = F.interpolate(drawn, (self.side, self.side), mode="area")
        below = places.paint([_background(rng) for _ in range(count)], self.side)
        pixels = drawn[:, :3] + below * (1 - drawn[:, 3:])
        return pixels.clamp(0, 1).mul(255).round().to(torch.uint8), concepts


def warped(sprites: Tensor, side: int, luck: Generator) -> Tensor:
    """Sprites (n, 4, s, s) turned, scaled, sheared, moved, mirrored and bent a little, in squares of this side."""
    n = len(sprites)
    turn, shear, size, wide, mirror, x, y = torch.rand(7, n, generator=luck)
    angle, scale = (turn - 0.5) * math.radians(50), 1 / (0.35 + 0.5 * size)
    stretch = (0.5 * (wide - 0.5)).exp()
    a, b = angle.cos() * stretch, angle.sin()
    rows = torch.stack((torch.stack((a, -b + 0.4 * (shear - 0.5)), 1), torch.stack((b, angle.cos() / stretch), 1)), 1)  # n 2 2
    rows = rows * scale[:, None, None]
    rows[:, :, 0] *= torch.where(mirror < 0.5, -1.0, 1.0)[:, None]
    free = (scale - 1).clamp(min=0)
    move = torch.stack(((2 * x - 1) * free, (2 * y - 1) * free), 1)[..., None]
    grid = F.affine_grid(torch.cat((rows, move), 2), [n, 4, side, side], align_corners=False)
    bend = F.interpolate(0.06 * torch.randn(n, 2, 5, 5, generator=luck), (side, side), mode="bicubic").permute(0, 2, 3, 1)
    return F.grid_sample(sprites, grid + bend, align_corners=False)


def recoloured(sprites: Tensor, luck: Generator) -> Tensor:
    """Two thirds of the sprites in other colours: the hue turned, more or less of it, lighter or darker, some in few flat tones."""
    n = len(sprites)
    use, turn, much, light, contrast, flat, tones = torch.rand(7, n, generator=luck).unsqueeze(-1).unsqueeze(-1).unsqueeze(-1)
    rgb, alpha = sprites.split((3, 1), 1)
    luma = (rgb * LUMA.view(1, 3, 1, 1)).sum(1, keepdim=True)
    shuffled = torch.stack([each[torch.randperm(3, generator=luck)] for each in rgb - luma])
    hue = torch.where(turn < 0.4, rgb - luma, shuffled) * torch.where(much < 0.2, 0.0, 0.5 + much)
    other = (luma + hue - alpha / 2) * (0.7 + 0.8 * contrast) + alpha * (0.5 + 0.4 * (light - 0.5))
    levels = (2 + 4 * tones).round()
    other = torch.where(flat < 0.3, (F.avg_pool2d(other, 5, 1, 2, count_include_pad=False) * levels).round() / levels, other)
    return torch.cat((torch.where(use < 0.67, torch.minimum(other.clamp(min=0), alpha), rgb), alpha), 1)


def inked(sprites: Tensor, luck: Generator) -> Tensor:
    """Half of the sprites with lines along their edges, thin or thick, in something dark."""
    n = len(sprites)
    use, least, thick = torch.rand(3, n, generator=luck).unsqueeze(-1).unsqueeze(-1).unsqueeze(-1)
    ink = 0.3 * torch.rand(n, 3, 1, 1, generator=luck)
    soft = F.avg_pool2d(sprites, 3, 1, 1, count_include_pad=False)
    across, down = F.pad(soft[..., 2:] - soft[..., :-2], (1, 1)).abs(), F.pad(soft[..., 2:, :] - soft[..., :-2, :], (0, 0, 1, 1)).abs()
    edge = torch.maximum(across, down).amax(1, keepdim=True)
    line = ((edge - 0.1 - 0.3 * least) * 6).clamp(0, 1)
    line = torch.where(thick < 0.4, line, torch.where(thick < 0.8, F.max_pool2d(line, 3, 1, 1), F.max_pool2d(line, 5, 1, 2)))
    line = line * (use < 0.5)
    rgb, alpha = sprites.split((3, 1), 1)
    return torch.cat((rgb * (1 - line) + ink * line, torch.maximum(alpha, line)), 1)


def worded(concept: str, language: str, rng: random.Random) -> str:
    """A caption of one such thing, in no colour."""
    group, named = Group(concept), lexicon()[concept]
    if language == "en":
        return rng.choice(grammar_en.ONE).format(a=grammar_en.phrase(group, named, rng))
    return rng.choice(grammar_hi.ONE).format(a=grammar_hi.phrase(group, named, rng), picture=rng.choice(grammar_hi.PICTURES))


def _background(rng: random.Random) -> Background:
    if rng.random() < 0.4:
        return Background("place", rng.choice(PLACES), rng.randrange(1 << 30))
    return Background(rng.choice(("flat", "gradient")), rng.choice(BACKDROPS), rng.randrange(1 << 30))
