"""GenEval's kind of prompts: 553 of photographs of the 80 COCO classes, by its six tasks.

The templates, the plurals (an "s", or "es" after an "s"), the ten colours, the names of three
classes and the numbers of prompts are those of GenEval (Ghosh et al. 2023); which prompts there are
is sampled here, by a seed of our own. The world cannot render them, so they are judged by a public
detector, and there is neither a baseline nor a ceiling.
"""

from __future__ import annotations

import random
from collections.abc import Callable

from kalpana.evaluate.prompts import Groups, Prompt
from kalpana.world.scene import COLORS, Group

NAME = "geneval-prompts"
COCO = (
    "person", "bicycle", "car", "motorcycle", "airplane", "bus", "train", "truck", "boat",
    "traffic light", "fire hydrant", "stop sign", "parking meter", "bench", "bird", "cat", "dog",
    "horse", "sheep", "cow", "elephant", "bear", "zebra", "giraffe", "backpack", "umbrella",
    "handbag", "tie", "suitcase", "frisbee", "skis", "snowboard", "sports ball", "kite",
    "baseball bat", "baseball glove", "skateboard", "surfboard", "tennis racket", "bottle",
    "wine glass", "cup", "fork", "knife", "spoon", "bowl", "banana", "apple", "sandwich", "orange",
    "broccoli", "carrot", "hot dog", "pizza", "donut", "cake", "chair", "couch", "potted plant",
    "bed", "dining table", "toilet", "tv", "laptop", "mouse", "remote", "keyboard", "cell phone",
    "microwave", "oven", "toaster", "sink", "refrigerator", "book", "clock", "vase", "scissors",
    "teddy bear", "hair drier", "toothbrush",
)  # fmt: skip
# Names in prompts of the classes whose own names have another first meaning.
NAMES = {"mouse": "computer mouse", "remote": "tv remote", "keyboard": "computer keyboard"}
COUNTS = {2: 26, 3: 28, 4: 26}
NUMERALS = {2: "two", 3: "three", 4: "four"}
RELATIONS = {"left of": 19, "right of": 27, "above": 26, "below": 28}


def geneval_prompts(dev: bool = False) -> list[Prompt]:
    """553 prompts, always the same; ``dev``: others, except for the 80 of single objects."""
    rng = random.Random(f"{NAME}/{'dev' if dev else 'test'}")
    taken = {prompt.text for prompt in geneval_prompts()} if dev else set()
    singles = [(_photo(_a(name_of(kind))), (Group(kind),), None) for kind in COCO]
    prompts = [Prompt(text, "en", "single", groups) for text, groups, _ in singles]
    for task, n, sample in (
        ("two", 99, _two),
        *(("counting", n, _counted(count)) for count, n in COUNTS.items()),
        ("colors", 94, _colored),
        *(("position", n, _placed(relation)) for relation, n in RELATIONS.items()),
        ("color_attr", 100, _two_colored),
    ):
        found: dict[str, Prompt] = {}
        while len(found) < n:
            text, groups, relation = sample(rng)
            if text not in taken:
                exact = task == "counting"
                found.setdefault(text, Prompt(text, "en", task, groups, relation, exact=exact))
        prompts += found.values()
    return prompts


def name_of(kind: str) -> str:
    """The name of a COCO class in prompts: "computer mouse" of "mouse"."""
    return NAMES.get(kind, kind)


Contents = tuple[str, Groups, str | None]  # text, groups, relation
Sample = Callable[[random.Random], Contents]


def _photo(text: str) -> str:
    return f"a photo of {text}"


def _a(words: str) -> str:
    return f"{'an' if words[0] in 'aeiou' else 'a'} {words}"


def _kinds(rng: random.Random, n: int, colored: bool = False) -> list[str]:
    """n different classes; ``colored``: never a person."""
    return rng.sample(COCO[1:] if colored else COCO, n)


def _two(rng: random.Random) -> Contents:
    a, b = _kinds(rng, 2)
    return _photo(f"{_a(name_of(a))} and {_a(name_of(b))}"), (Group(a), Group(b)), None


def _counted(count: int) -> Sample:
    def sample(rng: random.Random) -> Contents:
        (kind,) = _kinds(rng, 1)
        name = name_of(kind)
        plural = name + ("es" if name.endswith("s") else "s")
        return _photo(f"{NUMERALS[count]} {plural}"), (Group(kind, count),), None

    return sample


def _colored(rng: random.Random) -> Contents:
    (kind,), color = _kinds(rng, 1, colored=True), rng.choice(COLORS)
    return _photo(f"{_a(color)} {name_of(kind)}"), (Group(kind, color=color),), None


def _placed(relation: str) -> Sample:
    def sample(rng: random.Random) -> Contents:
        a, b = _kinds(rng, 2)
        text = _photo(f"{_a(name_of(a))} {relation} {_a(name_of(b))}")
        return text, (Group(a), Group(b)), relation

    return sample


def _two_colored(rng: random.Random) -> Contents:
    (a, b), (one, two) = _kinds(rng, 2, colored=True), rng.sample(COLORS, 2)
    text = _photo(f"{_a(one)} {name_of(a)} and {_a(two)} {name_of(b)}")
    return text, (Group(a, color=one), Group(b, color=two)), None
