"""Training of the video autoencoder's motion networks on groups of five consecutive frames."""

from __future__ import annotations

import random
from collections.abc import Iterable
from pathlib import Path
from typing import Literal

import torch
from pydantic import Field
from torch import Generator, Tensor

from kalpana.hub.weights import load_module
from kalpana.metrics import psnr
from kalpana.models import video_vae
from kalpana.models.video_vae import STRIDE, cross_fade
from kalpana.train import data_cache
from kalpana.train.losses import reconstruction_loss
from kalpana.train.recipe import Recipe, located
from kalpana.train.task import Metrics, config_of, noise
from kalpana.world.render import render
from kalpana.world.video import Videos

SMALL, LARGE = 64, 128  # sides of the rendered frames, in turn; a batch has as many pixels of each
DEV_GROUPS = 128  # at the small side, and a quarter as many at the large one


class VideoAutoencoderRecipe(Recipe):
    """Recipe of a video autoencoder."""

    family: Literal["video-vae"] = "video-vae"
    vae: Path = Field(
        description="weights of the trained image autoencoder, which stays frozen, such as "
        "weights/default/vae.safetensors"
    )
    posterior_std: float = Field(
        default=0.1,
        ge=0,
        description="standard deviation of the noise added to latents before they are decoded",
    )


class VideoAutoencoderTask:
    """Video autoencoder: the motion networks are trained, the image autoencoder of the recipe's
    ``vae`` is frozen.

    A batch holds groups of two keyframes and the three frames between them, each of a video of its
    own, at the video's own frame rate. Groups are coded independently, so the length of a video
    plays no part in training. Noise of ``posterior_std`` is added to all latents.
    """

    ahead = True

    def __init__(
        self, recipe: VideoAutoencoderRecipe, device: torch.device, progress: data_cache.Progress
    ) -> None:
        self.recipe, self.device = recipe, device
        network = video_vae.VideoVAE(config_of(video_vae.Config, recipe))
        network.image.load_state_dict(load_module(located(recipe.vae), "vae").state_dict())
        self.model = network.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]

    def batch(self, step: int) -> Tensor:
        """Groups (n, 5, 3, side, side) in [-1, 1]: ``batch`` of the small side at even steps, a
        quarter as many of the large side at odd ones."""
        side = LARGE if step % 2 else SMALL
        first, count = step * self.recipe.batch, self.recipe.batch * SMALL**2 // side**2
        return render_groups(self.recipe.seed, "train", range(first, first + count), side)

    def loss(self, batch: Tensor, rng: Generator, progress: float) -> tuple[Tensor, Metrics]:
        error = self._reconstruct(batch, self.recipe.posterior_std, rng) - batch
        between = error[:, 1:-1]
        loss = reconstruction_loss(between.flatten(0, 1)) + error.diff(dim=1).abs().mean()
        return loss, {"psnr": psnr(between.square().mean().item())}

    def _reconstruct(self, groups: Tensor, std: float, rng: Generator) -> Tensor:
        """Reconstructed groups (n, 5, 3, h, w), from latents with noise of ``std``."""
        n, model = len(groups), self.model
        with torch.no_grad():
            z = model.image.encode(groups[:, ::STRIDE].flatten(0, 1))
        z = z + std * noise(z, rng)
        motion = model.encode_motion(groups)
        motion = motion + std * noise(motion, rng)
        before, after = (model.keyframe(each) for each in z.unflatten(0, (n, 2)).unbind(1))
        between = model.between(before, after, motion)
        return torch.cat(
            (before.pixels[:, None].float(), between.float(), after.pixels[:, None].float()), 1
        )

    def evaluate(self) -> tuple[Metrics, Tensor]:
        """PSNR of the frames between keyframes on dev videos, beside two references: ``fade``, the
        cross-fade of the decoded keyframes, and ``frames``, each frame coded as a picture; the
        sheet has 24 frames, then their reconstructions."""
        rng, metrics = torch.Generator(), Metrics()
        for side in (SMALL, LARGE):
            errors: dict[str, list[Tensor]] = {"between": [], "fade": [], "frames": []}
            count = DEV_GROUPS * SMALL // side
            for start in range(0, count, 16):
                rows = range(start, start + 16)
                x = render_groups(self.recipe.seed, "dev", rows, side).to(self.device)
                y = self._reconstruct(x, 0.0, rng).clamp(-1, 1)
                true = x[:, 1:-1]
                image = self.model.image.decode(self.model.image.encode(true.flatten(0, 1)))
                candidates = {
                    "between": y[:, 1:-1],
                    "fade": cross_fade(y[:, 0], y[:, -1]),
                    "frames": image.float().clamp(-1, 1).view_as(true),
                }
                for name, frames in candidates.items():
                    errors[name].append((frames - true).square().mean((1, 2, 3, 4)))
            metrics |= {
                f"dev_psnr_{name}_{side}": psnr(torch.cat(each).mean().item())
                for name, each in errors.items()
            }
        return metrics, torch.cat((true[:8].flatten(0, 1), y[:8, 1:-1].flatten(0, 1)))

    def finish(self) -> None:
        """No final step: the preview is that of the image autoencoder."""


def render_groups(seed: int, split: str, indices: Iterable[int], side: int) -> Tensor:
    """Five consecutive frames of each of these videos of the world, (n, 5, 3, side, side) in
    [-1, 1]; they start at a random frame, which depends on the arguments alone."""
    videos, scenes = Videos(seed, split), []
    for i in indices:
        clip = videos.video(i)
        start = random.Random(f"{seed}/{split}/{i}/group").randrange(clip.frames - STRIDE)
        scenes += [clip.at(k / (clip.frames - 1)) for k in range(start, start + STRIDE + 1)]
    return render(scenes, side).pixels.unflatten(0, (-1, STRIDE + 1))
