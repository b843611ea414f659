"""The ``evaluate`` commands that measure one model: captions, CLIP, codecs, fidelity and cost."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import Annotated, TypeAlias

import typer

from kalpana.cli.console import counting, print_json
from kalpana.cli.evaluate import Dev, Limit, SuiteName, VerifierFolder, evaluating, verifier_folder
from kalpana.cli.options import Device, Json
from kalpana.types import KalpanaError, Output

Model: TypeAlias = Annotated[
    str, typer.Argument(help="a name from `kalpana models`, or a folder of weights")
]


@evaluating.command("captions")
def captions(
    model: Model = "dalle",
    suite: SuiteName = "spriteeval",
    dev: Dev = False,
    limit: Limit = None,
    device: Device = None,
) -> None:
    """Caption accuracy, fact by fact: of a DALL-E on the true pictures of a suite's prompts, of a
    video captioner on videos of the world (200, or as many as --limit says)."""
    from kalpana.evaluate.caption_accuracy import measure
    from kalpana.evaluate.run import first
    from kalpana.evaluate.suites import load as load_suite
    from kalpana.pipelines import load, video_captions

    if video_captions.named(model):
        _video_captions(model, dev, limit or 200, device)
        return
    pipeline = load(model, device)
    if not hasattr(pipeline, "caption"):
        raise KalpanaError(f"model {model!r} cannot caption pictures: name a DALL-E")
    prompts = first(load_suite(suite, dev), limit)
    with counting("captions") as progress:
        table = measure(pipeline.caption, prompts, progress)
    print(table, end="")


def _video_captions(model: str, dev: bool, count: int, device: str | None) -> None:
    """Prints the caption accuracy of a video captioner on the first videos of the test or dev
    split."""
    from kalpana.evaluate.video.captions import measure
    from kalpana.pipelines import video_captions
    from kalpana.world.video import Videos

    pipeline = video_captions.load(model, device)
    world = Videos(0, "dev" if dev else "test", pipeline.size[0])
    with counting("captions") as progress:
        table = measure(pipeline.caption_pixels, count, world, pipeline.frames, progress)
    print(table, end="")


@evaluating.command("retrieval")
def retrieval(
    model: Model = "clip",
    scenes: Annotated[int, typer.Option(min=1, help="how many scenes")] = 1000,
    kind: Annotated[str, typer.Option(help="a kind of the world's pictures")] = "everything",
    style: Annotated[
        str | None,
        typer.Option(
            help="a drawing style that the model was not trained on, for zero-shot accuracy in it"
        ),
    ] = None,
    device: Device = None,
) -> None:
    """CLIP evaluation: retrieval R@k, agreement of the languages, hard negatives, zero-shot."""
    from kalpana.evaluate.retrieval import measure
    from kalpana.understand.encoder import load

    print(measure(load(model, device), scenes, kind, style).markdown(), end="")


@evaluating.command("reconstruction")
def reconstruction(
    weights: Annotated[
        list[Path], typer.Argument(metavar="WEIGHTS...", help="weights of VQGANs and autoencoders")
    ],
    pictures: Annotated[int, typer.Option(min=1, help="how many pictures")] = 2000,
    signs: Annotated[int, typer.Option(min=1, help="how many signs of each script")] = 200,
    sheet: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="write a sheet of pictures and their reconstructions"),
    ] = None,
) -> None:
    """Reconstruction quality of VQGANs and VAEs: PSNR, SSIM, FD-lite0, codes in use, legibility."""
    from kalpana.evaluate.metrics import reconstruction as metric
    from kalpana.evaluate.metrics.fidelity import FeatureExtractor
    from kalpana.evaluate.verifiers.verifier import DetectorVerifier

    folder = verifier_folder(None, dev=False)
    codecs = [metric.load(path) for path in weights]
    extractor, verifier = FeatureExtractor(folder), DetectorVerifier.load(folder)
    print(metric.HEAD, flush=True)
    for codec in codecs:
        row = metric.measure(codec, extractor, verifier, pictures, signs)
        print(metric.line(row), flush=True)
    if sheet:
        metric.sheet(codecs).save(sheet, quality=90)


@evaluating.command("fidelity")
def fidelity(
    model: Model = "default",
    pictures: Annotated[int, typer.Option(min=2, help="how many pictures")] = 5000,
    dev: Annotated[
        bool, typer.Option("--dev", help="dev scenes and verifier-a, by which choices are made")
    ] = False,
    out: Annotated[
        Path | None,
        typer.Option(help="the run's folder, runs/fidelity-MODEL by default; a run is resumed"),
    ] = None,
) -> None:
    """Fidelity: Fréchet distance and MMD between a model's pictures and true ones."""
    from kalpana.evaluate.metrics import fidelity as metric

    folder = out or Path("runs") / f"fidelity-{Path(model).name}"
    with counting("pictures") as progress:
        rows = list(
            metric.measure(model, verifier_folder(None, dev), pictures, dev, folder, progress)
        )
    metric.save(rows, folder)
    print(metric.markdown(rows), end="")


@evaluating.command("cost")
def cost(
    model: Model = "default",
    prompt: Annotated[str, typer.Option(help="the prompt of the picture")] = "a red apple",
    as_json: Json = False,
) -> None:
    """Cost of a model: peak memory for one picture, parameters, training compute."""
    from kalpana.evaluate.cost import Cost, cells

    measured = Cost.of(model, prompt)
    if as_json:
        print_json(asdict(measured))
    else:
        for name, cell in zip(("memory", "parameters", "training"), cells(measured), strict=True):
            print(f"{name}: {cell}")


