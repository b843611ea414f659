"""Captions of hands, in either language."""

from __future__ import annotations

import random

from kalpana.world.kinds.hands.english import english_caption
from kalpana.world.kinds.hands.hindi import hindi_caption
from kalpana.world.scene import Hand, Scene


def caption(scene: Scene, language: str, form: str, rng: random.Random) -> str:
    """Caption of a hand scene, in English ("en") or Hindi.

    It gives each hand's count of raised fingers by number or by the gesture's name, and in some
    captions skin, look and background.
    """
    hands = [item.sprite for item in scene.objects if isinstance(item.sprite, Hand)]
    return (english_caption if language == "en" else hindi_caption)(scene, hands, form, rng)
