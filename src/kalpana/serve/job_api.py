"""Jobs: create, list, follow, cancel, retry, delete; and the files of their outputs."""

from __future__ import annotations

import asyncio
import base64
import hmac
import re
import time
from collections.abc import AsyncIterator
from typing import Any

from fastapi import APIRouter, Query
from fastapi.responses import JSONResponse, Response, StreamingResponse
from pydantic import Field
from starlette.requests import Request as HttpRequest

from kalpana.serve.accept import accept, event, link, signature, stream
from kalpana.serve.errors import not_found
from kalpana.serve.fields import PRIORITY, Strict, only, read_fields, take
from kalpana.serve.jobs import Status
from kalpana.serve.models import kinds_of
from kalpana.serve.page import body_of
from kalpana.serve.settings import client_of, server_of
from kalpana.serve.store import Job
from kalpana.serve.videos import MEDIA_TYPES

router, files = APIRouter(tags=["jobs"]), APIRouter(tags=["jobs"])
FILE = re.compile(r"[0-9a-f]{24}-\d{1,4}\.(?:png|webp|jpg|mp4|gif)", re.ASCII)


class JobFields(Strict):
    """The fields of a job that are no fields of a Request."""

    previews: int = Field(0, ge=0, le=64, description="previews of the first output, 0 to 64")
    user: str = Field("", max_length=200, description="whose turn in the queue it is")
    priority: int = PRIORITY


class StarFields(Strict):
    """The fields of a star."""

    starred: bool = Field(True, description="false removes the star")


@router.post(
    "/v1/jobs",
    summary="Pictures or a video, as a job",
    status_code=202,
    openapi_extra=body_of(JobFields, upload=True),
)
async def create(http: HttpRequest) -> Response:
    server = server_of(http)
    fields = await read_fields(http, server.settings)
    wire = take(fields, JobFields)
    card = server.models.cards.get(str(fields.get("model")))
    kind = "video" if card is not None and "video" in kinds_of(card) else "image"
    job = await accept(
        http,
        fields,
        kind=kind,  # type: ignore[arg-type]
        user=wire.user,
        previews=wire.previews,
        priority=wire.priority,
    )
    return JSONResponse(_shown(http, job), 202, headers={"x-job-id": job.id})


@router.get("/v1/jobs", summary="The jobs of this client, newest first")
async def listed(
    http: HttpRequest,
    limit: int = Query(50, ge=1, le=500),
    after: str | None = None,
    query: str = Query("", max_length=1000, description="only prompts that contain it"),
    starred: bool = False,
) -> Response:
    jobs, last = server_of(http).jobs, None if after is None else _job(http, after)
    found = jobs.store.listed(client_of(http), limit + 1, after=last, words=query, starred=starred)
    data = [job_json(http, status) for status in jobs.statuses(found[:limit])]
    return JSONResponse({"object": "list", "data": data, "has_more": len(found) > limit})


@router.get("/v1/jobs/events", summary="All open jobs of this client, as server-sent events")
async def all_events(http: HttpRequest) -> Response:
    headers = {"cache-control": "no-store"}
    return StreamingResponse(_changes(http), media_type="text/event-stream", headers=headers)


@router.get("/v1/jobs/{id}", summary="How a job stands")
async def poll(http: HttpRequest, id: str) -> Response:
    return JSONResponse(_shown(http, _job(http, id)))


@router.get("/v1/jobs/{id}/events", summary="How a job stands, as server-sent events")
async def events(http: HttpRequest, id: str) -> Response:
    job = _job(http, id)
    return stream(_events(http, job), job)


@router.post("/v1/jobs/{id}/cancel", summary="Cancel a job; its finished outputs stay")
async def cancel(http: HttpRequest, id: str) -> Response:
    return JSONResponse(_shown(http, server_of(http).jobs.cancel(_job(http, id))))


@router.post("/v1/jobs/{id}/retry", summary="Queue a failed or cancelled job again")
async def retry(http: HttpRequest, id: str) -> Response:
    return JSONResponse(_shown(http, server_of(http).jobs.retry(_job(http, id))))


@router.delete("/v1/jobs/{id}", summary="Delete a job and its outputs")
async def delete(http: HttpRequest, id: str) -> Response:
    server_of(http).jobs.remove(_job(http, id))
    return JSONResponse({"id": id, "object": "job.deleted", "deleted": True})


@router.get("/v1/jobs/{id}/inputs/{sha256}", summary="A picture or video that a job was given")
async def media_input(http: HttpRequest, id: str, sha256: str) -> Response:
    data = server_of(http).jobs.store.input_of(_job(http, id), sha256)
    if data is None:
        raise not_found(f"input {sha256[:60]!r} of job {id[:60]!r}")
    return Response(data, media_type="application/octet-stream")


