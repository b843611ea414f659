"""Text-to-image by a latent flow model: guided sampling from noise to latents, then decoding.

Seeds: the noise of each picture is drawn on the CPU from its own generator, nothing else is random,
and the rows of a batch are computed independently. A picture is therefore the same alone, in a
batch of eight, or in another process: bit for bit on the CPUs measured (x86, one and two threads).
On a CPU or GPU whose matrix kernels depend on the number of rows, single 8-bit values may be
rounded the other way.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from kalpana.diffusion.denoiser import Denoise, Denoiser
from kalpana.diffusion.guidance import guide
from kalpana.diffusion.samplers import SAMPLERS, sample
from kalpana.diffusion.schedule import Flow, times
from kalpana.hub.card import Card
from kalpana.hub.weights import files_of, find_device, fingerprint, load_module
from kalpana.models import dit, vae
from kalpana.pipelines.pipeline import Progress, answer
from kalpana.pipelines.rerank import Ranker
from kalpana.request import USUAL, Capabilities, Request, ask, clean
from kalpana.text.tokenizer import BPE, Tokenizer, Window
from kalpana.types import Cond, KalpanaError, Step


@dataclass(frozen=True)
class TextToImage:
    """A loaded latent flow model; ``files`` maps its file names to their SHA-256."""

    name: str
    family: str
    capabilities: Capabilities = field(repr=False)
    files: dict[str, str] = field(repr=False)
    tokenizer: Tokenizer = field(repr=False)
    network: dit.DiT = field(repr=False)
    vae: vae.VAE = field(repr=False)

    @classmethod
    def read(cls, folder: Path, card: Card, device: str | None = None) -> TextToImage:
        """The model in a folder of weights: dit.safetensors and vae.safetensors. Raises
        KalpanaError if it was trained with another tokenizer, and as ``load_module`` and
        ``find_device``."""
        target = find_device(device)
        network_path, vae_path = folder / "dit.safetensors", folder / "vae.safetensors"
        if card.files.get(BPE.name) not in (None, fingerprint(BPE)):
            raise KalpanaError(
                f"model {card.name!r} learned to read with another tokenizer than {BPE}: "
                "take that one, or train it again"
            )
        return cls(
            name=card.name,
            family=card.family,
            capabilities=card.capabilities or USUAL[card.family],
            network=load_module(
                network_path, "flow", lambda **config: dit.DiT(dit.Config(**config)), card.files
            ).to(target),
            vae=load_module(
                vae_path, "vae", lambda **config: vae.VAE(vae.Config(**config)), card.files
            ).to(target),
            files={
                path.name: card.files.get(path.name) or fingerprint(path)
                for path in (*files_of(network_path), *files_of(vae_path), BPE)
            },
            tokenizer=Tokenizer.load(),
        )

    @property
    def device(self) -> torch.device:
        return next(self.network.parameters()).device

    def generate(
        self, request: Request | str, *, rank_by: Ranker | None = None, **fields: Any
    ) -> Iterator[Step]:
        """The stream of ``text_to_image`` for a request, or for a prompt and other request
        fields."""
        return text_to_image(self, ask(request, **fields), rank_by)


def text_to_image(
    model: TextToImage, request: Request, rank_by: Ranker | None = None
) -> Iterator[Step]:
    """A stream of steps, one for each denoising step and each decoding of a batch; the last one
    carries the Result. Closing the iterator cancels.

    Raises KalpanaError at the call, before the first Step, if the request needs a capability that
    the model lacks, or has ``best_of`` above 1 without a ranker.
    """
    words = Window(model.tokenizer, model.network.config.length)
    return answer(model, words, request, partial(_sample, model), rank_by)


def _sample(model: TextToImage, request: Request) -> Iterator[Progress]:
    """Sample one batch, the pictures of a resolved request."""
    assert request.steps and request.sampler and request.width and request.height  # resolved
    seeds, total = request.each_seed(), request.steps + 1
    shape = model.vae.config.latent, request.height // 8, request.width // 8
    x = noise(seeds, shape).to(model.device)
    timesteps = times(request.steps, model.capabilities.defaults.shift)
    denoise, sampler = _denoise(model, request, len(seeds)), SAMPLERS[request.sampler]
    for state in sample(denoise, x, timesteps, sampler):
        x = state.x
        yield Progress("denoise", total, model.vae.preview(state.x0))
    # Decoded one by one: the activations of the widest layers set the peak memory.
    pixels = torch.cat([model.vae.decode(latents[None]) for latents in x])
    yield Progress("decode", total, model.vae.preview(x), pixels)


def noise(seeds: Sequence[int], shape: tuple[int, int, int]) -> Tensor:
    """Unit Gaussian noise (b, c, h, w) for b seeds, each drawn on the CPU from its own generator;
    ``shape`` is (c, h, w)."""
    return torch.stack(
        [torch.randn(shape, generator=torch.Generator().manual_seed(seed)) for seed in seeds]
    )


def _denoise(model: TextToImage, request: Request, b: int) -> Denoise:
    """The guided x0 estimate of the model for b pictures of a resolved request."""
    assert request.guidance is not None  # resolved
    cond = _cond(model, request.prompt, b)
    negative = None if request.negative_prompt is None else _cond(model, request.negative_prompt, b)

    def network(x_t: Tensor, t: Tensor, cond: Cond) -> Tensor:
        # All rows have the same time. Passed as one row, its embedding is computed by matrix
        # products of one row, whose rounding does not depend on the batch size.
        return model.network(x_t, t[:1], cond)

    return guide(
        Denoiser(network, Flow(), "x0"),
        cond,
        request.guidance,
        model.capabilities.defaults.interval,
        negative,
    )


def _cond(model: TextToImage, text: str, b: int) -> Cond:
    """The conditioning on a text, repeated for b rows."""
    tokens = model.tokenizer.encode([clean(text)] * b, model.network.config.length)
    return Cond(tokens.to(model.device))
