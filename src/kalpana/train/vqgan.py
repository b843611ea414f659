"""VQGAN training: reconstruction from tokens and, later in the run, a patch discriminator."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from pydantic import Field
from torch import Generator, Tensor, nn
from torch.func import functional_call

from kalpana.hub.weights import load_module
from kalpana.metrics import psnr, ssim
from kalpana.models import detector, reader, vqgan
from kalpana.models.discriminator import (
    Discriminator,
    LeCamEMA,
    adaptive_gan_weight,
    generator_loss,
    hinge,
    lecam,
)
from kalpana.models.vqgan import Codebook, count, perplexity, used
from kalpana.train import data_cache
from kalpana.train.autoencoder import rows_of
from kalpana.train.losses import ocr_loss, perceptual_loss, reconstruction_loss
from kalpana.train.recipe import PoolRecipe, located
from kalpana.train.sign_augmentation import MOST
from kalpana.train.task import HELD_OUT, Metrics, config_of
from kalpana.types import KalpanaError
from kalpana.world.world import World

COMMIT = 0.25  # weight of the commitment loss (van den Oord et al. 2017)
JUDGE = 32  # width of the discriminator
FIRST = 8  # batches whose latents initialise the codebook


@dataclass(frozen=True)
class VQGANBatch:
    """Batch of the VQGAN task."""

    pixels: Tensor  # (b, 3, h, w) uint8
    boxes: Tensor  # (b, MOST, 4) of signs, x0 y0 x1 y1 in the unit square, 0 for none


class VQGANRecipe(PoolRecipe):
    """Recipe of a VQGAN."""

    family: Literal["vqgan"] = "vqgan"
    perceptual_net: Path | None = Field(
        default=None,
        description="weights of a detector, whose features give the perceptual loss",
    )
    perceptual_weight: float = Field(
        default=0.5,
        ge=0,
        description="weight of the perceptual loss, where perceptual_net is given",
    )
    ocr_net: Path | None = Field(
        default=None,
        description="weights of a reader, whose features and predictions on signs give the OCR "
        "loss",
    )
    ocr_weight: float = Field(
        default=0.1, ge=0, description="weight of the OCR loss, where ocr_net is given"
    )
    sign_page_share: float = Field(
        default=0.0,
        ge=0,
        lt=1,
        description="share of a batch that are sheets of signs, from a pool of their own half as "
        "large: letters are small and need codes of their own",
    )
    freeze_encoder: bool = Field(
        default=False,
        description="train only the decoder of init, so that tokens keep their meaning for the "
        "models that generate them",
    )
    gan_weight: float = Field(
        default=0.1,
        ge=0,
        description="weight of the generator loss; with 1 its gradient on the decoder's last layer "
        "is as large as that of the reconstruction loss, with 0 there is none",
    )
    gan_start: float = Field(
        default=0.5,
        ge=0,
        le=1,
        description="share of the run after which the discriminator is used",
    )
    lecam_weight: float = Field(
        default=0.001,
        ge=0,
        description="weight of the LeCam regulariser, which keeps the discriminator from "
        "memorising pictures",
    )

    def problems(self) -> Iterator[tuple[str, str]]:
        yield from super().problems()
        if self.freeze_encoder and self.init is None:
            yield "freeze_encoder", "name the weights whose codes are to be kept as 'init'"
        if self.ocr_net and not self.sign_page_share:
            yield "ocr_net", "there is nothing to read: set 'sign_page_share'"


class AdversarialPair(nn.Module):
    """A generator ``network`` and its discriminator ``judge``, trained together.

    A checkpoint holds both; only the network is shipped. Two buffers get no gradient: ``anchors``
    (2,), moving averages of the discriminator's logits for real and for reconstructed pictures, and
    ``started``, whether the codebook is initialised.
    """

    def __init__(self, network: vqgan.VQGAN, judge: Discriminator, started: bool) -> None:
        super().__init__()
        self.network, self.judge = network, judge
        self.anchors: Tensor
        self.started: Tensor
        self.register_buffer("anchors", torch.zeros(2))
        self.register_buffer("started", torch.tensor(started))


class VQGANTask:
    """VQGAN (Esser et al. 2021).

    Losses: the autoencoder's reconstruction loss in pixels; a perceptual loss in the features of
    our detector (after LPIPS, Zhang et al. 2018, without third-party weights); an OCR loss in the
    features and predictions of our reader on signs (after OCR-VQGAN, Rodriguez et al. 2023); and,
    from the share ``gan_start`` of the run on, a patch discriminator. One backward pass serves
    both networks: the generator loss sees the discriminator's weights detached, and the
    discriminator loss sees the reconstructions detached.

    The codebook is initialised from the latents of the first batches, then updated as a moving
    average of the latents assigned to each code. With ``freeze_encoder``, encoder and codes stay
    those of ``init``.
    """

    ahead = True

    def __init__(
        self, recipe: VQGANRecipe, device: torch.device, progress: data_cache.Progress
    ) -> None:
        self.recipe, self.device = recipe, device
        train, dev = (World(recipe.seed, split, kind=recipe.kind) for split in ("train", "dev"))
        network = vqgan.VQGAN(config_of(vqgan.Config, recipe))
        _check(recipe, network, train.side)
        started = recipe.init is not None or not isinstance(network.quantiser, Codebook)
        if recipe.freeze_encoder:
            network.encoder.requires_grad_(False)  # type: ignore[union-attr]  # not None: _check
        pair = AdversarialPair(network, Discriminator(JUDGE), started)
        channels_last = torch.channels_last
        self.model = pair.to(device, memory_format=channels_last)  # type: ignore[call-overload]
        self.eyes = None
        if recipe.perceptual_net:
            net = _load(located(recipe.perceptual_net))
            self.eyes = net.to(device, memory_format=channels_last)  # type: ignore[call-overload]
        self.reader = _load_reader(located(recipe.ocr_net)).to(device) if recipe.ocr_net else None
        self.pictures = data_cache.pictures(train, recipe.num_images, progress)
        self.signs = (
            data_cache.pages(recipe.seed, math.ceil(recipe.num_images / 2), progress)
            if recipe.sign_page_share
            else None
        )
        self.dev = data_cache.pictures(dev, HELD_OUT, progress)

    def batch(self, step: int) -> VQGANBatch:
        """Pictures of the pool, followed by the recipe's share of sheets of signs."""
        recipe = self.recipe
        count = round(recipe.sign_page_share * recipe.batch) if self.signs else 0
        pixels = self.pictures[rows_of(recipe, step, self.pictures, recipe.batch - count)]
        boxes = np.zeros((len(pixels), MOST, 4), np.float32)
        if self.signs:
            rows = rows_of(recipe, step, self.signs[0], count)
            pixels, boxes = (
                np.concatenate((one, two[rows]))
                for one, two in zip((pixels, boxes), self.signs, strict=True)
            )
        return VQGANBatch(torch.from_numpy(pixels), torch.from_numpy(boxes))

    def loss(self, batch: VQGANBatch, rng: Generator, progress: float) -> tuple[Tensor, Metrics]:
        network, x = self.model.network, data_cache.floats(batch.pixels)
        if not self.model.started:
            self._start(rng)
        out = network(x)
        y = out.pixels.float()
        rebuilt = reconstruction_loss(y - x)
        metrics = {"psnr": psnr((y - x).square().mean().item()), "commit": out.loss.item()}
        if self.eyes:
            perceptual = perceptual_loss(self.eyes, y, x)
            rebuilt = rebuilt + self.recipe.perceptual_weight * perceptual
            metrics["unlike"] = perceptual.item()
        if self.reader:
            ocr = ocr_loss(self.reader, y, x, batch.boxes, rng)
            rebuilt = rebuilt + self.recipe.ocr_weight * ocr
            metrics["misread"] = ocr.item()
        loss = rebuilt + COMMIT * out.loss
        if self.recipe.gan_weight and progress >= self.recipe.gan_start:
            adversarial = generator_loss(self._judge_fixed(y))
            share = adaptive_gan_weight(rebuilt, adversarial, network.last)
            discriminator, gan_metrics = self._judge(x, y.detach())
            loss = loss + self.recipe.gan_weight * share * adversarial + discriminator
            metrics |= {"balance": share.item(), **gan_metrics}
        if isinstance(network.quantiser, Codebook) and not self.recipe.freeze_encoder:
            network.quantiser.learn(out.latents, out.indices, rng)
            metrics["used"] = used(count(out.indices, network.quantiser.size)).item()
        return loss, metrics

    @torch.no_grad()
    def _start(self, rng: Generator) -> None:
        """Initialise the codebook from the latents of the first batches."""
        network = self.model.network
        assert isinstance(network.quantiser, Codebook)
        latents = [
            network.encode_latents(data_cache.floats(self.batch(step).pixels, self.device))
            for step in range(FIRST)
        ]
        network.quantiser.start(torch.cat(latents), rng)
        self.model.started.fill_(True)

    def _judge_fixed(self, drawn: Tensor) -> Tensor:
        """Discriminator logits with a gradient for the pictures but none for its weights."""
        fixed = {
            name: parameter.detach() for name, parameter in self.model.judge.named_parameters()
        }
        return functional_call(self.model.judge, fixed, (drawn,)).float()

    def _judge(self, real: Tensor, drawn: Tensor) -> tuple[Tensor, Metrics]:
        """Discriminator loss on detached pictures, and its metrics; updates ``anchors``."""
        on_real, on_drawn = (self.model.judge(pixels).float() for pixels in (real, drawn))
        anchors = LeCamEMA(*self.model.anchors)
        loss = hinge(on_real, on_drawn) + self.recipe.lecam_weight * lecam(
            on_real, on_drawn, anchors
        )
        after = anchors.follow(on_real, on_drawn)
        self.model.anchors.copy_(torch.stack((after.real, after.fake)))
        return loss, {
            "judge": loss.item(),
            "real": on_real.mean().item(),
            "drawn": on_drawn.mean().item(),
        }

    def evaluate(self) -> tuple[Metrics, Tensor]:
        """PSNR and SSIM of reconstructed dev pictures, codebook use (share of the codes) and code
        perplexity; the sheet has 32 pictures, then their reconstructions."""
        network, squares, similarity, sheet = self.model.network, [], [], []
        counts = torch.zeros(network.quantiser.size, device=self.device)
        for start in range(0, len(self.dev), 64):
            x = data_cache.floats(self.dev[start : start + 64], self.device)
            out = network(x)
            y = out.pixels.float().clamp(-1, 1)
            squares.append((y - x).square().mean((1, 2, 3)))
            similarity.append(ssim(y, x))
            counts += count(out.indices, network.quantiser.size)
            if not start:
                sheet = [x[:32], y[:32]]
        scores = {
            "dev_psnr": psnr(torch.cat(squares).mean().item()),
            "dev_ssim": torch.cat(similarity).mean().item(),
        }
        return {
            **scores,
            "dev_used": used(counts).item(),
            "dev_perplexity": perplexity(counts).item(),
        }, torch.cat(sheet)

    def finish(self) -> None:
        """No final step."""


def _check(recipe: VQGANRecipe, network: vqgan.VQGAN, side: int) -> None:
    """Check that pictures of this side fit the network and that FIRST batches can initialise its
    codebook. Raises KalpanaError that names the field."""
    factor, size = network.config.factor, network.quantiser.size
    if network.encoder is None or side % factor:
        raise KalpanaError(
            f"recipe {recipe.name}: field 'model': "
            f"it needs an encoder, and a factor that divides {side} px, not {factor}"
        )
    tokens = (side // factor) ** 2
    if isinstance(network.quantiser, Codebook) and FIRST * recipe.batch * tokens < size:
        raise KalpanaError(
            f"recipe {recipe.name}: field 'batch': {FIRST} times {recipe.batch} pictures of "
            f"{tokens} tokens are too few to make {size} codes of: "
            f"try {math.ceil(size / (FIRST * tokens))}"
        )


def _load(path: Path) -> detector.Detector:
    return load_module(path, "detector")


def _load_reader(path: Path) -> reader.Reader:
    net = load_module(path, "reader")
    net.read.train()  # cuDNN's backward needs training mode; this network computes the same in both
    return net
