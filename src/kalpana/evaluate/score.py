"""Accuracy by GenEval's rule on a verifier's observations, and the tables of results.

A picture is right or wrong; there is no partial score. Objects beyond those that the prompt names
are no error, unless the prompt asks for a count (then it must be exact) or the rule is ``strict``.
An object that is not detected, or a missing observation, is wrong.
"""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from kalpana.evaluate.prompts import Prompt
from kalpana.evaluate.verifiers.observations import Detection, Observation, best, surest
from kalpana.types import KalpanaError
from kalpana.world.scene import Group
from kalpana.world.sprites import Box

# Share of both boxes' sides: offsets below it along an axis count as 0 (GenEval's
# POSITION_THRESHOLD).
NEAR = 0.1
# Limits for a single object that is small or large: its longer side as a share of the picture's.
SMALL, LARGE = (0.4, 0.75)
RESAMPLES = 1000
FEWEST = 5  # prompts that an interval needs
ALIKE = str.maketrans("01", "OI")  # digits and capitals that look alike in most typefaces


@dataclass(frozen=True)
class Thresholds:
    """Score thresholds of detections: ``include`` for presence, ``counting`` for exact counts."""

    include: float = 0.3
    counting: float = 0.3


THRESHOLDS = Thresholds()
GENEVAL = Thresholds(include=0.3, counting=0.9)  # those of GenEval's own detector


@dataclass(frozen=True)
class Rule:
    """How the pictures of a suite are judged.

    ``rendered``: the world can render the prompts, for a baseline and a ceiling. ``judges``: name
    and SHA-256 of each public model of the verifier.
    """

    thresholds: Thresholds = THRESHOLDS
    rendered: bool = True
    judges: Mapping[str, str] = field(default_factory=dict)


OURS = Rule()


def right(
    prompt: Prompt, seen: Observation, strict: bool = False, thresholds: Thresholds = THRESHOLDS
) -> bool:
    """Whether a picture shows what its prompt asks for; ``strict``: and no further object.

    Objects: the n detections of each group with the highest scores must have its colour, facing and
    size; an exact prompt needs exactly n; and the relation must hold. The place is not judged.
    Hands: one hand with the right number of raised fingers. Words: the first reader reads the word,
    letter for letter; strict: only this word.
    """
    if prompt.fingers is not None:
        return seen.fingers == (prompt.fingers,)
    if prompt.word is not None:
        word, read = _spelt(prompt.word, seen)
        return read == [word] if strict else word in read
    if strict:
        threshold = thresholds.counting if prompt.exact else thresholds.include
        detected = Counter(item.concept for item in surest(seen.objects) if item.score > threshold)
        if detected != Counter({group.concept: group.count for group in prompt.groups}):
            return False
    return all(atoms(prompt, seen, thresholds))


def atoms(prompt: Prompt, seen: Observation, thresholds: Thresholds = THRESHOLDS) -> list[bool]:
    """Whether each atom of a prompt about objects holds.

    For each group: its object, its count, and its colour, facing and size where named; then the
    relation. A higher count is accepted unless the prompt is exact. The place is left out, because
    a verifier does not detect it.
    """
    threshold = thresholds.counting if prompt.exact else thresholds.include
    found = [
        [item for item in best(seen.objects, group.concept) if item.score > threshold]
        for group in prompt.groups
    ]
    needed = [objects[: group.count] for group, objects in zip(prompt.groups, found, strict=True)]
    holds = []
    for i, group in enumerate(prompt.groups):
        mine, n = needed[i], len(found[i])
        holds += [bool(found[i]), n == group.count if prompt.exact else n >= group.count]
        if group.color is not None:
            holds.append(bool(mine) and all(item.color == group.color for item in mine))
        if group.facing is not None:
            holds.append(bool(mine) and all(item.facing == group.facing for item in mine))
        if group.size is not None:
            others = [item for k, objects in enumerate(needed) if k != i for item in objects]
            holds.append(_sized(group, mine, others))
    if prompt.relation is not None:
        boxes = [_stretched(around(objects), seen.aspect) for objects in needed if objects]
        holds.append(len(boxes) == 2 and prompt.relation in relations(boxes[0], boxes[1]))
    return holds


def distance(prompt: Prompt, seen: Observation) -> float:
    """The normalised edit distance (see ned) from the prompt's word to the nearest word read.

    Uses the first reader; 1 if it reads no word.
    """
    word, read = _spelt(prompt.word or "", seen)
    return min((ned(word, one) for one in read), default=1.0)


