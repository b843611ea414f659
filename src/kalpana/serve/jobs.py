"""The queue of jobs, and the one thread that owns the models and works on them.

The unit of work is a batch of pictures of equal settings, whatever jobs they belong to: each
picture depends on its own seed only, so it is the same in any batch. Users take turns, batch by
batch. Short calls (embeddings, captions) run between two steps of a batch.
"""

from __future__ import annotations

import asyncio
import io
import logging
import secrets
import sqlite3
import threading
import time
from collections import OrderedDict, deque
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from kalpana.media import SUFFIX, to_images
from kalpana.media.files import sidecar
from kalpana.request import Request
from kalpana.serve.batches import Unit, in_turn, merged, next_batch
from kalpana.serve.errors import ApiError, not_found
from kalpana.serve.models import Models
from kalpana.serve.store import OPEN, Job, SavedOutput, Store
from kalpana.serve.watchers import Watchers
from kalpana.types import KalpanaError, Output, Result, Step

log = logging.getLogger("kalpana.serve")
Answer = TypeVar("Answer")
PREVIEWED = 32  # jobs whose previews are kept, so that a slow reader gets all; above TOGETHER
STORAGE_PAUSE = 5.0  # seconds until a disk that took nothing is tried again
DEFECT = "the server failed on this job; its log says why"


@dataclass
class Live:
    """The running batch of a job: ``outputs`` of it are in the batch, at step ``index`` of
    ``total``; ``eta`` in seconds."""

    outputs: int = 0
    index: int = 0
    total: int = 1
    eta: float | None = None


@dataclass(frozen=True)
class Status:
    """A job as it stands: its ``position`` in the queue (0: next), None if it does not wait; its
    ``progress`` from 0 to 1, ``eta`` in seconds, or None while it is unknown, and ``previews``."""

    job: Job
    position: int | None
    progress: float
    eta: float | None
    previews: tuple[bytes, ...]


