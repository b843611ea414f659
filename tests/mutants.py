"""Mutation testing: changes one operator, comparison or constant of the source at a time, runs the
fast tests of its file, and lists the changes that no test notices (the survivors).

    make mutants                                      # a sample of 100
    make mutants MUTANTS="--files diffusion --limit 20 --seed 3"
    make mutants MUTANTS="--files request.py --limit 0"   # all of one file

The interpreter forks for each mutant after it has loaded torch, so that a mutant costs little more
than its tests. The share of killed mutants should be 90 % or more.
"""

from __future__ import annotations

import argparse
import ast
import copy
import importlib.machinery
import os
import random
import resource
import sys
from collections.abc import Iterator
from pathlib import Path
from types import CodeType
from typing import Any, NamedTuple

TESTS = Path(__file__).parent
SOURCE = TESTS.parent / "src/kalpana"
# Patterns of mutated files. Their tests are tests/FOLDER/test_NAME.py, and those below.
FILES = (
    "diffusion/*.py", "pipelines/diffusion.py", "pipelines/editing.py", "pipelines/pipeline.py",
    "pipelines/tokens.py", "pipelines/unclip.py", "request*.py", "train/autoencoder.py",
    "train/clip.py", "train/detector.py", "train/diffusion.py", "train/flow.py", "train/losses.py",
    "train/reader.py", "train/token_tasks.py", "train/turbo.py", "train/unclip.py",
    "train/vqgan.py",
)  # fmt: skip
MORE = {
    "diffusion/denoiser.py": ("diffusion/test_schedule.py",),
    "diffusion/samplers.py": ("diffusion/test_schedule.py",),
    "diffusion/solvers.py": ("diffusion/test_samplers.py",),
    "diffusion/stochastic.py": ("diffusion/test_samplers.py",),
    "pipelines/editing.py": ("pipelines/test_diffusion.py",),
    "pipelines/pipeline.py": ("pipelines/test_diffusion.py", "pipelines/test_editing.py"),
    "request_values.py": ("test_request.py",),
    "train/diffusion.py": ("train/test_flow.py", "train/test_unet.py"),
    "train/losses.py": ("train/test_autoencoder.py", "train/test_vqgan.py"),
}
SWAPS: dict[type[ast.AST], type[ast.AST]] = {
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult, ast.Pow: ast.Mult,
    ast.FloorDiv: ast.Mult, ast.Mod: ast.Mult, ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE,
    ast.GtE: ast.Gt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq, ast.Is: ast.IsNot, ast.IsNot: ast.Is,
    ast.In: ast.NotIn, ast.NotIn: ast.In, ast.And: ast.Or, ast.Or: ast.And,
}  # fmt: skip
SKIPPED = (ast.Assert, ast.JoinedStr, ast.Import, ast.ImportFrom)  # texts, and what must hold


class Mutant(NamedTuple):
    """A changed module: its file, the line, what stood there and what stands there now."""

    file: str
    line: int
    before: str
    after: str
    tree: ast.Module


def nodes(node: ast.AST) -> Iterator[ast.AST]:
    """The nodes of a module that mutants change: without annotations, decorators and messages."""
    yield node
    for name, value in ast.iter_fields(node):
        for child in value if isinstance(value, list) else [value]:
            hidden = name in ("annotation", "returns", "decorator_list") or not child
            if isinstance(child, ast.AST) and not hidden and not isinstance(child, SKIPPED):
                yield from nodes(child)


