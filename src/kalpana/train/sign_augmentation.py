"""Sign augmentation: replaces most sign words by random letters, and makes sheets of such signs.

Otherwise models memorise the small dictionary and guess words instead of reading letters.
"""

from __future__ import annotations

import random
import re
from dataclasses import replace
from functools import cache
from itertools import count

from kalpana.world import sprites
from kalpana.world.kinds import signs
from kalpana.world.scene import BACKDROPS, COLORS, Background, Group, Scene, SceneObject, Sign

RESPELT = 0.6  # share of the signs
DEVANAGARI = 0.75  # share of random words; more than Latin, since it has more shapes to tell apart
SMALL = (12.0, 18.0)  # range of letter heights, in pixels of a 128 px picture
CLUSTER = re.compile("[अ-ह]़?(?:्[क-ह]़?)*[ा-ौँंः]*")  # one orthographic syllable of Devanagari
VOWELS, MATRAS, NASALS = "अआईउऋए", ("", *"ािीुूृेैोौ"), ("", "", "", "", "ं", "ँ")
DOTTED = "कखगजडढफ"  # consonants that a dot below (nukta) turns into another
MOST = 6  # signs on a sheet at most
SIGNS, PLACES = 24, 10  # signs tried per sheet, and places tried per sign


@cache
def clusters() -> tuple[str, ...]:
    """Distinct clusters of the Hindi words in the train split, sorted."""
    known = (word for word in signs.words()["hi"] if signs.split_of(word) == "train")
    return tuple(sorted({cluster for word in known for cluster in CLUSTER.findall(word)}))


def cluster(rng: random.Random) -> str:
    """Random Devanagari cluster: one or two consonants with any vowel sign, or a vowel alone."""
    if rng.random() < 0.1:
        return rng.choice(VOWELS) + rng.choice(NASALS)
    base = rng.choice(signs.CONSONANTS)
    if rng.random() < 0.35:
        base += "्" + rng.choice(signs.CONSONANTS)
    elif base in DOTTED and rng.random() < 0.2:
        base += "़"
    return base + rng.choice(MATRAS) + rng.choice(NASALS)


def spelt(rng: random.Random) -> str:
    """Random word: 2 to 6 Latin letters and digits, or 1 to 4 Devanagari clusters.

    Half of the clusters occur in words of the world. The word may be one that is held out; callers
    check its split.
    """
    if rng.random() >= DEVANAGARI:
        return "".join(rng.choices(signs.LETTERS, k=rng.randint(2, 6)))
    known = signs.SYLLABLES, clusters()
    return "".join(
        cluster(rng) if rng.random() < 0.5 else rng.choice(rng.choice(known))
        for _ in range(rng.randint(1, 4))
    )


def respelt(scene: Scene, rng: random.Random) -> Scene:
    """Scene whose sign has a random word with probability RESPELT.

    The scene is returned unchanged if that word is held out for dev or test, or does not fit.
    """
    k, old = signs.sign_of(scene)
    if rng.random() >= RESPELT:
        return scene
    sign = replace(old, text=spelt(rng))
    size = rng.uniform(*SMALL) / 128 / signs.letter_share(sign)
    width, height = (size * share for share in signs.extent(sign))
    item, room = scene.objects[k], 1 - 2 * signs.MARGIN
    # Beside other objects the sign must not become taller, since these keep their places.
    tall = item.size * signs.extent(old)[1] if len(scene.objects) > 1 else room
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
    """Sheet of 1 to MOST signs that do not touch, with random words of the train split.

    For models that learn from all cells of a picture, such as the VQGAN.
    """
    kind = rng.choice(("flat", "gradient"))
    ground = Background(kind, rng.choice(BACKDROPS), rng.randrange(1 << 30))
    objects: list[SceneObject] = []
    for attempt in count():
        if len(objects) == MOST or (objects and attempt >= SIGNS):
            break
        ink = rng.choice(COLORS)
        board = rng.choice(BACKDROPS) if rng.random() < 0.75 else None
        text = spelt(rng)
        if not signs.stands_out(ink, board, ground.name) or signs.split_of(text) != "train":
            continue
        sign = Sign(text, rng.choice(tuple(signs.FONTS)), ink, board)
        size = rng.uniform(*SMALL) / 128 / signs.letter_share(sign)
        across, down = (size * share / 2 + signs.MARGIN for share in signs.extent(sign))
        if max(across, down) > 0.5:
            continue
        for _ in range(PLACES):
            x, y = rng.uniform(across, 1 - across), rng.uniform(down, 1 - down)
            item = SceneObject(sign, x, y, size)
            if not any(sprites.covered(sprites.box(other), sprites.box(item)) for other in objects):
                objects.append(item)
                break
    return Scene(tuple(objects), (Group("sign", len(objects)),), ground)
