"""Words to pictures with nothing trained to draw: a latent is moved, step by step, to where a CLIP finds its picture nearer to the words.

VQGAN+CLIP (Crowson et al. 2022), after their notebooks: many cutouts of the picture are turned, tinted and made noisy, so that no single
pattern can deceive the CLIP; Adam lowers the squared angles between their vectors and those of the prompts; what is shown is a running
mean of the latents. Simplified: cutouts change by turns and shifts, not by perspective or erased patches.

Seeds: the luck of step k is a function of the seed and of k alone, and pictures are drawn one at a time, for their cutouts are a batch
already. As one rounding, amplified by a hundred steps, makes another picture, a batch of pictures would not be each of them alone. On a CPU
the same seed gives the same bytes, and so does a run that was stopped and resumed.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
import secrets
import time
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import safetensors
import safetensors.torch
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Generator, Tensor
from torch.optim import Adam

from kalpana import __version__
from kalpana.media import encode_clip, ready_folder, rgb, save_clip, to_images, to_pixels, write
from kalpana.models.clip import CLIP, unit
from kalpana.pipelines.image_parameters import Canvas, Latent, perlin
from kalpana.pipelines.rerank import Ranker
from kalpana.request import SEED_LIMIT, Side, clean, shorten
from kalpana.types import KalpanaError, Picture, Result, Step

FORMAT = "kalpana-vqgan-clip"  # of a state
NUMBER = re.compile(r"\s*[+-]?(\d+\.?\d*|\.\d+)\s*")
TIME = re.compile(
    r"\d:\d+$"
)  # 10:30, 16:9 and 3:2 end a text; a weight there has a space, a sign or a point
BOUNDS: dict[str, tuple[float, float]] = {  # of settings, least and most; of the others 0 and 1
    "steps": (1, 100_000),
    "rate": (1e-6, 10),
    "cutouts": (1, 1024),
    "least": (0.01, 1),
    "power": (0.01, 100),
    "turn": (0, 180),
    "ema": (0, 0.9999),
    "tv": (0, 1e6),
}


class DifferentiableRanker(Ranker, Protocol):
    """A ranker whose network can be asked for gradients: ``understand.encoder.load`` gives one."""

    @property
    def model(self) -> CLIP: ...


@dataclass(frozen=True)
class Settings:
    """How to optimise; each ingredient has a number that leaves it out. The rate, the number of cutouts and what is done to them are as in
    the notebooks, ``least`` near their 224 of 480 pixels. Where a prompt tells left from right, ``flip`` should be 0."""

    steps: int = 200
    rate: float = 0.1  # Adam's, times the canvas's scale
    cutouts: int = 32
    least: float = 0.5  # side of the smallest cutout, the picture's shorter side being the largest; 1: all are as large as that
    power: float = 1.0  # of luck: the higher, the more cutouts are small
    flip: float = 0.5  # share of cutouts that are mirrored; 0 is off
    turn: float = 15.0  # degrees at most; 0 is off
    shift: float = 0.1  # of a cutout's side at most, over the picture's edge too; 0 is off
    jitter: float = 0.1  # of saturation, contrast and brightness at most; 0 is off
    noise: float = 0.2  # standard deviation at most, of pixels in [-1, 1]; 0 is off
    ema: float = 0.9  # decay of the running mean that is shown; 0 is off
    tv: float = 0.1  # weight of the total variation; 0 is off

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            low, high = BOUNDS.get(name, (0, 1))
            whole = name in ("steps", "cutouts")
            if not low <= value <= high or (whole and not isinstance(value, int)):
                raise KalpanaError(
                    f"{name} is {value}: write a {'whole ' if whole else ''}number from {low} to {high}"
                )


USUAL = Settings()


@dataclass(frozen=True)
class Prompt:
    """What the picture should agree with: words or a picture of any size and mode. With a negative ``weight`` it should not."""

    what: str | Image.Image
    weight: float = 1.0

    def __post_init__(self) -> None:
        if isinstance(self.what, str) and not clean(self.what):
            raise KalpanaError(
                "a prompt has no words: write what the picture should show, such as 'three red apples'"
            )
        if not isinstance(self.what, str):
            _check_picture(self.what)
        if not math.isfinite(self.weight):
            raise KalpanaError(
                f"the weight of {self} is {self.weight}: write a number, such as 1 or -0.5"
            )

    def __str__(self) -> str:
        return shorten(clean(self.what)) if isinstance(self.what, str) else "a picture"


def parse(text: str) -> tuple[Prompt, ...]:
    """The prompts of "a castle:1 | fog:0.5 | text:-1". The weight is what follows the last colon, where that is a number, and 1 where none
    is. Digits between which there is only a colon belong to the text, as in "a clock at 10:30"; its weight would be written "10:30 :2".

    Raises KalpanaError where a prompt has no words, or a colon at its end.
    """
    prompts, parts = [], [clean(part) for part in text.split("|")]
    for place, part in enumerate(parts, start=1):
        words, colon, weight = part.rpartition(":")
        where = f"prompt {place} of {len(parts)}"
        if colon and not weight:
            raise KalpanaError(
                f"{where}, {shorten(part)}, ends in a colon: write its weight there, such as 1 or -0.5, or leave it out"
            )
        weighed = colon and NUMBER.fullmatch(weight) and not TIME.search(part)
        if not clean(words if weighed else part):
            raise KalpanaError(
                f"{where}, {shorten(part)}, has no words: write what the picture should show before its weight"
            )
        prompts.append(Prompt(clean(words), float(weight)) if weighed else Prompt(part))
    return tuple(prompts)


def vqgan_clip(
    prompt: str | Sequence[Prompt],
    clip: DifferentiableRanker,
    canvas: Canvas,
    settings: Settings = USUAL,
    seed: int | None = None,
    *,
    size: tuple[int, int] = (128, 128),
    start: Literal["noise", "perlin"] | Image.Image = "noise",
    state: Path | None = None,
    every: int = 10,
) -> Iterator[Step]:
    """A Step for each step; the last one carries the Result, one picture of ``size`` (width, height). Every ``every`` steps there is a
    preview. Closing the iterator cancels.

    A text prompt is read by ``parse``. A ``start`` picture may have any size and mode: what is transparent is put on white, and all of it
    is resized to ``size``, stretched where its shape is another. ``state`` names a file: what is half made is kept there with every preview
    and at a close, and is taken up where the file is there already, with the seed it began with, be it for more steps than it was made for.

    Raises KalpanaError at once, before the first Step, where something cannot be done, or the state is of another picture.
    """
    if clip is None or isinstance(clip, str):
        raise KalpanaError(
            "vqgan_clip needs a CLIP: give load('clip'), or of a folder, where load is kalpana.understand.encoder.load"
        )
    if canvas is None or isinstance(canvas, str):
        raise KalpanaError(
            f"vqgan_clip needs a canvas: give load_canvas({canvas or 'vqgan'!r}) of kalpana.pipelines.image_parameters"
        )
    prompts = parse(prompt) if isinstance(prompt, str) else tuple(prompt)
    if not prompts:
        raise KalpanaError("there is no prompt: write what to draw")
    if not any(each.weight for each in prompts):
        raise KalpanaError(
            "all weights are 0, so that any picture would do: give one of the prompts a weight such as 1"
        )
    _check_size(size, canvas.factor)
    if every < 1:
        raise KalpanaError(f"every is {every}: write 1 or more")
    if seed is not None and not 0 <= seed < SEED_LIMIT:
        raise KalpanaError(f"seed {seed} is out of bounds: write from 0 to {SEED_LIMIT - 1}")
    if isinstance(start, Image.Image):
        _check_picture(start)
    elif start not in ("noise", "perlin"):
        raise KalpanaError(f"start is {start!r}: write 'noise' or 'perlin', or give a picture")
    kept = _read(state) if state is not None else None
    if seed is None:
        seed = kept[0]["seed"] if kept else secrets.randbelow(10**9)
    about = {
        "prompts": [
            [each.what if isinstance(each.what, str) else _hash(each.what), each.weight]
            for each in prompts
        ],
        "seed": seed,
        "size": "{}x{}".format(*size),
        "start": start if isinstance(start, str) else _hash(start),
        "clip": clip.fingerprint,
        "canvas": canvas.about,
        "settings": {name: value for name, value in asdict(settings).items() if name != "steps"},
    }
    run = _begin(
        _start(start, canvas, size, seeded_generator(seed, 0)), settings.rate * canvas.scale
    )
    if state is not None:
        ready_folder(state.parent, 0)
        if kept:
            _resume(run, state, kept, about, settings.steps)
    return _optimise(run, prompts, clip, canvas, settings, about, state, every)


@dataclass
class Run:
    """What changes from step to step: the ``latent``, the running ``mean`` of it, the optimizer's moments, and the last ``step`` done."""

    latent: Latent
    mean: Latent
    adam: Adam
    step: int = 0


