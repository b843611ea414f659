"""The command ``replay``: pictures generated again from their receipts."""

from __future__ import annotations

import sys
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from kalpana.cli.console import watch
from kalpana.cli.options import Device
from kalpana.types import KalpanaError, Output

if TYPE_CHECKING:
    from kalpana.pipelines.replay import ReplayDiff


def replay(
    files: Annotated[
        list[Path], typer.Argument(metavar="FILE...", help="pictures made by Kalpana")
    ],
    inputs: Annotated[
        list[Path] | None,
        typer.Option(
            "--input",
            metavar="FILE",
            help="an input picture that is not where the receipt says; can be given several times",
        ),
    ] = None,
    model: Annotated[
        str | None, typer.Option(help="a folder of weights, if it is not where the receipt says")
    ] = None,
    device: Device = None,
    out: Annotated[Path | None, typer.Option(help="folder to save the new pictures in")] = None,
) -> None:
    """Generate pictures again from their receipts and compare; exit code 1 if pixels differ.

    Of several files, those that cannot be replayed are listed, and make the exit code 1.
    """
    from kalpana.media import ready_folder

    if out:
        ready_folder(out, sum(file.stat().st_size for file in files if file.is_file()))
    given = _sorted(files, inputs or [])
    same = True
    for file in files:
        label = f"{file}: " if len(files) > 1 else ""
        try:
            picture, difference = _again(file, given[file], model, device)
        except KalpanaError as error:
            if len(files) == 1:
                raise
            print(f"not replayed: {file}: {error}", file=sys.stderr)
            same = False
            continue
        print(f"{label}{difference}", flush=True)
        same &= difference.pixels
        if out:
            print(picture.save(out / file.name).path, flush=True)
    raise typer.Exit(0 if same else 1)


def _sorted(files: list[Path], inputs: list[Path]) -> dict[Path, list[Path]]:
    """The inputs of each file. Raises KalpanaError where one cannot be read, or is of no file."""
    from kalpana.inputs import Media
    from kalpana.media import read_receipt
    from kalpana.pipelines.replay import check_inputs, request_of

    if len(files) == 1 or not inputs:
        return dict.fromkeys(files, inputs)
    requests = {}
    for file in files:
        with suppress(KalpanaError):  # said when it is replayed
            requests[file] = request_of(read_receipt(file))
    check_inputs(inputs, list(requests.values()))
    known = {path: Media.model_validate(path).sha256 for path in inputs}
    hashes = {file: {each.sha256 for each in r.media()} for file, r in requests.items()}
    return {
        file: [path for path in inputs if known[path] in hashes.get(file, ())] for file in files
    }


def _again(
    file: Path, inputs: list[Path], model: str | None, device: str | None
) -> tuple[Output, ReplayDiff]:
    """The picture of the receipt in a file, generated again, and its comparison with the file."""
    from kalpana.media import read_receipt
    from kalpana.pipelines import load
    from kalpana.pipelines.replay import again, compare, load_options, request_of

    receipt = read_receipt(file)
    name = model or request_of(receipt, inputs).model
    pipeline = load(name, device, **load_options(receipt))
    (picture,) = watch(again(pipeline, receipt, inputs)).outputs
    return picture, compare(file, picture)