def _spelt(word: str, seen: Observation) -> tuple[str, list[str]]:
    """A word, and the words of the first reader, in one spelling.

    The spelling is NFC; 0 and 1 become O and I if the reader does not distinguish them.
    """
    first = seen.readings[0] if seen.readings else None
    spelt = [unicodedata.normalize("NFC", one) for one in (word, *(first.words if first else ()))]
    mine, *read = [one.translate(ALIKE) for one in spelt] if first and first.alike else spelt
    return mine, read


def relations(a: Box, b: Box) -> set[str]:
    """The relations of box a to box b by GenEval's formula.

    At most two of "left of", "right of", "above" and "below". With o the offset from the centre of
    b to that of a, and d the sums of the boxes' sides, r = sign(o) * max(|o| - 0.1 d, 0) / ||o||:
    a is left of b if r_x < -0.5, right if r_x > 0.5; above if r_y < -0.5, below if r_y > 0.5 (y
    points down).
    """
    boxes = np.array((a, b)).reshape(2, 2, 2)  # box, corner, axis
    offset = boxes[0].mean(0) - boxes[1].mean(0)
    sides = (boxes[:, 1] - boxes[:, 0]).sum(0)
    apart = np.sign(offset) * np.maximum(np.abs(offset) - NEAR * sides, 0)
    if np.all(np.abs(apart) < 1e-9):
        return set()
    x, y = apart / np.linalg.norm(offset)
    ways = {"left of": x < -0.5, "right of": x > 0.5, "above": y < -0.5, "below": y > 0.5}
    return {name for name, holds in ways.items() if holds}


def around(objects: Sequence[Detection]) -> Box:
    """The bounding box of all detections."""
    x0, y0, x1, y1 = zip(*(item.box for item in objects), strict=True)
    return min(x0), min(y0), max(x1), max(y1)


def _stretched(box: Box, aspect: float) -> Box:
    """A box in shares of a picture's sides, in units of its height."""
    return box[0] * aspect, box[1], box[2] * aspect, box[3]


def _sized(group: Group, objects: Sequence[Detection], others: Sequence[Detection]) -> bool:
    """Whether detections have the named size.

    It is relative to the other objects if there are any, else to the picture.
    """
    if not objects:
        return False
    mine = [_longer(item.box) for item in objects]
    if group.size == "small":
        return max(mine) < min((_longer(other.box) for other in others), default=SMALL)
    return min(mine) > max((_longer(other.box) for other in others), default=LARGE)


def _longer(box: Box) -> float:
    return max(box[2] - box[0], box[3] - box[1])


def letters(word: str) -> list[str]:
    """The letters of a word in NFC: each base character with its marks; joiners are dropped.

    "कि" is one letter, "क्त" is "क्" and "त".
    """
    units: list[str] = []
    for point in unicodedata.normalize("NFC", word):
        category = unicodedata.category(point)
        if category.startswith("M") and units:
            units[-1] += point
        elif category != "Cf":
            units.append(point)
    return units


def ned(word: str, read: str) -> float:
    """Normalised edit distance of two words in [0, 1]; 0: equal.

    Counts the letters to insert, delete or replace, divided by the length of the longer word.
    """
    a, b = letters(word), letters(read)
    row = list(range(len(b) + 1))
    for i, one in enumerate(a, 1):
        before, row = row, [i]
        for j, two in enumerate(b, 1):
            row.append(min(row[-1] + 1, before[j] + 1, before[j - 1] + (one != two)))
    return row[-1] / max(len(a), len(b), 1)


# ------------------------------------------------------------------------------------------- tables


@dataclass(frozen=True)
class Share:
    """The share of right pictures with its 95 % interval ``low`` to ``high``; all in [0, 1].

    The interval is None with fewer than FEWEST prompts, and overall if a task has a single prompt.
    ``any_right`` is the share of prompts with at least one right picture. For continuous scores:
    their mean, and the mean of the best score of each prompt.
    """

    right: float
    low: float | None
    high: float | None
    any_right: float
    prompts: int

    def percent(self) -> str:
        """The share in per cent and, if known, its interval: "62.5 (50.0 to 75.0)"."""
        interval = "" if self.low is None else f" ({_percent(self.low)} to {_percent(self.high)})"
        return _percent(self.right) + interval


@dataclass(frozen=True)
class Table:
    """The shares of each task, in the order of the prompts, and overall.

    ``overall`` is the unweighted mean of the tasks. ``distance`` is the mean edit distance of
    prompts for words, None without any.
    """

    tasks: dict[str, Share]
    overall: Share
    distance: float | None = None


