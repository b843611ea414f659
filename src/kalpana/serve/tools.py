"""Receipts of files, control maps, and traces."""

from __future__ import annotations

import asyncio
import base64
import io
import threading
from collections.abc import AsyncIterator
from typing import Any, Literal

from fastapi import APIRouter
from fastapi.responses import HTMLResponse, JSONResponse, Response, StreamingResponse
from PIL.Image import Image
from pydantic import Field
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request as HttpRequest

from kalpana import __version__
from kalpana.media import read_picture, read_receipt, to_images
from kalpana.request import INPUTS, SEED_LIMIT, Request
from kalpana.request_values import plan_name
from kalpana.serve.accept import checked, event
from kalpana.serve.errors import describe
from kalpana.serve.fields import Strict, invalid, media, only, picture, read_fields, take
from kalpana.serve.page import body_of
from kalpana.serve.settings import Server, server_of
from kalpana.types import KalpanaError, Step

router = APIRouter(tags=["tools"])


class MetadataFields(Strict):
    """The fields of /v1/metadata."""

    file: Any = Field(description="a picture or video: an upload or a data URL")


class MapFields(Strict):
    """The fields of /v1/maps."""

    kind: Literal["edges", "outlines", "depth", "pose", "boxes", "glyphs"] = Field(
        description="edges, outlines, depth or pose of a picture, boxes or glyphs of a prompt"
    )
    image: Any = Field(
        None, description="the picture, but for boxes and glyphs: an upload or a data URL"
    )
    threshold: float = Field(
        0.15, ge=0, le=1, description="least step of brightness that is an edge, 0 to 1"
    )
    prompt: str = Field(
        "",
        max_length=32_000,
        description="a prompt with a quoted word, or, for boxes, with counted objects",
    )
    seed: int = Field(0, ge=0, lt=SEED_LIMIT, description="seed of the layout of a prompt")
    side: int = Field(128, ge=8, le=2048, description="side of the map of a prompt in pixels")


class TraceFields(Strict):
    """The fields of a trace that are no fields of a Request."""

    stream: bool = Field(False, description="answer by server-sent events: progress, then done")


# ------------------------------------------------------------------------------------- receipts


@router.post(
    "/v1/metadata",
    summary="The receipt in a file, and its settings as far as they can be used here",
    openapi_extra=body_of(MetadataFields, request=False, upload=True),
)
async def metadata(http: HttpRequest) -> Response:
    server = server_of(http)
    wire = only(await read_fields(http, server.settings), MetadataFields)
    data = media(wire.file, "file")
    receipt = await run_in_threadpool(read_receipt, data)
    settings, notes = restored(receipt, server)
    return JSONResponse({"receipt": receipt, "settings": settings, "notes": notes})


def restored(receipt: dict[str, Any], server: Server) -> tuple[dict[str, Any], list[Any]]:
    """The fields of the request of a receipt that can be used here, and notes on what is lost or
    differs, each with a code and its values."""
    parts = [part for k in ("request", "resolved") if isinstance(part := receipt.get(k), dict)]
    fields: dict[str, Any] = {}
    for part in parts:
        fields |= part
    settings, notes = dict[str, Any](), list[Any]()
    if (version := receipt.get("kalpana")) != __version__:
        notes.append({"code": "other_version", "was": str(version)[:40], "now": __version__})
    lost = [name for name in (*INPUTS, "control") if fields.pop(name, None) is not None]
    settings |= server.models.adapters.restored(fields.pop("adapter", None), lost)
    if lost:
        notes.append({"code": "inputs_missing", "fields": lost})
    if "plan" in fields:
        fields["plan"] = plan_name(fields["plan"])  # true or false in older receipts
    model = fields.pop("model", None)
    if isinstance(model, str) and model in server.models.cards:
        settings["model"] = model
        files = server.models.cards[model].files
        about = receipt.get("model")
        if isinstance(about, dict) and files and about.get("files") not in (None, files):
            notes.append({"code": "other_weights", "model": model})
    elif model is not None:
        notes.append({"code": "model_missing", "model": str(model)[:60]})
    needs_input = ("strength", "mask_mode", "extend") if lost else ()
    unknown = []
    for name, value in fields.items():
        known = Request.model_fields.get(name)
        if known is not None and (value in (None, known.default) or name in needs_input):
            continue
        try:
            Request(**{"prompt": "x", name: value})
        except (KalpanaError, TypeError):
            unknown.append(str(name)[:60])
        else:
            settings[name] = value
    if unknown:
        notes.append({"code": "fields_unknown", "fields": unknown})
    return settings, notes


