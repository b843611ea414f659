"""VQGAN+CLIP: text-to-image by optimising a latent for CLIP similarity; no generator is trained.

After the notebooks of Crowson et al. (2022). Many cutouts of the picture are rotated, tinted and
made noisy, so that no single pattern deceives the CLIP. Adam minimises the squared angles between
the vectors of the cutouts and those of the prompts. The result is a running mean of the latents.
Simplified: cutouts are augmented by rotations and shifts, not by perspective or erased patches.

Seeds: the random numbers of step k depend on the seed and k alone. Pictures are generated one at a
time: their cutouts are a batch already, and a hundred steps amplify one rounding difference into
another picture, so a picture in a batch would differ from the same picture alone. On a CPU the same
seed gives the same bytes, also for a run that was stopped and resumed.
"""

from __future__ import annotations

import hashlib
import math
import re
import secrets
import time
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Generator, Tensor

from kalpana import __version__
from kalpana.errors import shorten
from kalpana.media import encode_video, ready_folder, rgb, save_video, to_images, to_pixels
from kalpana.models.clip import CLIP, unit
from kalpana.pipelines.image_parameters import Canvas, Latent, perlin
from kalpana.pipelines.optimisation import Run, new_run, read_run, resume, save_run
from kalpana.pipelines.rerank import Ranker
from kalpana.request import SEED_LIMIT, Side, clean
from kalpana.types import KalpanaError, Output, Result, Step

