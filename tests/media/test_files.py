"""Folders with one writer at a time: every command that goes on from a folder refuses a second."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from kalpana.cli.main import app
from kalpana.evaluate import compare, rejection_sampling, run
from kalpana.evaluate.metrics import fidelity
from kalpana.hub import pull
from kalpana.media import locked
from kalpana.train.data_cache import silent
from kalpana.train.loop import train
from kalpana.types import KalpanaError
from kalpana.world.export.export import export
from kalpana.world.export.settings import Settings

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such locks")
HOLDER = """
import fcntl, sys
file = open(sys.argv[1], "a")
fcntl.lockf(file, fcntl.LOCK_EX)
print("locked", flush=True)
sys.stdin.read()
"""
NOTHING: Any = None  # a model, verifier or recipe that is never asked


@pytest.fixture
def busy(tmp_path: Path) -> Iterator[Path]:
    """A folder in which another process works."""
    folder = tmp_path / "vae"
    folder.mkdir()
    with subprocess.Popen(
        [sys.executable, "-S", "-c", HOLDER, str(folder / ".lock")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None and process.stdin is not None
        assert process.stdout.readline() == "locked\n"
        yield folder
        process.stdin.close()


def pulled(out: Path) -> None:
    """Pull a model that Kalpana does not know from a mirror that has only its card."""
    mirror = out.parent / "mirror"
    (mirror / out.name).mkdir(parents=True)
    (mirror / out.name / "card.json").write_text('{"name": "vae", "family": "vae"}')
    pull.pull(out.name, str(mirror), out.parent)


@pytest.mark.parametrize(
    "work",
    [
        lambda out: train(NOTHING, out),
        lambda out: run.run([], NOTHING, {}, NOTHING, out, silent),
        lambda out: compare.compare([], [], (), {}, NOTHING, out, NOTHING),
        lambda out: rejection_sampling.harvest(NOTHING, [], NOTHING, out, silent),
        lambda out: next(fidelity.measure("none", out, 2, True, out, silent)),
        pulled,
    ],
    ids=["train", "evaluate", "compare", "rejection-sampling", "fidelity", "pull"],
)
def test_a_second_process_is_refused_before_any_work(
    work: Callable[[Path], Any], busy: Path
) -> None:
    with pytest.raises(KalpanaError, match=f"another process works in {busy}: wait") as error:
        work(busy)
    assert "\n" not in str(error.value)
    assert [path.name for path in busy.iterdir()] == [".lock"]


def test_an_export_and_a_video_suite_are_refused_too(busy: Path) -> None:
    settings = Settings("coco", "objects", 4)
    (busy / "export.json").write_text(json.dumps(settings.to_json()))
    with pytest.raises(KalpanaError, match=f"another process works in {busy}: wait"):
        export(settings, busy, 1)
    done = CliRunner().invoke(app, ["evaluate", "video", "--limit", "1", "--out", str(busy)])
    assert done.exit_code == 2 and f"another process works in {busy}: wait" in done.stderr
    assert {path.name for path in busy.iterdir()} == {".lock", "export.json"}


def test_the_lock_ends_with_its_block_or_its_process(tmp_path: Path) -> None:
    for _ in range(2):
        with pytest.raises(ZeroDivisionError), locked(tmp_path / "new"):
            raise ZeroDivisionError
    code = f"{HOLDER.replace('sys.stdin.read()', '')}"
    subprocess.run([sys.executable, "-S", "-c", code, str(tmp_path / "new/.lock")], check=True)
    with locked(tmp_path / "new"):
        pass
