"""The world: an endless, seeded data set of images with captions and exact ground truth.

``World(seed, split, kind=kind)[i]`` depends only on (seed, split, kind, i).
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

# Increase on any change of scenes, images or captions: caches and weights record this version.
VERSION = "7"
LANGUAGES = ("en", "hi")


@dataclass(frozen=True)
class Kind:
    """A kind of scene: its sampler and its caption grammar.

    ``sample(rng, split)`` returns a scene, ``caption(scene, language, form, rng)`` its caption.
    """

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
MIX = {  # shares of the kinds in the kind "everything"
    "objects": 0.66,
    "text": 0.07,
    "hands": 0.07,
    "puppets": 0.05,
    "depth": 0.08,
    "paintings": 0.07,
}


def kind_of(scene: Scene) -> str:
    """The kind of a scene, derived from its content."""
    if scene.painting:
        return "paintings"
    arts = {type(item.sprite) for item in scene.objects}
    for art, kind in ((Sign, "text"), (Hand, "hands"), (Puppet, "puppets")):
        if art in arts:
            return kind
    return "depth" if scene.relation in DEPTH_RELATIONS else "objects"


def _sample_any(rng: random.Random, split: str) -> Scene:
    """Random scene of a random kind."""
    return KINDS[rng.choices(list(MIX), list(MIX.values()))[0]].sample(rng, split)


def _caption_any(scene: Scene, language: str, form: str, rng: random.Random) -> str:
    """Caption of a scene by the grammar of its kind."""
    return KINDS[kind_of(scene)].caption(scene, language, form, rng)


KINDS["everything"] = Kind(_sample_any, _caption_any)


@dataclass(frozen=True)
class Truth:
    """Ground truth of an image with n objects.

    Row k of ``boxes``, ``masks`` and ``whole`` describes ``scene.objects[k]``, whose noun phrase is
    ``scene.groups[scene.objects[k].group]``. Objects are in drawing order: a later one occludes an
    earlier one.
    ``boxes`` (n, 4): the visible part, x0 y0 x1 y1 in pixels, ends excluded; all 0 if hidden.
    ``masks`` (n, h, w) bool: the visible part.
    ``whole`` (n, h, w) bool: the full object, occluded parts included.
    ``unpainted`` (3, h, w) in [-1, 1]: the image before any painting effect, with the objects' own
    colours and edges.
    """

    scene: Scene
    boxes: Tensor
    masks: Tensor
    whole: Tensor
    unpainted: Tensor

    @property
    def amodal(self) -> Tensor:
        """Amodal boxes (n, 4): boxes of the full objects, occluded parts included."""
        return maps.boxes(self.whole)

    @property
    def depth(self) -> Tensor:
        """Depth map (h, w): 0 at the camera, 1 at the background."""
        return maps.depth(self.masks, [item.depth for item in self.scene.objects])

    @property
    def outlines(self) -> Tensor:
        """Outlines of the visible objects, (h, w) bool."""
        return maps.outlines(self.masks)


@dataclass(frozen=True)
class Sample:
    """One example of the world: an image, its caption and its ground truth."""

    image: Tensor  # 3 h w in [-1, 1]
    caption: str
    language: str  # "en" or "hi"
    form: str  # one of grammar.FORMS
    truth: Truth


@dataclass(frozen=True)
class World:
    """An endless data set of examples.

    ``World(...)[i]`` is example i, ``i`` >= 0. Raises ValueError for an unknown split or kind.
    """

    seed: int = 0
    split: str = "train"  # "train", "dev", "test" or "unseen" (held-out combinations of objects)
    side: int = 128  # pixels
    kind: str = "objects"  # a key of KINDS

    def __post_init__(self) -> None:
        if self.split not in SPLITS:
            raise ValueError(f"split {self.split!r} is not one of {', '.join(SPLITS)}")
        if self.kind not in KINDS:
            raise ValueError(f"kind {self.kind!r} is not one of {', '.join(KINDS)}")

    def scene(self, index: int) -> Scene:
        """The scene of example ``index``, not rendered."""
        return KINDS[self.kind].sample(self._rng(index), self.split)

    def _rng(self, index: int, purpose: str = "") -> random.Random:
        """Random number generator of one example and purpose."""
        return random.Random(
            f"{self.seed}/{self.split}/{index}"
            + ("" if self.kind == "objects" else f"/{self.kind}")
            + purpose
        )

    def describe(self, index: int, take: int = 0) -> tuple[str, str, str]:
        """(caption, language, form) of example ``index``; another ``take``, another caption."""
        return self._describe(self.scene(index), index, take)

    def _describe(self, scene: Scene, index: int, take: int) -> tuple[str, str, str]:
        rng = self._rng(index, f"/words/{take}")
        language, form = rng.choice(LANGUAGES), rng.choice(FORMS)
        return KINDS[self.kind].caption(scene, language, form, rng), language, form

    def images(self, indices: Sequence[int], device: torch.device | str = "cpu") -> Tensor:
        """Images (b, 3, side, side) in [-1, 1] of these examples, rendered as one batch."""
        return render([self.scene(i) for i in indices], self.side, device=device).pixels

    def __getitem__(self, index: int) -> Sample:
        if index < 0:
            raise IndexError("an endless world has no last image: use an index of 0 or more")
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