@torch.enable_grad()
def _optimise(
    run: Run,
    prompts: Sequence[Prompt],
    clip: DifferentiableRanker,
    canvas: Canvas,
    settings: Settings,
    about: dict[str, Any],
    state: Path | None,
    every: int,
) -> Iterator[Step]:
    total, began, before, seed = settings.steps, time.perf_counter(), run.step, about["seed"]
    device = clip.model.logit_scale.device
    vectors = torch.cat(
        [
            clip.texts([clean(each.what)])
            if isinstance(each.what, str)
            else clip.images([each.what])
            for each in prompts
        ]
    )
    targets = (
        vectors.clone().to(device),
        torch.tensor([each.weight for each in prompts], device=device),
    )  # cloned: made without gradients
    while run.step < total:
        advance(run, clip.model, canvas, settings, targets, seeded_generator(seed, run.step + 1))
        if run.step == total:
            break
        seen = run.step % every == 0
        if seen and state is not None:
            _save(state, run, about)
        eta = (time.perf_counter() - began) / (run.step - before) * (total - run.step)
        try:
            yield Step(
                run.step, total, shown(canvas, run.mean) if seen else None, eta, stage="optimise"
            )
        except GeneratorExit:
            if state is not None:
                _save(state, run, about)
            raise
    if state is not None:
        _save(state, run, about)
    pixels = shown(canvas, run.mean)
    (image,) = to_images(pixels)
    warnings, files = _warnings(prompts, clip), {"clip": clip.fingerprint}
    if "sha256" in canvas.about:
        files[canvas.about["name"]] = canvas.about["sha256"]
    receipt = {
        "kalpana": __version__,
        "torch": torch.__version__,
        "device": device.type,
        "model": {"name": "vqgan-clip", "family": "vqgan-clip", "files": files},
        "seed": seed,
        "vqgan_clip": {**about, "settings": asdict(settings)},
        "cosines": [round(cosine, 6) for cosine in (vectors @ clip.images([image])[0]).tolist()],
        "warnings": list(warnings),
    }
    yield Step(
        total,
        total,
        pixels,
        0.0,
        stage="optimise",
        result=Result((Picture(image, seed, receipt),), warnings),
    )


