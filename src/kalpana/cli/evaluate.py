"""Models, pictures and clips judged by a verifier."""

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
from kalpana.types import KalpanaError, Picture

if TYPE_CHECKING:
    from kalpana.evaluate.suites import Prompt
    from kalpana.pipelines.pipeline import Pipeline
    from kalpana.understand.encoder import Encoder


def evaluate(
    models: Annotated[
        list[str] | None,
        typer.Argument(
            help="a name from `kalpana models` or a folder of weights, default by default; or the word compare and several"
        ),
    ] = None,
    suite: Annotated[
        str,
        typer.Option(
            help="spriteeval, spriteeval-hi, unseen, counts58, hard, hands, words-latin, words-devanagari or clips"
        ),
    ] = "spriteeval",
    dev: Annotated[
        bool,
        typer.Option("--dev", help="the suite's twin of other prompts, by which choices are made"),
    ] = False,
    limit: Annotated[
        int | None, typer.Option(min=1, help="only so many prompts of each task, the first ones")
    ] = None,
    verifier: Annotated[
        Path | None, typer.Option(help="a verifier's folder; verifier-b, or verifier-a with --dev")
    ] = None,
    images: Annotated[
        Path | None,
        typer.Option(help="score the pictures, or clips, in this folder instead of drawing any"),
    ] = None,
    clip_score: Annotated[
        str | None,
        typer.Option(
            metavar="MODEL",
            help="also the CLIP score by this CLIP, a name or a folder, as search takes them",
        ),
    ] = None,
    steps: Annotated[
        str | None,
        typer.Option(
            help="numbers of denoising steps, as 1,4,8,20,50: these for compare, else the model's own; or own"
        ),
    ] = None,
    device: Device = None,
    out: Annotated[
        Path | None,
        typer.Option(
            help="the run's folder, runs/SUITE-MODEL by default; a run found there goes on"
        ),
    ] = None,
) -> None:
    """Draw a suite of prompts, judge the pictures by a verifier, and print the score between its floor and its ceiling; or, as
    `kalpana evaluate compare A B C`, one table of several models by their steps and seconds."""
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
            "there is nothing to compare: name models, as in kalpana evaluate compare default runs/mine"
        )
    if not comparing and (len(names) > 1 or len(counts) > 1):
        raise KalpanaError(
            f"one model is scored at one number of steps: write kalpana evaluate compare {' '.join(names)} for a table of several"
        )
    if clip_score is not None and (comparing or suite == "clips"):
        raise KalpanaError(
            "--clip-score is of one model's pictures: leave it out of kalpana evaluate compare and of --suite clips"
        )
    judge_by = verifier or weights_dir() / ("verifier-a" if dev else "verifier-b")
    twin = f"{suite}-dev" if dev else suite
    if suite == "clips":
        _evaluate_clips(twin, dev, limit, judge_by, images, out)
        return
    prompts = running.first(load_suite(suite, dev), limit)
    judging = DetectorVerifier.load(judge_by)
    reading, missing = readers(suite, judging.readers)
    if missing and not reading:
        raise KalpanaError(
            f"words cannot be read: {judge_by} holds no reader.safetensors, and {missing}"
        )
    if missing:
        print(f"warning: no second reader: {missing}", file=sys.stderr)
    judging = replace(judging, readers=reading)
    encoder = None if clip_score is None else _encoder(clip_score, device, prompts)
    trusted = verified(judge_by, suite, {prompt.task for prompt in prompts})
    about: dict[str, Any] = {"suite": twin, "limit": limit, "prompts": len(prompts)}
    about["verifier"] = {
        path.name: fingerprint(path) for path in sorted(judge_by.glob("*.safetensors"))
    }
    if images:
        folder = out or Path("runs") / f"{twin}-{images.name}"
        folder.mkdir(parents=True, exist_ok=True)
        report = running.judge(
            prompts,
            list(running.pictures_of(images, prompts)),
            judging,
            folder,
            verified=trusted,
            encoder=encoder,
        )
    elif comparing:
        folder = out or Path("runs") / f"{twin}-compare"
        drawers = [load(name, device) for name in names]
        costs = [Cost.of(name, prompts[0].text) for name in names]
        cast = [
            (drawer, partial(_draw, drawer, name), cost)
            for drawer, name, cost in zip(drawers, names, costs, strict=True)
        ]
        with counting("") as progress:
            compare(
                cast,
                prompts,
                counts or STEPS,
                about,
                judging,
                folder,
                lambda label: partial(progress, label=label),
                trusted,
            )
        print((folder / "compare.md").read_text(encoding="utf-8"), end="")
        return
    else:
        drawer = load(names[0], device)
        (count,) = counts or (None,)
        folder = out or Path("runs") / (f"{twin}-{drawer.name}" + (f"-{count}" if count else ""))
        about |= {"model": drawer.name, "files": drawer.files, "steps": count}
        with counting(suite) as progress:
            draw = partial(_draw, drawer, names[0], steps=count)
            report = running.run(
                prompts, draw, about, judging, folder, progress, verified=trusted, encoder=encoder
            )
    print(report.markdown(), end="")
    print(folder / "report.json", file=sys.stderr)


