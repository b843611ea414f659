"""Tests of videos: captions agree with the motion in the pixels; every frame has its truth."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch
from scipy import ndimage

from kalpana.world.render import render
from kalpana.world.scene import Scene
from kalpana.world.video import (
    CAMERAS,
    DIRECTIONS,
    EVENTS,
    FAST,
    SLOW,
    Videos,
    VideoScene,
    caption,
    events,
    speed,
)

VIDEOS = Videos(seed=2)
SIDE = 64


def of(event: str, n: int, start: int = 0) -> Iterator[VideoScene]:
    """The first n videos of an event."""
    rng, found = random.Random(f"{event}/{start}"), 0
    while found < n:
        clip = events._sample(rng, event)
        if clip is not None:
            found += 1
            yield clip


def masks(clip: VideoScene, times: tuple[float, ...], side: int = SIDE) -> torch.Tensor:
    """Visible masks of each object at these times: (t, n, side, side)."""
    drawn = render([clip.at(t) for t in times], side, masks=True)
    assert drawn.masks is not None
    return torch.stack(drawn.masks)


def centre(mask: torch.Tensor) -> tuple[float, float]:
    y, x = mask.nonzero().float().mean(0).tolist()
    return x / mask.shape[1], y / mask.shape[0]


def test_a_clip_is_its_frames_and_depends_on_its_index_alone() -> None:
    sample = VIDEOS[3]
    clip = sample.truth.video
    assert (
        sample.frames.shape == (clip.frames, 3, SIDE, SIDE)
        and 8 <= clip.frames <= 64
        and 8 <= clip.fps <= 24
    )
    assert (
        torch.equal(sample.frames, Videos(seed=2)[3].frames)
        and sample.caption == Videos(seed=2)[3].caption
    )
    for k in (0, clip.frames // 2, clip.frames - 1):
        assert torch.equal(sample.frames[k], render([clip.scenes()[k]], SIDE).pixels[0])
    assert (
        sample.truth.masks.shape[:2]
        == sample.truth.boxes.shape[:2]
        == (clip.frames, len(clip.scene.objects))
    )


def test_every_event_and_every_move_of_the_camera_happens() -> None:
    seen = [VIDEOS.video(i) for i in range(1200)]
    assert {clip.event for clip in seen} == set(EVENTS)
    assert {clip.word for clip in seen if clip.event == "camera"} == set(CAMERAS)
    assert {clip.frames for clip in seen} & {8, 9} and max(clip.frames for clip in seen) == 64


@pytest.mark.parametrize("event", ["move", "arc"])
def test_things_go_where_and_as_fast_as_is_said(event: str) -> None:
    for clip in of(event, 25):
        first, last = (centre(m[0]) for m in masks(clip, (0.0, 1.0)))
        dx, dy = last[0] - first[0], last[1] - first[1]
        ux, uy = DIRECTIONS[clip.word]
        along, across = dx * ux + dy * uy, abs(dx * uy) + abs(dy * ux)
        assert along > 0.05 and across < 0.03, f"{clip.word}: moved by {dx:.2f}, {dy:.2f}"
        measured = along / clip.seconds
        low, high = {
            "slow": (0.0, SLOW[1] + 0.03),
            "fast": (FAST[0] - 0.03, 2.0),
            "": (SLOW[1] - 0.03, FAST[0] + 0.03),
        }[speed(clip)]
        assert low <= measured <= high


def test_an_arc_is_higher_in_the_middle() -> None:
    for clip in of("arc", 10):
        first, middle, last = (centre(m[0])[1] for m in masks(clip, (0.0, 0.5, 1.0)))
        assert middle < min(first, last) - 0.15


def test_growing_and_shrinking_change_the_area() -> None:
    for event, bound in (("grow", 2.2), ("shrink", 1 / 2.2)):
        for clip in of(event, 10):
            first, last = (m[0].sum().item() for m in masks(clip, (0.0, 1.0)))
            assert last / first > bound if event == "grow" else last / first < bound


def test_a_turn_is_a_turn_of_the_pixels() -> None:
    """The first mask, rotated by SciPy by the video's angle, is equal to the later mask.

    Rotation by the opposite angle agrees less. Round objects show no difference, so the sum over
    all videos is compared.
    """
    gain = 0.0
    for clip in of("turn", 12):
        scene_object, angle = clip.scene.objects[0], clip.motions[0].turn * 0.2
        middle = replace(
            clip,
            scene=replace(clip.scene, objects=(replace(scene_object, x=0.5, y=0.5, size=0.8),)),
        )
        first, later = (m[0].float().numpy() for m in masks(middle, (0.0, 0.2), 128))
        right, wrong = (
            ndimage.rotate(first, a, reshape=False, order=1) > 0.5 for a in (angle, -angle)
        )
        same, other = ((turned == (later > 0.5)).mean() for turned in (right, wrong))
        assert same > 0.985
        assert (clip.word == "clockwise") == (angle < 0)
        gain += same - other
    assert gain > 0.3


def test_what_leaves_comes_back_and_what_hides_comes_out() -> None:
    for clip in of("return", 12):
        first, middle, last = masks(clip, (0.0, 0.5, 1.0))[:, 0]
        assert middle.sum() == 0 and torch.equal(first, last)
    for clip in of("hide", 12):
        first, middle, last = masks(clip, (0.0, 0.5, 1.0))
        assert middle[0].sum() < 0.25 * min(first[0].sum(), last[0].sum())
        moved = centre(last[0])[0] - centre(first[0])[0]
        assert moved > 0.3 if clip.word == "right" else moved < -0.3


def test_two_things_swap() -> None:
    for clip in of("swap", 12):
        first, last = masks(clip, (0.0, 1.0))
        for one, two in ((0, 1), (1, 0)):
            assert abs(centre(first[one])[0] - centre(last[two])[0]) < 0.06


def background(clip: VideoScene, t: float) -> torch.Tensor:
    """The image without its objects."""
    scene = clip.at(t)
    return render([Scene((), (), scene.background)], SIDE).pixels[0]


def test_the_camera_moves_the_background_as_is_said() -> None:
    """The camera's path is the pixel shift that best maps the first background to the last."""
    seen = set()
    for clip in of("camera", 60):
        if not clip.word.startswith("pan"):
            continue
        first, last = background(clip, 0.0), background(clip, 1.0)
        want = (round(-clip.camera.dx * SIDE), round(-clip.camera.dy * SIDE))
        axis, by = (2, want[0]) if want[0] else (1, want[1])
        errors = {}
        for shift in range(-24, 25):
            keep = (
                slice(max(shift, 0), SIDE + min(shift, 0)),
                slice(max(-shift, 0), SIDE + min(-shift, 0)),
            )
            cut = [slice(None)] * 3
            cut[axis] = keep[0]
            seen_last = last[tuple(cut)]
            cut[axis] = keep[1]
            errors[shift] = (seen_last - first[tuple(cut)]).abs().mean().item()
        best = min(errors.values())
        assert errors[by] < best + 0.02, f"{clip.word}: shift {by} expected"
        sign = {"left": 1, "right": -1, "up": 1, "down": -1}[clip.word.split()[1]]
        assert by * sign > 0
        seen.add(clip.word)
    assert len(seen) == 4


