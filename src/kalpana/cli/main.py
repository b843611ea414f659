"""The command-line application: all commands, in the order of the help, and error handling."""

from __future__ import annotations

import os
import sys
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

import kalpana.cli.measure
import kalpana.cli.sampling
import kalpana.cli.verifiers
import kalpana.cli.video  # noqa: F401  (adds commands to evaluate, as measure and verifiers do)
from kalpana.cli.caption import caption
from kalpana.cli.classify import classify
from kalpana.cli.console import prepare, use_utf8
from kalpana.cli.evaluate import evaluating
from kalpana.cli.generate import expand, generate
from kalpana.cli.grid import grid
from kalpana.cli.map import maps
from kalpana.cli.metadata import metadata
from kalpana.cli.models import models
from kalpana.cli.replay import replay
from kalpana.cli.search import searching
from kalpana.cli.serve import serve
from kalpana.cli.tokenizer import tokenizer, tokens
from kalpana.cli.trace import trace
from kalpana.cli.train import train
from kalpana.cli.weights import weights
from kalpana.cli.world import world
from kalpana.types import KalpanaError

RENAMED = {"show": "metadata"}  # old names of commands


class OneLineErrors(TyperGroup):
    """Command group in which an error is one line on stderr and exit code 2; Ctrl-C is 130."""

    def main(self, *args: Any, **kwargs: Any) -> Any:
        if args == () and kwargs.get("args") is None:  # not called by a test
            use_utf8()
        prepare()
        try:
            code = super().main(
                *args, **(kwargs | {"prog_name": "kalpana", "standalone_mode": False})
            )
            sys.stdout.flush()
        except (KalpanaError, typer.TyperException) as error:
            message = error.format_message() if isinstance(error, typer.TyperException) else error
            print(f"error: {message}", file=sys.stderr)
            code = 2
        except BrokenPipeError:  # the reader of the output has ended, as head does
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            code = 1
        except OSError as error:
            known = error.filename is not None and error.strerror
            message = f"{error.filename}: {error.strerror}" if known else str(error)
            print(f"error: {message}", file=sys.stderr)
            code = 2
        except (KeyboardInterrupt, typer.Abort):  # before or in a command
            print("stopped", file=sys.stderr)
            code = 130
        sys.exit(code if isinstance(code, int) else 0)

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:  # typer would exit without a word
            raise typer.Abort from None

    def get_command(self, ctx: Any, name: str) -> Any:
        if name in RENAMED:
            raise KalpanaError(f"{name} is now called {RENAMED[name]}: kalpana {RENAMED[name]}")
        return super().get_command(ctx, name)


app = typer.Typer(
    cls=OneLineErrors,
    help="Kalpana: pictures from words, in English and Hindi.",
    invoke_without_command=True,
    context_settings={"help_option_names": ["-h", "--help"]},
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
COMMANDS = (
    generate,
    grid,
    models,
    metadata,
    replay,
    trace,
    expand,
    tokens,
    train,
    classify,
    caption,
)
for command in COMMANDS:
    app.command()(command)
app.command()(serve)
app.add_typer(evaluating, name="evaluate")
app.add_typer(searching, name="search")
app.add_typer(weights, name="weights")
app.add_typer(tokenizer, name="tokenizer")
app.add_typer(maps, name="map")
app.add_typer(world, name="world")


def print_version(wanted: bool) -> None:
    if wanted:
        from kalpana import __version__

        print(f"kalpana {__version__}")
        raise typer.Exit


@app.callback()
def start(
    context: typer.Context,
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=print_version, is_eager=True, help="Print the version and exit."
        ),
    ] = False,
) -> None:
    if context.invoked_subcommand is None:
        print(context.get_help())