# ----------------------------------------------------------------------------------------- maps


@router.post(
    "/v1/maps",
    summary="A control map from a picture or a prompt",
    openapi_extra=body_of(MapFields, request=False, upload=True),
)
async def maps(http: HttpRequest) -> Response:
    server = server_of(http)
    wire = only(await read_fields(http, server.settings), MapFields)
    if wire.kind in ("boxes", "glyphs"):
        of_prompt = _boxes if wire.kind == "boxes" else _glyphs
        image, about = await run_in_threadpool(of_prompt, wire)
    elif wire.image is None:
        raise invalid("image", f"{wire.kind} is made from a picture: send one")
    else:
        data = picture(wire.image, "image", server.settings)
        image, about = await run_in_threadpool(_of_picture, wire, data), dict[str, Any]()
    file = io.BytesIO()
    image.save(file, "PNG")
    url = f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"
    return JSONResponse({"kind": wire.kind, "image": url} | about)


def _of_picture(wire: MapFields, data: bytes) -> Image:
    from kalpana.pipelines.control_maps import control_map

    return control_map(wire.kind, read_picture(data), wire.threshold)


def _glyphs(wire: MapFields) -> tuple[Image, dict[str, Any]]:
    from kalpana.pipelines.planner import plan_glyphs

    plan = plan_glyphs(wire.prompt, wire.seed, wire.side)
    if plan is None:
        raise invalid(
            "prompt", 'there is not one legible word in quotes: write such as a sign "OPEN"'
        )
    return to_images(2 * plan.map[None] - 1)[0], plan.facts()


def _boxes(wire: MapFields) -> tuple[Image, dict[str, Any]]:
    from kalpana.pipelines.planner import NO_LAYOUT, plan_layout

    plan = plan_layout(wire.prompt, wire.seed, wire.side)
    if plan is None:
        raise invalid("prompt", NO_LAYOUT)
    return to_images(2 * plan.map[None] - 1)[0], {"boxes": plan.facts()}


# --------------------------------------------------------------------------------------- traces


class Stopped(KalpanaError):
    """The client of a trace has left."""


@router.post(
    "/v1/trace",
    summary="How a picture comes about, step by step, as an HTML page",
    openapi_extra=body_of(TraceFields),
)
async def trace(http: HttpRequest) -> Response:
    fields = await read_fields(http, server_of(http).settings)
    wire = take(fields, TraceFields)
    request, _, model = await checked(http, fields, "image")
    steps: asyncio.Queue[Step | None] = asyncio.Queue()
    page = asyncio.ensure_future(_traced(http, request.seeded(), model, steps))
    if wire.stream:
        headers = {"cache-control": "no-store"}
        return StreamingResponse(
            _trace_events(steps, page), media_type="text/event-stream", headers=headers
        )
    return HTMLResponse(await page)


async def _traced(
    http: HttpRequest, request: Request, model: str, steps: asyncio.Queue[Step | None]
) -> str:
    """The page of a trace; each step is put into the queue, and None at the end."""
    from kalpana.pipelines.trace import trace as page

    server, loop, left = server_of(http), asyncio.get_running_loop(), threading.Event()

    def each(step: Step) -> None:
        if left.is_set() or server.jobs.closing:
            raise Stopped("the trace was stopped")
        loop.call_soon_threadsafe(steps.put_nowait, step)

    try:
        request = server.models.adapters.located(request)
        return await server.jobs.call(lambda: page(server.models.pipeline(model), request, each))
    finally:
        left.set()
        steps.put_nowait(None)


async def _trace_events(
    steps: asyncio.Queue[Step | None], page: asyncio.Future[str]
) -> AsyncIterator[bytes]:
    """Progress of a trace, then its page or an error. A client that leaves stops it."""
    try:
        while (step := await steps.get()) is not None:
            about = {"index": step.index, "total": step.total, "eta": step.eta}
            yield event("progress", about)
        yield event("done", {"html": await page})
    except KalpanaError as error:
        yield event("error", describe(error)[1])
    finally:
        page.cancel()
