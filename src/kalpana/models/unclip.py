"""Decoder of unCLIP (DALL-E 2): the image transformer with a CLIP image vector as a further input.

The vector is added to the time embedding, through a projection that is zero at initialisation, and
comes as tokens after the words, whose keys have a learned bias (Ramesh et al. 2022, section 2.1).
It may have noise, at a level that the network is told, as in Stable unCLIP. Vector and text can be
left out separately. Simplified: one picture size and no upsamplers. The vectors of a text are drawn
by the prior, prior.py.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor

from kalpana.models import dit
from kalpana.models.dit import DiT
from kalpana.models.layers import timestep_embedding
from kalpana.types import Cond

# First bias of the keys of the vector's tokens: at first they hardly disturb the words. With -4
# they were still hardly read after 13,000 samples.
KEY_BIAS = -1.0
GAIN = 4.0  # of the projection to the time embedding, which so learns faster than other layers


class Standard(nn.Module):
    """Standardisation of CLIP vectors: unit vectors (b, d) times sqrt(d), minus their mean, divided
    by their deviation, so that each number has mean 0 and variance 1.

    The constants are buffers, which ``fit`` sets and the weights keep.
    """

    mean: Tensor
    deviation: Tensor

    def __init__(self, features: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(features))
        self.register_buffer("deviation", torch.ones(features))

    def fit(self, vectors: Tensor) -> None:
        """Take the constants from unit vectors (n, d) of many pictures."""
        scaled = vectors.float() * vectors.shape[1] ** 0.5
        self.mean.copy_(scaled.mean(0))
        self.deviation.copy_(scaled.std(0).clamp(min=1e-3))

    def forward(self, vectors: Tensor) -> Tensor:
        """Standardised vectors z (b, d) of unit vectors."""
        return (vectors * vectors.shape[1] ** 0.5 - self.mean) / self.deviation

    def inverse(self, z: Tensor) -> Tensor:
        """Unit vectors (b, d) of standardised ones."""
        return F.normalize(z * self.deviation + self.mean, dim=1)


def with_noise(z: Tensor, eps: Tensor, level: Tensor) -> Tensor:
    """Condition (b, d + 1) of the decoder: standardised vectors with noise at a level (b,), and
    that level. It is (1 - level) z + level eps; at level 1 nothing is left of the vector."""
    level = level[:, None].to(z)
    return torch.cat(((1 - level) * z + level * eps, level), 1)


@dataclass(frozen=True)
class Config(dit.Config):
    """Fields of the image transformer, and of the CLIP vector."""

    features: int = 192  # of the CLIP
    vector_tokens: int = 4


class Unclip(DiT):
    """Decoder of unCLIP: ``network(x_t, t, cond) -> prediction``.

    ``cond.embedding`` (b, d + 1) is that of ``with_noise``. A row of level 1, and a null row, has
    no vector; a row whose text mask is empty has a vector and no text. ``standard`` turns unit CLIP
    vectors into those of the condition.
    """

    reads: tuple[str, ...] = ("tokens", "embedding")

    def __init__(self, config: Config | None = None) -> None:
        config = config or Config()
        super().__init__(config)
        self.config: Config = config
        c = config
        self.standard = Standard(c.features)
        self.vector_time = nn.Linear(c.features + 256, c.width, bias=False)
        self.vector = nn.Linear(c.features + 256, c.vector_tokens * c.width)
        self.key_bias = nn.Parameter(torch.full((c.vector_tokens,), KEY_BIAS))
        self._init()
        nn.init.zeros_(self.vector_time.weight)

    @classmethod
    def widen(cls, image: DiT, **config: object) -> Unclip:
        """A decoder with the weights of an image transformer. Without a vector it predicts the
        same, and with one, until it is trained, nearly so. ``config`` holds other fields of its
        Config."""
        network = cls(Config(**asdict(image.config) | config))
        return network.inherit(image)

    def _time(self, wave: Tensor, cond: Cond) -> Tensor:
        if cond.embedding is None:
            return super()._time(wave, cond)
        enter, leave = self.time[0], self.time[2]
        parts = self._parts(wave, cond)
        return torch.cat(
            [leave(F.silu(enter(wave) + self.vector_time(GAIN * part))) for part in parts]
        )

    def _extra(self, wave: Tensor, cond: Cond) -> tuple[Tensor, Tensor] | None:
        if cond.embedding is None:
            return None
        tokens = torch.cat([self.vector(part) for part in self._parts(wave, cond)])  # b k·d
        bias = torch.where(self._has_vector(cond)[:, None], self.key_bias.float(), -1e4)  # b k
        return tokens.unflatten(1, (self.config.vector_tokens, -1)), bias

    def _parts(self, wave: Tensor, cond: Cond) -> tuple[Tensor, ...]:
        """What is given of the vectors, see ``_given``, in parts that are projected together.

        With one time for all rows each row is a part, since the rounding of products of few rows
        depends on their number: a picture is the same in every batch.
        """
        given = self._given(cond)
        return given.split(1 if len(wave) == 1 else len(given))

    def _given(self, cond: Cond) -> Tensor:
        """Vector and sinusoidal embedding of its noise level (b, d + 256), 0 in rows without."""
        assert cond.embedding is not None
        vector, level = cond.embedding.float().split([self.config.features, 1], 1)
        given = torch.cat((vector, timestep_embedding(level[:, 0])), 1)
        return given * self._has_vector(cond)[:, None]

    def _has_vector(self, cond: Cond) -> Tensor:
        """Rows (b,) with a vector."""
        assert cond.embedding is not None
        given = cond.embedding[:, -1] < 1
        return given if cond.null is None else given & ~cond.null
