"""The tables of an index: a LanceDB database with a table for every model that has looked at the pictures, and one of files that are none.

A table is named after its model and the model's fingerprint; a row is a file. Rows are written all together or not at all, and by one
program at a time. What is damaged, or another version's, is never written to.
"""

from __future__ import annotations

import json
import os
import re
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from kalpana.media import write
from kalpana.types import KalpanaError
from kalpana.understand.folder import Broken, File, Read, reader, shown

if TYPE_CHECKING:
    import pyarrow as pa
    from PIL import Image
    from torch import Tensor

PLACE = ".kalpana"  # the index of a folder lies here in it
FORMAT = 1  # of the index; another version's is left alone
ABOUT, BROKEN = (
    "index.json",
    "broken",
)  # the file that describes the index, and the table of files that are no pictures
EXACT = 100_000  # rows; with fewer, every vector is compared
GROWN = 2  # times the rows that the approximate index was made of: then it is made anew
DRIFT = 0.01  # share of rows that may come or go before its recall is measured again
RECALL, TOP, SAMPLE = (
    0.99,
    10,
    128,
)  # of the best TOP so many are to be found, as SAMPLE pictures and as many words ask
MOVE_AWAY = "it was left as it is: move it away, and run kalpana search index again"
FULL = {27, 28, 122}  # EFBIG, ENOSPC, EDQUOT
CLOSED = {1, 13, 30}  # EPERM, EACCES, EROFS

Progress = Callable[[str, int, int], None]  # stage, done, total


def silent(stage: str, done: int, total: int) -> None:
    """The progress that nobody watches."""


class Embedder(Protocol):
    """A model that puts pictures and words into one space, where those that belong together have a large cosine."""

    @property
    def name(self) -> str: ...

    @property
    def fingerprint(self) -> str:
        """What no other weights share; a vector is only ever compared with those of the same."""
        ...

    @property
    def size(self) -> int:
        """Numbers in a vector."""
        ...

    def images(self, pictures: list[Image.Image], /) -> Tensor:
        """Vectors (n, d), fp32, of length 1."""
        ...

    def texts(self, texts: list[str], /) -> Tensor:
        """Vectors (n, d), fp32, of length 1."""
        ...


@dataclass(frozen=True)
class Tuned:
    """How the approximate index is asked: the ``probes`` nearest of its partitions, which have about ``part`` rows, are looked into, and
    ``refine`` times as many candidates as wanted compared exactly; the share of the best TOP that is found so, of pictures and of words,
    measured when there were ``rows``; and the rows it was ``made`` of."""

    made: int
    rows: int
    part: int
    probes: int
    refine: int
    pictures: float
    words: float


