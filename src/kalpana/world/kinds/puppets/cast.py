"""The cast of a caption: puppets with their groups, and what a caption says of them."""

from __future__ import annotations

import random
from collections.abc import Sequence

from kalpana.world.defaults import SKIN
from kalpana.world.scene import Group, Puppet

Member = tuple[Puppet, Group]  # of a scene's cast
# Poses whose captions say "to the left"; of the others they say "facing left".
MOVING = {"walking", "running", "crawling", "pointing"}


def named_clothes(form: str, rng: random.Random) -> tuple[bool, bool]:
    """Whether the caption names the shirt and the trousers."""
    if form == "dense":
        return True, True
    shares = (50, 25, 10, 15) if form == "short" else (30, 20, 15, 35)
    return rng.choices(((False, False), (True, False), (False, True), (True, True)), shares)[0]


def alike(cast: Sequence[Member]) -> bool:
    """Whether one phrase can describe both puppets: equal poses and the usual skin."""
    return cast[0][0].pose == cast[1][0].pose and all(puppet.skin == SKIN for puppet, _ in cast)
