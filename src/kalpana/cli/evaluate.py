"""The ``evaluate`` command: scores of models, pictures and videos by a verifier."""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from kalpana.cli.console import counting
from kalpana.cli.options import Device
from kalpana.request import shorten
from kalpana.types import KalpanaError, Output

if TYPE_CHECKING:
    from kalpana.evaluate.suites import Prompt
    from kalpana.pipelines.pipeline import Pipeline
    from kalpana.understand.encoder import Encoder


def evaluate(
    models: Annotated[
        list[str] | None,
        typer.Argument(
            help="a name from `kalpana models` or a folder of weights, default by default; or the "
            "word compare and several"
        ),
    ] = None,
    suite: Annotated[
        str,
        typer.Option(
            help="spriteeval, spriteeval-hi, unseen, counts58, hard, hands, words-latin, "
            "words-devanagari or clips"
        ),
    ] = "spriteeval",
    dev: Annotated[
        bool,
        typer.Option("--dev", help="the dev split of the suite, with other prompts, for choices"),
    ] = False,
    limit: Annotated[
        int | None, typer.Option(min=1, help="only the first so many prompts of each task")
    ] = None,
    verifier: Annotated[
        Path | None, typer.Option(help="a verifier's folder; verifier-b, or verifier-a with --dev")
    ] = None,
    images: Annotated[
        Path | None,
        typer.Option(help="score the pictures or videos in this folder, without a model"),
    ] = None,
    clip_score: Annotated[
        str | None,
        typer.Option(
            metavar="MODEL",
            help="also the CLIP score by this CLIP, a name or a folder as for kalpana search",
        ),
    ] = None,
    steps: Annotated[
        str | None,
        typer.Option(
            help="numbers of denoising steps, as 1,4,8,20,50, or own (the model's default); by "
            "default 1,4,8,20,50 for compare, else own"
        ),
    ] = None,
    device: Device = None,
    out: Annotated[
        Path | None,
        typer.Option(help="the run's folder, runs/SUITE-MODEL by default; a run in it is resumed"),
    ] = None,
) -> None:
    """Score a model on a suite of prompts by a verifier, beside the score's floor and ceiling.

    `kalpana evaluate compare A B C` prints one table of several models by steps and seconds.
    """
    from kalpana.evaluate import run as running
    from kalpana.evaluate.compare import STEPS, compare
    from kalpana.evaluate.cost import Cost
    from kalpana.evaluate.suites import load as load_suite
    from kalpana.evaluate.verifiers.ocr import readers
    from kalpana.evaluate.verifiers.verifier import DetectorVerifier
    from kalpana.evaluate.verifiers.verifier_errors import verified
    from kalpana.hub.card import weights_dir
    from kalpana.hub.weights import fingerprint
    from kalpana.pipelines import load

    comparing = bool(models) and models[0] == "compare"  # type: ignore[index]
    names = models[1:] if models and comparing else models or ["default"]
    counts = _steps(steps)
    if comparing and not names:
        raise KalpanaError(
            "there is nothing to compare: name models, as in kalpana evaluate compare default "
            "runs/mine"
        )
    if not comparing and (len(names) > 1 or len(counts) > 1):
        raise KalpanaError(
            "one model is scored at one number of steps: write kalpana evaluate compare "
            f"{' '.join(names)} for a table of several"
        )
    if clip_score is not None and (comparing or suite == "clips"):
        raise KalpanaError(
            "--clip-score is of one model's pictures: leave it out of kalpana evaluate compare "
            "and of --suite clips"
        )
    weights = verifier or weights_dir() / ("verifier-a" if dev else "verifier-b")
    run_name = f"{suite}-dev" if dev else suite
    if suite == "clips":
        _evaluate_clips(run_name, dev, limit, weights, images, out)
        return
    prompts = running.first(load_suite(suite, dev), limit)
    detector = DetectorVerifier.load(weights)
    available, missing = readers(suite, detector.readers)
    if missing and not available:
        raise KalpanaError(
            f"words cannot be read: {weights} holds no reader.safetensors, and {missing}"
        )
    if missing:
        print(f"warning: no second reader: {missing}", file=sys.stderr)
    detector = replace(detector, readers=available)
    encoder = None if clip_score is None else _encoder(clip_score, device, prompts)
    trusted = verified(weights, suite, {prompt.task for prompt in prompts})
    about: dict[str, Any] = {"suite": run_name, "limit": limit, "prompts": len(prompts)}
    about["verifier"] = {
        path.name: fingerprint(path) for path in sorted(weights.glob("*.safetensors"))
    }
    if images:
        folder = out or Path("runs") / f"{run_name}-{images.name}"
        folder.mkdir(parents=True, exist_ok=True)
        pictures = list(running.pictures_of(images, prompts))
        report = running.judge(
            prompts, pictures, detector, folder, verified=trusted, encoder=encoder
        )
    elif comparing:
        folder = out or Path("runs") / f"{run_name}-compare"
        pipelines = [load(name, device) for name in names]
        costs = [Cost.of(name, prompts[0].text) for name in names]
        compared = [
            (pipeline, partial(_draw, pipeline, name), cost)
            for pipeline, name, cost in zip(pipelines, names, costs, strict=True)
        ]
        with counting("") as progress:
            compare(
                compared,
                prompts,
                counts or STEPS,
                about,
                detector,
                folder,
                lambda label: partial(progress, label=label),
                trusted,
            )
        print((folder / "compare.md").read_text(encoding="utf-8"), end="")
        return
    else:
        pipeline = load(names[0], device)
        (count,) = counts or (None,)
        suffix = f"-{count}" if count else ""
        folder = out or Path("runs") / f"{run_name}-{pipeline.name}{suffix}"
        about |= {"model": pipeline.name, "files": pipeline.files, "steps": count}
        with counting(suite) as progress:
            draw = partial(_draw, pipeline, names[0], steps=count)
            report = running.run(
                prompts, draw, about, detector, folder, progress, verified=trusted, encoder=encoder
            )
    print(report.markdown(), end="")
    print(folder / "report.json", file=sys.stderr)


