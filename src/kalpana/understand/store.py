"""Tables of an index: a LanceDB database with one table for each model and one of broken files.

A table is named after its model and the model's fingerprint; each row is a file. Writes are atomic,
and one process writes at a time. An index that is damaged or of another version is never written.
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

PLACE = ".kalpana"  # default name of the index within its folder
FORMAT = 1  # version of the index; other versions are rejected
ABOUT = "index.json"  # the file that describes the index
BROKEN = "broken"  # the table of files that could not be indexed
EXACT = 100_000  # with fewer rows, search compares every vector
GROWN = 2  # growth at which the approximate index is rebuilt, as a multiple of its rows when built
DRIFT = 0.01  # change in the number of rows, as a share, after which recall is measured again
RECALL, TOP = 0.99, 10  # required recall of the best TOP rows
SAMPLE = 128  # query pictures, and as many query words, that recall is measured with
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
        if metadata != _metadata(encoder):
            raise KalpanaError(
                f"the index {home} is damaged: its table {self.name} is not of {encoder.name!r}"
            )

    def _open(self, name: str) -> Any:
        with told(self.home):
            return _lancedb().connect(str(self.home.absolute())).open_table(name)

    @property
    def tuned(self) -> Tuned | None:
        """Parameters of the approximate index, None where search compares every vector."""
        entry = self.about["tuned"].get(self.name)
        return Tuned(**entry) if entry and self.count() >= EXACT else None

    def count(self) -> int:
        with told(self.home):
            return int(self.table.count_rows())

    def known(self) -> dict[bytes, tuple[int, int, bytes]]:
        """Size in bytes, time of change in ns and SHA-256 of every indexed file, by path."""
        names = ["path", "bytes", "changed", "hash"]
        with told(self.home):
            rows = self.table.search().select(names).to_arrow()
            path, size, changed, hash = (rows.column(name).to_pylist() for name in names)
        return dict(zip(path, zip(size, changed, hash, strict=True), strict=True))

    def broken(self) -> dict[File, Broken]:
        """The files that could not be read; ``kept`` is set where the present reader tried them."""
        with told(self.home):
            rows = self._open(BROKEN).search().to_arrow().to_pylist()
        files = [File(row["path"], row["bytes"], row["changed"]) for row in rows]
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
        _write_about(self.home, self.about)

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
            "words": checked(encoder.texts(_words()), len(_words()), encoder),
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


def _words() -> list[str]:
    """SAMPLE query words: names of concepts, every second one in Hindi."""
    from kalpana.world.lexicon import lexicon

    concepts = list(lexicon().values())
    chosen = concepts[:: len(concepts) // SAMPLE][:SAMPLE]
    return [concept.hi.singular if k % 2 else concept.en for k, concept in enumerate(chosen)]


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


def _metadata(encoder: Embedder) -> dict[str, str]:
    return {"model": encoder.name, "fingerprint": encoder.fingerprint, "size": str(encoder.size)}


def open_store(folder: Path, encoder: Embedder, at: Path | None = None) -> Store:
    """A model's table in the index of a folder, for searching.

    Raises: KalpanaError where there is no index or the model has no table in it.
    """
    if not folder.is_dir():
        raise KalpanaError(f"there is no folder {folder}: name one that has an index")
    home = home_of(folder, at)
    about = _read_about(home, folder, at)
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
    if not _there(home, table_name(encoder)):
        raise KalpanaError(_another(home, folder, encoder))
    return Store(home, encoder, about)


def _another(home: Path, folder: Path, encoder: Embedder) -> str:
    """Error message where an index has no table of a model: others have one, or it has changed."""
    have = []
    for path in sorted(home.glob("*.lance")):
        if path.stem != BROKEN and _there(home, path.stem):
            with told(home):
                table = _lancedb().connect(str(home.absolute())).open_table(path.stem)
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

    home, lancedb = home_of(folder, at), _lancedb()
    if any(unicodedata.category(char) in ("Cc", "Cs") for char in str(home.absolute())):
        raise KalpanaError(
            f"no index can lie in {shown(str(home))}, for its name is no plain text: name another "
            "folder with --index"
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
        indexed = str(folder.absolute()) if at else None
        _write_about(home, about | {"format": FORMAT, "folder": indexed})
        for name, schema in ((table_name(encoder), _schema(encoder)), (BROKEN, _broken_schema())):
            if not _there(home, name):
                with told(home):
                    lancedb.connect(str(home.absolute())).create_table(name, schema=schema)
        yield Store(home, encoder, _read_about(home, folder, at) or {})
    finally:
        lock.release()


def _there(home: Path, name: str) -> bool:
    """Whether an index has a complete table; a killed process may leave one half created."""
    return any(
        next((home / f"{name}.lance").glob(pattern), None)
        for pattern in ("_versions/*.manifest", "data/*")
    )


def _schema(encoder: Embedder) -> pa.Schema:
    import pyarrow as pa

    return pa.schema(
        {
            "path": pa.binary(),  # file names may be any bytes; also, no name can alter a filter
            "bytes": pa.int64(),
            "changed": pa.int64(),
            "hash": pa.binary(),
            "width": pa.int32(),
            "height": pa.int32(),
            "date": pa.string(),
            "prompt": pa.string(),
            "words": pa.string(),  # the prompt, as texts are compared
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


def _write_about(home: Path, about: dict[str, Any]) -> None:
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


def _lancedb() -> Any:
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
