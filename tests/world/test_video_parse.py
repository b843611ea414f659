"""The inverse grammar of videos, and captions of videos judged by it."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise

import pytest
from torch import Tensor

from kalpana.evaluate.video.captions import FACTS, judge, measure
from kalpana.world.grammar import FORMS, LANGUAGES
from kalpana.world.video import CAMERAS, DIRECTIONS, EVENTS, Videos, VideoScene, caption
from kalpana.world.video.parse import read

WORLD = Videos(0, "dev", side=16)
VIDEOS = [WORLD.video(i) for i in range(40)]
TURNED = {
    "left": "right", "up": "down", "clockwise": "counter-clockwise", "pan left": "pan right",
    "pan up": "pan down", "zoom in": "zoom out",
}  # fmt: skip
OPPOSITE = TURNED | {b: a for a, b in TURNED.items()}


def captions_of(video: VideoScene, language: str) -> list[str]:
    return [
        caption(video, language, form, random.Random(f"{form}/{k}"))
        for form in FORMS
        for k in range(3)
    ]


@pytest.mark.slow
@pytest.mark.parametrize("language", LANGUAGES)
def test_what_the_world_says_of_its_videos_is_right(language: str) -> None:
    for video in VIDEOS:
        for text in captions_of(video, language):
            assert all(all(fact) for fact in judge(video, text, language).values()), text
    assert {video.event for video in VIDEOS} == set(EVENTS)


@pytest.mark.slow
@pytest.mark.parametrize("language", LANGUAGES)
def test_every_direction_and_camera_of_every_event_is_read(language: str) -> None:
    """Also those that the videos above do not have; the opposite direction is judged wrong."""
    words = {
        "camera": CAMERAS, "move": tuple(DIRECTIONS), "return": tuple(DIRECTIONS),
        "arc": ("left", "right"), "hide": ("left", "right"), "solid": ("left", "right"),
        "turn": ("clockwise", "counter-clockwise"),
    }  # fmt: skip
    for event, choices in words.items():
        first = next(video for video in VIDEOS if video.event == event)
        for word in choices:
            video = replace(first, word=word)
            for text in captions_of(video, language):
                assert all(map(all, judge(video, text, language).values())), text
                wrong = judge(replace(video, word=OPPOSITE[word]), text, language)
                kind = "camera" if event == "camera" else "direction"
                assert wrong[kind] == [False] and all(wrong["things"] + wrong["event"]), text


@pytest.mark.parametrize("language", LANGUAGES)
def test_another_event_is_wrong(language: str) -> None:
    for video, other in pairwise(VIDEOS):
        for text in captions_of(other, language):
            judged = judge(video, text, language)
            assert judged["event"] == [video.event == other.event] or video.event == "hide"


@pytest.mark.parametrize(
    ("text", "language", "events", "cameras"),
    [
        ("a red car moving to the right", "en", [("move", "right", 0)], ()),
        ("A cat moves left behind a tree and comes out again.", "en", [("hide", "left", 0)], ()),
        ("a dog, the camera moves to the left", "en", [], ("pan left",)),
        ("a camera moving to the left", "en", [("move", "left", 0)], ()),
        ("a card with a cat on it turning to the left", "en", [("solid", "left", 0)], ()),
        ("A car flies to the left in an arc.", "en", [("arc", "left", 0)], ()),
        ("लाल कार दाईं ओर जा रही है", "hi", [("move", "right", 0)], ()),
        ("एक बिल्ली घड़ी की दिशा में घूम रही है", "hi", [("turn", "clockwise", 0)], ()),
        ("एक बिल्ली, कैमरा पास आता है", "hi", [], ("zoom in",)),
        ("a cat", "en", [], ()),
        ("", "hi", [], ()),
    ],
)
def test_by_hand(
    text: str, language: str, events: list[tuple[str, str, int]], cameras: tuple[str, ...]
) -> None:
    found = read(text, language)
    assert [(each.event, each.word, each.subject) for each in found.events] == events
    assert found.cameras == cameras


def test_two_events_in_one_caption_are_wrong() -> None:
    video = next(video for video in VIDEOS if video.event == "move")
    text = caption(video, "en", "short", random.Random(0))
    assert judge(video, text, "en")["event"] == [True]
    assert judge(video, f"{text}, a cat growing", "en")["event"] == [False]


def test_a_model_is_set_between_floor_and_ceiling() -> None:
    """A model that says of every video what the world says reaches the ceiling."""
    seen = dict.fromkeys(LANGUAGES, 0)

    def knows(frames: Sequence[Tensor], seconds: Sequence[float], language: str) -> list[str]:
        assert frames[0].shape == (3, 3, 16, 16)
        start = seen[language]
        seen[language] += len(frames)
        assert list(seconds) == [v.seconds for v in VIDEOS[start : start + len(frames)]]
        return [
            caption(VIDEOS[k], language, "natural", random.Random(f"told/{k}"))
            for k in range(start, start + len(frames))
        ]

    lines = measure(knows, 20, WORLD, 3, lambda done, of: None).splitlines()
    assert lines[0].count("|") == 3 + len(FACTS) and len(lines) == 2 + 3 * len(LANGUAGES)
    for k in range(len(LANGUAGES)):
        floor, model, ceiling = (line.split("|")[3:-1] for line in lines[2 + 3 * k : 5 + 3 * k])
        assert model == ceiling and all("100.0 %" in cell for cell in model)
        assert float(floor[0].split()[0]) < 40
