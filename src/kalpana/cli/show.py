"""The commands ``models``, ``show`` (a picture's receipt) and ``tokens`` (of a prompt)."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from kalpana.cli.console import print_json
from kalpana.cli.options import Json


def models(as_json: Json = False) -> None:
    """List the models that come with Kalpana."""
    from kalpana.hub.card import list_models

    cards = list_models()
    if as_json:
        print_json([card.model_dump(mode="json") for card in cards])
        return
    for card in cards:
        size = f"{card.parameters / 1e6:.1f} million parameters"
        languages = f", {' and '.join(about.languages)}" if (about := card.usable()) else ""
        tasks = ", ".join(card.tasks)
        print(f"{card.name}: {card.family}, {tasks}{languages}, {size}, {card.licence}")


def show(
    file: Annotated[Path, typer.Argument(help="a picture or video made by Kalpana")],
    as_json: Json = False,
) -> None:
    """Print the receipt in a file: its request, and all that is needed to generate it again."""
    import yaml

    from kalpana.media import read_receipt

    receipt = read_receipt(file)
    if as_json:
        print_json(receipt)
    else:
        print(yaml.safe_dump(receipt, allow_unicode=True, sort_keys=False, width=120), end="")


def tokens(prompt: str, as_json: Json = False) -> None:
    """Show the tokens of a prompt, and its words that occur in no training caption."""
    from kalpana.text.normalize import clean
    from kalpana.text.tokenizer import Tokenizer

    tokenizer, text = Tokenizer.load(), clean(prompt)
    encoded, report = tokenizer.encode([text]), tokenizer.report(text)
    pieces = [tokenizer.decode([int(token)]) for token in encoded.ids[0][encoded.mask[0]]]
    if as_json:
        print_json(
            {
                "tokens": pieces,
                "language": report.language,
                "cut": report.cut,
                "unknown": list(report.unknown),
            }
        )
    else:
        print(f"{len(pieces)} tokens, {report.language}: {' | '.join(pieces)}")
        unknown = ", ".join(report.unknown) or "none"
        print(f"cut: {report.cut or 'nothing'}; unknown words: {unknown}")
