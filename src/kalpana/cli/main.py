"""The command-line application: all commands, in the order of the help, and error handling."""

from __future__ import annotations

import sys
from typing import Any

import typer
from typer.core import TyperGroup

from kalpana.cli.caption import caption
from kalpana.cli.classify import classify
from kalpana.cli.evaluate import evaluate
from kalpana.cli.generate import expand, generate, replay
from kalpana.cli.search import searching
from kalpana.cli.show import models, show, tokens
from kalpana.cli.train import train
from kalpana.cli.world import world
from kalpana.types import KalpanaError


class OneLineErrors(TyperGroup):
    """Command group in which an error is one line on stderr and exit code 2; Ctrl-C is 130."""

    def main(self, *args: Any, **kwargs: Any) -> Any:
        try:
            code = super().main(*args, **(kwargs | {"standalone_mode": False}))
        except (KalpanaError, typer.TyperException) as error:
            message = error.format_message() if isinstance(error, typer.TyperException) else error
            print(f"error: {message}", file=sys.stderr)
            code = 2
        except OSError as error:
            print(f"error: {error}", file=sys.stderr)
            code = 2
        except (KeyboardInterrupt, typer.Abort):
            print("stopped", file=sys.stderr)
            code = 130
        sys.exit(code if isinstance(code, int) else 0)


app = typer.Typer(
    cls=OneLineErrors,
    help="Kalpana: pictures from words, in English and Hindi.",
    invoke_without_command=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
for command in (generate, models, show, replay, expand, tokens, train, evaluate, classify, caption):
    app.command()(command)
app.add_typer(world, name="world")
app.add_typer(searching, name="search")


@app.callback()
def start(context: typer.Context) -> None:
    if context.invoked_subcommand is None:
        print(context.get_help())
