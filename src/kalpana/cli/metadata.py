"""The ``metadata`` command: the receipts in pictures."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from kalpana.cli.console import print_json, unicode_output
from kalpana.cli.options import Json
from kalpana.types import KalpanaError


def metadata(
    files: Annotated[
        list[Path], typer.Argument(metavar="FILE...", help="pictures made by Kalpana")
    ],
    as_json: Json = False,
) -> None:
    """Print the receipt in a picture: its request, and all that is needed to generate it again.

    Of several files each receipt stands below the path of its file, or beside it in JSON; files
    without one are listed, and make the exit code 1.
    """
    import yaml

    from kalpana.media import read_receipt

    receipts = {}
    for file in files:
        try:
            receipts[file] = read_receipt(file)
        except KalpanaError as error:
            if len(files) == 1:
                raise
            print(f"not read: {error}", file=sys.stderr)
    if as_json and len(files) == 1:
        print_json(receipts[files[0]])
    elif as_json:
        print_json([{"path": str(path), "receipt": each} for path, each in receipts.items()])
    for file, receipt in () if as_json else receipts.items():
        content = receipt if len(files) == 1 else {str(file): receipt}
        text = yaml.safe_dump(content, allow_unicode=unicode_output(), sort_keys=False, width=120)
        print(text, end="")
    raise typer.Exit(0 if len(receipts) == len({*files}) else 1)
