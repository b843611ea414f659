"""OpenAI's video endpoints: create, remix, edit, extend, poll, list, content and delete.

A remix and an edit change a video by ``strength``, as its prompt says; an extension continues it.
Of a video that was made here they take the model, the size and the frame rate, unless others are
asked for.
"""

from __future__ import annotations

import io
from typing import Any, Literal

from fastapi import APIRouter, Query
from fastapi.responses import JSONResponse, Response
from pydantic import Field
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request as HttpRequest

from kalpana.media import grid, read_video
from kalpana.serve.accept import accept, read_output
from kalpana.serve.errors import ApiError, not_found
from kalpana.serve.fields import PRIORITY, Fields, Strict, invalid, read_fields, take
from kalpana.serve.page import body_of
from kalpana.serve.settings import Server, client_of, server_of
from kalpana.serve.store import Job

router = APIRouter(tags=["videos"])
PREFIX = "video_"
STATES = {
    "queued": "queued",
    "running": "in_progress",
    "done": "completed",
    "failed": "failed",
    "cancelled": "failed",
}
MEDIA_TYPES = {
    "mp4": "video/mp4",
    "webp": "image/webp",
    "gif": "image/gif",
    "png": "image/png",
    "jpg": "image/jpeg",
}


class VideoFields(Strict):
    """OpenAI's fields that are no fields of a Request."""

    input_reference: Any = Field(None, description="the first picture: the same as image")
    user: str = Field("", max_length=200, description="whose turn in the queue it is")
    priority: int = PRIORITY


class ChangeFields(Strict):
    """The fields of a change that are no fields of a Request."""

    user: str = Field("", max_length=200, description="whose turn in the queue it is")
    priority: int = PRIORITY


@router.post(
    "/v1/videos",
    summary="A video, as a job to be polled",
    openapi_extra=body_of(VideoFields, upload=True),
)
async def create(http: HttpRequest) -> Response:
    fields = await read_fields(http, server_of(http).settings)
    wire = take(fields, VideoFields)
    if wire.input_reference is not None:
        if "image" in fields:
            raise invalid("input_reference", "is the same as image: leave one out")
        fields["image"] = wire.input_reference
    if fields.get("n") not in (None, 1, "1"):
        raise invalid("n", "one video a request: leave it out")
    job = await accept(http, fields, kind="video", user=wire.user, priority=wire.priority)
    return _video(server_of(http), job)


@router.post(
    "/v1/videos/edits",
    summary="A video changed as its prompt says, by strength",
    openapi_extra=body_of(ChangeFields, upload=True),
)
async def edits(http: HttpRequest) -> Response:
    fields = await read_fields(http, server_of(http).settings)
    return await _changed(http, fields, await _source(http, fields))


@router.post(
    "/v1/videos/extensions",
    summary="A video continued for some seconds",
    openapi_extra=body_of(ChangeFields, upload=True),
)
async def extensions(http: HttpRequest) -> Response:
    fields = await read_fields(http, server_of(http).settings)
    source = await _source(http, fields)
    if "extend" in fields and "seconds" in fields:
        raise invalid("seconds", "is the same as extend here: leave one out")
    if not {"extend", "seconds"} & {*fields}:
        raise invalid("seconds", "is missing: write by how many it is continued", "missing_field")
    fields["extend"] = fields.pop("seconds", fields.get("extend"))
    return await _changed(http, fields, source)


@router.post(
    "/v1/videos/{id}/remix",
    summary="A finished video changed as a new prompt says",
    openapi_extra=body_of(ChangeFields),
)
async def remix(http: HttpRequest, id: str) -> Response:
    fields = await read_fields(http, server_of(http).settings)
    if "video" in fields:
        raise invalid("video", "is the one in the address: leave it out", "unknown_field")
    return await _changed(http, fields, _finished(http, id), remixed=True)


async def _source(http: HttpRequest, fields: Fields) -> Job | None:
    """The job of the video that a request names by its id, as ``video[id]`` in a form; None for an
    upload. Raises ApiError if there is neither."""
    given = fields.pop("video[id]", None)
    if given is not None and "video" in fields:
        raise invalid("video", "a file and an id are both given: leave one out")
    if given is None and isinstance(fields.get("video"), dict) and [*fields["video"]] == ["id"]:
        given = fields.pop("video")["id"]
    if given is not None:
        return _finished(http, str(given))
    if "video" not in fields:
        raise invalid("video", "is missing: send a file, or {id} of a video", "missing_field")
    return None


