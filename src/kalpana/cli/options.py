"""Options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, TypeAlias

import typer

from kalpana.request import Request


def field(name: str, *, flags: tuple[str, ...] = ()) -> Any:
    """Option for a field of Request, with the field's description as help.

    The request validates the value.
    """
    return typer.Option(
        *flags,
        metavar=name.upper(),
        help=Request.model_fields[name].description,
        show_default=False,
    )


Out: TypeAlias = Annotated[Path, typer.Option(help="folder for the pictures, created if missing")]
Device: TypeAlias = Annotated[
    str | None, typer.Option(help="cpu or cuda; by default a GPU if there is one")
]
Dtype: TypeAlias = Annotated[
    str | None,
    typer.Option(
        help="numbers of the weights of a model of diffusers: fp32, bf16 or fp16; by default fp32 "
        "on a CPU, else bf16"
    ),
]
Offload: TypeAlias = Annotated[
    str | None,
    typer.Option(
        help="keep the weights of a model of diffusers off the GPU while they are not used: model "
        "(one part at a time) or sequential (one layer, slow)"
    ),
]
Tiling: TypeAlias = Annotated[
    bool, typer.Option("--tiling", help="decode pictures of a model of diffusers in tiles")
]
Json: TypeAlias = Annotated[bool, typer.Option("--json", help="print JSON")]
ClipName: TypeAlias = Annotated[
    str, typer.Option(help="the CLIP that embeds the pictures, a name or a folder of weights")
]
