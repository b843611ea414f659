"""Detector labels: core classes, other objects, hands by fingers, figures by pose, and signs."""

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
UPRIGHT = 0.7  # least |cosine| of an object's rotation at which it still faces left or right


@cache
def labels() -> tuple[str, ...]:
    """All labels in order: ids of core classes, OTHER, "0 fingers" to "5 fingers", poses, SIGN."""
    return (*classes(), OTHER, *(f"{n} fingers" for n in range(6)), *puppets.POSES, SIGN)


@cache
def numbers() -> dict[str, int]:
    """Class number of each label, from 0."""
    return {label: k for k, label in enumerate(labels())}


SIDES = ("left", "right")


def facing(scene: Scene, item: SceneObject) -> str | None:
    """Facing of an object in the picture: "left", "right", or "" for the viewer.

    None if unknown: the concept has no checked facing, the sprite is corrupted, or the rotation is
    too large for either word.
    """
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
    """Label of an object; None for a corrupted sprite or a malformed hand."""
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