async def _changed(
    http: HttpRequest, fields: Fields, source: Job | None, remixed: bool = False
) -> Response:
    """The answer to a request that changes or continues a video: of a job, or its own upload."""
    server = server_of(http)
    wire = take(fields, ChangeFields)
    if "prompt" not in fields:
        raise invalid("prompt", "is missing", "missing_field")
    if source is not None:
        kept = {name: source.request.get(name) for name in ("model", "fps")} | {"size": source.size}
        fields = {name: value for name, value in kept.items() if value is not None} | fields
        fields["video"] = await run_in_threadpool(read_output, server, source.outputs[0])
    job = await accept(
        http,
        fields,
        kind="video",
        user=wire.user,
        priority=wire.priority,
        remixed_from=source.id if source is not None and remixed else None,
    )
    return _video(server, job)


@router.get("/v1/videos", summary="The videos of this client")
async def listed(
    http: HttpRequest,
    limit: int = Query(20, ge=0, le=100),
    order: Literal["asc", "desc"] = "desc",
    after: str | None = None,
) -> Response:
    server = server_of(http)
    last = None if after is None else _job(http, after)
    jobs = server.jobs.store.listed(client_of(http), limit + 1, "video", last, order == "desc")
    data = [video_json(server, job) for job in jobs[:limit]]
    body = {
        "object": "list",
        "data": data,
        "first_id": data[0]["id"] if data else None,
        "last_id": data[-1]["id"] if data else None,
        "has_more": len(jobs) > limit,
    }
    return JSONResponse(body)


@router.get("/v1/videos/{id}", summary="How a video stands")
async def poll(http: HttpRequest, id: str) -> Response:
    return _video(server_of(http), _job(http, id))


@router.get("/v1/videos/{id}/content", summary="The file of a finished video")
async def content(
    http: HttpRequest, id: str, variant: Literal["video", "thumbnail", "spritesheet"] = "video"
) -> Response:
    server, job = server_of(http), _finished(http, id)
    (output,) = job.outputs
    data = read_output(server, output)
    if variant == "video":
        return Response(data, media_type=MEDIA_TYPES[output.file.rpartition(".")[2]])
    return Response(await run_in_threadpool(_still, data, variant), media_type="image/webp")


@router.delete("/v1/videos/{id}", summary="Delete a video; one that is being made is stopped")
async def delete(http: HttpRequest, id: str) -> Response:
    server_of(http).jobs.remove(_job(http, id))
    return JSONResponse({"id": id, "object": "video.deleted", "deleted": True})


def _job(http: HttpRequest, id: str) -> Job:
    """The job of a video of this client."""
    try:
        job = server_of(http).jobs.get(id.removeprefix(PREFIX), client_of(http))
    except ApiError:
        raise not_found(f"video {id[:60]!r}") from None
    if job.kind != "video" or not id.startswith(PREFIX):
        raise not_found(f"video {id[:60]!r}")
    return job


def _finished(http: HttpRequest, id: str) -> Job:
    """The job of a finished video of this client."""
    job = _job(http, id)
    if job.state != "done":
        raise ApiError(409, f"video {id} is {STATES[job.state]}, not completed", "not_ready")
    return job


def _still(data: bytes, variant: str) -> bytes:
    """The first frame of a video, or all on a sheet, as WebP."""
    frames = list(read_video(data))
    image, file = frames[0] if variant == "thumbnail" else grid(frames), io.BytesIO()
    image.save(file, "WEBP", lossless=True)
    return file.getvalue()


def _video(server: Server, job: Job) -> Response:
    """A video as an answer, which tells polling clients when to ask again."""
    eta = server.jobs.status(job).eta
    wait = 1000 if eta is None else min(max(int(eta * 500), 200), 10_000)
    return JSONResponse(video_json(server, job), headers={"openai-poll-after-ms": str(wait)})


def video_json(server: Server, job: Job) -> dict[str, Any]:
    """A video in OpenAI's shape."""
    error = None
    if job.state in ("failed", "cancelled"):
        code = "generation_failed" if job.state == "failed" else "cancelled"
        error = {"code": code, "message": job.error or "the job was cancelled"}
    return {
        "id": f"{PREFIX}{job.id}",
        "object": "video",
        "model": job.request["model"],
        "status": STATES[job.state],
        "progress": int(100 * server.jobs.status(job).progress),
        "created_at": int(job.created),
        "completed_at": None if job.state != "done" else int(job.finished or 0),
        "expires_at": None,
        "prompt": job.request.get("prompt", ""),
        "size": job.size,
        "seconds": f"{job.seconds:g}" if job.seconds else None,
        "seed": job.seeds[0],
        "remixed_from_video_id": f"{PREFIX}{job.remixed_from}" if job.remixed_from else None,
        "error": error,
        "warnings": list(job.warnings),
    }
