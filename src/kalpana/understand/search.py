"""Search in the pictures of a folder: by words, pictures, sums ("cat + night - street"), receipts.

A query becomes one unit vector, the normalised sum of its terms' embeddings. The score of a picture
is the cosine of its embedding with the query. With a filter, search is exact: every picture that
passes the filter is compared.
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

from kalpana.errors import shorten
from kalpana.media import grid
from kalpana.text.normalize import clean, comparable
from kalpana.types import KalpanaError
from kalpana.understand.database import Embedder, Progress, checked, silent
from kalpana.understand.folder import read_image, shown
from kalpana.understand.store import Store, open_store

if TYPE_CHECKING:
    from rich.text import Text

COLUMNS = ("path", "width", "height", "date", "prompt", "model", "seed")
ALIKE = 0.95  # least cosine of two near-duplicates
STRIP, WIDE = 256, 65_536  # sides of a block of pairwise comparisons, in rows
LINES = 40  # largest height of a picture in a terminal, in lines
SHEET = 1024  # largest number of pictures on a sheet


@dataclass(frozen=True)
class Term:
    """One term of a query: ``words`` or a ``picture``, with its ``weight`` in the sum."""

    weight: float = 1.0
    words: str = ""
    picture: Path | None = None


@dataclass(frozen=True)
class SearchFilter:
    """Conditions that a found picture must meet; None: no condition.

    ``folder`` is a folder within the searched one, including its subfolders. ``since`` and
    ``until`` are days, months or years (2026-03-01, 2026-03 or 2026), both inclusive. ``smallest``
    and ``largest`` bound both sides, in pixels. ``prompt`` is a part of the receipt's prompt,
    regardless of case; ``model`` is the name of the model that generated the picture.
    """

    folder: Path | None = None
    since: str | None = None
    until: str | None = None
    smallest: int | None = None
    largest: int | None = None
    prompt: str | None = None
    model: str | None = None


@dataclass(frozen=True)
class Hit:
    """A found picture: score, upright size in pixels, date, and fields of its receipt.

    ``score`` is a cosine, None for a query without terms. ``prompt``, ``model`` and ``seed`` are
    None where the picture has no receipt.
    """

    path: Path
    score: float | None
    width: int
    height: int
    date: str
    prompt: str | None
    model: str | None
    seed: int | None

    def facts(self) -> dict[str, Any]:
        """All fields as JSON types; undecodable bytes of the path are escaped."""
        return asdict(self) | {"path": os.fsencode(self.path).decode("utf-8", "backslashreplace")}


def parse(query: str) -> tuple[Term, ...]:
    """The terms of a query, which are separated by " + " or " - ".

    A term may have a weight (0.5*night). A quoted term is not parsed further.
    Raises: KalpanaError where a quote is not closed or a term has no words.
    """
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
    """The term in one part of a query, negative where ``sign`` is "-"."""
    found = re.fullmatch(r"(?:(\d+(?:\.\d+)?)\*(?=\S))?(.*)", part)
    assert found
    words = found[2]
    if re.fullmatch(r'"[^"]*"', words):
        words = words[1:-1].strip()
    if not words:
        problem = "the query has no words"
        if query:
            problem = f"query {shorten(query)} has no words after {sign!r}"
        raise KalpanaError(
            f"{problem}: write what the pictures should show, such as 'a cat at night'"
        )
    return Term(float(found[1] or 1) * (1 if sign == "+" else -1), words)


def overlooked(terms: Sequence[Term], encoder: Embedder) -> tuple[str, ...]:
    """Warnings about the parts of a query that a model cannot use: unknown words, truncated text.

    Empty for a model that cannot tell.
    """
    warnings = []
    for text in [term.words for term in terms if term.words]:
        words = getattr(encoder, "unknown", lambda text: ())(text)
        cut = encoder.words.cut(text) if hasattr(encoder, "words") else ""
        if words:
            warnings.append(f"model {encoder.name!r} never met {', '.join(words)}")
        if cut:
            warnings.append(
                f"model {encoder.name!r} did not read the last {len(cut):,} characters, "
                f"from {shorten(cut)} on"
            )
    return tuple(warnings)


def search(
    folder: Path,
    query: str | Sequence[Term],
    encoder: Embedder,
    *,
    n: int = 10,
    only: SearchFilter = SearchFilter(),
    at: Path | None = None,
) -> list[Hit]:
    """The n pictures in the index of a folder with the highest score for a query, best first.

    Pictures whose files are gone since the last ``index`` are left out. Without terms: the n latest
    pictures that pass the filter ``only``.
    Raises: KalpanaError where there is neither a term nor a filter, and where the model has no
    index of the folder or the index is damaged.
    """
    terms = parse(query) if isinstance(query, str) else tuple(query)
    if not terms and only == SearchFilter():
        raise KalpanaError(
            "there is no query: write what the pictures should show, such as 'a cat at night'"
        )
    store, where = open_store(folder, encoder, at), _where(only, folder)
    vector = _mixed(terms, encoder) if terms else None
    try:
        return _hits(folder, store, vector, n, where)
    except KalpanaError:
        # An index run that is tidying may have deleted the files being read. If that is not the
        # cause, the second attempt raises the error again.
        return _hits(folder, open_store(folder, encoder, at), vector, n, where)


def _hits(folder: Path, store: Store, vector: np.ndarray | None, n: int, where: Any) -> list[Hit]:
    """The n best (or, without a vector, n latest) pictures whose files exist."""
    asked = n
    while True:
        rows = _rows(store, vector, asked, where)
        hits = [hit for hit in (_hit(folder, row) for row in rows) if hit.path.is_file()]
        if len(hits) >= n or len(rows) < asked:
            return hits[:n]
        asked *= 2


def _rows(store: Store, vector: np.ndarray | None, n: int, where: Any) -> list[dict[str, Any]]:
    """Rows of the n best (or, without a vector, n latest) pictures with their score."""
    if vector is not None:
        return store.nearest(vector, n, COLUMNS, where, store.tuned if where is None else None)
    latest = sorted(store.rows(COLUMNS, where), key=lambda row: row["date"], reverse=True)
    return [row | {"score": None} for row in latest[:n]]


def _mixed(terms: Sequence[Term], encoder: Embedder) -> np.ndarray:
    """Normalised weighted sum (d,) of the terms' embeddings.

    Raises: KalpanaError where the sum is zero.
    """
    words = [term for term in terms if term.picture is None]
    pictures = [(term, read_image(term.picture)) for term in terms if term.picture is not None]
    total = np.zeros(encoder.size, np.float32)
    if words:
        vectors = checked(encoder.texts([term.words for term in words]), len(words), encoder)
        total += np.array([term.weight for term in words], np.float32) @ vectors
    if pictures:
        embeddings = encoder.images([picture for _, picture in pictures])
        vectors = checked(embeddings, len(pictures), encoder)
        total += np.array([term.weight for term, _ in pictures], np.float32) @ vectors
    length = np.linalg.norm(total)
    if length < 1e-3:
        raise KalpanaError(
            "the terms of the query cancel out, so nothing is asked: leave one out, or give it "
            "another weight, as 0.5*night"
        )
    return total / length


def _where(only: SearchFilter, folder: Path) -> Any:
    """The filter as a LanceDB expression, or None; values are literals, so nothing is injected."""
    from lancedb.expr import col, lit

    parts = []
    if only.folder is not None:
        inside = _inside(only.folder, folder)
        if inside:  # "0" is the character after "/"
            parts += [col("path") >= lit(inside + b"/"), col("path") < lit(inside + b"0")]
    since = None if only.since is None else _day(only.since)
    # "~" sorts after every continuation of a date.
    until = None if only.until is None else _day(only.until) + "~"
    if since is not None and until is not None and since > until:
        raise KalpanaError(
            f"since {only.since} is after until {only.until}, so no picture fits: exchange them"
        )
    if since is not None:
        parts.append(col("date") >= lit(since))
    if until is not None:
        parts.append(col("date") <= lit(until))
    for side in ("width", "height"):
        if only.smallest is not None:
            parts.append(col(side) >= lit(only.smallest))
        if only.largest is not None:
            parts.append(col(side) <= lit(only.largest))
    if only.prompt is not None:
        parts.append(col("words").contains(lit(comparable(only.prompt))))
    if only.model is not None:
        parts.append(col("model") == lit(only.model))
    return reduce(and_, parts) if parts else None


def _day(text: str) -> str:
    """The text, validated. Raises: KalpanaError where it is not a day, a month or a year."""
    complete = text + "0000-01-01"[len(text) :]
    try:
        date.fromisoformat(complete if re.fullmatch(r"\d{4}(-\d\d){0,2}", text) else "")
    except ValueError:
        raise KalpanaError(
            f"date {shorten(text)} should be a day, a month or a year, such as 2026-03-01, "
            "2026-03 or 2026"
        ) from None
    return text


def _inside(part: Path, folder: Path) -> bytes:
    """Path of a folder relative to the searched one, as bytes: the prefix of the paths beneath it.

    Raises: KalpanaError where there is no such folder.
    """
    for place in (folder / part, part):
        path = os.path.relpath(place, folder)
        if place.is_dir() and path.split(os.sep)[0] != os.pardir:
            return b"" if path == os.curdir else os.fsencode(Path(path).as_posix())
    visible = (path for path in sorted(folder.iterdir()) if not path.name.startswith("."))
    example = next((path.name for path in visible if path.is_dir()), None)
    hint = f": name one that is, such as {example}" if example else ""
    raise KalpanaError(f"there is no folder {part} in {folder}{hint}")


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
    """Groups of near-duplicates in the index of a folder, the largest group first.

    In a group, every picture has a cosine of at least ``alike`` with another one. The first picture
    has the most pixels; the score of the others is their cosine with it. Pictures whose files are
    gone are left out. All pairs are compared, so
    the time grows with the square of the number of pictures.
    """
    rows, parts = list[dict[str, Any]](), [np.zeros((0, encoder.size), np.float32)]
    for block_rows, block in open_store(folder, encoder, at).blocks(COLUMNS, _where(only, folder)):
        rows += block_rows
        parts.append(block)
    vectors = torch.from_numpy(np.concatenate(parts))
    leader = np.arange(len(rows))  # representative of each picture's group, in the end its first
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
    for members in groups.values():
        group = [k for k in members if (folder / os.fsdecode(rows[k]["path"])).is_file()]
        if len(group) > 1:
            group.sort(key=lambda k: (-rows[k]["width"] * rows[k]["height"], rows[k]["path"]))
            scores = (vectors[group] @ vectors[group[0]]).tolist()
            scored = zip(group, scores, strict=True)
            found.append([_hit(folder, rows[k] | {"score": score}) for k, score in scored])
    return sorted(found, key=lambda group: (-len(group), group[0].path))


def _join(leader: np.ndarray, one: np.ndarray, two: np.ndarray) -> None:
    """Unites, in place, the groups of one[k] and two[k] for every k.

    Union-find (Galler and Fischer 1964); the trees have depth 1 before and after.
    """
    pairs = np.stack((leader[one], leader[two]))
    pairs = np.unique(pairs[:, pairs[0] != pairs[1]], axis=1)
    for pair in pairs.T.tolist():
        for side in (0, 1):
            while leader[pair[side]] != pair[side]:
                pair[side] = leader[pair[side]]
        leader[max(pair)] = min(pair)
    while pairs.size and not np.array_equal(leader, leader[leader]):
        leader[:] = leader[leader]


# ----------------------------------------------------------------------------------------- display


def table(hits: Sequence[Hit]) -> str:
    """One line for each hit: score, size, day, path and the prompt of its receipt."""
    lines = []
    for hit in hits:
        score = "     –" if hit.score is None else f"{hit.score:6.3f}"
        size = f"{hit.width}x{hit.height}"
        prompt = f"  ({shown(clean(hit.prompt))[:80]})" if hit.prompt else ""
        lines.append(f"{score}  {size:>11}  {hit.date[:10]}  {shown(str(hit.path))}{prompt}")
    return "\n".join(lines)


def sheet(hits: Sequence[Hit]) -> Image.Image:
    """The pictures on one sheet, each above its score and path; grey for a file that is gone.

    Raises: KalpanaError where there are more than SHEET pictures.
    """
    from kalpana.world.sheet import captioned

    if len(hits) > SHEET:
        raise KalpanaError(
            f"{len(hits):,} pictures are too many for a sheet: ask for {SHEET:,} at most with -n"
        )
    scores = ["" if hit.score is None else f"{hit.score:.3f} " for hit in hits]
    captions = [f"{score}{shown(str(hit.path))}" for score, hit in zip(scores, hits, strict=True)]
    return captioned(thumbnails(hits), captions)


def thumbnails(hits: Sequence[Hit], side: int = 256) -> list[Image.Image]:
    """The pictures padded with white to squares of ``side`` pixels; grey for an unreadable file."""
    squares = []
    for hit in hits:
        try:
            squares.append(ImageOps.pad(read_image(hit.path), (side, side), color="white"))
        except KalpanaError:
            squares.append(Image.new("RGB", (side, side), "grey"))
    return squares


def drawn(hits: Sequence[Hit], terminal: Mapping[str, str], columns: int) -> str | Text:
    """The first pictures as terminal output: inline images (kitty, iTerm2), else half blocks.

    Empty for a terminal without colours. ``terminal`` holds environment variables; ``columns`` is
    the terminal's width.
    """
    program, kind = terminal.get("TERM_PROGRAM", ""), terminal.get("TERM", "")
    if "TMUX" not in terminal and not kind.startswith(("screen", "tmux")):
        if "kitty" in kind or "KITTY_WINDOW_ID" in terminal or program == "ghostty":
            return kitty(sheet(hits[:12]))
        if program in ("iTerm.app", "WezTerm") or terminal.get("LC_TERMINAL") == "iTerm2":
            return iterm(sheet(hits[:12]))
    if kind in ("dumb", "unknown") or terminal.get("NO_COLOR"):
        return ""
    return blocks(grid(thumbnails(hits[:4])), columns)


def kitty(image: Image.Image) -> str:
    """A picture in kitty's terminal graphics protocol.

    A PNG in base64, in chunks of 4,096 characters; m is 0 in the last chunk.
    """
    data = _png(image)
    chunks = [data[start : start + 4096] for start in range(0, len(data), 4096)]
    last = len(chunks) - 1
    escapes = [
        f"\x1b_G{'' if k else 'a=T,f=100,'}m={int(k < last)};{chunk}\x1b\\"
        for k, chunk in enumerate(chunks)
    ]
    return "".join(escapes) + "\n"


def iterm(image: Image.Image) -> str:
    """A picture in the inline images protocol of iTerm2."""
    return f"\x1b]1337;File=inline=1:{_png(image)}\x07\n"


def _png(image: Image.Image) -> str:
    """The picture as a PNG in base64."""
    data = io.BytesIO()
    image.save(data, "PNG")
    return base64.b64encode(data.getvalue()).decode()


def blocks(image: Image.Image, columns: int) -> Text:
    """A picture as text in half blocks, two pixels a character, for any terminal with colours.

    It has at most LINES lines.
    """
    from rich.color import Color
    from rich.style import Style
    from rich.text import Text

    small = image.copy()
    small.thumbnail((columns, 2 * LINES))
    # An odd number of rows is padded with a black one.
    even = small.crop((0, 0, small.width, small.height + small.height % 2))
    levels = np.asarray(even)
    text = Text()
    for upper, lower in zip(levels[::2].tolist(), levels[1::2].tolist(), strict=True):
        for top, bottom in zip(upper, lower, strict=True):
            text.append("▀", Style(color=Color.from_rgb(*top), bgcolor=Color.from_rgb(*bottom)))
        text.append("\n")
    return text
