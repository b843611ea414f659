"""The commands ``generate`` (pictures from prompts) and ``replay`` (from a receipt)."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from kalpana.cli.console import asked_to_stop, lines_of, print_json, watch
from kalpana.cli.options import Device, Json, Out, field
from kalpana.request import Request
from kalpana.types import KalpanaError, Output

if TYPE_CHECKING:
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
    steps: Annotated[str | None, field("steps")] = None,
    guidance: Annotated[str | None, field("guidance")] = None,
    sampler: Annotated[str | None, field("sampler")] = None,
    temperature: Annotated[str | None, field("temperature")] = None,
    top_k: Annotated[str | None, field("top_k")] = None,
    top_p: Annotated[str | None, field("top_p")] = None,
    size: Annotated[str | None, field("size")] = None,
    negative_prompt: Annotated[
        str | None, field("negative_prompt", flags=("--negative", "--negative-prompt"))
    ] = None,
    model: Annotated[str | None, field("model")] = None,
    language: Annotated[str | None, field("language")] = None,
    format: Annotated[str | None, field("format")] = None,
    upscale: Annotated[str | None, field("upscale")] = None,
    lenient: Annotated[
        bool,
        typer.Option("--lenient", help="warn about settings that the model cannot use; no error"),
    ] = False,
    file: Annotated[
        str | None, typer.Option(help="a text file of prompts, one a line; - is stdin")
    ] = None,
    grid: Annotated[
        bool, typer.Option("--grid", help="also write all the pictures on one sheet")
    ] = False,
    device: Device = None,
    out: Out = Path("pictures"),
    as_json: Json = False,
) -> None:
    """Generate pictures from prompts, and print the path of each as soon as it is finished."""
    from kalpana.media import SUFFIX, ready_folder, save, slug
    from kalpana.media import grid as contact_sheet
    from kalpana.pipelines import load
    from kalpana.pipelines.pipeline import TOGETHER

    fields = {
        name: value
        for name, value in context.params.items()
        if name in Request.model_fields and value is not None
    }
    if lenient:
        fields["strict"] = False
    texts = _prompts(prompts or [], file)
    requests = [Request(prompt=prompt, **fields).seeded() for prompt in texts]
    pipeline = load(requests[0].model, device)
    ranker = _ranker(rank_by, device) if requests[0].best_of > 1 else None
    if rank_by is not None and not ranker:
        raise KalpanaError(
            "--rank-by ranks nothing alone: write also of how many to keep the best, such as "
            "--best-of 8"
        )
    resolved = [pipeline.capabilities.resolve(request)[0] for request in requests]
    # Estimated from above: uncompressed pixels and 64 KiB of metadata for each file.
    total_bytes = sum(
        len(r.each_seed()) * (3 * (r.width or 0) * (r.height or 0) * r.upscale**2 + 65536)
        for r in resolved
    )
    ready_folder(out, total_bytes)

    saved: list[tuple[Path, Output]] = []
    try:
        with asked_to_stop() as stop:
            for number, request in enumerate(requests, start=1):
                label = f"{number}/{len(requests)}" if len(requests) > 1 else ""
                for part in request.parts(TOGETHER):
                    result = watch(pipeline.generate(part, rank_by=ranker), label, stop)
                    for picture in result.outputs:
                        name = f"{slug(request.prompt)}-{picture.seed}{SUFFIX[request.format]}"
                        path = save(picture.image, out / name, picture.receipt)
                        saved.append((path, picture))
                        if not as_json:
                            print(path, flush=True)
            if grid:
                path = out / f"{slug(requests[0].prompt)}-{saved[0][1].seed}-grid.png"
                image = contact_sheet([picture.image for _, picture in saved])
                sheet = save(image, path, {"sheet": [picture.receipt for _, picture in saved]})
                print(sheet, file=sys.stderr if as_json else sys.stdout)
    except KeyboardInterrupt:
        wanted = sum(len(request.each_seed()) for request in requests)
        print(
            f"stopped: {len(saved)} of {wanted} pictures were finished, and are in {out}",
            file=sys.stderr,
        )
        raise typer.Exit(130) from None
    finally:
        if as_json:
            listed = [
                {"path": str(path), "seed": picture.seed, "receipt": picture.receipt}
                for path, picture in saved
            ]
            print_json(listed)


def replay(
    file: Annotated[Path, typer.Argument(help="a picture made by Kalpana")],
    model: Annotated[
        str | None, typer.Option(help="a folder of weights, if it is not where the receipt says")
    ] = None,
    device: Device = None,
    out: Annotated[Path | None, typer.Option(help="folder to save the new picture in")] = None,
) -> None:
    """Generate a picture again from its receipt and compare both; exit code 1 if pixels differ."""
    from kalpana.media import SUFFIX, read_receipt, ready_folder, save
    from kalpana.pipelines import load
    from kalpana.pipelines.replay import again, compare, request_of

    receipt = read_receipt(file)
    request = request_of(receipt)
    pipeline = load(model or request.model, device)
    if out:
        ready_folder(out, file.stat().st_size)
    (picture,) = watch(again(pipeline, receipt)).outputs
    difference = compare(file, picture)
    print(difference)
    if out:
        print(save(picture.image, out / (file.stem + SUFFIX[request.format]), picture.receipt))
    raise typer.Exit(0 if difference.pixels else 1)


def _ranker(name: str | None, device: str | None) -> Encoder:
    """The CLIP that ranks the candidates of --best-of."""
    from kalpana.understand.encoder import FAMILY, load

    try:
        return load(FAMILY if name is None else name, device)
    except KalpanaError as error:
        raise KalpanaError(f"--best-of needs a CLIP, as by --rank-by FOLDER: {error}") from None


def _prompts(given: list[str], file: str | None) -> list[str]:
    """All prompts of a command line, in order; "-" reads lines of stdin, ``file`` lines of a file.

    Raises: KalpanaError where there is none.
    """
    prompts: list[str] = []
    for prompt in given:
        prompts += lines_of("-") if prompt == "-" else [prompt]
    if file is not None:
        prompts += lines_of(file)
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