def _encoder(name: str, device: str | None, prompts: Sequence[Prompt]) -> Encoder:
    """The CLIP of --clip-score; what it does not read of the prompts is told."""
    from kalpana.understand.encoder import load

    try:
        encoder = load(name, device)
    except KalpanaError as error:
        raise KalpanaError(f"--clip-score {name}: {error}") from None
    if cut := sum(bool(encoder.words.cut(prompt.text)) for prompt in prompts):
        print(
            f"warning: {cut} of {len(prompts)} prompts are too long for model {name!r}, which does not read all of them",
            file=sys.stderr,
        )
    if unknown := dict.fromkeys(
        word for prompt in prompts for word in encoder.unknown(prompt.text)
    ):
        print(f"warning: model {name!r} never met {shorten(', '.join(unknown))}", file=sys.stderr)
    return encoder


def _evaluate_clips(
    name: str, dev: bool, limit: int | None, verifier: Path, clips: Path | None, out: Path | None
) -> None:
    """Judge a folder of clips by a verifier and print the tables; they are written to ``out``, or to runs/NAME-FOLDER."""
    from kalpana.evaluate.run import first
    from kalpana.evaluate.verifiers.verifier import DetectorVerifier
    from kalpana.evaluate.video.scores import clips_of, judge
    from kalpana.evaluate.video.suite import load

    if clips is None:
        raise KalpanaError(
            "no model here draws clips yet: score clips made elsewhere, as in kalpana evaluate --suite clips --images FOLDER"
        )
    prompts, folder = first(load(dev), limit), out or Path("runs") / f"{name}-{clips.name}"
    judging = replace(DetectorVerifier.load(verifier), readers=())
    with counting(name) as progress:
        report = judge(prompts, clips_of(clips, prompts), judging, folder, progress)
    print(report.markdown(), end="")
    print(folder / "report.json", file=sys.stderr)


def _draw(
    model: Pipeline, name: str, prompt: Prompt, seeds: Sequence[int], steps: int | None
) -> Sequence[Picture]:
    """The pictures of a suite's prompt by a model that was asked for by this name."""
    from kalpana.pipelines import last

    return last(model.generate(prompt.text, model=name, seeds=tuple(seeds), steps=steps)).pictures


def _steps(given: str | None) -> tuple[int | None, ...]:
    """ "1,4,8" as numbers of steps; None is a model's own."""
    if given is None:
        return ()
    if given == "own":
        return (None,)
    if not re.fullmatch(r"[1-9][0-9]{0,2}(,[1-9][0-9]{0,2})*", given):
        raise KalpanaError(
            f"--steps {given!r} should be numbers from 1 to 999 with commas between, such as 1,4,8,20,50, or own"
        )
    return tuple(dict.fromkeys(int(count) for count in given.split(",")))
