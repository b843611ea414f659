"""Sources of captions of videos: true, short or noisy ones of the world, or those of a captioner.

A file of a captioner's captions is JSON lines: first the world and the model, then the captions of
the videos in their order, in both languages. ``kalpana world recaption`` writes it.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from kalpana.types import KalpanaError
from kalpana.world.grammar import LANGUAGES
from kalpana.world.render import render
from kalpana.world.video import Videos, caption
from kalpana.world.video.noisy import noisy_caption

MIXED = 0.05  # share of noisy captions in the mixture
TOGETHER = 8  # videos captioned at once
# Captions of a video of the world, by its index and the number of the take.
Describe = Callable[[int, int], str]
# Captions in a language of videos, from pixels of their keyframes and their durations.
Tell = Callable[[Sequence[Tensor], Sequence[float], str], list[str]]


@dataclass(frozen=True)
class Captions:
    """Captions by a captioner: ``texts[i]`` those of video i of a world, by language."""

    about: dict[str, Any]
    texts: tuple[dict[str, str], ...]


def source(name: str, world: Videos, recaptions: Captions | None = None) -> Describe:
    """The captions of a world's videos by a source.

    - "true": of all forms
    - "short": of the short form
    - "noisy": half of the facts left out, 15 % wrong
    - "captioner": those of a captioner, ``recaptions``
    - "mixture": these, but for 5 % noisy ones
    """

    def of(index: int, take: int) -> str:
        rng = random.Random(f"{world.seed}/{world.split}/{index}/caption source/{take}")
        kind, language = name, rng.choice(list(LANGUAGES))
        if kind == "mixture":
            kind = "noisy" if rng.random() < MIXED else "captioner"
        if kind == "captioner":
            assert recaptions is not None
            return recaptions.texts[index][language]
        if kind == "noisy":
            return noisy_caption(world.video(index), language, rng)
        return caption(world.video(index), language, "short", rng)

    return of if name != "true" else lambda index, take: world.describe(index, take)[0]


def about(world: Videos, model: dict[str, str]) -> dict[str, Any]:
    """The first line of a file: the world, and the captioner's files with their hashes."""
    return {"seed": world.seed, "split": world.split, "model": model}


def read(path: Path) -> Captions:
    """The captions in a file. Raises KalpanaError if it cannot be read or is no such file."""
    try:
        first, *rest = map(json.loads, _whole_lines(path))
        texts = tuple({name: str(each[name]) for name in LANGUAGES} for each in rest)
        return Captions({name: first[name] for name in ("seed", "split", "model")}, texts)
    except OSError as error:
        raise KalpanaError(f"captions cannot be read from {path}: {error.strerror}") from None
    except (ValueError, KeyError, TypeError):
        raise KalpanaError(
            f"{path} is no file of captions: write one by kalpana world recaption"
        ) from None


def check(captions: Captions, path: Path, world: Videos, videos: Iterable[int]) -> None:
    """Raises KalpanaError if the captions are of another world, or lack one of these videos."""
    found = captions.about["seed"], captions.about["split"]
    if found != (world.seed, world.split):
        raise KalpanaError(
            f"{path} has captions of the videos of seed {found[0]}, {found[1]}, not of seed "
            f"{world.seed}, {world.split}: write them by kalpana world recaption --seed "
            f"{world.seed}"
        )
    if (last := max(videos, default=-1)) >= len(captions.texts):
        raise KalpanaError(
            f"{path} has captions of {len(captions.texts)} videos, and video {last} is needed: go "
            f"on by kalpana world recaption --videos {last + 1}"
        )


def write(
    path: Path,
    world: Videos,
    count: int,
    model: dict[str, str],
    tell: Tell,
    keyframes: int,
    progress: Callable[[int, int], None],
) -> None:
    """Write the captions of the first ``count`` videos of a world, by a captioner of ``keyframes``
    frames a video; a file that is there already is continued.

    Raises KalpanaError if it is of another world or captioner.
    """
    head = about(world, model)
    done = 0
    if path.exists() and (lines := _whole_lines(path)):
        found = read(path)
        if found.about != head:
            raise KalpanaError(
                f"{path} has captions of another captioner or world: name another file"
            )
        done = len(found.texts)
        path.write_text("".join(line + "\n" for line in lines), encoding="utf-8")
    else:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(head) + "\n", encoding="utf-8")
    with path.open("a", encoding="utf-8") as file:
        for start in range(done, count, TOGETHER):
            videos = [world.video(i) for i in range(start, min(start + TOGETHER, count))]
            pixels = [
                render([video.at(k / (keyframes - 1)) for k in range(keyframes)], world.side).pixels
                for video in videos
            ]
            seconds = [video.seconds for video in videos]
            columns = [tell(pixels, seconds, language) for language in LANGUAGES]
            for row in zip(*columns, strict=True):
                texts = dict(zip(LANGUAGES, row, strict=True))
                file.write(json.dumps(texts, ensure_ascii=False) + "\n")
            file.flush()
            progress(min(start + TOGETHER, count), count)


def _whole_lines(path: Path) -> list[str]:
    """The lines of a file without a last one that was cut off."""
    text = path.read_text(encoding="utf-8", errors="replace")
    return text[: text.rfind("\n") + 1].splitlines()
