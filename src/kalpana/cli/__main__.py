"""Entry point of ``python -m kalpana.cli``."""

from kalpana.cli import app

app()
