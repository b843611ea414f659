"""Captions of puppets, in either language."""

from __future__ import annotations

import random

from kalpana.world.kinds.puppets.english import english_caption
from kalpana.world.kinds.puppets.hindi import hindi_caption
from kalpana.world.scene import Puppet, Scene


def caption(scene: Scene, language: str, form: str, rng: random.Random) -> str:
    """Caption of a puppet scene, in English ("en") or Hindi.

    It names each puppet's pose, in some captions its clothes, and the positions of two puppets.
    """
    objects = sorted(scene.objects, key=lambda item: item.group)
    cast = [
        (item.sprite, group)
        for item, group in zip(objects, scene.groups, strict=True)
        if isinstance(item.sprite, Puppet)
    ]
    return (english_caption if language == "en" else hindi_caption)(scene, cast, form, rng)
