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

from kalpana.inputs import ControlMap, Media
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
    error TEXT,
    priority INTEGER NOT NULL DEFAULT 0,
    remixed_from TEXT
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
CREATE TABLE IF NOT EXISTS usage (
    client TEXT NOT NULL,
    day INTEGER NOT NULL,
    outputs INTEGER NOT NULL,
    PRIMARY KEY (client, day)
);
CREATE TABLE IF NOT EXISTS embeddings (
    file TEXT NOT NULL,
    encoder TEXT NOT NULL,
    vector BLOB NOT NULL,
    PRIMARY KEY (file, encoder)
);
"""

VERSION = 1  # of the schema, in the database's user_version
# Columns that a database of version 0 lacks.
ADDED = ("priority INTEGER NOT NULL DEFAULT 0", "remixed_from TEXT")

OUTPUTS = """
SELECT job, place, seed, outputs.file AS file, revised_prompt, stars.file IS NOT NULL AS starred
FROM outputs LEFT JOIN stars ON stars.file = outputs.file
WHERE job IN (SELECT value FROM json_each(?)) ORDER BY place
"""
DELETE_STAR = "DELETE FROM stars WHERE file = ?"
COUNT_OUTPUTS = """
INSERT INTO usage VALUES (?, ?, ?)
ON CONFLICT (client, day) DO UPDATE SET outputs = outputs + excluded.outputs
"""
DAY = 86_400  # seconds
LOCK_SECONDS = 5.0  # that a lock of another program is waited for


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
    the number of previews that were asked for. Among the jobs of one user those of a higher
    ``priority`` come first. ``remixed_from`` is the job whose video this one changes. Times are
    seconds since 1970.
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
    priority: int = 0
    remixed_from: str | None = None
    outputs: tuple[SavedOutput, ...] = ()

    @property
    def interpolates(self) -> bool:
        """Whether the outputs are the pictures on the way between two, which share one seed."""
        given = {name for name, value in self.request.items() if value is not None}
        between = "last_image" in given and not given & {"seeds", "strength"}
        return self.kind == "image" and between and self.request.get("n", 1) > 1

    @property
    def seeds(self) -> list[int]:
        """The seeds, one for each output."""
        if self.request.get("seeds"):
            return list(self.request["seeds"])
        seed, n = self.request["seed"], self.request.get("n", 1)
        return [seed] * n if self.interpolates else list(range(seed, seed + n))

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


class InUse(KalpanaError):
    """Another server uses the folder."""


class Store:
    """The jobs in a folder, which it locks. Its methods may be called from any thread.

    Raises KalpanaError if another server uses the folder, it cannot be written, or its database
    cannot be used.
    """

    def __init__(self, folder: Path) -> None:
        self._file = _lock(folder)
        self.inputs, self.outputs = folder / "inputs", folder / "outputs"
        for each in (self.inputs, self.outputs):
            each.mkdir(parents=True, exist_ok=True)
        self._lock = threading.Lock()
        try:
            self._db = _opened(folder / "jobs.sqlite")
        except BaseException:
            self._file.close()
            raise

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

    def add(self, outputs: int = 0, **fields: Any) -> Job:
        """A new job, committed; its number of ``outputs`` counts as used by its client."""
        fields = fields | {name: json.dumps(fields[name]) for name in ("request", "warnings")}
        names = ", ".join(fields)
        marks = ", ".join("?" * len(fields))
        with self._transaction() as db:
            db.execute(f"INSERT INTO jobs ({names}) VALUES ({marks})", tuple(fields.values()))
            if outputs:
                day = int(fields["created"] // DAY)
                db.execute(COUNT_OUTPUTS, (fields["client"], day, outputs))
        job = self.get(fields["id"])
        assert job is not None
        return job

    def get(self, id: str) -> Job | None:
        """A job by its id."""
        return next(iter(self._jobs("WHERE id = ?", id)), None)

    def waiting(self) -> list[Job]:
        """The jobs that are queued or running, in the order in which they came."""
        return self._jobs("WHERE state IN (?, ?) ORDER BY number", *OPEN)

    def open_count(self, client: str | None = None) -> int:
        """The number of jobs that are queued or running, of one client or of all."""
        query = "SELECT COUNT(*) FROM jobs WHERE state IN (?, ?) AND (? IS NULL OR client = ?)"
        with self._lock:
            return self._db.execute(query, (*OPEN, client, client)).fetchone()[0]

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
            for media in _uploads(Request(**job.request)):
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

    def used(self, client: str, now: float) -> int:
        """The number of outputs that a client has asked for on the day (UTC) of ``now``."""
        with self._lock:
            row = self._db.execute(
                "SELECT outputs FROM usage WHERE client = ? AND day = ?", (client, int(now // DAY))
            ).fetchone()
        return row["outputs"] if row else 0

    def counts(self) -> dict[str, int]:
        """The number of jobs in each state."""
        with self._lock:
            rows = self._db.execute("SELECT state, COUNT(*) FROM jobs GROUP BY state").fetchall()
        return {row[0]: row[1] for row in rows}

    def _jobs(self, where: str, *values: Any) -> list[Job]:
        with self._lock:
            rows = self._db.execute(f"SELECT * FROM jobs {where}", values).fetchall()
            found: dict[str, list[SavedOutput]] = {row["id"]: [] for row in rows}
            for row in self._db.execute(OUTPUTS, (json.dumps([*found]),)):
                fields = dict(row) | {"starred": bool(row["starred"])}
                found[fields.pop("job")].append(SavedOutput(**fields))
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
        for media in _uploads(request):
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
        found = {media.sha256 for media in _uploads(Request(**job.request))}
        return self._bytes(sha256) if sha256 in found else None

    def _bytes(self, sha256: str) -> bytes:
        data = (self.inputs / sha256).read_bytes()
        if hashlib.sha256(data).hexdigest() != sha256:
            raise KalpanaError(f"the input {sha256[:12]}… of this job is damaged: send it again")
        return data


def _uploads(request: Request) -> list[Media]:
    """The inputs of a request that were uploaded; adapters are files of the server."""
    return request.model_copy(update={"adapter": None}).media()


def _opened(path: Path) -> sqlite3.Connection:
    """The database of a file, created if missing, with the tables of this version.

    Raises KalpanaError if it is locked, damaged, or of a newer version.
    """
    try:
        db = sqlite3.connect(path, LOCK_SECONDS, check_same_thread=False, isolation_level=None)
        db.row_factory = sqlite3.Row
        found = db.execute("PRAGMA user_version").fetchone()[0]
        if found > VERSION:
            raise KalpanaError(
                f"{path} was written by a newer Kalpana (its schema is {found}, this one's is "
                f"{VERSION}): update Kalpana, or name another folder by --folder"
            )
        db.execute("PRAGMA journal_mode = WAL")
        db.execute("PRAGMA synchronous = FULL")
        db.executescript(SCHEMA)
        columns = {row["name"] for row in db.execute("PRAGMA table_info(jobs)")}
        for column in ADDED:
            if column.partition(" ")[0] not in columns:
                db.execute(f"ALTER TABLE jobs ADD COLUMN {column}")
        db.execute(f"PRAGMA user_version = {VERSION}")
    except sqlite3.Error as error:
        raise KalpanaError(
            f"the database {path} cannot be used: {error}; end the program that locks it, or name "
            "another folder by --folder"
        ) from None
    return db


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
        raise InUse(
            f"another server uses the folder {folder}: stop it, or name another by --folder"
        ) from None
    return file
