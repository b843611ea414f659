"""The ``models`` command: the models known by name, by task, and where their weights are."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from kalpana.cli.console import print_json
from kalpana.cli.options import Json

if TYPE_CHECKING:
    from pathlib import Path

    from kalpana.hub.card import Card

GROUPS = {
    "text to image": ("text-to-image",),
    "text to video": ("text-to-video",),
    "class to image": ("class-to-image",),
    "captions and classification": ("caption", "classify"),
    "verifiers": ("verify",),
    "helpers": (),
}


def models(
    hub: Annotated[
        bool, typer.Option("--hub", help="list those in the Hugging Face cache instead, offline")
    ] = False,
    as_json: Json = False,
) -> None:
    """List the models by task, and where their weights are: inside Kalpana, in a folder, or
    missing, with how to get them."""
    if hub:
        _print_cached(as_json)
        return
    from kalpana.hub.card import model_folders, read_card

    folders = model_folders()
    cards = {name: read_card(folder) for name, folder in folders.items()}
    if as_json:
        print_json(
            [
                card.model_dump(mode="json") | {"weights": _weights(folders[name], card)}
                for name, card in cards.items()
            ]
        )
        return
    grouped = set(sum(GROUPS.values(), ()))
    for group, tasks in GROUPS.items():
        # A model of two groups is listed twice; helpers are all that no group has.
        mine = {name: _tasks(card) for name, card in cards.items()}
        names = [n for n in cards if mine[n] & set(tasks) or not (tasks or mine[n] & grouped)]
        if names:
            print(f"{group}:")
        for name in names:
            print(f"  {_line(folders[name], cards[name])}")


def _print_cached(as_json: bool) -> None:
    """Print the models in the Hugging Face cache, with their sizes."""
    from kalpana.hub.huggingface import cache_folder, cached_models

    found = cached_models()
    if as_json:
        print_json([model.to_json() for model in found])
        return
    print(f"Hugging Face cache, {cache_folder()}:")
    for model in found:
        size = f"{model.size / 1e9:.1f} GB" if model.size >= 1e8 else f"{model.size / 1e6:.1f} MB"
        state = f"cannot be loaded: {model.problem}" if model.problem else str(model.folder)
        print(f"  {model.name}: {model.kind}, {size}, {state}")
    if not found:
        print("  no models in the layout of diffusers; `kalpana weights pull ORG/NAME` fetches one")


def _tasks(card: Card) -> set[str]:
    """The tasks of a card; that of a detector is to verify."""
    return {*card.tasks, *(("verify",) if card.family == "detector" else ())}


def _weights(folder: Path, card: Card) -> str:
    """Where the weights of a model are, or how to get them."""
    from kalpana.hub.card import how_to_get, missing_files, placed

    if missing := missing_files(folder, card):
        return f"missing {', '.join(missing)}: {how_to_get(card.name)}"
    return placed(folder)


def _line(folder: Path, card: Card) -> str:
    """Name, family, languages, size, licence and place of a model's weights."""
    from kalpana.request import Request

    default = Request.model_fields["model"].default
    facts = [
        card.family,
        *([" and ".join(able.languages)] if (able := card.usable()) else []),
        f"{card.parameters / 1e6:.1f} million parameters",
        card.licence,
        *(["the default"] if card.name == default else []),
        _weights(folder, card),
    ]
    return f"{card.name}: {', '.join(facts)}"
