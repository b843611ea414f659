"""The commands ``generate``, pictures from prompts, and ``expand``, prompts in more words."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from kalpana.cli.console import asked_to_stop, lines_of, print_json, watch
from kalpana.cli.names import PATTERN, check, name_of
from kalpana.cli.options import Device, Dtype, Json, Offload, Out, Tiling, field
from kalpana.request import Request
from kalpana.types import KalpanaError, Output

if TYPE_CHECKING:
    from kalpana.pipelines.pipeline import Pipeline
    from kalpana.understand.encoder import Encoder


def generate(
    context: typer.Context,
    prompts: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="PROMPT...",
            help="what to draw, each prompt in quotes; - reads lines from stdin",
        ),
    ] = None,
    n: Annotated[str | None, field("n", flags=("-n", "--n"))] = None,
    seed: Annotated[str | None, field("seed")] = None,
    seeds: Annotated[str | None, field("seeds")] = None,
    best_of: Annotated[str | None, field("best_of")] = None,
    rank_by: Annotated[
        str | None,
        typer.Option(
            help="the CLIP that ranks the candidates, a name or a folder as for kalpana search; "
            "clip by default"
        ),
    ] = None,
    steps: Annotated[str | None, field("steps", flags=("--steps", "--num-inference-steps"))] = None,
    guidance: Annotated[
        str | None, field("guidance", flags=("--guidance", "--guidance-scale", "--cfg-scale"))
    ] = None,
    guidance_rescale: Annotated[str | None, field("guidance_rescale")] = None,
    guide_model: Annotated[str | None, field("guide_model")] = None,
    sampler: Annotated[str | None, field("sampler")] = None,
    eta: Annotated[str | None, field("eta")] = None,
    spacing: Annotated[str | None, field("spacing")] = None,
    temperature: Annotated[str | None, field("temperature")] = None,
    top_k: Annotated[str | None, field("top_k")] = None,
    top_p: Annotated[str | None, field("top_p")] = None,
    size: Annotated[str | None, field("size")] = None,
    width: Annotated[
        str | None, typer.Option(metavar="PIXELS", help="with --height, instead of --size")
    ] = None,
    height: Annotated[
        str | None, typer.Option(metavar="PIXELS", help="with --width, instead of --size")
    ] = None,
    image: Annotated[str | None, field("image")] = None,
    mask: Annotated[str | None, field("mask")] = None,
    mask_mode: Annotated[str | None, field("mask_mode")] = None,
    outpaint: Annotated[str | None, field("outpaint")] = None,
    source_prompt: Annotated[
        str | None, field("source_prompt", flags=("--from", "--source-prompt"))
    ] = None,
    style_image: Annotated[str | None, field("style_image")] = None,
    style_strength: Annotated[str | None, field("style_strength")] = None,
    strength: Annotated[str | None, field("strength")] = None,
    last_image: Annotated[str | None, field("last_image")] = None,
    video: Annotated[str | None, field("video")] = None,
    extend: Annotated[str | None, field("extend")] = None,
    camera: Annotated[str | None, field("camera")] = None,
    label: Annotated[str | None, field("label")] = None,
    control: Annotated[list[str] | None, field("control")] = None,
    adapter: Annotated[list[str] | None, field("adapter")] = None,
    seconds: Annotated[str | None, field("seconds")] = None,
    fps: Annotated[str | None, field("fps")] = None,
    negative_prompt: Annotated[
        str | None, field("negative_prompt", flags=("--negative", "--negative-prompt"))
    ] = None,
    model: Annotated[str | None, field("model")] = None,
    language: Annotated[str | None, field("language")] = None,
    format: Annotated[str | None, field("format")] = None,
    upscale: Annotated[str | None, field("upscale")] = None,
    plan: Annotated[str | None, field("plan")] = None,
    no_plan: Annotated[bool, typer.Option("--no-plan", help="the same as --plan none")] = False,
    expand: Annotated[
        bool, typer.Option("--expand", help=Request.model_fields["expand"].description)
    ] = False,
    strict: Annotated[
        bool,
        typer.Option(
            "--strict/--lenient",
            help="settings that the model cannot use are an error, or warnings",
        ),
    ] = True,
    file: Annotated[
        str | None, typer.Option(help="a text file of prompts, one a line; - is stdin")
    ] = None,
    workers: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="with --file: that many processes of Ray, on this machine or its cluster; the "
            "same command goes on where it stopped; seeds count up from prompt to prompt",
        ),
    ] = None,
    grid: Annotated[
        bool, typer.Option("--grid", help="also write all the pictures on one sheet")
    ] = False,
    name: Annotated[
        str,
        typer.Option(
            metavar="PATTERN",
            help="names of the files, of {prompt}, {model}, {seed} and {n}, the number of the "
            "picture, as {n:03}",
        ),
    ] = PATTERN,
    metadata: Annotated[
        bool,
        typer.Option(
            "--metadata/--no-metadata",
            help="with the receipt in the files, or without any metadata; --json prints it too",
        ),
    ] = True,
    device: Device = None,
    dtype: Dtype = None,
    offload: Offload = None,
    tiling: Tiling = False,
    out: Out = Path("pictures"),
    as_json: Json = False,
) -> None:
    """Generate pictures from prompts, and print the path of each as soon as it is finished."""
    from kalpana.media import ready_folder, require_av
    from kalpana.pipelines import load

    fields = {
        name: value
        for name, value in context.params.items()
        if name in (*Request.model_fields, "width", "height") and value not in (None, False, [], ())
    }
    fields.pop("strict", None)  # on by default
    fields |= {} if strict else {"strict": False}
    if no_plan:
        if plan is not None:
            raise KalpanaError("--plan and --no-plan contradict each other: leave one out")
        fields["plan"] = "none"
    if workers is not None:
        _in_bulk(context, prompts, fields, workers, out)
        return
    texts = _prompts(prompts or [], file, needed=image is label is video is None)
    requests = [Request(prompt=prompt, **fields).seeded() for prompt in texts]
    with _reported(requests, out, as_json) as saved:
        pipeline = load(requests[0].model, device, dtype=dtype, offload=offload, tiling=tiling)
        ranker = load_ranker(rank_by, device) if requests[0].best_of > 1 else None
        if rank_by is not None and not ranker:
            raise KalpanaError(
                "--rank-by ranks nothing alone: write also of how many to keep the best, such as "
                "--best-of 8"
            )
        check(name, pipeline.name, requests)
        resolved = [pipeline.capabilities.resolve(request)[0] for request in requests]
        if any(each.format == "mp4" for each in resolved):
            require_av("writing MP4")
        if grid and "seconds" in pipeline.capabilities.uses:
            raise KalpanaError(
                "--grid is a sheet of pictures, and this model makes videos: leave it out"
            )
        # Estimated from above: uncompressed pixels and 64 KiB of metadata for each file.
        total_bytes = sum(
            len(r.each_seed()) * (3 * (r.width or 0) * (r.height or 0) * r.upscale**2 + 65536)
            for r in resolved
        )
        ready_folder(out, total_bytes)
        for written in _written(pipeline, requests, ranker, out, name, metadata):
            saved.append(written)
            if not as_json:
                print(written.path, flush=True)
        if grid:
            print(_sheet(saved, out, metadata), file=sys.stderr if as_json else sys.stdout)


@contextmanager
def _reported(requests: Sequence[Request], out: Path, as_json: bool) -> Iterator[list[Output]]:
    """Context that gets the finished outputs into the yielded list. Ctrl-C ends the command with
    their number; with ``as_json`` they are printed, also those before Ctrl-C or an error."""
    saved, stopped = list[Output](), False
    try:
        yield saved
    except KeyboardInterrupt:
        stopped = True
        wanted = sum(len(request.each_seed()) for request in requests)
        print(
            f"stopped: {len(saved)} of {wanted} pictures were finished, and are in {out}",
            file=sys.stderr,
        )
        raise typer.Exit(130) from None
    finally:
        if as_json and (saved or stopped):
            print_json(
                [
                    {"path": str(each.path), "seed": each.seed, "receipt": each.receipt}
                    for each in saved
                ]
            )


def _written(
    pipeline: Pipeline,
    requests: Sequence[Request],
    ranker: Encoder | None,
    out: Path,
    pattern: str,
    metadata: bool,
) -> Iterator[Output]:
    """The outputs of the requests, each as soon as it is in its file."""
    from kalpana.pipelines.pipeline import TOGETHER

    count = 0
    with asked_to_stop() as stop:
        for number, request in enumerate(requests, start=1):
            label = f"{number}/{len(requests)}" if len(requests) > 1 else ""
            for part in request.parts(TOGETHER):
                kept = _kept_latents(pipeline, out, part)
                stream = pipeline.generate(part, rank_by=ranker, **kept)
                outputs = watch(stream, label, stop).outputs
                for k, output in enumerate(outputs, start=1):
                    count += 1
                    stem = name_of(pattern, pipeline.name, request, output.seed, count)
                    if len({each.seed for each in outputs}) < len(outputs) and pattern == PATTERN:
                        stem += f"-{k}of{len(outputs)}"  # the way between two pictures
                    yield _saved(output, out / stem, metadata)
                for folder in kept.values():
                    shutil.rmtree(folder, ignore_errors=True)


def _sheet(saved: Sequence[Output], out: Path, metadata: bool) -> Path:
    """The file of a sheet of all pictures, with their receipts."""
    from kalpana.media import grid, save

    assert saved[0].path is not None
    receipts = {"sheet": [each.receipt for each in saved]}
    path = out / f"{saved[0].path.stem}-grid.png"
    return save(grid([each.image for each in saved]), path, receipts, metadata=metadata)


def _kept_latents(pipeline: Pipeline, out: Path, request: Request) -> dict[str, Path]:
    """The option by which a video model keeps its denoised latents below ``out`` until the files
    are written; says so where they are those of a run that was killed."""
    from kalpana.pipelines.denoised import folder_of
    from kalpana.pipelines.diffusion import DiffusionPipeline

    if not isinstance(pipeline, DiffusionPipeline) or "seconds" not in pipeline.capabilities.uses:
        return {}
    folder = folder_of(out, request)
    if folder.is_dir():
        print("going on from the denoised latents of a run that was stopped", file=sys.stderr)
    return {"latents": folder}


def expand(
    prompts: Annotated[list[str], typer.Argument(metavar="PROMPT...", help="each in quotes")],
    n: Annotated[int, typer.Option("-n", min=1, help="expansions of each prompt")] = 1,
    seed: Annotated[int, typer.Option(min=0, help="seed of the first, the others count up")] = 0,
    video: Annotated[bool, typer.Option("--video", help="for a video: camera and speed")] = False,
) -> None:
    """Print prompts with what they leave open stated, as --expand of generate does."""
    from kalpana.text.tokenizer import language
    from kalpana.world.expansion import expand as expanded

    kind = "video" if video else "picture"
    for prompt in prompts:
        name = language(prompt)
        for k in range(seed, seed + n):
            print(prompt if name == "mixed" else expanded(prompt, k, name, kind))


ONE_BY_ONE = ("best_of", "grid", "metadata", "as_json", "dtype", "offload", "tiling", "name")


def _in_bulk(
    context: typer.Context, given: list[str] | None, fields: dict[str, Any], workers: int, out: Path
) -> None:
    """Generate the prompts of a file by processes of Ray, and print the path of each picture."""
    from kalpana.pipelines.bulk import generate_all

    file = context.params["file"]
    if file is None or given:
        raise KalpanaError("--workers is for the prompts of a file alone: name it by --file")
    for name in ONE_BY_ONE:
        source = context.get_parameter_source(name)
        if source is not None and source.name == "COMMANDLINE":
            raise KalpanaError(f"--{name.replace('_', '-')} does not fit --workers: leave it out")
    failed = 0
    texts = _prompts([], file, needed=True)
    for line in generate_all(texts, fields, out, workers, context.params["device"]):
        failed += line.error is not None
        if line.error is not None:
            print(f"error: prompt {line.number}: {line.error}", file=sys.stderr)
        for path in line.paths:
            print(path, flush=True)
    if failed:
        raise KalpanaError(f"{failed} of {len(texts)} prompts failed: the others are in {out}")


def _saved(output: Output, path: Path, metadata: bool) -> Output:
    """An output, written to ``path`` with the suffix of its format."""
    from kalpana.media import SUFFIX

    format = output.receipt["resolved"]["format"]
    return output.save(f"{path}{SUFFIX.get(format, f'.{format}')}", metadata=metadata)


def load_ranker(name: str | None, device: str | None) -> Encoder:
    """The CLIP that ranks the candidates of --best-of."""
    from kalpana.understand.encoder import FAMILY, load

    try:
        return load(FAMILY if name is None else name, device)
    except KalpanaError as error:
        raise KalpanaError(f"--best-of needs a CLIP, as by --rank-by FOLDER: {error}") from None


def _prompts(given: list[str], file: str | None, needed: bool) -> list[str]:
    """All prompts of a command line, in order; "-" reads lines of stdin, ``file`` lines of a file,
    in which those that begin with "#" are comments.

    Raises: KalpanaError where there is none and one is ``needed``; else that is one empty prompt.
    """
    prompts: list[str] = []
    for prompt in given:
        prompts += lines_of("-") if prompt == "-" else [prompt]
    if file is not None:
        prompts += [line for line in lines_of(file) if not line.lstrip().startswith("#")]
    if not prompts and not needed:
        return [""]
    if not prompts:
        raise KalpanaError(
            "there is no prompt: write what to draw, in quotes, or name a file of prompts "
            "with --file"
        )
    if len(given) > 2 and all(len(prompt.split()) == 1 for prompt in given):
        print(
            f"warning: these are {len(given)} prompts of one word each; put quotes around words "
            "that belong together",
            file=sys.stderr,
        )
    return prompts
