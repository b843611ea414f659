"""The options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, TypeAlias

import typer

from kalpana.request import Request


def field(name: str, *, flags: tuple[str, ...] = ()) -> Any:
    """The option of a request's field, which says what the field says. Its value is checked by the request, not here."""
    return typer.Option(
        *flags,
        metavar=name.upper(),
        help=Request.model_fields[name].description,
        show_default=False,
    )


Out: TypeAlias = Annotated[Path, typer.Option(help="folder for the pictures, made if need be")]
Device: TypeAlias = Annotated[
    str | None, typer.Option(help="cpu or cuda; a GPU is taken where there is one")
]
Json: TypeAlias = Annotated[bool, typer.Option("--json", help="print JSON")]
Seer: TypeAlias = Annotated[
    str, typer.Option(help="the model that looks at the pictures, a name or a folder of weights")
]
