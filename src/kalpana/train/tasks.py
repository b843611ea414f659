"""What differs between families while they train: their batches, their losses, and what to look at.

A task's batch is a function of the step alone, which is what makes a run exactly resumable.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from functools import lru_cache
from typing import Any, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import TypeAdapter, ValidationError
from torch import Generator, Tensor, nn

from kalpana.diffusion.denoiser import Denoiser
from kalpana.diffusion.guidance import guide
from kalpana.diffusion.samplers import SAMPLERS, sample
from kalpana.diffusion.schedule import Flow, times
from kalpana.hub.weights import load_module
from kalpana.models import dit, vae
from kalpana.text.tokenizer import Tokenizer
from kalpana.train import pool
from kalpana.train.recipe import Recipe
from kalpana.types import Cond, KalpanaError, Tokens
from kalpana.world.layout import layout, sizes
from kalpana.world.world import World

HELD_OUT = 512  # dev pictures that the held-out loss is taken over
Metrics = dict[str, float]


class Task(Protocol):
    """A family at school. ``model`` learns; ``loss`` may use ``rng``, seeded by the step."""

    device: torch.device
    file: str  # what its weights are called in a model's folder

    @property
    def model(self) -> nn.Module: ...
    def batch(self, step: int) -> Any: ...
    def loss(self, batch: Any, rng: Generator) -> tuple[Tensor, Metrics]: ...
    def evaluate(self) -> tuple[Metrics, Tensor]:
        """Held-out scores and a sheet of pictures (b, 3, h, w) in [-1, 1] to look at."""
        ...

    def finish(self) -> None:
        """The last touch before the weights are shipped, which the model then holds averaged."""


def _indices(recipe: Recipe, step: int, count: int) -> list[tuple[int, int]]:
    """The (picture, round) pairs of a step: the pool in a new order every round."""
    out = []
    for k in range(step * recipe.batch, (step + 1) * recipe.batch):
        around, place = divmod(k, count)
        out.append((int(_order(recipe.seed, around, count)[place]), around))
    return out


@lru_cache(maxsize=2)
def _order(seed: int, around: int, count: int) -> np.ndarray:
    return np.random.default_rng([seed, around]).permutation(count)


def _config(kind: type, recipe: Recipe) -> Any:
    """The network's configuration, its defaults changed as the recipe says."""
    known = [field.name for field in fields(kind)]
    for name in recipe.model:
        if name not in known:
            raise KalpanaError(f"recipe {recipe.name}: unknown field 'model.{name}': the fields are {', '.join(known)}")
    try:
        return TypeAdapter(kind).validate_python(recipe.model)
    except ValidationError as error:
        first = error.errors()[0]
        raise KalpanaError(f"recipe {recipe.name}: field 'model.{'.'.join(map(str, first['loc']))}': {first['msg'].lower()}") from None


class Autoencode:
    """The autoencoder, by pixels alone: L1 and L2, L1 at a half and a quarter of the size, and L1 of the differences between
    neighbours, since drawings are edges and flat areas. No pretrained network is asked."""

    file = "vae.safetensors"

    def __init__(self, recipe: Recipe, device: torch.device, progress: pool.Progress) -> None:
        self.recipe, self.device = recipe, device
        self.model = vae.VAE(_config(vae.Config, recipe)).to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.pictures = pool.pictures(World(recipe.seed, "train"), recipe.pool, device, progress)
        self.dev = pool.pictures(World(recipe.seed, "dev"), HELD_OUT, device, progress)

    def batch(self, step: int) -> Tensor:
        rows = [i for i, _ in _indices(self.recipe, step, len(self.pictures))]
        return pool.floats(self.pictures[np.sort(rows)], self.device)  # sorted rows read the disk in order

    def loss(self, batch: Tensor, rng: Generator) -> tuple[Tensor, Metrics]:
        z = self.model.encode(batch)
        z = z + self.recipe.noise * torch.randn(z.shape, generator=rng).to(z)
        error = self.model.decode(z).float() - batch
        square = error.square().mean()
        loss = error.abs().mean() + square
        loss = loss + 0.5 * sum(F.avg_pool2d(error, k).abs().mean() for k in (2, 4))
        loss = loss + 0.5 * (error.diff(dim=-1).abs().mean() + error.diff(dim=-2).abs().mean())
        return loss, {"psnr": psnr(square.item())}

    def evaluate(self) -> tuple[Metrics, Tensor]:
        clean, noisy, sheet = [], [], []
        rng = torch.Generator().manual_seed(0)
        for start in range(0, len(self.dev), 64):
            x = pool.floats(self.dev[start : start + 64], self.device)
            z = self.model.encode(x)
            y = self.model.decode(z).float()
            clean.append((y.clamp(-1, 1) - x).square().mean((1, 2, 3)))
            rough = self.model.decode(z + 0.1 * torch.randn(z.shape, generator=rng).to(z)).float()
            noisy.append((rough.clamp(-1, 1) - x).square().mean((1, 2, 3)))
            if not start:
                sheet = [x[:32], y[:32]]
        scores = {"dev_psnr": psnr(torch.cat(clean).mean().item()), "dev_psnr_noise_0.1": psnr(torch.cat(noisy).mean().item())}
        return scores, torch.cat(sheet)

    def finish(self) -> None:
        self.model.fit_preview(pool.floats(self.dev[:256], self.device))


