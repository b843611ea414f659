"""The VQGAN at school: pictures drawn again from tokens, and later in the run against a judge that tells drawn patches from real ones."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn
from torch.func import functional_call

from kalpana.hub.weights import load_module
from kalpana.models import detector, reader, vqgan
from kalpana.models.vqgan import (
    Codebook,
    Discriminator,
    LeCamEMA,
    adaptive_gan_weight,
    count,
    generator_loss,
    hinge,
    lecam,
    perplexity,
    used,
)
from kalpana.train import data_cache
from kalpana.train.autoencoder import psnr, reconstruction_loss, rows_of, ssim
from kalpana.train.recipe import Recipe
from kalpana.train.sign_augmentation import MOST
from kalpana.train.task import HELD_OUT, Metrics, config_of
from kalpana.types import KalpanaError
from kalpana.world.crops import strips
from kalpana.world.world import World

COMMIT = 0.25  # weight of the encoder's keeping near the codes (van den Oord et al. 2017)
JUDGE = 32  # the discriminator's width
FIRST = 8  # batches that the first codes are made of


@dataclass(frozen=True)
class VQGANBatch:
    """A batch: pixels (b, 3, h, w) uint8; ``boxes`` (b, MOST, 4), where in the unit square signs are to be read, 0 for none, and so
    everywhere but on the recipe's share of sheets of signs; and ``worth`` (b,), what fooling the judge weighs at this step; before it takes
    part, 0."""

    pixels: Tensor
    boxes: Tensor
    worth: Tensor


class AdversarialPair(nn.Module):
    """A ``network`` and the ``judge`` of what it draws, both learning: a checkpoint has both, the network alone is shipped. Beside them
    stands what no gradient changes: the judge's mean logits for real and for drawn pictures, ``anchors`` (2,), and whether the codes
    have ``started``."""

    def __init__(self, network: vqgan.VQGAN, judge: Discriminator, started: bool) -> None:
        super().__init__()
        self.network, self.judge = network, judge
        self.anchors: Tensor
        self.started: Tensor
        self.register_buffer("anchors", torch.zeros(2))
        self.register_buffer("started", torch.tensor(started))


class VQGANTask:
    """VQGAN (Esser et al. 2021): what an autoencoder learns from, by pixels; the distance of what a detector of ours sees in both pictures
    (after LPIPS, Zhang et al. 2018, with no weights made elsewhere); how unlike the writing on signs is to a reader of ours (after
    OCR-VQGAN, Rodriguez et al. 2023); and, from the share ``judge_from`` of the run on, a patch discriminator to be fooled. One way back
    serves both players: where the network learns, the judge is held fixed, and where the judge learns, the pictures are.

    The first codes are made of the first batches; from then on they follow what chooses them. Where they are to be kept, encoder and
    codes stay as ``init`` has them."""

    file = "vqgan.safetensors"
    ahead = True

    def __init__(self, recipe: Recipe, device: torch.device, progress: data_cache.Progress) -> None:
        self.recipe, self.device = recipe, device
        train, dev = (World(recipe.seed, split, kind=recipe.kind) for split in ("train", "dev"))
        network = vqgan.VQGAN(config_of(vqgan.Config, recipe))
        _check(recipe, network, train.side)
        started = recipe.init is not None or not isinstance(network.quantiser, Codebook)
        if recipe.freeze_encoder:
            network.encoder.requires_grad_(False)  # type: ignore[union-attr]  # _check has seen it
        players = AdversarialPair(network, Discriminator(JUDGE), started)
        self.model = players.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.eyes = None
        if recipe.perceptual_net:
            self.eyes = _load(recipe.perceptual_net).to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.reader = _load_reader(recipe.ocr_net).to(device) if recipe.ocr_net else None
        self.pictures = data_cache.pictures(train, recipe.num_images, progress)
        self.signs = (
            data_cache.pages(recipe.seed, math.ceil(recipe.num_images / 2), progress)
            if recipe.sign_page_share
            else None
        )
        self.dev = data_cache.pictures(dev, HELD_OUT, progress)

    def batch(self, step: int) -> VQGANBatch:
        """Pictures of the pool, and behind them the recipe's share of sheets of signs."""
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
        late = step >= recipe.gan_start * recipe.steps
        return VQGANBatch(
            torch.from_numpy(pixels),
            torch.from_numpy(boxes),
            torch.full((len(pixels),), recipe.gan_weight if late else 0.0),
        )

    def loss(self, batch: VQGANBatch, rng: Generator) -> tuple[Tensor, Metrics]:
        network, x = self.model.network, data_cache.floats(batch.pixels)
        if not self.model.started:
            self._start(rng)
        drawn = network(x)
        y = drawn.pixels.float()
        rebuilt = reconstruction_loss(y - x)
        metrics = {"psnr": psnr((y - x).square().mean().item()), "commit": drawn.loss.item()}
        if self.eyes:
            other = perceptual_loss(self.eyes, y, x)
            rebuilt = rebuilt + self.recipe.perceptual_weight * other
            metrics["unlike"] = other.item()
        if self.reader:
            wrong = ocr_loss(self.reader, y, x, batch.boxes, rng)
            rebuilt = rebuilt + self.recipe.ocr_weight * wrong
            metrics["misread"] = wrong.item()
        loss = rebuilt + COMMIT * drawn.loss
        if worth := batch.worth[0].item():
            against = generator_loss(self._judge_fixed(y))
            share = adaptive_gan_weight(rebuilt, against, network.last)
            judging, said = self._judge(x, y.detach())
            loss = loss + worth * share * against + judging
            metrics |= {"balance": share.item(), **said}
        if isinstance(network.quantiser, Codebook) and not self.recipe.freeze_encoder:
            network.quantiser.learn(drawn.latents, drawn.indices, rng)
            metrics["used"] = used(count(drawn.indices, network.quantiser.size)).item()
        return loss, metrics

    @torch.no_grad()
    def _start(self, rng: Generator) -> None:
        """Make the first codes."""
        network = self.model.network
        assert isinstance(network.quantiser, Codebook)
        network.quantiser.start(
            torch.cat(
                [
                    network.look(data_cache.floats(self.batch(step).pixels, self.device))
                    for step in range(FIRST)
                ]
            ),
            rng,
        )
        self.model.started.fill_(True)

    def _judge_fixed(self, drawn: Tensor) -> Tensor:
        """The judge's logits, from which the pictures learn and the judge does not."""
        fixed = {
            name: parameter.detach() for name, parameter in self.model.judge.named_parameters()
        }
        return functional_call(self.model.judge, fixed, (drawn,)).float()

    def _judge(self, real: Tensor, drawn: Tensor) -> tuple[Tensor, Metrics]:
        """What the judge learns from, of pictures that do not; its anchors follow."""
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
        """PSNR and SSIM of dev pictures drawn again, the share of the codes that these use, and their perplexity; some of the pictures, and
        below them the same, drawn again."""
        network, squares, alike, sheet = self.model.network, [], [], []
        counts = torch.zeros(network.quantiser.size, device=self.device)
        for start in range(0, len(self.dev), 64):
            x = data_cache.floats(self.dev[start : start + 64], self.device)
            drawn = network(x)
            y = drawn.pixels.float().clamp(-1, 1)
            squares.append((y - x).square().mean((1, 2, 3)))
            alike.append(ssim(y, x))
            counts += count(drawn.indices, network.quantiser.size)
            if not start:
                sheet = [x[:32], y[:32]]
        scores = {
            "dev_psnr": psnr(torch.cat(squares).mean().item()),
            "dev_ssim": torch.cat(alike).mean().item(),
        }
        return {
            **scores,
            "dev_used": used(counts).item(),
            "dev_perplexity": perplexity(counts).item(),
        }, torch.cat(sheet)

    def finish(self) -> None:
        """Nothing is left to do."""


