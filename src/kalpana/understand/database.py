"""The database of an index: its place, description and schemas, and LanceDB's errors.

A table is named after its model and the model's fingerprint; each row is a file. An index that is
damaged or of another version is never written.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from kalpana.media import write
from kalpana.types import KalpanaError

if TYPE_CHECKING:
    import pyarrow as pa
    from PIL import Image
    from torch import Tensor

PLACE = ".kalpana"  # default name of the index within its folder
FORMAT = 2  # version of the index; other versions are rejected
ABOUT = "index.json"  # the file that describes the index
BROKEN = "broken"  # the table of files that could not be indexed
MOVE_AWAY = "it was left as it is: move it away, and run kalpana search index again"
FULL = {27, 28, 122}  # EFBIG, ENOSPC, EDQUOT
CLOSED = {1, 13, 30}  # EPERM, EACCES, EROFS

Progress = Callable[[str, int, int], None]  # stage, done, total


def silent(stage: str, done: int, total: int) -> None:
    """Progress callback that does nothing."""


class Embedder(Protocol):
    """A model that embeds pictures and words in one space; matching pairs have a large cosine."""

    @property
    def name(self) -> str: ...

    @property
    def fingerprint(self) -> str:
        """Unique to the weights; only embeddings with the same fingerprint are comparable."""
        ...

    @property
    def size(self) -> int:
        """Dimension d of the embeddings."""
        ...

    def images(self, pictures: list[Image.Image], /) -> Tensor:
        """Unit embeddings (n, d), fp32."""
        ...

    def texts(self, texts: list[str], /) -> Tensor:
        """Unit embeddings (n, d), fp32."""
        ...


@dataclass(frozen=True)
class Tuned:
    """Parameters and measured recall of the approximate index.

    A query searches the ``probes`` nearest partitions, which have about ``part`` rows each, and
    compares ``refine`` times the wanted number of candidates exactly. ``pictures`` and ``words``
    are the recall of the best TOP for query pictures and query words, measured at ``rows`` rows.
    ``made`` is the number of rows when the index was built.
    """

    made: int
    rows: int
    part: int
    probes: int
    refine: int
    pictures: float
    words: float


def home_of(folder: Path, at: Path | None) -> Path:
    """The place of a folder's index: ``at`` if given, else PLACE within the folder."""
    return folder / PLACE if at is None else at


def table_name(encoder: Embedder) -> str:
    """Name of a model's table: its name and the start of its fingerprint, in safe characters."""
    parts = (
        re.sub(r"[^A-Za-z0-9_.-]+", "-", part).strip("-.")
        for part in (encoder.name[-64:], encoder.fingerprint[:12])
    )
    return "-".join(part or "model" for part in parts)


def metadata_of(encoder: Embedder) -> dict[str, str]:
    return {"model": encoder.name, "fingerprint": encoder.fingerprint, "size": str(encoder.size)}


def has_table(home: Path, name: str) -> bool:
    """Whether an index has a complete table; a killed process may leave one half created."""
    return any(
        next((home / f"{name}.lance").glob(pattern), None)
        for pattern in ("_versions/*.manifest", "data/*")
    )


def schema_of(encoder: Embedder) -> pa.Schema:
    import pyarrow as pa

    return pa.schema(
        {
            "path": pa.binary(),  # file names may be any bytes; also, no name can alter a filter
            "bytes": pa.int64(),
            "changed": pa.int64(),
            "ctime": pa.int64(),
            "inode": pa.int64(),
            "hash": pa.binary(),
            "width": pa.int32(),
            "height": pa.int32(),
            "date": pa.string(),
            "prompt": pa.string(),
            "words": pa.string(),  # the prompt, case-folded
            "model": pa.string(),
            "seed": pa.int64(),
            "vector": pa.list_(pa.float32(), encoder.size),
        },
        metadata=metadata_of(encoder),
    )


