"""The ``evaluate`` commands of diffusion: guidance, samplers, and ablations of a recipe."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from kalpana.cli.console import counting
from kalpana.cli.evaluate import VerifierFolder, _steps, evaluating, verifier_folder
from kalpana.cli.measure import Model
from kalpana.cli.options import Device
from kalpana.types import KalpanaError

Prompts = Annotated[
    int, typer.Option("-n", min=1, help="dev prompts of each of the six tasks of SpriteEval")
]


@evaluating.command("guidance")
def guidance(
    model: Model = "default",
    count: Prompts = 4,
    seeds: Annotated[int, typer.Option(min=1, max=16, help="pictures of each prompt")] = 4,
    guide_model: Annotated[
        str | None,
        typer.Option(help="weaker weights of the same family, for the rows of autoguidance"),
    ] = None,
    steps: Annotated[
        int | None, typer.Option(min=1, help="denoising steps of each picture")
    ] = None,
    verifier: VerifierFolder = None,
    device: Device = None,
) -> None:
    """Quality and diversity by guidance: none, scales, intervals, rescale and autoguidance."""
    from kalpana.evaluate import sampling
    from kalpana.evaluate.run import first
    from kalpana.evaluate.suites import spriteeval
    from kalpana.evaluate.verifiers.verifier import DetectorVerifier
    from kalpana.pipelines import load
    from kalpana.understand.encoder import load as load_encoder

    pipeline = sampling.check(load(model, device), model)
    judge = DetectorVerifier.load(verifier_folder(verifier, dev=True))
    with counting("pictures") as progress:
        rows = sampling.guidance_table(
            pipeline,
            judge,
            load_encoder("clip", device),
            first(spriteeval(dev=True), count),
            sampling.guidance_settings(guide_model),
            progress,
            seeds,
            steps,
        )
    print(sampling.guidance_markdown(rows), end="")


@evaluating.command("samplers")
def samplers(
    model: Model = "default",
    count: Prompts = 4,
    steps: Annotated[str, typer.Option(help="numbers of denoising steps")] = "4,8,20,50",
    names: Annotated[
        str | None,
        typer.Option("--samplers", help="names with commas between; by default all of the model"),
    ] = None,
    verifier: VerifierFolder = None,
    device: Device = None,
) -> None:
    """Quality against steps for each sampler, and its distance from a fine solution."""
    from kalpana.evaluate import sampling
    from kalpana.evaluate.run import first
    from kalpana.evaluate.suites import spriteeval
    from kalpana.evaluate.verifiers.verifier import DetectorVerifier
    from kalpana.pipelines import load

    pipeline = sampling.check(load(model, device), model)
    known = pipeline.capabilities.samplers
    chosen = known if names is None else tuple(each.strip() for each in names.split(","))
    if unknown := [each for each in chosen if each not in known]:
        raise KalpanaError(f"--samplers {unknown[0]!r}: model {model!r} has {', '.join(known)}")
    judge, counts = DetectorVerifier.load(verifier_folder(verifier, dev=True)), _steps(steps)
    prompts = first(spriteeval(dev=True), count)
    with counting("pictures") as progress:
        rows = sampling.sampler_table(pipeline, judge, prompts, chosen, counts, progress)
    print(sampling.sampler_markdown(rows, counts, len(prompts)), end="")


@evaluating.command("ablation")
def ablation(
    recipe: Annotated[str, typer.Argument(help="recipe of a latent diffusion network")] = "unet",
    arm: Annotated[
        list[str] | None,
        typer.Option(
            metavar="FIELD=VALUE[,FIELD=VALUE...]",
            help="changed fields of an arm; can be given several times; the recipe itself is the "
            "first arm",
        ),
    ] = None,
    train_steps: Annotated[
        int | None, typer.Option(min=1, help="optimizer steps of each arm, instead of the recipe's")
    ] = None,
    count: Prompts = 4,
    out: Annotated[
        Path, typer.Option(help="folder of the runs; those that are found there are resumed")
    ] = Path("runs/ablation"),
    verifier: VerifierFolder = None,
    device: Device = None,
) -> None:
    """Train arms of a recipe at equal compute, and compare them in one table."""
    from kalpana.evaluate.ablation import ablate, markdown, read_arms
    from kalpana.evaluate.run import first
    from kalpana.evaluate.suites import spriteeval
    from kalpana.evaluate.verifiers.verifier import DetectorVerifier

    changes = {} if train_steps is None else {"steps": train_steps}
    recipes = read_arms(recipe, arm or (), **changes)
    judge = DetectorVerifier.load(verifier_folder(verifier, dev=True))

    def echo(line: str) -> None:
        print(line, file=sys.stderr, flush=True)

    prompts = first(spriteeval(dev=True), count)
    print(markdown(ablate(recipes, judge, prompts, out, echo, device)), end="")
