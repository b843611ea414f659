"""From the fields of an HTTP request to an accepted job, and from a job to its outputs."""

from __future__ import annotations

import hashlib
import hmac
import json
import time
from collections.abc import AsyncIterator
from typing import Any

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request as HttpRequest
from starlette.responses import StreamingResponse

from kalpana.media import read_video
from kalpana.request import Request
from kalpana.serve.errors import ApiError
from kalpana.serve.fields import Fields, check_pixels, to_request
from kalpana.serve.jobs import output_path
from kalpana.serve.models import Kind
from kalpana.serve.settings import Server, client_of, server_of
from kalpana.serve.store import Job, SavedOutput

LINK_SECONDS = 3600  # links with a signature can be opened for this long


async def accept(
    http: HttpRequest,
    fields: Fields,
    *,
    kind: Kind = "image",
    user: str = "",
    previews: int = 0,
    warnings: tuple[str, ...] = (),
    priority: int = 0,
    remixed_from: str | None = None,
) -> Job:
    """The job of a request, which is checked against its model first. Raises ApiError or
    KalpanaError if it cannot be done."""
    server = server_of(http)
    request, (resolved, ignored), _ = await checked(http, fields, kind)
    seconds = await run_in_threadpool(total_seconds, request, resolved)
    return server.jobs.submit(
        request,
        kind=kind,
        client=client_of(http),
        user="" if server.settings.api_keys else user,  # a key has one turn, whatever it says
        previews=previews,
        size=f"{resolved.width}x{resolved.height}",
        seconds=seconds,
        warnings=warnings + tuple(f"{field} was ignored: {why}" for field, why in ignored.items()),
        priority=priority,
        remixed_from=remixed_from,
    )


async def checked(
    http: HttpRequest, fields: Fields, kind: Kind
) -> tuple[Request, tuple[Request, dict[str, str]], str]:
    """The request of the fields, what its model makes of it (see ``Capabilities.resolve``), and the
    name of the model. Raises as ``accept``."""
    server = server_of(http)
    name = fields.get("model")
    if name is not None and not isinstance(name, str):
        raise ApiError(400, "model: write a name", "invalid_value", "model")
    model = server.models.named(name, kind)
    if fields.get("adapter"):
        family = server.models.cards[model].family
        fields = fields | {"adapter": server.models.adapters.named(fields["adapter"], family)}
    guide = fields.get("guide_model")
    if guide is not None and guide not in list(
        server.models.cards
    ):  # a folder could be named otherwise
        message = f"guide_model: there is no model {str(guide)[:60]!r} here: see /v1/models"
        raise ApiError(400, message, "model_not_found", "guide_model")
    request = await run_in_threadpool(to_request, fields | {"model": model}, server.settings)
    capabilities = server.models.known_capabilities(model)
    if capabilities is None:
        capabilities = await server.jobs.call(lambda: server.models.capabilities(model))
    if request.best_of > 1:
        server.models.named(None, "clip")
    resolved = capabilities.resolve(request)
    seconds = await run_in_threadpool(total_seconds, request, resolved[0])
    check_pixels(resolved[0], server.settings, seconds)
    return request, resolved, model


def total_seconds(request: Request, resolved: Request) -> float | None:
    """The length of the video of a request; None for pictures. A video that is changed keeps its
    length, and one that is continued gets longer."""
    if request.video is None:
        return resolved.seconds
    return read_video(request.video.read()).duration + (resolved.extend or 0)


async def done(server: Server, job: Job) -> Job:
    """The job once it is done. Raises ApiError if it failed or was cancelled."""
    job = await server.jobs.finished(job.id)
    if job.state == "failed":
        raise ApiError(400, job.error or "failed", "generation_failed")
    if job.state == "cancelled":
        raise ApiError(409, f"job {job.id} was cancelled", "cancelled")
    return job


def read_output(server: Server, output: SavedOutput) -> bytes:
    """The bytes of an output file. Raises ApiError if it was deleted."""
    try:
        return output_path(server.jobs.store, output).read_bytes()
    except FileNotFoundError:
        raise ApiError(404, f"the file {output.file} was deleted", "not_found") from None


def link(http: HttpRequest, output: SavedOutput) -> str:
    """The address of an output file, signed where the server asks for a key."""
    server = server_of(http)
    url = (
        f"{http.url.scheme}://{http.headers.get('host', http.url.netloc)}/v1/outputs/{output.file}"
    )
    if not server.settings.api_keys:
        return url
    expires = str(int(time.time()) + LINK_SECONDS)
    return f"{url}?expires={expires}&signature={signature(server, output.file, expires)}"


def signature(server: Server, file: str, expires: str) -> str:
    """The signature of a link that can be opened until ``expires``."""
    return hmac.new(
        server.settings.link_key, f"{file} {expires}".encode(), hashlib.sha256
    ).hexdigest()


def event(name: str, data: dict[str, Any]) -> bytes:
    """One server-sent event."""
    return f"event: {name}\ndata: {json.dumps(data, ensure_ascii=False)}\n\n".encode()


def stream(events: AsyncIterator[bytes], job: Job) -> StreamingResponse:
    """The answer of server-sent events about a job."""
    headers = {"cache-control": "no-store", "x-job-id": job.id}
    return StreamingResponse(events, media_type="text/event-stream", headers=headers)
