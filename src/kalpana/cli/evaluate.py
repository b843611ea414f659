"""The ``evaluate`` commands that score pictures and videos on a suite of prompts."""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple, TypeAlias

import typer

from kalpana.cli.console import counting
from kalpana.cli.groups import DefaultCommand
from kalpana.cli.options import Device, field
from kalpana.errors import shorten
from kalpana.types import KalpanaError, Output, Video

if TYPE_CHECKING:
    from kalpana.evaluate.prompts import Prompt
    from kalpana.evaluate.score import Rule
    from kalpana.evaluate.verifiers.observations import Verifier
    from kalpana.evaluate.verifiers.verifier import DetectorVerifier
    from kalpana.pipelines.pipeline import Pipeline
    from kalpana.understand.encoder import Encoder


class SuiteByDefault(DefaultCommand):
    """A group in which ``evaluate MODEL`` means ``evaluate suite MODEL``."""

    default = "suite"


evaluating = typer.Typer(
    cls=SuiteByDefault,
    help="Measure models, verifiers, CLIPs and codecs; kalpana evaluate MODEL scores a model.",
)

SuiteName: TypeAlias = Annotated[
    str,
    typer.Option(
        help="spriteeval, spriteeval-hi, unseen, counts58, hard, facing, hands, words-latin, "
        "words-devanagari or, by public models, geneval-prompts"
    ),
]
Dev: TypeAlias = Annotated[
    bool, typer.Option("--dev", help="the dev split, with other prompts, for choices")
]
Limit: TypeAlias = Annotated[
    int | None, typer.Option(min=1, help="only the first so many prompts of each task")
]
VerifierFolder: TypeAlias = Annotated[
    Path | None, typer.Option(help="a verifier's folder; verifier-b, or verifier-a with --dev")
]
PublicDetectorName: TypeAlias = Annotated[
    str | None,
    typer.Option(
        "--detector",
        metavar="MODEL",
        help="for geneval-prompts: a COCO object detector (DETR, RT-DETR, YOLOS), a folder or a "
        "name in the Hugging Face cache",
    ),
]
PublicClipName: TypeAlias = Annotated[
    str | None,
    typer.Option(
        "--clip",
        metavar="MODEL",
        help="for geneval-prompts: a CLIP for the colours, a folder or a name as for --detector",
    ),
]


@evaluating.command("suite")
def suite(
    model: Annotated[
        str | None,
        typer.Argument(
            help="a name from `kalpana models`, default if none, or a folder of weights"
        ),
    ] = None,
    suite: SuiteName = "spriteeval",
    dev: Dev = False,
    limit: Limit = None,
    verifier: VerifierFolder = None,
    detector: PublicDetectorName = None,
    clip: PublicClipName = None,
    from_folder: Annotated[
        Path | None, typer.Option(help="score the pictures in this folder, without a model")
    ] = None,
    clip_score: Annotated[
        str | None,
        typer.Option(
            metavar="MODEL",
            help="also the CLIP score by this CLIP, a name or a folder as for kalpana search",
        ),
    ] = None,
    steps: Annotated[
        str | None, typer.Option(help="denoising steps; by default the model's default")
    ] = None,
    plan: Annotated[str | None, field("plan")] = None,
    device: Device = None,
    out: Annotated[
        Path | None,
        typer.Option(help="the run's folder, runs/SUITE-MODEL by default; a run in it is resumed"),
    ] = None,
) -> None:
    """Score a model on a suite of prompts by a verifier, beside the score's floor and ceiling."""
    from kalpana.evaluate import run as running
    from kalpana.media import locked
    from kalpana.pipelines import load

    if from_folder and (model or steps or plan):
        raise KalpanaError(
            f"the pictures in {from_folder} are there already: leave out the model, --steps and "
            "--plan, or leave out --from-folder"
        )
    count, *more = (None,) if steps is None else _steps(steps)
    if more:
        raise KalpanaError(
            "one model is scored at one number of steps: for a table of several write kalpana "
            f"evaluate compare {model or 'default'} --steps {steps}"
        )
    setup = _Setup(suite, dev, limit, _Judges(verifier, detector, clip, device))
    encoder = None if clip_score is None else _encoder(clip_score, device, setup.prompts)
    if from_folder:
        folder = out or Path("runs") / f"{setup.run_name}-{from_folder.name}"
        pictures = list(running.pictures_of(from_folder, setup.prompts))
        judge = partial(running.judge, verified=setup.verified, encoder=encoder, rule=setup.rule)
        with locked(folder):
            report = judge(setup.prompts, pictures, setup.verifier, folder)
    else:
        name = model or "default"
        pipeline = load(name, device)
        suffix = (f"-{count}" if count else "") + (f"-{plan}" if plan else "")
        folder = out or Path("runs") / f"{setup.run_name}-{pipeline.name}{suffix}"
        about = setup.about | {"model": pipeline.name, "files": pipeline.files, "steps": count}
        about |= {"plan": plan} if plan else {}
        with counting(suite) as progress:
            report = running.run(
                setup.prompts,
                partial(_draw, pipeline, name, steps=count, plan=plan),
                about,
                setup.verifier,
                folder,
                progress,
                verified=setup.verified,
                encoder=encoder,
                rule=setup.rule,
            )
    print(report.markdown(), end="")
    print(folder / "report.json", file=sys.stderr)


