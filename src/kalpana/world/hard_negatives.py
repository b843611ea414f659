"""Hard negatives: scenes with one changed property, whose captions are false of the original image.

For training and evaluating image-text models. A model trained only on negatives with other objects
reads captions as bags of words (Yuksekgonul et al. 2023).
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

from kalpana.world.kinds import hands, puppets, signs
from kalpana.world.scene import COLORS, Art, Hand, Puppet, Scene, Sign
from kalpana.world.splits import belongs
from kalpana.world.world import kind_of

OPPOSITE = {"left of": "right of", "right of": "left of", "above": "below", "below": "above"}
# Relations without an opposite in the grammar: the negative exchanges the two groups.
OTHER_SIDE = {"left": "right", "right": "left"}  # of a facing
ONE_WAY = ("on", "in front of", "nearer than")
MOST = 8  # largest count of one group


def hard_negative(
    scene: Scene, rng: random.Random, split: str | None = "train", first: Sequence[str] = ()
) -> tuple[str, Scene] | None:
    """Hard negative of a scene as (changed property, changed scene), or None if there is none.

    The property is "count", "relation", "color", "colors", "facing", "word", "fingers" or "pose".
    Properties that the scene has are tried in random order, those in ``first`` before the others.
    The changed scene belongs to ``split``, so that captions show no held-out combination. With
    None it may belong to any split: a changed scene of two objects seldom falls into the same small
    split.
    """
    ways = WAYS[kind_of(scene)]
    for name in sorted(rng.sample(list(ways), len(ways)), key=lambda name: name not in first):
        negatives = list(ways[name](scene, split))
        if negatives:
            return name, rng.choice(negatives)
    return None


def _count(scene: Scene, split: str | None) -> Iterator[Scene]:
    """Scenes with one object more or fewer in a group."""
    for k, group in enumerate(scene.groups):
        for count in (group.count - 1, group.count + 1):
            if 1 <= count <= MOST:
                yield from _fitting(split, _with(scene, k, count=count))


def _relation(scene: Scene, split: str | None) -> Iterator[Scene]:
    """The scene with the opposite relation."""
    if scene.relation in OPPOSITE:
        yield from _fitting(split, replace(scene, relation=OPPOSITE[scene.relation]))
    elif scene.relation in ONE_WAY:
        yield from _fitting(split, replace(scene, groups=scene.groups[::-1]))


def _color(scene: Scene, split: str | None) -> Iterator[Scene]:
    """Scenes with another colour for a group that has a stated colour."""
    for k, group in enumerate(scene.groups):
        for color in COLORS:
            if group.color is not None and color != group.color:
                yield from _fitting(split, _with(scene, k, color=color))


def _colors(scene: Scene, split: str | None) -> Iterator[Scene]:
    """The scene with the colours of its two groups exchanged."""
    if len(scene.groups) == 2:
        one, two = scene.groups
        if one.color and two.color and one.color != two.color:
            exchanged = (replace(one, color=two.color), replace(two, color=one.color))
            yield from _fitting(split, replace(scene, groups=exchanged))


def _word(scene: Scene, split: str | None) -> Iterator[Scene]:
    """Scenes with one character of a sign replaced by another of its script, never a vowel sign."""
    for sign in (item.sprite for item in scene.objects if isinstance(item.sprite, Sign)):
        for at, letter in enumerate(sign.text):
            others = signs.LETTERS if letter.isascii() else signs.CONSONANTS
            for other in others if letter in others else "":
                text = sign.text[:at] + other + sign.text[at + 1 :]
                if other != letter and (
                    split is None or len(text) == 1 or signs.split_of(text) == split
                ):
                    yield _drawn(scene, sign, replace(sign, text=text))


def _facing(scene: Scene, split: str | None) -> Iterator[Scene]:
    """Scenes with the opposite facing for a group that has a stated facing."""
    for k, group in enumerate(scene.groups):
        if group.facing is not None:
            opposite = OTHER_SIDE[group.facing]
            yield from _fitting(split, _with(scene, k, facing=opposite))


def _fingers(scene: Scene, split: str | None) -> Iterator[Scene]:
    """Scenes with one finger of a hand raised or folded."""
    for hand in (item.sprite for item in scene.objects if isinstance(item.sprite, Hand)):
        for k in range(5):
            thumb, index, middle, ring, little = (
                up != (finger == k) for finger, up in enumerate(hand.raised)
            )
            other = replace(hand, raised=(thumb, index, middle, ring, little))
            if split is None or hands.held_out(other) == (split == "unseen"):
                yield _drawn(scene, hand, other)


def _pose(scene: Scene, split: str | None) -> Iterator[Scene]:
    """Scenes with another pose of a figure."""
    for figure in (item.sprite for item in scene.objects if isinstance(item.sprite, Puppet)):
        for pose in puppets.POSES:
            if pose != figure.pose and split in (
                None,
                puppets.split_of(pose, figure.shirt, figure.trousers),
            ):
                yield _drawn(scene, figure, replace(figure, pose=pose))


Ways = dict[str, Callable[[Scene, str | None], Iterator[Scene]]]
_OBJECTS: Ways = {
    "count": _count,
    "relation": _relation,
    "color": _color,
    "colors": _colors,
    "facing": _facing,
}
WAYS: dict[str, Ways] = {
    "objects": _OBJECTS,
    "depth": _OBJECTS,
    "paintings": _OBJECTS,
    "text": {"word": _word},
    "hands": {"fingers": _fingers},
    "puppets": {"pose": _pose, "facing": _facing},
}


def _fitting(split: str | None, scene: Scene) -> Iterator[Scene]:
    """The scene if it belongs to the split, else nothing."""
    if split is None or belongs(scene, split):
        yield scene


def _with(scene: Scene, k: int, **changes: object) -> Scene:
    """The scene with changed fields of group k."""
    groups = list(scene.groups)
    groups[k] = replace(groups[k], **changes)  # type: ignore[arg-type]
    return replace(scene, groups=tuple(groups))


def _drawn(scene: Scene, old: Art, new: Art) -> Scene:
    """The scene with the sprite ``old`` replaced by ``new``."""
    objects = tuple(
        replace(item, sprite=new) if item.sprite is old else item for item in scene.objects
    )
    return replace(scene, objects=objects)
