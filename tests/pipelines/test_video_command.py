"""``kalpana generate --model video`` with the shipped weights: every option of a video request."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner, Result

from kalpana.cli.main import app
from kalpana.media import read_receipt, read_video
from kalpana.pipelines import load

pytestmark = pytest.mark.slow
pytest.importorskip("av")
SHORT = ["--seconds", "0.625", "--fps", "8", "--size", "64x64", "--seed", "1", "--steps", "2"]
MODEL = ["--model", "video", "--device", "cpu"]


def kalpana(*arguments: str) -> Result:
    done = CliRunner().invoke(app, list(arguments))
    assert done.exit_code == 0, done.stderr
    return done


@pytest.fixture
def made(tmp_path: Path) -> list[str]:
    return [*MODEL, *SHORT, "--out", str(tmp_path)]


def frames(path: str | Path) -> np.ndarray:
    return np.stack([np.asarray(frame) for frame in read_video(Path(path))]).astype(int)


@pytest.mark.parametrize("prompt", ["a red car moving to the right", "लाल कार दाईं ओर जा रही है"])
def test_a_sentence_becomes_an_mp4_that_tells_how_it_was_made_and_is_made_again(
    made: list[str], prompt: str
) -> None:
    done = kalpana("generate", prompt, *made)
    path = Path(done.stdout.strip())
    assert path.suffix == ".mp4" and frames(path).shape == (5, 64, 64, 3)
    assert "warning" not in done.stderr, "all words are known"
    receipt = json.loads(kalpana("metadata", str(path), "--json").stdout)
    assert receipt["request"]["prompt"] == prompt and receipt["resolved"]["fps"] == 8
    assert kalpana("replay", str(path), "--device", "cpu").stdout.strip() == "the same bytes"


@pytest.mark.parametrize("format", ["webp", "gif", "png"])
def test_animations_and_a_sheet_hold_the_same_video(made: list[str], format: str) -> None:
    path = Path(kalpana("generate", "a cat", *made, "--format", format).stdout.strip())
    assert path.suffix == f".{format}" and read_receipt(path)["resolved"]["format"] == format
    with Image.open(path) as image:
        if format == "png":
            assert image.width * image.height >= 5 * 64 * 64
        else:
            assert image.n_frames == 5  # type: ignore[attr-defined]


def test_pictures_videos_and_the_camera_are_inputs(made: list[str], tmp_path: Path) -> None:
    for name, color in (("first", "red"), ("last", "blue")):
        Image.new("RGB", (64, 64), color).save(tmp_path / f"{name}.png")
    first, last = (["--image", str(tmp_path / "first.png")],
                   ["--last-image", str(tmp_path / "last.png")])  # fmt: skip
    lossless = [*made, "--format", "webp"]
    plain = kalpana("generate", "a cat", *lossless).stdout.strip()
    found = {"plain": frames(plain)}
    for name, options in (
        ("first", first),
        ("last", last),
        ("both", [*first, *last]),
        ("camera", ["--camera", "pan left"]),
        ("strength", ["--video", plain, "--strength", ".5"]),
    ):
        found[name] = frames(kalpana("generate", "a cat", *options, *lossless).stdout.strip())
        assert found[name].shape == (5, 64, 64, 3), name
        others = [other for other in found if other != name]
        assert all(np.abs(found[other] - found[name]).max() > 8 for other in others), name
    for name, red, blue in (("first", 0, None), ("last", None, 4), ("both", 0, 4)):
        for frame, channel in ((red, 0), (blue, 2)):
            if frame is not None:
                colors = found[name][frame].mean((0, 1))
                assert colors[channel] > 200 and sum(colors) - colors[channel] < 60, name
    longer = kalpana("generate", "a cat", "--video", plain, "--extend", "1.0", *MODEL, "--steps",
                     "2", "--seed", "1", "--format", "webp", "--out", str(tmp_path))  # fmt: skip
    assert frames(longer.stdout.strip()).shape == (5 + 8, 64, 64, 3)
    assert np.array_equal(frames(longer.stdout.strip())[:5], found["plain"])


def test_previews_are_frames_and_the_time_left_is_told() -> None:
    steps = list(
        load("video", "cpu").generate("a cat", seed=1, steps=3, seconds=0.625, size="64x64")
    )
    assert [step.index for step in steps] == [1, 2, 3, 4]
    for step in steps[:-1]:
        assert step.preview is not None and step.preview.shape[:3] == (1, 2, 3)
        assert step.eta is not None and step.eta > 0 and step.total == 4


CANCEL = """
import os, signal, sys
from kalpana.models.video_dit import VideoDiT
forward = VideoDiT.forward
def once(*arguments):
    os.kill(os.getpid(), signal.SIGINT)
    VideoDiT.forward = forward
    return forward(*arguments)
VideoDiT.forward = once
from kalpana.cli.main import app
app(sys.argv[1:])
"""


def test_ctrl_c_cancels_between_two_steps(made: list[str], tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", CANCEL, "generate", "a cat", *made],
        capture_output=True, text=True, timeout=500,
    )  # fmt: skip
    assert done.returncode == 128 + signal.SIGINT
    assert "stopped: 0 of 1 pictures were finished" in done.stderr
    assert "Traceback" not in done.stderr and not [*tmp_path.glob("*.mp4")]
