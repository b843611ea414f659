"""Pipelines of the diffusers library behind the common request: text to image, from an image,
inpainting, ControlNet, and videos from text or an image.

Every picture is drawn alone, from a generator of its own on the CPU, so that it never depends on
its batch. There are no previews: what a step of diffusers reports is the noisy latents.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from functools import partial
from importlib.util import find_spec
from inspect import signature
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from kalpana.capabilities import Capabilities
from kalpana.hub import diffusers_folder
from kalpana.hub.card import Card
from kalpana.hub.diffusers_folder import DiffusersFolder
from kalpana.hub.hashes import remembered_fingerprint
from kalpana.hub.huggingface import name_of
from kalpana.hub.weights import find_device
from kalpana.media import to_images, to_pixels
from kalpana.pipelines import diffusers_tasks as of
from kalpana.pipelines.diffusers_tasks import Task
from kalpana.pipelines.editing import Edit, fitted
from kalpana.pipelines.options import DTYPES, USUAL, LoadOptions
from kalpana.pipelines.pipeline import Progress, answer
from kalpana.pipelines.rerank import Ranker
from kalpana.pipelines.stepwise import stepwise
from kalpana.request import Request, ask, clean
from kalpana.types import KalpanaError, Step

Report = Callable[[int], None]  # called after each step with their number


@dataclass(frozen=True)
class DiffusersPipeline:
    """A loaded model of diffusers: its pipelines by task, all on the same parts."""

    name: str
    capabilities: Capabilities = field(repr=False)
    files: dict[str, str] = field(repr=False)
    words: PromptLimit = field(repr=False)
    pipes: Mapping[Task, Any] = field(repr=False)
    device: torch.device
    options: LoadOptions = USUAL
    family: str = "diffusers"

    @classmethod
    def read(
        cls,
        folder: Path,
        card: Card | None = None,
        device: str | None = None,
        options: LoadOptions = USUAL,
    ) -> DiffusersPipeline:
        """The model in a folder in the layout of diffusers. Raises KalpanaError if diffusers is not
        installed, and as ``hub.diffusers_folder.read`` and ``find_device``."""
        found, target = diffusers_folder.read(folder), find_device(device)
        if options.offload is not None and target.type == "cpu":
            raise KalpanaError("offload moves weights off an accelerator, and this is the CPU")
        dtype = options.dtype or ("fp32" if target.type == "cpu" else "bf16")
        options = LoadOptions(dtype, options.offload, options.tiling)
        kind = _class(found)
        with quiet():
            pipe = _load(kind, found, getattr(torch, DTYPES[dtype]), options, target)
            pipes = of.tasks(pipe)
            for each in pipes.values():
                each.set_progress_bar_config(disable=True)
            able = of.capabilities(pipes)
        files = {str(path.relative_to(folder)): path for path in found.weights}
        return cls(
            name=card.name if card else name_of(folder),
            capabilities=able,
            files={name: remembered_fingerprint(path) for name, path in files.items()},
            words=PromptLimit.of(pipe),
            pipes=pipes,
            device=target,
            options=options,
        )

    def generate(
        self, request: Request | str, *, rank_by: Ranker | None = None, **fields: Any
    ) -> Iterator[Step]:
        """A stream of steps, one for each denoising step, and none for a pipeline that reports no
        steps; the last one carries the Result. Closing the iterator cancels after the step.

        Raises KalpanaError at the call as ``Pipeline.generate``, and if the inputs that are given
        go together in no pipeline of this model.
        """
        import diffusers

        request = ask(request, **fields)
        pipe = self._pipe(self.capabilities.resolve(request)[0])
        if request.strength is not None and "strength" not in of.parameters(pipe):
            raise KalpanaError(
                f"strength cannot be used by model {self.name!r} for these inputs: leave it out"
            )
        library = {
            "version": diffusers.__version__,
            "pipeline": type(pipe).__name__,
            "dtype": self.options.dtype,
            "offload": self.options.offload,
            "tiling": self.options.tiling,
        }
        draw = partial(_draw, self)
        return answer(self, self.words, request, draw, rank_by, {"diffusers": library}, together=1)

    def _pipe(self, request: Request) -> Any:
        """The pipeline for the inputs of a resolved request."""
        given = (request.image, request.mask, request.control)
        task = Task(*(each is not None for each in given))
        if task not in self.pipes:
            known = ", or ".join(map(str, self.pipes))
            raise KalpanaError(f"model {self.name!r} generates from {known}, not from {task}")
        strength = request.strength or 0.0
        if strength > 0 and request.steps and int(request.steps * strength) < 1:
            raise KalpanaError(
                f"strength {strength:g} of {request.steps} steps leaves none: "
                f"write at least {math.ceil(1 / strength)} steps"
            )
        return self.pipes[task]


def public_card(folder: Path) -> Card:
    """The card of the model in a folder in the layout of diffusers, without its weights: whether it
    makes pictures or videos. Raises KalpanaError as ``DiffusersPipeline.read``."""
    found = diffusers_folder.read(folder)
    arguments = signature(_class(found).__call__).parameters
    video = "num_frames" in arguments
    capabilities = {"uses": ("prompt", "seconds", "fps")} if video else {}
    return Card(
        name=name_of(folder),
        family="diffusers",
        tasks=("text-to-video" if video else "text-to-image",),
        capabilities=capabilities,
    )


@dataclass(frozen=True)
class PromptLimit:
    """Limit of the text that a model reads: of its tokenizer that reads most, with its length."""

    tokenizer: Any = None
    length: int = 0

    @classmethod
    def of(cls, pipe: Any) -> PromptLimit:
        """The limit of a pipeline; none if it has no tokenizer."""
        longest = of.parameters(pipe).get("max_sequence_length")
        found = list[PromptLimit]()
        for name, part in pipe.components.items():
            if "tokenizer" in name and hasattr(part, "model_max_length"):
                clip = "CLIP" in type(part).__name__
                length = part.model_max_length if clip or longest is None else longest
                found.append(cls(part, int(min(length, part.model_max_length))))
        return max(found, key=lambda each: each.length, default=cls())

    def cut(self, text: str) -> str:
        """The end of a text that is not read."""
        if self.tokenizer is None or not getattr(self.tokenizer, "is_fast", False):
            return ""
        with quiet():
            tokens = self.tokenizer(
                text, truncation=True, max_length=self.length, return_offsets_mapping=True
            )
        end = max((each[1] for each in tokens["offset_mapping"]), default=0)
        full = len(tokens["input_ids"]) >= self.length
        return text[end:].strip() if full else ""

    def unknown(self, text: str) -> tuple[str, ...]:
        return ()


def _load(
    kind: Any,
    found: DiffusersFolder,
    dtype: torch.dtype,
    options: LoadOptions,
    device: torch.device,
) -> Any:
    """The pipeline of a class in a folder, ready to be called. Raises KalpanaError if it cannot be
    loaded."""
    given = dict[str, Any](dtype=dtype, variant=found.variant, use_safetensors=True)
    expected, _ = kind._get_signature_keys(kind)
    absent = (*diffusers_folder.CHECKERS, *found.absent)
    given |= {name: None for name in absent if name in expected}
    try:
        pipe = kind.from_pretrained(str(found.path), local_files_only=True, **given)
        _check_tensors(found, pipe)
        if options.tiling:
            _tile(pipe, found.path)
        return pipe if options.offload else pipe.to(device)
    except KalpanaError:
        raise
    except Exception as error:  # of diffusers, transformers, safetensors and their dependencies
        raise KalpanaError(f"{found.path} cannot be loaded: {_reason(error)}") from None


def _class(found: DiffusersFolder) -> Any:
    """The pipeline class of a folder. Raises KalpanaError if diffusers is missing, or a class that
    the folder names is in none of its modules and transformers."""
    try:
        with quiet():
            import diffusers
            import transformers
            from diffusers import pipelines
    except ModuleNotFoundError as error:
        raise KalpanaError(
            f"a {found.pipeline} needs {error.name}: pip install 'kalpana[hub]'"
        ) from None
    index = found.path / diffusers_folder.INDEX
    version = f"diffusers {diffusers.__version__}"
    kind = getattr(diffusers, found.pipeline, None)
    if backends := getattr(kind, "_backends", None):  # in place of a class that cannot be imported
        raise KalpanaError(f"a {found.pipeline} needs {', '.join(backends)}: install them")
    if not isinstance(kind, type) or not issubclass(kind, diffusers.DiffusionPipeline):
        raise KalpanaError(
            f"{index} names the pipeline {found.pipeline}, which is not in {version}: "
            "write pip install -U diffusers, or take another model"
        )
    for part, (library, name) in found.parts.items():
        home = {"diffusers": diffusers, "transformers": transformers}.get(library)
        home = home or (getattr(pipelines, library, None) if library.isidentifier() else None)
        if home is None or not isinstance(getattr(home, name, None), type):
            raise KalpanaError(
                f"{index} names the class {name} of {library} for {part}, which is neither in "
                f"{version} nor in transformers {transformers.__version__}"
            )
        needs = home is diffusers and getattr(getattr(home, name), "_keep_in_fp32_modules", None)
        if needs and find_spec("accelerate") is None:
            raise KalpanaError(f"a {name} needs accelerate: pip install 'kalpana[hub]'")
    return kind


def _check_tensors(found: DiffusersFolder, pipe: Any) -> None:
    """Raises KalpanaError where a network of diffusers has tensors that its files do not hold,
    which would stay random."""
    import diffusers
    from safetensors import safe_open

    for part in found.parts:
        module: Any = pipe.components.get(part)
        files = [path for path in found.weights if path.parent.name == part]
        known: Any = diffusers.ModelMixin
        if not isinstance(module, known) or not files:
            continue
        stored = set[str]()
        for path in files:
            with safe_open(path, "pt") as file:
                stored |= set(file.keys())
        # Autoencoders of old files have other names for attention, which diffusers converts.
        lost = [n for n in module.state_dict() if n not in stored and "attentions" not in n]
        if lost:
            names = ", ".join(lost[:3]) + (", ..." if len(lost) > 3 else "")
            raise KalpanaError(
                f"{files[0]} lacks {names}: it holds not the weights of {part}/config.json"
            )


def _tile(pipe: Any, folder: Path) -> None:
    """Decode large pictures in tiles. Raises KalpanaError if the autoencoder cannot."""
    vae = pipe.components.get("vae")
    if not hasattr(vae, "enable_tiling"):
        raise KalpanaError(f"the autoencoder of {folder} decodes in no tiles: leave tiling out")
    vae.enable_tiling()


def _draw(model: DiffusersPipeline, request: Request, edit: Edit | None) -> Iterator[Progress]:
    """Draw the one picture or video of a resolved request."""
    (seed,) = request.each_seed()
    if edit is not None and request.strength == 0:  # unchanged, see Edit.paste
        yield Progress("generate", 1, None, edit.pixels)
        return
    pipe = model._pipe(request)
    arguments = _arguments(pipe, request, edit, seed)
    if model.options.offload:
        _offload(pipe, model)
    turns = _Turns(seed, model.device)
    total, done = 1, 0
    with closing(stepwise(partial(_call, pipe, arguments), turns)) as steps, _named(pipe):
        while True:
            try:
                total = next(steps) + 1
            except StopIteration as end:
                images = end.value
                break
            done += 1
            if done < total:
                yield Progress("denoise", total, None)
    frames = None
    if request.seconds and request.fps:
        frames = max(round(request.seconds * request.fps), 1)
    yield Progress("decode", total, None, _pixels(images, frames))


@contextmanager
def _named(pipe: Any) -> Iterator[None]:
    """Context in which errors of a pipeline are one line with its name."""
    try:
        yield
    except KalpanaError:
        raise
    except torch.OutOfMemoryError as error:
        raise KalpanaError(
            f"{type(pipe).__name__} has too little memory ({_reason(error)}): load it with dtype "
            "bf16, offload model or tiling, or ask for a smaller size"
        ) from None
    except NameError as error:  # diffusers imports some packages only if they are installed
        raise KalpanaError(
            f"{type(pipe).__name__} needs {error.name}: pip install 'kalpana[hub]'"
        ) from None
    except Exception as error:  # of diffusers: what its checks of arguments say
        raise KalpanaError(f"{type(pipe).__name__} failed: {_reason(error)}") from None


def _call(pipe: Any, arguments: dict[str, Any], report: Report) -> Sequence[Any]:
    """The images, or the frames, that a call of a pipeline returns; ``report`` is called with the
    number of its steps after each of them."""

    def step_end(each: Any, index: int, time: Any, values: dict[str, Any]) -> dict[str, Any]:
        report(int(getattr(each, "num_timesteps", 0) or arguments["num_inference_steps"]))
        return values

    def legacy(index: int, time: Any, latents: Tensor) -> None:
        report(int(getattr(pipe, "_num_timesteps", 0) or arguments["num_inference_steps"]))

    call, hooks = of.parameters(pipe), dict[str, Any]()
    if "callback_on_step_end" in call:
        hooks = {"callback_on_step_end": step_end}
    elif "callback_steps" in call:
        hooks = {"callback": legacy, "callback_steps": 1}
    result = pipe(**arguments, **hooks)
    frames = getattr(result, "frames", None)
    return result.images if frames is None else frames[0]


def _arguments(pipe: Any, request: Request, edit: Edit | None, seed: int) -> dict[str, Any]:
    """The arguments of the call of a pipeline for a resolved request."""
    assert request.width and request.height  # resolved
    call, size = of.parameters(pipe), (request.width, request.height)
    given: dict[str, Any] = {
        "prompt": clean(request.prompt),
        "num_inference_steps": request.steps,
        "height": request.height,
        "width": request.width,
        "generator": torch.Generator().manual_seed(seed),
        "output_type": "pil",
        "strength": request.strength,
        "clean_caption": False,  # the prompt is read as it is
    }
    if request.negative_prompt is not None:
        given["negative_prompt"] = clean(request.negative_prompt)
    if (guided := of.guidance_argument(pipe)) is not None:
        given[guided] = request.guidance
        if guided == "true_cfg_scale":  # off without a negative prompt
            given.setdefault("negative_prompt", " ")
    if "use_resolution_binning" in call:
        given["use_resolution_binning"] = pipe.transformer.config.sample_size in of.BINS
    if edit is not None:
        given["image"] = to_images(edit.pixels)[0]
        if edit.mask is not None:
            mask = (edit.mask[0, 0].numpy() * 255).round().astype(np.uint8)
            given["mask_image"] = Image.fromarray(mask)
    if request.last_image is not None:
        given["last_image"] = to_images(fitted(request.last_image.picture(), size))[0]
    given |= _control(pipe, request, size) | _timing(pipe, request)
    # Checked against the capabilities before: what is left out here has its default.
    return {name: value for name, value in given.items() if name in call and value is not None}


def _control(pipe: Any, request: Request, size: tuple[int, int]) -> dict[str, Any]:
    """Arguments for the control maps of a request, in the order of the ControlNets."""
    argument = of.control_argument(pipe)
    if argument is None or not request.control:
        return {}
    maps = {each.kind: each for each in request.control}
    kinds = of.control_kinds(pipe)
    if lost := [kind for kind in kinds if kind not in maps]:
        raise KalpanaError(f"control needs a map for each ControlNet: give {', '.join(lost)} too")
    images = [to_images(fitted(maps[kind].image.picture(), size))[0] for kind in kinds]
    values: dict[str, list[Any]] = {
        argument: images,
        "controlnet_conditioning_scale": [maps[kind].strength for kind in kinds],
        "control_guidance_start": [maps[kind].start for kind in kinds],
        "control_guidance_end": [maps[kind].end for kind in kinds],
    }
    return values if len(kinds) > 1 else {name: value[0] for name, value in values.items()}


def _timing(pipe: Any, request: Request) -> dict[str, Any]:
    """Arguments for the length and frame rate of a video."""
    if not request.seconds or not request.fps:
        return {}
    count = max(round(request.seconds * request.fps), 1)
    rates = dict.fromkeys(of.FRAME_RATES, request.fps)
    return {"num_frames": of.whole_frames(pipe, count)} | rates


def _pixels(images: Any, frames: int | None) -> Tensor:
    """Pixels (1, 3, h, w) of the first picture, or (1, f, 3, h, w) of the first ``frames``."""
    if not isinstance(images, list):  # an array (f, h, w, 3) in [0, 1]
        images = list(np.asarray(images))
    pictures = [each if isinstance(each, Image.Image) else _picture(each) for each in images]
    return to_pixels(pictures[:1]) if frames is None else to_pixels(pictures[:frames])[None]


def _picture(levels: Any) -> Image.Image:
    """The picture of an array (h, w, 3) in [0, 1]."""
    return Image.fromarray((np.asarray(levels).clip(0, 1) * 255).round().astype(np.uint8))


def _offload(pipe: Any, model: DiffusersPipeline) -> None:
    """Move the parts of a pipeline to the accelerator only while they are used."""
    sequential = model.options.offload == "sequential"
    move = pipe.enable_sequential_cpu_offload if sequential else pipe.enable_model_cpu_offload
    try:
        move(device=model.device)
    except ImportError:
        raise KalpanaError("offload needs accelerate: pip install 'kalpana[hub]'") from None


class _Turns:
    """Contexts of the turns of one call: its own state of the global random number generators,
    which begins with the seed, for the schedulers that draw from them; and no warnings."""

    def __init__(self, seed: int, device: torch.device) -> None:
        self._cuda = [device] if device.type == "cuda" else []
        self._seed, self._states = seed, list[Tensor]()

    @contextmanager
    def _turn(self) -> Iterator[None]:
        with torch.random.fork_rng(self._cuda), quiet():
            if self._states:
                torch.set_rng_state(self._states[0])
                for device, state in zip(self._cuda, self._states[1:], strict=True):
                    torch.cuda.set_rng_state(state, device)
            else:
                torch.manual_seed(self._seed)
            yield
            cuda = [torch.cuda.get_rng_state(device) for device in self._cuda]
            self._states = [torch.get_rng_state(), *cuda]

    def __call__(self) -> Any:
        return self._turn()


@contextmanager
def quiet() -> Iterator[None]:
    """Context in which diffusers and transformers print nothing, and warn of nothing."""
    from diffusers.utils import logging as diffusers_logging
    from transformers.utils import logging as transformers_logging

    libraries = (diffusers_logging, transformers_logging)
    before = [library.get_verbosity() for library in libraries]
    bars = [library.is_progress_bar_enabled() for library in libraries]
    try:
        for library in libraries:
            library.set_verbosity_error()
            library.disable_progress_bar()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for library, verbosity, bar in zip(libraries, before, bars, strict=True):
            library.set_verbosity(verbosity)
            if bar:
                library.enable_progress_bar()


def _reason(error: BaseException) -> str:
    """What an error says, on one line."""
    return " ".join(str(error).split())[:300] or type(error).__name__
