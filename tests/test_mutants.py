"""Mutation testing: which changes are made, each of them one change, and what survives."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import mutants
import pytest

TEXT = '''
"""The number 1."""
LIMIT: Literal[3] = 2


def inside(x: int = 1) -> bool:
    assert x != 7
    return not -x < LIMIT and f"{x + 1}"
'''


def test_each_mutant_is_one_change_of_an_operator_a_comparison_or_a_constant() -> None:
    found = list(mutants.mutants("a.py", TEXT))
    plain = ast.unparse(ast.parse(TEXT)).splitlines()
    changes = set()
    for each in found:
        lines = ast.unparse(each.tree).splitlines()
        differing = [(old, new) for old, new in zip(plain, lines, strict=True) if old != new]
        assert len(differing) == 1
        changes.add(differing[0][1].strip())
    assert changes == {
        "LIMIT: Literal[3] = 3",
        "def inside(x: int=2) -> bool:",
        "return not -x < LIMIT or f'{x + 1}'",
        "return not not -x < LIMIT and f'{x + 1}'",
        "return not -x <= LIMIT and f'{x + 1}'",
        "return not +x < LIMIT and f'{x + 1}'",
    }
    assert len(found) == len(changes)


def test_every_mutated_file_has_tests() -> None:
    files = [
        str(path.relative_to(mutants.SOURCE))
        for pattern in mutants.FILES
        for path in mutants.SOURCE.glob(pattern)
        if path.name != "__init__.py"
    ]
    assert len(files) > 20 and mutants.MORE.keys() <= set(files)
    for file in files:
        assert mutants.tests_of(file), file


@pytest.mark.slow
def test_a_change_that_tests_notice_is_killed_and_others_survive() -> None:
    """Two mutants of one file: a number that the tests check, and a comment's worth of code."""
    code = """
import ast, sys
sys.path.insert(0, sys.argv[1])
import mutants
file = "request_values.py"
text = (mutants.SOURCE / file).read_text()
wrong = ast.parse(text.replace('"guidance_scale": "guidance"', '"guidance_scale": "steps"'))
same = ast.parse(text + "\\nUNUSED = 1\\n")
print([mutants.survives(file, tree, 600) for tree in (None, wrong, same)])
"""
    done = subprocess.run(
        [sys.executable, "-c", code, str(Path(mutants.__file__).parent)],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "[True, False, True]\n"
