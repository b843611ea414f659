"""What a detector may call a thing: the core classes, any other object, a hand by its raised fingers, a figure by its pose, a sign."""

from __future__ import annotations

from functools import cache

from kalpana.world.kinds import hands, puppets
from kalpana.world.layout import classes
from kalpana.world.scene import Broken, Hand, Puppet, Scene, Sign, Thing

OTHER, SIGN = "other", "sign"


@cache
def labels() -> tuple[str, ...]:
    """All labels, in their order: ids of core classes, OTHER, "0 fingers" to "5 fingers", the poses, SIGN."""
    return (*classes(), OTHER, *(f"{n} fingers" for n in range(6)), *puppets.POSES, SIGN)


@cache
def numbers() -> dict[str, int]:
    """The number of each label."""
    return {label: k for k, label in enumerate(labels())}


def label(scene: Scene, thing: Thing) -> str | None:
    """What the thing is to be called; None for a broken sprite or a malformed hand, which is none of them."""
    art = thing.sprite
    if isinstance(art, Broken) or (isinstance(art, Hand) and art.flaw):
        return None
    if isinstance(art, Hand):
        return f"{hands.count(art)} fingers"
    if isinstance(art, Puppet):
        return art.pose
    if isinstance(art, Sign):
        return SIGN
    concept = scene.groups[thing.group].concept
    return concept if concept in classes() else OTHER
