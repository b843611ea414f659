"""Many prompts by Ray Data on this machine, and the same command again."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("ray", reason="needs Ray: pip install 'kalpana[scale]'")

from typer.testing import CliRunner

from kalpana.cli import app
from kalpana.media import read_picture, read_receipt
from kalpana.pipelines import last, load

pytestmark = pytest.mark.filterwarnings("ignore")  # Ray's own


@pytest.fixture(autouse=True)
def _ended() -> Iterator[None]:
    import ray

    yield
    ray.shutdown()


def test_prompts_of_a_file_are_generated_once_and_resumed(folder: Path, tmp_path: Path) -> None:
    prompts = ["a red apple", "एक नीली कार", "a dog", "x" * 10, "two cats"]
    file = tmp_path / "prompts.txt"
    file.write_text("# prompts\n" + "\n".join(prompts) + "\n", encoding="utf-8")
    out = tmp_path / "out"
    command = ["generate", "--file", str(file), "--model", str(folder), "--steps", "2"]
    command += ["--workers", "2", "--out", str(out)]
    done = CliRunner().invoke(app, command)
    assert done.exit_code == 0, done.output
    written = sorted(out.rglob("*.png"))
    assert len(written) == 5
    for k, (path, prompt) in enumerate(zip(written, prompts, strict=True)):
        receipt = read_receipt(path)
        assert receipt["request"]["prompt"] == prompt and receipt["request"]["seed"] == k
        (output,) = last(load(str(folder)).generate(prompt, seed=k, steps=2)).outputs
        assert read_picture(path).tobytes() == output.image.tobytes()
    times = {path: path.stat().st_mtime_ns for path in written}
    gone = written[2].read_bytes()
    written[2].unlink()
    done = CliRunner().invoke(app, command)
    assert done.exit_code == 0 and "4 of 5 prompts are here already" in done.stderr
    assert written[2].read_bytes() == gone
    assert {path: path.stat().st_mtime_ns for path in written if path != written[2]} == {
        path: time for path, time in times.items() if path != written[2]
    }
    done = CliRunner().invoke(app, [*command, "--guidance", "2"])
    assert done.exit_code == 2 and "other settings" in done.stderr
    assert json.loads((out / "bulk.json").read_text())["request"]["steps"] == 2
