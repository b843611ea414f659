"""The queue: turns, shared batches, cancel, retry, previews, and a process that is killed."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx2
import pytest

pytest.importorskip("fastapi", reason="the server needs fastapi: pip install 'kalpana[serve]'")

from fastapi.testclient import TestClient

from kalpana.pipelines.diffusion import DiffusionPipeline
from kalpana.request import Request
from kalpana.serve.batches import in_turn, next_batch
from kalpana.serve.jobs import Jobs
from kalpana.serve.models import Models
from kalpana.serve.settings import Settings
from kalpana.serve.store import Job, Store
from kalpana.types import Step

from .conftest import photo
from .test_images import data_url, error, events

ASK = {"prompt": "a red apple", "seed": 3, "steps": 2}


def job(number: int, user: str, **request: Any) -> Job:
    return Job(
        number=number,
        id=str(number),
        kind="image",
        client=user,
        user=user,
        state="queued",
        created=0.0,
        started=None,
        finished=None,
        request={"prompt": "a", "seed": number, "model": "m"} | request,
        size=None,
        seconds=None,
        previews=0,
        warnings=(),
        error=None,
    )


def test_users_take_turns() -> None:
    jobs = [job(1, "a"), job(2, "a"), job(3, "a"), job(4, "b"), job(5, "c"), job(6, "b")]

    def order(turns: dict[str, int]) -> list[int]:
        return [each.number for each in in_turn(jobs, turns)]

    assert order({}) == [1, 4, 5, 2, 6, 3]
    assert order({"a": 1}) == [4, 5, 1, 6, 2, 3]
    assert order({"a": 1, "b": 2, "c": 3}) == [1, 4, 5, 2, 6, 3]


def test_priority_orders_the_jobs_of_one_user_alone() -> None:
    high = [replace(job(number, "a"), priority=5) for number in (3, 4)]
    jobs = [job(1, "a"), job(2, "b"), *high, job(5, "b")]
    assert [each.number for each in in_turn(jobs, {})] == [3, 2, 4, 5, 1]


def test_jobs_share_a_batch_if_only_their_seeds_differ() -> None:
    jobs = [job(1, "a", n=3), job(2, "b", n=2), job(3, "c", steps=3), job(4, "d", prompt="b")]
    jobs += [job(5, "e", n=9)]
    units = [(unit.job.number, unit.place, unit.seed) for unit in next_batch(jobs)]
    assert units == [(1, 0, 1), (1, 1, 2), (1, 2, 3), (2, 0, 2), (2, 1, 3)] + [
        (5, k, 5 + k) for k in range(3)
    ]
    assert next_batch([]) == []
    assert len(next_batch([job(1, "a", n=9, best_of=4)])) == 2


@pytest.fixture
def jobs(settings: Settings) -> Iterator[Jobs]:
    """A queue whose worker the test starts."""
    jobs = Jobs(Store(settings.folder), Models(settings.models))
    yield jobs
    jobs.close()
    jobs.store.close()


def submit(jobs: Jobs, client: str = "a", **fields: Any) -> Job:
    request = Request(**{"model": "tiny", **ASK, **fields})
    return jobs.submit(request, kind="image", client=client)


def end(jobs: Jobs, *ids: str) -> list[Job]:
    """The jobs once they have ended."""
    import asyncio

    async def all_of_them() -> list[Job]:
        return list(await asyncio.gather(*(jobs.finished(id) for id in ids)))

    return asyncio.run(all_of_them())


def files(jobs: Jobs, job: Job) -> list[bytes]:
    return [(jobs.store.outputs / output.file).read_bytes() for output in job.outputs]


@pytest.fixture
def batches(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    """The seeds of each batch that is generated."""
    seen: list[tuple[int, ...]] = []
    generate = DiffusionPipeline.generate

    def spy(self: DiffusionPipeline, request: Request, **fields: Any) -> Iterator[Step]:
        seen.append(request.each_seed())
        return generate(self, request, **fields)

    monkeypatch.setattr(DiffusionPipeline, "generate", spy)
    return seen


def test_a_shared_batch_gives_the_bytes_of_jobs_alone(
    jobs: Jobs, settings: Settings, batches: list[tuple[int, ...]], tmp_path: Path
) -> None:
    asked = [("a", {"n": 2}), ("b", {"seed": 40}), ("c", {"seed": 3})]
    ids = [submit(jobs, client, **fields).id for client, fields in asked]
    jobs.start()
    together = [files(jobs, each) for each in end(jobs, *ids)]
    assert batches == [(3, 4, 40, 3)]
    alone = Jobs(Store(tmp_path / "alone"), Models(settings.models))
    alone.start()
    for (client, fields), expected in zip(asked, together, strict=True):
        (single,) = end(alone, submit(alone, client, **fields).id)
        assert files(alone, single) == expected
    assert len(batches) == 4
    alone.close()
    alone.store.close()


@pytest.mark.slow
def test_large_jobs_wait_for_others_between_their_batches(
    jobs: Jobs, batches: list[tuple[int, ...]]
) -> None:
    large = submit(jobs, "a", n=12)
    small = submit(jobs, "b", seed=100, steps=3)
    jobs.start()
    end(jobs, large.id, small.id)
    assert batches == [tuple(range(3, 11)), (100,), tuple(range(11, 15))]


def test_a_quota_of_a_day_counts_outputs_even_of_deleted_jobs(
    client_with: Callable[..., Any],
) -> None:
    with client_with(quota=3) as client:
        first = client.post("/v1/jobs", json=ASK | {"n": 2}).json()
        client.delete(f"/v1/jobs/{first['id']}")
        refused = client.post("/v1/jobs", json=ASK | {"n": 2})
        assert refused.status_code == 429 and error(refused)["code"] == "insufficient_quota"
        assert client.post("/v1/jobs", json=ASK).status_code == 202
        limits = client.get("/v1/limits").json()
        assert (limits["quota"], limits["used"]) == (3, 3)


def test_a_clock_that_goes_back_spoils_nothing(
    client: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The queue orders by number, paces by a clock that only goes forward, and ends its jobs."""
    clock = iter(range(2_000_000_000, 0, -1000))
    monkeypatch.setattr("kalpana.serve.jobs.time.time", lambda: float(next(clock)))
    ids = [client.post("/v1/jobs", json=ASK | {"seed": k}).json()["id"] for k in range(3)]
    for id in ids:
        assert events(client.get(f"/v1/jobs/{id}/events").text)[-1][0] == "done"
        eta = client.get(f"/v1/jobs/{id}").json()["eta"]
        assert eta is None or eta >= 0
    assert [each["id"] for each in client.get("/v1/jobs").json()["data"]] == ids[::-1]


