"""Every command has help, every command that a document names exists, no module has its own CLI."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from kalpana.cli import app

ROOT = Path(__file__).parents[1]
DOCUMENTS = [
    *ROOT.glob("*.md"),
    *ROOT.glob("docs/*.md"),
    *ROOT.glob("weights/*/*.md"),
    *ROOT.glob("recipes/*"),
    *ROOT.glob("src/kalpana/**/*.py"),
    ROOT / "Makefile",
]


def commands(group: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Every command without subcommands, by its path of names."""
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from commands(command, (*path, name))
        else:
            yield (*path, name), command


COMMANDS = dict(commands(typer.main.get_command(app)))


@pytest.mark.slow
@pytest.mark.parametrize("path", COMMANDS, ids=" ".join)
def test_every_command_has_help(path: tuple[str, ...]) -> None:
    for flag in ("-h", "--help"):
        done = CliRunner().invoke(app, [*path, flag])
        assert done.exit_code == 0 and done.stdout.startswith(f"Usage: kalpana {' '.join(path)}")
    assert COMMANDS[path].help
    unexplained = [
        parameter.name
        for parameter in COMMANDS[path].params
        if not getattr(parameter, "help", None) and parameter.name not in ("help", "prompt")
    ]
    assert unexplained == []


def named(text: str) -> Iterator[list[str]]:
    """The words after ``kalpana`` in the commands of a text: in backquotes or in lines of code."""
    lines = re.findall(r"`kalpana ((?:[^`]|\n(?!\n))+)`|^ *kalpana ([^`\n]+?) *$", text, re.M)
    for quoted, line in lines:
        try:
            words = shlex.split((quoted or line).replace("\\\n", " "), comments=True)
        except ValueError:  # an apostrophe: a sentence, no command
            continue
        if words and re.fullmatch(r"[a-z][a-z-]*", words[0]):
            yield words


@pytest.mark.slow
def test_every_command_and_option_that_a_document_names_exists() -> None:
    found, missing = 0, []
    for document in DOCUMENTS:
        if document.name == "CHANGELOG.md" or not document.is_file():
            continue
        for words in named(document.read_text(encoding="utf-8")):
            group: Any = typer.main.get_command(app)
            options = [word.split("=")[0] for word in words if re.match(r"--?[a-z]", word)]
            rest = list(words)
            while hasattr(group, "commands"):
                if rest and rest[0] in group.commands:
                    group = group.commands[rest.pop(0)]
                elif rest and hasattr(group, "default"):
                    group = group.commands[group.default]
                else:
                    break
            known = {flag for each in group.params for flag in (*each.opts, *each.secondary_opts)}
            known |= {"-h", "--help"}
            wrong = [option for option in options if option not in known]
            if wrong or (rest == words):
                missing.append(f"{document.relative_to(ROOT)}: kalpana {' '.join(words)}")
            found += 1
    assert found > 40 and missing == []


def test_modules_have_no_command_line_of_their_own() -> None:
    for module in (ROOT / "src/kalpana").rglob("*.py"):
        text = module.read_text(encoding="utf-8")
        assert not re.search(r"^(import argparse|if __name__ == )", text, re.M), module


def test_old_names_tell_the_new_ones() -> None:
    done = CliRunner().invoke(app, ["show", "a.png"])
    assert done.exit_code == 2 and done.stderr == (
        "error: show is now called metadata: kalpana metadata\n"
    )


@pytest.mark.slow
def test_evaluate_model_is_short_for_evaluate_suite_model() -> None:
    short, full = (
        CliRunner().invoke(app, ["evaluate", *words, "no-such", "--limit", "1"])
        for words in ([], ["suite"])
    )
    assert short.exit_code == 2 and "there is no model 'no-such'" in short.stderr
    assert (short.exit_code, short.stderr) == (full.exit_code, full.stderr)
