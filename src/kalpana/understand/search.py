"""Searching the pictures of a folder, by words, by pictures, by sums of both ("cat + night - street"), and by their receipts.

What is asked becomes one vector of length 1, the sum of its terms' vectors; the score of a picture is the cosine of its own vector with
it. Filters choose exactly: with one, every vector that it lets through is compared.
"""

from __future__ import annotations

import base64
import io
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import date
from functools import reduce
from itertools import pairwise
from operator import and_
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image, ImageOps

from kalpana.media import grid
from kalpana.request import clean, shorten
from kalpana.types import KalpanaError
from kalpana.understand.folder import read_image, shown
from kalpana.understand.store import Embedder, Progress, Store, checked, open_store, silent

if TYPE_CHECKING:
    from rich.text import Text

COLUMNS = ("path", "width", "height", "date", "prompt", "model", "seed")
ALIKE = 0.95  # the cosine from which on two pictures count as near-duplicates
STRIP, WIDE = 256, 65_536  # rows that are compared with rows at once
LINES = 40  # of a terminal, that a picture takes up at most
SHEET = 1024  # pictures on a sheet at most


@dataclass(frozen=True)
class Term:
    """One part of what is asked, ``words`` or a ``picture``, and its ``weight`` in the sum."""

    weight: float = 1.0
    words: str = ""
    picture: Path | None = None


@dataclass(frozen=True)
class SearchFilter:
    """Which pictures may be found; what is None lets all through. ``folder`` is within the searched one, with all beneath; ``since`` and
    ``until`` are days, months or years of its date, as 2026-03-01, 2026-03 or 2026, both included; ``smallest`` and ``largest`` are
    pixels of both its sides; ``prompt`` is part of the receipt's prompt, in capitals or not, and ``model`` the name of the model that
    made it."""

    folder: Path | None = None
    since: str | None = None
    until: str | None = None
    smallest: int | None = None
    largest: int | None = None
    prompt: str | None = None
    model: str | None = None


@dataclass(frozen=True)
class Hit:
    """A picture that was found: its ``score``, a cosine (None where nothing but filters were asked), its upright size and date, and the
    prompt, model and seed of its receipt, if it has one."""

    path: Path
    score: float | None
    width: int
    height: int
    date: str
    prompt: str | None
    model: str | None
    seed: int | None

    def facts(self) -> dict[str, Any]:
        """All of it as JSON can hold it; bytes of the path that are no text are escaped."""
        return asdict(self) | {"path": os.fsencode(self.path).decode("utf-8", "backslashreplace")}


def parse(query: str) -> tuple[Term, ...]:
    """The terms of a query: words with " + " or " - " between them, each perhaps with a weight before it, as 0.5*night. What stands in
    double quotes is taken as it is. Raises KalpanaError where nothing is asked."""
    query = clean(query)
    if query.count('"') % 2:
        raise KalpanaError(
            f"query {shorten(query)} has a quote that is not closed: close it, or leave it out"
        )
    masked = re.sub(r'"[^"]*"', lambda quoted: "x" * len(quoted[0]), query)
    signs = [*(found.start() for found in re.finditer(r"(?<!\S)[+-](?!\S)", masked)), len(query)]
    parts = [(query[start], query[start + 1 : end]) for start, end in pairwise(signs)]
    if query[: signs[0]].strip() or not parts:
        parts.insert(0, ("+", query[: signs[0]]))
    return tuple(_term(sign, part.strip(), query) for sign, part in parts)


def _term(sign: str, part: str, query: str) -> Term:
    found = re.fullmatch(r"(?:(\d+(?:\.\d+)?)\*(?=\S))?(.*)", part)
    assert found
    words = found[2]
    if re.fullmatch(r'"[^"]*"', words):
        words = words[1:-1].strip()
    if not words:
        where = (
            f"query {shorten(query)} has no words after {sign!r}"
            if query
            else "the query has no words"
        )
        raise KalpanaError(
            f"{where}: write what the pictures should show, such as 'a cat at night'"
        )
    return Term(float(found[1] or 1) * (1 if sign == "+" else -1), words)


