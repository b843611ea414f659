"""Search in a folder of pictures by the name of a model; the index is brought up to date first."""

from __future__ import annotations

from collections.abc import Sequence
from os import PathLike
from pathlib import Path

from kalpana.understand.database import Embedder
from kalpana.understand.encoder import load
from kalpana.understand.index import index
from kalpana.understand.search import Hit, SearchFilter, Term
from kalpana.understand.search import search as search_index


def search(
    query: str | Sequence[Term],
    folder: str | PathLike[str],
    *,
    n: int = 10,
    model: str | Embedder = "clip",
    only: SearchFilter | None = None,
    update: bool = True,
    device: str | None = None,
) -> list[Hit]:
    """The n pictures of a folder, at any depth, that fit a query best, the best first.

    The query is text in English or Hindi, a sum such as "cat + night - street", or a list of terms.
    ``only`` holds conditions on date, size and receipt. ``update`` brings the index in the folder
    up to date first, which embeds new and changed pictures; False searches it as it is.

        for hit in kalpana.search("a red car", "pictures", n=3):
            print(hit.score, hit.path)

    Needs `pip install 'kalpana[search]'`. Raises KalpanaError where there are no pictures, no such
    model, or nothing is asked for.
    """
    encoder = load(model, device) if isinstance(model, str) else model
    if update:
        index(Path(folder), encoder)
    return search_index(Path(folder), query, encoder, n=n, only=only or SearchFilter())