@pytest.mark.slow
def test_zoom_and_roll() -> None:
    for clip in of("camera", 60):
        first, last = (m[0] for m in masks(clip, (0.0, 1.0), 128))
        inside = not (last[0].any() or last[-1].any() or last[:, 0].any() or last[:, -1].any())
        if clip.word.startswith("zoom") and inside:
            ratio = last.sum() / first.sum()
            assert (ratio > 1.5) if clip.word == "zoom in" else (ratio < 0.7)
            assert abs(ratio - clip.camera.zoom**2) < 0.15 * clip.camera.zoom**2
        if "clockwise" in clip.word:  # a clockwise camera turns the image counter-clockwise
            assert (clip.camera.turn > 0) == (clip.word == "clockwise")


def test_near_things_shift_more_under_parallax() -> None:
    found = 0
    for clip in of("camera", 160):
        if clip.camera.parallax:
            (n0, f0), (n1, f1) = (
                [(t.x, t.y) for t in clip.at(time).objects] for time in (0.0, 1.0)
            )
            near, far = (abs(b[0] - a[0]) + abs(b[1] - a[1]) for a, b in ((n0, n1), (f0, f1)))
            assert near > far > abs(clip.camera.dx) + abs(clip.camera.dy)
            found += 1
    assert found > 5


@pytest.mark.parametrize("language", ["en", "hi"])
def test_captions_say_the_direction_and_no_other(language: str) -> None:
    words = {
        "en": {
            "left": "left",
            "right": "right",
            "up": "up",
            "down": "down",
            "clockwise": " clockwise",
        },
        "hi": {"left": ("बाईं", "दाएँ से बाएँ"), "right": ("दाईं", "बाएँ से दाएँ")},
    }
    for event in ("move", "hide", "solid"):
        for k, clip in enumerate(of(event, 30)):
            for form in ("short", "natural", "dense"):
                said = caption(clip, language, form, random.Random(k))
                if clip.word not in ("left", "right"):
                    continue
                other = "left" if clip.word == "right" else "right"
                if language == "en":
                    said = (
                        said.replace("from left to right", "right")
                        .replace("from right to left", "left")
                        .replace("upright", "")
                    )
                    assert clip.word in said.lower() and other not in said.lower(), said
                else:
                    assert any(w in said for w in words["hi"][clip.word]) and not any(
                        w in said for w in words["hi"][other]
                    ), said


@pytest.mark.slow
def test_dev_pairs_are_never_trained_on() -> None:
    def pairs(split: str) -> set[tuple[object, ...]]:
        every = (Videos(7, split).video(i).scene for i in range(500))
        return {
            tuple(sorted((g.concept, str(g.color)) for g in s.groups))
            for s in every
            if len(s.groups) == 2
        }

    train, dev, test = pairs("train"), pairs("dev"), pairs("test")
    assert dev and train.isdisjoint(dev) and train.isdisjoint(test) and dev.isdisjoint(test)


def test_an_unknown_split_is_an_error() -> None:
    with pytest.raises(ValueError, match="train, dev, test, unseen"):
        Videos(split="validation")


@pytest.mark.slow
def test_the_unseen_split_has_every_event_but_solid() -> None:
    """A solid shows no colour, pair or count, so it cannot show one that is held out."""
    assert {Videos(7, "unseen").video(i).event for i in range(120)} == set(EVENTS) - {"solid"}
