"""Batches of the queue: whose turn it is, and which outputs are generated together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest

from kalpana.pipelines.pipeline import TOGETHER
from kalpana.request import Request
from kalpana.serve.store import Job


@dataclass(frozen=True)
class Unit:
    """One output to be generated: the job, its place there, and its seed."""

    job: Job
    place: int
    seed: int


def in_turn(jobs: Sequence[Job], turns: Mapping[str, int]) -> list[Job]:
    """The jobs in the order of the queue: the users take turns, those whose last turn in ``turns``
    is longest ago first, and each user's jobs come by priority and then as they came."""
    by_user = dict[str, list[Job]]()
    for job in sorted(jobs, key=lambda job: (-job.priority, job.number)):
        by_user.setdefault(job.user, []).append(job)
    first = {user: min(job.number for job in mine) for user, mine in by_user.items()}
    users = sorted(by_user, key=lambda user: (turns.get(user, 0), first[user]))
    rounds = zip_longest(*(by_user[user] for user in users))
    return [job for each in rounds for job in each if job is not None]


def next_batch(queue: Sequence[Job]) -> list[Unit]:
    """The next outputs to be generated together: those of the first job, then those of other jobs
    with equal settings."""
    if not queue:
        return []
    first = queue[0]
    most = max(TOGETHER // first.request.get("best_of", 1), 1)
    if first.kind == "video" or first.interpolates:
        most = 1
    same = [job for job in queue if job.settings == first.settings]
    return [Unit(job, place, seed) for job in same for place, seed in job.left][:most]


def merged(request: Request, batch: Sequence[Unit]) -> Request:
    """The request of a batch; of a picture on the way between two by its place there."""
    job, seeds = batch[0].job, tuple(unit.seed for unit in batch)
    if job.interpolates:
        place = batch[0].place / (len(job.seeds) - 1)
        return request.updated(n=1, strength=place)
    return request.updated(n=len(batch), seed=None, seeds=seeds)
