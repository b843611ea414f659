"""Clips-200: true videos are right in every part, and each change is wrong in its part.

Changes: frozen, reversed, mirrored, slowed, recoloured, lost or doubled. Camera, rotation, tracks
and flicker are compared with closed forms or with another library.
"""

from __future__ import annotations

import json
import math
import random
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from scipy import ndimage
from torch import Tensor
from typer.testing import CliRunner

from kalpana.cli import app
from kalpana.evaluate.run import first
from kalpana.evaluate.verifiers.observations import Box, Detection, Observation
from kalpana.evaluate.video import motion, suite
from kalpana.evaluate.video.files import videos_of
from kalpana.evaluate.video.motion import Track, tracks
from kalpana.evaluate.video.scores import judge, table
from kalpana.evaluate.video.suite import Video, VideoPrompt, load, truth, truth_seen
from kalpana.evaluate.video.verdict import AMOUNTS, Verdict, right
from kalpana.media import save_video, to_images
from kalpana.types import KalpanaError
from kalpana.world.scene import COLORS
from kalpana.world.splits import belongs
from kalpana.world.video import CAMERAS, EVENTS, HINDI_SPEEDS, SPEEDS, camera_motion
from kalpana.world.video import speed as pace_of

PROMPTS = cache(load)
Shown = tuple[VideoPrompt, Tensor, list[Observation]]
BOTH = pytest.mark.parametrize("dev", (False, True), ids=("test", "dev"))