def psnr(square: float) -> float:
    """Peak signal-to-noise ratio in dB of a mean squared error between pictures in [-1, 1], whose peak is 2."""
    return 10 * float(np.log10(4 / max(square, 1e-12)))


@dataclass(frozen=True)
class Captioned:
    """A batch of the flow task: latents (b, c, h, w), the words for them, ``layout`` (b, 4, h/patch, w/patch; empty if nothing is
    asked of it), and ``worth`` (b,), the weight of that question at this step."""

    latents: Tensor
    tokens: Tokens
    layout: Tensor
    worth: Tensor


class FlowMatch:
    """The latent transformer: flow matching (Lipman et al. 2023) with x0 predicted and the error weighed as a velocity's,
    1/t^2, so that both say the same. Captions are worded anew each time round."""

    file = "dit.safetensors"
    SORT = 8  # steps whose captions are sorted by length together, so that little is padded

    def __init__(self, recipe: Recipe, device: torch.device, progress: pool.Progress) -> None:
        assert recipe.vae is not None
        self.recipe, self.device, self.world, self.schedule = recipe, device, World(recipe.seed, "train"), Flow()
        aside = sum(sizes()) + 2 if recipe.layout else 0
        self.model = dit.DiT(replace(_config(dit.Config, recipe), aside=aside)).to(device)
        self.decoder = load_module(recipe.vae, "vae", lambda **config: vae.VAE(vae.Config(**config))).to(device)
        self.tokenizer = Tokenizer.load()
        self.latents = pool.latents(self.decoder, recipe.vae, self.world, recipe.pool, device, progress)
        self.dev = World(recipe.seed, "dev")
        self.dev_latents = pool.latents(self.decoder, recipe.vae, self.dev, HELD_OUT, device, progress)
        self.sorted: tuple[int, list[list[tuple[int, str]]]] = (-1, [])

    def batch(self, step: int) -> Captioned:
        rows, captions = zip(*self._captions(step), strict=True)
        tokens = self.tokenizer.encode(captions, self.model.config.length)
        latents = torch.from_numpy(self.latents[list(rows)]).float()
        cells = latents.shape[-1] // self.model.config.patch
        shown = np.stack([layout(self.world.scene(i), cells) for i in rows]) if self.recipe.layout else np.empty((len(rows), 0))
        worth = torch.full((len(rows),), self.recipe.layout * (1 - step / self.recipe.steps))
        return Captioned(latents.to(self.device), tokens.to(self.device), torch.from_numpy(shown).to(self.device), worth.to(self.device))

    def _captions(self, step: int) -> list[tuple[int, str]]:
        """The (picture, caption) pairs of a step; SORT steps are dealt together, shortest captions first, in random order."""
        block = step // self.SORT
        if self.sorted[0] != block:
            pairs = [
                pair for s in range(block * self.SORT, (block + 1) * self.SORT) for pair in _indices(self.recipe, s, len(self.latents))
            ]
            words = [(i, self.world.describe(i, take)[0]) for i, take in pairs]
            words.sort(key=lambda pair: len(pair[1].encode()))
            dealt = [words[k : k + self.recipe.batch] for k in range(0, len(words), self.recipe.batch)]
            random.Random(f"{self.recipe.seed}/{block}").shuffle(dealt)
            self.sorted = (block, dealt)
        return self.sorted[1][step % self.SORT]

    def loss(self, batch: Captioned, rng: Generator) -> tuple[Tensor, Metrics]:
        x0, b = batch.latents, len(batch.latents)
        t, eps = noise_times(b, rng), torch.randn(x0.shape, generator=rng)  # drawn on the CPU, whatever the device
        null = torch.rand(b, generator=rng) < self.recipe.drop
        said: list[Tensor] = []
        loss = self._velocity_error(x0, t.to(x0), eps.to(x0), Cond(batch.tokens, null.to(self.device)), said).mean()
        if not self.recipe.layout:
            return loss, {}
        wrong = layout_error(said[0].float(), batch.layout).mean()
        return loss + batch.worth.mean() * wrong, {"velocity": loss.item(), "layout": wrong.item()}

    def _velocity_error(self, x0: Tensor, t: Tensor, eps: Tensor, cond: Cond, said: list[Tensor] | None = None) -> Tensor:
        """(b,) mean squared error of the velocity (x_t - x0) / t that an x0 estimate implies."""
        time = t[:, None, None, None]
        prediction = self.model((1 - time) * x0 + time * eps, t, cond, said).float()
        return ((prediction - x0) / time).square().mean((1, 2, 3))

    def evaluate(self) -> tuple[Metrics, Tensor]:
        rng, errors = torch.Generator().manual_seed(0), []
        for start in range(0, HELD_OUT, 64):
            x0 = torch.from_numpy(np.array(self.dev_latents[start : start + 64])).to(self.device).float()
            t, eps = noise_times(64, rng).to(x0), torch.randn(x0.shape, generator=rng).to(x0)
            errors.append(self._velocity_error(x0, t, eps, Cond(self._words(range(start, start + 64)))))
        x = torch.randn(32, *self.dev_latents.shape[1:], generator=rng).to(self.device)
        denoise = guide(Denoiser(self.model, self.schedule), Cond(self._words(range(32))), 3.0)
        for state in sample(denoise, x, times(20), SAMPLERS["dpmpp-2m"]):
            x = state.x
        return {"dev_loss": torch.cat(errors).mean().item()}, self.decoder.decode(x.float()).float()

    def finish(self) -> None:
        """Nothing is left to do."""

    def _words(self, indices: range) -> Tokens:
        return self.tokenizer.encode([self.dev.describe(i)[0] for i in indices], self.model.config.length).to(self.device)


def layout_error(said: Tensor, truth: Tensor) -> Tensor:
    """(b,) how wrong the patches are, ``said`` (b, hw, classes + colours + 2), about ``truth`` (b, 4, h, w), see ``world.layout``:
    the cross-entropies of class and colour, and where there is a thing half the distance, in cells, to its middle."""
    parts, of = said.transpose(1, 2).split([*sizes(), 2], 1), truth.flatten(2)  # b k hw each, b 4 hw
    there = (of[:, 0] > 0).float()
    away = (parts[2] - of[:, 2:]).abs().mean(1)
    kind, color = (F.cross_entropy(parts[k], of[:, k].long(), reduction="none") for k in (0, 1))
    return (kind + color).mean(1) + 0.5 * (away * there).sum(1) / there.sum(1).clamp(min=1)


def noise_times(count: int, rng: Generator) -> Tensor:
    """Logit-normal times (Esser et al. 2024, eq. 19) that lean to noise: median 0.69, middle half 0.53 to 0.81."""
    return torch.sigmoid(0.8 + 1.0 * torch.randn(count, generator=rng))


TASKS: dict[str, Callable[[Recipe, torch.device, pool.Progress], Task]] = {"vae": Autoencode, "flow": FlowMatch}