def advance(
    run: Run,
    clip: CLIP,
    canvas: Canvas,
    settings: Settings,
    targets: tuple[Tensor, Tensor],
    generator: Generator,
) -> None:
    """One step towards the ``targets``: unit vectors (n, d), and the weights (n,) of their prompts."""
    vectors, weights = targets
    pixels = ClampWithGrad.apply(canvas.render(run.latent)).to(vectors.device)
    features = unit(clip.image(cutouts(pixels, clip.config.side, settings, generator)).float())
    loss = (weights * distance(features, vectors).mean(0)).sum() + settings.tv * variation(pixels)
    for part, gradient in zip(run.latent, torch.autograd.grad(loss, run.latent), strict=True):
        part.grad = gradient
    run.adam.step()
    run.step += 1
    with torch.no_grad():
        canvas.project(run.latent)
        for mean, part in zip(run.mean, run.latent, strict=True):
            mean.lerp_(
                part, max(1 - settings.ema, 1 / run.step)
            )  # of the first steps the plain mean, where the start has no part


@torch.no_grad()
def shown(canvas: Canvas, latent: Latent) -> Tensor:
    """Pixels (1, 3, h, w) in [-1, 1] of a mean of latents, which need not be a latent itself."""
    latent = tuple(part.clone() for part in latent)
    canvas.project(latent)
    return canvas.render(latent).clamp(-1, 1)


