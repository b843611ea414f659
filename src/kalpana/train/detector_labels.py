"""What a detector may call a thing: the core classes, any other object, a hand by its raised fingers, a figure by its pose, a sign."""

from __future__ import annotations

import math
from functools import cache

from kalpana.train.patch_labels import classes
from kalpana.world import atlas
from kalpana.world.defaults import own_facing
from kalpana.world.kinds import hands, puppets
from kalpana.world.lexicon import lexicon
from kalpana.world.scene import Broken, Hand, Puppet, Scene, SceneObject, Sign

OTHER, SIGN = "other", "sign"
UPRIGHT = (
    0.7  # least cosine of the angle by which something may be turned and still face to one side
)


@cache
def labels() -> tuple[str, ...]:
    """All labels, in their order: ids of core classes, OTHER, "0 fingers" to "5 fingers", the poses, SIGN."""
    return (*classes(), OTHER, *(f"{n} fingers" for n in range(6)), *puppets.POSES, SIGN)


@cache
def numbers() -> dict[str, int]:
    """The number of each label."""
    return {label: k for k, label in enumerate(labels())}


SIDES = ("left", "right")


def facing(scene: Scene, item: SceneObject) -> str | None:
    """Where something faces in the picture: "left", "right", or "" where it faces the viewer; None where nobody knows, as its class was
    not checked, it is broken, or it is turned so far that neither word fits."""
    art = item.sprite
    if abs(math.cos(math.radians(item.angle))) < UPRIGHT:
        return None
    if isinstance(art, Puppet):
        own: str | None = "right" if art.pose in puppets.FACING else ""
    elif isinstance(art, int) and lexicon()[scene.groups[item.group].concept].facing:
        own = own_facing(scene.groups[item.group].concept, atlas.load().sprites[art].style) or ""
    else:
        return None
    if not own:
        return own
    turned = item.flip != (math.cos(math.radians(item.angle)) < 0)
    return own if not turned else SIDES[1 - SIDES.index(own)]


def label(scene: Scene, item: SceneObject) -> str | None:
    """What the thing is to be called; None for a broken sprite or a malformed hand, which is none of them."""
    art = item.sprite
    if isinstance(art, Broken) or (isinstance(art, Hand) and art.flaw):
        return None
    if isinstance(art, Hand):
        return f"{hands.count(art)} fingers"
    if isinstance(art, Puppet):
        return art.pose
    if isinstance(art, Sign):
        return SIGN
    concept = scene.groups[item.group].concept
    return concept if concept in classes() else OTHER