def perceptual_loss(eyes: detector.Detector, y: Tensor, x: Tensor) -> Tensor:
    """How unlike two batches of pictures (b, 3, h, w) look to a detector, from 0 to 4: the mean squared distance of what it sees at a
    quarter, an eighth and a sixteenth of the side, each cell's features taken as a direction. Of ``x`` nothing learns."""
    with torch.no_grad():
        truth = looks(eyes, x)
    return feature_distance(looks(eyes, y), truth)


def looks(eyes: detector.Detector, pixels: Tensor) -> list[Tensor]:
    """Features (b, c, h/s, w/s) of length 1 for s = 4, 8 and 16."""
    fine = eyes.stem(pixels)
    eighth = eyes.eighth(fine)
    return [direction(stage) for stage in (fine, eighth, eyes.sixteenth(eighth))]


def direction(features: Tensor) -> Tensor:
    """Features (b, c, h, w) of length 1."""
    return F.normalize(features.float(), dim=1, eps=0.01)


def feature_distance(ones: Sequence[Tensor], others: Sequence[Tensor]) -> Tensor:
    """The mean squared distance of directions (b, c, h, w), the mean over layers."""
    return torch.stack(
        [(one - two).square().sum(1).mean() for one, two in zip(ones, others, strict=True)]
    ).mean()


