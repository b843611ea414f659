"""Control DiT: the image transformer with control maps and known latents as further inputs.

Every map of a kind goes through an encoder of its own; the features are scaled by the strength of
the map, added up, and enter after the stem through a convolution that is zero at initialisation, as
in ControlNet (Zhang et al. 2023) and T2I-Adapter (Mou et al. 2023), but all weights are trained: at
this size a step costs hardly more than one of an adapter. So several maps act together, a map of
strength 0 is no map, and without maps the network is an ordinary DiT. Known latents (inpainting)
enter the same way.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor

from kalpana.models import dit
from kalpana.models.dit import DiT
from kalpana.types import Cond, KalpanaError

FACTOR = 8  # pixels of a map a latent, along each side


@dataclass(frozen=True)
class Config(dit.Config):
    """Fields of the image transformer, and the kinds of map."""

    kinds: tuple[str, ...] = ("edges", "outlines", "depth", "boxes", "pose", "glyphs")
    map_width: int = 96  # channels of a map's features


class ControlDiT(DiT):
    """Diffusion transformer with control: ``network(x_t, t, cond) -> prediction``.

    It reads these fields of the condition, besides ``tokens`` and ``null``:

    - ``control``: by kind (b, 4, 8h, 8w), a map in RGB, in [-1, 1], and its strength as a constant
      channel; a row of strength 0 has no such map
    - ``known`` (b, channels + 1, h, w): given latents, and their mask (1: given); latents that are
      not given count for nothing
    """

    reads: tuple[str, ...] = ("tokens", "control", "known")
    blends = True  # inpainting also replaces the estimate outside the mask

    def __init__(self, config: Config | None = None) -> None:
        config = config or Config()
        super().__init__(config)
        self.config: Config = config
        c = config
        self.maps = nn.ModuleDict(
            {kind: nn.Conv2d(3 * FACTOR**2, c.map_width, 1) for kind in c.kinds}
        )
        self.join = nn.Conv2d(c.map_width, c.fine, 3, padding=1, bias=False)
        self.known_stem = nn.Conv2d(c.channels + 1, c.fine, 3, padding=1, bias=False)
        self._init()
        for zero in (self.join, self.known_stem):
            nn.init.zeros_(zero.weight)

    @classmethod
    def widen(cls, image: DiT, **config: object) -> ControlDiT:
        """A control transformer with the weights of an image transformer; it predicts the same
        until it is trained. ``config`` holds other fields of its Config."""
        return cls(Config(**asdict(image.config) | config)).inherit(image)

    def _stem(self, x_t: Tensor, cond: Cond) -> Tensor:
        x = super()._stem(x_t, cond)
        if cond.known is not None:
            latents, mask = cond.known.to(x).split([self.config.channels, 1], 1)
            x = x + self.known_stem(torch.cat((latents * mask, mask), 1))
        if not cond.control:
            return x
        total = x.new_zeros(())
        for kind, given in cond.control.items():
            if kind not in self.maps:
                raise KalpanaError(
                    f"there is no control map {kind!r}: the kinds are {', '.join(self.maps)}"
                )
            picture, strength = given.to(x).split([3, 1], 1)
            features = F.silu(self.maps[kind](F.pixel_unshuffle(picture, FACTOR)))
            total = total + features * F.max_pool2d(strength, FACTOR)
        return x + self.join(total)