class Store:
    """One model's table in an index. What every method raises is a KalpanaError, one line."""

    def __init__(self, home: Path, encoder: Embedder, about: dict[str, Any]) -> None:
        """Open the table, which must be there. Raises KalpanaError where it is not, or is another model's."""
        self.home, self.name, self.about = home, table_name(encoder), about
        self.table = self._open(self.name)
        with told(home):
            metadata = {
                key.decode(): value.decode()
                for key, value in (self.table.schema.metadata or {}).items()
            }
        if metadata != _metadata(encoder):
            raise KalpanaError(
                f"the index {home} is damaged: its table {self.name} is not of {encoder.name!r}"
            )

    def _open(self, name: str) -> Any:
        with told(self.home):
            return _lancedb().connect(str(self.home.absolute())).open_table(name)

    @property
    def tuned(self) -> Tuned | None:
        """How to ask the approximate index, None where every vector is to be compared."""
        entry = self.about["tuned"].get(self.name)
        return Tuned(**entry) if entry and self.count() >= EXACT else None

    def count(self) -> int:
        with told(self.home):
            return int(self.table.count_rows())

    def known(self) -> dict[bytes, tuple[int, int, bytes]]:
        """Of every path the size in bytes, the time of change in ns, and the SHA-256."""
        with told(self.home):
            rows = self.table.search().select(["path", "bytes", "changed", "hash"]).to_arrow()
            path, size, changed, hash = (
                rows.column(name).to_pylist() for name in ("path", "bytes", "changed", "hash")
            )
        return dict(zip(path, zip(size, changed, hash, strict=True), strict=True))

    def broken(self) -> dict[File, Broken]:
        """The files that could not be read; ``kept`` where it was this version of the reader that could not."""
        with told(self.home):
            rows = self._open(BROKEN).search().to_arrow().to_pylist()
        files = [File(row["path"], row["bytes"], row["changed"]) for row in rows]
        now = reader()
        return {
            file: Broken(file.path, row["reason"], file if row["reader"] == now else None)
            for file, row in zip(files, rows, strict=True)
        }

    def vectors(self, hashes: Iterable[bytes]) -> dict[bytes, np.ndarray]:
        """The vector of every one of these hashes that some row has."""
        from lancedb.expr import col, lit

        wanted = [lit(hash) for hash in hashes]
        if not wanted:
            return {}
        with told(self.home):
            rows = (
                self.table.search()
                .where(col("hash").isin(wanted))
                .select(["hash", "vector"])
                .to_arrow()
            )
            return dict(
                zip(rows.column("hash").to_pylist(), _matrix(rows.column("vector")), strict=True)
            )

    def write(self, rows: Sequence[tuple[Read, np.ndarray]], replace: bool) -> None:
        """Write rows, all or none; with ``replace`` some may have the path of a row that is there."""
        if not rows:
            return
        import pyarrow as pa

        schema = self.table.schema
        values = [{**asdict(read.file), "hash": read.hash, **read.columns} for read, _ in rows]
        arrays = {
            name: pa.array([row[name] for row in values], schema.field(name).type)
            for name in values[0]
        }
        flat = pa.array(np.concatenate([vector for _, vector in rows]))
        arrays["vector"] = pa.FixedSizeListArray.from_arrays(flat, len(rows[0][1]))
        with told(self.home):
            self._put(self.table, pa.table(arrays, schema), replace)

    def write_broken(self, files: Sequence[File], reasons: Sequence[str]) -> None:
        if not files:
            return
        import pyarrow as pa

        with told(self.home):
            table = self._open(BROKEN)
            values = [
                {**asdict(file), "reason": reason, "reader": reader()}
                for file, reason in zip(files, reasons, strict=True)
            ]
            self._put(table, pa.Table.from_pylist(values, table.schema), replace=True)

    @staticmethod
    def _put(table: Any, rows: pa.Table, replace: bool) -> None:
        if replace:
            table.merge_insert(
                "path"
            ).when_matched_update_all().when_not_matched_insert_all().execute(rows)
        else:
            table.add(rows)

    def remove(self, paths: set[bytes]) -> None:
        self._remove(self.table, paths)

    def remove_broken(self, paths: set[bytes]) -> None:
        if paths:
            self._remove(self._open(BROKEN), paths)

    def _remove(self, table: Any, paths: set[bytes]) -> None:
        from lancedb.expr import col, lit

        ordered = sorted(paths)
        with told(self.home):
            for start in range(0, len(ordered), 1000):
                table.delete(
                    col("path").isin([lit(path) for path in ordered[start : start + 1000]])
                )

    def tidy(self) -> None:
        """Join what was written in parts, add it to the approximate index, and delete what is old or was never finished; where there is
        any of it."""
        with told(self.home):
            for table in (self.table, self._open(BROKEN)):
                for _ in range(
                    2
                ):  # it deletes before it mends the approximate index, which leaves a version behind
                    if len(table.list_versions()) > 1:
                        table.optimize(
                            cleanup_older_than=timedelta(milliseconds=1), delete_unverified=True
                        )

    def blocks(
        self, columns: Sequence[str], where: Any = None, rows: int = 8192
    ) -> Iterator[tuple[list[dict[str, Any]], np.ndarray]]:
        """All rows, some thousand at a time: these columns, and the vectors (n, d)."""
        with told(self.home):
            query = self.table.search().select([*columns, "vector"])
            for batch in (query.where(where) if where is not None else query).to_batches(rows):
                yield batch.select(list(columns)).to_pylist(), _matrix(batch.column("vector"))

    def rows(self, columns: Sequence[str], where: Any) -> list[dict[str, Any]]:
        """The rows that a filter lets through."""
        with told(self.home):
            return list(
                self.table.search().where(where).select(list(columns)).to_arrow().to_pylist()
            )

    def nearest(
        self,
        vector: np.ndarray,
        n: int,
        columns: Sequence[str] = (),
        where: Any = None,
        tuned: Tuned | None = None,
    ) -> list[dict[str, Any]]:
        """The n rows with the largest cosine, best first, as {"score", columns}: by comparing all, or by the approximate index."""
        with told(self.home):
            query = (
                self.table.search(vector)
                .distance_type("cosine")
                .limit(n)
                .select([*columns, "_distance"])
            )
            query = (
                query.nprobes(tuned.probes).refine_factor(tuned.refine)
                if tuned
                else query.bypass_vector_index()
            )
            rows = (query.where(where) if where is not None else query).to_list()
        return [
            {**{name: row[name] for name in columns}, "score": 1 - row["_distance"]} for row in rows
        ]

    def approximate(self, encoder: Embedder, progress: Progress = silent) -> None:
        """Make or mend the approximate index, an inverted file of 8-bit vectors (Jégou et al. 2011, without the product), and raise what
        it is asked with until both pictures and words find RECALL of what they find by comparing all. Nothing happens where few rows
        have come or gone since, or there are fewer than EXACT."""
        rows, tuned = self.count(), self.tuned
        if rows < EXACT or (tuned and abs(rows - tuned.rows) <= DRIFT * tuned.rows):
            return
        if tuned is None or rows >= GROWN * tuned.made:
            from lancedb.index import IvfSq

            part, made = round(rows**0.5), rows
            progress("approximate index", 0, 1)
            with told(self.home):
                # By size, not by number: as rows come, LanceDB splits what is four times as large, and joins what is a quarter as large.
                config = IvfSq(distance_type="cosine", target_partition_size=part)
                self.table.create_index("vector", config=config, replace=True, name="ivf")
        else:
            part, made = tuned.part, tuned.made
        self.tidy()
        self.about["tuned"][self.name] = asdict(self._tune(encoder, made, rows, part, progress))
        _write_about(self.home, self.about)

    def _tune(
        self, encoder: Embedder, made: int, rows: int, part: int, progress: Progress
    ) -> Tuned:
        every, count, some = max(rows // SAMPLE, 1), 0, list[np.ndarray]()
        for _, block in self.blocks(()):
            some.append(block[-count % every :: every])
            count += len(block)
        asked = {
            "pictures": np.concatenate(some),
            "words": checked(encoder.texts(_words()), len(_words()), encoder),
        }
        best = {kind: self._best(vectors) for kind, vectors in asked.items()}
        tuned, all_of_them = (
            Tuned(made, rows, part, probes=8, refine=4, pictures=0, words=0),
            4 * rows // part,
        )
        while True:
            progress("tuning", tuned.probes, all_of_them)
            found = {
                kind: self._found(vectors, best[kind], tuned) for kind, vectors in asked.items()
            }
            tuned = Tuned(**{**asdict(tuned), **found})
            if min(found.values()) >= RECALL or tuned.refine * TOP >= rows:
                return tuned
            more = "probes" if tuned.probes < all_of_them else "refine"
            tuned = Tuned(**{**asdict(tuned), more: getattr(tuned, more) * 2})

    def _best(self, vectors: np.ndarray) -> np.ndarray:
        """The cosine of the TOP-th best row for each of these vectors (n, d), all compared: (n,)."""
        best = np.full((len(vectors), TOP), -2.0, np.float32)
        for _, block in self.blocks(()):
            best = np.partition(np.concatenate((best, vectors @ block.T), axis=1), -TOP, axis=1)[
                :, -TOP:
            ]
        return best.min(1)

    def _found(self, vectors: np.ndarray, least: np.ndarray, tuned: Tuned) -> float:
        """The share of the best TOP that is found; what is as good as the last of them counts, whichever row it is."""
        with told(self.home):
            query = (
                self.table.search(vectors).distance_type("cosine").limit(TOP).select(["_distance"])
            )
            rows = query.nprobes(tuned.probes).refine_factor(tuned.refine).to_arrow()
            scores, asked = (
                1 - rows.column("_distance").to_numpy(),
                rows.column("query_index").to_numpy(),
            )
        return float((scores >= least[asked] - 1e-5).sum()) / (TOP * len(vectors))


def _matrix(column: pa.Array | pa.ChunkedArray) -> np.ndarray:
    """A column of vectors as an array (n, d) float32."""
    whole = column.combine_chunks() if hasattr(column, "combine_chunks") else column
    return whole.flatten().to_numpy(zero_copy_only=False).reshape(len(whole), whole.type.list_size)


def _words() -> list[str]:
    """SAMPLE things to look for, every other one in Hindi."""
    from kalpana.world.lexicon import lexicon

    concepts = list(lexicon().values())
    some = concepts[:: len(concepts) // SAMPLE][:SAMPLE]
    return [concept.hi.singular if k % 2 else concept.en for k, concept in enumerate(some)]


def home_of(folder: Path, at: Path | None) -> Path:
    """Where the index of a folder lies."""
    return folder / PLACE if at is None else at


def table_name(encoder: Embedder) -> str:
    parts = (
        re.sub(r"[^A-Za-z0-9_.-]+", "-", part).strip("-.")
        for part in (encoder.name[-64:], encoder.fingerprint[:12])
    )
    return "-".join(part or "model" for part in parts)


def _metadata(encoder: Embedder) -> dict[str, str]:
    return {"model": encoder.name, "fingerprint": encoder.fingerprint, "size": str(encoder.size)}


def open_store(folder: Path, encoder: Embedder, at: Path | None = None) -> Store:
    """A model's table in the index of a folder, to search in. Raises KalpanaError where there is none, and says which models have one."""
    if not folder.is_dir():
        raise KalpanaError(f"there is no folder {folder}: name one that has an index")
    home = home_of(folder, at)
    about = _read_about(home, folder, at)
    if about is None:
        above = (
            next(
                (
                    parent
                    for parent in folder.absolute().parents
                    if (parent / PLACE / ABOUT).exists()
                ),
                None,
            )
            if at is None
            else None
        )
        hint = (
            f", or search the one of {above} with --in {above} --folder {folder.absolute().relative_to(above)}"
            if above
            else ""
        )
        raise KalpanaError(
            f"there is no index of {folder}: make one with kalpana search index {folder}{hint}"
        )
    if not _there(home, table_name(encoder)):
        raise KalpanaError(_another(home, folder, encoder))
    return Store(home, encoder, about)


def _another(home: Path, folder: Path, encoder: Embedder) -> str:
    """What to say where a model has not looked at a folder: whether others have, or it has changed since."""
    have = []
    for path in sorted(home.glob("*.lance")):
        if path.stem != BROKEN and _there(home, path.stem):
            with told(home):
                have.append(
                    _lancedb()
                    .connect(str(home.absolute()))
                    .open_table(path.stem)
                    .schema.metadata[b"model"]
                    .decode()
                )
    if encoder.name in have:
        return f"model {encoder.name!r} has changed since the index of {folder} was made: run kalpana search index {folder} again"
    others = f"; {', '.join(dict.fromkeys(have))} have: ask with --model" if have else ""
    return f"model {encoder.name!r} has not seen the pictures in {folder}{others}, or run kalpana search index {folder} --model {encoder.name}"


@contextmanager
def writing(folder: Path, encoder: Embedder, at: Path | None) -> Iterator[Store]:
    """A model's table in the index of a folder, made if need be, that nobody else may write to meanwhile."""
    from filelock import FileLock, Timeout

    home, lancedb = home_of(folder, at), _lancedb()
    if any(unicodedata.category(sign) in ("Cc", "Cs") for sign in str(home.absolute())):
        raise KalpanaError(
            f"no index can lie in {shown(str(home))}, for its name is no plain text: name another folder with --index"
        )
    _read_about(home, folder, at)
    try:
        home.mkdir(parents=True, exist_ok=True)
        lock = FileLock(home / "lock", timeout=0)
        lock.acquire()
    except Timeout:
        raise KalpanaError(
            f"the index {home} is being written by another program: wait until that is done"
        ) from None
    except OSError as error:
        raise KalpanaError(
            f"nothing can be written to {home}: {error.strerror}; name another folder with --index"
        ) from None
    try:
        about = _read_about(home, folder, at) or {"tuned": {}}
        _write_about(
            home, about | {"format": FORMAT, "folder": str(folder.absolute()) if at else None}
        )
        for name, schema in ((table_name(encoder), _schema(encoder)), (BROKEN, _broken_schema())):
            if not _there(home, name):
                with told(home):
                    lancedb.connect(str(home.absolute())).create_table(name, schema=schema)
        yield Store(home, encoder, _read_about(home, folder, at) or {})
    finally:
        lock.release()


def _there(home: Path, name: str) -> bool:
    """Whether an index has this table; one that was being made when its program was killed is none."""
    return any(
        next((home / f"{name}.lance").glob(pattern), None)
        for pattern in ("_versions/*.manifest", "data/*")
    )


def _schema(encoder: Embedder) -> pa.Schema:
    import pyarrow as pa

    return pa.schema(
        {
            "path": pa.binary(),  # any bytes may name a file; and so no name is ever part of a filter's text
            "bytes": pa.int64(),
            "changed": pa.int64(),
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
        metadata=_metadata(encoder),
    )


def _broken_schema() -> pa.Schema:
    import pyarrow as pa

    return pa.schema(
        {
            "path": pa.binary(),
            "bytes": pa.int64(),
            "changed": pa.int64(),
            "reason": pa.string(),
            "reader": pa.string(),
        }
    )


def _read_about(home: Path, folder: Path, at: Path | None) -> dict[str, Any] | None:
    """What describes the index, None where there is none. Raises KalpanaError where it is damaged, another version's, another folder's."""
    try:
        about = json.loads((home / ABOUT).read_text(encoding="utf-8"))
        if about["format"] != FORMAT:
            raise KalpanaError(
                f"the index {home} was made by another version of Kalpana (format {about['format']}, this one reads {FORMAT}): "
                "use that version, or make a new index with --index"
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


def _write_about(home: Path, about: dict[str, Any]) -> None:
    with told(home):
        write(home / ABOUT, json.dumps(about, indent=1).encode())


@contextmanager
def told(home: Path) -> Iterator[None]:
    """Inside, whatever LanceDB raises becomes one line that says what to do."""
    try:
        yield
    except KalpanaError:
        raise
    except (
        Exception
    ) as error:  # it raises RuntimeError and ValueError alike, and the panics of its threads
        found = re.search(r"\(os error (\d+)\)", str(error))
        number = int(found[1]) if found else getattr(error, "errno", None)
        if number in FULL:
            raise KalpanaError(
                f"the disk is full at {home} ({os.strerror(number)}): make room, and run the same command again"
            ) from None
        if number in CLOSED:
            raise KalpanaError(
                f"{home} cannot be used ({os.strerror(number)}): name another folder with --index"
            ) from None
        raise KalpanaError(
            f"the index {home} is damaged ({' '.join(str(error).split())[:160]}); {MOVE_AWAY}"
        ) from None


def _lancedb() -> Any:
    os.environ.setdefault(
        "LANCEDB_LOG", "error"
    )  # it warns of what is no fault; what is one is raised
    try:
        import lancedb
    except ImportError:
        raise KalpanaError(
            "searching needs LanceDB: install it with pip install 'kalpana[search]'"
        ) from None
    return lancedb


def checked(vectors: Tensor, count: int, encoder: Embedder) -> np.ndarray:
    """A model's vectors as an array (n, d) float32. Raises KalpanaError where they are not what the model promises."""
    if vectors.shape != (count, encoder.size):
        raise KalpanaError(
            f"model {encoder.name!r} gave vectors {tuple(vectors.shape)}, not {(count, encoder.size)}"
        )
    vectors = vectors.detach().float().cpu()
    if not bool(((vectors.norm(dim=1) - 1).abs() < 1e-3).all()):
        raise KalpanaError(f"model {encoder.name!r} gave vectors whose length is not 1")
    return vectors.numpy()