def ocr_loss(net: reader.Reader, y: Tensor, x: Tensor, boxes: Tensor, rng: Generator) -> Tensor:
    """How unlike the writing in the boxes (b, n, 4) of two batches of pictures (b, 3, h, w) is to a reader: for every column that it reads
    the divergence, in nats, of what it says of ``y`` from what it says of ``x``, and the mean squared distance of what it sees on the way,
    each place's features taken as a direction. Of ``x`` nothing learns. Boxes are off by up to a twelfth of their sides, as the reader has
    learned them; those that are 0 are left out, and 0 it is where there are no others."""
    rows, places = (boxes[..., 2] > 0).nonzero(as_tuple=True)
    if not len(rows):
        return y.new_zeros(())
    boxes = boxes[rows, places]
    sides = (boxes[:, 2:] - boxes[:, :2]).repeat(1, 2)
    boxes = boxes + sides * ((torch.rand(boxes.shape, generator=rng) * 2 - 1) / 12).to(boxes)
    with torch.no_grad():
        seen, truth = reads(net, strips(x[rows], boxes))
    sees, said = reads(net, strips(y[rows], boxes))
    return F.kl_div(said, truth, reduction="none", log_target=True).sum(
        -1
    ).mean() + feature_distance(sees, seen)


def reads(net: reader.Reader, strips: Tensor) -> tuple[list[Tensor], Tensor]:
    """What a reader sees in strips: features (b, c, h, w) of length 1 of each layer; and what it says: log probabilities (b, l, c)."""
    seen, x = [], strips
    for layer in net.look:
        x = layer(x)
        seen.append(direction(x))
    return seen, net.say(x).float().log_softmax(-1)


def _check(recipe: Recipe, network: vqgan.VQGAN, side: int) -> None:
    """Raises KalpanaError where pictures of this side do not fit the network, or a few batches are too few to make its codes of."""
    factor, size = network.config.factor, network.quantiser.size
    if network.encoder is None or side % factor:
        raise KalpanaError(
            f"recipe {recipe.name}: field 'model': it needs an encoder, and a factor that divides {side} px, not {factor}"
        )
    if recipe.freeze_encoder and recipe.init is None:
        raise KalpanaError(
            f"recipe {recipe.name}: field 'keep_codes': name the weights whose codes are to be kept as 'init'"
        )
    if recipe.ocr_net and not recipe.sign_page_share:
        raise KalpanaError(
            f"recipe {recipe.name}: field 'reader': there is nothing to read: ask for a share of 'signs'"
        )
    tokens = (side // factor) ** 2
    if isinstance(network.quantiser, Codebook) and FIRST * recipe.batch * tokens < size:
        raise KalpanaError(
            f"recipe {recipe.name}: field 'batch': {FIRST} times {recipe.batch} pictures of {tokens} tokens are too few to make {size} "
            f"codes of: try {math.ceil(size / (FIRST * tokens))}"
        )


def _load(path: Path) -> detector.Detector:
    return load_module(
        path, "detector", lambda **config: detector.Detector(detector.Config(**config))
    )


def _load_reader(path: Path) -> reader.Reader:
    net = load_module(path, "reader", lambda **config: reader.Reader(reader.Config(**config)))
    net.read.train()  # a GPU goes back through a recurrent net in training alone; this one has nothing that differs
    return net