class Jobs:
    """The queue. Its methods may be called from any thread; ``follow``, ``finished`` and ``call``
    are for event loops."""

    def __init__(
        self, store: Store, models: Models, most_waiting: int = 256, quota: int | None = None
    ) -> None:
        self.store, self.models = store, models
        self._most_waiting, self._quota = most_waiting, quota
        self._lock = threading.RLock()
        self._wake = threading.Condition(self._lock)
        self._calls = deque[tuple[Callable[[], Any], Future[Any]]]()
        self._live = dict[str, Live]()
        self._previews = OrderedDict[str, list[bytes]]()  # PNGs of the latest jobs
        self._turns, self._turn = dict[str, int](), 0
        self._watchers = Watchers()
        self._queue: list[Job] | None = None  # see _in_turn
        self._pace: float | None = None  # seconds per output of the last batch
        self._closing = False
        self._thread = threading.Thread(target=self._work, name="worker", daemon=True)
        self.finished_outputs = 0
        self.broken: str | None = None  # why no job is worked on

    def start(self) -> None:
        """Queue again what a killed process left half done, and start the worker."""
        if count := self.store.requeue():
            log.info("jobs_queued_again", extra={"fields": {"jobs": count}})
        self._thread.start()

    def close(self) -> None:
        """Stop the worker at its next step; its jobs stay on disk."""
        with self._wake:
            self._closing = True
            self._wake.notify_all()
        self._tell()
        if self._thread.is_alive():
            self._thread.join()

    @property
    def closing(self) -> bool:
        """Whether the server stops."""
        return self._closing

    # ------------------------------------------------------------------- the client's side

    def submit(
        self,
        request: Request,
        *,
        kind: str,
        client: str,
        user: str = "",
        previews: int = 0,
        size: str | None = None,
        seconds: float | None = None,
        warnings: tuple[str, ...] = (),
        priority: int = 0,
        remixed_from: str | None = None,
    ) -> Job:
        """A new job, on disk. Raises ApiError if too many of the client wait, or its quota of the
        day is used up."""
        with self._wake:
            mine = self.store.open_count(client)
            if mine >= self._most_waiting:
                message = f"{mine} of your jobs wait: try again when some are done"
                raise ApiError(429, message, "queue_full")
            request, now = request.seeded(), time.time()
            count = len(request.each_seed())
            used = self.store.used(client, now)
            if self._quota is not None and used + count > self._quota:
                message = f"{used} of your {self._quota} outputs of this day (UTC) are used"
                raise ApiError(429, f"{message}: ask for at most the rest", "insufficient_quota")
            self.store.keep_inputs(request)
            job = self.store.add(
                outputs=count,
                id=secrets.token_hex(12),
                kind=kind,
                client=client,
                user=f"{client}/{user}",
                state="queued",
                created=now,
                request=request.to_json(),
                size=size,
                seconds=seconds,
                previews=previews,
                warnings=warnings,
                priority=priority,
                remixed_from=remixed_from,
            )
            self._wake.notify_all()
        self._tell(job.id)
        return job

    def get(self, id: str, client: str | None = None) -> Job:
        """A job. Raises ApiError if there is none, or it is another client's."""
        job = self.store.get(id)
        if job is None or client not in (None, job.client):
            raise not_found(f"job {id[:60]!r}")
        return job

    def status(self, job: Job) -> Status:
        """How a job stands."""
        return self.statuses([job])[0]

    def statuses(self, jobs: Sequence[Job]) -> list[Status]:
        """How each of several jobs stands; the queue is read once."""
        with self._lock:
            queue = self._in_turn()
            return [self._status(job, queue) for job in jobs]

    def _status(self, job: Job, queue: Sequence[Job]) -> Status:
        live = self._live.get(job.id, Live())
        previews, pace = tuple(self._previews.get(job.id, ())), self._pace
        position = eta = None
        if job.state == "queued":
            queued = [each for each in queue if each.state == "queued"]
            position = next((k for k, each in enumerate(queued) if each.id == job.id), None)
        if not job.ended and pace is not None:
            place = next((k for k, each in enumerate(queue) if each.id == job.id), 0)
            eta = pace * sum(len(each.left) for each in queue[: place + 1])
        if live.outputs and live.eta is not None:
            rest = len(job.left) - live.outputs
            eta = live.eta + rest * (live.eta if pace is None else pace)
        count = len(job.seeds)
        share = (count - len(job.left) + live.outputs * live.index / live.total) / count
        return Status(job, position, min(share, 1.0), eta, previews)

    def cancel(self, job: Job) -> Job:
        """The job, cancelled if it had not ended; its finished outputs stay."""
        self.store.update(job.id, state="cancelled", finished=time.time())
        self._tell(job.id)
        return self.get(job.id)

    def retry(self, job: Job) -> Job:
        """The job, queued again with its seeds. Raises ApiError if it neither failed nor was
        cancelled."""
        with self._wake:
            changes = {"state": "queued", "error": None, "finished": None}
            if not self.store.update(job.id, only=("failed", "cancelled"), **changes):
                message = f"job {job.id} is {job.state}: only failed and cancelled jobs are retried"
                raise ApiError(409, message, "not_retryable")
            queued = self.get(job.id)  # before the worker takes it
            self._wake.notify_all()
        self._tell(job.id)
        return queued

    def remove(self, job: Job) -> None:
        """Delete a job and its files; the worker drops it if it is running."""
        with self._lock:  # no job is accepted meanwhile, so no input that it needs is deleted
            self.store.remove(job.id)
        self._tell(job.id)

    async def follow(self, id: str, patience: float = 15.0) -> AsyncIterator[Status]:
        """How a job stands, again after each change and every ``patience`` seconds, until it has
        ended, was removed, or the server stops."""
        with self._watchers.watching() as changed:
            while True:
                changed.clear()
                job = self.store.get(id)
                if job is None:
                    return
                status = self.status(job)
                yield status
                if job.ended or self._closing or self.broken:
                    return
                try:
                    async with asyncio.timeout(patience):
                        await changed.wait()
                except TimeoutError:
                    continue

    async def watch(
        self, client: str, patience: float = 15.0
    ) -> AsyncIterator[tuple[list[Status], list[str]]]:
        """The open jobs of a client with those that ended since the last time, and the ids of those
        that were removed; again after each change and every ``patience`` seconds."""
        ids = dict[str, None]()  # in order; of the jobs that were open the last time
        newest = next(iter(self.store.listed(client, 1)), None)
        with self._watchers.watching() as changed:
            while True:
                changed.clear()
                waiting = [job for job in self.store.waiting() if job.client == client]
                came = self.store.listed(client, 1000, after=newest, newest_first=False)
                newest = came[-1] if came else newest
                known = {job.id: job for job in (*came, *waiting)}
                left = [id for id in ids if id not in known]
                found = {id: self.store.get(id) for id in left}
                jobs = [job for job in found.values() if job is not None] + [*known.values()]
                yield self.statuses(jobs), [id for id, job in found.items() if job is None]
                ids = dict.fromkeys(job.id for job in jobs if not job.ended)
                if self._closing or self.broken:
                    return
                with suppress(TimeoutError):
                    async with asyncio.timeout(patience):
                        await changed.wait()

    async def finished(self, id: str, patience: float = 15.0) -> Job:
        """A job once it has ended. Raises ApiError if it does not end here."""
        with self._watchers.watching(id) as changed:
            while True:
                changed.clear()
                job = self.store.get(id)
                if job is not None and job.ended:
                    return job
                if job is None or self._closing or self.broken:
                    why = self.broken or "the server stops"
                    raise ApiError(503, f"{why}; job {id} goes on when that is over", "stopping")
                with suppress(TimeoutError):
                    async with asyncio.timeout(patience):
                        await changed.wait()

    async def call(self, function: Callable[[], Answer]) -> Answer:
        """The result of a function that runs in the thread of the models."""
        future = Future[Any]()
        with self._wake:
            if self._closing:
                raise ApiError(503, "the server stops", "stopping")
            self._calls.append((function, future))
            self._wake.notify_all()
        return await asyncio.wrap_future(future)

    def _tell(self, *ids: str) -> None:
        """Note that jobs have changed, without ids any of them, and wake those who watch them."""
        with self._lock:
            self._queue = None
        self._watchers.tell(*ids)

    def _in_turn(self) -> list[Job]:
        """The queue, read once between two changes."""
        with self._lock:
            if self._queue is None:
                self._queue = in_turn(self.store.waiting(), self._turns)
            return self._queue

    # ------------------------------------------------------------------- the worker's side

    def _work(self) -> None:
        try:
            while not self._closing:
                try:
                    if self._wait():
                        self._work_once()
                        self.broken = None
                except (OSError, sqlite3.Error) as error:  # the disk: its jobs wait
                    log.exception("storage_failed")
                    self.broken = f"nothing can be stored: {error}"
                    self._tell()
                    with self._wake:
                        self._wake.wait(STORAGE_PAUSE)
        except Exception as error:
            log.exception("worker_stopped")
            self.broken = f"{type(error).__name__}: {error}"
        finally:
            with self._lock:
                calls, self._closing = list(self._calls), True
            for _, future in calls:
                future.set_exception(ApiError(503, "the server stops", "stopping"))
            self._tell()

    def _work_once(self) -> None:
        """Answer the calls, and generate the next batch."""
        self._run_calls()
        with self._lock:
            batch = next_batch(in_turn(self.store.waiting(), self._turns))
            if batch:
                self._turn += 1
                self._turns[batch[0].job.user] = self._turn
        if batch:
            self._run(batch)

    def _wait(self) -> bool:
        """Whether there is something to do; waits for it. False when the server stops."""
        with self._wake:
            while not (self._closing or self._calls or self.store.open_count()):
                self._wake.wait()
            return not self._closing

    def _run_calls(self) -> None:
        while self._calls:
            function, future = self._calls.popleft()
            if not future.set_running_or_notify_cancel():
                continue
            try:
                future.set_result(function())
            except Exception as error:
                future.set_exception(error)

    def _run(self, batch: list[Unit]) -> None:
        """Generate a batch and save its outputs; jobs of a batch that fails have failed."""
        jobs = {unit.job.id: unit.job for unit in batch}
        began = time.monotonic()
        for id, job in jobs.items():
            self.store.update(id, state="running", started=job.started or time.time())
            with self._lock:
                self._live[id] = Live(sum(unit.job.id == id for unit in batch))
        with self._lock:
            for unit in batch:
                if unit.place == 0:
                    self._previews.pop(unit.job.id, None)  # of an earlier try
                    self._previews[unit.job.id] = []
            while len(self._previews) > PREVIEWED:
                self._previews.popitem(last=False)
        self._tell(*jobs)
        try:
            result = self._generate(batch)
            if result is not None:
                self._save(batch, result)
                self._pace = (time.monotonic() - began) / len(batch)
        except KalpanaError as error:
            self._fail(jobs, str(error))
        except OSError as error:
            self._fail(jobs, f"{error.strerror or error}")
        except Exception:
            log.exception("job_failed", extra={"fields": {"jobs": list(jobs)}})
            self._fail(jobs, DEFECT)
        finally:
            with self._lock:
                for id in jobs:
                    self._live.pop(id, None)
            self._tell(*jobs)

    def _generate(self, batch: list[Unit]) -> Result | None:
        """The result of a batch; None if all its jobs were cancelled, or the server stops."""
        first = batch[0].job
        request = self.models.adapters.located(self.store.request_of(first))
        name = self.models.named(request.model, "video" if first.kind == "video" else "image")
        ranker = None
        if request.best_of > 1:
            ranker = self.models.encoder(self.models.named(None, "clip"))
        stream = self.models.pipeline(name).generate(merged(request, batch), rank_by=ranker)
        for step in stream:
            if step.result is not None:
                return step.result
            self._run_calls()
            self._note(batch, step)
            if self._closing or not self._alive({unit.job.id for unit in batch}):
                stream.close()  # type: ignore[attr-defined]
                return None
        raise AssertionError("a stream ends with its result")

    def _alive(self, ids: set[str]) -> bool:
        """Whether a job of a batch was neither cancelled nor removed."""
        found = (self.store.get(id) for id in ids)
        return any(job is not None and not job.ended for job in found)

    def _note(self, batch: list[Unit], step: Step) -> None:
        """Record progress and previews of a batch."""
        for row, unit in enumerate(batch):
            with self._lock:
                live = self._live[unit.job.id]
            wanted = unit.job.previews + 1
            due = step.index * wanted // step.total > (step.index - 1) * wanted // step.total
            picture = None
            if unit.place == 0 and unit.job.previews and due and step.preview is not None:
                picture = _png(step, row)
            with self._lock:
                live.index, live.total, live.eta = step.index, step.total, step.eta
                if picture is not None:
                    self._previews[unit.job.id].append(picture)
        self._tell(*{unit.job.id for unit in batch})

    def _save(self, batch: list[Unit], result: Result) -> None:
        """Write the outputs of a batch, and end the jobs that have all of theirs."""
        for unit, output in zip(batch, result.outputs, strict=True):
            job = self.store.get(unit.job.id)
            if job is None or job.ended:
                continue
            # The receipt of the job's own request, as if it had been alone, without the paths of
            # adapters.
            resolved = output.receipt["resolved"] | {"adapter": job.request.get("adapter")}
            receipt = output.receipt | {"request": job.request, "resolved": resolved}
            file = self._write(replace(output, receipt=receipt), job, unit.place)
            saved = SavedOutput(unit.place, output.seed, file, receipt.get("revised_prompt"))
            ended = time.time() if len(job.left) == 1 else None
            self.store.add_output(job.id, saved, result.warnings, ended)
            self.finished_outputs += 1

    def _write(self, output: Output, job: Job, place: int) -> str:
        """The name of the file of an output; what a killed process left there is replaced."""
        format = output.receipt["resolved"]["format"]
        path = self.store.outputs / f"{job.id}-{place}{SUFFIX.get(format, f'.{format}')}"
        for old in (path, sidecar(path)):
            old.unlink(missing_ok=True)
        written = output.save(path).path
        assert written == path
        return path.name

    def _fail(self, jobs: Mapping[str, Job], error: str) -> None:
        for id in jobs:
            self.store.update(id, only=OPEN, state="failed", error=error, finished=time.time())


def output_path(store: Store, output: SavedOutput) -> Path:
    """The file of a saved output."""
    return store.outputs / output.file


def _png(step: Step, row: int) -> bytes:
    """A row of a step's preview as PNG; of a video its middle frame."""
    assert step.preview is not None
    pixels = step.preview[min(row, len(step.preview) - 1)]
    if pixels.ndim == 4:
        pixels = pixels[len(pixels) // 2]
    file = io.BytesIO()
    to_images(pixels[None])[0].save(file, "PNG")
    return file.getvalue()
