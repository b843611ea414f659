"""Prompts of suites: each states what its picture must show, and can sample true scenes."""

from __future__ import annotations

import random
import zlib
from dataclasses import dataclass, replace

from kalpana.world.defaults import choose_style
from kalpana.world.kinds import hands, signs
from kalpana.world.layout import unambiguous
from kalpana.world.sample import scene_of
from kalpana.world.scene import (
    Group,
    Hand,
    Scene,
    SceneObject,
    Sign,
)

Groups = tuple[Group, ...]


@dataclass(frozen=True)
class Prompt:
    """A prompt and what its picture must show.

    Either ``groups`` in a ``relation``, or one hand with ``fingers`` raised, or a ``word``. A
    higher count is accepted unless the prompt is ``exact``.
    """

    text: str
    language: str  # "en" or "hi"
    task: str
    groups: Groups
    relation: str | None = None
    place: str | None = None  # one of PLACES
    exact: bool = False
    fingers: int | None = None
    skin: str | None = None  # skin colour of the hand, if the text names it
    word: str | None = None

    def seeds(self, n: int = 4) -> list[int]:
        """The seeds of n pictures: the CRC-32 of "text/0", "text/1" and so on, in UTF-8.

        They follow from the text, so that no seed can be picked for its result.
        """
        return [zlib.crc32(f"{self.text}/{i}".encode()) for i in range(n)]

    def scene(self, rng: random.Random, other_style: float = 0.0) -> Scene:
        """A scene that the prompt describes, in the house style.

        With probability ``other_style`` it is in any other style.
        """
        if self.fingers is not None:
            return _hand(rng, self.fingers, self.skin)
        if self.word is not None:
            return _sign(rng, self.word)
        while True:
            style = choose_style(rng, self.groups, other_style)
            assert style is not None, f"no style has all that {self.text!r} names"
            scene = scene_of(rng, self.groups, self.relation, self.place, style)
            if scene is not None and unambiguous(scene):
                return scene


def _hand(rng: random.Random, fingers: int, skin: str | None) -> Scene:
    """A scene of one hand with this number of raised fingers."""
    while True:
        scene = hands.sample(rng, "test")
        hand = scene.objects[0].sprite
        if (
            len(scene.objects) == 1
            and isinstance(hand, Hand)
            and hands.count(hand) == fingers
            and skin in (None, hand.skin)
        ):
            return scene


def _sign(rng: random.Random, word: str) -> Scene:
    """A scene of one sign with the word on its board.

    The letters are as large as those of the sampled sign, or smaller where the word would not fit.
    """
    while True:
        sampled = signs.sample(rng, "test")
        old = sampled.objects[0].sprite
        if len(sampled.objects) > 1 or not isinstance(old, Sign) or not old.board:
            continue
        sign = replace(old, text=word)
        width, height = signs.extent(sign)
        tall, room = signs.letter_share(sign), 1 - 2 * signs.MARGIN
        wanted = sampled.objects[0].size * signs.letter_share(old) / tall
        size = min(wanted, room / width, room / height)
        if 128 * size * tall >= signs.HEIGHTS[0]:
            half_w, half_h = size * width / 2 + signs.MARGIN, size * height / 2 + signs.MARGIN
            x, y = rng.uniform(half_w, 1 - half_w), rng.uniform(half_h, 1 - half_h)
            return Scene((SceneObject(sign, x, y, size),), sampled.groups, sampled.background)
