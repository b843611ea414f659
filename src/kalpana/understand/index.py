"""Index of the pictures in a folder: embeddings and metadata on disk, updated by ``index``.

The index is stored in the folder as ``.kalpana`` unless another place is named; store.py has the
format. Rows are written COMMIT at a time, and rows of removed files are deleted last: a run may be
killed at any moment, and the next run continues from there.
"""

from __future__ import annotations

import warnings
from collections.abc import Container, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from kalpana.types import KalpanaError
from kalpana.understand.database import Embedder, Progress, Tuned, checked, silent
from kalpana.understand.folder import SUFFIXES, Broken, File, Read, read_file, shown, walk
from kalpana.understand.photographs import photographic
from kalpana.understand.store import Store, writing

BATCH = 32  # pictures that are embedded together
COMMIT = 256  # rows written together: a killed run loses at most these
READERS = 4  # threads that read and decode files


@dataclass(frozen=True)
class Report:
    """Result of an index run.

    ``pictures`` is the number in the index afterwards; of these, ``added``, ``changed`` and
    ``moved`` (with their embedding kept) in this run; ``removed`` is the number removed and
    ``seen`` the number embedded by the model. ``broken`` lists the files that are not indexed.
    ``photographs`` is how many of the ``seen`` look like photographs, see photographs.py.
    ``tuned`` has the parameters of the approximate index, None where search compares every vector.
    """

    pictures: int
    added: int
    changed: int
    moved: int
    removed: int
    seen: int
    photographs: int
    broken: tuple[Broken, ...]
    tuned: Tuned | None


def index(
    folder: Path, encoder: Embedder, *, at: Path | None = None, progress: Progress = silent
) -> Report:
    """Updates the index of a folder for a model; only new and changed files are read and embedded.

    A file with another size, time of change, inode or time of the inode's change is read again; if
    its content is the same, its embedding is kept.

    ``at`` is the place of the index, by default ``.kalpana`` in the folder. A KeyboardInterrupt
    raised by ``progress`` loses nothing that was reported as done.
    Raises: KalpanaError where there are no pictures, another run is writing, the disk is full, or
    the index is damaged.
    """
    files, closed = walk(folder)
    if not files:
        reason = f" ({shown(closed[0].path)}: {closed[0].reason})" if closed else ""
        raise KalpanaError(
            f"there are no pictures in {folder}{reason}: name a folder with some "
            f"({', '.join(SUFFIXES[4:9])} …)"
        )
    with writing(folder, encoder, at) as store, warnings.catch_warnings():
        # A picture that is too large to open is listed among the broken files instead.
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        known, failed = store.known(), store.broken()
        still_failed = [failed[file] for file in files if file in failed and failed[file].kept]
        skip = {entry.kept for entry in still_failed}
        todo = [
            file
            for file in files
            if file.path not in known or known[file.path][0] != file
            if file not in skip
        ]
        run = _Run(folder, encoder, store, known, closed, still_failed)
        try:
            for batch in _read_ahead(folder, todo, run.hashes):
                run.take(batch)
                progress("pictures", run.done, len(todo))
        except KeyboardInterrupt:
            run.commit()
            raise
        run.commit()
        return run.finish({file.path for file in files}, failed, progress)