@evaluating.command("compare")
def compare(
    models: Annotated[
        list[str],
        typer.Argument(metavar="MODEL...", help="names from `kalpana models`, or folders"),
    ],
    suite: SuiteName = "spriteeval",
    dev: Dev = False,
    limit: Limit = None,
    verifier: VerifierFolder = None,
    detector: PublicDetectorName = None,
    clip: PublicClipName = None,
    steps: Annotated[
        str | None, typer.Option(help="numbers of denoising steps; by default 1,4,8,20,50")
    ] = None,
    default_steps: Annotated[
        bool, typer.Option("--default-steps", help="each model at its default number of steps")
    ] = False,
    device: Device = None,
    out: Annotated[
        Path | None,
        typer.Option(help="the run's folder, runs/SUITE-compare by default; resumed if it exists"),
    ] = None,
) -> None:
    """Compare models on a suite: one table by steps, seconds, memory and training compute."""
    from kalpana.evaluate.compare import STEPS
    from kalpana.evaluate.compare import compare as comparison
    from kalpana.evaluate.cost import Cost
    from kalpana.pipelines import load

    if default_steps and steps is not None:
        raise KalpanaError("--steps and --default-steps contradict each other: leave one out")
    counts = (None,) if default_steps else STEPS if steps is None else _steps(steps)
    setup = _Setup(suite, dev, limit, _Judges(verifier, detector, clip, device))
    folder = out or Path("runs") / f"{setup.run_name}-compare"
    pipelines = [load(name, device) for name in models]
    costs = [Cost.of(name, setup.prompts[0].text) for name in models]
    compared = [
        (pipeline, partial(_draw, pipeline, name), cost)
        for pipeline, name, cost in zip(pipelines, models, costs, strict=True)
    ]
    with counting("") as progress:
        comparison(
            compared,
            setup.prompts,
            counts,
            setup.about,
            setup.verifier,
            folder,
            lambda label: partial(progress, label=label),
            setup.verified,
            setup.rule,
        )
    print((folder / "compare.md").read_text(encoding="utf-8"), end="")


class _Judges(NamedTuple):
    """The options that name the models that judge: a verifier of ours, or public ones."""

    verifier: Path | None
    detector: str | None
    clip: str | None
    device: str | None


