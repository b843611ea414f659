"""A video model on the prompts of Clips-200: drawing, resuming, floors and the command."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from torch import Tensor
from typer.testing import CliRunner

from kalpana.cli.evaluate import _draw
from kalpana.cli.main import app
from kalpana.evaluate import suites
from kalpana.evaluate.verifiers.observations import Detection, Observation
from kalpana.evaluate.video import drift, scores, suite
from kalpana.evaluate.video.drawn import Drawing, drawn
from kalpana.evaluate.video.suite import VideoPrompt
from kalpana.media import to_images, to_pixels
from kalpana.pipelines import load
from kalpana.types import KalpanaError
from kalpana.understand import encoder
from kalpana.world.grammar import LANGUAGES
from kalpana.world.render import render
from kalpana.world.video import Videos


def prompts() -> list[VideoPrompt]:
    """Two prompts made from training videos of short duration: quick to render and to draw."""
    found = list[VideoPrompt]()
    for i in range(200):
        video = Videos().video(i)
        if video.event == "move" and video.seconds < 1.3 and len(found) < 2:
            text, language, _ = Videos().describe(i)
            found.append(VideoPrompt(text, language, "move", video, "", len(found)))
    return found


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> list[VideoPrompt]:
    chosen = prompts()
    monkeypatch.setattr(suite, "load", lambda dev: chosen)
    monkeypatch.setattr(scores, "CAPTIONS", 20)
    return chosen


@pytest.mark.slow
def test_a_model_is_scored_by_a_command_and_a_stopped_run_goes_on(
    video_folder: Path, tmp_path: Path, few: list[VideoPrompt]
) -> None:
    asked = ["evaluate", "video", str(video_folder), "--side", "16", "--fps", "5", "--steps", "2"]
    asked += ["--out", str(tmp_path / "run")]
    done = CliRunner().invoke(app, asked)
    assert done.exit_code == 0, done.stderr
    report = json.loads((tmp_path / "run" / "report.json").read_text())
    assert set(report) == {"score", "shuffled", "frozen", "nearest", "ceiling"}
    assert report["frozen"]["measured"]["dynamic"]["value"] == 0
    assert (
        "| part | shuffled | frozen | nearest | score (95 %) | ceiling | prompts |" in done.output
    )
    languages = {prompt.language for prompt in few}
    assert set(report["score"]["languages"]["tasks"]) == languages <= set(LANGUAGES)
    first, second = sorted((tmp_path / "run").glob("*.webp"))
    before = first.read_bytes(), second.stat().st_mtime_ns
    first.unlink()
    again = CliRunner().invoke(app, asked)
    assert again.exit_code == 0 and again.stdout == done.stdout
    assert (first.read_bytes(), second.stat().st_mtime_ns) == before
    other = CliRunner().invoke(app, [*asked, "--image"])
    assert other.exit_code == 2 and "holds a run with drawing" in other.stderr


def test_a_video_lasts_as_long_as_the_true_one_and_can_begin_with_its_first_frame(
    video_folder: Path, tmp_path: Path, few: list[VideoPrompt]
) -> None:
    model, prompt = load(str(video_folder), "cpu"), few[0]
    drawing = Drawing("16x16", fps=5, steps=2, image=True)
    (video,) = drawn(model, "tiny", [prompt], drawing, tmp_path / "a", {})
    assert video.fps == pytest.approx(5)
    assert (len(video.frames) - 1) / 5 == pytest.approx(prompt.video.seconds, abs=0.1)
    true = render([prompt.video.at(0)], 16).pixels
    codec = model.codec.image  # type: ignore[attr-defined]
    through = to_pixels(to_images(codec.decode(codec.encode(true)).detach().clamp(-1, 1)))
    assert (video.frames[0] - through[0]).abs().max() < 0.02
    (text,) = drawn(model, "tiny", [prompt], replace(drawing, image=False), tmp_path / "b", {})
    assert (text.frames[0] - through[0]).abs().max() > 0.1


@pytest.mark.slow
def test_a_picture_of_a_picture_suite_is_a_video_of_one_frame(video_folder: Path) -> None:
    model = load(str(video_folder), "cpu")
    prompt = next(each for each in suites.load("spriteeval") if each.language == "en")
    first, second = _draw(model, str(video_folder), prompt, (1, 2), steps=2)
    assert first.image.size == (16, 16) and first.image.tobytes() != second.image.tobytes()
    assert (first.seed, second.seed) == (1, 2) and first.receipt["resolved"]["seconds"] == 0.125


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["default"], "model 'default' makes no videos: name a video model"),
        (["video", "--from-folder", "x"], "leave out the model, or --from-folder"),
        (["--image"], "--steps, --image and --expand are for a model"),
    ],
)
def test_what_cannot_be_scored_is_one_line(
    few: list[VideoPrompt], arguments: list[str], message: str
) -> None:
    done = CliRunner().invoke(app, ["evaluate", "video", *arguments])
    assert done.exit_code == 2 and message in done.stderr and done.stderr.count("\n") == 1


def test_a_size_that_the_model_lacks_is_an_error_before_any_video(
    video_folder: Path, tmp_path: Path, few: list[VideoPrompt]
) -> None:
    model = load(str(video_folder), "cpu")
    with pytest.raises(KalpanaError, match="size '48x48' cannot be used"):
        next(drawn(model, "tiny", few, Drawing("48x48"), tmp_path, {}))


class Middle:
    """A verifier that sees the object in the middle of every frame."""

    def __init__(self, concept: str) -> None:
        self.seen = Observation((Detection(concept, 1.0, (0.25, 0.25, 0.75, 0.75), None),))

    def look(self, pixels: Tensor) -> list[Observation]:
        return [self.seen] * len(pixels)


@pytest.mark.slow
def test_both_ways_of_extending_begin_alike_and_part_when_frames_are_encoded_again(
    video_folder: Path, clip_folder: Path, few: list[VideoPrompt]
) -> None:
    model, prompt = load(str(video_folder), "cpu"), few[0]
    fields: dict[str, Any] = {"fps": 8, "steps": 2, "size": "16x16"}
    asked = fields | {"prompt": prompt.text, "seed": 0}
    start = drift.true_start(prompt, fields)
    one, two = (extend(model, start, 2, asked) for extend in (drift.in_latents, drift.by_frames))
    assert len(one) == len(two) == drift.START + 2 * drift.ADDED
    first = drift.START + drift.ADDED
    assert np.array_equal(one[:first], two[:first]), "the first extension is the same"
    assert not np.array_equal(one[first:], two[first:])
    table = drift.measure(
        model, "tiny", [prompt], Middle(prompt.groups[0].concept), encoder.load(str(clip_folder)),
        1, fields, lambda done, total: None,
    )  # fmt: skip
    assert "| class kept | latent | 1.00 | 1.00 (1.00 to 1.00) |" in table
    rows = {line.split(" | ")[0]: line for line in table.splitlines()}
    assert len(rows) == 2 + len(drift.NAMES) and "nan" not in table


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["clip"], "is of family clip: name one of family video"),
        (["video"], "captioner needs captions_file, from kalpana world recaption"),
        (["video", "--arms", "true,loud"], "arm 'loud' is not one of noisy, short"),
    ],
)
def test_an_ablation_that_cannot_be_is_one_line_before_any_training(
    arguments: list[str], message: str
) -> None:
    asked = ["evaluate", "recaption", *arguments, "--init", "half.safetensors"]
    done = CliRunner().invoke(app, [*asked, "--train-steps", "1"])
    assert done.exit_code == 2 and message in done.stderr and done.stderr.count("\n") == 1