def test_a_full_queue_refuses(settings: Settings) -> None:
    jobs = Jobs(Store(settings.folder), Models(settings.models), most_waiting=1)
    submit(jobs)
    with pytest.raises(Exception, match="of your jobs wait"):
        submit(jobs)
    submit(jobs, "another")
    jobs.store.close()


class Paused:
    """Holds the worker at the first step of each batch until ``go`` is set."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.there, self.go = threading.Event(), threading.Event()
        generate = DiffusionPipeline.generate

        def paused(model: DiffusionPipeline, *args: Any, **fields: Any) -> Iterator[Step]:
            for step in generate(model, *args, **fields):
                yield step
                self.there.set()
                assert self.go.wait(60)

        monkeypatch.setattr(DiffusionPipeline, "generate", paused)


@pytest.fixture
def paused(monkeypatch: pytest.MonkeyPatch) -> Paused:
    return Paused(monkeypatch)


def test_a_job_goes_from_queued_to_done_with_its_position(
    client: TestClient, paused: Paused
) -> None:
    first = client.post("/v1/jobs", json=ASK | {"user": "a"})
    assert first.status_code == 202 and first.headers["x-job-id"] == first.json()["id"]
    assert paused.there.wait(60)
    second, third = (
        client.post("/v1/jobs", json=ASK | {"user": user, "steps": 3}).json()["id"] for user in "aa"
    )
    fourth = client.post("/v1/jobs", json=ASK | {"user": "b", "steps": 4}).json()["id"]
    shown = {id: client.get(f"/v1/jobs/{id}").json() for id in (second, third, fourth)}
    assert [shown[id]["state"] for id in shown] == ["queued"] * 3
    assert [shown[id]["position"] for id in (fourth, second, third)] == [0, 1, 2]
    running = client.get(f"/v1/jobs/{first.json()['id']}").json()
    assert running["state"] == "running" and running["position"] is None
    paused.go.set()
    streams = [events(client.get(f"/v1/jobs/{id}/events").text) for id in shown]
    assert all(stream[-1][0] == "done" for stream in streams)
    done = client.get(f"/v1/jobs/{second}").json()
    assert done["progress"] == 1 and [each["seed"] for each in done["outputs"]] == [3]


def test_a_cancelled_job_stops_and_can_be_retried_to_the_same_bytes(
    client: TestClient, paused: Paused
) -> None:
    expected = client.post("/v1/jobs", json=ASK).json()["id"]
    assert paused.there.wait(60)
    paused.go.set()
    client.get(f"/v1/jobs/{expected}/events")
    paused.go.clear()
    paused.there.clear()
    id = client.post("/v1/jobs", json=ASK).json()["id"]
    assert paused.there.wait(60)
    assert client.post(f"/v1/jobs/{id}/cancel").json()["state"] == "cancelled"
    paused.go.set()
    after = client.post("/v1/images/generations", json=ASK)  # the worker goes on
    assert after.status_code == 200
    assert client.get(f"/v1/jobs/{id}").json()["outputs"] == []
    assert client.post(f"/v1/jobs/{id}/retry").json()["state"] == "queued"
    assert error(client.post(f"/v1/jobs/{expected}/retry"))["code"] == "not_retryable"
    assert events(client.get(f"/v1/jobs/{id}/events").text)[-1][0] == "done"
    urls = [client.get(f"/v1/jobs/{each}").json()["outputs"][0]["url"] for each in (id, expected)]
    assert client.get(urls[0]).content == client.get(urls[1]).content


def test_a_deleted_job_is_gone_with_its_files(client: TestClient, settings: Settings) -> None:
    ask, ids = ASK | {"image": data_url(photo())}, list[str]()
    for _ in range(2):
        ids.append(client.post("/v1/jobs", json=ask).json()["id"])
        client.get(f"/v1/jobs/{ids[-1]}/events")

    def files() -> list[int]:
        return [len(list((settings.folder / name).iterdir())) for name in ("outputs", "inputs")]

    assert files() == [2, 1]
    assert client.delete(f"/v1/jobs/{ids[0]}").json()["deleted"]
    assert files() == [1, 1]  # the other job has the same input
    client.delete(f"/v1/jobs/{ids[1]}")
    assert files() == [0, 0]
    assert client.get(f"/v1/jobs/{ids[0]}").status_code == 404


def test_events_have_the_previews_that_were_asked_for(client: TestClient, paused: Paused) -> None:
    id = client.post("/v1/jobs", json=ASK | {"n": 9, "steps": 6, "previews": 3}).json()["id"]
    paused.go.set()
    found = events(client.get(f"/v1/jobs/{id}/events").text)
    names = [name for name, _ in found]
    assert names[-1] == "done" and names.count("preview") == 3
    shares = [data["progress"] for name, data in found if name != "preview"]
    assert shares == sorted(shares) and shares[-1] == 1


# ------------------------------------------------------------------------------ a killed process


def follow(url: str, id: str, until: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
    """The first state of a job for which ``until`` is true, from its stream of events."""
    with httpx2.stream("GET", f"{url}/v1/jobs/{id}/events", timeout=120) as answer:
        for line in answer.iter_lines():
            if line.startswith("data: ") and until(data := json.loads(line[6:])):
                return data
    raise AssertionError("the stream ended before")


def outputs(url: str, id: str) -> list[bytes]:
    job = httpx2.get(f"{url}/v1/jobs/{id}", timeout=60).json()
    return [httpx2.get(each["url"], timeout=60).content for each in job["outputs"]]


@pytest.mark.slow
def test_a_killed_server_loses_no_finished_picture_and_no_accepted_job(
    start: Callable[..., Any], tmp_path: Path, client_with: Callable[..., Any]
) -> None:
    asks: list[dict[str, Any]] = [
        ASK | {"n": 20, "steps": 8},
        {"prompt": "a blue car", "steps": 8, "n": 2},  # seeded when it is accepted
        ASK | {"image": data_url(photo()), "steps": 8},
    ]
    server = start()
    ids = []
    for ask in asks:
        answer = httpx2.post(f"{server.url}/v1/jobs", json=ask | {"model": "tiny"}, timeout=60)
        assert answer.status_code == 202, answer.text
        ids.append(answer.json()["id"])
    halfway = follow(server.url, ids[0], lambda job: bool(job.get("outputs")))
    assert 0 < len(halfway["outputs"]) < 20
    server.end(kill=True)
    names = [each["url"].rpartition("/")[2] for each in halfway["outputs"]]
    finished = {name: (tmp_path / "server/outputs" / name).stat().st_mtime_ns for name in names}

    start().end(kill=True)  # while it loads the model
    server = start()
    for id in ids:
        assert follow(server.url, id, lambda job: job.get("state") == "done")["progress"] == 1
    found = [outputs(server.url, id) for id in ids]
    assert [len(each) for each in found] == [20, 2, 1]
    for name, written in finished.items():  # not drawn again
        assert (tmp_path / "server/outputs" / name).stat().st_mtime_ns == written
    assert len([*(tmp_path / "server/outputs").iterdir()]) == 23
    shown = [httpx2.get(f"{server.url}/v1/jobs/{id}", timeout=60).json() for id in ids]
    server.end()

    # The same requests, never interrupted, in another folder.
    with client_with(folder=tmp_path / "other") as client:
        for ask, job, expected in zip(asks, shown, found, strict=True):
            seeded = ask | {"model": "tiny", "seed": job["request"]["seed"]}
            id = client.post("/v1/jobs", json=seeded).json()["id"]
            client.get(f"/v1/jobs/{id}/events")
            again = client.get(f"/v1/jobs/{id}").json()
            assert [client.get(each["url"]).content for each in again["outputs"]] == expected


@pytest.mark.slow
def test_a_client_that_leaves_a_stream_loses_nothing(start: Callable[..., Any]) -> None:
    server = start()
    ask = ASK | {"model": "tiny", "steps": 30, "stream": True, "partial_images": 3}
    with httpx2.stream(
        "POST", f"{server.url}/v1/images/generations", json=ask, timeout=60
    ) as answer:
        id = answer.headers["x-job-id"]
        next(answer.iter_lines())
    # Left. The job goes on, and so does the server.
    assert follow(server.url, id, lambda job: job.get("state") == "done")
    assert len(outputs(server.url, id)) == 1
    assert httpx2.get(f"{server.url}/healthz", timeout=60).json()["status"] == "ok"


@pytest.mark.slow
def test_a_second_process_on_one_folder_is_one_line(start: Callable[..., Any]) -> None:
    server = start()
    second = start()
    assert second.url == "" and second.process.wait() == 2
    assert (
        Path(second.log.name)
        .read_text()
        .splitlines()[-1]
        .startswith("error: another server uses the folder")
    )
    assert httpx2.get(f"{server.url}/healthz", timeout=60).status_code == 200


def test_a_job_whose_input_is_lost_fails_and_the_next_one_is_done(
    jobs: Jobs, settings: Settings
) -> None:
    broken = submit(jobs, image=photo(), prompt="")
    for path in (settings.folder / "inputs").iterdir():
        path.write_bytes(b"damaged")
    good = submit(jobs)
    jobs.start()
    ended = end(jobs, broken.id, good.id)
    assert [each.state for each in ended] == ["failed", "done"]
    assert "is damaged" in (ended[0].error or "")
    assert replace(ended[1], outputs=()).left == [(0, 3)]
