"""Words to pictures: noise, walked to latents by a sampler under guidance, decoded, and given a receipt.

Seeds: a picture's noise is drawn on the CPU by a generator of its own, nothing else is random, and no row of a batch takes part
in another's sums. The same picture therefore comes alone, in a batch of eight, or from another process: bit for bit on the CPUs
we measured (x86, one and two threads), while a CPU or GPU whose matrix kernels depend on the number of rows may round an
8-bit value the other way here and there.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
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
    """A model that draws from words, whole and ready; ``files`` maps its files to their SHA-256."""

    name: str
    family: str
    capabilities: Capabilities
    files: dict[str, str]
    tokenizer: Tokenizer
    network: dit.DiT
    vae: vae.VAE

    @classmethod
    def read(cls, folder: Path, card: Card, device: str | None = None) -> TextToImage:
        """The model in a folder of weights: dit.safetensors and vae.safetensors. Raises KalpanaError as ``load_module`` and
        ``find_device``."""
        place = find_device(device)
        network, decoder = folder / "dit.safetensors", folder / "vae.safetensors"
        if card.files.get(BPE.name) not in (None, fingerprint(BPE)):
            raise KalpanaError(
                f"model {card.name!r} learned to read with another tokenizer than {BPE}: take that one, or train it again"
            )
        return cls(
            name=card.name,
            family=card.family,
            capabilities=card.capabilities or USUAL[card.family],
            network=load_module(
                network, "flow", lambda **config: dit.DiT(dit.Config(**config)), card.files
            ).to(place),
            vae=load_module(
                decoder, "vae", lambda **config: vae.VAE(vae.Config(**config)), card.files
            ).to(place),
            files={
                path.name: card.files.get(path.name) or fingerprint(path)
                for path in (*files_of(network), *files_of(decoder), BPE)
            },
            tokenizer=Tokenizer.load(),
        )

    @property
    def device(self) -> torch.device:
        return next(self.network.parameters()).device

    def generate(
        self, request: Request | str, *, rank_by: Ranker | None = None, **fields: Any
    ) -> Iterator[Step]:
        """``text_to_image`` by this model, for a request, or for a prompt, and other fields of a request."""
        return text_to_image(self, ask(request, **fields), rank_by)


def text_to_image(
    model: TextToImage, request: Request, rank_by: Ranker | None = None
) -> Iterator[Step]:
    """A Step for each denoising step and each decoding; the last one carries the Result. Closing the iterator cancels.

    Raises KalpanaError at once, before the first Step, where the request asks for what the model cannot do, or for the best of several
    without a ranker.
    """
    return answer(
        model,
        Window(model.tokenizer, model.network.config.length),
        request,
        partial(_draw, model),
        rank_by,
    )


def _draw(model: TextToImage, request: Request) -> Iterator[Progress]:
    assert request.steps and request.sampler and request.width and request.height  # settled
    seeds, total = request.each_seed(), request.steps + 1
    x = noise(seeds, (model.vae.config.latent, request.height // 8, request.width // 8)).to(
        model.device
    )
    timesteps = times(request.steps, model.capabilities.defaults.shift)
    for state in sample(
        _denoise(model, request, len(seeds)), x, timesteps, SAMPLERS[request.sampler]
    ):
        x = state.x
        yield Progress("denoise", total, model.vae.preview(state.x0))
    pixels = torch.cat(
        [model.vae.decode(latents[None]) for latents in x]
    )  # one by one: the widest layers set the peak of memory
    yield Progress("decode", total, model.vae.preview(x), pixels)


def noise(seeds: Sequence[int], shape: tuple[int, int, int]) -> Tensor:
    """Unit Gaussian noise (b, c, h, w) for b pictures, each drawn on the CPU by a generator of its own."""
    return torch.stack(
        [torch.randn(shape, generator=torch.Generator().manual_seed(seed)) for seed in seeds]
    )


def _denoise(model: TextToImage, request: Request, b: int) -> Denoise:
    """The model's estimate of x0 for b pictures of this request, guided as it asks."""
    assert request.guidance is not None  # settled
    cond = _cond(model, request.prompt, b)
    negative = None if request.negative_prompt is None else _cond(model, request.negative_prompt, b)

    def network(x_t: Tensor, t: Tensor, cond: Cond) -> Tensor:
        # All rows share the time. Given once, it is embedded by products of one row, whose rounding no batch size can change.
        return model.network(x_t, t[:1], cond)

    return guide(
        Denoiser(network, Flow(), "x0"),
        cond,
        request.guidance,
        model.capabilities.defaults.interval,
        negative,
    )


def _cond(model: TextToImage, text: str, b: int) -> Cond:
    """The text as a condition of b equal rows."""
    return Cond(
        model.tokenizer.encode([clean(text)] * b, model.network.config.length).to(model.device)
    )
