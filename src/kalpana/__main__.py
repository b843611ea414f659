"""Entry point of ``python -m kalpana``: the command-line application."""

from kalpana.cli import app

app()
