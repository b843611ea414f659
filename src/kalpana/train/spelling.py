"""Signs to learn letters from: as the world has them, but most words of its short dictionary give way to letters at random, since who has
only few words to read or to draw soon knows these by heart, and guesses."""

from __future__ import annotations

import random
import re
from dataclasses import replace
from functools import cache

from kalpana.world.kinds import signs
from kalpana.world.scene import Scene, Sign

RESPELT = 0.75  # of the signs with a word of the dictionary; it is short, and a reader that knows it by heart guesses
DEVANAGARI = 0.75  # of those, in the script that has more to tell apart
SMALL = (12.0, 18.0)  # pixels of a 128 px picture that their letters are tall
CLUSTER = re.compile("[अ-ह]़?(?:्[क-ह]़?)*[ा-ौँंः]*")  # what stands together in Devanagari


@cache
def clusters() -> tuple[str, ...]:
    """The clusters of the Hindi words that may be learned from."""
    known = (word for word in signs.words()["hi"] if signs.split_of(word) == "train")
    return tuple(sorted({cluster for word in known for cluster in CLUSTER.findall(word)}))


def box_of(scene: Scene) -> tuple[float, float, float, float]:
    """Where the sign of a scene is: x0, y0, x1, y1 in the unit square."""
    (thing,) = (thing for thing in scene.things if isinstance(thing.sprite, Sign))
    assert isinstance(thing.sprite, Sign)
    across, down = (thing.size * share / 2 for share in signs.extent(thing.sprite))
    return thing.x - across, thing.y - down, thing.x + across, thing.y + down


def respelt(scene: Scene, rng: random.Random) -> Scene:
    """The scene, and at times other letters, at random, where its sign had a word of the dictionary. Dev and test keep their own."""
    (k,) = (k for k, thing in enumerate(scene.things) if isinstance(thing.sprite, Sign))
    old = scene.things[k]
    assert isinstance(old.sprite, Sign)
    if all(old.sprite.text not in words for words in signs.words().values()) or rng.random() >= RESPELT:
        return scene
    if rng.random() < DEVANAGARI:
        text = "".join(rng.choice(rng.choice((signs.SYLLABLES, clusters()))) for _ in range(rng.randint(1, 4)))
    else:
        text = "".join(rng.choices(signs.LETTERS, k=rng.randint(2, 6)))
    sign = replace(old.sprite, text=text)
    size = rng.uniform(*SMALL) / 128 / signs.letter_share(sign)
    width, height = (size * share for share in signs.extent(sign))
    room = 1 - 2 * signs.MARGIN
    if signs.split_of(text) != "train" or width > room or (len(scene.things) > 1 and height > old.size * signs.extent(old.sprite)[1]):
        return scene
    x, y = (min(max(place, side / 2 + signs.MARGIN), 1 - side / 2 - signs.MARGIN) for place, side in ((old.x, width), (old.y, height)))
    things = list(scene.things)
    things[k] = replace(old, sprite=sign, x=x, y=y, size=size)
    return replace(scene, things=tuple(things))
