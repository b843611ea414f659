"""Style by a reference picture: shared attention (StyleAligned, Hertz et al. 2024).

The reference, noised like the sample, is one more row of the batch. In some blocks the queries and
keys of the other rows' patches take on its statistics (AdaIN), and its keys and values are appended
to theirs. Training-free: it is for transformers of words and patches as in ``models.dit``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from kalpana.models.layers import Rotation
from kalpana.types import Cond, Tokens

SHARE = 4  # a share of 1 / SHARE of the blocks, the first ones, attends to no reference


@dataclass(frozen=True)
class Reference:
    """The last row of a batch of b rows as a reference for the others.

    - ``words``: number of word tokens, which stay as they are
    - ``strength`` in (0, 1]: weight of AdaIN
    - ``rotation``: rotary tables of all keys, those of the reference behind the own ones
    - ``bias`` (b, 1, l + hw, hw): added to the scores of the reference's keys
    """

    words: int
    strength: float
    rotation: Rotation
    bias: Tensor

    def share(
        self, q: Tensor, k: Tensor, v: Tensor, bias: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Queries, keys, values (b, n, l + hw, d) and the bias of the scores, with the
        reference's."""
        bias = torch.cat((bias.expand(*self.bias.shape[:3], -1), self.bias.to(bias)), -1)
        return self._aligned(q), self._appended(self._aligned(k)), self._appended(v), bias

    def _aligned(self, x: Tensor) -> Tensor:
        """Adaptive instance normalisation (Huang and Belongie 2017) over the patches."""
        words, image = x[:, :, : self.words], x[:, :, self.words :]
        std, mean = torch.std_mean(image, 2, keepdim=True)
        other = (image - mean) / std.clamp(min=1e-5) * std[-1:] + mean[-1:]
        return torch.cat((words, torch.lerp(image, other, self.strength)), 2)

    def _appended(self, x: Tensor) -> Tensor:
        """Keys or values, and those of the reference's patches."""
        return torch.cat((x, x[-1:, :, self.words :].expand(len(x), -1, -1, -1)), 2)


def reference_bias(b: int, words: int, patches: int, strength: float) -> Tensor:
    """The bias (b, 1, words + patches, patches) of the reference's keys, the log odds of
    ``strength``; words and the reference itself do not attend to them."""
    bias = torch.full((b, 1, words + patches, patches), -1e4)
    bias[:-1, :, words:] = math.log(strength / max(1 - strength, 0.05))
    return bias


def with_reference(x_t: Tensor, t: Tensor, cond: Cond) -> tuple[Tensor, Tensor, Cond]:
    """The arguments of a network with the reference picture of ``cond.style`` as one more row,
    which has no text and no maps."""
    assert cond.style is not None
    rest, known, control = replace(cond, style=None), cond.known, cond.control
    row = replace(
        rest,
        tokens=cond.tokens
        and Tokens(torch.zeros_like(cond.tokens.ids[:1]), torch.zeros_like(cond.tokens.mask[:1])),
        null=torch.ones(1, dtype=torch.bool, device=x_t.device),
        known=None if known is None else torch.zeros_like(known[:1]),
        control=control and {kind: torch.zeros_like(each[:1]) for kind, each in control.items()},
    )
    t = t if len(t) == 1 else torch.cat((t, t[-1:]))
    return torch.cat((x_t, cond.style[:, :-1].to(x_t))), t, Cond.cat(rest, row)