def _encoder(name: str, device: str | None, prompts: Sequence[Prompt]) -> Encoder:
    """The CLIP of --clip-score; prints warnings about truncated prompts and unknown words."""
    from kalpana.understand.encoder import load

    try:
        encoder = load(name, device)
    except KalpanaError as error:
        raise KalpanaError(f"--clip-score {name}: {error}") from None
    if cut := sum(bool(encoder.words.cut(prompt.text)) for prompt in prompts):
        print(
            f"warning: {cut} of {len(prompts)} prompts are too long for model {name!r}, which "
            "does not read all of them",
            file=sys.stderr,
        )
    words = (word for prompt in prompts for word in encoder.unknown(prompt.text))
    if unknown := dict.fromkeys(words):
        print(f"warning: model {name!r} never met {shorten(', '.join(unknown))}", file=sys.stderr)
    return encoder


def _evaluate_clips(
    name: str, dev: bool, limit: int | None, verifier: Path, clips: Path | None, out: Path | None
) -> None:
    """Scores a folder of videos by a verifier and prints the tables.

    The report is written to ``out``, by default runs/NAME-FOLDER.
    """
    from kalpana.evaluate.run import first
    from kalpana.evaluate.verifiers.verifier import DetectorVerifier
    from kalpana.evaluate.video.scores import clips_of, judge
    from kalpana.evaluate.video.suite import load

    if clips is None:
        raise KalpanaError(
            "no model here draws clips yet: score clips made elsewhere, as in kalpana evaluate "
            "--suite clips --images FOLDER"
        )
    prompts, folder = first(load(dev), limit), out or Path("runs") / f"{name}-{clips.name}"
    detector = replace(DetectorVerifier.load(verifier), readers=())
    with counting(name) as progress:
        report = judge(prompts, clips_of(clips, prompts), detector, folder, progress)
    print(report.markdown(), end="")
    print(folder / "report.json", file=sys.stderr)


def _draw(
    model: Pipeline, name: str, prompt: Prompt, seeds: Sequence[int], steps: int | None
) -> Sequence[Output]:
    """Pictures of a suite's prompt, one for each seed, by a pipeline loaded as ``name``."""
    from kalpana.pipelines import last

    return last(model.generate(prompt.text, model=name, seeds=tuple(seeds), steps=steps)).outputs


def _steps(given: str | None) -> tuple[int | None, ...]:
    """Numbers of steps parsed from a text such as "1,4,8"; None stands for a model's default.

    Raises: KalpanaError where the text is not valid.
    """
    if given is None:
        return ()
    if given == "own":
        return (None,)
    if not re.fullmatch(r"[1-9][0-9]{0,2}(,[1-9][0-9]{0,2})*", given):
        raise KalpanaError(
            f"--steps {given!r} should be numbers from 1 to 999 with commas between, such as "
            "1,4,8,20,50, or own"
        )
    return tuple(dict.fromkeys(int(count) for count in given.split(",")))
