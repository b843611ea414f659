"""The ``models`` command: the models that come with Kalpana, by task."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kalpana.cli.console import print_json
from kalpana.cli.options import Json

if TYPE_CHECKING:
    from kalpana.hub.card import Card

GROUPS = {
    "text to image": ("text-to-image",),
    "captions and classification": ("caption", "classify"),
    "verifiers": ("verify",),
    "helpers": (),
}


def models(as_json: Json = False) -> None:
    """List the models that come with Kalpana, by task, and whether their weights are here."""
    from kalpana.hub.card import list_models

    cards = list_models()
    if as_json:
        print_json([card.model_dump(mode="json") for card in cards])
        return
    for group, tasks in GROUPS.items():
        print(f"{group}:")
        for card in cards:
            mine = _tasks(card)
            # A model of two groups is listed twice; helpers are all that no group has.
            if mine & set(tasks) or not (tasks or mine & set(sum(GROUPS.values(), ()))):
                print(f"  {_line(card)}")


def _tasks(card: Card) -> set[str]:
    """The tasks of a card; that of a detector is to verify."""
    return {*card.tasks, *(("verify",) if card.family == "detector" else ())}


def _line(card: Card) -> str:
    """Name, family, languages, size, licence and state of a model's weights."""
    from kalpana.hub.card import missing_files, weights_dir
    from kalpana.request import Request

    default = Request.model_fields["model"].default
    missing = missing_files(weights_dir() / card.name, card)
    facts = [
        card.family,
        *([" and ".join(able.languages)] if (able := card.usable()) else []),
        f"{card.parameters / 1e6:.1f} million parameters",
        card.licence,
        f"weights missing: {', '.join(missing)}" if missing else "weights here",
        *(["the default"] if card.name == default else []),
    ]
    return f"{card.name}: {', '.join(facts)}"
