"""Grids: every combination once, legends, mistakes before any work, and cells that are kept."""

from __future__ import annotations

import itertools
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from typer.testing import CliRunner

import kalpana
from kalpana.cli import app
from kalpana.media import read_receipt
from kalpana.pipelines import grid, last, load
from kalpana.pipelines.diffusion import DiffusionPipeline
from kalpana.request import Request
from kalpana.types import KalpanaError
from kalpana.world.sheet import table


def test_axes_are_read_from_text_and_mappings() -> None:
    assert grid.read_axis("guidance=1, 3,5") == grid.Axis("guidance", ("1", "3", "5"))
    prompts = grid.read_axis("prompt=एक बिल्ली|a cat, asleep")
    assert prompts.values == ("एक बिल्ली", "a cat, asleep") and prompts.label(0) == "एक बिल्ली"
    assert grid.read_axis("guidance-scale=2") == grid.Axis("guidance", ("2",))
    assert grid.read_axis({"steps": [2, 3]}).label(1) == "steps 3"
    assert grid.read_axis("seed=1..3,7, 9..9") == grid.Axis("seed", (1, 2, 3, "7", 9))
    assert grid.read_axis("prompt=1..3|a").values == ("1..3", "a")


def test_every_field_of_whole_numbers_has_ranges() -> None:
    for name, field in Request.model_json_schema()["properties"].items():
        kinds = [field, *field.get("anyOf", ())]
        whole = any(kind.get("type") == "integer" for kind in kinds)
        assert whole == (name in (*grid.WHOLE, *grid.SEVERAL)) or name == "seeds", name


@pytest.mark.parametrize(
    ("axes", "message"),
    [
        ({"x": "guidance"}, "should be FIELD=VALUE,VALUE"),
        ({"x": "guidance=1,,2"}, "should be FIELD=VALUE,VALUE"),
        ({"x": "guidance=1..3"}, "guidance '1..3': should be a number"),
        ({"x": "seed=3..1"}, "range 3..1: should be FIRST..LAST, of 1 to 400 numbers"),
        ({"x": "seed=0..999999999999"}, "range 0..999999999999: should be FIRST..LAST"),
        ({"x": "colour=red"}, "there is no such field"),
        ({"x": "prompt=a dog|a cat"}, "prompt is given twice"),
        ({"x": "n=1,2"}, "use an axis of seed"),
        ({"x": {"seed": []}}, "has no values"),
        ({"x": {}}, "one field with its values"),
        ({"x": "seed=1,2", "y": "seed=3"}, "seed is given twice"),
        ({"x": "seed=1,2", "seed": 4}, "seed is given twice"),
        ({"x": "guidance=1,99"}, "guidance '99': should be at most 30"),
        ({"x": "seed=1", "n": 2}, "leave n and seeds out"),
        ({"x": {"seed": range(30)}, "y": {"steps": range(1, 31)}}, "900 cells is more than 400"),
        ({"x": "strength=0.5"}, "strength needs an image"),
        ({"x": "sampler=euler,eular"}, "sampler 'eular' cannot be used"),
        ({"x": "size=32x32,40x32"}, "size '40x32' cannot be used"),
    ],
)
def test_mistakes_are_one_line_before_any_work(
    axes: dict[str, Any], message: str, folder: Path, tmp_path: Path
) -> None:
    with pytest.raises(KalpanaError) as error:
        kalpana.grid("a cat", model=str(folder), out=tmp_path / "out", **axes)
    assert message in str(error.value) and "\n" not in str(error.value)
    assert not (tmp_path / "out").exists()


def test_a_cell_is_the_picture_of_its_values(
    model: DiffusionPipeline, folder: Path, tmp_path: Path
) -> None:
    done = kalpana.grid(
        x="guidance=1,9",
        y={"seed": [4, 5]},
        z="prompt=एक बिल्ली|a dog",
        model=str(folder),
        steps=2,
        out=tmp_path / "cells",
    )
    assert len(done.sheets) == 2 and len(done.outputs) == 8
    places = itertools.product(("एक बिल्ली", "a dog"), (4, 5), (1, 9))
    for output, (prompt, seed, guidance) in zip(done.outputs, places, strict=True):
        (alone,) = last(model.generate(prompt, seed=seed, guidance=guidance, steps=2)).outputs
        assert output.image.tobytes() == alone.image.tobytes()
        assert output.path is not None
        assert read_receipt(output.path)["resolved"]["guidance"] == guidance


