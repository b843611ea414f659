"""The database and the disk: other versions, locks, damage, and a disk that takes nothing more."""

from __future__ import annotations

import resource
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("fastapi", reason="the server needs fastapi: pip install 'kalpana[serve]'")

from fastapi.testclient import TestClient

from kalpana.serve.store import VERSION, Store
from kalpana.types import KalpanaError

from .test_images import ASK, error, pictures

URL = "/v1/images/generations"

# The tables of jobs and outputs as version 0 made them.
FIRST = """
CREATE TABLE jobs (
    number INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL UNIQUE, kind TEXT NOT NULL,
    client TEXT NOT NULL, user TEXT NOT NULL, state TEXT NOT NULL, created REAL NOT NULL,
    started REAL, finished REAL, request TEXT NOT NULL, size TEXT, seconds REAL,
    previews INTEGER NOT NULL, warnings TEXT NOT NULL, error TEXT
);
INSERT INTO jobs VALUES (7, 'abc', 'image', 'me', 'me/', 'queued', 1.0, NULL, NULL,
    '{"prompt": "a", "seed": 1, "model": "tiny"}', '32x32', NULL, 0, '[]', NULL);
"""


def test_a_database_of_the_first_version_is_brought_up_to_date(tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / "jobs.sqlite") as db:
        db.executescript(FIRST)
    db.close()
    store = Store(tmp_path)
    (job,) = store.waiting()
    assert (job.number, job.id, job.priority, job.remixed_from) == (7, "abc", 0, None)
    store.close()
    Store(tmp_path).close()  # and again


def test_a_database_that_cannot_be_used_is_one_line(tmp_path: Path) -> None:
    Store(tmp_path).close()
    path = tmp_path / "jobs.sqlite"
    with sqlite3.connect(path) as db:
        db.execute(f"PRAGMA user_version = {VERSION + 1}")
    db.close()
    with pytest.raises(KalpanaError, match="written by a newer Kalpana"):
        Store(tmp_path)
    path.write_bytes(b"no database" * 1000)
    for rest in tmp_path.glob("jobs.sqlite-*"):
        rest.unlink()
    with pytest.raises(KalpanaError, match="is not a database"):
        Store(tmp_path)
    path.unlink()
    Store(tmp_path).close()  # the folder is not left locked


def test_a_locked_database_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Store(tmp_path).close()
    monkeypatch.setattr("kalpana.serve.store.LOCK_SECONDS", 0.1)
    other = sqlite3.connect(tmp_path / "jobs.sqlite", isolation_level=None)
    other.execute("PRAGMA journal_mode = DELETE")
    other.execute("BEGIN EXCLUSIVE")
    with pytest.raises(KalpanaError, match="database is locked; end the program"):
        Store(tmp_path)
    other.execute("ROLLBACK")
    other.close()
    Store(tmp_path).close()


def test_nothing_is_accepted_while_the_database_is_locked(
    client: TestClient, settings: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    pictures(client.post(URL, json=ASK))
    db = client.app.state.server.jobs.store._db  # type: ignore[attr-defined]
    db.execute("PRAGMA busy_timeout = 100")
    other = sqlite3.connect(settings.folder / "jobs.sqlite", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    answer = client.post(URL, json=ASK)
    assert answer.status_code == 507 and error(answer)["code"] == "storage_failed"
    assert str(settings.folder) not in answer.text
    assert len(client.get("/v1/jobs").json()["data"]) == 1
    other.execute("ROLLBACK")
    other.close()
    pictures(client.post(URL, json=ASK))


def test_a_full_disk_is_a_clear_line_and_nothing_is_lost(
    client_with: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A limit on the size of files stands for the disk: writes beyond it fail in the same way."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    monkeypatch.setattr("kalpana.serve.jobs.STORAGE_PAUSE", 0.1)
    with client_with() as client:
        (before,) = pictures(client.post(URL, json=ASK))
        resource.setrlimit(resource.RLIMIT_FSIZE, (1, hard))
        try:
            answer = client.post(URL, json=ASK)
            status = answer.status_code
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        assert status == 507 and "can store nothing" in error(answer)["message"]
        assert pictures(client.post(URL, json=ASK)) == [before]
        assert client.get("/healthz").json()["status"] == "ok"


def test_the_worker_waits_for_the_disk_and_goes_on(
    client_with: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kalpana.serve.jobs.STORAGE_PAUSE", 0.05)
    with client_with() as client:
        jobs = client.app.state.server.jobs
        failures = [sqlite3.OperationalError("disk I/O error")] * 3
        update = jobs.store.update

        def failing(*arguments: Any, **fields: Any) -> bool:
            if failures:
                raise failures.pop()
            return update(*arguments, **fields)

        monkeypatch.setattr(jobs.store, "update", failing)
        id = client.post("/v1/jobs", json={"prompt": "a", "steps": 2}).json()["id"]
        while not client.get(f"/v1/jobs/{id}").json()["outputs"]:
            client.get(f"/v1/jobs/{id}/events")
        assert not failures and client.get("/healthz").status_code == 200


@pytest.mark.slow
def test_a_folder_that_is_a_file_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    command = [sys.executable, "-m", "kalpana", "serve", "--port", "0", "--folder"]
    done = subprocess.run([*command, str(tmp_path / "file")], capture_output=True, text=True)
    assert done.returncode == 2 and "nothing can be written to the folder" in done.stderr
    assert "Traceback" not in done.stderr
