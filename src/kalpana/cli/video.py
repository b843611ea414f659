"""The ``evaluate`` commands of videos."""

from __future__ import annotations

import sys
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeAlias

import typer

from kalpana.cli.console import counting
from kalpana.cli.evaluate import Dev, Limit, VerifierFolder, evaluating, verifier_folder
from kalpana.cli.options import Device
from kalpana.types import KalpanaError

if TYPE_CHECKING:
    from kalpana.evaluate.verifiers.verifier import DetectorVerifier
    from kalpana.pipelines.diffusion import DiffusionPipeline

Model: TypeAlias = Annotated[
    str, typer.Argument(help="a video model: a name from `kalpana models`, or a folder of weights")
]
Steps: TypeAlias = Annotated[
    int | None, typer.Option(min=1, max=1000, help="denoising steps; by default the model's")
]
Side: TypeAlias = Annotated[int, typer.Option(min=8, help="side of the square videos in pixels")]
Fps: TypeAlias = Annotated[int, typer.Option(min=1, max=60, help="frames a second")]


@evaluating.command("video")
def video(
    model: Annotated[
        str | None,
        typer.Argument(help="a video model: a name from `kalpana models`, or a folder of weights"),
    ] = None,
    from_folder: Annotated[
        Path | None,
        typer.Option(
            help="score the videos in this folder, without a model: 0000.mp4, 0000.webp, or a "
            "folder 0000 of frames, for the prompt with number 0"
        ),
    ] = None,
    dev: Dev = False,
    limit: Limit = None,
    verifier: VerifierFolder = None,
    steps: Steps = None,
    side: Side = 64,
    fps: Fps = 8,
    image: Annotated[
        bool, typer.Option("--image", help="the first frame of the true video is given as well")
    ] = False,
    expand: Annotated[bool, typer.Option("--expand", help="prompts are expanded")] = False,
    device: Device = None,
    out: Annotated[
        Path | None,
        typer.Option(help="the run's folder, runs/clips-NAME by default; a run in it is resumed"),
    ] = None,
) -> None:
    """Score a video model, or a folder of videos, on Clips-200, beside floors and ceiling; without
    either the true videos, which gives the ceiling."""
    from kalpana.evaluate.run import first
    from kalpana.evaluate.video.drawn import Drawing, drawn
    from kalpana.evaluate.video.files import videos_of
    from kalpana.evaluate.video.scores import judge
    from kalpana.evaluate.video.suite import load, truth
    from kalpana.media import locked

    if from_folder and model:
        raise KalpanaError(
            f"the videos in {from_folder} are there already: leave out the model, or --from-folder"
        )
    if not model and (steps or image or expand):
        raise KalpanaError("--steps, --image and --expand are for a model: name one")
    suite = "clips-dev" if dev else "clips"
    name = Path(model).name if model else from_folder.name if from_folder else "true"
    name += "-image" * image + "-expanded" * expand
    folder = out or Path("runs") / f"{suite}-{name}"
    prompts, detector = first(load(dev), limit), judge_of(verifier, dev)
    if model:
        drawing = Drawing(f"{side}x{side}", fps, steps, image, expand)
        about = {"suite": suite, "limit": limit}
        videos = drawn(_loaded(model, device), model, prompts, drawing, folder, about)
    elif from_folder:
        videos = videos_of(from_folder, prompts)
    else:
        videos = (truth(prompt.video) for prompt in prompts)
    with locked(folder), counting(suite) as progress:
        report = judge(prompts, videos, detector, folder, progress)
    print(report.markdown(), end="")
    print(folder / "report.json", file=sys.stderr)


def judge_of(verifier: Path | None, dev: bool) -> DetectorVerifier:
    """The verifier of videos, without text readers: no prompt of Clips-200 asks for words."""
    from kalpana.evaluate.verifiers.verifier import DetectorVerifier

    return replace(DetectorVerifier.load(verifier_folder(verifier, dev)), readers=())


def _loaded(name: str, device: str | None) -> DiffusionPipeline:
    """A video model by its name or folder. Raises KalpanaError for another model."""
    from kalpana.pipelines import load
    from kalpana.pipelines.diffusion import DiffusionPipeline

    pipeline = load(name, device)
    if not isinstance(pipeline, DiffusionPipeline) or "video" not in pipeline.capabilities.uses:
        raise KalpanaError(f"model {name!r} makes no videos: name a video model, such as video")
    return pipeline


