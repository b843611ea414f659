"""Minimally wrong words: a scene with one thing about it said otherwise. Its picture stays what it was, its caption becomes false.

They are the hard negatives of whatever has to tell pictures from words (Yuksekgonul et al. 2023: models that only ever tell
scenes apart by what is in them read captions as bags of words).
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
ONE_WAY = (
    "on",
    "in front of",
    "nearer than",
)  # of these the opposite is said by exchanging the things
MOST = 8  # things of a kind


def hard_negative(
    scene: Scene, rng: random.Random, split: str | None = "train", first: Sequence[str] = ()
) -> tuple[str, Scene] | None:
    """What is changed ("count", "relation", "color", "colors", "facing", "word", "fingers" or "pose") and the scene that says so; None
    where nothing can be. Every way that the scene has is as likely, but for those that are to be tried ``first``. What is said belongs to
    the ``split``, so that nothing held out is told; with None it may belong anywhere, for of two objects what is said otherwise seldom
    falls into the same small split."""
    ways = WAYS[kind_of(scene)]
    for name in sorted(rng.sample(list(ways), len(ways)), key=lambda name: name not in first):
        said = list(ways[name](scene, split))
        if said:
            return name, rng.choice(said)
    return None


def _count(scene: Scene, split: str | None) -> Iterator[Scene]:
    """One more, or one fewer, of a kind."""
    for k, group in enumerate(scene.groups):
        for count in (group.count - 1, group.count + 1):
            if 1 <= count <= MOST:
                yield from _fitting(split, _with(scene, k, count=count))


def _relation(scene: Scene, split: str | None) -> Iterator[Scene]:
    """The things the other way round."""
    if scene.relation in OPPOSITE:
        yield from _fitting(split, replace(scene, relation=OPPOSITE[scene.relation]))
    elif scene.relation in ONE_WAY:
        yield from _fitting(split, replace(scene, groups=scene.groups[::-1]))


def _color(scene: Scene, split: str | None) -> Iterator[Scene]:
    """Another colour for a group that has been given one."""
    for k, group in enumerate(scene.groups):
        for color in COLORS:
            if group.color is not None and color != group.color:
                yield from _fitting(split, _with(scene, k, color=color))


def _colors(scene: Scene, split: str | None) -> Iterator[Scene]:
    """The colours of two groups exchanged."""
    if len(scene.groups) == 2:
        one, two = scene.groups
        if one.color and two.color and one.color != two.color:
            yield from _fitting(
                split,
                replace(
                    scene, groups=(replace(one, color=two.color), replace(two, color=one.color))
                ),
            )


def _word(scene: Scene, split: str | None) -> Iterator[Scene]:
    """One character exchanged for another of its script; vowel signs stay where they are."""
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
    """A group that is said to face the other way."""
    for k, group in enumerate(scene.groups):
        if group.facing is not None:
            yield from _fitting(
                split, _with(scene, k, facing={"left": "right", "right": "left"}[group.facing])
            )


def _fingers(scene: Scene, split: str | None) -> Iterator[Scene]:
    """One finger more, or one less."""
    for hand in (item.sprite for item in scene.objects if isinstance(item.sprite, Hand)):
        for k in range(5):
            thumb, index, middle, ring, little = (
                up != (finger == k) for finger, up in enumerate(hand.raised)
            )
            other = replace(hand, raised=(thumb, index, middle, ring, little))
            if split is None or hands.held_out(other) == (split == "unseen"):
                yield _drawn(scene, hand, other)


def _pose(scene: Scene, split: str | None) -> Iterator[Scene]:
    """A figure that does something else."""
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
    if split is None or belongs(scene, split):
        yield scene


def _with(scene: Scene, k: int, **said: object) -> Scene:
    """The scene with its group k said otherwise."""
    groups = list(scene.groups)
    groups[k] = replace(groups[k], **said)  # type: ignore[arg-type]
    return replace(scene, groups=tuple(groups))


def _drawn(scene: Scene, old: Art, new: Art) -> Scene:
    """The scene with another sprite in the place of one."""
    objects = tuple(
        replace(item, sprite=new) if item.sprite is old else item for item in scene.objects
    )
    return replace(scene, objects=objects)
