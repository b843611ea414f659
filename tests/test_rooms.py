"""The rooms of the package and the one direction in which they may know of each other."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "src/kalpana"

# A room may import from rooms with a smaller number, and from itself. Equal numbers never meet: a network (models)
# reaches a sampler (diffusion) as an argument.
FLOOR = {
    "types": 0,
    **dict.fromkeys(("request", "media", "models", "diffusion"), 1),
    "world": 2,
    "text": 3,
    "hub": 4,
    "understand": 5,
    "generate": 6,  # what draws may ask a CLIP
    "train": 7,  # what learns to draw shows how it draws
    "evaluate": 8,
    "cli": 9,
}


def room(module: Path) -> str:
    return module.relative_to(PACKAGE).with_suffix("").parts[0]


def imported_rooms(module: Path) -> set[str]:
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
    mine = room(module)
    assert mine in FLOOR, f"a new room, {mine}: give it its floor"
    for other in imported_rooms(module) - {mine, "__version__"}:
        assert FLOOR[other] < FLOOR[mine], f"{mine} may not import {other}"
