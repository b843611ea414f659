"""Quality of a diffusion model by the settings of its sampling: guidance, and samplers by steps.

Quality is the share of the pictures of dev prompts that a verifier finds right. Beside it stands
the diversity: the mean cosine distance of the CLIP vectors of the pictures of one prompt.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from itertools import combinations
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from kalpana.capabilities import ETA
from kalpana.diffusion.samplers import SAMPLERS, sample, step_noise
from kalpana.diffusion.schedule import SPACINGS
from kalpana.evaluate.prompts import Prompt
from kalpana.evaluate.run import exchanged, observe
from kalpana.evaluate.score import right
from kalpana.evaluate.verifiers.observations import Observation, Verifier
from kalpana.media import to_images
from kalpana.pipelines import last
from kalpana.pipelines.diffusion import DiffusionPipeline, guided_denoise, noise
from kalpana.pipelines.rerank import Ranker
from kalpana.request import Request, ask
from kalpana.types import Cond, KalpanaError
from kalpana.world.render import render

REFERENCE = "heun", 60  # sampler and steps that solver errors are measured against
TWO_CALLS = "heun", "dpm2", "dpm2-a", "dpmpp-sde"  # of the network a step
STOCHASTIC = {"ddpm", "lcm", *(name for name, eta in ETA.items() if eta > 0)}
EVERYWHERE = 0.0, 1.0  # interval of guidance
Progress = Callable[[int, int], None]
Pictures = list[list[Image.Image]]  # those of each prompt


@dataclass(frozen=True)
class Setting:
    """A setting of guidance: fields of the request, and the interval of times that are guided,
    None for that of the model."""

    name: str
    fields: dict[str, Any] = field(default_factory=dict)
    interval: tuple[float, float] | None = None


@dataclass(frozen=True)
class Quality:
    """Of ``count`` pictures the share that is ``right``, and their ``diversity``: the mean cosine
    distance of two pictures of one prompt, None with one picture a prompt."""

    name: str
    count: int
    right: float
    diversity: float | None


def guidance_settings(guide_model: str | None = None) -> list[Setting]:
    """Settings of the guidance table; those of autoguidance only with a weaker model."""
    rows = [Setting("none", {"guidance": 1.0})]
    rows += [Setting(f"cfg {scale:g}", {"guidance": scale}) for scale in (2.0, 4.5, 7.0)]
    rows.append(Setting("cfg 4.5, at all times", {"guidance": 4.5}, EVERYWHERE))
    rows.append(Setting("cfg 4.5, t in (0.2, 0.9]", {"guidance": 4.5}, (0.2, 0.9)))
    rows.append(Setting("cfg 7, rescale 0.7", {"guidance": 7.0, "guidance_rescale": 0.7}))
    if guide_model is not None:
        rows += [
            Setting(f"autoguidance {scale:g}", {"guidance": scale, "guide_model": guide_model})
            for scale in (1.5, 2.0, 3.0)
        ]
    return rows


def guidance_table(
    model: DiffusionPipeline,
    verifier: Verifier,
    encoder: Ranker,
    prompts: Sequence[Prompt],
    settings: Sequence[Setting],
    progress: Progress,
    seeds: int = 4,
    steps: int | None = None,
) -> list[Quality]:
    """Quality and diversity of each setting; the last two rows are the bounds: pictures of other
    prompts (floor of the quality, ceiling of the diversity) and true pictures (the ceiling)."""
    rows, total = [], len(settings) * len(prompts)
    true = true_pictures(prompts, seeds)
    for k, setting in enumerate(settings):
        pictures: Pictures = []
        used = with_interval(model, setting.interval)
        for j, prompt in enumerate(prompts):
            fields = setting.fields | {"steps": steps, "seeds": tuple(prompt.seeds(seeds))}
            outputs = last(used.generate(prompt.text, **fields)).outputs
            pictures.append([output.image for output in outputs])
            progress(k * len(prompts) + j + 1, total)
        rows.append(quality(setting.name, verifier, encoder, prompts, pictures))
    others = [[row[j % len(row)] for row in true] for j in range(seeds)]  # of all prompts
    if other := exchanged(prompts):  # empty for a single prompt
        floor = quality(
            "pictures of other prompts", verifier, None, prompts, [true[i] for i in other]
        )
        spread = diversity([encoder.images(each) for each in others])
        rows.append(replace(floor, diversity=spread))
    return [*rows, quality("true pictures", verifier, encoder, prompts, true)]


def quality(
    name: str,
    verifier: Verifier,
    encoder: Ranker | None,
    prompts: Sequence[Prompt],
    pictures: Pictures,
) -> Quality:
    """Quality of the pictures of each prompt; without diversity where no encoder is given."""
    correct = verdicts(prompts, observe(verifier, pictures))
    spread = None if encoder is None else diversity([encoder.images(each) for each in pictures])
    return Quality(name, len(correct), sum(correct) / len(correct), spread)


def verdicts(prompts: Sequence[Prompt], seen: Sequence[Sequence[Observation]]) -> list[bool]:
    """Whether each picture shows what its prompt asks for."""
    return [right(p, one) for p, row in zip(prompts, seen, strict=True) for one in row]


def diversity(vectors: Sequence[Tensor]) -> float | None:
    """Mean cosine distance of two unit vectors of one row (k, d), over all rows; None where every
    row has one vector."""
    distances = [
        1 - float(row[i] @ row[j]) for row in vectors for i, j in combinations(range(len(row)), 2)
    ]
    return sum(distances) / len(distances) if distances else None


def true_pictures(prompts: Sequence[Prompt], count: int) -> Pictures:
    """``count`` rendered scenes of each prompt."""
    scenes = [
        [prompt.scene(random.Random(f"{prompt.text}/true/{k}")) for k in range(count)]
        for prompt in prompts
    ]
    return [to_images(render(each).pixels) for each in scenes]


def with_interval(
    model: DiffusionPipeline, interval: tuple[float, float] | None
) -> DiffusionPipeline:
    """The model with another interval of guidance, or itself."""
    if interval is None:
        return model
    able = model.capabilities
    defaults = able.defaults.model_copy(update={"interval": interval})
    return replace(model, capabilities=able.model_copy(update={"defaults": defaults}))


@dataclass(frozen=True)
class SolverRow:
    """One sampler: by number of steps the share of pictures that are right, and the ``error`` of
    the latents against the reference, None for one that adds noise. ``contrast`` is the standard
    deviation of its latents with the most steps, in units of that of the reference."""

    sampler: str
    right: tuple[float, ...]
    error: tuple[float | None, ...]
    contrast: float


def sampler_table(
    model: DiffusionPipeline,
    verifier: Verifier,
    prompts: Sequence[Prompt],
    samplers: Sequence[str],
    steps: Sequence[int],
    progress: Progress,
) -> list[SolverRow]:
    """A row for each sampler, and first one of the reference, over one picture a prompt."""
    total = (len(samplers) * len(steps) + 1) * len(prompts)
    done = 0

    def latents(sampler: str, count: int) -> Tensor:
        nonlocal done
        found = []
        for prompt in prompts:
            asked = ask(prompt.text, seed=prompt.seeds(1)[0], sampler=sampler, steps=count)
            found.append(final_latents(model, model.capabilities.resolve(asked)[0]))
            done += 1
            progress(done, total)
        return torch.cat(found)

    def correct(x: Tensor) -> float:
        images = [to_images(model.codec.decode(each[None]).clamp(-1, 1)) for each in x]
        return quality("", verifier, None, prompts, images).right

    reference = latents(*REFERENCE)
    known = correct(reference)
    first = (known,) * len(steps), (0.0,) * len(steps)
    rows = [SolverRow(f"{REFERENCE[0]}, {REFERENCE[1]} steps (reference)", *first, contrast=1.0)]
    for sampler in samplers:
        scores, errors = list[float](), list[float | None]()
        for count in steps:
            x = latents(sampler, count)
            scores.append(correct(x))
            apart = float((x - reference).square().mean().sqrt() / reference.std())
            errors.append(None if sampler in STOCHASTIC else apart)
        contrast = float(x.std() / reference.std())
        rows.append(SolverRow(sampler, tuple(scores), tuple(errors), contrast))
    return rows


@torch.no_grad()
def final_latents(model: DiffusionPipeline, request: Request) -> Tensor:
    """Latents (b, c, h, w) at the end of the sampling of a resolved request without inputs."""
    assert request.steps and request.sampler and request.width and request.height  # resolved
    seeds, defaults = request.each_seed(), model.capabilities.defaults
    spacing = SPACINGS[request.spacing or "uniform"]
    timesteps = spacing(request.steps, defaults.shift, model.process.levels)
    denoise = guided_denoise(model, Cond(), request, request.prompt, timesteps)
    x = noise(seeds, model.codec.shape(request.height, request.width)).to(model.device)
    *_, end = sample(denoise, x, timesteps, SAMPLERS[request.sampler], step_noise(seeds))
    return end.x


def check(model: Any, name: str) -> DiffusionPipeline:
    """The model, where it is a diffusion model that draws pictures from text and has several
    samplers. Raises KalpanaError for another one."""
    uses = model.capabilities.uses
    fits = isinstance(model, DiffusionPipeline) and "prompt" in uses and "sampler" in uses
    if not fits or "seconds" in uses:
        raise KalpanaError(
            f"model {name!r} is no diffusion model that draws pictures from text with a choice of "
            "samplers: name one, such as default or unet"
        )
    return model


def guidance_markdown(rows: Sequence[Quality]) -> str:
    """The guidance table in Markdown."""
    lines = ["| guidance | right, % | diversity | pictures |", "|---|---:|---:|---:|"]
    for row in rows:
        spread = "–" if row.diversity is None else f"{row.diversity:.3f}"
        lines.append(f"| {row.name} | {100 * row.right:.1f} | {spread} | {row.count} |")
    return "\n".join(lines) + "\n"


def sampler_markdown(rows: Sequence[SolverRow], steps: Sequence[int], count: int) -> str:
    """The sampler table in Markdown: in each cell right, %, and the error of the solver."""
    heads = " | ".join(f"{each} steps" for each in steps)
    lines = [
        f"| sampler | calls a step | {heads} | contrast |",
        f"|---|---:|{'---:|' * len(steps)}---:|",
    ]
    for row in rows:
        calls = 2 if row.sampler.split(",")[0] in TWO_CALLS else 1
        cells = " | ".join(
            f"{100 * share:.0f} · " + ("–" if error is None else f"{error:.3f}")
            for share, error in zip(row.right, row.error, strict=True)
        )
        lines.append(f"| {row.sampler} | {calls} | {cells} | {row.contrast:.2f} |")
    note = (
        f"{count} prompts, one picture each. In each cell: right, in per cent, and the root mean "
        "square distance of the latents to the reference, in standard deviations of it (two "
        "unrelated pictures: about 1.4; – for samplers that add noise)."
    )
    return "\n".join(lines) + f"\n\n{note}\n"