class _Setup:
    """The prompts of a suite, the verifier that judges them and its rule, and the description of a
    run.

    ``verified`` tells for each task whether the verifier's errors are small enough.
    """

    prompts: list[Prompt]
    verifier: Verifier
    rule: Rule
    verified: dict[str, bool] | None = None

    def __init__(self, suite: str, dev: bool, limit: int | None, judges: _Judges) -> None:
        from kalpana.evaluate.geneval_prompts import NAME

        if suite == "clips":
            raise KalpanaError(
                "--suite clips asks for videos: write kalpana evaluate video MODEL, or "
                "kalpana evaluate video --from-folder FOLDER"
            )
        self.run_name = f"{suite}-dev" if dev else suite
        files = (self._public if suite == NAME else self._ours)(suite, dev, limit, judges)
        self.about: dict[str, Any] = {
            "suite": self.run_name,
            "limit": limit,
            "prompts": len(self.prompts),
            "verifier": files,
        }

    def _ours(self, suite: str, dev: bool, limit: int | None, judges: _Judges) -> dict[str, str]:
        """Set up a suite of the world; returns the hashes of the verifier's files by name."""
        from kalpana.evaluate.run import first
        from kalpana.evaluate.score import OURS
        from kalpana.evaluate.suites import load
        from kalpana.evaluate.verifiers.verifier_errors import verified
        from kalpana.hub.weights import fingerprint

        if judges.detector or judges.clip:
            raise KalpanaError(
                f"--detector and --clip are for --suite geneval-prompts, and {suite} is judged by "
                "--verifier: leave them out"
            )
        weights = verifier_folder(judges.verifier, dev)
        self.prompts = first(load(suite, dev), limit)
        self.verifier, self.rule = _with_readers(weights, suite), OURS
        self.verified = verified(weights, suite, {prompt.task for prompt in self.prompts})
        return {path.name: fingerprint(path) for path in sorted(weights.glob("*.safetensors"))}

    def _public(self, suite: str, dev: bool, limit: int | None, judges: _Judges) -> dict[str, str]:
        """Set up a suite that public models judge; returns their hashes by name."""
        from kalpana.evaluate.geneval_prompts import geneval_prompts
        from kalpana.evaluate.run import first
        from kalpana.evaluate.verifiers.public_verifier import PublicVerifier

        if judges.verifier:
            raise KalpanaError(
                f"--verifier knows the classes of the world alone, and {suite} has others: write "
                "--detector and --clip"
            )
        self.prompts = first(geneval_prompts(dev), limit)
        public = PublicVerifier.load(judges.detector, judges.clip, judges.device)
        self.verifier, self.rule = public, public.rule()
        return public.judges()


def verifier_folder(given: Path | None, dev: bool) -> Path:
    """A verifier's folder; by default verifier-b, and verifier-a for choices."""
    from kalpana.hub.card import find_model

    return given or find_model("verifier-a" if dev else "verifier-b")


def _with_readers(weights: Path, suite: str) -> DetectorVerifier:
    """The verifier in a folder with the readers of a suite's words.

    Raises: KalpanaError where the suite asks for words and there is no reader.
    """
    from kalpana.evaluate.verifiers.ocr import readers
    from kalpana.evaluate.verifiers.verifier import DetectorVerifier

    detector = DetectorVerifier.load(weights)
    available, missing = readers(suite, detector.readers)
    if missing and not available:
        raise KalpanaError(
            f"words cannot be read: {weights} holds no reader.safetensors, and {missing}"
        )
    if missing:
        print(f"warning: no second reader: {missing}", file=sys.stderr)
    return replace(detector, readers=available)


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


def _draw(
    model: Pipeline,
    name: str,
    prompt: Prompt,
    seeds: Sequence[int],
    steps: int | None,
    plan: str | None = None,
) -> Sequence[Output]:
    """Pictures of a suite's prompt, one for each seed, by a pipeline loaded as ``name``; those of a
    video model are videos of one frame, of the largest square size of its training."""
    from kalpana.pipelines import last

    fields: dict[str, Any] = {} if plan is None else {"plan": plan}
    if "seconds" in model.capabilities.uses:
        sides = (tuple(map(int, size.split("x"))) for size in model.capabilities.sizes)
        side = max(width for width, height in sides if width == height)
        fields |= {"seconds": 0.125, "fps": 8, "size": (side, side), "format": "webp"}
    outputs = last(
        model.generate(prompt.text, model=name, seeds=tuple(seeds), steps=steps, **fields)
    ).outputs
    return [
        replace(each, media=each.media.frames[0]) if isinstance(each.media, Video) else each
        for each in outputs
    ]


def _steps(given: str) -> tuple[int, ...]:
    """Numbers of steps parsed from a text such as "1,4,8". Raises: KalpanaError if it is wrong."""
    if not re.fullmatch(r"[1-9][0-9]{0,2}(,[1-9][0-9]{0,2})*", given):
        raise KalpanaError(
            f"--steps {given!r} should be numbers from 1 to 999 with commas between, such as "
            "1,4,8,20,50"
        )
    return tuple(dict.fromkeys(int(count) for count in given.split(",")))