@evaluating.command("rejection-sampling")
def rejection_sampling(
    out: Annotated[
        Path, typer.Option(help="folder for the pictures; a run that is found there is resumed")
    ],
    model: Annotated[str, typer.Option(help="a name from `kalpana models`, or a folder")] = (
        "default"
    ),
    verifier: VerifierFolder = None,
    captions: Annotated[int, typer.Option(min=1, help="how many training captions")] = 1000,
    steps: Annotated[int, typer.Option(min=1, help="denoising steps of each picture")] = 12,
    device: Device = None,
) -> None:
    """Keep a model's own pictures that verifier A accepts, as further training data."""
    from kalpana.evaluate.rejection_sampling import captions as training_captions
    from kalpana.evaluate.rejection_sampling import harvest
    from kalpana.evaluate.verifiers.verifier import DetectorVerifier
    from kalpana.pipelines import last, load

    pipeline = load(model, device)

    def draw(text: str, seeds: Sequence[int]) -> Sequence[Output]:
        return last(pipeline.generate(text, model=model, seeds=tuple(seeds), steps=steps)).outputs

    # Verifier A, as for all choices: verifier B reports scores and is kept out of training.
    detector = DetectorVerifier.load(verifier_folder(verifier, dev=True))
    with counting("captions") as progress:
        kept = harvest(draw, list(islice(training_captions(), captions)), detector, out, progress)
    print(f"{kept} pictures of {captions} captions are in {out}", file=sys.stderr)
    print(out)


@evaluating.command("control")
def control(
    model: Model = "default",
    count: Annotated[int, typer.Option("-n", min=1, help="scenes for each kind of map")] = 24,
    maps: Annotated[
        list[str] | None,
        typer.Option("--map", help="only this kind of map; may be repeated"),
    ] = None,
    verifier: VerifierFolder = None,
    device: Device = None,
) -> None:
    """Obedience to control maps: edges, outlines, depth, boxes, poses and glyphs of dev scenes."""
    from kalpana.evaluate.control import markdown, measure
    from kalpana.evaluate.verifiers.verifier import DetectorVerifier
    from kalpana.pipelines import load

    pipeline = load(model, device)
    if not pipeline.capabilities.controls:
        raise KalpanaError(f"model {model!r} reads no control maps: name one that does")
    judge = DetectorVerifier.load(verifier_folder(verifier, dev=True))
    with counting("scenes") as progress:
        rows = measure(pipeline, judge, count, progress, maps or ())
    print(markdown(rows), end="")


EDITING = {"edits": "source_prompt", "seams": "mask", "styles": "style_image"}  # field of a part


@evaluating.command("editing")
def editing(
    model: Model = "default",
    count: Annotated[
        int, typer.Option("-n", min=1, max=100, help="how many of each change, mask and style")
    ] = 24,
    parts: Annotated[
        list[str] | None,
        typer.Option("--part", help="edits, seams or styles; may be repeated; by default all"),
    ] = None,
    sheet: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="write a sheet of six scenes whose masks are filled in"),
    ] = None,
    verifier: VerifierFolder = None,
    device: Device = None,
) -> None:
    """Edits by two prompts, seams of inpainting and style references, on dev scenes."""
    from kalpana.evaluate.editing import edits, seams, styles
    from kalpana.evaluate.verifiers.verifier import DetectorVerifier
    from kalpana.pipelines import load

    pipeline, chosen = load(model, device), list(dict.fromkeys(parts or EDITING))
    for part in chosen:
        if part not in EDITING:
            raise KalpanaError(f"--part {part!r} should be one of {', '.join(EDITING)}")
        if EDITING[part] not in pipeline.capabilities.uses:
            able = [each for each in EDITING if EDITING[each] in pipeline.capabilities.uses]
            raise KalpanaError(
                f"model {model!r} has no {EDITING[part]}: "
                + (
                    f"write {' '.join(f'--part {each}' for each in able)}"
                    if able
                    else "take another"
                )
            )
    if sheet and "seams" not in chosen:
        raise KalpanaError("--sheet shows seams: add --part seams, or leave it out")
    judge = DetectorVerifier.load(verifier_folder(verifier, dev=True))
    for part in chosen:
        with counting(part) as progress:
            if part == "edits":
                text = edits.markdown(edits.measure(pipeline, judge, count, progress))
            elif part == "seams":
                text = seams.markdown(seams.measure(pipeline, judge, count, progress))
                if sheet:
                    seams.sheet(pipeline, min(count, 6)).save(sheet, quality=90)
            else:
                probe = styles.fit(styles.lite0())
                text = styles.markdown(
                    styles.measure(pipeline, judge, probe, count, progress), probe
                )
        print(text, flush=True)


@evaluating.command("unclip")
def unclip(
    model: Model = "unclip",
    count: Annotated[
        int, typer.Option("-n", min=1, help="dev prompts of each of the six tasks of SpriteEval")
    ] = 4,
    steps: Annotated[
        int | None, typer.Option(min=1, help="denoising steps of each picture")
    ] = None,
    verifier: VerifierFolder = None,
    device: Device = None,
) -> None:
    """Accuracy of unCLIP by the source of its vectors: prior, text, or the true picture."""
    from kalpana.evaluate.run import first
    from kalpana.evaluate.suites import spriteeval
    from kalpana.evaluate.unclip import markdown, measure
    from kalpana.evaluate.verifiers.verifier import DetectorVerifier
    from kalpana.pipelines import load
    from kalpana.pipelines.unclip import UnclipPipeline

    pipeline = load(model, device)
    if not isinstance(pipeline, UnclipPipeline):
        raise KalpanaError(f"model {model!r} is no unCLIP: name one")
    judge = DetectorVerifier.load(verifier_folder(verifier, dev=True))
    with counting("pictures") as progress:
        rows = measure(pipeline, judge, first(spriteeval(dev=True), count), progress, steps)
    print(markdown(rows))