def broken_schema() -> pa.Schema:
    import pyarrow as pa

    return pa.schema(
        {
            "path": pa.binary(),
            "bytes": pa.int64(),
            "changed": pa.int64(),
            "ctime": pa.int64(),
            "inode": pa.int64(),
            "reason": pa.string(),
            "reader": pa.string(),
        }
    )


def read_about(home: Path, folder: Path, at: Path | None) -> dict[str, Any] | None:
    """The description of an index, None where there is no index.

    Raises: KalpanaError where it is damaged, of another version or of another folder.
    """
    try:
        about = json.loads((home / ABOUT).read_text(encoding="utf-8"))
        if about["format"] != FORMAT:
            raise KalpanaError(
                f"the index {home} was made by another version of Kalpana (format "
                f"{about['format']}, this one reads {FORMAT}): use that version, or make a new "
                "index with --index"
            )
        for entry in about["tuned"].values():
            Tuned(**entry)
        elsewhere = Path(about["folder"]) if at and about["folder"] else folder
    except FileNotFoundError:
        if next(home.glob("*.lance"), None):
            raise KalpanaError(
                f"the index {home} is damaged: it has tables but no {ABOUT}; {MOVE_AWAY}"
            ) from None
        return None
    except OSError as error:
        raise KalpanaError(f"the index {home} cannot be read: {error.strerror}") from None
    except (ValueError, KeyError, TypeError, AttributeError):
        raise KalpanaError(
            f"the index {home} is damaged: its {ABOUT} cannot be read; {MOVE_AWAY}"
        ) from None
    if elsewhere.is_dir() and not elsewhere.samefile(folder):
        raise KalpanaError(
            f"{home} holds the index of {elsewhere}, not of {folder}: name another with --index"
        )
    return about


def write_about(home: Path, about: dict[str, Any]) -> None:
    with told(home):
        write(home / ABOUT, json.dumps(about, indent=1).encode())


@contextmanager
def told(home: Path) -> Iterator[None]:
    """Context in which exceptions of LanceDB become one-line KalpanaErrors with advice."""
    try:
        yield
    except KalpanaError:
        raise
    except Exception as error:  # LanceDB raises RuntimeError, ValueError and panics of its threads
        found = re.search(r"\(os error (\d+)\)", str(error))
        number = int(found[1]) if found else getattr(error, "errno", None)
        if number in FULL:
            raise KalpanaError(
                f"the disk is full at {home} ({os.strerror(number)}): make room, and run the same "
                "command again"
            ) from None
        if number in CLOSED:
            raise KalpanaError(
                f"{home} cannot be used ({os.strerror(number)}): name another folder with --index"
            ) from None
        raise KalpanaError(
            f"the index {home} is damaged ({' '.join(str(error).split())[:160]}); {MOVE_AWAY}"
        ) from None


def lancedb_module() -> Any:
    """The lancedb module. Raises: KalpanaError where it is not installed."""
    # Its warnings are not about faults; faults are raised.
    os.environ.setdefault("LANCEDB_LOG", "error")
    try:
        import lancedb
    except ImportError:
        raise KalpanaError(
            "searching needs LanceDB: install it with pip install 'kalpana[search]'"
        ) from None
    return lancedb


def checked(vectors: Tensor, count: int, encoder: Embedder) -> np.ndarray:
    """A model's embeddings as an array (n, d) float32.

    Raises: KalpanaError where their shape is wrong or their length is not 1.
    """
    if vectors.shape != (count, encoder.size):
        raise KalpanaError(
            f"model {encoder.name!r} gave vectors {tuple(vectors.shape)}, not "
            f"{(count, encoder.size)}"
        )
    vectors = vectors.detach().float().cpu()
    if not bool(((vectors.norm(dim=1) - 1).abs() < 1e-3).all()):
        raise KalpanaError(f"model {encoder.name!r} gave vectors whose length is not 1")
    return vectors.numpy()