NUMBER = re.compile(r"\s*[+-]?(\d+\.?\d*|\.\d+)\s*")
# A text may end in 10:30, 16:9 or 3:2; a weight after a digit needs a space, a sign or a point.
TIME = re.compile(r"\d:\d+$")
# Minimum and maximum of the settings; 0 and 1 for those not listed.
BOUNDS: dict[str, tuple[float, float]] = {
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
    """A Ranker with access to its CLIP network, for gradients. ``understand.encoder.load`` returns
    one."""

    @property
    def model(self) -> CLIP: ...


@dataclass(frozen=True)
class Settings:
    """Settings of the optimisation; each component has a value that turns it off.

    The learning rate, the number of cutouts and their augmentation are those of the notebooks;
    ``least`` is close to their 224 of 480 pixels. ``flip`` should be 0 if a prompt distinguishes
    left from right.
    """

    steps: int = 200
    rate: float = 0.1  # learning rate of Adam, multiplied by the scale of the canvas
    cutouts: int = 32
    # Side of the smallest cutout, as a share of the shorter side of the picture, which is the
    # largest; 1: all cutouts have the largest side.
    least: float = 0.5
    power: float = 1.0  # exponent of the random size; the higher, the more cutouts are small
    flip: float = 0.5  # share of cutouts that are mirrored; 0 is off
    turn: float = 15.0  # largest rotation in degrees; 0 is off
    shift: float = 0.1  # largest shift as a share of a cutout's side, beyond the edge too; 0 is off
    jitter: float = 0.1  # largest change of saturation, contrast and brightness; 0 is off
    noise: float = 0.2  # largest standard deviation, of pixels in [-1, 1]; 0 is off
    ema: float = 0.9  # decay of the running mean of the latents; 0 is off
    tv: float = 0.1  # weight of the total variation; 0 is off

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            low, high = BOUNDS.get(name, (0, 1))
            whole = name in ("steps", "cutouts")
            if not low <= value <= high or (whole and not isinstance(value, int)):
                kind = "whole number" if whole else "number"
                raise KalpanaError(f"{name} is {value}: write a {kind} from {low} to {high}")


USUAL = Settings()


@dataclass(frozen=True)
class Prompt:
    """A target of the optimisation: a text, or a picture of any size and mode. A negative
    ``weight`` moves the result away from it."""

    what: str | Image.Image
    weight: float = 1.0

    def __post_init__(self) -> None:
        if isinstance(self.what, str) and not clean(self.what):
            raise KalpanaError(
                "a prompt has no words: "
                "write what the picture should show, such as 'three red apples'"
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
    """The weighted prompts of a text such as "a castle:1 | fog:0.5 | text:-1".

    The weight is the number after the last colon; 1 if there is none. Digits joined by a colon
    alone belong to the text, as in "a clock at 10:30"; with a weight it is written "10:30 :2".

    Raises KalpanaError if a prompt has no words, or ends in a colon.
    """
    prompts, parts = [], [clean(part) for part in text.split("|")]
    for place, part in enumerate(parts, start=1):
        words, colon, weight = part.rpartition(":")
        where = f"prompt {place} of {len(parts)}"
        if colon and not weight:
            raise KalpanaError(
                f"{where}, {shorten(part)}, ends in a colon: "
                "write its weight there, such as 1 or -0.5, or leave it out"
            )
        has_weight = colon and NUMBER.fullmatch(weight) and not TIME.search(part)
        if not clean(words if has_weight else part):
            raise KalpanaError(
                f"{where}, {shorten(part)}, has no words: "
                "write what the picture should show before its weight"
            )
        prompts.append(Prompt(clean(words), float(weight)) if has_weight else Prompt(part))
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
    """A stream of steps, one for each optimisation step; the last one carries the Result, one
    picture of ``size`` (width, height). Every ``every`` steps there is a preview. Closing the
    iterator cancels.

    A text prompt is read by ``parse``. A ``start`` picture may have any size and mode: transparency
    is composited on white, and the picture is resized to ``size``, without keeping its aspect.

    ``state`` names a file to which the unfinished run is saved with every preview and when the
    iterator is closed. If the file exists, the run is resumed from it, with the seed it began with;
    it may be given more steps than before.

    Raises KalpanaError at the call, before the first Step, if an argument is invalid or the state
    is of another picture.
    """
    prompts = _checked(prompt, clip, canvas)
    _check_size(size, canvas.factor)
    if every < 1:
        raise KalpanaError(f"every is {every}: write 1 or more")
    if seed is not None and not 0 <= seed < SEED_LIMIT:
        raise KalpanaError(f"seed {seed} is out of bounds: write from 0 to {SEED_LIMIT - 1}")
    if isinstance(start, Image.Image):
        _check_picture(start)
    elif start not in ("noise", "perlin"):
        raise KalpanaError(f"start is {start!r}: write 'noise' or 'perlin', or give a picture")
    saved = read_run(state) if state is not None else None
    if seed is None:
        seed = saved[0]["seed"] if saved else secrets.randbelow(10**9)
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
    latent = _initial_latent(start, canvas, size, seeded_generator(seed, 0))
    run = new_run(latent, settings.rate * canvas.scale)
    if state is not None:
        ready_folder(state.parent, 0)
        if saved:
            resume(run, state, saved, about, settings.steps)
    return _optimise(run, prompts, clip, canvas, settings, about, state, every)


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
    """The stream of a run, from its current step to the last."""
    total, began, resumed, seed = settings.steps, time.perf_counter(), run.step, about["seed"]
    device = clip.model.logit_scale.device
    vectors = torch.cat(
        [
            clip.texts([clean(each.what)])
            if isinstance(each.what, str)
            else clip.images([each.what])
            for each in prompts
        ]
    )
    weights = torch.tensor([each.weight for each in prompts], dtype=torch.float32, device=device)
    # Cloned: tensors made in inference mode cannot take part in a backward pass.
    targets = (vectors.clone().to(device), weights)
    while run.step < total:
        advance(run, clip.model, canvas, settings, targets, seeded_generator(seed, run.step + 1))
        if run.step == total:
            break
        previewed = run.step % every == 0
        if previewed and state is not None:
            save_run(state, run, about)
        eta = (time.perf_counter() - began) / (run.step - resumed) * (total - run.step)
        try:
            preview = shown(canvas, run.mean) if previewed else None
            yield Step(run.step, total, preview, eta, stage="optimise")
        except GeneratorExit:
            if state is not None:
                save_run(state, run, about)
            raise
    if state is not None:
        save_run(state, run, about)
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
    result = Result((Output(image, seed, receipt),), warnings)
    yield Step(total, total, pixels, 0.0, stage="optimise", result=result)


def advance(
    run: Run,
    clip: CLIP,
    canvas: Canvas,
    settings: Settings,
    targets: tuple[Tensor, Tensor],
    generator: Generator,
) -> None:
    """Run one optimisation step, in place. ``targets`` are unit vectors (n, d) of the prompts, and
    their weights (n,)."""
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
        # In the first steps the mean is the plain average, which excludes the initial latent.
        share = max(1 - settings.ema, 1 / run.step)
        for mean, part in zip(run.mean, run.latent, strict=True):
            mean.lerp_(part, share)


@torch.no_grad()
def shown(canvas: Canvas, latent: Latent) -> Tensor:
    """Pixels (1, 3, h, w) in [-1, 1] of a mean of latents, which is projected first, as it may lie
    outside the valid range."""
    latent = tuple(part.clone() for part in latent)
    canvas.project(latent)
    return canvas.render(latent).clamp(-1, 1)


class ClampWithGrad(torch.autograd.Function):
    """Clamp to [-1, 1]. Outside the range, the backward pass keeps only gradients whose descent
    step leads back into it."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x.clamp(-1, 1)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return gradient * (gradient * (x - x.clamp(-1, 1)) >= 0)


def cutouts(pixels: Tensor, side: int, settings: Settings, generator: Generator) -> Tensor:
    """Random square cutouts (n, 3, side, side) of one picture (1, 3, h, w), of random size and
    position. Each is rotated, mirrored, shifted, tinted and made noisy at random. Outside the
    picture, its border pixels are repeated.

    The same random numbers are drawn whichever augmentations are off. With all of them off and
    ``least`` 1, a square picture is resized: by the mean over the area of a pixel when it becomes
    smaller, linearly when it becomes larger.
    """
    s, n, (height, width) = settings, settings.cutouts, pixels.shape[2:]
    share, across, down, flip, *signed = torch.rand(11, n, generator=generator, dtype=torch.float32)
    turn, shift_x, shift_y, saturation, contrast, brightness, loud = (2 * u - 1 for u in signed)
    short = min(height, width)
    size = short * (s.least + (1 - s.least) * share**s.power)  # n
    x = across * (width - size) + size / 2 + size * s.shift * shift_x  # of the centres
    y = down * (height - size) + size / 2 + size * s.shift * shift_y
    angle, mirror = turn * math.radians(s.turn), 1 - 2 * (flip < s.flip).to(flip)
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
    fine = math.ceil(short / side)  # samples per pixel and axis, so that no picture pixel is missed
    grid = F.affine_grid(affine, [n, 3, fine * side, fine * side], align_corners=False).to(pixels)
    cuts = F.grid_sample(
        pixels.expand(n, -1, -1, -1), grid, padding_mode="border", align_corners=False
    )
    cuts = F.avg_pool2d(cuts, fine)  # n 3 side side

    def column(value: Tensor) -> Tensor:
        return value.to(pixels)[:, None, None, None]  # n 1 1 1

    grey = cuts.mean(1, keepdim=True)
    cuts = grey + (cuts - grey) * column(1 + s.jitter * saturation)
    cuts = cuts * column(1 + s.jitter * contrast) + column(s.jitter * brightness)
    return cuts + column(s.noise * loud) * torch.randn(
        cuts.shape, generator=generator, dtype=torch.float32
    ).to(pixels)


def distance(images: Tensor, targets: Tensor) -> Tensor:
    """Spherical distance: half the squared angle (n, m) between unit vectors (n, d) and (m, d),
    from 0 to pi²/2. Its gradient does not vanish at large angles."""
    half = (images[:, None] - targets).norm(dim=-1) / 2  # the sine of half the angle
    return 2 * half.clamp(max=1 - 1e-6).arcsin().square()


def variation(pixels: Tensor) -> Tensor:
    """Total variation (scalar): the sum of the mean squared differences between horizontal and
    between vertical neighbours."""
    return pixels.diff(dim=-1).square().mean() + pixels.diff(dim=-2).square().mean()


def seeded_generator(seed: int, step: int) -> Generator:
    """The generator of a step, on the CPU; step 0 is the initial latent."""
    return Generator().manual_seed(zlib.crc32(f"{seed}/{step}".encode()))


def timelapse(stream: Iterator[Step], path: Path, fps: int = 12) -> Iterator[Step]:
    """The steps of a stream, unchanged. Before the last one is yielded, all previews are written to
    an MP4 at ``path``, or PATH-2, PATH-3 … if that file exists. A resumed run has no previews of
    its earlier steps.

    Raises KalpanaError at the first preview if PyAV is not installed or a side is odd.
    """
    frames: list[Image.Image] = []
    for step in stream:
        if step.preview is not None:
            frames += to_images(step.preview[:1])
            if len(frames) == 1:
                if any(side % 2 for side in frames[0].size):
                    width, height = frames[0].size
                    raise KalpanaError(
                        "an MP4 has sides of an even number of pixels, "
                        f"and this picture is {width}x{height}"
                    )
                encode_video(frames, fps, {})  # reports a missing encoder now, not at the end
        if step.result is not None:
            save_video(frames, fps, path, step.result.outputs[0].receipt)
        yield step


def _checked(prompt: str | Sequence[Prompt], clip: object, canvas: object) -> tuple[Prompt, ...]:
    """The prompts. Raises KalpanaError if they ask for nothing, or CLIP or canvas are missing."""
    if clip is None or isinstance(clip, str):
        raise KalpanaError(
            "vqgan_clip needs a CLIP: give load('clip'), or of a folder, "
            "where load is kalpana.understand.encoder.load"
        )
    if canvas is None or isinstance(canvas, str):
        raise KalpanaError(
            f"vqgan_clip needs a canvas: give load_canvas({canvas or 'vqgan'!r}) "
            "of kalpana.pipelines.image_parameters"
        )
    prompts = parse(prompt) if isinstance(prompt, str) else tuple(prompt)
    if not prompts:
        raise KalpanaError("there is no prompt: write what to draw")
    if not any(each.weight for each in prompts):
        raise KalpanaError(
            "all weights are 0, so that any picture would do: "
            "give one of the prompts a weight such as 1"
        )
    return prompts


def _check_size(size: tuple[int, int], factor: int) -> None:
    """Raises KalpanaError if a side is out of bounds or not a multiple of ``factor``."""
    for name, side in zip(("width", "height"), size, strict=True):
        low, high = math.ceil(Side[0] / factor) * factor, Side[1] // factor * factor
        near = min(max(round(side / factor) * factor, low), high)
        if side != near:
            raise KalpanaError(
                f"{name} {side} cannot be drawn: "
                f"write a multiple of {factor} from {low} to {high}, such as {near}"
            )


def _check_picture(image: Image.Image) -> None:
    """Raises KalpanaError if the picture cannot be read or has no pixels."""
    try:
        image.load()
    except (OSError, SyntaxError) as error:
        raise KalpanaError(f"a picture cannot be read: {error}") from None
    if min(image.size) < 1:
        raise KalpanaError(f"a picture is {image.width}x{image.height}: give one that has pixels")


def _initial_latent(
    start: str | Image.Image, canvas: Canvas, size: tuple[int, int], generator: Generator
) -> Latent:
    """The latent of a picture, of Perlin noise, or of the canvas's own noise."""
    if isinstance(start, Image.Image):
        return canvas.trace(to_pixels([rgb(start).resize(size, Image.Resampling.LANCZOS)]))
    return (
        canvas.noise(*size, generator)
        if start == "noise"
        else canvas.trace(perlin(*size, generator))
    )


def _hash(image: Image.Image) -> str:
    """The entry of a picture in a receipt: "picture " and the SHA-256 of its size and pixels."""
    return "picture " + hashlib.sha256(f"{image.size} ".encode() + rgb(image).tobytes()).hexdigest()


def _warnings(prompts: Sequence[Prompt], clip: DifferentiableRanker) -> tuple[str, ...]:
    """The warnings for the user about text that is cut off, unknown to the CLIP, or ambiguous."""
    warnings = []
    for each in prompts:
        if not isinstance(each.what, str):
            continue
        text = clean(each.what)
        if TIME.search(text) and each.weight == 1:
            warnings.append(
                f"prompt {each}: the colon was read as part of the text; "
                "before a weight write a space"
            )
        if cut := clip.words.cut(text):
            warnings.append(
                f"prompt {each}: too long for model {clip.name!r}, "
                f"which reads it without {shorten(cut)}"
            )
        if unknown := clip.words.unknown(text):
            warnings.append(
                f"prompt {each}: model {clip.name!r} never met {shorten(', '.join(unknown))}; "
                "the picture may miss it"
            )
    return tuple(warnings)
