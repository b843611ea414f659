"""Imports between the packages point one way."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "src/kalpana"

# A package imports from packages of a lower level and from itself. Packages of one level never
# import each other: a network (models) reaches a sampler (diffusion) as an argument.
LEVEL = {
    **dict.fromkeys(("errors", "request_values"), 0),
    **dict.fromkeys(("media", "metrics"), 1),
    "types": 2,  # an output can write itself
    "inputs": 2,
    "text": 3,
    **dict.fromkeys(("request", "models", "diffusion"), 4),
    "world": 5,
    "capabilities": 6,  # knows the names of classes
    "families": 7,  # names classes of all packages, and imports none
    "hub": 8,
    "understand": 9,
    "pipelines": 10,  # reranking asks a CLIP
    "train": 11,  # sample sheets use the pipelines
    "evaluate": 12,
    "serve": 13,
    "cli": 14,
    "__main__": 15,
}


def package(module: Path) -> str:
    return module.relative_to(PACKAGE).with_suffix("").parts[0]


def imported_packages(module: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(module.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return {name.split(".")[1] for name in names if name.startswith("kalpana.")}


MODULES = [
    path
    for path in sorted(PACKAGE.rglob("*.py"))
    if path.relative_to(PACKAGE) != Path("__init__.py")
]


@pytest.mark.parametrize("module", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_point_one_way(module: Path) -> None:
    mine = package(module)
    assert mine in LEVEL, f"a new package, {mine}: give it a level"
    for other in imported_packages(module) - {mine, "__version__"}:
        assert LEVEL[other] < LEVEL[mine], f"{mine} may not import {other}"
