"""Jobs on disk: one SQLite database, and files of inputs and outputs beside it.

A job is accepted once its row is committed, and a picture is finished once its file and then its
row are written. A process that is killed at any moment loses neither.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Literal

from kalpana.inputs import ControlMap
from kalpana.media import write
from kalpana.request import INPUTS, Request
from kalpana.types import KalpanaError

State = Literal["queued", "running", "done", "failed", "cancelled"]
OPEN = ("queued", "running")  # states of jobs that wait or are worked on

SCHEMA = """
CREATE TABLE IF NOT EXISTS jobs (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    id TEXT NOT NULL UNIQUE,
    kind TEXT NOT NULL,
    client TEXT NOT NULL,
    user TEXT NOT NULL,
    state TEXT NOT NULL,
    created REAL NOT NULL,
    started REAL,
    finished REAL,
    request TEXT NOT NULL,
    size TEXT,
    seconds REAL,
    previews INTEGER NOT NULL,
    warnings TEXT NOT NULL,
    error TEXT
);
CREATE INDEX IF NOT EXISTS jobs_by_state ON jobs (state);
CREATE INDEX IF NOT EXISTS jobs_by_client ON jobs (client, number);
CREATE TABLE IF NOT EXISTS outputs (
    job TEXT NOT NULL,
    place INTEGER NOT NULL,
    seed INTEGER NOT NULL,
    file TEXT NOT NULL,
    revised_prompt TEXT,
    PRIMARY KEY (job, place)
);
CREATE TABLE IF NOT EXISTS stars (file TEXT PRIMARY KEY);
CREATE TABLE IF NOT EXISTS embeddings (
    file TEXT NOT NULL,
    encoder TEXT NOT NULL,
    vector BLOB NOT NULL,
    PRIMARY KEY (file, encoder)
);
"""

OUTPUTS = """
SELECT place, seed, outputs.file AS file, revised_prompt, stars.file IS NOT NULL AS starred
FROM outputs LEFT JOIN stars ON stars.file = outputs.file WHERE job = ? ORDER BY place
"""
DELETE_STAR = "DELETE FROM stars WHERE file = ?"


@dataclass(frozen=True)
class SavedOutput:
    """One finished picture or video of a job: its place in the request, from 0, its seed, the name
    of its file, and whether the client has starred it."""

    place: int
    seed: int
    file: str
    revised_prompt: str | None
    starred: bool = False


@dataclass(frozen=True)
class Job:
    """One accepted request.

    ``client`` owns it; ``user`` is whose turn it takes in the queue. ``request`` holds the fields
    that were set, with a seed; ``size`` and ``seconds`` are those of its outputs. ``previews`` is
    the number of previews that were asked for. Times are seconds since 1970.
    """

    number: int
    id: str
    kind: str
    client: str
    user: str
    state: State
    created: float
    started: float | None
    finished: float | None
    request: dict[str, Any]
    size: str | None
    seconds: float | None
    previews: int
    warnings: tuple[str, ...]
    error: str | None
    outputs: tuple[SavedOutput, ...] = ()

    @property
    def seeds(self) -> list[int]:
        """The seeds, one for each output."""
        if self.request.get("seeds"):
            return list(self.request["seeds"])
        seed = self.request["seed"]
        return list(range(seed, seed + self.request.get("n", 1)))

    @property
    def left(self) -> list[tuple[int, int]]:
        """Place and seed of each output that is not finished."""
        done = {output.place for output in self.outputs}
        return [(place, seed) for place, seed in enumerate(self.seeds) if place not in done]

    @property
    def settings(self) -> str:
        """The request without its seeds: jobs in which it is equal can share a batch."""
        rest = {k: v for k, v in self.request.items() if k not in ("n", "seed", "seeds")}
        return json.dumps(rest, sort_keys=True)

    @property
    def ended(self) -> bool:
        return self.state not in OPEN


class Store:
    """The jobs in a folder, which it locks. Its methods may be called from any thread.

    Raises KalpanaError if another server uses the folder, or it cannot be written.
    """

    def __init__(self, folder: Path) -> None:
        self._file = _lock(folder)
        self.inputs, self.outputs = folder / "inputs", folder / "outputs"
        for each in (self.inputs, self.outputs):
            each.mkdir(parents=True, exist_ok=True)
        self._lock = threading.Lock()
        self._db = sqlite3.connect(
            folder / "jobs.sqlite", check_same_thread=False, isolation_level=None
        )
        self._db.row_factory = sqlite3.Row
        self._db.execute("PRAGMA journal_mode = WAL")
        self._db.execute("PRAGMA synchronous = FULL")
        self._db.executescript(SCHEMA)

    def close(self) -> None:
        with self._lock:
            self._db.close()
            self._file.close()

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        with self._lock:
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield self._db
            except BaseException:
                self._db.execute("ROLLBACK")
                raise
            self._db.execute("COMMIT")

    # ------------------------------------------------------------------------------ jobs

    def add(self, **fields: Any) -> Job:
        """A new job, committed."""
        fields = fields | {name: json.dumps(fields[name]) for name in ("request", "warnings")}
        names = ", ".join(fields)
        marks = ", ".join("?" * len(fields))
        with self._transaction() as db:
            db.execute(f"INSERT INTO jobs ({names}) VALUES ({marks})", tuple(fields.values()))
        job = self.get(fields["id"])
        assert job is not None
        return job

    def get(self, id: str) -> Job | None:
        """A job by its id."""
        return next(iter(self._jobs("WHERE id = ?", id)), None)

    def waiting(self) -> list[Job]:
        """The jobs that are queued or running, in the order in which they came."""
        return self._jobs("WHERE state IN (?, ?) ORDER BY number", *OPEN)

    def listed(
        self,
        client: str,
        most: int,
        kind: str | None = None,
        after: Job | None = None,
        newest_first: bool = True,
        words: str = "",
        starred: bool = False,
    ) -> list[Job]:
        """At most so many jobs of a client, those that follow ``after`` in their order; only those
        whose prompt contains ``words``, and with ``starred`` those with a starred output."""
        order, beyond = ("DESC", "<") if newest_first else ("ASC", ">")
        return self._jobs(
            "WHERE client = ? AND (? IS NULL OR kind = ?) "
            f"AND (? IS NULL OR number {beyond} ?) "
            "AND instr(lower(coalesce(json_extract(request, '$.prompt'), '')), lower(?)) "
            "AND (NOT ? OR id IN (SELECT job FROM outputs JOIN stars USING (file))) "
            f"ORDER BY number {order} LIMIT ?",
            *(client, kind, kind),
            *(2 * (None if after is None else after.number,)),
            *(words, starred, most),
        )

    def update(self, id: str, *, only: tuple[str, ...] = OPEN, **fields: Any) -> bool:
        """Whether a job was in one of the states ``only``, and now has the given fields."""
        changes = ", ".join(f"{name} = ?" for name in fields)
        states = ", ".join("?" * len(only))
        with self._transaction() as db:
            done = db.execute(
                f"UPDATE jobs SET {changes} WHERE id = ? AND state IN ({states})",
                (*fields.values(), id, *only),
            )
            return done.rowcount == 1

    def add_output(
        self, id: str, output: SavedOutput, warnings: tuple[str, ...], finished: float | None
    ) -> None:
        """Record a finished output; nothing where the job was removed. ``finished``: the time, if
        it is the last one of the job."""
        with self._transaction() as db:
            if db.execute("SELECT 1 FROM jobs WHERE id = ?", (id,)).fetchone() is None:
                return
            db.execute(
                "INSERT OR REPLACE INTO outputs VALUES (?, ?, ?, ?, ?)",
                (id, output.place, output.seed, output.file, output.revised_prompt),
            )
            row = db.execute("SELECT warnings FROM jobs WHERE id = ?", (id,)).fetchone()
            merged = dict.fromkeys([*json.loads(row["warnings"]), *warnings])
            db.execute("UPDATE jobs SET warnings = ? WHERE id = ?", (json.dumps([*merged]), id))
            if finished is not None:
                db.execute("UPDATE jobs SET state='done', finished=? WHERE id=?", (finished, id))

    def star(self, file: str, starred: bool) -> None:
        """Mark an output file, or remove its mark."""
        change = "INSERT OR IGNORE INTO stars VALUES (?)" if starred else DELETE_STAR
        with self._transaction() as db:
            db.execute(change, (file,))

    def finished_files(self, client: str) -> list[str]:
        """The names of all output files of a client, newest first."""
        with self._lock:
            rows = self._db.execute(
                "SELECT file FROM outputs JOIN jobs ON jobs.id = outputs.job WHERE client = ? "
                "ORDER BY number DESC, place",
                (client,),
            ).fetchall()
        return [row["file"] for row in rows]

    def embeddings(self, encoder: str) -> dict[str, bytes]:
        """The embeddings of output files by an encoder, as little-endian 32-bit numbers."""
        with self._lock:
            rows = self._db.execute(
                "SELECT file, vector FROM embeddings WHERE encoder = ?", (encoder,)
            ).fetchall()
        return {row["file"]: row["vector"] for row in rows}

    def add_embeddings(self, encoder: str, vectors: dict[str, bytes]) -> None:
        """Keep the embeddings of output files."""
        rows = [(file, encoder, vector) for file, vector in vectors.items()]
        with self._transaction() as db:
            db.executemany("INSERT OR REPLACE INTO embeddings VALUES (?, ?, ?)", rows)

    def remove(self, id: str) -> None:
        """Delete a job, its output files, and its inputs where no other job has them."""
        job = self.get(id)
        if job is None:
            return
        with self._transaction() as db:
            db.execute("DELETE FROM jobs WHERE id = ?", (id,))
            for output in job.outputs:
                db.execute(DELETE_STAR, (output.file,))
                db.execute("DELETE FROM embeddings WHERE file = ?", (output.file,))
            db.execute("DELETE FROM outputs WHERE job = ?", (id,))
            used = "SELECT 1 FROM jobs WHERE instr(request, ?) LIMIT 1"
            for media in Request(**job.request).media():
                if db.execute(used, (media.sha256,)).fetchone() is None:
                    (self.inputs / media.sha256).unlink(missing_ok=True)
        for path in self.outputs.glob(f"{id}-*"):
            path.unlink(missing_ok=True)

    def requeue(self) -> int:
        """Number of jobs that a killed process was working on; they are queued again, and files
        that it did not finish are deleted."""
        with self._transaction() as db:
            done = db.execute("UPDATE jobs SET state = 'queued' WHERE state = 'running'")
            kept = {row["file"] for row in db.execute("SELECT file FROM outputs")}
        for path in self.outputs.iterdir():
            if path.name not in kept and path.name.removesuffix(".json") not in kept:
                path.unlink()
        return done.rowcount

    def counts(self) -> dict[str, int]:
        """The number of jobs in each state."""
        with self._lock:
            rows = self._db.execute("SELECT state, COUNT(*) FROM jobs GROUP BY state").fetchall()
        return {row[0]: row[1] for row in rows}

    def _jobs(self, where: str, *values: Any) -> list[Job]:
        with self._lock:
            rows = self._db.execute(f"SELECT * FROM jobs {where}", values).fetchall()
            found: dict[str, list[SavedOutput]] = {row["id"]: [] for row in rows}
            for id, outputs in found.items():
                for row in self._db.execute(OUTPUTS, (id,)):
                    fields = dict(row) | {"starred": bool(row["starred"])}
                    outputs.append(SavedOutput(**fields))
        return [
            Job(
                **dict(row)
                | {
                    "request": json.loads(row["request"]),
                    "warnings": tuple(json.loads(row["warnings"])),
                    "outputs": tuple(found[row["id"]]),
                }
            )
            for row in rows
        ]

    # ------------------------------------------------------------------------------ inputs

    def keep_inputs(self, request: Request) -> None:
        """Write the media inputs of a request, by their hash."""
        for media in request.media():
            path = self.inputs / media.sha256
            if not path.exists():
                write(path, media.read())

    def request_of(self, job: Job) -> Request:
        """The request of a job, with the bytes of its inputs."""
        fields = dict(job.request)
        for name in INPUTS:
            if fields.get(name):
                fields[name] = self._bytes(fields[name]["sha256"])
        if fields.get("control"):
            fields["control"] = [
                ControlMap(**each | {"image": self._bytes(each["image"]["sha256"])})
                for each in fields["control"]
            ]
        return Request(**fields)

    def input_of(self, job: Job, sha256: str) -> bytes | None:
        """The bytes of a media input of a job; None if it has no such input."""
        found = {media.sha256 for media in Request(**job.request).media()}
        return self._bytes(sha256) if sha256 in found else None

    def _bytes(self, sha256: str) -> bytes:
        data = (self.inputs / sha256).read_bytes()
        if hashlib.sha256(data).hexdigest() != sha256:
            raise KalpanaError(f"the input {sha256[:12]}… of this job is damaged: send it again")
        return data


def _lock(folder: Path) -> IO[str]:
    """The lock file of a folder, locked; the lock ends with the process, or when it is closed.

    Raises KalpanaError if another server uses the folder, or nothing can be written there.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = (folder / ".lock").open("a")
    except OSError as error:
        raise KalpanaError(
            f"nothing can be written to the folder {folder}: {error.strerror}; "
            "name another by --folder"
        ) from None
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        file.close()
        raise KalpanaError(
            f"another server uses the folder {folder}: stop it, or name another by --folder"
        ) from None
    return file
