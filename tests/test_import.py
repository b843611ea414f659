"""Importing kalpana loads no heavy module and has no side effects."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

HEAVY = "torch", "numpy", "PIL", "pydantic", "typer", "rich", "tokenizers"


def python(code: str, folder: Path) -> str:
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        cwd=folder,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.strip()


@pytest.mark.slow
def test_import_loads_nothing_heavy_makes_no_file_and_starts_no_thread(tmp_path: Path) -> None:
    code = (
        "import sys, threading, kalpana; "
        f"print([n for n in {HEAVY} if n in sys.modules], threading.active_count())"
    )
    assert python(code, tmp_path) == "[] 1"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_the_request_and_the_list_of_models_need_no_torch(tmp_path: Path) -> None:
    code = (
        "import sys, kalpana; kalpana.Request(prompt='a'); kalpana.list_models(); "
        "print('torch' in sys.modules)"
    )
    assert python(code, tmp_path) == "False"


@pytest.mark.slow
def test_the_command_line_offers_its_help_without_torch(tmp_path: Path) -> None:
    code = (
        "import sys, kalpana.cli; "
        "print([n for n in ('torch', 'numpy', 'PIL', 'rich') if n in sys.modules])"
    )
    assert python(code, tmp_path) == "[]"


@pytest.mark.slow
def test_public_names_are_there_and_importing_them_sets_no_switch(tmp_path: Path) -> None:
    code = """
import torch
before = (
    torch.get_num_threads(), torch.is_grad_enabled(), torch.get_default_dtype(),
    torch.are_deterministic_algorithms_enabled(),
)
import kalpana, kalpana.pipelines.diffusion
for name in kalpana.__all__:
    assert callable(getattr(kalpana, name)), name
assert before == (
    torch.get_num_threads(), torch.is_grad_enabled(), torch.get_default_dtype(),
    torch.are_deterministic_algorithms_enabled(),
)
print(kalpana.__version__, set(kalpana.__all__) <= set(dir(kalpana)))
"""
    assert python(code, tmp_path).endswith(" True")
