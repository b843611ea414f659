"""Exports of the world as data sets of files: resumable, deterministic, by many processes.

An export is a folder with ``export.json``, its settings, and shards. A shard is written by one
process, under a temporary name that is replaced when it is complete. A run with the same settings
goes on with the shards that are missing, so its result does not depend on interruptions or on the
number of processes.
"""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import threading
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from itertools import islice
from multiprocessing import get_context, parent_process
from pathlib import Path
from types import ModuleType

import torch

from kalpana.errors import KalpanaError
from kalpana.media import locked, ready_folder, require_av, write
from kalpana.world.export import coco, parquet, webdataset
from kalpana.world.export.examples import VIDEO, example
from kalpana.world.export.settings import Settings

MANIFEST = "export.json"
FORMATS: dict[str, ModuleType] = {"webdataset": webdataset, "coco": coco, "parquet": parquet}
Progress = Callable[[int, int], None]  # (done, total) examples


def export(
    settings: Settings,
    folder: Path,
    workers: int | None = None,
    progress: Progress = lambda done, total: None,
) -> list[Path]:
    """Write the export into ``folder``, or what is missing of it; the files to load it from.

    ``workers``: processes, by default one for each core; a script that asks for several needs
    the usual guard of the main module. Raises KalpanaError where the folder holds another export or
    other files, another process works in it, a package is missing, or a file cannot be written.
    """
    _check_packages(settings)
    _claim(settings, folder)
    with locked(folder):
        return _export(settings, folder, workers or cores(), progress)


def _export(settings: Settings, folder: Path, workers: int, progress: Progress) -> list[Path]:
    """As ``export``, in a folder in which no other process works."""
    for unfinished in folder.rglob(".*.part"):  # by an interrupted run
        unfinished.unlink(missing_ok=True)
    format = FORMATS[settings.format]
    missing = _missing(settings, folder)
    done = _done(settings, missing)
    progress(done, settings.n)
    shards = _written(settings, folder, missing, workers)
    try:
        for shard in shards:
            done += len(settings.indices(shard))
            progress(done, settings.n)
        return format.finish(settings, folder)
    except KeyboardInterrupt:
        shards.close()  # completes the shards that were begun
        progress(_done(settings, _missing(settings, folder)), settings.n)
        raise
    except OSError as error:
        raise KalpanaError(
            f"the export to {folder} stopped after {done:,} of {settings.n:,} examples: "
            f"{error.strerror}; the same command goes on"
        ) from None
    except BrokenProcessPool:
        raise KalpanaError(
            f"the export to {folder} stopped after {done:,} of {settings.n:,} examples, because a "
            "process was killed, perhaps for lack of memory; the same command goes on, and fewer "
            "--workers need less"
        ) from None


def _missing(settings: Settings, folder: Path) -> list[int]:
    """The numbers of the shards that are not complete."""
    file = FORMATS[settings.format].shard_file
    return [shard for shard in settings.shards if not file(folder, shard).exists()]


def _done(settings: Settings, missing: list[int]) -> int:
    """The number of examples in the shards that are complete."""
    return settings.n - sum(len(settings.indices(shard)) for shard in missing)


def cores() -> int:
    """The number of processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _check_packages(settings: Settings) -> None:
    """Raises KalpanaError, with the line that installs it, if a package is missing."""
    if settings.format == "parquet" and importlib.util.find_spec("pyarrow") is None:
        raise KalpanaError(
            "writing parquet needs pyarrow: install it with pip install 'kalpana[export]'"
        )
    if settings.kind == VIDEO and settings.format != "coco":  # COCO has frames as PNG
        require_av("writing MP4")


def _claim(settings: Settings, folder: Path) -> None:
    """Make the folder that of this export.

    Raises KalpanaError if it holds another export, or other files.
    """
    path, own = folder / MANIFEST, settings.to_json()
    try:
        if path.exists():
            theirs = json.loads(path.read_text(encoding="utf-8"))
            for name, value in own.items():
                if theirs.get(name) != value:
                    raise KalpanaError(
                        f"{folder} holds another export: {name} is {theirs.get(name)!r} there "
                        f"and {value!r} here; name another folder with --out"
                    )
            return
        if folder.is_dir() and any(folder.iterdir()):
            raise KalpanaError(
                f"{folder} is not empty and holds no export: name another folder with --out"
            )
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or "it is damaged"
        raise KalpanaError(f"{path} cannot be read: {reason}; name another --out") from None
    ready_folder(folder, 65536)
    write(path, (json.dumps(own, indent=2) + "\n").encode())


def _written(
    settings: Settings, folder: Path, shards: list[int], workers: int
) -> Generator[int, None, None]:
    """Write the shards; yields the number of each as it is complete.

    One process writes them in order; several take a free one each.
    """
    workers = min(workers, len(shards))
    if workers <= 1:
        with _one_thread():
            for shard in shards:
                yield _write_shard(settings, folder, shard)
        return
    pool = ProcessPoolExecutor(workers, mp_context=get_context("spawn"), initializer=_start_worker)
    todo = iter(shards)
    try:
        jobs = {pool.submit(_write_shard, settings, folder, k) for k in islice(todo, workers + 1)}
        while jobs:
            ready, jobs = wait(jobs, return_when=FIRST_COMPLETED)
            for job in ready:
                jobs |= {pool.submit(_write_shard, settings, folder, k) for k in islice(todo, 1)}
                yield job.result()
    finally:  # after an error or Ctrl-C, only the shards that were begun are completed
        pool.shutdown(cancel_futures=True)


def _start_worker() -> None:
    """One thread a process; Ctrl-C is for the parent, and the process ends when the parent does."""
    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """Wait until the parent ends, even if it was killed, and then end this process."""
    parent = parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _write_shard(settings: Settings, folder: Path, shard: int) -> int:
    """Draw and write one shard; returns its number."""
    world = settings.source()
    examples = (example(world, index, settings.languages) for index in settings.indices(shard))
    FORMATS[settings.format].write_shard(settings, folder, shard, examples)
    return shard


@contextmanager
def _one_thread() -> Iterator[None]:
    """Context in which torch computes with one thread."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
