"""The ``evaluate`` commands of videos."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeAlias

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
    with counting(suite) as progress:
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
