"""Training of the video captioner: the next token of a caption, after the keyframes of its video.

Keyframes are tokens of a trained VQGAN, rendered evenly over the whole duration, so that captions
stay true; captions are worded anew each epoch.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from pydantic import Field
from torch import Generator, Tensor

from kalpana.hub.weights import load_module
from kalpana.models import video_captioner
from kalpana.models.vqgan import VQGAN
from kalpana.text.tokenizer import Tokenizer
from kalpana.train import data_cache
from kalpana.train.recipe import VideosRecipe, located
from kalpana.train.task import Metrics, autocast, config_of, indices
from kalpana.train.token_tasks import bits
from kalpana.types import KalpanaError, Tokens
from kalpana.world.render import render
from kalpana.world.video import Videos
from kalpana.world.world import VERSION

HELD_OUT = 256  # dev videos over which held-out scores are computed
PART = 64  # dev videos per evaluation batch
SHOWN = 8  # dev videos on the sample sheet, a row of keyframes each


class VideoCaptionerRecipe(VideosRecipe):
    """Recipe of a video captioner."""

    family: Literal["video-captioner"] = "video-captioner"
    vqgan: Path = Field(
        description="weights of the trained VQGAN, which turns keyframes into tokens, such as "
        "weights/vqgan/vqgan.safetensors"
    )
    dalle: Path | None = Field(
        default=None,
        description="weights of the DALL-E to start from, of the same VQGAN; the network then has "
        "its width, depth and heads",
    )


@dataclass(frozen=True)
class VideoCaptionBatch:
    """Batch of the video captioner."""

    frames: Tensor  # VQGAN tokens of the keyframes (b, f, grid, grid)
    seconds: Tensor  # (b,)
    tokens: Tokens  # of the captions


class VideoCaptionerTask:
    """Video captioner: cross-entropy of the next text token, given the keyframes."""

    ahead = True

    def __init__(
        self, recipe: VideoCaptionerRecipe, device: torch.device, progress: data_cache.Progress
    ) -> None:
        self.recipe, self.device, self.tokenizer = recipe, device, Tokenizer.load()
        self.vqgan = _vqgan(recipe).to(device)
        self.model = _network(recipe, self.vqgan, len(self.tokenizer)).to(device)
        side = self.model.config.grid * self.vqgan.config.factor
        self.world, self.dev = (Videos(recipe.seed, split, side) for split in ("train", "dev"))
        self.codes = self._codes(self.world, recipe.num_videos, progress)
        codes = self._codes(self.dev, HELD_OUT, progress)
        self.held_out = [
            self._batch(self.dev, codes, [(i, 0) for i in range(k, min(k + PART, HELD_OUT))])
            for k in range(0, HELD_OUT, PART)
        ]

    def batch(self, step: int) -> VideoCaptionBatch:
        return self._batch(
            self.world, self.codes, indices(self.recipe, step, self.recipe.num_videos)
        )

    def loss(
        self, batch: VideoCaptionBatch, rng: Generator, progress: float
    ) -> tuple[Tensor, Metrics]:
        loss = self.model.loss(batch.frames, batch.seconds, batch.tokens)
        return loss, {"text": bits(loss)}

    def evaluate(self) -> tuple[Metrics, Tensor]:
        """Bits per text token of dev captions, after their own keyframes and, for comparison, after
        those of another video ("other"); the sheet has the decoded keyframes of dev videos."""
        total, other, count = 0.0, 0.0, 0
        for part in self.held_out:
            frames, seconds = part.frames.to(self.device), part.seconds.to(self.device)
            tokens = part.tokens.to(self.device)
            words = int(tokens.mask[:, 1:].sum())
            total += bits(self.model.loss(frames, seconds, tokens)) * words
            wrong = self.model.loss(frames.roll(1, 0), seconds.roll(1, 0), tokens)
            other += bits(wrong) * words
            count += words
        sheet = self.held_out[0].frames[:SHOWN].flatten(0, 1).to(self.device)
        pixels = self.vqgan.decode(sheet).float()
        return {"dev_text": total / count, "dev_text_other": other / count}, pixels

    def finish(self) -> None:
        """No final step."""

    def _batch(
        self, world: Videos, codes: np.ndarray, rows: Sequence[tuple[int, int]]
    ) -> VideoCaptionBatch:
        """Batch of the videos in ``rows``, pairs of a row and the take of its caption."""
        captions = [world.describe(row, take)[0] for row, take in rows]
        return VideoCaptionBatch(
            torch.from_numpy(codes[[row for row, _ in rows]].astype(np.int64)),
            torch.tensor([world.video(row).seconds for row, _ in rows]),
            self.tokenizer.encode(captions, self.model.config.length),
        )

    def _codes(self, world: Videos, count: int, progress: data_cache.Progress) -> np.memmap:
        """Tokens of the keyframes of the first ``count`` videos, (count, f, grid, grid) uint16."""
        config, weights = self.model.config, located(self.recipe.vqgan)

        @torch.inference_mode()
        def encode() -> Iterator[np.ndarray]:
            for i in range(count):
                pixels = keyframes(world, i, config.frames).to(self.device)
                with autocast(self.device):
                    yield self.vqgan.encode(pixels)[None].cpu().numpy().astype(np.uint16)

        mark = data_cache.mark(weights, self.device)
        name = f"v{VERSION}-{world.split}-{world.seed}-{world.side}x{config.frames}-{count}-{mark}"
        path = data_cache.folder() / f"video-codes-{name}.npy"
        shape = (count, config.frames, config.grid, config.grid)
        return data_cache.array(path, shape, np.uint16, encode(), progress)


def keyframes(world: Videos, index: int, count: int) -> Tensor:
    """Keyframes (count, 3, side, side) in [-1, 1] of a video, evenly over its whole duration."""
    video = world.video(index)
    return render([video.at(k / (count - 1)) for k in range(count)], world.side).pixels


def _vqgan(recipe: VideoCaptionerRecipe) -> VQGAN:
    """The recipe's VQGAN. Raises KalpanaError if it has no encoder, or its codes do not fit into
    uint16."""
    vqgan = load_module(located(recipe.vqgan), "vqgan")
    if vqgan.encoder is None or vqgan.quantiser.size > 2**16:
        raise KalpanaError(
            f"recipe {recipe.name}: field 'vqgan': {recipe.vqgan} needs an encoder, "
            f"and at most {2**16} codes, not {vqgan.quantiser.size}"
        )
    return vqgan


def _network(
    recipe: VideoCaptionerRecipe, vqgan: VQGAN, vocabulary: int
) -> video_captioner.VideoCaptioner:
    """The network with the codes of the VQGAN and, if the recipe names a DALL-E, its size and
    weights. Raises KalpanaError if these do not fit each other or the recipe."""
    given = {"codes": vqgan.quantiser.size, "vocabulary": vocabulary}
    start = None if recipe.dalle is None else load_module(located(recipe.dalle), "dalle")
    if start is not None:
        if (start.config.codes, start.config.vocabulary) != tuple(given.values()):
            raise KalpanaError(
                f"recipe {recipe.name}: field 'dalle': {recipe.dalle} has {start.config.codes} "
                f"codes and {start.config.vocabulary} text tokens, not {given['codes']} and "
                f"{vocabulary}: give one that learned with {recipe.vqgan} and this tokenizer"
            )
        given |= {name: getattr(start.config, name) for name in ("width", "depth", "heads")}
    config = config_of(video_captioner.Config, recipe, given)
    for name, bad, why in (
        ("frames", config.frames < 2, "a motion shows in 2 keyframes or more"),
        ("grid", config.grid < 1, "write 1 or more"),
        (
            "patch",
            config.patch < 1 or config.grid % max(config.patch, 1),
            f"it does not divide the {config.grid} rows of a keyframe",
        ),
        (
            "heads",
            config.heads < 1 or config.width % (4 * max(config.heads, 1)),
            f"width {config.width} is no multiple of 4 x heads",
        ),
    ):
        if bad:
            raise KalpanaError(
                f"recipe {recipe.name}: field 'model.{name}': {getattr(config, name)}: {why}"
            )
    network = video_captioner.VideoCaptioner(config)
    if start is not None:
        network.start_from(start)
    return network