@files.get("/v1/outputs/{file}", summary="The file of an output")
async def output(http: HttpRequest, file: str, expires: str = "", signature: str = "") -> Response:
    server = server_of(http)
    if not FILE.fullmatch(file) or not _allowed(http, file, expires, signature):
        raise not_found(f"file {file[:60]!r}")
    peers = server.settings.peers
    replicas = sorted(peers.glob(f"*/outputs/{file}")) if peers else []
    try:
        data = next(iter(replicas), server.jobs.store.outputs / file).read_bytes()
    except FileNotFoundError:
        raise not_found(f"file {file[:60]!r}") from None
    return Response(data, media_type=MEDIA_TYPES[file.rpartition(".")[2]])


@router.post("/v1/outputs/{file}/star", summary="Star an output, or remove its star")
async def star(http: HttpRequest, file: str) -> Response:
    server = server_of(http)
    wire = only(await read_fields(http, server.settings), StarFields)
    job = server.jobs.store.get(file.partition("-")[0])
    mine = job is not None and job.client == client_of(http)
    if job is None or not mine or file not in {output.file for output in job.outputs}:
        raise not_found(f"file {file[:60]!r}")
    server.jobs.store.star(file, wire.starred)
    return JSONResponse({"file": file, "starred": wire.starred})


def _allowed(http: HttpRequest, file: str, expires: str, signed: str) -> bool:
    """Whether a file may be read: by its owner, or by a link whose signature is right."""
    server, client = server_of(http), client_of(http)
    if client != "anyone":
        job = server.jobs.store.get(file.partition("-")[0])
        if job is not None and job.client == client:
            return True
    right = signature(server, file, expires)
    good = expires.isdecimal() and hmac.compare_digest(signed.encode(), right.encode())
    return good and int(expires) > time.time()


def _job(http: HttpRequest, id: str) -> Job:
    return server_of(http).jobs.get(id, client_of(http))


async def _events(http: HttpRequest, job: Job) -> AsyncIterator[bytes]:
    """A stream of the states of a job: events queued, running, preview, and at last done, failed,
    cancelled or deleted."""
    jobs, sent, ended = server_of(http).jobs, 0, False
    async for status in jobs.follow(job.id):
        for preview in status.previews[sent:]:
            data = {"index": sent, "b64_json": base64.b64encode(preview).decode()}
            yield event("preview", data)
            sent += 1
        yield event(status.job.state, job_json(http, status))
        ended = status.job.ended
    if not ended and jobs.store.get(job.id) is None:
        yield event("deleted", {"id": job.id})


def _shown(http: HttpRequest, job: Job) -> dict[str, Any]:
    return job_json(http, server_of(http).jobs.status(job))


async def _changes(http: HttpRequest) -> AsyncIterator[bytes]:
    """A stream of the jobs of a client: an event job when one has changed, preview for each new
    preview, deleted, and ready once the open jobs were sent."""
    sent, previews = dict[str, dict[str, Any]](), dict[str, int]()
    ready = False
    async for statuses, gone in server_of(http).jobs.watch(client_of(http)):
        for status in statuses:
            id, data = status.job.id, job_json(http, status)
            for k, preview in enumerate(
                status.previews[previews.get(id, 0) :], previews.get(id, 0)
            ):
                about = {"id": id, "index": k, "b64_json": base64.b64encode(preview).decode()}
                yield event("preview", about)
            previews[id] = len(status.previews)
            if sent.get(id) != data:
                yield event("job", data)
            sent[id] = data
            if status.job.ended:
                del sent[id], previews[id]
        for id in gone:
            yield event("deleted", {"id": id})
        yield event("alive" if ready else "ready", {})
        ready = True
        await asyncio.sleep(0.1)  # seconds; changes within them are sent together


def job_json(http: HttpRequest, status: Status) -> dict[str, Any]:
    """A job as it stands, as JSON."""
    job = status.job
    return {
        "id": job.id,
        "object": "job",
        "kind": job.kind,
        "state": job.state,
        "position": status.position,
        "priority": job.priority,
        "progress": round(status.progress, 4),
        "eta": None if status.eta is None else round(status.eta, 1),
        "created_at": job.created,
        "started_at": job.started,
        "finished_at": job.finished,
        "size": job.size,
        "request": job.request,
        "outputs": [
            {
                "url": link(http, each),
                "file": each.file,
                "seed": each.seed,
                "revised_prompt": each.revised_prompt,
                "starred": each.starred,
            }
            for each in job.outputs
        ],
        "warnings": list(job.warnings),
        "error": job.error,
    }