@cache
def some() -> tuple[Shown, ...]:
    """Three true videos of every task with their true observations; a fast one if there is any."""
    tasks: dict[str, list[VideoPrompt]] = {}
    for prompt in PROMPTS(True):
        tasks.setdefault(prompt.task, []).append(prompt)
    chosen = [
        sorted(mine, key=lambda prompt: prompt.pace != "fast")[k]
        for mine in tasks.values()
        for k in (0, len(mine) // 2, -1)
    ]
    return tuple(
        (prompt, truth(prompt.video).frames.half(), truth_seen(prompt.video)) for prompt in chosen
    )


def shown(*tasks: str) -> list[Shown]:
    """The examples of these tasks."""
    return [
        (prompt, frames.float(), seen) for prompt, frames, seen in some() if prompt.task in tasks
    ]


def verdict(of: Shown) -> Verdict:
    prompt, frames, seen = of
    return right(prompt, frames, prompt.video.fps, seen)


def changed(seen: Observation, change: Callable[[Detection], Detection]) -> Observation:
    return Observation(tuple(change(item) for item in seen.objects))


def painted(seen: Observation, color: str) -> Observation:
    return changed(seen, lambda item: replace(item, color=color))


def at(frames: Sequence[int], of: Shown) -> Shown:
    """A video of the frames with these indices."""
    prompt, pixels, seen = of
    return prompt, pixels[list(frames)], [seen[k] for k in frames]


def backwards(of: Shown) -> Shown:
    return at(range(len(of[1]))[::-1], of)


def halved(of: Shown) -> Shown:
    """The video at half speed and of the same length."""
    return at([k // 2 for k in range(len(of[1]))], of)


def frozen(of: Shown) -> Shown:
    return at([0] * len(of[1]), of)


def mirrored(of: Shown) -> Shown:
    def turn(item: Detection) -> Detection:
        x0, y0, x1, y1 = item.box
        return replace(item, box=(1 - x1, y0, 1 - x0, y1))

    return of[0], of[1].flip(-1), [changed(one, turn) for one in of[2]]


# -------------------------------------------------------------------------------------------- suite


@pytest.mark.slow
@BOTH
def test_events_and_cameras_are_asked_for_evenly_in_both_languages_by_turns(dev: bool) -> None:
    prompts = PROMPTS(dev)
    events = {event: 12 for event in EVENTS if event not in ("camera", "solid")} | {"move": 24}
    assert Counter(prompt.task for prompt in prompts) == events | dict.fromkeys(CAMERAS, 10)
    assert [prompt.language for prompt in prompts] == ["en", "hi"] * 100
    for task in (*events, *CAMERAS):
        mine = [prompt for prompt in prompts if prompt.task == task]
        assert Counter(prompt.language for prompt in mine) == dict.fromkeys(
            ("en", "hi"), len(mine) // 2
        )
        assert all(task in (prompt.video.event, prompt.video.word) for prompt in mine)
        words = Counter(prompt.video.word for prompt in mine)
        assert set(words.values()) == {len(mine) // len(words)}, "every direction as often"
    for task in ("move", "arc"):
        assert (
            len(set(Counter(prompt.pace for prompt in prompts if prompt.task == task).values()))
            == 1
        )
    assert sum(prompt.video.camera.parallax for prompt in prompts) == 8


@pytest.mark.slow
@BOTH
def test_prompts_are_of_their_split_and_say_the_pace_that_is_judged(dev: bool) -> None:
    for prompt in PROMPTS(dev):
        assert belongs(prompt.video.scene, "dev" if dev else "test")
        assert prompt.pace == pace_of(prompt.video)
        for pace, words in (SPEEDS if prompt.language == "en" else HINDI_SPEEDS).items():
            if pace and prompt.task in ("move", "arc"):
                assert any(word.strip() in prompt.text for word in words) == (
                    pace == prompt.pace
                ), prompt.text


@pytest.mark.slow
def test_no_prompt_is_asked_twice_in_dev_or_test() -> None:
    both = [*PROMPTS(False), *PROMPTS(True)]
    assert len({prompt.text for prompt in both}) == 400
    assert (
        len({repr((prompt.video.event, prompt.video.word, prompt.groups)) for prompt in both})
        == 400
    )
    assert suite._load.__wrapped__(True)[::9] == tuple(PROMPTS(True)[::9])


def test_amounts_are_those_of_the_worlds_cameras() -> None:
    rng = random.Random(0)
    for word, kind in (
        ("pan left", "x"),
        ("pan down", "y"),
        ("zoom in", "zoom"),
        ("zoom out", "zoom"),
        ("clockwise", "roll"),
    ):
        drawn = [camera_motion(rng, word, False) for _ in range(300)]
        amounts = [
            abs(camera.dx)
            + abs(camera.dy)
            + abs(math.log(camera.zoom))
            + abs(math.radians(camera.turn))
            for camera in drawn
        ]
        low, high = AMOUNTS[kind]
        assert low <= min(amounts) < low * 1.05 and high * 0.95 < max(amounts) <= high


# ----------------------------------------------------------------------------------------- verdicts


@pytest.mark.slow
def test_true_videos_are_right() -> None:
    wrong = [
        (of[0].text, outcome.parts())
        for of in some()
        if not (outcome := verdict((of[0], of[1].float(), of[2]))).right
    ]
    assert len(wrong) <= 0.05 * len(some()), wrong


@pytest.mark.slow
def test_frozen_videos_are_wrong() -> None:
    for of in some()[::2]:
        outcome = verdict(frozen((of[0], of[1].float(), of[2])))
        assert (
            not outcome.right
            and not outcome.moving
            and outcome.dynamic == 0
            and outcome.flicker < 1e-6
        ), of[0].text
        asked = set(outcome.parts()) & {"direction", "speed", "path", "camera"}
        assert asked and not any(outcome.parts()[part] for part in asked), of[0].text


@pytest.mark.slow
def test_reversed_and_mirrored_videos_go_the_wrong_way() -> None:
    for of in shown("move", "arc", "turn", "hide"):
        assert verdict(backwards(of)).direction is False, of[0].text
    for of in shown("move", "arc", "turn", "hide", "return"):
        assert verdict(mirrored(of)).direction is (of[0].video.word in ("up", "down")), of[0].text
    for of in shown("grow", "shrink"):
        assert verdict(backwards(of)).path is False and verdict(mirrored(of)).path is True
    for of in shown(*CAMERAS)[::2]:
        assert verdict(backwards(of)).camera is False, of[0].text
        assert verdict(mirrored(of)).camera is (
            of[0].task.split()[-1] in ("up", "down", "in", "out")
        ), of[0].text


@pytest.mark.slow
def test_half_as_fast_is_not_fast() -> None:
    quick = [of for of in shown("move", "arc") if of[0].pace == "fast"]
    assert quick
    for of in quick:
        prompt, frames, seen = of
        assert verdict(of).speed is True
        assert right(prompt, frames, prompt.video.fps / 2, seen).speed is False, prompt.text
    for of in shown("return", "swap"):
        assert verdict(halved(of)).path is False, of[0].text


@pytest.mark.slow
def test_other_colors_are_wrong_colors() -> None:
    found = 0
    for prompt, frames, seen in some():
        if any(group.color for group in prompt.groups):
            swap = [
                changed(
                    one,
                    lambda item: replace(item, color=COLORS[COLORS.index(item.color or "red") - 1]),
                )
                for one in seen
            ]
            outcome = right(prompt, frames.float(), prompt.video.fps, swap)
            assert outcome.colors is False and outcome.objects is True and not outcome.right, (
                prompt.text
            )
            found += 1
    assert found >= 10


@pytest.mark.slow
def test_what_comes_back_in_another_color_is_not_the_same() -> None:
    for prompt, frames, seen in shown("return", "hide"):
        late = len(seen) // 2
        other = [painted(one, "red" if k < late else "blue") for k, one in enumerate(seen)]
        assert right(prompt, frames, prompt.video.fps, other).identity is False, prompt.text
        same = [painted(one, "red") for one in seen]
        assert right(prompt, frames, prompt.video.fps, same).identity is True, prompt.text
        gone = [
            Observation(one.objects if k < late else one.objects[1:]) for k, one in enumerate(seen)
        ]
        assert right(prompt, frames, prompt.video.fps, gone).identity is False, prompt.text


@pytest.mark.slow
def test_lost_and_doubled_things_are_wrong_things() -> None:
    for prompt, frames, seen in shown(
        "move", "bounce", "grow", "turn", "swap", "pan up", "clockwise"
    )[::2]:
        lost = [
            Observation(one.objects if 2 * k < len(seen) else one.objects[1:])
            for k, one in enumerate(seen)
        ]
        twice = [
            Observation((*one.objects, replace(one.objects[0], box=(0.02, 0.02, 0.2, 0.2))))
            for one in seen
        ]
        other = [changed(one, lambda item: replace(item, concept="none")) for one in seen]
        for wrong in (lost, twice, other):
            outcome = right(prompt, frames, prompt.video.fps, wrong)
            assert outcome.objects is False and not outcome.right, prompt.text
    for prompt, frames, seen in shown("return", "hide"):
        twice = [Observation((*one.objects, *one.objects)) for one in seen]
        assert right(prompt, frames, prompt.video.fps, twice).objects is False, prompt.text


@pytest.mark.slow
def test_a_video_needs_a_sight_of_every_frame_and_a_square() -> None:
    prompt, frames, seen = shown("move")[0]
    with pytest.raises(KalpanaError, match="give what is seen in each"):
        right(prompt, frames, 8, seen[1:])
    with pytest.raises(KalpanaError, match="give square frames"):
        right(prompt, frames[..., 1:], 8, seen)
    for bad, fps in ((frames[:1], 8), (frames[0], 8), (frames, 0)):
        with pytest.raises(KalpanaError, match="are no video"):
            right(prompt, bad, fps, seen)


# ------------------------------------------------------------------------------------------- motion


def landscape(side: int = 160) -> np.ndarray:
    """A smooth random picture (side, side, 3) in [-1, 1]."""
    noise = ndimage.gaussian_filter(
        np.random.default_rng(0).normal(size=(side, side, 3)), (5, 5, 0)
    )
    return np.clip(noise / np.abs(noise).max() * 1.5, -1, 1)


def filmed(
    dx: float = 0, dy: float = 0, zoom: float = 1, turn: float = 0, frames: int = 10
) -> Tensor:
    """A camera over the landscape, by scipy: (frames, 3, 64, 64).

    It moves by (dx, dy) in widths of the picture, zooms in by ``zoom``, and turns the picture
    counter-clockwise by ``turn`` degrees. The picture is the central 64 pixels.
    """
    picture, made = landscape(), []
    for t in np.linspace(0, 1, frames):
        angle, scale = math.radians(turn * t), zoom**t
        # Rows and columns of the landscape from those of the picture, both from their middles.
        back = (
            np.array([[math.cos(angle), math.sin(angle)], [-math.sin(angle), math.cos(angle)]])
            / scale
        )
        offset = np.array([79.5 + 64 * dy * t, 79.5 + 64 * dx * t]) - back @ np.array([31.5, 31.5])
        made.append(
            np.stack(
                [
                    ndimage.affine_transform(picture[..., c], back, offset, (64, 64), order=3)
                    for c in range(3)
                ]
            )
        )
    return torch.tensor(np.stack(made), dtype=torch.float32)


EVERYWHERE = torch.ones(10, 1, 64, 64)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("how", "kind", "word", "amount"),
    [
        ({"dx": 0.25}, "x", "pan right", -0.25),
        ({"dx": -0.3}, "x", "pan left", 0.3),
        ({"dy": 0.2}, "y", "pan down", -0.2),
        ({"dy": -0.2}, "y", "pan up", 0.2),
        ({"zoom": 1.7}, "zoom", "zoom in", math.log(1.7)),
        ({"zoom": 1 / 1.7}, "zoom", "zoom out", -math.log(1.7)),
        ({"turn": 40}, "roll", "clockwise", -math.radians(40)),
        ({"turn": -40}, "roll", "counter-clockwise", math.radians(40)),
    ],
)
def test_the_camera_is_found_in_pictures_moved_by_another_library(
    how: dict[str, float], kind: str, word: str, amount: float
) -> None:
    frames = filmed(**how)
    hidden = EVERYWHERE.clone()
    for k in range(10):  # something else moves through the picture
        frames[k, :, 20:40, 3 * k : 3 * k + 20] = 1.0
        hidden[k, :, 18:42, max(3 * k - 2, 0) : 3 * k + 22] = 0
    camera = motion.camera(frames, hidden)
    assert (camera.kind, camera.word) == (kind, word)
    assert float(camera.way[-1]) == pytest.approx(amount, rel=0.04)
    assert torch.allclose(camera.way, torch.linspace(0, amount, 10), atol=0.03 * abs(amount))
    assert motion.flicker(frames, hidden, camera) < 0.02


@pytest.mark.parametrize(
    ("dx", "camera", "amount"), [(0.25, True, True), (0.07, True, False), (-0.25, False, False)]
)
def test_the_amount_of_a_camera_motion_is_judged_apart_from_its_kind(
    dx: float, camera: bool, amount: bool
) -> None:
    prompt = next(prompt for prompt in PROMPTS(True) if prompt.task == "pan right")
    judged = right(prompt, filmed(dx=dx), 8, [Observation(())] * 10)
    assert (judged.camera, judged.amount) == (camera, amount)


def test_a_camera_at_rest_is_still_though_pixels_tremble() -> None:
    frames = filmed() + 0.05 * torch.randn(
        10, 3, 64, 64, generator=torch.Generator().manual_seed(0)
    )
    for pixels in (frames, 0 * frames + 0.3, frames - filmed()):
        camera = motion.camera(pixels, EVERYWHERE)
        assert (
            camera.kind == "still"
            and camera.word == ""
            and not camera.way.any()
            and camera.motion(8) == 0
        )


def test_undoing_the_camera_gives_the_place_back() -> None:
    """A point of the landscape, tracked by its formula, is still after compensation."""
    camera = motion.camera(filmed(turn=40), EVERYWHERE)
    # Counter-clockwise in the picture: y points down.
    angles = torch.linspace(0, math.radians(40), 10)
    seen = torch.stack((0.5 + 0.3 * angles.cos(), 0.5 - 0.3 * angles.sin()), 1)
    assert torch.allclose(
        camera.undo(seen[:, None])[:, 0], torch.tensor([0.8, 0.5]).expand(10, 2), atol=0.01
    )
    panned = motion.camera(filmed(dx=0.25), EVERYWHERE)
    assert panned.motion(9) == pytest.approx(0.25, rel=0.04)


def test_flicker_is_the_change_of_the_background_alone() -> None:
    still = motion.Camera("still", torch.zeros(10))
    frames = torch.zeros(10, 3, 64, 64)
    frames[::2] += 0.1
    frames[:, :, :32] = torch.rand(10, 3, 32, 64)
    hidden = EVERYWHERE.clone()
    hidden[:, :, :32] = 0
    assert motion.flicker(frames, hidden, still) == pytest.approx(0.1, rel=1e-4)
    assert math.isnan(motion.flicker(frames, 0 * hidden, still))


def item(
    concept: str, x: float, y: float, color: str | None = None, half: float = 0.1
) -> Detection:
    box: Box = (x - half, y - half, x + half, y + half)
    return Detection(concept, 0.9, box, color)


def test_tracks_follow_each_thing_of_a_kind() -> None:
    """Two cats pass at different heights; a dog is between them; one cat is lost for a while."""
    seen = []
    for k in range(20):
        objects = [item("cat", 0.1 + 0.04 * k, 0.3, "red"), item("dog", 0.5, 0.5)]
        if not 8 <= k < 12:
            objects.insert(0, item("cat", 0.9 - 0.04 * k, 0.6, "blue"))
        seen.append(Observation((*objects, replace(item("cat", 0.2, 0.9), score=0.2))))
    one, two = tracks(seen, "cat")
    assert set(one.colors) == {"red"} and set(two.colors) == {"blue"}
    assert one.frames.tolist() == list(range(20)) and two.frames.tolist() == [
        *range(8),
        *range(12, 20),
    ]
    assert (
        torch.allclose(one.centres[:, 0], 0.1 + 0.04 * torch.arange(20))
        and len(tracks(seen, "cow")) == 0
    )
    assert one.motion(10) == pytest.approx(0.4) and tracks(seen, "dog")[0].motion(10) == 0


def test_what_grows_moves_by_its_corners() -> None:
    seen = [Observation((item("cat", 0.5, 0.5, half=0.1 + 0.01 * k),)) for k in range(11)]
    (track,) = tracks(seen, "cat")
    assert track.motion(10) == pytest.approx(0.1 * math.sqrt(2), rel=1e-4)
    zoomed = motion.Camera("zoom", torch.log(1 + 0.1 * torch.arange(11)))
    assert track.steady(zoomed).sizes.tolist() == pytest.approx([0.2] * 11)


@pytest.mark.parametrize("degrees", [60.0, -60.0, 150.0, -150.0])
@pytest.mark.parametrize("fps", [8, 24])
def test_a_turn_is_measured_in_pictures_turned_by_another_library(degrees: float, fps: int) -> None:
    picture = np.zeros((64, 64, 3))
    picture[22:42, 22:42] = landscape()[:20, :20]
    count = 2 * fps + 1
    turned = [
        ndimage.rotate(picture, degrees * k / fps, reshape=False, order=1) for k in range(count)
    ]
    frames = torch.tensor(np.stack(turned), dtype=torch.float32).movedim(-1, 1)
    frames[:, :, :10] = 0.5
    track = Track(
        torch.arange(count),
        torch.tensor([[22.0, 22.0, 42.0, 42.0]]).expand(count, 4) / 64,
        (None,) * count,
    )
    assert motion.spin(frames, track, fps) == pytest.approx(degrees, rel=0.1)
    assert motion.spin(frames[:1].expand(count, -1, -1, -1), track, fps) == pytest.approx(
        0, abs=0.01
    )


# --------------------------------------------------------------------------------- tables and files


class Knows:
    """A verifier without error on the frames of the true videos of its prompts."""

    def __init__(self, prompts: Sequence[VideoPrompt]) -> None:
        self.known: dict[bytes, Observation] = {}
        for prompt in prompts:
            frames = truth(prompt.video).frames
            self.known |= {
                frame.numpy().tobytes(): seen
                for frame, seen in zip(frames, truth_seen(prompt.video), strict=True)
            }

    def look(self, pixels: Tensor) -> list[Observation]:
        none = Observation(())  # on the videos of the nearest training captions
        return [self.known.get(frame.numpy().tobytes(), none) for frame in pixels]


@pytest.mark.slow
def test_true_videos_score_as_the_ceiling_and_others_nothing(tmp_path: Path) -> None:
    prompts, done = [prompt for prompt, *_ in shown("move", "grow", "pan left")], []
    out = tmp_path / "runs" / "clips"
    report = judge(
        prompts,
        (truth(prompt.video) for prompt in prompts),
        Knows(prompts),
        out,
        lambda k, n: done.append((k, n)),
    )
    assert report.score == report.ceiling and report.score.tasks.overall.right == 1
    assert report.shuffled.tasks.overall.right == report.frozen.tasks.overall.right == 0
    assert report.frozen.measured["dynamic"].value == 0 < report.score.measured["dynamic"].low
    assert (
        report.frozen.parts.tasks["objects"].right == 1
        and report.shuffled.parts.tasks["objects"].right < 0.5
        and report.nearest.parts.tasks["objects"].right < 0.5
    )
    output = report.markdown()
    for words in (
        "shuffled | frozen | nearest |",
        "| pan left | 0.0 | 0.0 | 0.0 | 100.0 | 100.0 | 3 |",
        "| en |",
        "| hi |",
        "| camera |",
        "dynamic degree",
    ):
        assert words in output, output
    assert (out / "report.md").read_text() == output and done == [(k + 1, 9) for k in range(9)]
    kept = json.loads((out / "report.json").read_text())
    assert (
        kept["score"]["tasks"]["overall"]["right"] == 1
        and kept["frozen"]["measured"]["dynamic"]["value"] == 0
    )
    with Image.open(out / "sheet.png") as sheet:
        assert sheet.size[0] > 2000, "nine clips, each of four frames"
    with pytest.raises(ValueError, match="shorter"):
        judge(prompts, [truth(prompts[0].video)], Knows(prompts[:1]), out, lambda k, n: None)


@pytest.mark.slow
def test_true_videos_are_judged_by_a_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Score and ceiling are equal on the same videos; a folder without a verifier is an error."""
    chosen = [prompt for prompt in load() if prompt.task == "grow"][:2]
    monkeypatch.setattr(suite, "load", lambda dev: chosen)
    asking = ["evaluate", "video", "--out", str(tmp_path)]
    done = CliRunner().invoke(app, asking)
    assert done.exit_code == 0, done.stderr
    table = json.loads((tmp_path / "report.json").read_text())
    assert table["score"] == table["ceiling"] and "| grow |" in done.stdout
    done = CliRunner().invoke(app, [*asking, "--verifier", str(tmp_path)])
    assert done.exit_code == 2 and f"{tmp_path.name}" in done.stderr


@pytest.mark.slow
def test_a_flicker_that_nobody_can_see_is_null_in_the_report(tmp_path: Path) -> None:
    """An object covers the whole picture: no background is left to measure. JSON has no NaN."""
    prompt, frames, seen = shown("grow")[0]

    class Filled:
        def look(self, pixels: Tensor) -> list[Observation]:
            return [Observation((replace(seen[0].objects[0], box=(0.0, 0.0, 1.0, 1.0)),))] * len(
                pixels
            )

    judge([prompt], [Video(frames, 8)], Filled(), tmp_path, lambda k, n: None)
    kept = json.loads((tmp_path / "report.json").read_text(), parse_constant=pytest.fail)
    assert kept["score"]["measured"]["flicker"] == {"value": None, "low": None, "high": None}


def test_a_table_counts_parts_where_they_are_asked_for() -> None:
    prompts = PROMPTS()
    none = Verdict(True, None, None, None, None, None, None, None, True, 1.0, math.nan, 0.5)
    pan, move = (
        next(prompt for prompt in prompts if prompt.task == task) for task in ("pan left", "move")
    )
    verdicts = [
        replace(none, camera=True, amount=False),
        replace(none, direction=False, flicker=0.1),
        replace(none, direction=True, flicker=0.3),
    ]
    made = table([pan, move, move], verdicts)
    assert {name: (share.right, share.prompts) for name, share in made.parts.tasks.items()} == {
        "objects": (1, 3),
        "direction": (0.5, 2),
        "camera": (1, 1),
        "amount": (0, 1),
        "moving": (1, 3),
    }
    assert made.tasks.tasks["move"].right == 0.5 and made.tasks.overall.right == 0.25
    assert sum(share.prompts for share in made.languages.tasks.values()) == 3
    assert (
        made.measured["flicker"].value == pytest.approx(0.2) and made.measured["dynamic"].low == 0.5
    )
    with pytest.raises(KalpanaError, match="needs results"):
        table([], [])


def test_videos_made_elsewhere_are_found_by_number(tmp_path: Path) -> None:
    two = PROMPTS()[:2]
    with pytest.raises(KalpanaError, match=r"no video .* is of prompt 0, .*call it 0000\.mp4"):
        list(videos_of(tmp_path, two))
    frames = filmed(dx=0.25)
    save_video(to_images(frames), 12, tmp_path / "0000.mp4", {})
    folder = tmp_path / "0001"
    folder.mkdir()
    with pytest.raises(KalpanaError, match=r"0001: there are no frames in it"):
        list(videos_of(tmp_path, two))
    for k, image in enumerate(to_images(frames)):
        image.save(folder / f"{k + 1}.png")  # 10.png comes after 9.png
    film, pictures = videos_of(tmp_path, two)
    assert (
        film.fps == 12
        and film.frames.shape == frames.shape
        and (film.frames - frames).abs().mean() < 0.05
    )
    assert pictures.fps == two[1].video.fps and (pictures.frames - frames).abs().max() < 0.005
    assert next(iter(videos_of(tmp_path, two[:1], fps=30))).fps == 12
    assert [video.fps for video in videos_of(tmp_path, two, fps=30)] == [12, 30]


def test_videos_are_found_by_their_number_in_the_suite_whatever_is_left_out(tmp_path: Path) -> None:
    assert [prompt.number for prompt in PROMPTS()] == list(range(200))
    some = first(PROMPTS(), 1)
    last = some[-1]
    assert last.number > len(some)
    save_video(to_images(filmed()), 12, tmp_path / f"{last.number:04d}.mp4", {})
    assert [video.fps for video in videos_of(tmp_path, [last])] == [12]
    (tmp_path / f"{some[0].number:04d}.mp4").write_bytes(b"no film")
    with pytest.raises(KalpanaError, match=f"of prompt {some[1].number}, "):  # before any is read
        next(videos_of(tmp_path, some))


def test_videos_that_cannot_be_read_are_errors(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = PROMPTS()[:1]
    path, folder = tmp_path / "0000.mp4", tmp_path / "0000"
    path.write_bytes(b"no film")
    with pytest.raises(KalpanaError, match=r"0000\.mp4: .*it is no video"):
        list(videos_of(tmp_path, one))
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "av", None)
        with pytest.raises(KalpanaError, match=r"pip install 'kalpana\[video\]'"):
            list(videos_of(tmp_path, one))
    save_video(to_images(filmed()[:1]), 8, tmp_path / "one.mp4", {}).replace(path)
    with pytest.raises(KalpanaError, match=r"0000\.mp4: .*are no video"):
        list(videos_of(tmp_path, one))
    path.unlink()
    folder.mkdir()
    Image.new("RGB", (8, 8)).save(folder / "0.png")
    Image.new("RGB", (9, 9)).save(folder / "1.png")
    with pytest.raises(KalpanaError, match="unlike sizes"):
        list(videos_of(tmp_path, one))
    (folder / "1.png").write_text("no picture")
    with pytest.raises(KalpanaError, match=r"1\.png cannot be read"):
        list(videos_of(tmp_path, one))
    with pytest.raises(KalpanaError, match="give square frames"):
        Video(torch.zeros(2, 3, 8, 9), 8)
