"""Patch discriminator of a VQGAN, and the losses of the adversarial game."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor


class Discriminator(nn.Module):
    """Patch discriminator: pixels (b, 3, h, w) to logits of real against generated patches.

    The logits are (b, 1, about h / 2^depth, about w / 2^depth). After PatchGAN (Isola et al. 2017),
    with group norms in place of batch norms, so that the logits of a picture do not depend on the
    others in its batch.
    """

    def __init__(self, width: int = 64, depth: int = 3) -> None:
        super().__init__()
        widths = [width * min(2**i, 8) for i in range(depth + 1)]
        self.layers = nn.Sequential(nn.Conv2d(3, width, 4, stride=2, padding=1), nn.LeakyReLU(0.2))
        for i, (a, b) in enumerate(pairwise(widths), start=1):
            stride = 2 if i < depth else 1
            self.layers.extend(
                [
                    nn.Conv2d(a, b, 4, stride, padding=1, bias=False),
                    nn.GroupNorm(8, b),
                    nn.LeakyReLU(0.2),
                ]
            )
        self.layers.append(nn.Conv2d(widths[-1], 1, 4, padding=1))
        for layer in self.layers:
            if isinstance(layer, nn.Conv2d):
                nn.init.normal_(layer.weight, std=0.02)

    def forward(self, pixels: Tensor) -> Tensor:
        return self.layers(pixels)


def hinge(real: Tensor, fake: Tensor) -> Tensor:
    """Discriminator's hinge loss: (mean max(0, 1 - real) + mean max(0, 1 + fake)) / 2.

    ``real`` and ``fake`` are its logits for real and for generated pictures.
    """
    return (F.relu(1 - real).mean() + F.relu(1 + fake).mean()) / 2


def generator_loss(fake: Tensor) -> Tensor:
    """Adversarial loss of the decoder: minus the mean logit of generated pictures."""
    return -fake.mean()


@dataclass(frozen=True)
class LeCamEMA:
    """Running means of the discriminator's logits, the anchors of LeCam regularisation.

    Two scalars, for real and for generated pictures; 0 at the start of training.
    """

    real: Tensor
    fake: Tensor

    def follow(self, real: Tensor, fake: Tensor, decay: float = 0.99) -> LeCamEMA:
        """Anchors after one more batch of logits."""
        means = (logits.detach().float().mean() for logits in (real, fake))
        pairs = zip((self.real, self.fake), means, strict=True)
        return LeCamEMA(*(old.lerp(new, 1 - decay) for old, new in pairs))


def lecam(real: Tensor, fake: Tensor, anchors: LeCamEMA) -> Tensor:
    """LeCam regularisation (Tseng et al. 2021), added to ``hinge`` with a small weight.

    It keeps the discriminator from memorising a small data set: logits of real pictures are pulled
    down to the anchor of generated ones, and logits of generated pictures up to the anchor of real
    ones. The rectifiers are in the authors' code.
    """
    return F.relu(real - anchors.fake).square().mean() + F.relu(anchors.real - fake).square().mean()


def adaptive_gan_weight(loss: Tensor, against: Tensor, last: Tensor, limit: float = 1e4) -> Tensor:
    """Adaptive weight of the adversarial loss ``against``, a scalar (Esser et al. 2021, eq. 7).

    It is the ratio of the gradient norms of ``loss`` and ``against`` with respect to the decoder's
    last layer ``last``, so that both move it equally. 1e-4 and the limit are in the authors' code.
    Both graphs are retained.
    """
    norm, norm_against = (
        torch.autograd.grad(each, last, retain_graph=True)[0].norm() for each in (loss, against)
    )
    return (norm / (norm_against + 1e-4)).clamp(max=limit)