def table(prompts: Sequence[Prompt], results: Mapping[int, Sequence[float]]) -> Table:
    """The table of results: for each prompt, by its index, one score in [0, 1] for each picture.

    Each prompt has the same weight, whatever its number of pictures. The intervals are the 2.5th
    and 97.5th percentiles of 1,000 bootstrap samples of prompts; for the overall mean, of prompts
    within each task. Raises KalpanaError if there is no result, or a prompt without a picture.
    """
    if not results or not all(results.values()):
        raise KalpanaError("a table needs results: give every prompt at least one picture")
    rng = np.random.default_rng(0)
    tasks, draws = {}, []
    for task in dict.fromkeys(prompts[i].task for i in sorted(results)):
        mine = [pictures for i, pictures in results.items() if prompts[i].task == task]
        means = np.array([np.mean(pictures) for pictures in mine])
        resampled = means[rng.integers(len(means), size=(RESAMPLES, len(means)))].mean(1)
        draws.append(resampled)
        tasks[task] = _share(float(means.mean()), resampled, mine)
    mean = float(np.mean([share.right for share in tasks.values()]))
    overall = _share(mean, np.mean(draws, axis=0), results.values())
    if min(share.prompts for share in tasks.values()) == 1:  # a task without any known variance
        overall = replace(overall, low=None, high=None)
    return Table(tasks, overall)


def judged(
    prompts: Sequence[Prompt],
    seen: Sequence[Sequence[Observation]],
    strict: bool = False,
    thresholds: Thresholds = THRESHOLDS,
) -> Table:
    """The table of pictures from their observations, ``seen[i]`` for ``prompts[i]``.

    ``strict`` and ``thresholds`` as in right.
    """
    verdicts = {
        i: [right(prompt, one, strict, thresholds) for one in seen[i]]
        for i, prompt in enumerate(prompts)
    }
    distances = [
        np.mean([distance(prompt, one) for one in seen[i]])
        for i, prompt in enumerate(prompts)
        if prompt.word is not None
    ]
    mean = float(np.mean(distances)) if distances else None
    return replace(table(prompts, verdicts), distance=mean)


def _share(mean: float, resampled: np.ndarray, results: Iterable[Sequence[float]]) -> Share:
    best_of = [max(pictures) for pictures in results]
    low, high = None, None
    if len(best_of) >= FEWEST:
        low, high = map(float, np.percentile(resampled, (2.5, 97.5)))
    return Share(mean, low, high, sum(best_of) / len(best_of), len(best_of))


@dataclass(frozen=True)
class Row:
    """One row of a report: a score with its floor, baseline and ceiling."""

    name: str
    score: Share
    floor: float | None = None
    baseline: float | None = None
    ceiling: float | None = None
    # Whether the verifier's own errors are small enough to trust it; None: not checked.
    verified: bool | None = field(default=None, kw_only=True)


def rows(
    score: Table,
    floor: Table | None = None,
    baseline: Table | None = None,
    ceiling: Table | None = None,
    verified: Mapping[str, bool] | None = None,
) -> list[Row]:
    """One row for each task and one overall; all tables must have the same tasks.

    ``verified`` tells by task whether the verifier can be trusted; the overall row is verified only
    if all tasks are.
    """
    others = [
        None if other is None else {**other.tasks, "overall": other.overall}
        for other in (floor, baseline, ceiling)
    ]
    mine = {**score.tasks, "overall": score.overall}
    trusted = {} if verified is None else {**verified, "overall": all(verified.values())}
    return [
        Row(
            name,
            share,
            *(None if other is None else other[name].right for other in others),
            verified=trusted.get(name),
        )
        for name, share in mine.items()
    ]


def markdown(rows: Sequence[Row]) -> str:
    """The rows as a Markdown table in per cent: floor, baseline, score (interval), ceiling.

    Columns without any value are left out. Rows that are not verified are marked.
    """
    columns = {
        "task": [row.name + (" (not verified)" if row.verified is False else "") for row in rows]
    }
    columns |= {
        "floor": [_percent(row.floor) for row in rows],
        "baseline": [_percent(row.baseline) for row in rows],
    }
    columns["score (95 %)"] = [row.score.percent() for row in rows]
    columns |= {
        "ceiling": [_percent(row.ceiling) for row in rows],
        "any seed": [_percent(row.score.any_right) for row in rows],
    }
    columns["prompts"] = [str(row.score.prompts) for row in rows]
    filled = {name: cells for name, cells in columns.items() if any(cells)}
    lines = [
        list(filled),
        ["---"] + ["---:"] * (len(filled) - 1),
        *zip(*filled.values(), strict=True),
    ]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _percent(share: float | None) -> str:
    return "" if share is None else f"{100 * share:.1f}"
