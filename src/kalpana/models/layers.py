"""Layers that several families share: norm, SwiGLU, rotary positions, timestep and text
embedding, and fused cross-entropy."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from kalpana.types import Cond

# Rows of features whose logits are in memory together: on a CPU, where so many fit the caches, and
# on other devices.
ROWS, MANY = (256, 16384)
Rotation = tuple[Tensor, Tensor]  # cosines and sines, (l, d/n/2) each


class SwiGLU(nn.Module):
    """Gated feed-forward (Shazeer 2020), 8/3 as wide inside, rounded up to a multiple of 64."""

    def __init__(self, width: int) -> None:
        super().__init__()
        hidden = math.ceil(width * 8 / 3 / 64) * 64
        self.up = nn.Linear(width, 2 * hidden, bias=False)
        self.down = nn.Linear(hidden, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        gate, value = self.up(x).chunk(2, -1)
        return self.down(F.silu(gate) * value)


class TextEmbedding(nn.Module):
    """Text embedding: ``(cond, b)`` to token embeddings (b, l, d) and their mask (b, l).

    Null rows have one null token.
    """

    def __init__(self, vocabulary: int, width: int) -> None:
        super().__init__()
        self.words = nn.Embedding(vocabulary, width)
        self.null = nn.Parameter(torch.zeros(width))

    def forward(self, cond: Cond, b: int) -> tuple[Tensor, Tensor]:
        return embed_text(self.words, self.null, cond, b)


def embed_text(words: nn.Embedding, null: Tensor, cond: Cond, b: int) -> tuple[Tensor, Tensor]:
    """Token embeddings (b, l, d) of a condition and their mask (b, l).

    Rows without text (null rows, and rows without a real token) have one token, with the embedding
    ``null`` (d,).
    """
    if cond.tokens is None:
        mask = torch.ones(b, 1, dtype=torch.bool, device=null.device)
        return null.expand(b, 1, -1), mask
    embedded, mask = words(cond.tokens.ids), cond.tokens.mask
    without = ~mask.any(1) if cond.null is None else cond.null | ~mask.any(1)
    first = torch.arange(mask.shape[1], device=mask.device) == 0
    embedded = torch.where(without[:, None, None], null, embedded)
    return embedded, torch.where(without[:, None], first, mask)


def norm(x: Tensor) -> Tensor:
    """RMSNorm over the last axis, without gains."""
    return F.rms_norm(x, x.shape[-1:])


def modulate(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """RMSNorm with an adaptive scale and shift: norm(x) * (1 + scale) + shift."""
    return torch.addcmul(shift, norm(x), 1 + scale)


def frequencies(n: int, base: float, device: torch.device) -> Tensor:
    """Angular frequencies (n,), geometrically from 1 down to about 1 / base."""
    return base ** -(torch.arange(n, dtype=torch.float32, device=device) / n)


def timestep_embedding(t: Tensor) -> Tensor:
    """Sinusoidal embedding (b, 256) of times t (b,) in [0, 1]."""
    angles = 100 * t[:, None] * frequencies(128, 1000, t.device)
    return torch.cat((angles.sin(), angles.cos()), -1)


def positions(grid: Tensor, width: int) -> Tensor:
    """Fixed sinusoidal position embedding (hw, width) of rows and columns ``grid`` (hw, 2).

    Unlike a learned one, it has full strength from the first training step.
    """
    angles = grid.unsqueeze(-1) * frequencies(width // 4, 100, grid.device)  # hw 2 d/4
    return torch.cat((angles.sin(), angles.cos()), -1).flatten(1)


def rope_tables(angles: Tensor) -> Rotation:
    """Cosines and sines, (l, k) each, of rotary angles (l, k)."""
    return angles.cos(), angles.sin()


def rotate(x: Tensor, rotation: Rotation) -> Tensor:
    """Rotary position embedding: x (b, n, l, 2k) with each feature pair (i, i + k) rotated.

    ``rotation`` holds the cosines and sines of the angles, from ``rope_tables``.
    """
    cos, sin = (each.to(x.dtype) for each in rotation)
    a, b = x.chunk(2, -1)
    return torch.cat((a * cos - b * sin, b * cos + a * sin), -1)


def fused_cross_entropy(x: Tensor, head: nn.Linear, wanted: Tensor) -> Tensor:
    """Fused linear cross-entropy: the sum over n rows, in nats, with target ids ``wanted`` (n,).

    The logits are those of the linear layer ``head`` without bias for features x (n, d). Logits,
    probabilities and gradients exist for a few rows at a time. All at once they would be by far the
    largest tensors of a training step, and moving them takes longer than computing them (as in
    Liger's fused linear cross-entropy, Hsu et al. 2024).
    """
    return _FusedCrossEntropy.apply(x, head.weight, wanted)


class _FusedCrossEntropy(torch.autograd.Function):
    """Autograd function that computes the gradients in the forward pass, by parts."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, wanted: Tensor) -> Tensor:
        device, needs_grad = x.device.type, any(ctx.needs_input_grad)
        size = ROWS if device == "cpu" else MANY
        autocast = torch.is_autocast_enabled(device)
        dtype = torch.get_autocast_dtype(device) if autocast else weight.dtype
        grad_x, grad_weight = torch.empty_like(x), torch.zeros_like(weight)
        total = x.new_zeros((), dtype=torch.promote_types(weight.dtype, torch.float32))
        rows, weight = x.to(dtype), weight.to(dtype)
        parts = rows.split(size), wanted[:, None].split(size), grad_x.split(size)
        with torch.autocast(device, enabled=False):
            for part, ids, grad_part in zip(*parts, strict=True):
                values = (part @ weight.T).to(total.dtype)  # r v, logits
                values -= values.amax(1, keepdim=True)
                target = values.gather(1, ids)
                mass = values.exp_().sum(1, keepdim=True)
                total += (mass.log() - target).sum()
                if needs_grad:
                    # Softmax minus one-hot: the gradient with respect to the logits.
                    minus_one = values.new_full(ids.shape, -1.0)
                    grad_logits = (values / mass).scatter_add_(1, ids, minus_one).to(dtype)
                    grad_part.copy_(grad_logits @ weight)
                    grad_weight += grad_logits.T @ part
        ctx.save_for_backward(grad_x, grad_weight)
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, None]:
        grad_x, grad_weight = ctx.saved_tensors
        return grad_x * gradient, grad_weight * gradient, None
