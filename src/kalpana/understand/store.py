"""Tables of an index: a LanceDB database with one table for each model and one of broken files.

Writes are atomic, and one process writes at a time. database.py has the files around the tables.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, fields
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from kalpana.types import KalpanaError
from kalpana.understand.database import (
    ABOUT,
    BROKEN,
    FORMAT,
    PLACE,
    Embedder,
    Progress,
    Tuned,
    broken_schema,
    checked,
    has_table,
    home_of,
    lancedb_module,
    metadata_of,
    read_about,
    schema_of,
    silent,
    table_name,
    told,
    write_about,
)
from kalpana.understand.folder import Broken, File, Read, reader, shown
from kalpana.understand.queries import WORDS

if TYPE_CHECKING:
    import pyarrow as pa

EXACT = 100_000  # with fewer rows, search compares every vector
GROWN = 2  # growth at which the approximate index is rebuilt, as a multiple of its rows when built
DRIFT = 0.01  # change in the number of rows, as a share, after which recall is measured again
RECALL, TOP = 0.99, 10  # required recall of the best TOP rows
SAMPLE = 128  # query pictures that recall is measured with, beside the words of queries.py


FILE = tuple(field.name for field in fields(File))  # the columns that describe a file


class Store:
    """One model's table in an index. Errors of all methods are one-line KalpanaErrors."""

    def __init__(self, home: Path, encoder: Embedder, about: dict[str, Any]) -> None:
        """Opens the existing table of a model.

        Raises: KalpanaError where the table is missing or of another model.
        """
        self.home, self.name, self.about = home, table_name(encoder), about
        self.table = self._open(self.name)
        with told(home):
            entries = (self.table.schema.metadata or {}).items()
            metadata = {key.decode(): value.decode() for key, value in entries}
        if metadata != metadata_of(encoder):
            raise KalpanaError(
                f"the index {home} is damaged: its table {self.name} is not of {encoder.name!r}"
            )

    def _open(self, name: str) -> Any:
        with told(self.home):
            return lancedb_module().connect(str(self.home.absolute())).open_table(name)

    @property
    def tuned(self) -> Tuned | None:
        """Parameters of the approximate index, None where search compares every vector."""
        entry = self.about["tuned"].get(self.name)
        return Tuned(**entry) if entry and self.count() >= EXACT else None

    def count(self) -> int:
        with told(self.home):
            return int(self.table.count_rows())

    def known(self) -> dict[bytes, tuple[File, bytes]]:
        """Every indexed file with its SHA-256, by path."""
        with told(self.home):
            rows = self.table.search().select([*FILE, "hash"]).to_arrow()
            *columns, hashes = (rows.column(name).to_pylist() for name in (*FILE, "hash"))
        files = map(File, *columns)
        return {file.path: (file, hash) for file, hash in zip(files, hashes, strict=True)}

    def broken(self) -> dict[File, Broken]:
        """The files that could not be read; ``kept`` is set where the present reader tried them."""
        with told(self.home):
            rows = self._open(BROKEN).search().to_arrow().to_pylist()
        files = [File(*(row[name] for name in FILE)) for row in rows]
        now = reader()
        return {
            file: Broken(file.path, row["reason"], file if row["reader"] == now else None)
            for file, row in zip(files, rows, strict=True)
        }

    def vectors(self, hashes: Iterable[bytes]) -> dict[bytes, np.ndarray]:
        """The embeddings of those hashes that are in the table."""
        from lancedb.expr import col, lit

        wanted = [lit(hash) for hash in hashes]
        if not wanted:
            return {}
        with told(self.home):
            query = self.table.search().where(col("hash").isin(wanted))
            rows = query.select(["hash", "vector"]).to_arrow()
            found = rows.column("hash").to_pylist()
            return dict(zip(found, _matrix(rows.column("vector")), strict=True))

    def write(self, rows: Sequence[tuple[Read, np.ndarray]], replace: bool) -> None:
        """Writes rows atomically; ``replace``: a path may be in the table already."""
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
        """Writes rows of files that could not be read, with the reasons, atomically."""
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
        """Adds rows; with ``replace``, rows of the same path are updated."""
        if replace:
            merge = table.merge_insert("path").when_matched_update_all()
            merge.when_not_matched_insert_all().execute(rows)
        else:
            table.add(rows)

    def remove(self, paths: set[bytes]) -> None:
        """Deletes the rows of these paths from the model's table."""
        self._remove(self.table, paths)

    def remove_broken(self, paths: set[bytes]) -> None:
        """Deletes the rows of these paths from the table of broken files."""
        if paths:
            self._remove(self._open(BROKEN), paths)

    def _remove(self, table: Any, paths: set[bytes]) -> None:
        from lancedb.expr import col, lit

        ordered = sorted(paths)
        with told(self.home):
            for start in range(0, len(ordered), 1000):
                literals = [lit(path) for path in ordered[start : start + 1000]]
                table.delete(col("path").isin(literals))

    def tidy(self) -> None:
        """Compacts both tables, adds new rows to the approximate index, and deletes old versions.

        A table with a single version is left as it is.
        """
        with told(self.home):
            for table in (self.table, self._open(BROKEN)):
                # Twice: a pass deletes versions before it updates the approximate index, which
                # leaves a new old version behind.
                for _ in range(2):
                    if len(table.list_versions()) > 1:
                        table.optimize(
                            cleanup_older_than=timedelta(milliseconds=1), delete_unverified=True
                        )

    def blocks(
        self, columns: Sequence[str], where: Any = None, rows: int = 8192
    ) -> Iterator[tuple[list[dict[str, Any]], np.ndarray]]:
        """All rows that pass a filter, in blocks of at most ``rows``: columns, vectors (n, d)."""
        with told(self.home):
            query = self.table.search().select([*columns, "vector"])
            for batch in (query.where(where) if where is not None else query).to_batches(rows):
                yield batch.select(list(columns)).to_pylist(), _matrix(batch.column("vector"))

    def rows(self, columns: Sequence[str], where: Any) -> list[dict[str, Any]]:
        """The columns of all rows that pass a filter."""
        with told(self.home):
            query = self.table.search().where(where).select(list(columns))
            return list(query.to_arrow().to_pylist())

    def nearest(
        self,
        vector: np.ndarray,
        n: int,
        columns: Sequence[str] = (),
        where: Any = None,
        tuned: Tuned | None = None,
    ) -> list[dict[str, Any]]:
        """The n rows with the largest cosine, best first, as {columns, "score"}.

        With ``tuned``, from the approximate index, else by comparing every vector.
        """
        with told(self.home):
            query = self.table.search(vector).distance_type("cosine").limit(n)
            query = query.select([*columns, "_distance"])
            if tuned:
                query = query.nprobes(tuned.probes).refine_factor(tuned.refine)
            else:
                query = query.bypass_vector_index()
            rows = (query.where(where) if where is not None else query).to_list()
        return [
            {**{name: row[name] for name in columns}, "score": 1 - row["_distance"]} for row in rows
        ]

    def approximate(self, encoder: Embedder, progress: Progress = silent) -> None:
        """Builds or updates the approximate index and tunes its parameters to a recall of RECALL.

        The index is an inverted file of 8-bit scalar-quantised vectors (Jégou et al. 2011, without
        product quantisation). The recall holds for query pictures and for query words, relative to
        exact search. Does nothing with fewer than EXACT rows, or where the number of rows has
        changed by DRIFT at most since the last tuning.
        """
        rows, tuned = self.count(), self.tuned
        if rows < EXACT or (tuned and abs(rows - tuned.rows) <= DRIFT * tuned.rows):
            return
        if tuned is None or rows >= GROWN * tuned.made:
            from lancedb.index import IvfSq

            part, made = round(rows**0.5), rows
            progress("approximate index", 0, 1)
            with told(self.home):
                # The partitions' size is fixed, not their number: as rows are added, LanceDB splits
                # a partition of four times this size and joins those of a quarter of it.
                config = IvfSq(distance_type="cosine", target_partition_size=part)
                self.table.create_index("vector", config=config, replace=True, name="ivf")
        else:
            part, made = tuned.part, tuned.made
        self.tidy()
        self.about["tuned"][self.name] = asdict(self._tune(encoder, made, rows, part, progress))
        write_about(self.home, self.about)

    def _tune(
        self, encoder: Embedder, made: int, rows: int, part: int, progress: Progress
    ) -> Tuned:
        """Doubles the parameters of the approximate index until its recall is RECALL."""
        step, count, samples = max(rows // SAMPLE, 1), 0, list[np.ndarray]()
        for _, block in self.blocks(()):
            samples.append(block[-count % step :: step])
            count += len(block)
        queries = {
            "pictures": np.concatenate(samples),
            "words": checked(encoder.texts(list(WORDS)), len(WORDS), encoder),
        }
        best = {kind: self._best(vectors) for kind, vectors in queries.items()}
        tuned = Tuned(made, rows, part, probes=8, refine=4, pictures=0, words=0)
        partitions = 4 * rows // part  # upper bound
        while True:
            progress("tuning", tuned.probes, partitions)
            recall = {
                kind: self._recall(vectors, best[kind], tuned) for kind, vectors in queries.items()
            }
            tuned = Tuned(**{**asdict(tuned), **recall})
            if min(recall.values()) >= RECALL or tuned.refine * TOP >= rows:
                return tuned
            doubled = "probes" if tuned.probes < partitions else "refine"
            tuned = Tuned(**{**asdict(tuned), doubled: getattr(tuned, doubled) * 2})

    def _best(self, vectors: np.ndarray) -> np.ndarray:
        """Cosine (n,) of the TOP-th best row for each query (n, d), by exact search."""
        best = np.full((len(vectors), TOP), -2.0, np.float32)
        for _, block in self.blocks(()):
            candidates = np.concatenate((best, vectors @ block.T), axis=1)
            best = np.partition(candidates, -TOP, axis=1)[:, -TOP:]
        return best.min(1)

    def _recall(self, vectors: np.ndarray, least: np.ndarray, tuned: Tuned) -> float:
        """Recall of the best TOP rows; any row with a cosine of at least the TOP-th best counts."""
        with told(self.home):
            query = self.table.search(vectors).distance_type("cosine").limit(TOP)
            query = query.select(["_distance"]).nprobes(tuned.probes).refine_factor(tuned.refine)
            rows = query.to_arrow()
            scores = 1 - rows.column("_distance").to_numpy()
            index = rows.column("query_index").to_numpy()
        return float((scores >= least[index] - 1e-5).sum()) / (TOP * len(vectors))


def _matrix(column: pa.Array | pa.ChunkedArray) -> np.ndarray:
    """A column of vectors as an array (n, d) float32."""
    whole = column.combine_chunks() if hasattr(column, "combine_chunks") else column
    return whole.flatten().to_numpy(zero_copy_only=False).reshape(len(whole), whole.type.list_size)


def open_store(folder: Path, encoder: Embedder, at: Path | None = None) -> Store:
    """A model's table in the index of a folder, for searching.

    Raises: KalpanaError where there is no index or the model has no table in it.
    """
    if not folder.is_dir():
        raise KalpanaError(f"there is no folder {folder}: name one that has an index")
    home = home_of(folder, at)
    about = read_about(home, folder, at)
    if about is None:
        above: Path | None = None
        hint = ""
        if at is None:
            parents = folder.absolute().parents
            above = next((path for path in parents if (path / PLACE / ABOUT).exists()), None)
        if above:
            relative = folder.absolute().relative_to(above)
            hint = f", or search the one of {above} with --in {above} --folder {relative}"
        raise KalpanaError(
            f"there is no index of {folder}: make one with kalpana search index {folder}{hint}"
        )
    if not has_table(home, table_name(encoder)):
        raise KalpanaError(_another(home, folder, encoder))
    return Store(home, encoder, about)


def _another(home: Path, folder: Path, encoder: Embedder) -> str:
    """Error message where an index has no table of a model: others have one, or it has changed."""
    have = []
    for path in sorted(home.glob("*.lance")):
        if path.stem != BROKEN and has_table(home, path.stem):
            with told(home):
                table = lancedb_module().connect(str(home.absolute())).open_table(path.stem)
                have.append(table.schema.metadata[b"model"].decode())
    command = f"kalpana search index {folder}"
    if encoder.name in have:
        return (
            f"model {encoder.name!r} has changed since the index of {folder} was made: "
            f"run {command} again"
        )
    others = f"; {', '.join(dict.fromkeys(have))} have: ask with --model" if have else ""
    return (
        f"model {encoder.name!r} has not seen the pictures in {folder}{others}, "
        f"or run {command} --model {encoder.name}"
    )


@contextmanager
def writing(folder: Path, encoder: Embedder, at: Path | None) -> Iterator[Store]:
    """A model's table in the index of a folder, created if missing and locked for other writers."""
    from filelock import FileLock, Timeout

    home, lancedb = home_of(folder, at), lancedb_module()
    if any(unicodedata.category(char) in ("Cc", "Cs") for char in str(home.absolute())):
        raise KalpanaError(
            f"no index can lie in {shown(str(home))}, for its name is no plain text: name another "
            "folder with --index"
        )
    read_about(home, folder, at)
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
        about = read_about(home, folder, at) or {"tuned": {}}
        indexed = str(folder.absolute()) if at else None
        write_about(home, about | {"format": FORMAT, "folder": indexed})
        for name, schema in ((table_name(encoder), schema_of(encoder)), (BROKEN, broken_schema())):
            if not has_table(home, name):
                with told(home):
                    lancedb.connect(str(home.absolute())).create_table(name, schema=schema)
        yield Store(home, encoder, read_about(home, folder, at) or {})
    finally:
        lock.release()
