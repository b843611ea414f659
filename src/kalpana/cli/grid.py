"""The command ``grid``: pictures of all combinations of values of request fields, on sheets."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from kalpana.cli.console import asked_to_stop, watch
from kalpana.cli.generate import load_ranker
from kalpana.cli.options import Device, Out, field
from kalpana.types import KalpanaError, Output

AXIS = "FIELD=VALUE,VALUE"


def grid(
    context: typer.Context,
    prompt: Annotated[str, typer.Argument(help="what to draw, in quotes")] = "",
    x: Annotated[
        str,
        typer.Option(
            "--x",
            metavar=AXIS,
            help="a field of a request and its values, one column each, such as guidance=1,3,5 "
            "or seed=1..4; values with commas are separated by |, such as 'prompt=a cat|a dog'",
        ),
    ] = "",
    y: Annotated[str | None, typer.Option("--y", metavar=AXIS, help="the same, rows")] = None,
    z: Annotated[str | None, typer.Option("--z", metavar=AXIS, help="the same, sheets")] = None,
    more: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="FIELD=VALUE",
            help="any other field of all pictures, such as image=a.png; can be given several times",
        ),
    ] = None,
    seed: Annotated[str | None, field("seed")] = None,
    steps: Annotated[str | None, field("steps")] = None,
    guidance: Annotated[str | None, field("guidance")] = None,
    size: Annotated[str | None, field("size")] = None,
    model: Annotated[str | None, field("model")] = None,
    device: Device = None,
    out: Out = Path("pictures"),
) -> None:
    """Generate a grid of pictures, a sheet for each value of --z, and print their paths.

    The pictures of the cells are saved with their receipts, and are not generated again.
    """
    from kalpana.media import ready_folder
    from kalpana.pipelines import grid as grids
    from kalpana.pipelines import load

    if not x:
        raise KalpanaError("there is no axis: write such as --x guidance=1,3,5")
    named = ("seed", "steps", "guidance", "size", "model")
    fields: dict[str, Any] = {k: v for k in named if (v := context.params[k]) is not None}
    for each in more or []:
        name, equals, value = each.partition("=")
        name = name.strip().replace("-", "_")
        if not equals or not name:
            raise KalpanaError(f"--set {each!r}: should be FIELD=VALUE, such as steps=10")
        if name in fields:
            raise KalpanaError(f"--set {each!r}: {name} is given twice: leave one out")
        fields[name] = value
    planned = grids.plan(prompt, x, y, z, **fields)
    ranked = any(request.best_of > 1 for request in planned.requests.values())
    ranker = load_ranker(None, device) if ranked else None
    grids.check(planned, device, ranker)
    total = len(planned.requests)
    ready_folder(out, 65536 * total)

    done: dict[tuple[int, int, int], Output] = {}
    try:
        with asked_to_stop() as stop:
            for place, cell in grids.cells(planned, out, device, ranker):
                if not isinstance(cell, Output):
                    request = planned.requests[place]
                    path = grids.path_of(load(request.model, device), request, out)
                    result = watch(cell, f"{len(done) + 1}/{total}", stop)
                    cell = result.outputs[0].save(path)
                done[place] = cell
                print(cell.path, flush=True)
        for k, sheet in enumerate(grids.sheets(planned, done)):
            print(grids.save_sheet(planned, done, k, sheet, out), flush=True)
    except KeyboardInterrupt:
        print(
            f"stopped: {len(done)} of {total} cells are finished, and are in {out}; "
            "the same command goes on",
            file=sys.stderr,
        )
        raise typer.Exit(130) from None