class _Run:
    """State of one run of ``index``: rows that are not written yet, and counts."""

    def __init__(
        self,
        folder: Path,
        encoder: Embedder,
        store: Store,
        known: dict[bytes, tuple[File, bytes]],
        closed: list[Broken],
        failed: list[Broken],
    ) -> None:
        self.folder, self.encoder, self.store = folder, encoder, store
        self.known, self.closed = known, closed
        self.hashes = {hash for _, hash in known.values()}  # whose embedding is in the table
        self.pending: list[tuple[Read, np.ndarray | None]] = []
        self.broken, self.pending_broken = closed + failed, list[Broken]()
        self.added, self.changed, self.done = dict[bytes, bytes](), 0, 0
        self.seen, self.photographs = 0, 0

    def take(self, batch: Sequence[Read | Broken]) -> None:
        """Embeds a batch of pictures, and writes the pending rows once there are COMMIT of them."""
        self._embed([read for read in batch if isinstance(read, Read)])
        self.pending_broken += [entry for entry in batch if isinstance(entry, Broken)]
        if len(self.pending) + len(self.pending_broken) >= COMMIT:
            self.commit()
        self.done += len(batch)

    def _embed(self, reads: Sequence[Read]) -> None:
        """Embeds the decoded pictures and adds all files to the pending rows."""
        new = [read for read in reads if read.picture is not None]
        if new:
            pictures = [read.picture for read in new if read.picture is not None]
            vectors = checked(self.encoder.images(pictures), len(new), self.encoder)
            self.pending += zip(new, vectors, strict=True)
            self.seen += len(new)
            self.photographs += sum(map(photographic, pictures))
        self.pending += [(read, None) for read in reads if read.picture is None]

    def commit(self) -> None:
        """Writes the pending rows."""
        old = self.store.vectors({read.hash for read, vector in self.pending if vector is None})
        lost = [read for read, vector in self.pending if vector is None and read.hash not in old]
        if lost:  # the row with the same hash was itself overwritten in this run
            self.pending = [
                (read, vector)
                for read, vector in self.pending
                if vector is not None or read.hash in old
            ]
            again = [read_file(self.folder, read.file, ()) for read in lost]
            self._embed([read for read in again if isinstance(read, Read)])
            self.pending_broken += [entry for entry in again if isinstance(entry, Broken)]
        rows = [
            (read, old[read.hash] if vector is None else vector) for read, vector in self.pending
        ]
        try:
            self.store.write(rows, replace=any(read.file.path in self.known for read, _ in rows))
            self.store.write_broken(
                [entry.kept for entry in self.pending_broken if entry.kept],
                [entry.reason for entry in self.pending_broken if entry.kept],
            )
        except KalpanaError as error:
            raise KalpanaError(
                f"{error}; {self.store.count()} pictures are in the index and stay there"
            ) from None
        for read, _ in rows:
            before = self.known.get(read.file.path)
            if before is None:
                self.added[read.file.path] = read.hash
            elif before[1] != read.hash:
                self.changed += 1
        self.hashes |= {read.hash for read, _ in rows}
        self.broken += self.pending_broken
        self.pending, self.pending_broken = [], []

    def finish(
        self, present: set[bytes], failed_before: dict[File, Broken], progress: Progress
    ) -> Report:
        """Removes the rows of files that are gone or unreadable, tidies the store, and reports.

        Rows of files below a path that cannot be reached now are kept.
        """
        closed = tuple(entry.path for entry in self.closed)

        def reachable(path: bytes) -> bool:
            return not any(not top or path == top or path.startswith(top + b"/") for top in closed)

        failed = {entry.path for entry in self.broken if entry.kept}
        gone = {
            path
            for path in self.known
            if path in failed or (path not in present and reachable(path))
        }
        self.store.remove(gone)
        self.store.remove_broken(
            {
                file.path
                for file in failed_before
                if file.path not in failed and reachable(file.path)
            }
        )
        progress("tidying", 0, 1)
        self.store.tidy()
        self.store.approximate(self.encoder, progress)
        removed_hashes = {self.known[path][1] for path in gone}
        moved = sum(hash in removed_hashes for hash in self.added.values())
        return Report(
            pictures=self.store.count(),
            added=len(self.added) - moved,
            changed=self.changed,
            moved=moved,
            removed=max(len(gone) - moved, 0),
            seen=self.seen,
            photographs=self.photographs,
            broken=tuple(sorted(self.broken, key=lambda entry: entry.path)),
            tuned=self.store.tuned,
        )


def _read_ahead(
    folder: Path, files: Sequence[File], known: Container[bytes]
) -> Iterator[list[Read | Broken]]:
    """The files read in batches; the next batch is read while the caller uses the current one."""
    with ThreadPoolExecutor(READERS) as readers:
        reading: list[Future[Read | Broken]] = []
        for start in range(0, len(files) + BATCH, BATCH):
            batch = files[start : start + BATCH]
            ready, reading = (
                reading,
                [readers.submit(read_file, folder, file, known) for file in batch],
            )
            if ready:
                yield [future.result() for future in ready]
