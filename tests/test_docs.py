"""Documentation tests: code blocks run, relative links resolve, and named files exist."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
BIN = Path(sys.executable).parent
DOCUMENTS = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("weights/**/*.md")])
# In these tests `make` is a dry run, because `make test` runs this suite.
PRELUDE = f'set -eu\nmake() {{ command make --directory "{ROOT}" --dry-run "$@" > /dev/null; }}\n'


@dataclass(frozen=True)
class Block:
    """One fenced code block: language, text, and the reason why it is not run, or None."""

    document: Path
    line: int
    language: str
    text: str
    excuse: str | None

    def __str__(self) -> str:
        return f"{self.document.relative_to(ROOT)}:{self.line}"


def blocks(document: Path) -> Iterator[Block]:
    source = document.read_text(encoding="utf-8")
    for found in re.finditer(
        r"(?:<!-- not run: (.*?) -->\n)?^```(\w+)\n(.*?)^```$", source, re.MULTILINE | re.DOTALL
    ):
        yield Block(
            document, source.count("\n", 0, found.start()) + 1, found[2], found[3], found[1]
        )


BLOCKS = [block for document in DOCUMENTS for block in blocks(document)]


def environment() -> dict[str, str]:
    inherited = {
        name: value
        for name, value in os.environ.items()
        if name not in {"MAKEFLAGS", "MFLAGS", "MAKELEVEL", "PROMPT"}
    }
    return inherited | {"PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}", "PYTHONWARNINGS": "error"}


def run(command: list[str], folder: Path) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        command,
        cwd=folder,
        env=environment(),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    return done


@pytest.mark.slow
@pytest.mark.parametrize(
    "block",
    [each for each in BLOCKS if each.language in {"bash", "python"} and each.excuse is None],
    ids=str,
)
def test_a_block_runs_as_it_is_printed(block: Block, tmp_path: Path) -> None:
    if block.language == "python":
        run([sys.executable, "-c", block.text], tmp_path)
    else:
        run(["bash", "-c", PRELUDE + block.text], tmp_path)


def test_there_are_blocks_to_run() -> None:
    assert {block.language for block in BLOCKS if block.document.name == "README.md"} >= {
        "bash",
        "python",
    }


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_relative_links_lead_somewhere(document: Path) -> None:
    prose = re.sub(
        r"^```.*?^```$", "", document.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL
    )
    for target in re.findall(r"\]\(([^)\s]+)\)", prose):
        if not re.match(r"[a-z]+:|#", target):
            assert (document.parent / target.partition("#")[0]).exists(), (
                f"{document.name} points at {target}"
            )


def tree(text: str) -> Iterator[str]:
    """Paths of an indented file tree.

    Two spaces a level; a folder ends in a slash; a comment follows two or more spaces.
    """
    above: list[str] = []
    for line in filter(str.strip, text.splitlines()):
        depth = (len(line) - len(line.lstrip())) // 2
        names = re.split(r" {2,}", line.strip())[0].split(", ")
        above[depth:] = [names[0]]
        yield from ("".join([*above[:depth], name]) for name in names)


def test_the_file_tree_of_the_tour_is_the_tree_on_disk() -> None:
    (text,) = [
        block.text
        for block in BLOCKS
        if block.document.name == "tour.md"
        and block.language == "text"
        and "src/kalpana/" in block.text
    ]
    paths = list(tree(text))
    assert len(paths) > 20
    assert [path for path in paths if not (ROOT / path).exists()] == []
    rooms = {
        f"src/kalpana/{path.name}/"
        for path in (ROOT / "src/kalpana").iterdir()
        if path.is_dir() and list(path.glob("*.py"))
    }
    assert rooms <= set(paths), "a room that the tree does not show"


def test_the_files_the_tour_names_exist() -> None:
    tour = (ROOT / "docs/tour.md").read_text(encoding="utf-8")
    named = re.findall(r"`([\w/.-]+(?:\.py|\.yaml|\.jsonl?|\.md|/))`", tour)
    assert len(named) > 15
    assert [
        name
        for name in named
        if not any((base / name).exists() for base in (ROOT, ROOT / "src/kalpana"))
    ] == []


@pytest.mark.slow
def test_make_run_draws_a_prompt_with_every_awkward_sign_in_it(tmp_path: Path) -> None:
    prompt = 'तीन "लाल" सेब, it\'s $HOME $(id) `id` \\ 100% #1'
    # -o says that the environment is there already: the one these tests run in.
    done = run(
        [
            "make",
            "-s",
            "-f",
            str(ROOT / "Makefile"),
            "-o",
            ".venv/.run",
            f"BIN={BIN}",
            "run",
            f"PROMPT={prompt}",
        ],
        tmp_path,
    )
    (picture,) = tmp_path.rglob("*.png")
    assert str(picture.relative_to(tmp_path)) in done.stdout.replace("\n", "")
    receipt = json.loads(
        run([str(BIN / "kalpana"), "metadata", str(picture), "--json"], tmp_path).stdout
    )
    assert receipt["request"]["prompt"] == prompt


def test_the_version_is_said_once() -> None:
    version = re.search(
        r'^version = "(.+)"$', (ROOT / "pyproject.toml").read_text(encoding="utf-8"), re.MULTILINE
    )
    assert version is not None
    assert f"## {version[1]}" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


def test_torch_is_pinned_by_the_spelling_that_set_up_installs_first() -> None:
    pins = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    assert [pin for pin in pins if re.fullmatch(r"torch==\d+\.\d+\.\d+", pin)], (
        "no plain torch==X.Y.Z in constraints.txt"
    )
    assert [pin for pin in pins if pin and not pin.startswith("#") and "==" not in pin] == []
