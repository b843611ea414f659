"""Training of the video transformer on videos and pictures of the world."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from pydantic import Field
from torch import Generator, Tensor

from kalpana.diffusion.denoiser import Denoiser, Process
from kalpana.diffusion.guidance import guide
from kalpana.diffusion.samplers import SAMPLERS, sample
from kalpana.diffusion.schedule import Flow, times
from kalpana.hub.weights import load_module
from kalpana.models import video_dit
from kalpana.text.tokenizer import Tokenizer
from kalpana.train import data_cache, recaptions
from kalpana.train.diffusion import noise_times
from kalpana.train.recipe import ConditionalRecipe, VideosRecipe, located
from kalpana.train.task import Metrics, config_of, noise
from kalpana.train.video_cache import Bucket, Pool, pool
from kalpana.types import Cond, Tokens
from kalpana.world.video import Videos
from kalpana.world.world import World

PICTURES = 0.2  # share of the steps that train on pictures
# Shares of the steps that train on videos, by their size and number of latent frames.
BUCKETS = {
    Bucket(64, 64, 5): 0.35,
    Bucket(64, 64, 7): 0.15,
    Bucket(64, 64, 9): 0.1,
    Bucket(64, 96, 5): 0.13,
    Bucket(96, 64, 5): 0.13,
    Bucket(128, 128, 5): 0.14,
}
DEV = Bucket(64, 64, 5)
DEV_VIDEOS = 64
SHOWN, SHOWN_FRAMES = 8, 8  # videos on the sample sheet, and frames of each: a square sheet
# Added to the log-odds of the noise time where all frames share it: frames tell of each other, and
# motion is decided nearer to noise than what a picture shows (shift, Esser et al. 2024).
MORE_NOISE = 0.8
# Shares of videos: one time for all frames; one for each frame and for its motion; else some frames
# are given.
SHARED, INDEPENDENT = 0.5, 0.2
# Which frames are given, with weights: the first; the first and the last picture; the last picture;
# the first two or three; a random half.
GIVEN = {"first": 5, "ends": 2, "last": 1, "prefix": 2, "random": 2}
REST = 0.1  # given frames have noise up to this time in half of the videos


@dataclass(frozen=True)
class VideoBatch:
    """Batch of the video task: videos of one bucket, or pictures as videos of one frame."""

    latents: Tensor  # (b, f, c, h, w) float16
    tokens: Tokens  # of the captions
    seconds: Tensor  # (b, f)
    camera: Tensor  # (b, f, 4)


class VideoFlowRecipe(ConditionalRecipe, VideosRecipe):
    """Recipe of a video transformer."""

    family: Literal["video"] = "video"
    vae: Path = Field(
        description="weights of the trained video autoencoder, such as "
        "weights/video/video_vae.safetensors"
    )
    image_model: Path | None = Field(
        default=None,
        description="weights of the image transformer to start from; the network then has its "
        "config",
    )

    captions: Literal["true", "short", "noisy", "captioner", "mixture"] = Field(
        default="true",
        description="captions of the videos: true ones of all lengths; short ones; noisy ones, "
        "with half of the facts left out and 15 % wrong; those of a captioner; or a mixture of "
        "these with 5 % noisy ones. Pictures have true ones",
    )
    captions_file: Path | None = Field(
        default=None,
        description="captions of a captioner, written by kalpana world recaption",
    )

    def problems(self) -> Iterator[tuple[str, str]]:
        yield from super().problems()
        needed = self.captions in ("captioner", "mixture")
        if needed and self.captions_file is None:
            yield "captions", f"{self.captions} needs captions_file, from kalpana world recaption"
        if self.captions_file is not None and not needed:
            yield "captions_file", f"captions {self.captions} need no file: leave it out"

    @property
    def process(self) -> Process:
        """Process that the network is trained for."""
        return Process("flow", "x0")


class VideoFlowTask:
    """Flow matching of the video transformer, with a noise time for each latent frame.

    The recipe's ``vae`` holds the video autoencoder, and ``image_model`` the image transformer to
    start from. A step's batch is of one bucket; ``batch`` is its size for the smallest one, and
    larger ones have as many latent positions. The loss leaves out frames that are given.
    """

    ahead = True

    def __init__(
        self, recipe: VideoFlowRecipe, device: torch.device, progress: data_cache.Progress
    ) -> None:
        self.recipe, self.device, self.schedule = recipe, device, Flow()
        network = (
            video_dit.VideoDiT.inflate(load_module(located(recipe.image_model), "flow"))
            if recipe.image_model
            else video_dit.VideoDiT(config_of(video_dit.Config, recipe))
        )
        self.model = network.to(device)
        self.decoder = load_module(located(recipe.vae), "video-vae").to(device)
        self.tokenizer = Tokenizer.load()
        world = Videos(recipe.seed, "train")
        self.pools = [
            self._pool(world, bucket, max(1, round(share * recipe.num_videos)), progress)
            for bucket, share in BUCKETS.items()
        ]
        self.dev = self._pool(Videos(recipe.seed, "dev"), DEV, DEV_VIDEOS, progress)
        self.describe = self._source(world)
        self.world = World(recipe.seed, "train", kind=recipe.kind)
        self.pictures = data_cache.latents(
            self.decoder.image, located(recipe.vae), self.world, recipe.num_images, device, progress
        )

    def batch(self, step: int) -> VideoBatch:
        rng = np.random.default_rng([self.recipe.seed, step])
        if rng.random() < PICTURES:
            return self._pictures(rng)
        shares = np.array(list(BUCKETS.values()))
        chosen = self.pools[rng.choice(len(self.pools), p=shares / shares.sum())]
        rows = self._rows(rng, chosen.bucket.cells, len(chosen.index))
        latents = torch.from_numpy(np.stack([chosen.latents[row] for row in rows]))
        videos = [int(chosen.index["video"][row]) for row in rows]
        captions = [self.describe(each, int(rng.integers(1 << 30))) for each in videos]
        return VideoBatch(
            latents,
            self.tokenizer.encode(captions, self.model.config.length),
            torch.stack([chosen.seconds(row) for row in rows]),
            torch.stack([chosen.camera(row) for row in rows]),
        )

    def _source(self, world: Videos) -> recaptions.Describe:
        """The captions of the videos in the pools. Raises KalpanaError if a captioner's are needed
        and some are missing."""
        path, found = self.recipe.captions_file, None
        if path is not None:
            found = recaptions.read(path)
            videos = (int(each) for pool in self.pools for each in pool.index["video"])
            recaptions.check(found, path, world, videos)
        return recaptions.source(self.recipe.captions, world, found)

    def _rows(self, rng: np.random.Generator, cells: int, count: int) -> list[int]:
        """Random rows of a pool of ``count``, as many as a batch of videos of so many cells has."""
        smallest = min(bucket.cells for bucket in BUCKETS)
        return rng.integers(count, size=max(1, self.recipe.batch * smallest // cells)).tolist()

    def _pictures(self, rng: np.random.Generator) -> VideoBatch:
        cells = self.pictures.shape[-1] * self.pictures.shape[-2]
        rows = self._rows(rng, cells, len(self.pictures))
        captions = [self.world.describe(row, int(rng.integers(1 << 30)))[0] for row in rows]
        keys = torch.from_numpy(np.stack([self.pictures[row] for row in rows]))
        motion = keys.new_zeros(len(keys), self.model.config.motion, *keys.shape[2:])
        tokens = self.tokenizer.encode(captions, self.model.config.length)
        one = torch.zeros(len(rows), 1)
        return VideoBatch(
            torch.cat((keys, motion), 1)[:, None], tokens, one, one[..., None].expand(-1, -1, 4)
        )

    def loss(self, batch: VideoBatch, rng: Generator, progress: float) -> tuple[Tensor, Metrics]:
        x0 = batch.latents.float()
        b, f = x0.shape[:2]
        t, given = frame_times(b, f, rng)
        null = torch.rand(b, generator=rng) < self.recipe.caption_dropout
        with_camera = f > 1 and bool(torch.rand((), generator=rng) < 0.5)
        cond = Cond(
            batch.tokens,
            null.to(self.device),
            camera=batch.camera if with_camera else None,
            seconds=batch.seconds,
        )
        error = self._velocity_error(x0, t.to(x0), noise(x0, rng), cond)  # b f 2
        wanted = (~given).to(error)
        loss = (error * wanted).sum() / wanted.sum()
        return loss, {"pictures" if f == 1 else "videos": loss.item()}

    def _velocity_error(self, x0: Tensor, t: Tensor, eps: Tensor, cond: Cond) -> Tensor:
        """(b, f, 2) mean squared error of the velocity (x_t - x0) / t implied by the x0 estimate,
        in keyframe and motion channels weighted by their number, for times ``t`` (b, f, 2)."""
        key, motion = self.model.config.channels, self.model.config.motion
        time = t.repeat_interleave(torch.tensor([key, motion], device=t.device), -1)[
            ..., None, None
        ]
        prediction = self.model((1 - time) * x0 + time * eps, t, cond).float()
        error = ((prediction - x0) / time.clamp(min=1e-3)).square().mean((3, 4))  # b f c
        parts = error.split([key, motion], 2)
        return torch.stack([part.sum(2) for part in parts], -1) * 2 / (key + motion)

    def evaluate(self) -> tuple[Metrics, Tensor]:
        """Velocity error on dev videos, one noise time for all frames; the sheet has samples for
        the first dev captions, a row of frames each."""
        rng, errors = torch.Generator().manual_seed(0), []
        rows = range(DEV_VIDEOS)
        x0 = torch.from_numpy(np.array(self.dev.latents)).to(self.device).float()
        t = noise_times(DEV_VIDEOS, rng)[:, None, None].expand(-1, DEV.frames, 2).to(x0)
        eps = torch.randn(x0.shape, generator=rng).to(x0)
        for part in np.array_split(np.array(rows), 4):
            cond = self._dev_cond(part.tolist())
            errors.append(self._velocity_error(x0[part], t[part], eps[part], cond))
        shape = (SHOWN, *x0.shape[1:])
        x = torch.randn(shape, generator=rng).to(self.device)
        denoise = guide(
            Denoiser(self.model, self.schedule), self._dev_cond(list(range(SHOWN))), 4.5, (0.2, 0.9)
        )
        for state in sample(denoise, x, times(20, 2.0), SAMPLERS["dpmpp-2m"]):
            x = state.x
        shown = torch.linspace(0, DEV.pixel_frames - 1, SHOWN_FRAMES).round().long()
        video = self.decoder.decode(x.float()).float()[:, shown]
        return {"dev_loss": torch.cat(errors).mean().item()}, video.flatten(0, 1)

    def finish(self) -> None:
        """No final step."""

    def _pool(
        self, world: Videos, bucket: Bucket, count: int, progress: data_cache.Progress
    ) -> Pool:
        return pool(
            self.decoder, located(self.recipe.vae), world, bucket, count, self.device, progress
        )

    def _dev_cond(self, rows: list[int]) -> Cond:
        captions = [self.dev.caption(row, 0) for row in rows]
        tokens = self.tokenizer.encode(captions, self.model.config.length)
        seconds = torch.stack([self.dev.seconds(row) for row in rows])
        return Cond(tokens, seconds=seconds).to(self.device)


def frame_times(b: int, f: int, rng: Generator) -> tuple[Tensor, Tensor]:
    """Noise times (b, f, 2) of the keyframe and motion channels of each latent frame, and which of
    them are given, (b, f, 2) bool: these have a time of at most REST, and no loss.

    Each video has one time for all frames, or one for each frame and channel group, or given frames
    and one time for the others.
    """
    one = noise_times(b, rng)[:, None, None].expand(b, f, 2)
    given = torch.zeros(b, f, 2, dtype=torch.bool)
    if f == 1:
        return one, given
    one = torch.sigmoid(torch.logit(one) + MORE_NOISE)
    kind = torch.rand(b, generator=rng)
    separate = noise_times(b * f * 2, rng).view(b, f, 2)
    t = torch.where(
        ((kind >= SHARED) & (kind < SHARED + INDEPENDENT))[:, None, None], separate, one
    )
    for row in (kind >= SHARED + INDEPENDENT).nonzero()[:, 0].tolist():
        given[row] = _given(f, rng)
    rest = torch.rand(b, 1, 1, generator=rng) * REST * (torch.rand(b, 1, 1, generator=rng) < 0.5)
    return torch.where(given, rest, t), given


def _given(f: int, rng: Generator) -> Tensor:
    """Which keyframe and motion channels of a video are given, (f, 2) bool: a random choice of
    GIVEN. At least one frame is not."""
    weights = torch.tensor(list(GIVEN.values()), dtype=torch.float)
    kind = list(GIVEN)[int(torch.multinomial(weights, 1, generator=rng))]
    given = torch.zeros(f, 2, dtype=torch.bool)
    if kind in ("first", "ends"):
        given[0] = True
    if kind in ("ends", "last"):
        given[-1, 0] = True
    if kind == "prefix":
        given[: min(f - 1, int(torch.randint(2, 4, (), generator=rng)))] = True
    if kind == "random":
        some = torch.randperm(f, generator=rng)[: f // 2]
        given[some, 0] = True
        given[some, 1] = bool(torch.rand((), generator=rng) < 0.5)
    return given