@evaluating.command("drift")
def drift(
    model: Model = "video",
    count: Annotated[int, typer.Option("-n", min=1, help="prompts")] = 8,
    extensions: Annotated[int, typer.Option(min=1, help="extensions of each video")] = 5,
    steps: Steps = None,
    side: Side = 64,
    fps: Fps = 8,
    verifier: VerifierFolder = None,
    device: Device = None,
) -> None:
    """Drift of extended videos: continued in latent space against the decoded end encoded again."""
    from kalpana.evaluate.video.drift import ADDED, STAYING, measure
    from kalpana.evaluate.video.suite import load
    from kalpana.understand.encoder import load as load_clip

    if extensions * ADDED > 60 * fps:
        raise KalpanaError(
            f"{extensions} extensions of {ADDED} frames are more than a minute at {fps} frames a "
            f"second: write at most {60 * fps // ADDED}"
        )
    prompts = [prompt for prompt in load(dev=True) if prompt.task in STAYING][::2][:count]
    pipeline, fields = _loaded(model, device), _fields(fps, steps)
    with counting("drift") as progress:
        table = measure(
            pipeline,
            model,
            prompts,
            judge_of(verifier, dev=False),
            load_clip("clip", device),
            extensions,
            fields | {"size": f"{side}x{side}"},
            progress,
        )
    print(table, end="")


@evaluating.command("solids")
def solids(
    model: Model = "video",
    count: Annotated[int, typer.Option("-n", min=1, help="turning solids")] = 24,
    steps: Steps = None,
    side: Side = 64,
    fps: Fps = 8,
    device: Device = None,
) -> None:
    """3-D consistency of turning cubes and cards, from their first frame and words."""
    from kalpana.evaluate.video.solids import measure

    pipeline, fields = _loaded(model, device), _fields(fps, steps)
    with counting("solids") as progress:
        table = measure(pipeline, model, count, side, fields, progress)
    print(table, end="")


def _fields(fps: int, steps: int | None) -> dict[str, Any]:
    """Fields of the requests for videos."""
    return {"fps": fps} | ({} if steps is None else {"steps": steps})


@evaluating.command("recaption")
def recaption(
    recipe: Annotated[str, typer.Argument(help="a recipe of a video model, such as video")],
    init: Annotated[
        Path, typer.Option(help="weights of a half-trained video model, from which all arms start")
    ],
    train_steps: Annotated[
        int, typer.Option(min=1, help="optimizer steps of each arm: equal compute")
    ],
    captions: Annotated[
        Path | None,
        typer.Option(help="captions of a captioner, written by kalpana world recaption"),
    ] = None,
    arms: Annotated[
        str, typer.Option(help="sources of captions, with commas between")
    ] = "noisy,short,captioner,mixture,true",
    dev: Dev = False,
    limit: Limit = None,
    verifier: VerifierFolder = None,
    steps: Steps = None,
    side: Side = 64,
    fps: Fps = 8,
    device: Device = None,
    out: Annotated[Path, typer.Option(help="the run's folder; a run in it is resumed")] = Path(
        "runs/recaption"
    ),
) -> None:
    """The recaption ablation: sources of training captions by short and expanded prompts."""
    from kalpana.evaluate.run import first
    from kalpana.evaluate.video.drawn import Drawing
    from kalpana.evaluate.video.recaption import ablation, arms_of
    from kalpana.evaluate.video.suite import load
    from kalpana.train.recipe import read_recipe
    from kalpana.train.video_flow import VideoFlowRecipe

    config = read_recipe(recipe)
    if not isinstance(config, VideoFlowRecipe):
        raise KalpanaError(
            f"recipe {recipe} is of family {config.family}: name one of family video"
        )
    names = list(dict.fromkeys(arm.strip() for arm in arms.split(",")))
    recipes = arms_of(config, init, captions, names, train_steps)
    with counting("recaption") as progress:
        table = ablation(
            recipes,
            first(load(dev), limit),
            judge_of(verifier, dev),
            Drawing(f"{side}x{side}", fps, steps),
            out,
            lambda label: partial(progress, label=label),
            device,
            lambda line: print(line, file=sys.stderr),
        )
    print(table, end="")