def overlooked(terms: Sequence[Term], encoder: Embedder) -> tuple[str, ...]:
    """What a model says that it does not read of a query, if it can tell: words that it never met, and what is too long."""
    said = []
    for text in [term.words for term in terms if term.words]:
        words = getattr(encoder, "unknown", lambda text: ())(text)
        cut = encoder.words.cut(text) if hasattr(encoder, "words") else ""
        said += [f"model {encoder.name!r} never met {', '.join(words)}"] if words else []
        said += (
            [
                f"model {encoder.name!r} did not read the last {len(cut):,} characters, from {shorten(cut)} on"
            ]
            if cut
            else []
        )
    return tuple(said)


def search(
    folder: Path,
    query: str | Sequence[Term],
    encoder: Embedder,
    *,
    n: int = 10,
    only: SearchFilter = SearchFilter(),
    at: Path | None = None,
) -> list[Hit]:
    """The n pictures in the index of a folder that come closest to a query, best first; without terms, the latest that ``only`` lets
    through. Raises KalpanaError where nothing is asked, and where the model has no index there, or a damaged one."""
    terms = parse(query) if isinstance(query, str) else tuple(query)
    if not terms and only == SearchFilter():
        raise KalpanaError(
            "there is no query: write what the pictures should show, such as 'a cat at night'"
        )
    store, where = open_store(folder, encoder, at), _where(only, folder)
    vector = _mixed(terms, encoder) if terms else None
    try:
        rows = _rows(store, vector, n, where)
    except KalpanaError:  # a run that was just tidying up may have deleted what was being read; if not, it is raised again
        rows = _rows(open_store(folder, encoder, at), vector, n, where)
    return [_hit(folder, row) for row in rows]


def _rows(store: Store, vector: np.ndarray | None, n: int, where: Any) -> list[dict[str, Any]]:
    if vector is not None:
        return store.nearest(vector, n, COLUMNS, where, store.tuned if where is None else None)
    latest = sorted(store.rows(COLUMNS, where), key=lambda row: row["date"], reverse=True)
    return [row | {"score": None} for row in latest[:n]]


def _mixed(terms: Sequence[Term], encoder: Embedder) -> np.ndarray:
    """The sum of the terms' vectors (d,), of length 1. Raises KalpanaError where they cancel out."""
    words = [term for term in terms if term.picture is None]
    pictures = [(term, read_image(term.picture)) for term in terms if term.picture is not None]
    total = np.zeros(encoder.size, np.float32)
    if words:
        vectors = checked(encoder.texts([term.words for term in words]), len(words), encoder)
        total += np.array([term.weight for term in words], np.float32) @ vectors
    if pictures:
        vectors = checked(
            encoder.images([picture for _, picture in pictures]), len(pictures), encoder
        )
        total += np.array([term.weight for term, _ in pictures], np.float32) @ vectors
    length = np.linalg.norm(total)
    if length < 1e-3:
        raise KalpanaError(
            "the terms of the query cancel out, so nothing is asked: leave one out, or give it another weight, as 0.5*night"
        )
    return total / length


def _where(only: SearchFilter, folder: Path) -> Any:
    """The filter as an expression of LanceDB, in which values are never part of a text; None where there is none."""
    from lancedb.expr import col, lit

    parts = []
    if only.folder is not None:
        inside = _inside(only.folder, folder)
        if inside:  # "/" is followed by "0"
            parts += [col("path") >= lit(inside + b"/"), col("path") < lit(inside + b"0")]
    if only.since is not None:
        parts.append(col("date") >= lit(_day(only.since)))
    if only.until is not None:
        parts.append(
            col("date") <= lit(_day(only.until) + "~")
        )  # which comes after all that a date goes on with
    for side in ("width", "height"):
        if only.smallest is not None:
            parts.append(col(side) >= lit(only.smallest))
        if only.largest is not None:
            parts.append(col(side) <= lit(only.largest))
    if only.prompt is not None:
        parts.append(col("words").contains(lit(only.prompt.casefold())))
    if only.model is not None:
        parts.append(col("model") == lit(only.model))
    return reduce(and_, parts) if parts else None


