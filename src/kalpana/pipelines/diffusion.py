"""Diffusion pipeline: guided sampling from noise, or from a noised picture, to latents, then
decoding. It serves every network that predicts x0, eps, v or a velocity.

Seeds: all noise of a picture is drawn on the CPU from its own generators, nothing else is random,
and the rows of a batch are computed independently. A picture is therefore the same alone, in a
batch of eight, or in another process: bit for bit on the CPUs measured (x86, one and two threads).
On a CPU or GPU whose matrix kernels depend on the number of rows, single 8-bit values may be
rounded the other way.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from kalpana.capabilities import Capabilities
from kalpana.diffusion.denoiser import Denoise, Process
from kalpana.diffusion.editing import flow_edit, inpaint, noised, start_at, tiled
from kalpana.diffusion.guidance import autoguide, clipped, guide
from kalpana.diffusion.mean_flow import to_next
from kalpana.diffusion.samplers import SAMPLERS, Sampler, sample, step_noise
from kalpana.diffusion.schedule import SPACINGS
from kalpana.families import FAMILIES, find
from kalpana.hub import clip_tokenizer, stable_diffusion
from kalpana.hub.adapters import adapt
from kalpana.hub.card import Card, vae_of
from kalpana.hub.weights import files_of, find_device, fingerprint, load_module, read_process
from kalpana.inputs import ControlMap
from kalpana.pipelines.denoised import DenoisedLatents
from kalpana.pipelines.editing import Edit, fitted
from kalpana.pipelines.pipeline import TOGETHER, Draw, NoWords, Progress, Taught, answer
from kalpana.pipelines.planner import WINDOW, planned, unplanned
from kalpana.pipelines.rerank import Ranker, Words
from kalpana.pipelines.video_inputs import VideoInputs, read_video_inputs, video_cond, within
from kalpana.request import Request, ask, clean
from kalpana.text.tokenizer import BPE, Tokenizer, Window
from kalpana.types import Codec, Cond, KalpanaError, Step, Tokens

PUBLIC = {"guidance": 7.5, "strength": 0.75}  # defaults of public Stable Diffusion models

SOURCE_GUIDANCE = 1.5  # of the source_prompt of an edit

STYLE_SEED = 2**62  # of the noise of a style reference, which is the same for all pictures


class Network(Protocol):
    """A network that predicts x0, eps, v or a velocity.

    ``x_t`` is (b, ...) as ``Codec.shape``, and ``t`` is (b,), or (1,): one time for all rows.
    ``reads`` names the fields of Cond that it reads.
    """

    reads: tuple[str, ...]
    config: Any

    def __call__(self, x_t: Tensor, t: Tensor, cond: Cond, /) -> Tensor: ...


@dataclass(frozen=True)
class DiffusionPipeline:
    """A loaded diffusion model: a network, the process it was trained for, and its codec.

    ``files`` maps its file names to their SHA-256; ``words`` tokenizes the prompt; ``together`` is
    the largest batch of pictures; ``guide`` is the weaker model of autoguidance.
    """

    name: str
    family: str
    capabilities: Capabilities = field(repr=False)
    files: dict[str, str] = field(repr=False)
    words: Window | clip_tokenizer.Words | NoWords = field(repr=False)
    network: Network = field(repr=False)
    codec: Codec = field(repr=False)
    process: Process
    together: int = TOGETHER
    guide: DiffusionPipeline | None = field(default=None, repr=False)

    @classmethod
    def read(cls, folder: Path, card: Card, device: str | None = None) -> DiffusionPipeline:
        """The model in a folder of weights, which hold its network and its codec. Raises
        KalpanaError if it was trained with another tokenizer, and as ``load_module`` and
        ``find_device``."""
        target, family, capabilities = find_device(device), FAMILIES[card.family], card.usable()
        assert family.network and family.codec and capabilities
        codec = FAMILIES[family.codec]
        paths = [folder / family.file]
        if codec.file:
            paths.append(vae_of(folder) if family.codec == "vae" else folder / codec.file)
        reads_text = "tokens" in find(family.network).reads
        if reads_text and card.files.get(BPE.name) not in (None, fingerprint(BPE)):
            raise KalpanaError(
                f"model {card.name!r} learned to read with another tokenizer than {BPE}: "
                "take that one, or train it again"
            )
        network = load_module(paths[0], card.family, card.files).to(target)
        decoder = load_module(paths[1], codec.name, card.files) if codec.file else codec.build()
        files = [file for path in paths for file in files_of(path)]
        return cls(
            name=card.name,
            family=card.family,
            capabilities=capabilities,
            files={
                path.name: card.files.get(path.name) or fingerprint(path)
                for path in (*files, *([BPE] if reads_text else []))
            },
            words=Window(Tokenizer.load(), network.config.length) if reads_text else NoWords(),
            network=network,
            codec=decoder.to(target),
            process=Process(**read_process(paths[0])),
        )

    @classmethod
    def read_public(cls, folder: Path, device: str | None = None) -> DiffusionPipeline:
        """The Stable Diffusion 1 or 2 in a folder, in the layout of diffusers. Raises KalpanaError
        as ``hub.stable_diffusion.read`` and ``find_device``."""
        target, checkpoint = find_device(device), stable_diffusion.read(folder)
        usual = FAMILIES["unet"].capabilities
        assert usual is not None
        side = checkpoint.network.config.sample_size * checkpoint.codec.factor
        longer = side * 3 // 2 // 64 * 64
        sizes = [f"{side}x{side}"]
        if longer > side:
            sizes += [f"{longer}x{side}", f"{side}x{longer}"]
        defaults = usual.defaults.model_copy(update=PUBLIC | {"size": sizes[0]})
        changes = {"languages": ("en",), "sizes": tuple(sizes), "tiles": 64, "defaults": defaults}
        return cls(
            name=folder.name,
            family="unet",
            capabilities=usual.model_copy(update=changes),
            files=checkpoint.files,
            words=checkpoint.words,
            network=checkpoint.network.to(target),
            codec=checkpoint.codec.to(target),
            process=checkpoint.process,
            together=1,
        )

    @property
    def device(self) -> torch.device:
        return next(self.network.parameters()).device  # type: ignore[attr-defined]

    def generate(
        self,
        request: Request | str,
        *,
        rank_by: Ranker | None = None,
        latents: Path | None = None,
        **fields: Any,
    ) -> Iterator[Step]:
        """A stream of steps, one for each denoising step and each decoding of a batch; the last one
        carries the Result. Closing the iterator cancels.

        ``latents`` is a folder for the denoised latents of videos. Those that an earlier call for
        the same request has left there are decoded, without denoising; the caller removes it.

        Raises KalpanaError at the call, before the first Step, if the request needs a capability
        that the model lacks, has an input that cannot be read, or has ``best_of`` above 1 without a
        ranker.
        """
        request, inputs, model = ask(request, **fields), None, self
        words: Words = self.words
        notes: tuple[str, ...] = ()
        if hasattr(self.codec, "time_factor"):
            resolved = self.capabilities.resolve(request)[0]
            inputs = read_video_inputs(resolved, self.codec, self.device)  # type: ignore[arg-type]
        if request.adapter and "adapter" in self.capabilities.uses:
            network: Any = self.network
            network, taught, notes = adapt(network, self.family, self.files, request.adapter)
            model, words = replace(self, network=network), Taught(words, taught)
        more = dict[str, Any]()
        if request.guide_model is not None and "guide_model" in self.capabilities.uses:
            weak = _guide(self, request.guide_model)
            model = replace(model, guide=weak)
            more["guide"] = {"name": weak.name, "files": weak.files}
        if request.plan != Request.model_fields["plan"].default:
            notes += unplanned(self.capabilities.resolve(request)[0], self.capabilities)
        draw: Draw = partial(_sample, model)
        kept = None
        if latents is not None:
            kept = DenoisedLatents(latents, self.files, self.device.type)
        if inputs is not None:
            draw = partial(_sample_video, model, inputs, kept)
            notes = (*notes, *inputs.warnings)
        return answer(self, words, request, draw, rank_by, more, self.together, notes)


def _guide(model: DiffusionPipeline, name: str) -> DiffusionPipeline:
    """The weaker model that guides another one. Raises KalpanaError where it has another process,
    other latents or another family, and as ``load``."""
    from kalpana.pipelines import load

    weak = load(name, model.device.type)
    if not isinstance(weak, DiffusionPipeline) or weak.family != model.family:
        raise KalpanaError(
            f"guide_model {name!r} is of family {weak.family}, and {model.name!r} of "
            f"{model.family}: name weaker weights of the same family"
        )
    ours, theirs = (each.codec.state_dict() for each in (model, weak))  # type: ignore[attr-defined]
    same = ours.keys() == theirs.keys() and all(
        torch.equal(value, theirs[key]) for key, value in ours.items()
    )
    if weak.process != model.process or not same:
        raise KalpanaError(
            f"guide_model {name!r} has another noise schedule, prediction or autoencoder than "
            f"{model.name!r}: name weaker weights with the same ones"
        )
    return weak


def _sample(model: DiffusionPipeline, request: Request, edit: Edit | None) -> Iterator[Progress]:
    """Sample one batch, the pictures of a resolved request."""
    assert request.steps and request.sampler and request.width and request.height  # resolved
    seeds, schedule = request.each_seed(), model.process.levels
    frames = round(request.seconds * request.fps) if request.seconds and request.fps else 1
    shape = model.codec.shape(request.height, request.width, max(frames, 1))
    x = noise(seeds, shape).to(model.device)
    timesteps = _timesteps(model, request)
    x0 = None if edit is None else model.codec.encode(edit.pixels.to(model.device))
    plans = planned(request, model.capabilities)
    given = _known_cond(model, edit, x0, request, len(seeds))
    if plans.maps:
        maps = {kind: each.to(model.device) for kind, each in plans.maps.items()}
        given = replace(given, control=maps)
    denoise = guided_denoise(model, given, request, request.prompt, timesteps)
    step = _step(request)
    strength, alone = request.strength, given.known is not None and not _blends(model)
    if edit is not None and x0 is not None:
        strength = edit.strength
        mask = _dilated(model, edit)
        if request.source_prompt is not None:
            asked = _source(request)
            source = guided_denoise(model, given, asked, request.source_prompt, timesteps)
            step = flow_edit(step, source, x0, 1.0 if mask is None else mask)
        elif mask is not None and not alone:
            denoise = inpaint(denoise, x0, mask)
    # An inpainting network is given the picture by itself: all of it anew is from noise alone.
    anew = alone and strength == 1
    if x0 is not None and strength is not None and not anew:
        timesteps = start_at(timesteps, strength)
        edits = request.source_prompt is not None  # from the picture itself
        x = x0.expand_as(x) if edits else noised(schedule, x0, x, timesteps[0])
    for progress in integrate(model, denoise, x, timesteps, request, step):
        yield replace(progress, facts=plans.facts)


def _sample_video(
    model: DiffusionPipeline,
    inputs: VideoInputs,
    kept: DenoisedLatents | None,
    request: Request,
    edit: Edit | None,
) -> Iterator[Progress]:
    """Sample one batch, the videos of a resolved request, window by window; ``edit`` is None."""
    assert request.width and request.height  # resolved
    seeds, schedule = request.each_seed(), model.process.levels
    x = noise(seeds, model.codec.shape(request.height, request.width, inputs.frames))
    x, timesteps = x.to(model.device), _timesteps(model, request)
    given = video_cond(inputs, model.codec, request, x)  # type: ignore[arg-type]
    if inputs.x0 is not None:
        assert request.strength is not None  # resolved
        timesteps = start_at(timesteps, request.strength)
        x = noised(schedule, inputs.x0, x, timesteps[0])
    windows = inputs.windows(x.shape[1])
    total, more = len(windows) * (len(timesteps) - 1) + 1, step_noise(seeds)
    found = None if kept is None else kept.read(request)
    if found is not None:
        x, windows = found.to(model.device), []
    for window in windows:
        cond = within(given, x, window)
        denoise = guided_denoise(model, cond, request, request.prompt, timesteps)
        states = sample(denoise, x[:, window], timesteps, _step(request), more)
        for k, state in enumerate(states, start=2):
            if k == len(timesteps):
                x = torch.cat((x[:, : window.start], state.x, x[:, window.stop :]), 1)
                if kept is not None and window is windows[-1]:
                    kept.write(request, x)
            yield Progress("denoise", total, model.codec.preview(state.x0))
    pixels = inputs.finish(_decoded(model, x))
    yield Progress("decode", total, model.codec.preview(x), pixels)


def _timesteps(model: DiffusionPipeline, request: Request) -> Tensor:
    """The timesteps of a resolved request, from noise to data."""
    assert request.steps  # resolved
    spacing = SPACINGS[request.spacing or "uniform"]
    return spacing(request.steps, model.capabilities.defaults.shift, model.process.levels)


def _step(request: Request) -> Sampler:
    """The step of the sampler of a resolved request."""
    assert request.sampler
    step = SAMPLERS[request.sampler]
    return step if request.eta is None else partial(step, **{"eta": request.eta})


def integrate(
    model: DiffusionPipeline,
    denoise: Denoise,
    x: Tensor,
    timesteps: Tensor,
    request: Request,
    step: Sampler | None = None,
) -> Iterator[Progress]:
    """The steps from x at the first of the timesteps to pixels, by ``step`` or else the sampler of
    a resolved request: one for each denoising step, and one for the decoding."""
    step, total = step or _step(request), len(timesteps)
    for state in sample(denoise, x, timesteps, step, step_noise(request.each_seed())):
        x = state.x
        yield Progress("denoise", total, model.codec.preview(state.x0))
    yield Progress("decode", total, model.codec.preview(x), _decoded(model, x))


def _decoded(model: DiffusionPipeline, x: Tensor) -> Tensor:
    """Pixels of latents, decoded one by one: the activations of the widest layers set the peak
    memory."""
    return torch.cat([model.codec.decode(latents[None]) for latents in x])


def noise(seeds: Sequence[int], shape: Sequence[int]) -> Tensor:
    """Unit Gaussian noise (b, ...) for b seeds, each drawn on the CPU from its own generator;
    ``shape`` is that of one row."""
    return torch.stack(
        [
            torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float32)
            for seed in seeds
        ]
    )


def _dilated(model: DiffusionPipeline, edit: Edit) -> Tensor | None:
    """The mask of an edit in latents, (1, 1, h, w): 1 where a pixel is masked, and one latent
    around, so that the decoder's receptive field at the seam holds new latents. None without."""
    cells = edit.cells(model.codec.factor)
    if cells is None:
        return None
    return F.max_pool2d((cells > 0).float(), 3, stride=1, padding=1).to(model.device)


