"""An index of the pictures in a folder: what a model sees in each, kept on disk and brought up to date by ``index``.

The index lies in the folder, as ``.kalpana``, unless another place is named; store.py says how. Rows are written COMMIT at a time and
what has left the folder is taken out last: a run may be killed at any moment, and the next one goes on where it was.
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
from kalpana.understand.folder import SUFFIXES, Broken, File, Read, read_file, shown, walk
from kalpana.understand.store import Embedder, Progress, Store, Tuned, checked, silent, writing

BATCH = 32  # pictures a model looks at together
COMMIT = 256  # rows that are written together: what a killed run loses at most
READERS = 4  # threads that read and decode


@dataclass(frozen=True)
class Report:
    """What a run did: ``pictures`` in the index now; those ``added``, ``changed``, ``moved`` (they kept their vector) and ``removed``;
    how many the model had ``seen`` to; the ``broken`` files; and how the index is ``tuned``, None where every vector is compared."""

    pictures: int
    added: int
    changed: int
    moved: int
    removed: int
    seen: int
    broken: tuple[Broken, ...]
    tuned: Tuned | None


def index(
    folder: Path, encoder: Embedder, *, at: Path | None = None, progress: Progress = silent
) -> Report:
    """Bring the index of a folder up to date for a model: only what is new or changed is looked at.

    ``at`` is where the index lies, ``.kalpana`` in the folder by default. A KeyboardInterrupt out of ``progress`` loses nothing that was
    reported. Raises KalpanaError where there are no pictures, another run is writing, the disk is full, or the index is damaged.
    """
    files, closed = walk(folder)
    if not files:
        reason = f" ({shown(closed[0].path)}: {closed[0].reason})" if closed else ""
        raise KalpanaError(
            f"there are no pictures in {folder}{reason}: name a folder with some ({', '.join(SUFFIXES[4:9])} …)"
        )
    with writing(folder, encoder, at) as store, warnings.catch_warnings():
        warnings.simplefilter(
            "ignore", Image.DecompressionBombWarning
        )  # a picture too large to open is listed instead
        known, hopeless = store.known(), store.broken()
        still = [hopeless[file] for file in files if file in hopeless and hopeless[file].kept]
        skip = {each.kept for each in still}
        todo = [
            file
            for file in files
            if (file.bytes, file.changed) != known.get(file.path, (0, 0, b""))[:2]
            and file not in skip
        ]
        run = _Run(folder, encoder, store, known, closed, still)
        try:
            for batch in _read_ahead(folder, todo, run.hashes):
                run.take(batch)
                progress("pictures", run.done, len(todo))
        except KeyboardInterrupt:
            run.commit()
            raise
        run.commit()
        return run.finish({file.path for file in files}, hopeless, progress)


class _Run:
    """What one run of ``index`` knows between its commits."""

    def __init__(
        self,
        folder: Path,
        encoder: Embedder,
        store: Store,
        known: dict[bytes, tuple[int, int, bytes]],
        closed: list[Broken],
        hopeless: list[Broken],
    ) -> None:
        self.folder, self.encoder, self.store, self.known, self.closed = (
            folder,
            encoder,
            store,
            known,
            closed,
        )
        self.hashes = {hash for _, _, hash in known.values()}  # of which the table has a vector
        self.waiting: list[tuple[Read, np.ndarray | None]] = []
        self.broken, self.fresh = closed + hopeless, list[Broken]()
        self.added, self.changed, self.done, self.seen = dict[bytes, bytes](), 0, 0, 0

    def take(self, batch: Sequence[Read | Broken]) -> None:
        """Look at a batch of pictures, and write once enough wait for it."""
        self._look([each for each in batch if isinstance(each, Read)])
        self.fresh += [each for each in batch if isinstance(each, Broken)]
        if len(self.waiting) + len(self.fresh) >= COMMIT:
            self.commit()
        self.done += len(batch)

    def _look(self, reads: Sequence[Read]) -> None:
        new = [read for read in reads if read.picture is not None]
        if new:
            vectors = checked(
                self.encoder.images([read.picture for read in new if read.picture is not None]),
                len(new),
                self.encoder,
            )
            self.waiting += zip(new, vectors, strict=True)
            self.seen += len(new)
        self.waiting += [(read, None) for read in reads if read.picture is None]

    def commit(self) -> None:
        """Write what waits."""
        old = self.store.vectors({read.hash for read, vector in self.waiting if vector is None})
        lost = [read for read, vector in self.waiting if vector is None and read.hash not in old]
        if lost:  # the row that had its vector was itself written over meanwhile
            self.waiting = [
                (read, vector)
                for read, vector in self.waiting
                if vector is not None or read.hash in old
            ]
            again = [read_file(self.folder, read.file, ()) for read in lost]
            self._look([each for each in again if isinstance(each, Read)])
            self.fresh += [each for each in again if isinstance(each, Broken)]
        rows = [
            (read, old[read.hash] if vector is None else vector) for read, vector in self.waiting
        ]
        try:
            self.store.write(rows, replace=any(read.file.path in self.known for read, _ in rows))
            self.store.write_broken(
                [each.kept for each in self.fresh if each.kept],
                [each.reason for each in self.fresh if each.kept],
            )
        except KalpanaError as error:
            raise KalpanaError(
                f"{error}; {self.store.count()} pictures are in the index and stay there"
            ) from None
        for read, _ in rows:
            before = self.known.get(read.file.path)
            if before is None:
                self.added[read.file.path] = read.hash
            elif before[2] != read.hash:
                self.changed += 1
        self.hashes |= {read.hash for read, _ in rows}
        self.broken += self.fresh
        self.waiting, self.fresh = [], []

    def finish(self, there: set[bytes], hopeless: dict[File, Broken], progress: Progress) -> Report:
        """Take out what has left the folder or is a picture no more, but not what only cannot be reached now; and tidy up."""
        shut = tuple(each.path for each in self.closed)

        def reached(path: bytes) -> bool:
            return not any(not top or path == top or path.startswith(top + b"/") for top in shut)

        failed = {each.path for each in self.broken if each.kept}
        gone = {
            path for path in self.known if path in failed or (path not in there and reached(path))
        }
        self.store.remove(gone)
        self.store.remove_broken(
            {file.path for file in hopeless if file.path not in failed and reached(file.path)}
        )
        progress("tidying", 0, 1)
        self.store.tidy()
        self.store.approximate(self.encoder, progress)
        left = {self.known[path][2] for path in gone}
        moved = sum(hash in left for hash in self.added.values())
        return Report(
            pictures=self.store.count(),
            added=len(self.added) - moved,
            changed=self.changed,
            moved=moved,
            removed=max(len(gone) - moved, 0),
            seen=self.seen,
            broken=tuple(sorted(self.broken, key=lambda each: each.path)),
            tuned=self.store.tuned,
        )


def _read_ahead(
    folder: Path, files: Sequence[File], known: Container[bytes]
) -> Iterator[list[Read | Broken]]:
    """The files in batches; while one is looked at, the next is being read."""
    with ThreadPoolExecutor(READERS) as readers:
        ahead: list[Future[Read | Broken]] = []
        for start in range(0, len(files) + BATCH, BATCH):
            behind, ahead = (
                ahead,
                [
                    readers.submit(read_file, folder, file, known)
                    for file in files[start : start + BATCH]
                ],
            )
            if behind:
                yield [reading.result() for reading in behind]
