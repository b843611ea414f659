"""Video VAE: keyframes coded by the image VAE, and motion channels for the frames between them.

A video has 4k + 1 frames. Latent frame k holds the image latent of frame 4k, in the first channels,
and a motion latent of the three frames before it, in the others; the motion latent of the first
frame is zero. So a picture is a video of one frame, and its latent and its pixels are those of the
image VAE, bit for bit. The image VAE is frozen. Coding keyframe and motion in channels of their own
converges faster than initialising a 3-D convolutional VAE (Reducio, Tian et al. 2024; CMD, Yu et
al. 2024).

The frames between two keyframes are the cross-fade of the decoded keyframes plus a residual, which
is zero at initialisation. They depend on two neighbouring latent frames only, so decoding latent
frame by latent frame is exact and takes constant memory.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn as nn
from torch import Tensor

from kalpana.models import vae
from kalpana.types import KalpanaError

STRIDE = 4  # frames from one keyframe to the next
BETWEEN = STRIDE - 1


@dataclass(frozen=True)
class Config(vae.Config):
    """Fields of the image VAE, and those of the motion networks."""

    motion: int = 8  # channels of the motion latent
    motion_fine: int = 64  # width at a quarter of the frame's side
    motion_coarse: int = 128  # width at an eighth
    motion_encoder: tuple[int, int] = (2, 2)  # residual blocks: fine, coarse
    motion_decoder: tuple[int, int] = (3, 4)  # residual blocks: fine, coarse


class Keyframe(NamedTuple):
    """A decoded keyframe: ``latents`` (b, latent, h/8, w/8), the image decoder's ``features``
    (b, fine, h/4, w/4) and ``pixels`` (b, 3, h, w)."""

    latents: Tensor
    features: Tensor
    pixels: Tensor


class VideoVAE(nn.Module):
    """Videos (b, f, 3, h, w) in [-1, 1] to latents (b, 1 + (f - 1) / 4, channels, h/8, w/8) of unit
    variance, and back. f is 4k + 1; h and w are multiples of 8.
    """

    factor = 8
    time_factor = STRIDE

    def __init__(self, config: Config | None = None) -> None:
        super().__init__()
        self.config = c = config or Config()
        self.image = vae.VAE(c).requires_grad_(False)
        self.motion_encoder = nn.Sequential(
            nn.PixelUnshuffle(4),  # b 16·3·5 h/4 w/4
            nn.Conv2d(16 * 3 * (STRIDE + 1), c.motion_fine, 3, padding=1),
            *[vae.Block(c.motion_fine) for _ in range(c.motion_encoder[0])],
            nn.Conv2d(c.motion_fine, c.motion_coarse, 4, stride=2, padding=1),  # b coarse h/8 w/8
            *[vae.Block(c.motion_coarse) for _ in range(c.motion_encoder[1])],
            nn.Conv2d(c.motion_coarse, c.motion, 1),
        )
        self.norm = nn.BatchNorm2d(c.motion, affine=False, momentum=0.01)
        self.motion_decoder = nn.Sequential(
            nn.Conv2d(2 * c.latent + c.motion, c.motion_coarse, 3, padding=1),
            *[vae.Block(c.motion_coarse) for _ in range(c.motion_decoder[1])],
            nn.Conv2d(c.motion_coarse, 4 * c.motion_fine, 1),
            nn.PixelShuffle(2),  # b motion_fine h/4 w/4
        )
        last = nn.Conv2d(c.motion_fine, 16 * 3 * BETWEEN, 3, padding=1)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)  # type: ignore[arg-type]
        self.residual = nn.Sequential(
            nn.Conv2d(c.motion_fine + 2 * c.fine, c.motion_fine, 3, padding=1),
            *[vae.Block(c.motion_fine) for _ in range(c.motion_decoder[0])],
            last,
            nn.PixelShuffle(4),  # b 3·3 h w
        )

    @property
    def key_channels(self) -> int:
        """Channels of a latent frame that are those of the image latent."""
        return self.config.latent

    @property
    def channels(self) -> int:
        """Channels of a latent frame: those of the image latent, then those of the motion."""
        return self.config.latent + self.config.motion

    def shape(self, height: int, width: int, frames: int = 1) -> tuple[int, ...]:
        """Shape (f, channels, h/8, w/8) of the latents of a video with at least so many frames."""
        latent_frames = 1 + -(-(frames - 1) // STRIDE)
        return latent_frames, self.channels, height // self.factor, width // self.factor

    def train(self, mode: bool = True) -> VideoVAE:
        """Set the mode of the motion networks; the frozen image VAE stays in evaluation mode."""
        super().train(mode)
        self.image.eval()
        return self

    def encode(self, video: Tensor) -> Tensor:
        """Latents (b, 1 + (f - 1) / 4, channels, h/8, w/8) of a video (b, f, 3, h, w).

        Raises KalpanaError where f is not 4k + 1.
        """
        b, f = video.shape[:2]
        if f % STRIDE != 1:
            near = max(1, f - (f - 1) % STRIDE)
            raise KalpanaError(
                f"a video of {f} frames cannot be encoded: give 4k + 1 frames, "
                f"such as {near} or {near + STRIDE}"
            )
        keys = self.image.encode(video[:, ::STRIDE].flatten(0, 1)).unflatten(0, (b, -1))
        motion = keys.new_zeros(b, keys.shape[1], self.config.motion, *keys.shape[3:])
        if f > 1:
            # b k 3 h w 5, a view: neighbouring groups share their keyframe
            groups = video.unfold(1, STRIDE + 1, STRIDE).movedim(-1, 2).flatten(0, 1)
            motion[:, 1:] = self.encode_motion(groups).unflatten(0, (b, -1))
        return torch.cat((keys, motion), 2)

    def encode_motion(self, groups: Tensor) -> Tensor:
        """Normalised motion latents (n, motion, h/8, w/8) of groups (n, 5, 3, h, w): two keyframes
        and the three frames between them."""
        return self.norm(self.motion_encoder(groups.flatten(1, 2)))

    def decode(self, latents: Tensor) -> Tensor:
        """Video (b, f, 3, h, w) of latents; its pixels may be slightly outside [-1, 1]."""
        return torch.cat(list(self.decode_chunks(latents.unbind(1))), 1)

    def decode_chunks(self, latents: Iterable[Tensor]) -> Iterator[Tensor]:
        """The decoded frames (b, n, 3, h, w) of each latent frame (b, channels, h/8, w/8) in turn:
        one frame for the first latent frame, four for each that follows.

        Only the last keyframe is kept between latent frames. The first latent frame's motion is not
        used, so a video can be decoded from any latent frame on.
        """
        before: Keyframe | None = None
        for frame in latents:
            z, motion = frame.split([self.config.latent, self.config.motion], 1)
            after = self.keyframe(z)
            pixels = after.pixels.unsqueeze(1)
            if before is not None:
                pixels = torch.cat((self.between(before, after, motion).to(pixels), pixels), 1)
            yield pixels
            before = after

    def keyframe(self, z: Tensor) -> Keyframe:
        """The keyframe of image latents (b, latent, h/8, w/8)."""
        features = self.image.decoder[:-2](z)
        return Keyframe(z, features, self.image.decoder[-2:](features))

    def between(self, before: Keyframe, after: Keyframe, motion: Tensor) -> Tensor:
        """The three frames (b, 3, 3, h, w) between two keyframes, from their motion latents."""
        coarse = self.motion_decoder(torch.cat((before.latents, after.latents, motion), 1))
        fine = torch.cat((coarse, before.features, after.features), 1)
        residual = self.residual(fine).unflatten(1, (BETWEEN, 3))
        return cross_fade(before.pixels, after.pixels) + residual

    def preview(self, latents: Tensor) -> Tensor:
        """Preview (b, f, 3, h/8, w/8) in [-1, 1] of the keyframes of latents (b, f, ...)."""
        keys = latents[:, :, : self.config.latent]
        return self.image.preview(keys.flatten(0, 1)).unflatten(0, keys.shape[:2])


def cross_fade(before: Tensor, after: Tensor) -> Tensor:
    """The three frames (b, 3, c, h, w) of a linear fade between two frames (b, c, h, w)."""
    share = (
        torch.arange(1, STRIDE, dtype=torch.float32, device=before.device)[:, None, None, None]
        / STRIDE
    )
    first, last = before.float().unsqueeze(1), after.float().unsqueeze(1)
    return first + share * (last - first)