def change(node: Any) -> bool:
    """Change a node in place; False where there is nothing to change."""
    if isinstance(node, ast.Constant) and isinstance(node.value, bool):
        node.value = not node.value
    elif isinstance(node, ast.Constant) and isinstance(node.value, int | float):
        node.value += 1
    elif isinstance(node, ast.BinOp | ast.BoolOp) and type(node.op) in SWAPS:
        node.op = SWAPS[type(node.op)]()
    elif isinstance(node, ast.Compare) and type(node.ops[0]) in SWAPS:
        node.ops[0] = SWAPS[type(node.ops[0])]()
    elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        node.op = ast.UAdd()
    elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
        node.operand = ast.UnaryOp(ast.Not(), node.operand)
    elif isinstance(node, ast.If | ast.IfExp | ast.While) and isinstance(
        node.test, ast.Name | ast.Attribute | ast.Call
    ):
        node.test = ast.UnaryOp(ast.Not(), node.test)
    else:
        return False
    return True


def mutants(file: str, text: str) -> Iterator[Mutant]:
    """All mutants of the text of a file."""
    tree = ast.parse(text)
    for k, node in enumerate(nodes(tree)):
        changed = copy.deepcopy(node)
        if change(changed):
            whole = copy.deepcopy(tree)
            change(next(n for i, n in enumerate(nodes(whole)) if i == k))
            ast.fix_missing_locations(whole)
            shown = [ast.unparse(getattr(n, "test", n)) for n in (node, changed)]
            yield Mutant(file, getattr(node, "lineno", 0), *shown, whole)


def tests_of(file: str) -> list[str]:
    """The test files of a source file."""
    own = TESTS / Path(file).parent / f"test_{Path(file).name}"
    return [
        str(path) for path in (own, *(TESTS / each for each in MORE.get(file, ()))) if path.exists()
    ]


def survives(file: str, tree: ast.Module | None, seconds: int) -> bool:
    """Whether the tests of a file pass with the module changed, in a process of its own that has so
    many seconds of CPU time."""
    if child := os.fork():
        return os.waitpid(child, 0)[1] == 0
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds))
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    os.dup2(1, 2)
    sys.path.insert(0, str(SOURCE.parent))  # before an installed Kalpana
    loader, path = importlib.machinery.SourceFileLoader, str(SOURCE / file)
    usual = loader.get_code

    def get_code(self: Any, name: str) -> CodeType | None:
        mutated = tree is not None and self.path == path
        return compile(tree, path, "exec") if mutated else usual(self, name)  # type: ignore[arg-type]

    loader.get_code = get_code  # type: ignore[method-assign]
    import pytest

    options = ("-x", "-q", "-m", "not slow", "-p", "no:cacheprovider", "--rootdir", TESTS.parent)
    os._exit(pytest.main([*map(str, options), *tests_of(file)]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--files", nargs="*", default=[""], help="parts of the names of files")
    parser.add_argument("--limit", type=int, default=100, help="how many mutants; 0: all")
    parser.add_argument("--seed", type=int, default=0, help="of the sample")
    given = parser.parse_args()
    paths = [path for pattern in FILES for path in sorted(SOURCE.glob(pattern))]
    files = [str(path.relative_to(SOURCE)) for path in paths]
    files = [file for file in files if any(part in file for part in given.files)]
    found = [each for file in files for each in mutants(file, (SOURCE / file).read_text())]
    if 0 < given.limit < len(found):
        found = random.Random(given.seed).sample(found, given.limit)
    import torch  # noqa: F401  # once, before the forks

    limits, survivors = dict[str, int](), list[Mutant]()
    for k, each in enumerate(sorted(found, key=lambda mutant: mutant[:2]), start=1):
        if each.file not in limits:
            before = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime
            if not survives(each.file, None, 1000):
                sys.exit(f"the tests of {each.file} fail without any change")
            spent = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime - before
            limits[each.file] = round(3 * spent) + 30
        if alive := survives(each.file, each.tree, limits[each.file]):
            survivors.append(each)
        state = "SURVIVES" if alive else "killed"
        change = f"{each.before}  ->  {each.after}"
        print(f"{k}/{len(found)} {state} {each.file}:{each.line}: {change[:120]}", flush=True)
    killed = len(found) - len(survivors)
    print(f"killed {killed} of {len(found)} ({100 * killed / max(len(found), 1):.0f} %)")


if __name__ == "__main__":
    main()
