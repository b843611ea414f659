"""Signs to learn letters from: as the world has them, but most words give way to letters at random, since who has only few words to read or
to draw soon knows these by heart, and guesses; and sheets full of such signs."""

from __future__ import annotations

import random
import re
from dataclasses import replace
from functools import cache
from itertools import count

from kalpana.world import sprites
from kalpana.world.kinds import signs
from kalpana.world.scene import BACKDROPS, COLORS, Background, Group, Scene, SceneObject, Sign

RESPELT = 0.6  # of the signs
DEVANAGARI = 0.75  # of those, in the script that has more to tell apart
SMALL = (12.0, 18.0)  # pixels of a 128 px picture that their letters are tall
CLUSTER = re.compile("[अ-ह]़?(?:्[क-ह]़?)*[ा-ौँंः]*")  # what stands together in Devanagari
VOWELS, MATRAS, NASALS = "अआईउऋए", ("", *"ािीुूृेैोौ"), ("", "", "", "", "ं", "ँ")
DOTTED = "कखगजडढफ"  # consonants that a dot below makes another of
MOST = 6  # signs on a sheet
SIGNS, PLACES = 24, 10  # that are tried for it, and places where each may find room


@cache
def clusters() -> tuple[str, ...]:
    """The clusters of the Hindi words that may be learned from."""
    known = (word for word in signs.words()["hi"] if signs.split_of(word) == "train")
    return tuple(sorted({cluster for word in known for cluster in CLUSTER.findall(word)}))


def cluster(rng: random.Random) -> str:
    """One or two consonants with any sign of a vowel, or a vowel alone, whether or not a word has it."""
    if rng.random() < 0.1:
        return rng.choice(VOWELS) + rng.choice(NASALS)
    base = rng.choice(signs.CONSONANTS)
    if rng.random() < 0.35:
        base += "्" + rng.choice(signs.CONSONANTS)
    elif base in DOTTED and rng.random() < 0.2:
        base += "़"
    return base + rng.choice(MATRAS) + rng.choice(NASALS)


def spelt(rng: random.Random) -> str:
    """Letters at random: 2 to 6 Latin letters and digits, or 1 to 4 clusters of Devanagari, half of them such as the world has. It may be
    something that is held out."""
    if rng.random() >= DEVANAGARI:
        return "".join(rng.choices(signs.LETTERS, k=rng.randint(2, 6)))
    known = signs.SYLLABLES, clusters()
    return "".join(
        cluster(rng) if rng.random() < 0.5 else rng.choice(rng.choice(known))
        for _ in range(rng.randint(1, 4))
    )


def respelt(scene: Scene, rng: random.Random) -> Scene:
    """The scene, and at times other letters, at random, on its sign. What dev and test write is left to them."""
    k, old = signs.sign_of(scene)
    if rng.random() >= RESPELT:
        return scene
    sign = replace(old, text=spelt(rng))
    size = rng.uniform(*SMALL) / 128 / signs.letter_share(sign)
    width, height = (size * share for share in signs.extent(sign))
    item, room = scene.objects[k], 1 - 2 * signs.MARGIN
    tall = (
        item.size * signs.extent(old)[1] if len(scene.objects) > 1 else room
    )  # what stands beside it has its own place
    if signs.split_of(sign.text) != "train" or width > room or height > tall:
        return scene
    x, y = (
        min(max(place, side / 2 + signs.MARGIN), 1 - side / 2 - signs.MARGIN)
        for place, side in ((item.x, width), (item.y, height))
    )
    objects = list(scene.objects)
    objects[k] = replace(item, sprite=sign, x=x, y=y, size=size)
    return replace(scene, objects=tuple(objects))


def page(rng: random.Random) -> Scene:
    """A sheet of signs that do not touch, at least one and MOST at most, for who learns from every cell of a picture and not from signs
    alone."""
    ground = Background(
        rng.choice(("flat", "gradient")), rng.choice(BACKDROPS), rng.randrange(1 << 30)
    )
    objects: list[SceneObject] = []
    for attempt in count():
        if len(objects) == MOST or (objects and attempt >= SIGNS):
            break
        ink, board, text = (
            rng.choice(COLORS),
            rng.choice(BACKDROPS) if rng.random() < 0.75 else None,
            spelt(rng),
        )
        if not signs.stands_out(ink, board, ground.name) or signs.split_of(text) != "train":
            continue
        sign = Sign(text, rng.choice(tuple(signs.FONTS)), ink, board)
        size = rng.uniform(*SMALL) / 128 / signs.letter_share(sign)
        across, down = (size * share / 2 + signs.MARGIN for share in signs.extent(sign))
        if max(across, down) > 0.5:
            continue
        for _ in range(PLACES):
            item = SceneObject(
                sign, rng.uniform(across, 1 - across), rng.uniform(down, 1 - down), size
            )
            if not any(sprites.covered(sprites.box(other), sprites.box(item)) for other in objects):
                objects.append(item)
                break
    return Scene(tuple(objects), (Group("sign", len(objects)),), ground)