class ClampWithGrad(torch.autograd.Function):
    """Numbers kept to [-1, 1]; of those outside, only a gradient that leads back in is handed on."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x.clamp(-1, 1)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return gradient * (gradient * (x - x.clamp(-1, 1)) >= 0)


def cutouts(pixels: Tensor, side: int, settings: Settings, generator: Generator) -> Tensor:
    """Squares (n, 3, side, side) cut out of one picture (1, 3, h, w), as large as the settings say and anywhere, each turned, mirrored,
    shifted, tinted and made noisy by luck of its own. Beyond the picture's edge its last pixels go on.

    The same luck is drawn whatever is turned off. With all of it off, and ``least`` 1, a square picture is resized: the mean of what falls
    into a pixel where it becomes smaller, linear between pixels where it becomes larger.
    """
    s, n, (height, width) = settings, settings.cutouts, pixels.shape[2:]
    share, across, down, flip, *signed = torch.rand(11, n, generator=generator)
    turn, right, low, saturation, contrast, brightness, loud = (2 * each - 1 for each in signed)
    short = min(height, width)
    size = short * (s.least + (1 - s.least) * share**s.power)  # n
    x = across * (width - size) + size / 2 + size * s.shift * right
    y = down * (height - size) + size / 2 + size * s.shift * low
    angle, mirror = turn * math.radians(s.turn), torch.where(flip < s.flip, -1.0, 1.0)
    rows = (
        (mirror * angle.cos(), -angle.sin(), 2 * x / size - width / size),
        (mirror * angle.sin(), angle.cos(), 2 * y / size - height / size),
    )
    affine = torch.stack(
        [
            torch.stack(row, -1) * (size / length)[:, None]
            for row, length in zip(rows, (width, height), strict=True)
        ],
        1,
    )
    fine = math.ceil(
        short / side
    )  # samples a pixel each way, so that none of the picture's falls between them
    grid = F.affine_grid(affine, [n, 3, fine * side, fine * side], align_corners=False).to(pixels)
    cuts = F.grid_sample(
        pixels.expand(n, -1, -1, -1), grid, padding_mode="border", align_corners=False
    )
    cuts = F.avg_pool2d(cuts, fine)  # n 3 side side

    def each(value: Tensor) -> Tensor:
        return value.to(pixels)[:, None, None, None]

    grey = cuts.mean(1, keepdim=True)
    cuts = (grey + (cuts - grey) * each(1 + s.jitter * saturation)) * each(
        1 + s.jitter * contrast
    ) + each(s.jitter * brightness)
    return cuts + each(s.noise * loud) * torch.randn(cuts.shape, generator=generator).to(pixels)


def distance(images: Tensor, targets: Tensor) -> Tensor:
    """Half the squared angle (n, m) between unit vectors (n, d) and (m, d): from 0 to pi²/2, with a slope that does not fade far away."""
    half = (images[:, None] - targets).norm(dim=-1) / 2  # the sine of half the angle
    return 2 * half.clamp(max=1 - 1e-6).arcsin().square()


def variation(pixels: Tensor) -> Tensor:
    """The total variation, a number: the mean square of what lies between neighbours, across and down."""
    return pixels.diff(dim=-1).square().mean() + pixels.diff(dim=-2).square().mean()


def seeded_generator(seed: int, step: int) -> Generator:
    """The generator of a step, on the CPU; 0 is the start."""
    return Generator().manual_seed(zlib.crc32(f"{seed}/{step}".encode()))


def timelapse(stream: Iterator[Step], path: Path, fps: int = 12) -> Iterator[Step]:
    """The same steps; before the last one is handed on, all previews are written to an MP4, at ``path`` or PATH-2, -3 ... where a file is
    there already. A resumed run has no previews of what came before it.

    Raises KalpanaError at the first preview where PyAV is not installed or a side is odd.
    """
    frames: list[Image.Image] = []
    for step in stream:
        if step.preview is not None:
            frames += to_images(step.preview[:1])
            if len(frames) == 1:
                if any(side % 2 for side in frames[0].size):
                    raise KalpanaError(
                        "an MP4 has sides of an even number of pixels, and this picture is {}x{}".format(
                            *frames[0].size
                        )
                    )
                encode_clip(frames, fps, {})  # so that what is missing is missed now
        if step.result is not None:
            save_clip(frames, fps, path, step.result.pictures[0].receipt)
        yield step


def _check_size(size: tuple[int, int], factor: int) -> None:
    for name, side in zip(("width", "height"), size, strict=True):
        low, high = math.ceil(Side[0] / factor) * factor, Side[1] // factor * factor
        near = min(max(round(side / factor) * factor, low), high)
        if side != near:
            raise KalpanaError(
                f"{name} {side} cannot be drawn: write a multiple of {factor} from {low} to {high}, such as {near}"
            )


def _check_picture(image: Image.Image) -> None:
    try:
        image.load()
    except (OSError, SyntaxError) as error:
        raise KalpanaError(f"a picture cannot be read: {error}") from None
    if min(image.size) < 1:
        raise KalpanaError(f"a picture is {image.width}x{image.height}: give one that has pixels")


def _start(
    start: str | Image.Image, canvas: Canvas, size: tuple[int, int], generator: Generator
) -> Latent:
    if isinstance(start, Image.Image):
        return canvas.trace(to_pixels([rgb(start).resize(size, Image.Resampling.LANCZOS)]))
    return (
        canvas.noise(*size, generator)
        if start == "noise"
        else canvas.trace(perlin(*size, generator))
    )


def _hash(image: Image.Image) -> str:
    return "picture " + hashlib.sha256(f"{image.size} ".encode() + rgb(image).tobytes()).hexdigest()


def _warnings(prompts: Sequence[Prompt], clip: DifferentiableRanker) -> tuple[str, ...]:
    """What the asker should be told of how the prompts are read."""
    warnings = []
    for each in prompts:
        if not isinstance(each.what, str):
            continue
        text = clean(each.what)
        if TIME.search(text) and each.weight == 1:
            warnings.append(
                f"prompt {each}: the colon was read as part of the text; before a weight write a space"
            )
        if cut := clip.words.cut(text):
            warnings.append(
                f"prompt {each}: too long for model {clip.name!r}, which reads it without {shorten(cut)}"
            )
        if unknown := clip.words.unknown(text):
            warnings.append(
                f"prompt {each}: model {clip.name!r} never met {shorten(', '.join(unknown))}; the picture may miss it"
            )
    return tuple(warnings)


def _begin(latent: Latent, rate: float) -> Run:
    latent = tuple(part.detach().clone().requires_grad_() for part in latent)
    return Run(latent, tuple(part.detach().clone() for part in latent), Adam(latent, lr=rate))


def _tensors(run: Run) -> dict[str, Tensor]:
    """Everything of a run that is kept, by name, but for the step."""
    tensors: dict[str, Tensor] = {}
    for k, (part, mean) in enumerate(zip(run.latent, run.mean, strict=True)):
        tensors |= {f"latent.{k}": part.detach(), f"mean.{k}": mean}
        tensors |= {
            f"adam.{k}.{name}": torch.as_tensor(value)
            for name, value in run.adam.state[part].items()
        }
    return tensors


def _save(path: Path, run: Run, about: dict[str, Any]) -> None:
    tensors = {name: value.cpu().contiguous() for name, value in _tensors(run).items()}
    write(
        path,
        safetensors.torch.save(
            tensors,
            {
                "format": FORMAT,
                "step": str(run.step),
                "about": json.dumps(about, ensure_ascii=False),
            },
        ),
    )


def _read(path: Path) -> tuple[dict[str, Any], int, dict[str, Tensor]] | None:
    """What a state is of, its step and its tensors; None where there is no file. Raises KalpanaError where it is no state."""
    if not path.exists():
        return None
    try:
        with safetensors.safe_open(path, "pt") as file:
            header = file.metadata() or {}
            if header.get("format") == FORMAT:
                return (
                    json.loads(header["about"]),
                    int(header["step"]),
                    {name: file.get_tensor(name) for name in file.keys()},  # noqa: SIM118
                )
    except (OSError, safetensors.SafetensorError, KeyError, ValueError) as error:
        raise KalpanaError(
            f"the state {path} is damaged or none at all ({error}): delete it to begin again, or name another"
        ) from None
    raise KalpanaError(f"{path} is not the state of a picture by VQGAN+CLIP: name another file")


def _resume(
    run: Run,
    path: Path,
    kept: tuple[dict[str, Any], int, dict[str, Tensor]],
    about: dict[str, Any],
    steps: int,
) -> None:
    """Put a state back into a run. Raises KalpanaError where it is of another picture, or further on than asked."""
    (before, step, tensors), now = (
        (_leaves(kept[0]), *kept[1:]),
        _leaves(json.loads(json.dumps(about))),
    )
    if changed := [name for name in {**before, **now} if before.get(name) != now.get(name)]:
        said = "; ".join(
            f"{name} is {shorten(before.get(name))} there and {shorten(now.get(name))} here"
            for name in changed
        )
        raise KalpanaError(
            f"the state {path} is of another picture: {said}; undo that, or name another file"
        )
    if step > steps:
        raise KalpanaError(
            f"the state {path} has {step} steps behind it, and {steps} are asked for: write {step} or more"
        )
    for k, (part, mean) in enumerate(zip(run.latent, run.mean, strict=True)):
        part.data.copy_(tensors[f"latent.{k}"])
        mean.copy_(tensors[f"mean.{k}"])
    moments = {
        k: {
            name.split(".")[2]: value
            for name, value in tensors.items()
            if name.startswith(f"adam.{k}.")
        }
        for k in range(len(run.latent))
    }
    run.adam.load_state_dict({**run.adam.state_dict(), "state": moments})
    run.step = step


def _leaves(about: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """The same, with the names of what is inside as in settings.ema."""
    leaves: dict[str, Any] = {}
    for name, value in about.items():
        leaves |= (
            _leaves(value, f"{prefix}{name}.")
            if isinstance(value, dict)
            else {f"{prefix}{name}": value}
        )
    return leaves
