"""Nearest-caption baseline: the training caption nearest to a prompt, by tf-idf."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence
from functools import cache

import numpy as np

from kalpana.world.video import Videos
from kalpana.world.world import World

CAPTIONS = 20_000  # training captions that the retrieval baseline chooses from


def retrieve(
    texts: Sequence[str], world: World | Videos | None = None, count: int = CAPTIONS
) -> list[int]:
    """The index of the training caption nearest to each text, by cosine similarity of tf-idf, among
    the first ``count`` of a world, by default that of pictures."""
    places, norms = _index(world or World(), count)
    nearest = []
    for text in texts:
        similarity = np.zeros(count)
        for word in set(_words(text)):
            captions = places.get(word, np.empty(0, int))
            similarity[captions] += np.log(count / max(len(captions), 1)) ** 2
        nearest.append(int((similarity / norms).argmax()))
    return nearest


@cache
def _index(world: World | Videos, count: int) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """An inverted index of the first ``count`` captions of a world, and the norms of their tf-idf.

    The first part maps a word to the indices of its captions; the norms have shape (count,).
    """
    held = defaultdict[str, list[int]](list)
    for i in range(count):
        for word in set(_words(world.describe(i)[0])):
            held[word].append(i)
    places = {word: np.array(captions) for word, captions in held.items()}
    squares = np.zeros(count)
    for captions in places.values():
        squares[captions] += np.log(count / len(captions)) ** 2
    return places, np.sqrt(np.maximum(squares, 1e-9))


def _words(text: str) -> list[str]:
    return re.findall(r"[\w\u0900-\u097f]+", text.lower())
