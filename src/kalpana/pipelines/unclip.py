"""unCLIP pipeline: pictures from CLIP image vectors, which come from a prompt by the prior, or from
pictures: variations, the way between two pictures, and the difference of two texts.

All pictures are drawn by the diffusion pipeline of the decoder; this file finds the vectors.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from kalpana.capabilities import Capabilities
from kalpana.diffusion.denoiser import Process
from kalpana.diffusion.guidance import guide
from kalpana.diffusion.samplers import SAMPLERS, sample
from kalpana.diffusion.schedule import SPACINGS, times
from kalpana.families import FAMILIES
from kalpana.hub.card import Card, clip_of, read_card
from kalpana.hub.weights import files_of, fingerprint, load_module, read_process
from kalpana.models.clip import CLIP, unit
from kalpana.models.prior import PRIOR_GUIDANCE, PRIOR_STEPS, Prior, text_cond
from kalpana.models.unclip import Standard, with_noise
from kalpana.pipelines.diffusion import DiffusionPipeline, guided_denoise, integrate, noise
from kalpana.pipelines.editing import Edit, fitted, read_edit
from kalpana.pipelines.pipeline import Progress, answer
from kalpana.pipelines.rerank import Ranker
from kalpana.request import Request, ask, clean
from kalpana.text.tokenizer import Tokenizer, Window
from kalpana.types import Cond, KalpanaError, Result, Step

MOST_NOISE = 0.5  # the decoder has seen no more noise on its vectors
CANDIDATES = 2  # vectors that the prior draws for a picture, of which one is kept
DIFFERENCE = 0.35  # default strength of a text difference: the share of the way to it


@dataclass(frozen=True)
class UnclipPipeline:
    """A loaded unCLIP: its decoder as a diffusion pipeline, its prior, and the CLIP of both."""

    decoder: DiffusionPipeline = field(repr=False)
    standard: Standard = field(repr=False)  # of the decoder
    prior: Prior = field(repr=False)
    process: Process  # of the prior
    clip: CLIP = field(repr=False)
    reader: Window = field(repr=False)  # of the CLIP
    files: dict[str, str] = field(repr=False)

    @classmethod
    def read(cls, folder: Path, card: Card, device: str | None = None) -> UnclipPipeline:
        """The model in a folder of weights. Raises KalpanaError as ``DiffusionPipeline.read``, and
        if there is no prior or no CLIP."""
        decoder = DiffusionPipeline.read(folder, card, device)
        path, place = folder / FAMILIES["unclip-prior"].file, clip_of(folder)
        clip_path, hashes = place / FAMILIES["clip"].file, read_card(place).files | card.files
        prior = load_module(path, "unclip-prior", card.files).to(decoder.device)
        clip = load_module(clip_path, "clip", hashes).to(decoder.device)
        features = {decoder.network.config.features, prior.config.features, clip.config.features}
        if len(features) > 1:
            raise KalpanaError(
                f"the decoder, the prior and the CLIP of {folder} have vectors of different sizes, "
                f"{sorted(features)}: take the CLIP that they learned with"
            )
        files = [*files_of(path), *files_of(clip_path)]
        return cls(
            decoder=decoder,
            standard=decoder.network.standard,  # type: ignore[attr-defined]
            prior=prior,
            process=Process(**read_process(path)),
            clip=clip,
            reader=Window(Tokenizer.load(), clip.config.length),
            files=decoder.files
            | {file.name: card.files.get(file.name) or fingerprint(file) for file in files},
        )

    @property
    def name(self) -> str:
        return self.decoder.name

    @property
    def family(self) -> str:
        return self.decoder.family

    @property
    def capabilities(self) -> Capabilities:
        return self.decoder.capabilities

    @property
    def device(self) -> torch.device:
        return self.decoder.device

    def generate(
        self, request: Request | str, *, rank_by: Ranker | None = None, **fields: Any
    ) -> Iterator[Step]:
        """A stream of steps, as ``DiffusionPipeline.generate``.

        With two pictures, ``image`` and ``last_image``, the n outputs lie on the way between them;
        ``strength`` is the place of a single one, from 0 to 1.
        """
        request = _checked(ask(request, **fields)).seeded()
        sampled = partial(_sample, self)
        if request.last_image is None:
            return answer(self, self.decoder.words, request, sampled, rank_by, read=_read)
        (seed,) = request.seeds or (request.seed,)
        places = [k / (request.n - 1) for k in range(request.n)] if request.n > 1 else [None]
        return _chained(
            request,
            [
                answer(
                    self,
                    self.decoder.words,
                    request.updated(n=1, seed=seed, seeds=None, **_place(place)),
                    sampled,
                    read=_read,
                )
                for place in places
            ],
        )


def _place(place: float | None) -> dict[str, float]:
    return {} if place is None else {"strength": place}


def _checked(request: Request) -> Request:
    """The request, with the default strength of its task. Raises KalpanaError for inputs that do
    not fit each other."""
    strength = request.strength
    if request.last_image is not None:
        if request.image is None:
            raise KalpanaError("last_image needs an image: give both pictures, or only image")
        if request.source_prompt is not None:
            raise KalpanaError(
                "last_image is for the way between two pictures, and source_prompt for a change by "
                "words: leave one out"
            )
        if request.n > 1 and strength is not None:
            raise KalpanaError(
                f"strength is the place of one picture on the way, and n is {request.n}: leave one "
                "out"
            )
        if request.seeds is not None and len(request.seeds) > 1:
            raise KalpanaError(
                "the pictures on the way between two share one seed: give seed and n, or one "
                "picture at a time by strength, its place from 0 to 1"
            )
        if request.best_of > 1:
            raise KalpanaError("best_of does not fit the way between two pictures: leave it out")
        return request if strength is not None or request.n > 1 else request.updated(strength=0.5)
    if request.source_prompt is not None:
        return request.updated(strength=DIFFERENCE) if strength is None else request
    if strength is not None and strength > MOST_NOISE:
        raise KalpanaError(
            f"strength {strength:g} is the noise on the picture's vector, which goes from 0 to "
            f"{MOST_NOISE}: write at most {MOST_NOISE}"
        )
    return request


def _read(request: Request) -> Edit | None:
    """The input picture of a resolved request. It gives a vector, and is no part of the output,
    whatever the strength."""
    edit = read_edit(request)
    return None if edit is None else replace(edit, strength=1.0)


def _chained(request: Request, streams: list[Iterator[Step]]) -> Iterator[Step]:
    """One stream of several that have one output each, whose receipts hold the whole request."""
    outputs, warnings = list[Any](), list[str]()
    for k, stream in enumerate(streams):
        for step in stream:
            total, index = step.total * len(streams), step.total * k + step.index
            if step.result is None:
                eta = None if step.eta is None else step.eta + step.eta * (len(streams) - k - 1)
                yield replace(step, index=index, total=total, eta=eta)
                continue
            warnings += step.result.warnings
            outputs += [
                replace(each, receipt=each.receipt | {"request": request.to_json()})
                for each in step.result.outputs
            ]
            if index < total:
                yield replace(step, index=index, total=total, eta=None, result=None)
    result = Result(tuple(outputs), tuple(dict.fromkeys(warnings)))
    yield Step(total, total, None, 0.0, step.stage, result)


def _sample(model: UnclipPipeline, request: Request, edit: Edit | None) -> Iterator[Progress]:
    """Sample one batch, the pictures of a resolved request."""
    assert request.steps and request.width and request.height  # resolved
    decoder, seeds = model.decoder, request.each_seed()
    shape = decoder.codec.shape(request.height, request.width)
    x, level = noise(seeds, shape).to(model.device), 0.0
    if edit is None:
        yield Progress("prior", request.steps + 2, None)
        # One by one: a vector is then the same in every batch.
        z = torch.cat([drawn_vector(model, request.prompt, seed) for seed in seeds])
    else:
        z = picture_vectors(model, edit.pixels).expand(len(seeds), -1)
        assert request.strength is not None  # resolved
        if request.last_image is not None:
            last = fitted(request.last_image.picture(), (request.width, request.height))
            z = slerp(z, picture_vectors(model, last).expand_as(z), request.strength)
            others = [zlib.crc32(f"{seed}/last".encode()) for seed in seeds]
            x = slerp(x, noise(others, shape).to(x), request.strength)
        elif request.source_prompt is not None:
            change = F.normalize(_difference(model, request.source_prompt, request.prompt))
            z = slerp(z, change * z.norm(dim=1, keepdim=True), request.strength)
        else:
            level = request.strength
    for progress in draw(model, request, z, x, level):
        yield replace(progress, total=progress.total + (edit is None))


def draw(
    model: UnclipPipeline, request: Request, z: Tensor, x: Tensor, level: float = 0.0
) -> Iterator[Progress]:
    """The pictures of a resolved request, from standardised vectors z (b, d), which get noise of a
    level, and the noise x (b, ...) of the latents."""
    assert request.steps  # resolved
    decoder, seeds = model.decoder, request.each_seed()
    others = [zlib.crc32(f"{seed}/vector".encode()) for seed in seeds]
    eps = noise(others, z.shape[1:]).to(z)
    given = Cond(embedding=with_noise(z, eps, z.new_full((len(z),), level)))
    spacing, shift = SPACINGS[request.spacing or "uniform"], decoder.capabilities.defaults.shift
    timesteps = spacing(request.steps, shift, decoder.process.levels)
    denoise = guided_denoise(decoder, given, request, request.prompt, timesteps)
    yield from integrate(decoder, denoise, x, timesteps, request)


def picture_vectors(model: UnclipPipeline, pixels: Tensor) -> Tensor:
    """Standardised CLIP vectors (b, d) of pictures (b, 3, h, w)."""
    size = [model.clip.config.side] * 2
    resized = F.interpolate(pixels.to(model.device), size, mode="bicubic", antialias=True)
    return model.standard(unit(model.clip.image(resized.clamp(-1, 1))))


def drawn_vector(model: UnclipPipeline, prompt: str, seed: int) -> Tensor:
    """The standardised vector (1, d) that the prior draws for a prompt: of CANDIDATES, the one that
    is nearest to the text vector."""
    tokens = model.reader.encode([clean(prompt)] * CANDIDATES).to(model.device)
    cond = text_cond(model.clip.read, tokens)
    assert cond.embedding is not None
    seeds = [zlib.crc32(f"{seed}/prior/{k}".encode()) for k in range(CANDIDATES)]
    x = noise(seeds, (model.prior.config.features,)).to(model.device)
    denoise = guide(model.process.denoiser(model.prior), cond, PRIOR_GUIDANCE)
    for state in sample(denoise, x, times(PRIOR_STEPS), SAMPLERS["dpmpp-2m"]):
        x = state.x
    vectors = model.prior.standard.inverse(x)
    best = (vectors * cond.embedding[:, 0]).sum(1).argmax()
    return model.standard(vectors[best][None])


def text_vectors(model: UnclipPipeline, texts: Sequence[str]) -> Tensor:
    """Standardised CLIP vectors (b, d) of texts, by the constants of those of pictures."""
    tokens = model.reader.encode([clean(text) for text in texts]).to(model.device)
    return model.standard(unit(model.clip.text(tokens)))


def _difference(model: UnclipPipeline, source: str, target: str) -> Tensor:
    """Direction (1, d) between two texts in standardised vectors."""
    before, after = text_vectors(model, (source, target))
    if torch.equal(before, after):
        raise KalpanaError(
            "source_prompt and prompt say the same: write what the picture should show instead"
        )
    return (after - before)[None]


def slerp(a: Tensor, b: Tensor, share: float) -> Tensor:
    """Spherical interpolation of rows (b, ...), from ``a`` at share 0 to the direction of ``b`` at
    1, with lengths in between."""
    flat_a, flat_b = a.flatten(1), b.flatten(1)
    length_a, length_b = flat_a.norm(dim=1, keepdim=True), flat_b.norm(dim=1, keepdim=True)
    unit_a, unit_b = flat_a / length_a, flat_b / length_b
    angle = (unit_a * unit_b).sum(1, keepdim=True).clamp(-1, 1).arccos()
    # Nearly parallel rows: sin(share * angle) / sin(angle) is share.
    near = angle.sin() < 1e-4
    weight_a = torch.where(near, 1 - share, ((1 - share) * angle).sin() / angle.sin())
    weight_b = torch.where(near, share, (share * angle).sin() / angle.sin())
    length = (1 - share) * length_a + share * length_b
    return (length * F.normalize(weight_a * unit_a + weight_b * unit_b, dim=1)).view_as(a)
