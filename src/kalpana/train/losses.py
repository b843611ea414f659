"""Losses of autoencoders: reconstruction, perceptual and OCR loss."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from kalpana.models import detector, reader
from kalpana.world.crops import strips


def reconstruction_loss(error: Tensor) -> Tensor:
    """Reconstruction loss, a scalar, of the pixel error (b, 3, h, w).

    L1 and L2, L1 at a half and a quarter of the size, and L1 of the differences between neighbours,
    since drawings are edges and flat areas.
    """
    loss = error.abs().mean() + error.square().mean()
    loss = loss + 0.5 * sum(F.avg_pool2d(error, k).abs().mean() for k in (2, 4))
    return loss + 0.5 * (error.diff(dim=-1).abs().mean() + error.diff(dim=-2).abs().mean())


def perceptual_loss(eyes: detector.Detector, y: Tensor, x: Tensor) -> Tensor:
    """Perceptual loss in [0, 4] of pictures ``y`` against ``x``, both (b, 3, h, w), as a scalar.

    Mean squared distance of the detector's features, normalised to unit length per cell, at a
    quarter, an eighth and a sixteenth of the side. ``x`` gets no gradient.
    """
    with torch.no_grad():
        truth = looks(eyes, x)
    return feature_distance(looks(eyes, y), truth)


def looks(eyes: detector.Detector, pixels: Tensor) -> list[Tensor]:
    """Unit-length detector features (b, c, h/s, w/s) for s = 4, 8 and 16."""
    fine = eyes.stem(pixels)
    eighth = eyes.eighth(fine)
    return [direction(stage) for stage in (fine, eighth, eyes.sixteenth(eighth))]


def direction(features: Tensor) -> Tensor:
    """Features (b, c, h, w) normalised to unit length over c."""
    return F.normalize(features.float(), dim=1, eps=0.01)


def feature_distance(ones: Sequence[Tensor], others: Sequence[Tensor]) -> Tensor:
    """Mean squared distance of unit features (b, c, h, w), averaged over layers."""
    return torch.stack(
        [(one - two).square().sum(1).mean() for one, two in zip(ones, others, strict=True)]
    ).mean()


def ocr_loss(net: reader.Reader, y: Tensor, x: Tensor, boxes: Tensor, rng: Generator) -> Tensor:
    """OCR loss of the text in ``boxes`` (b, n, 4) of pictures ``y`` against ``x``, (b, 3, h, w).

    The sum of the KL divergence, in nats per column, of the reader's prediction on ``y`` from that
    on ``x``, and of the mean squared distance of its features, normalised to unit length per cell.
    ``x`` gets no gradient. Boxes are shifted by up to a twelfth of their sides, as in the reader's
    training. Boxes of zeros are ignored; the loss is 0 if there are no others.
    """
    rows, places = (boxes[..., 2] > 0).nonzero(as_tuple=True)
    if not len(rows):
        return y.new_zeros(())
    boxes = boxes[rows, places]
    sides = (boxes[:, 2:] - boxes[:, :2]).repeat(1, 2)
    boxes = boxes + sides * ((torch.rand(boxes.shape, generator=rng) * 2 - 1) / 12).to(boxes)
    with torch.no_grad():
        true_features, truth = reads(net, strips(x[rows], boxes))
    features, predicted = reads(net, strips(y[rows], boxes))
    divergence = F.kl_div(predicted, truth, reduction="none", log_target=True).sum(-1).mean()
    return divergence + feature_distance(features, true_features)


def reads(net: reader.Reader, strips: Tensor) -> tuple[list[Tensor], Tensor]:
    """A reader's unit features (b, c, h, w) of each layer, and its log probabilities (b, l, c)."""
    features, x = [], strips
    for layer in net.look:
        x = layer(x)
        features.append(direction(x))
    return features, net.say(x).float().log_softmax(-1)