def _source(request: Request) -> Request:
    """The request for the estimate of what the input picture shows (FlowEdit)."""
    return request.updated(
        guidance=SOURCE_GUIDANCE, negative_prompt=None, style_image=None, style_strength=None
    )


def guided_denoise(
    model: DiffusionPipeline, given: Cond, request: Request, prompt: str, timesteps: Tensor
) -> Denoise:
    """The guided x0 estimate of the model for the pictures of a resolved request by ``prompt``,
    with the fields of ``given`` in its condition, at the timesteps of the sampling."""
    assert request.guidance is not None  # resolved
    limit = getattr(model.codec, "limit", None)
    interval = model.capabilities.defaults.interval
    rescale = request.guidance_rescale or 0.0
    if model.guide is not None and request.guidance != 1:
        plain = request.updated(guidance=1.0)
        strong, weak = (
            guided_denoise(each, given, plain, prompt, timesteps)
            for each in (replace(model, guide=None), model.guide)
        )
        guided = autoguide(strong, weak, request.guidance, interval, rescale)
        return guided if limit is None else clipped(guided, limit)
    b = len(request.each_seed())
    cond = _cond(model, request, prompt, b, given)
    negative = None
    if request.negative_prompt is not None:
        negative = _cond(model, request, request.negative_prompt, b, given)

    def network(x_t: Tensor, t: Tensor, cond: Cond) -> Tensor:
        # All rows have the same time. Passed as one row, its embedding is computed by matrix
        # products of one row, whose rounding does not depend on the batch size.
        active = _active(cond, request, float(t[0]))
        if style is not None:
            noisy = noised(model.process.levels, style, style_noise, t[0])
            active = replace(active, style=F.pad(noisy, (0, 0, 0, 0, 0, 1), value=strength))
        return model.network(x_t, t[:1], active)

    factor, (width, height) = model.codec.factor, _window(model, request)
    style, strength = _style(model, request, (width, height)), request.style_strength or 0.0
    if style is not None:
        style_noise = noise([STYLE_SEED], style.shape[1:]).to(style)
    if f"{width}x{height}" != request.size:
        network = tiled(network, (height // factor, width // factor), factor)  # type: ignore[assignment]
    if "until" in model.network.reads:
        network = to_next(network, timesteps)  # type: ignore[assignment]
    denoiser = model.process.denoiser(network)
    guided = guide(denoiser, cond, request.guidance, interval, negative, rescale)
    return guided if limit is None else clipped(guided, limit)


def _window(model: DiffusionPipeline, request: Request) -> tuple[int, int]:
    """The (width, height) in pixels of what the network sees at once of a resolved request."""
    able, size = model.capabilities, request.size or ""
    if able.tiles is not None and size not in able.sizes:
        size = able.sizes[0]
    width, height = (int(side) for side in size.split("x"))
    return width, height


def _style(model: DiffusionPipeline, request: Request, size: tuple[int, int]) -> Tensor | None:
    """Latents (1, c, h, w) of the style reference of a request, cropped to ``size``; None without
    one, or with strength 0."""
    if request.style_image is None or not request.style_strength:
        return None
    pixels = fitted(request.style_image.picture(shortest=max(size)), size)
    return model.codec.encode(pixels.to(model.device))


def _map(control: ControlMap, size: tuple[int, int]) -> Tensor:
    """A control map as (1, 4, h, w): RGB in [-1, 1], and its strength."""
    pixels = fitted(control.image.picture(), size)
    return F.pad(pixels, (0, 0, 0, 0, 0, 1), value=control.strength)


def _active(cond: Cond, request: Request, t: float) -> Cond:
    """The condition without the control maps whose share of the denoising does not include t."""
    windows = WINDOW | {each.kind: (each.start, each.end) for each in request.control or ()}
    over = {kind for kind, (start, end) in windows.items() if not start <= 1 - t <= end}
    if not over:
        return cond
    control = {kind: each for kind, each in (cond.control or {}).items() if kind not in over}
    return replace(cond, control=control or None)


def _blends(model: DiffusionPipeline) -> bool:
    """Whether inpainting by the network also replaces the estimate outside the mask."""
    return getattr(model.network, "blends", False)


def _known_cond(
    model: DiffusionPipeline, edit: Edit | None, x0: Tensor | None, request: Request, b: int
) -> Cond:
    """What an inpainting network is given of b pictures: latents of the input picture, and the mask
    of what is given; other networks are given nothing. Networks that do not blend take the picture
    grey where it is masked, as Stable Diffusion's do; the others were trained on latents of whole
    pictures, which are ``x0``, and near the mask those of a grey one differ."""
    masked = edit is not None and edit.mask is not None
    # For a network that blends, latents that are not given count for nothing.
    if "known" not in model.network.reads or (_blends(model) and not masked):
        return Cond()
    assert request.width and request.height  # resolved
    factor, pixels = model.codec.factor, torch.zeros(1, 3, request.height, request.width)
    given = torch.zeros(1, 1, request.height // factor, request.width // factor)
    if edit is not None and edit.mask is not None:
        pixels, cells = edit.pixels * (edit.mask == 0), edit.cells(factor)
        assert cells is not None
        given = (cells == 0).float()
    latents = x0 if _blends(model) else None
    if latents is None:
        latents = model.codec.encode(pixels.to(model.device))
    return Cond(known=torch.cat((latents, given.to(latents)), 1).expand(b, -1, -1, -1))


def _cond(model: DiffusionPipeline, request: Request, text: str, b: int, given: Cond) -> Cond:
    """The conditioning on a text and the other inputs of a request, repeated for b rows, with the
    fields of ``given``."""
    reads, device = model.network.reads, model.device
    tokens = label = control = null = guidance = None
    if not isinstance(model.words, NoWords):
        tokens = model.words.encode([clean(text)] * b).to(device)
        if not text and given.embedding is not None:  # only the text is left out
            tokens = Tokens(tokens.ids, tokens.mask & False)
        elif not text:
            null = torch.ones(b, dtype=torch.bool, device=device)
    if "label" in reads:
        index = 0 if request.label is None else model.capabilities.labels.index(request.label)
        label = torch.full((b,), index, device=device)
        null = torch.full((b,), request.label is None, device=device) if tokens is None else null
    if "guidance" in reads:
        assert request.guidance is not None  # resolved
        guidance = torch.full((1,), request.guidance, device=device)
    if "control" in reads and request.control:
        assert request.width and request.height  # resolved
        size = request.width, request.height
        control = {
            each.kind: _map(each, size).to(device).expand(b, -1, -1, -1) for each in request.control
        }
    if "control" in reads and given.control:
        control = given.control | (control or {})
    return replace(given, tokens=tokens, null=null, label=label, control=control, guidance=guidance)