def _day(text: str) -> str:
    """The text, if it is a day, a month or a year. Raises KalpanaError where it is not."""
    try:
        date.fromisoformat(
            text + "0000-01-01"[len(text) :] if re.fullmatch(r"\d{4}(-\d\d){0,2}", text) else ""
        )
    except ValueError:
        raise KalpanaError(
            f"date {shorten(text)} should be a day, a month or a year, such as 2026-03-01, 2026-03 or 2026"
        ) from None
    return text


def _inside(part: Path, folder: Path) -> bytes:
    """A folder within the searched one as the bytes that paths beneath it begin with. Raises KalpanaError where it is not."""
    for place in (folder / part, part):
        path = os.path.relpath(place, folder)
        if place.is_dir() and path.split(os.sep)[0] != os.pardir:
            return b"" if path == os.curdir else os.fsencode(Path(path).as_posix())
    there = next(
        (
            path.name
            for path in sorted(folder.iterdir())
            if path.is_dir() and not path.name.startswith(".")
        ),
        None,
    )
    raise KalpanaError(
        f"there is no folder {part} in {folder}"
        + (f": name one that is, such as {there}" if there else "")
    )


def _hit(folder: Path, row: dict[str, Any]) -> Hit:
    return Hit(
        folder / os.fsdecode(row["path"]), **{name: row[name] for name in ("score", *COLUMNS[1:])}
    )


def duplicates(
    folder: Path,
    encoder: Embedder,
    *,
    alike: float = ALIKE,
    only: SearchFilter = SearchFilter(),
    at: Path | None = None,
    progress: Progress = silent,
) -> list[list[Hit]]:
    """Groups of pictures in the index of a folder that are nearly the same, the largest first: in each, every picture has a cosine of
    ``alike`` or more with another. The score is that with the first, which has the most pixels.

    Every pair is compared, a block of rows with a block: four times the pictures take sixteen times as long.
    """
    rows, parts = list[dict[str, Any]](), [np.zeros((0, encoder.size), np.float32)]
    for some, block in open_store(folder, encoder, at).blocks(COLUMNS, _where(only, folder)):
        rows += some
        parts.append(block)
    vectors = torch.from_numpy(np.concatenate(parts))
    leader = np.arange(len(rows))  # of each picture one of its group; at last the first of it
    for start in range(0, len(rows), STRIP):
        strip = vectors[start : start + STRIP]
        for right in range(start, len(rows), WIDE):
            one, two = ((strip @ vectors[right : right + WIDE].T) >= alike).nonzero().numpy().T
            _join(leader, one + start, two + right)
        progress("comparing", min(start + STRIP, len(rows)), len(rows))
    groups: dict[int, list[int]] = {}
    for k, first in enumerate(leader.tolist()):
        groups.setdefault(first, []).append(k)
    found = []
    for group in groups.values():
        if len(group) > 1:
            group.sort(key=lambda k: (-rows[k]["width"] * rows[k]["height"], rows[k]["path"]))
            scores = (vectors[group] @ vectors[group[0]]).tolist()
            found.append(
                [
                    _hit(folder, rows[k] | {"score": score})
                    for k, score in zip(group, scores, strict=True)
                ]
            )
    return sorted(found, key=lambda group: (-len(group), group[0].path))


def _join(leader: np.ndarray, one: np.ndarray, two: np.ndarray) -> None:
    """Make one group of the groups of one[k] and two[k], for every k: the forest of Galler and Fischer (1964), flat before and after."""
    pairs = np.stack((leader[one], leader[two]))
    pairs = np.unique(pairs[:, pairs[0] != pairs[1]], axis=1)
    for pair in pairs.T.tolist():
        for side in (0, 1):
            while leader[pair[side]] != pair[side]:
                pair[side] = leader[pair[side]]
        leader[max(pair)] = min(pair)
    while pairs.size and not np.array_equal(leader, leader[leader]):
        leader[:] = leader[leader]


