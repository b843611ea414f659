"""The ``metadata`` command: the receipt in a picture."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from kalpana.cli.console import print_json, unicode_output
from kalpana.cli.options import Json


def metadata(
    file: Annotated[Path, typer.Argument(help="a picture made by Kalpana")], as_json: Json = False
) -> None:
    """Print the receipt in a picture: its request, and all that is needed to generate it again."""
    import yaml

    from kalpana.media import read_receipt

    receipt = read_receipt(file)
    if as_json:
        print_json(receipt)
    else:
        text = yaml.safe_dump(receipt, allow_unicode=unicode_output(), sort_keys=False, width=120)
        print(text, end="")
