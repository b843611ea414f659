"""Is a picture right, and how many are: GenEval's rule on what a verifier saw, and the tables made of it.

A picture is right or wrong, with nothing between. Other things than those asked for are no fault, unless the count is asked for
(then it must be exact) or the rule is ``strict``. What is not seen, or not answered, is wrong.
"""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from kalpana.evaluate.suites import Prompt
from kalpana.evaluate.verifiers.observations import Detection, Observation, best, surest
from kalpana.types import KalpanaError
from kalpana.world.scene import Group
from kalpana.world.sprites import Box

NEAR = 0.1  # of both things' sides: closer than this along an axis is not apart (GenEval's POSITION_THRESHOLD)
SMALL, LARGE = (
    0.4,
    0.75,
)  # of the picture's side: longer side of a lone thing that is small, or large
RESAMPLES = 1000
ALIKE = str.maketrans("01", "OI")  # digits and capitals that few typefaces tell apart


@dataclass(frozen=True)
class Thresholds:
    """How sure a detection must be to count: of what must be there, and where the number of things is judged."""

    include: float = 0.3
    counting: float = 0.3


THRESHOLDS = Thresholds()


def right(
    prompt: Prompt, seen: Observation, strict: bool = False, thresholds: Thresholds = THRESHOLDS
) -> bool:
    """Whether the picture holds what was asked for; ``strict``: and not one thing more.

    Objects: for each group its n surest detections, which have its colour and facing; exactly n where the prompt is exact; and they stand
    in the relation. The place is not judged. Hands: one hand, with so many fingers up. Words: the word is among those that the first
    reader reads, letter for letter; strict: alone.
    """
    if prompt.fingers is not None:
        return seen.fingers == (prompt.fingers,)
    if prompt.word is not None:
        word, read = _spelt(prompt.word, seen)
        return read == [word] if strict else word in read
    if strict:
        there = Counter(
            item.concept for item in surest(seen.objects) if item.score > thresholds.counting
        )
        if there != Counter({group.concept: group.count for group in prompt.groups}):
            return False
    return all(atoms(prompt, seen, thresholds))


def atoms(prompt: Prompt, seen: Observation, thresholds: Thresholds = THRESHOLDS) -> list[bool]:
    """Which of the things said about objects are so: for each group its object, its count, its colour, its facing and its size where
    named; then the relation. A count is met by more, unless the prompt is exact. The place is left out: a verifier does not see it."""
    least = thresholds.counting if prompt.exact else thresholds.include
    found = [
        [item for item in best(seen.objects, group.concept) if item.score > least]
        for group in prompt.groups
    ]
    needed = [objects[: group.count] for group, objects in zip(prompt.groups, found, strict=True)]
    so = []
    for i, group in enumerate(prompt.groups):
        so += [
            bool(found[i]),
            len(found[i]) == group.count if prompt.exact else len(found[i]) >= group.count,
        ]
        if group.color is not None:
            so.append(bool(needed[i]) and all(item.color == group.color for item in needed[i]))
        if group.facing is not None:
            so.append(bool(needed[i]) and all(item.facing == group.facing for item in needed[i]))
        if group.size is not None:
            so.append(
                _sized(
                    group,
                    needed[i],
                    [item for k, objects in enumerate(needed) if k != i for item in objects],
                )
            )
    if prompt.relation is not None:
        so.append(
            all(needed) and prompt.relation in relations(around(needed[0]), around(needed[1]))
        )
    return so


def distance(prompt: Prompt, seen: Observation) -> float:
    """The normalised edit distance (see ned) from the prompt's word to the nearest that the first reader reads, 1 where it reads none."""
    word, read = _spelt(prompt.word or "", seen)
    return min((ned(word, one) for one in read), default=1.0)


def _spelt(word: str, seen: Observation) -> tuple[str, list[str]]:
    """A word, and those that the first reader reads, in one spelling: NFC, and without 0 and 1 where it takes them for O and I."""
    first = seen.readings[0] if seen.readings else None
    spelt = [unicodedata.normalize("NFC", one) for one in (word, *(first.words if first else ()))]
    mine, *read = [one.translate(ALIKE) for one in spelt] if first and first.alike else spelt
    return mine, read


def relations(a: Box, b: Box) -> set[str]:
    """How a stands to b: of "left of", "right of", "above" and "below" up to two, or none, by GenEval's formula.

    With o the way from the centre of b to that of a, d the sums of the boxes' sides, r = sign(o) * max(|o| - 0.1 d, 0) / ||o||:
    a is left of b if r_x < -0.5, right if r_x > 0.5; above if r_y < -0.5, below if r_y > 0.5, as y runs down.
    """
    boxes = np.array((a, b)).reshape(2, 2, 2)  # thing, corner, axis
    offset = boxes[0].mean(0) - boxes[1].mean(0)
    sides = (boxes[:, 1] - boxes[:, 0]).sum(0)
    apart = np.sign(offset) * np.maximum(np.abs(offset) - NEAR * sides, 0)
    if np.all(np.abs(apart) < 1e-9):
        return set()
    x, y = apart / np.linalg.norm(offset)
    ways = {"left of": x < -0.5, "right of": x > 0.5, "above": y < -0.5, "below": y > 0.5}
    return {name for name, holds in ways.items() if holds}


