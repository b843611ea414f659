"""The world: an endless, seeded list of pictures with captions and exact truth.

``World(seed, split, kind=kind)[i]`` depends on (seed, split, kind, i) and nothing else.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from kalpana.world import grammar, maps
from kalpana.world.grammar import FORMS
from kalpana.world.kinds import depth, hands, paintings, puppets, signs
from kalpana.world.render import render
from kalpana.world.sample import sample_scene
from kalpana.world.scene import DEPTH_RELATIONS, Hand, Puppet, Scene, Sign
from kalpana.world.splits import SPLITS

VERSION = "6"  # raise it whenever a scene, its picture or its captions change, so that no cache or weight claims the wrong data
LANGUAGES = ("en", "hi")


@dataclass(frozen=True)
class Kind:
    """A kind of picture: ``sample(rng, split)`` is a scene, ``caption(scene, language, form, rng)`` says it in words."""

    sample: Callable[[random.Random, str], Scene]
    caption: Callable[[Scene, str, str, random.Random], str]


KINDS = {
    "objects": Kind(sample_scene, grammar.caption),
    "text": Kind(signs.sample, signs.caption),
    "hands": Kind(hands.sample, hands.caption),
    "puppets": Kind(puppets.sample, puppets.caption),
    "depth": Kind(depth.sample, grammar.caption),
    "paintings": Kind(paintings.sample, paintings.caption),
}
MIX = {
    "objects": 0.66,
    "text": 0.07,
    "hands": 0.07,
    "puppets": 0.05,
    "depth": 0.08,
    "paintings": 0.07,
}  # of the kind "everything"


def kind_of(scene: Scene) -> str:
    """The kind of picture a scene is, told from what it holds."""
    if scene.painting:
        return "paintings"
    arts = {type(item.sprite) for item in scene.objects}
    for art, kind in ((Sign, "text"), (Hand, "hands"), (Puppet, "puppets")):
        if art in arts:
            return kind
    return "depth" if scene.relation in DEPTH_RELATIONS else "objects"


def _sample_any(rng: random.Random, split: str) -> Scene:
    return KINDS[rng.choices(list(MIX), list(MIX.values()))[0]].sample(rng, split)


def _caption_any(scene: Scene, language: str, form: str, rng: random.Random) -> str:
    return KINDS[kind_of(scene)].caption(scene, language, form, rng)


KINDS["everything"] = Kind(_sample_any, _caption_any)


@dataclass(frozen=True)
class Truth:
    """What a picture holds. Row k of ``boxes`` (n, 4: x0 y0 x1 y1 in pixels, ends excluded; all 0 if hidden) and of
    ``masks`` (n, h, w) bool is what can be seen of ``scene.things[k]``, whose words are ``scene.groups[things[k].group]``.
    ``whole`` (n, h, w) is where it is, behind others too; things are in drawing order, so a later one occludes an earlier.
    ``unpainted`` (3, h, w) is the picture before any painting: it shows the things' own colours and edges."""

    scene: Scene
    boxes: Tensor
    masks: Tensor
    whole: Tensor
    unpainted: Tensor

    @property
    def amodal(self) -> Tensor:
        """The boxes (n, 4) of the whole things."""
        return maps.boxes(self.whole)

    @property
    def depth(self) -> Tensor:
        """How far away each pixel is (h, w): 0 at the eye, 1 at the background."""
        return maps.depth(self.masks, [item.depth for item in self.scene.objects])

    @property
    def outlines(self) -> Tensor:
        """Where things end (h, w) bool."""
        return maps.outlines(self.masks)


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
    """An endless list of samples; ``split`` is "train", "dev", "test" or "unseen" (held-out combinations of objects); ``kind`` is
    one of KINDS."""

    seed: int = 0
    split: str = "train"
    side: int = 128
    kind: str = "objects"

    def __post_init__(self) -> None:
        if self.split not in SPLITS:
            raise ValueError(f"split {self.split!r} is not one of {', '.join(SPLITS)}")
        if self.kind not in KINDS:
            raise ValueError(f"kind {self.kind!r} is not one of {', '.join(KINDS)}")

    def scene(self, index: int) -> Scene:
        """The scene of picture ``index``, not drawn."""
        return KINDS[self.kind].sample(self._rng(index), self.split)

    def _rng(self, index: int, purpose: str = "") -> random.Random:
        return random.Random(
            f"{self.seed}/{self.split}/{index}"
            + ("" if self.kind == "objects" else f"/{self.kind}")
            + purpose
        )

    def describe(self, index: int, take: int = 0) -> tuple[str, str, str]:
        """(caption, language, form) of picture ``index``; another ``take`` words the same scene another way."""
        return self._describe(self.scene(index), index, take)

    def _describe(self, scene: Scene, index: int, take: int) -> tuple[str, str, str]:
        rng = self._rng(index, f"/words/{take}")
        language, form = rng.choice(LANGUAGES), rng.choice(FORMS)
        return KINDS[self.kind].caption(scene, language, form, rng), language, form

    def images(self, indices: Sequence[int], device: torch.device | str = "cpu") -> Tensor:
        """The pictures (b, 3, side, side) in [-1, 1], drawn as one batch."""
        return render([self.scene(i) for i in indices], self.side, device=device).pixels

    def __getitem__(self, index: int) -> Sample:
        if index < 0:
            raise IndexError("an endless world has no last picture: index from 0")
        scene = self.scene(index)
        drawn = render([scene], self.side, masks=True)
        assert drawn.masks is not None and drawn.whole is not None
        words, language, form = self._describe(scene, index, 0)
        masks = drawn.masks[0]
        return Sample(
            drawn.pixels[0],
            words,
            language,
            form,
            Truth(scene, maps.boxes(masks), masks, drawn.whole[0], drawn.plain[0]),
        )
