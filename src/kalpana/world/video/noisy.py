"""Noisy captions of videos, as alternative texts from the web are: facts left out, facts wrong."""

from __future__ import annotations

import random
from dataclasses import replace

from kalpana.world import grammar
from kalpana.world.lexicon import lexicon
from kalpana.world.scene import BACKDROPS, COLORS, PLACES, STYLES, Background, Group
from kalpana.world.video.captions import caption
from kalpana.world.video.motion import CAMERAS, FAST, SLOW, Motion, VideoScene, speed

DROPPED, WRONG = 0.5, 0.15  # shares of facts
# Of the facts that a natural caption states about half of the time: the background and the speed.
WRONG_OF_STATED = WRONG / DROPPED
OPPOSITE = {
    "left": "right",
    "right": "left",
    "up": "down",
    "down": "up",
    "clockwise": "counter-clockwise",
    "counter-clockwise": "clockwise",
}
STAYING = ("bounce", "grow", "shrink")  # events without a direction


def noisy_caption(video: VideoScene, language: str, rng: random.Random) -> str:
    """Random noisy caption of a video in "en" or "hi".

    Each colour, the style and the event with its direction is left out with probability DROPPED and
    wrong with probability WRONG; background and speed are stated in about half of the captions. An
    object is wrong with probability WRONG, and never left out. Without its event a video has the
    caption of a picture.
    """
    scene = video.scene
    groups = tuple(_group(group, rng) for group in scene.groups)
    style = _fate(rng)
    scene = replace(
        scene,
        groups=groups,
        background=_background(scene.background, rng),
        style=None if style == "drop" else rng.choice(STYLES) if style == "wrong" else scene.style,
    )
    changed, event = replace(video, scene=scene), _fate(rng)
    if event == "drop":
        return grammar.caption(scene, language, "natural", rng)
    if event == "wrong":
        changed = _other_event(changed, rng)
    if speed(changed) and rng.random() < WRONG_OF_STATED:
        changed = _other_speed(changed)
    return caption(changed, language, "natural", rng)


def _fate(rng: random.Random) -> str:
    """What becomes of a fact: "drop", "wrong" or "keep"."""
    chance = rng.random()
    return "drop" if chance < DROPPED else "wrong" if chance < DROPPED + WRONG else "keep"


def _group(group: Group, rng: random.Random) -> Group:
    concept, color = group.concept, group.color
    if rng.random() < WRONG:
        others = [c.id for c in lexicon().values() if c.core and c.id != concept]
        concept = rng.choice(others)
    fate = _fate(rng)
    if color is not None and fate == "wrong":
        color = rng.choice([other for other in COLORS if other != color])
    return replace(group, concept=concept, color=None if fate == "drop" else color)


def _background(background: Background, rng: random.Random) -> Background:
    if rng.random() >= WRONG_OF_STATED:
        return background
    names = PLACES if background.kind == "place" else BACKDROPS
    return replace(background, name=rng.choice([name for name in names if name != background.name]))


def _other_event(video: VideoScene, rng: random.Random) -> VideoScene:
    """The video with another direction, camera motion or event."""
    if video.event == "camera":
        return replace(video, word=rng.choice([word for word in CAMERAS if word != video.word]))
    if video.word:
        return replace(video, word=OPPOSITE[video.word])
    if video.event == "swap":
        return replace(video, event="hide", word=rng.choice(("left", "right")))
    return replace(video, event=rng.choice([event for event in STAYING if event != video.event]))


def _other_speed(video: VideoScene) -> VideoScene:
    """The video with a fast motion in place of a slow one, or the other way round."""
    value = SLOW[0] if speed(video) == "fast" else FAST[1]
    return replace(video, motions=(Motion(dx=value * video.seconds), *video.motions[1:]))
