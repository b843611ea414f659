"""The data set of videos: frames, captions and truth."""

from __future__ import annotations

import random
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from kalpana.world import maps
from kalpana.world.grammar import FORMS
from kalpana.world.render import render
from kalpana.world.splits import SPLITS
from kalpana.world.video.captions import caption
from kalpana.world.video.events import sample
from kalpana.world.video.motion import VideoScene


@dataclass(frozen=True)
class VideoTruth:
    """Ground truth of a video with f frames and n objects.

    ``masks`` (f, n, h, w) bool and ``boxes`` (f, n, 4): the visible part of each object in each
    frame; a hidden object has a box of zeros. ``views`` (f, 4): the camera view of each frame, see
    ``scene.View``.
    """

    video: VideoScene
    masks: Tensor
    boxes: Tensor
    views: Tensor


@dataclass(frozen=True)
class VideoSample:
    """One example: a video, its caption and its ground truth."""

    frames: Tensor  # f 3 h w in [-1, 1]
    caption: str
    language: str  # "en" or "hi"
    form: str  # one of grammar.FORMS
    truth: VideoTruth


@dataclass(frozen=True)
class Videos:
    """An endless data set of videos, as ``World`` is of images.

    ``Videos(seed, split)[i]``, ``i`` >= 0, depends only on (seed, split, i). Raises ValueError for
    an unknown split.
    """

    seed: int = 0
    split: str = "train"  # one of splits.SPLITS
    side: int = 64  # pixels

    def __post_init__(self) -> None:
        if self.split not in SPLITS:
            raise ValueError(f"split {self.split!r} is not one of {', '.join(SPLITS)}")

    def video(self, index: int) -> VideoScene:
        """The description of video ``index``, not rendered."""
        return _video(self.seed, self.split, index)

    def describe(self, index: int, take: int = 0) -> tuple[str, str, str]:
        """(caption, language, form) of video ``index``; another ``take``, another caption."""
        rng = random.Random(f"{self.seed}/{self.split}/{index}/clip/words/{take}")
        language, form = rng.choice(("en", "hi")), rng.choice(FORMS)
        return caption(self.video(index), language, form, rng), language, form

    def frames(self, index: int, device: torch.device | str = "cpu") -> Tensor:
        """The frames (f, 3, side, side) of video ``index``, in [-1, 1]."""
        return render(self.video(index).scenes(), self.side, device=device).pixels

    def __getitem__(self, index: int) -> VideoSample:
        if index < 0:
            raise IndexError("an endless world has no last video: use an index of 0 or more")
        video = self.video(index)
        drawn = render(video.scenes(), self.side, masks=True)
        assert drawn.masks is not None
        masks = torch.stack(drawn.masks)
        views = torch.tensor([video.camera.at(k / (video.frames - 1)) for k in range(video.frames)])
        words, language, form = self.describe(index)
        truth = VideoTruth(video, masks, torch.stack([maps.boxes(m) for m in masks]), views)
        return VideoSample(drawn.pixels, words, language, form, truth)


@lru_cache(maxsize=1 << 14)
def _video(seed: int, split: str, index: int) -> VideoScene:
    """A video of a world. Cached, because sampling one takes as long as to render several frames,
    and training words its captions anew each epoch."""
    return sample(random.Random(f"{seed}/{split}/{index}/clip"), split)
