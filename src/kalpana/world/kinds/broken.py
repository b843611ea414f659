"""Things that are no things: patchworks of two sprites, halves, melted blobs and scrambled ones, as a poor generator draws them.

No picture of the world that a generator learns from holds any. They teach a verifier what to refuse.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from kalpana.world import atlas
from kalpana.world.atlas import SIDE
from kalpana.world.scene import Broken, Scene, Thing

WAYS = ("patchwork", "half", "melted", "scrambled")


def draw(broken: Sequence[Broken], device: torch.device | str = "cpu") -> Tensor:
    """Their tiles (n, 4, SIDE, SIDE) in [0, 1], RGB not premultiplied, then alpha."""
    return torch.stack([_draw(one) for one in broken]).to(device)


def _draw(broken: Broken) -> Tensor:
    one, two = (atlas.load().pixels[row].float() / 255 for row in (broken.sprite, broken.other))
    rng = torch.Generator().manual_seed(broken.seed)
    if broken.way == "patchwork":
        mix = (4 * _field(rng, 4) + 0.5).clamp(0, 1)
        return one * mix + two * (1 - mix)
    if broken.way == "half":
        x, y = torch.meshgrid(torch.linspace(-1, 1, SIDE), torch.linspace(-1, 1, SIDE), indexing="xy")
        angle = 6.2832 * torch.rand((), generator=rng)
        keep = (x * torch.cos(angle) + y * torch.sin(angle) < 0.15 * torch.rand((), generator=rng)).float()
        return torch.cat((one[:3], one[3:] * keep))
    if broken.way == "melted":
        line = torch.linspace(-1, 1, SIDE)
        grid = torch.stack(torch.meshgrid(line, line, indexing="xy"), -1)
        grid = grid + 0.55 * torch.stack((_field(rng, 5), _field(rng, 5)), -1)
        warped = F.grid_sample(torch.cat((one[:3] * one[3:], one[3:]))[None], grid[None], align_corners=True)[0]
        soft = F.avg_pool2d(warped[None], 5, 1, 2)[0]
        return torch.cat((soft[:3] / soft[3:].clamp(min=1e-3), soft[3:])).clamp(0, 1)
    parts = one.unflatten(1, (3, SIDE // 3)).unflatten(3, (3, SIDE // 3)).permute(1, 3, 0, 2, 4).flatten(0, 1)  # 9 4 s/3 s/3
    order = torch.randperm(9, generator=rng)
    return parts[order].unflatten(0, (3, 3)).permute(2, 0, 3, 1, 4).flatten(3, 4).flatten(1, 2)


def _field(rng: torch.Generator, cells: int) -> Tensor:
    """Smooth noise (SIDE, SIDE) of about unit size, ``cells`` bumps to a side."""
    coarse = torch.randn(1, 1, cells, cells, generator=rng)
    return F.interpolate(coarse, (SIDE, SIDE), mode="bicubic", align_corners=True)[0, 0]


def breaking(scene: Scene, rng: random.Random, share: float = 0.6) -> Scene:
    """The scene with some of its things broken, each with this chance, one at least if there is one."""
    rows = [k for k, thing in enumerate(scene.things) if isinstance(thing.sprite, int)]
    if not rows:
        return scene
    chosen = {k for k in rows if rng.random() < share} or {rng.choice(rows)}
    count = len(atlas.load().sprites)
    things = []
    for k, thing in enumerate(scene.things):
        if k in chosen:
            assert isinstance(thing.sprite, int)
            art = Broken(rng.choice(WAYS), thing.sprite, rng.randrange(count), rng.randrange(1 << 30))
            thing = Thing(art, thing.x, thing.y, thing.size, thing.angle, thing.flip, None, thing.group, thing.depth, thing.shadow)
        things.append(thing)
    return Scene(tuple(things), scene.groups, scene.background, None, scene.style)
