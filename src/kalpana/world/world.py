"""The world: an endless, seeded list of pictures with captions and exact truth.

``World(seed, split)[i]`` depends on (seed, split, i) and nothing else.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from kalpana.world.grammar import FORMS, caption
from kalpana.world.render import render
from kalpana.world.sample import sample_scene
from kalpana.world.scene import Scene
from kalpana.world.splits import SPLITS

VERSION = "3"  # raise it whenever a scene, its picture or its captions change, so that no cache or weight claims the wrong data
LANGUAGES = ("en", "hi")


@dataclass(frozen=True)
class Truth:
    """What a picture holds. Row k of ``boxes`` (n, 4: x0 y0 x1 y1 in pixels, ends excluded; all 0 if hidden) and of
    ``masks`` (n, h, w) bool is what can be seen of ``scene.things[k]``, whose words are ``scene.groups[things[k].group]``."""

    scene: Scene
    boxes: Tensor
    masks: Tensor


@dataclass(frozen=True)
class Sample:
    """One picture (3, h, w) in [-1, 1], a caption of it, the caption's language ("en", "hi") and form, and the truth."""

    image: Tensor
    caption: str
    language: str
    form: str
    truth: Truth


@dataclass(frozen=True)
class World:
    """An endless list of samples; ``split`` is "train", "dev", "test" or "unseen" (held-out combinations)."""

    seed: int = 0
    split: str = "train"
    side: int = 128

    def __post_init__(self) -> None:
        if self.split not in SPLITS:
            raise ValueError(f"split {self.split!r} is not one of {', '.join(SPLITS)}")

    def scene(self, index: int) -> Scene:
        """The scene of picture ``index``, not drawn."""
        return sample_scene(random.Random(f"{self.seed}/{self.split}/{index}"), self.split)

    def describe(self, index: int, take: int = 0) -> tuple[str, str, str]:
        """(caption, language, form) of picture ``index``; another ``take`` words the same scene another way."""
        return self._describe(self.scene(index), index, take)

    def _describe(self, scene: Scene, index: int, take: int) -> tuple[str, str, str]:
        rng = random.Random(f"{self.seed}/{self.split}/{index}/words/{take}")
        language, form = rng.choice(LANGUAGES), rng.choice(FORMS)
        return caption(scene, language, form, rng), language, form

    def images(self, indices: Sequence[int], device: torch.device | str = "cpu") -> Tensor:
        """The pictures (b, 3, side, side) in [-1, 1], drawn as one batch."""
        return render([self.scene(i) for i in indices], self.side, device=device).pixels

    def __getitem__(self, index: int) -> Sample:
        if index < 0:
            raise IndexError("an endless world has no last picture: index from 0")
        scene = self.scene(index)
        drawn = render([scene], self.side, masks=True)
        assert drawn.masks is not None
        words, language, form = self._describe(scene, index, 0)
        return Sample(drawn.pixels[0], words, language, form, Truth(scene, _boxes(drawn.masks[0]), drawn.masks[0]))


def _boxes(masks: Tensor) -> Tensor:
    """The tight boxes (n, 4) of masks (n, h, w)."""
    ends = []
    for axis in (1, 2):  # over rows, then over columns
        seen = masks.any(axis)  # n w, then n h
        line = torch.arange(seen.shape[1])
        start = torch.where(seen, line, seen.shape[1]).amin(1)
        stop = torch.where(seen, line + 1, 0).amax(1)
        ends.append((torch.where(seen.any(1), start, 0), stop))
    (x0, x1), (y0, y1) = ends
    return torch.stack((x0, y0, x1, y1), 1)
