"""The ``train`` command: training by a recipe."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from kalpana.cli.options import Device
from kalpana.types import KalpanaError

if TYPE_CHECKING:
    from kalpana.train.recipe import Recipe


def train(
    recipe: Annotated[
        str, typer.Argument(help="the name of a recipe, such as flow, or a YAML file")
    ],
    out: Annotated[
        Path | None,
        typer.Option(help="the run's folder, runs/NAME by default; a run in it is resumed"),
    ] = None,
    steps: Annotated[
        int | None,
        typer.Option(min=1, help="stop after this many steps in all; resume by the same command"),
    ] = None,
    weights: Annotated[
        bool,
        typer.Option("--weights", help="with --steps: also write the weights as they are then"),
    ] = False,
    data: Annotated[
        Path | None, typer.Option(help="a folder of pictures, for a recipe that learns from one")
    ] = None,
    word: Annotated[
        str | None, typer.Option(help="the word that stands for what these pictures show")
    ] = None,
    captioner: Annotated[
        str | None,
        typer.Option(
            help="a DALL-E, such as dalle, that writes NAME.txt beside each of these pictures that "
            "has neither a text nor a name that says something"
        ),
    ] = None,
    device: Device = None,
    workers: Annotated[
        int | None,
        typer.Option(
            min=0,
            help="processes that prepare batches; by default one less than the cores with a GPU, "
            "none without",
        ),
    ] = None,
) -> None:
    """Train a model by a recipe, or resume its training."""
    from kalpana.train.loop import train as run
    from kalpana.train.recipe import read_recipe

    if weights and steps is None:
        raise KalpanaError("--weights is for a run that stops early: write also --steps")
    given = {"data": data, "word": word}
    config = read_recipe(recipe, **{name: each for name, each in given.items() if each is not None})
    if captioner is not None:
        _write_captions(config, captioner, device)
    folder = out or Path("runs") / config.name
    path = run(config, folder, until=steps, device=device, workers=workers, weights=weights)
    if path:
        print(path)


def _write_captions(config: Recipe, captioner: str, device: str | None) -> None:
    """Write the missing captions of the pictures of an adapter, and print them."""
    from kalpana.pipelines import captions
    from kalpana.train.lora import LoRARecipe, write_captions
    from kalpana.train.recipe import located

    if not isinstance(config, LoRARecipe):
        raise KalpanaError(
            f"recipe {config.name} learns from no pictures of yours: leave --captioner out"
        )
    model = captions.captioner(captioner, device)
    written = write_captions(located(config.data), lambda pictures: model.caption(pictures, "en"))
    for path in written:
        print(f"{path}: {path.read_text(encoding='utf-8').strip()}", file=sys.stderr)
    if not written:
        print("warning: --captioner: all pictures have captions", file=sys.stderr)
