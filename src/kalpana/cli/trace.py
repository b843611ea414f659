"""The command ``trace``: an HTML page that shows how a picture came about."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from kalpana.cli.options import Device, field
from kalpana.request import Request


def trace(
    context: typer.Context,
    prompt: Annotated[str, typer.Argument(help="what to draw, in quotes")] = "",
    out: Annotated[Path, typer.Option(help="the HTML file, replaced if it exists")] = Path(
        "trace.html"
    ),
    seed: Annotated[str | None, field("seed")] = None,
    steps: Annotated[str | None, field("steps")] = None,
    guidance: Annotated[str | None, field("guidance")] = None,
    guidance_rescale: Annotated[str | None, field("guidance_rescale")] = None,
    sampler: Annotated[str | None, field("sampler")] = None,
    eta: Annotated[str | None, field("eta")] = None,
    spacing: Annotated[str | None, field("spacing")] = None,
    temperature: Annotated[str | None, field("temperature")] = None,
    size: Annotated[str | None, field("size")] = None,
    negative_prompt: Annotated[
        str | None, field("negative_prompt", flags=("--negative", "--negative-prompt"))
    ] = None,
    label: Annotated[str | None, field("label")] = None,
    model: Annotated[str | None, field("model")] = None,
    device: Device = None,
) -> None:
    """Write a page that shows the schedule, the noise, and every step of one picture."""
    from kalpana.media.files import ready_folder, write
    from kalpana.pipelines import load
    from kalpana.pipelines.trace import trace as page

    given = {k: v for k, v in context.params.items() if k in Request.model_fields and v is not None}
    request = Request(**given).seeded()
    ready_folder(out.parent, 2**22)
    write(out, page(load(request.model, device), request).encode())
    print(out)