def around(objects: Sequence[Detection]) -> Box:
    """The box around all of them: of one thing, its own."""
    x0, y0, x1, y1 = zip(*(item.box for item in objects), strict=True)
    return min(x0), min(y0), max(x1), max(y1)


def _sized(group: Group, objects: Sequence[Detection], others: Sequence[Detection]) -> bool:
    """Whether they have the size that is named: beside others, in comparison with those; alone, as a share of the picture."""
    if not objects:
        return False
    mine = [_longer(item.box) for item in objects]
    if group.size == "small":
        return max(mine) < min((_longer(other.box) for other in others), default=SMALL)
    return min(mine) > max((_longer(other.box) for other in others), default=LARGE)


def _longer(box: Box) -> float:
    return max(box[2] - box[0], box[3] - box[1])


def letters(word: str) -> list[str]:
    """A word in the units a reader sees: NFC, each base with the marks on it ("कि" is one, "क्त" is "क्" and "त"), joiners dropped."""
    units: list[str] = []
    for point in unicodedata.normalize("NFC", word):
        category = unicodedata.category(point)
        if category.startswith("M") and units:
            units[-1] += point
        elif category != "Cf":
            units.append(point)
    return units


def ned(word: str, read: str) -> float:
    """The normalised edit distance: letters to insert, delete or replace, over the longer word's length; 0 the same, 1 nothing alike."""
    a, b = letters(word), letters(read)
    row = list(range(len(b) + 1))
    for i, one in enumerate(a, 1):
        before, row = row, [i]
        for j, two in enumerate(b, 1):
            row.append(min(row[-1] + 1, before[j] + 1, before[j - 1] + (one != two)))
    return row[-1] / max(len(a), len(b), 1)


# ------------------------------------------------------------------------------------------------------------------ tables


@dataclass(frozen=True)
class Share:
    """A share of right pictures with its 95 % interval, and the share of prompts that any picture is right for; all in [0, 1]. Of scores
    between right and wrong: their mean, and the mean of each prompt's best."""

    right: float
    low: float
    high: float
    any_right: float
    prompts: int


@dataclass(frozen=True)
class Table:
    """The shares of each task, in the order of the prompts, and overall: the plain mean of the tasks, whatever their sizes. Where words
    are asked for also the mean of their edit ``distance``."""

    tasks: dict[str, Share]
    overall: Share
    distance: float | None = None


def table(prompts: Sequence[Prompt], results: Mapping[int, Sequence[float]]) -> Table:
    """The table of these results: for each prompt (by its index) whether its pictures are right, or how much so, one for each seed.

    A prompt counts once, however many pictures it has. The intervals are the 2.5th and 97.5th percentile of 1,000 bootstrap samples
    of prompts; for the overall mean, of prompts within each task.
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
    return Table(tasks, _share(mean, np.mean(draws, axis=0), results.values()))


def judged(
    prompts: Sequence[Prompt], seen: Sequence[Sequence[Observation]], strict: bool = False
) -> Table:
    """The table of pictures by what was seen in them, ``seen[i]`` in those of ``prompts[i]``; ``strict`` as in right."""
    verdicts = {
        i: [right(prompt, one, strict) for one in seen[i]] for i, prompt in enumerate(prompts)
    }
    far = [
        np.mean([distance(prompt, one) for one in seen[i]])
        for i, prompt in enumerate(prompts)
        if prompt.word is not None
    ]
    return replace(table(prompts, verdicts), distance=float(np.mean(far)) if far else None)


def _share(mean: float, resampled: np.ndarray, results: Iterable[Sequence[float]]) -> Share:
    low, high = np.percentile(resampled, (2.5, 97.5))
    lucky = [max(pictures) for pictures in results]
    return Share(mean, float(low), float(high), sum(lucky) / len(lucky), len(lucky))


@dataclass(frozen=True)
class Row:
    """One line of a report: a score between what costs nothing and what can be had at all."""

    name: str
    score: Share
    floor: float | None = None
    baseline: float | None = None
    ceiling: float | None = None
    verified: bool | None = field(
        default=None, kw_only=True
    )  # whether the verifier's own errors are small enough to trust it; None where nobody asks


def rows(
    score: Table,
    floor: Table | None = None,
    baseline: Table | None = None,
    ceiling: Table | None = None,
    verified: Mapping[str, bool] | None = None,
) -> list[Row]:
    """A row for each task and one for all of them; the tables must have the same tasks. ``verified`` says of each task whether the verifier
    may be trusted with it; all of them together only where it may with each."""
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
    """The rows as a table in per cent: floor, baseline, score (interval), ceiling; a column that no row fills is left out. What
    the verifier may not be trusted with is marked."""
    columns = {
        "task": [row.name + (" (not verified)" if row.verified is False else "") for row in rows]
    }
    columns |= {
        "floor": [_percent(row.floor) for row in rows],
        "baseline": [_percent(row.baseline) for row in rows],
    }
    columns["score (95 %)"] = [
        f"{_percent(s.right)} ({_percent(s.low)} to {_percent(s.high)})"
        for s in (row.score for row in rows)
    ]
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
