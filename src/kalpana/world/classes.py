"""Classes of class-conditional models: the eighty core concepts of the lexicon, and their names."""

from __future__ import annotations

from functools import cache

from kalpana.text.normalize import clean
from kalpana.world.lexicon import lexicon

# English names of the core concepts, in the order of the lexicon; their indices are the class ids.
CLASSES = (
    *("apple", "banana", "orange", "strawberry", "carrot", "mushroom", "egg", "pizza"),
    *("hamburger", "cake", "donut", "ice cream", "cup", "bowl", "teapot", "car", "bus", "truck"),
    *("bicycle", "motorcycle", "airplane", "train", "boat", "rocket", "dog", "cat", "horse"),
    *("elephant", "cow", "pig", "rabbit", "monkey", "tiger", "bird", "duck", "fish", "butterfly"),
    *("octopus", "book", "chair", "sofa", "bed", "door", "light bulb", "clock", "key", "phone"),
    *("laptop", "television", "camera", "balloon", "umbrella", "gift", "hat", "t-shirt", "dress"),
    *("shoe", "bag", "backpack", "bell", "guitar", "ball", "heart", "star", "lock", "bucket"),
    *("suitcase", "box", "teddy bear", "sun", "moon", "cloud", "tree", "flower", "rose", "tulip"),
    *("house", "mountain", "teacher", "hand"),
)


@cache
def _names() -> dict[str, str]:
    """English name of each concept by all its names in both languages, in lower case."""
    found: dict[str, str] = {}
    for concept in lexicon().values():
        names = (concept.en, *concept.synonyms_en, concept.hi.singular, *concept.synonyms_hi)
        for name in names:
            found.setdefault(clean(name).casefold(), concept.en)
    return found


def class_of(text: str, labels: tuple[str, ...]) -> str | None:
    """The one of the ``labels`` that a text names, None if it names none: by the label itself, by
    its index from 0, or by another name of the concept in English or Hindi."""
    text = clean(text).casefold()
    if text in labels:
        return text
    if text.isdecimal():
        return labels[int(text)] if int(text) < len(labels) else None
    name = _names().get(text)
    return name if name in labels else None
