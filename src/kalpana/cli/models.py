"""The ``models`` command: the models that come with Kalpana."""

from __future__ import annotations

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
        languages = f", {' and '.join(card.capabilities.languages)}" if card.capabilities else ""
        tasks = ", ".join(card.tasks)
        print(f"{card.name}: {card.family}, {tasks}{languages}, {size}, {card.licence}")
