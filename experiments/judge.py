"""A throw-away judge for the comparisons: a small network that says which core classes, colours and how many things a 64 px
picture shows, trained on renders (blurred and noisy ones too). `python experiments/judge.py` trains it and prints how well it
reads held-out renders; that is the ceiling of every score it gives."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import torch
import torch.nn as nn
import torch.nn.functional as F

from kalpana.train import pool
from kalpana.world.lexicon import lexicon
from kalpana.world.scene import COLORS, Scene
from kalpana.world.world import World

CORE = [c.id for c in lexicon().values() if c.core]
FILE = Path("/var/tmp/kalpana/judge.pt")


def labels(scene: Scene) -> tuple[list[float], list[float], int]:
    classes, colors = [0.0] * len(CORE), [0.0] * len(COLORS)
    for group in scene.groups:
        if group.concept in CORE:
            classes[CORE.index(group.concept)] = 1.0
        if group.color:
            colors[COLORS.index(group.color)] = 1.0
    return classes, colors, min(len(scene.things), 8)


class Judge(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        widths = (32, 64, 128, 192, 256)
        layers: list[nn.Module] = [nn.Conv2d(12, widths[0], 3, padding=1), nn.BatchNorm2d(widths[0]), nn.ReLU()]
        for a, b in zip(widths, widths[1:], strict=False):
            layers += [
                nn.Conv2d(a, b, 3, padding=1),
                nn.BatchNorm2d(b),
                nn.ReLU(),
                nn.Conv2d(b, b, 3, padding=1),
                nn.BatchNorm2d(b),
                nn.ReLU(),
            ]
            layers += [nn.MaxPool2d(2)] if b != widths[-1] else []
        self.body = nn.Sequential(*layers)  # b 256 4 4 from 32 x 32
        self.classes, self.colors = nn.Linear(512, len(CORE)), nn.Linear(512, len(COLORS))
        self.count = nn.Sequential(nn.Flatten(), nn.Linear(256 * 16, 128), nn.ReLU(), nn.Linear(128, 9))

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        h = self.body(F.pixel_unshuffle(x, 2))
        both = torch.cat((h.amax((2, 3)), h.mean((2, 3))), 1)
        return self.classes(both), self.colors(both), self.count(h)


def small(pixels: torch.Tensor) -> torch.Tensor:
    return F.interpolate(pixels, (64, 64), mode="area") if pixels.shape[-1] != 64 else pixels


def damage(x: torch.Tensor) -> torch.Tensor:
    if torch.rand(()) < 0.5:
        k = int(torch.randint(2, 4, ()))
        x = F.interpolate(F.avg_pool2d(x, k), (64, 64), mode="bilinear")
    return (x + 0.1 * torch.rand(()) * torch.randn_like(x)).clamp(-1, 1)


def main(minutes: float) -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    world, count = World(0, "train"), 120_000
    pictures = pool.pictures(world, count, torch.device("cpu"))
    net = Judge().to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(net.parameters(), 2e-3, weight_decay=0.02)
    # A single kind of thing in each picture: what it is can then be learned as a choice, and fast.
    useful = [i for i in range(count) if len(g := world.scene(i).groups) == 1 and g[0].concept in CORE]
    order = torch.tensor(useful)[torch.randperm(len(useful))]
    began, step = time.time(), 0
    while (share := (time.time() - began) / 60 / minutes) < 1:
        rows = sorted(order[step * 64 % (len(useful) - 64) :][:64].tolist())
        for group in optimizer.param_groups:
            group["lr"] = 2e-3 * min(1, step / 50) * min(1, 2 * (1 - share))
        x = damage(small(pool.floats(pictures[rows], torch.device("cpu"))))
        a, b, c = zip(*(labels(world.scene(i)) for i in rows), strict=True)
        with torch.autocast("cpu", torch.bfloat16):
            classes, colors, number = net(x)
        loss = 2 * F.cross_entropy(classes.float(), torch.tensor(a).argmax(1))
        loss = (
            loss
            + 5 * F.binary_cross_entropy_with_logits(colors.float(), torch.tensor(b))
            + F.cross_entropy(number.float(), torch.tensor(c))
        )
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        step += 1
        if step % 100 == 0:
            print(step, f"{loss.item():.3f}", f"{share:.0%}", flush=True)
    torch.save(net.state_dict(), FILE)
    net.eval()
    dev = World(0, "dev")
    print(score(net, [dev.scene(i) for i in range(1000)], lambda ids: pool.pictures(dev, 1024, torch.device("cpu"))[list(ids)]))


def prompts(kinds: dict[str, int]) -> list[tuple[int, str, Scene]]:
    """Dev scenes of core classes only, the first of each kind: (index, kind, scene)."""
    dev, found, i = World(0, "dev"), [], 0
    left = dict(kinds)
    while any(left.values()):
        scene = dev.scene(i)
        if scene.groups and all(g.concept in CORE for g in scene.groups):
            kind = "two" if len(scene.groups) == 2 else "count" if scene.groups[0].count > 1 else "single"
            if left.get(kind, 0):
                left[kind] -= 1
                found.append((i, kind, scene))
        i += 1
    return found


@torch.inference_mode()
def judge(net: Judge, pixels: torch.Tensor, scenes: list[Scene]) -> list[tuple[bool, bool, bool]]:
    """For each picture: are its classes the top ones, are its colours, is the count right?"""
    out = []
    classes, colors, number = net(small(pixels))
    for k, scene in enumerate(scenes):
        a, b, n = labels(scene)
        top = lambda logits, truth: set(logits.topk(int(sum(truth))).indices.tolist()) == {i for i, v in enumerate(truth) if v}  # noqa: E731
        out.append((top(classes[k], a), top(colors[k], b) if sum(b) else None, int(number[k].argmax()) == n))
    return out


def score(net: Judge, scenes: list[Scene], pictures) -> dict[str, float]:  # noqa: ANN001
    wanted = [(i, s) for i, s in enumerate(scenes) if s.groups and all(g.concept in CORE for g in s.groups)]
    x = pool.floats(pictures([i for i, _ in wanted]), torch.device("cpu"))
    return summary(
        [
            ("two" if len(s.groups) == 2 else "count" if s.groups[0].count > 1 else "single", v)
            for (_, s), v in zip(wanted, judge(net, x, [s for _, s in wanted]), strict=True)
        ]
    )


def summary(verdicts: list[tuple[str, tuple]]) -> dict[str, float]:
    out = {}
    for kind in ("single", "count", "two"):
        for name, k in (("class", 0), ("color", 1), ("count", 2)):
            values = [v[k] for which, v in verdicts if which == kind and v[k] is not None]
            out[f"{kind}_{name}"] = round(sum(values) / max(len(values), 1), 3)
    return out


if __name__ == "__main__":
    main(float(sys.argv[1]) if len(sys.argv) > 1 else 6)
