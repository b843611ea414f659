"""The lessons: notebooks that run, are in two languages, and keep small outputs without errors."""

from __future__ import annotations

import ast
import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch

FOLDER = Path(__file__).parents[1] / "docs" / "lessons"
LESSONS = sorted(FOLDER.glob("*.ipynb"))
PICTURES = ("image/jpeg", "text/html")
MACHINE_PATH = re.compile(
    r"(?<![\w.:/])/(home|root|work|var|tmp|usr|opt|mnt|Users|private)/|[A-Z]:\\"
)
SHOWS = re.compile(r"(show|play|frames_of|Sheet)\(")  # the last line of a cell

each_lesson = pytest.mark.parametrize("path", LESSONS, ids=lambda path: path.stem)


def cells(path: Path, kind: str) -> list[dict[str, Any]]:
    """The cells of a notebook of one kind, "code" or "markdown"."""
    notebook = json.loads(path.read_text(encoding="utf-8"))
    return [cell for cell in notebook["cells"] if cell["cell_type"] == kind]


def source(cell: dict[str, Any]) -> str:
    return "".join(cell["source"])


def run(code: str, name: str, namespace: dict[str, Any]) -> None:
    """Runs one code cell as Jupyter does: a last line that is an expression is shown."""
    tree = ast.parse(code)
    last = tree.body[-1]
    shown = ast.Expression(tree.body.pop().value) if isinstance(last, ast.Expr) else None
    exec(compile(tree, name, "exec"), namespace)
    if shown is not None:
        value = eval(compile(shown, name, "eval"), namespace)
        for form in ("_repr_jpeg_", "_repr_html_"):
            assert not hasattr(value, form) or getattr(value, form)()


def test_there_are_five_lessons_and_an_index() -> None:
    assert [path.name[0] for path in LESSONS] == list("12345")
    index = (FOLDER / "README.md").read_text(encoding="utf-8")
    assert [path.name for path in LESSONS if f"({path.name})" not in index] == []


@pytest.mark.slow
@each_lesson
def test_a_lesson_runs(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LESSON_STEPS", "2")
    monkeypatch.setenv("LESSON_PICTURES", "1")
    monkeypatch.chdir(tmp_path)
    namespace: dict[str, Any] = {"__name__": "__main__"}
    with torch.enable_grad():  # restores the mode, which the lessons change
        for number, cell in enumerate(cells(path, "code"), start=1):
            run(source(cell), f"{path.name}, code cell {number}", namespace)
    assert list(tmp_path.iterdir()) == []  # a lesson leaves no files behind


@each_lesson
def test_every_text_is_english_and_then_hindi(path: Path) -> None:
    for cell in cells(path, "markdown"):
        prose = re.sub(r"```.*?```|`[^`]*`|\$[^$]*\$|\([^)]*\)", "", source(cell), flags=re.DOTALL)
        english = [found.start() for found in re.finditer(r"\b[A-Za-z]{2,}\b", prose)]
        hindi = [found.start() for found in re.finditer(r"[\u0900-\u097f]{2,}", prose)]
        assert len(english) >= 8 and len(hindi) >= 8, source(cell)
        assert english[0] < hindi[0], f"English comes first: {source(cell)}"


@each_lesson
def test_outputs_are_kept_and_show_no_errors(path: Path) -> None:
    assert path.stat().st_size < 400_000
    code = cells(path, "code")
    assert [cell["execution_count"] for cell in code] == list(range(1, len(code) + 1))
    outputs = [output for cell in code for output in cell["outputs"]]
    assert {output["output_type"] for output in outputs} <= {"stream", "execute_result"}
    assert all(output.get("name", "stdout") == "stdout" for output in outputs)
    pictures = [data for output in outputs for data in output.get("data", {}) if data in PICTURES]
    assert len(pictures) >= 5
    shown = [cell for cell in code if SHOWS.match(source(cell).splitlines()[-1])]
    assert [source(cell) for cell in shown if not cell["outputs"]] == []


@each_lesson
def test_a_lesson_names_no_paths_of_a_machine(path: Path) -> None:
    notebook = json.loads(path.read_text(encoding="utf-8"))
    for cell in notebook["cells"]:
        texts = [source(cell)]
        for output in cell.get("outputs", []):
            texts += ["".join(output.get("text", []))]
            texts += ["".join(output.get("data", {}).get("text/plain", []))]
        for text in texts:
            assert not MACHINE_PATH.search(text), text


@each_lesson
def test_code_cells_are_short(path: Path) -> None:
    for cell in cells(path, "code"):
        lines = source(cell).splitlines()
        assert len([line for line in lines if line.strip()]) <= 12, source(cell)
        assert max(map(len, lines)) <= 100, source(cell)


@each_lesson
def test_links_of_a_lesson_lead_somewhere(path: Path) -> None:
    targets = [
        target.partition("#")[0]
        for cell in cells(path, "markdown")
        for target in re.findall(r"\]\(([^)\s]+)\)", source(cell))
        if not re.match(r"[a-z]+:|#", target)
    ]
    assert any(target.endswith(".py") for target in targets)
    assert [target for target in targets if not (FOLDER / target).exists()] == []