def test_finished_cells_are_kept_and_others_are_drawn(folder: Path, tmp_path: Path) -> None:
    def draw(guidance: str) -> set[Path]:
        kalpana.grid("a cat", x=guidance, model=str(folder), steps=2, out=tmp_path)
        return set(tmp_path.iterdir())

    first = draw("guidance=1,3")
    before = {path: path.stat().st_mtime_ns for path in first}
    assert draw("guidance=3,1") == first and len(draw("guidance=1,5")) == 3
    assert {path: path.stat().st_mtime_ns for path in first} == before
    damaged = sorted(first)[0]
    damaged.write_bytes(b"half a picture")
    assert len(draw("guidance=1,3")) == 4  # beside the damaged file, which is left alone
    assert damaged.read_bytes() == b"half a picture"


def test_models_are_loaded_one_after_another(folder: Path) -> None:
    planned = grid.plan("a", {"model": ["one", "two"]}, "seed=1,2")
    assert [request.model for request in grid._by_model(planned).values()] == [
        "one",
        "one",
        "two",
        "two",
    ]
    assert Request(prompt="a", model="one", seed="1") == planned.requests[0, 0, 0]  # type: ignore[arg-type]


def test_the_sheet_shows_every_cell_below_its_legend() -> None:
    colours = [[(255, 0, 0), (0, 255, 0)], [(0, 0, 255), (9, 9, 9)]]
    rows = [[Image.new("RGB", (128, 128), each) for each in row] for row in colours]
    sheet = table(rows, ["guidance 1", "एक बिल्ली"], ["seed 1", "seed 2"], "sampler euler")
    colors = sheet.getcolors(1 << 20)
    assert colors is not None
    counts = {colour: n for n, colour in colors}
    assert all(counts[each] >= 128 * 128 for row in colours for each in row)
    legend = sheet.crop((0, 0, sheet.width, 40)).convert("L")
    assert legend.getextrema()[0] < 80  # type: ignore[operator]
    other = table(rows, ["guidance 1", "एक बिल्लियाँ"], ["seed 1", "seed 2"], "sampler euler")
    assert other.tobytes() != sheet.tobytes()


@pytest.mark.slow
def test_the_command_prints_cells_and_sheets(folder: Path, tmp_path: Path) -> None:
    words = ["grid", "a cat", "--model", str(folder), "--out", str(tmp_path), "--steps", "2"]
    done = CliRunner().invoke(app, [*words, "--x", "seed=1,2", "--set", "upscale=1"])
    assert done.exit_code == 0, done.stderr
    *cells, sheet = map(Path, done.stdout.split("\n")[:-1])
    assert len(cells) == 2 and len(read_receipt(sheet)["sheet"]) == 2
    again = CliRunner().invoke(app, [*words, "--x", "seed=1..2", "--set", "upscale=1"])
    assert again.stdout == done.stdout, "a finished grid was written again"
    other = CliRunner().invoke(app, [*words, "--x", "seed=2,1", "--set", "upscale=1"])
    assert Path(other.stdout.split("\n")[-2]).is_file() and str(sheet) not in other.stdout
    assert set(tmp_path.iterdir()) == {*cells, sheet, Path(other.stdout.split("\n")[-2])}
    for extra, message in (
        ([], "there is no axis"),
        (["--x", "seed=1", "--set", "steps"], "should be FIELD=VALUE"),
        (["--x", "seed=1", "--set", "steps=4"], "steps is given twice"),
        (["--x", "seed=1", "--set", "stepz=4"], "did you mean 'steps'"),
    ):
        done = CliRunner().invoke(app, [*words, *extra])
        assert done.exit_code == 2 and message in done.stderr and done.stderr.count("\n") == 1


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGINT for one process")
def test_an_interrupted_grid_keeps_its_cells_and_goes_on(folder: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "kalpana", "grid", "a cat", "--model", str(folder)]
    command += ["--x", "steps=2,3,1000", "--out", str(tmp_path)]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=dict(os.environ)
    ) as run:
        assert run.stdout is not None
        kept = [Path(run.stdout.readline().strip()) for _ in range(2)]
        run.send_signal(signal.SIGINT)
        _, stderr = run.communicate()
    assert run.returncode == 130 and "stopped: 2 of 3 cells are finished" in stderr
    times = [path.stat().st_mtime_ns for path in kept]
    kalpana.grid("a cat", x="steps=2,3", model=str(folder), out=tmp_path)
    assert set(tmp_path.iterdir()) == set(kept)
    assert [path.stat().st_mtime_ns for path in kept] == times
    assert load(str(folder)).name == "tiny"