# ------------------------------------------------------------------------------------------------------------------- shown


def table(hits: Sequence[Hit]) -> str:
    """A line for each hit: score, size, day, path, and the prompt it was made from."""
    lines = []
    for hit in hits:
        score = "     –" if hit.score is None else f"{hit.score:6.3f}"
        made = f"  ({shown(clean(hit.prompt))[:80]})" if hit.prompt else ""
        lines.append(
            f"{score}  {f'{hit.width}x{hit.height}':>11}  {hit.date[:10]}  {shown(str(hit.path))}{made}"
        )
    return "\n".join(lines)


def sheet(hits: Sequence[Hit]) -> Image.Image:
    """The pictures on one sheet, each above its score and path; a grey one stands for a file that is gone. Raises KalpanaError where
    there are more than SHEET."""
    from kalpana.world.sheet import captioned

    if len(hits) > SHEET:
        raise KalpanaError(
            f"{len(hits):,} pictures are too many for a sheet: ask for {SHEET:,} at most with -n"
        )
    return captioned(
        thumbnails(hits),
        [
            f"{'' if hit.score is None else f'{hit.score:.3f} '}{shown(str(hit.path))}"
            for hit in hits
        ],
    )


def thumbnails(hits: Sequence[Hit], side: int = 256) -> list[Image.Image]:
    """The pictures as squares of this many pixels, whole, on white."""
    squares = []
    for hit in hits:
        try:
            squares.append(ImageOps.pad(read_image(hit.path), (side, side), color="white"))
        except KalpanaError:
            squares.append(Image.new("RGB", (side, side), "grey"))
    return squares


def drawn(hits: Sequence[Hit], terminal: Mapping[str, str], columns: int) -> str | Text:
    """The first pictures as a terminal with this environment and so many columns can show them: as pictures, or in half blocks."""
    program, kind = terminal.get("TERM_PROGRAM", ""), terminal.get("TERM", "")
    if "TMUX" not in terminal and not kind.startswith(("screen", "tmux")):
        if "kitty" in kind or "KITTY_WINDOW_ID" in terminal or program == "ghostty":
            return kitty(sheet(hits[:12]))
        if program in ("iTerm.app", "WezTerm") or terminal.get("LC_TERMINAL") == "iTerm2":
            return iterm(sheet(hits[:12]))
    return blocks(grid(thumbnails(hits[:4])), columns)


def kitty(image: Image.Image) -> str:
    """A picture by the terminal graphics protocol of kitty: a PNG in base64, in parts of 4,096 signs; m is 0 in the last."""
    data = _png(image)
    parts = [data[start : start + 4096] for start in range(0, len(data), 4096)]
    last = len(parts) - 1
    return (
        "".join(
            f"\x1b_G{'' if k else 'a=T,f=100,'}m={int(k < last)};{part}\x1b\\"
            for k, part in enumerate(parts)
        )
        + "\n"
    )


def iterm(image: Image.Image) -> str:
    """A picture by the inline images protocol of iTerm2."""
    return f"\x1b]1337;File=inline=1:{_png(image)}\x07\n"


def _png(image: Image.Image) -> str:
    data = io.BytesIO()
    image.save(data, "PNG")
    return base64.b64encode(data.getvalue()).decode()


def blocks(image: Image.Image, columns: int) -> Text:
    """A picture in half blocks of text, two pixels in each, as any terminal with colours can show it; LINES lines at most."""
    from rich.color import Color
    from rich.style import Style
    from rich.text import Text

    small = image.copy()
    small.thumbnail((columns, 2 * LINES))
    levels = np.asarray(
        small.crop((0, 0, small.width, small.height + small.height % 2))
    )  # an odd last row gets a black one below
    text = Text()
    for upper, lower in zip(levels[::2].tolist(), levels[1::2].tolist(), strict=True):
        for top, bottom in zip(upper, lower, strict=True):
            text.append("▀", Style(color=Color.from_rgb(*top), bgcolor=Color.from_rgb(*bottom)))
        text.append("\n")
    return text
