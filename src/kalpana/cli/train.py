"""Models trained by recipes."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from kalpana.cli.options import Device


def train(
    recipe: Annotated[Path, typer.Argument(help="a recipe, such as recipes/flow.yaml")],
    out: Annotated[
        Path | None,
        typer.Option(help="the run's folder, runs/NAME by default; a run found there goes on"),
    ] = None,
    steps: Annotated[
        int | None,
        typer.Option(
            min=1, help="stop after this many steps in all; the same command goes on later"
        ),
    ] = None,
    device: Device = None,
    workers: Annotated[
        int | None,
        typer.Option(
            min=0,
            help="processes that make batches ahead: with a GPU one on each core but one, without none",
        ),
    ] = None,
) -> None:
    """Train a model by a recipe, or go on training it."""
    from kalpana.train.loop import train as run
    from kalpana.train.recipe import read_recipe

    asked = read_recipe(recipe)
    weights = run(
        asked, out or Path("runs") / asked.name, until=steps, device=device, workers=workers
    )
    if weights:
        print(weights)
