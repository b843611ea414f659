"""Models and their capabilities, health, and metrics."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from fastapi import APIRouter
from fastapi.responses import JSONResponse, PlainTextResponse, Response
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request as HttpRequest

from kalpana import __version__
from kalpana.hub.card import CARD
from kalpana.hub.diffusers_folder import INDEX
from kalpana.serve.errors import ApiError
from kalpana.serve.models import Kind, kinds_of
from kalpana.serve.settings import Server, client_of, server_of

router = APIRouter(tags=["server"])


@router.get("/v1/models", summary="The models")
async def models(http: HttpRequest) -> Response:
    server = server_of(http)
    data = [_model(server, name) for name in server.models.cards]
    return JSONResponse({"object": "list", "data": data})


@router.get("/v1/models/{id:path}/capabilities", summary="What a model can be asked for")
async def capabilities(http: HttpRequest, id: str) -> Response:
    server = server_of(http)
    name = _known(server, id)
    card = server.models.cards[name]
    body: dict[str, Any] = {"id": name, "family": card.family, "kinds": kinds_of(card)}
    if card.family != "clip":
        able = server.models.known_capabilities(name)
        if able is None:
            able = await server.jobs.call(lambda: server.models.capabilities(name))
        body |= able.model_dump(mode="json") | {"formats": able.formats}
    return JSONResponse(body)


@router.get("/v1/models/{id:path}", summary="One model")  # after the longer path above
async def model(http: HttpRequest, id: str) -> Response:
    server = server_of(http)
    return JSONResponse(_model(server, _known(server, id)))


@router.get("/v1/adapters", summary="The adapters (LoRA) that a request may name")
async def adapters(http: HttpRequest) -> Response:
    data = await run_in_threadpool(server_of(http).models.adapters.about)
    return JSONResponse({"object": "list", "data": data})


@router.get("/healthz", summary="Whether the server works")
async def health(http: HttpRequest) -> Response:
    broken = server_of(http).jobs.broken
    if broken:
        return JSONResponse({"status": "broken", "error": broken}, 503)
    return JSONResponse({"status": "ok", "version": __version__})


@router.get("/v1/limits", summary="The limits of a request")
async def limits(http: HttpRequest) -> Response:
    server = server_of(http)
    settings = server.settings
    names = ("max_prompt", "max_n", "max_body", "max_input_pixels", "max_pixels", "max_queue")
    body = {name: getattr(settings, name) for name in (*names, "quota")}
    body["used"] = server.jobs.store.used(client_of(http), time.time())
    return JSONResponse(body | {"version": __version__, "search": _can_search(http)})


def _can_search(http: HttpRequest) -> bool:
    """Whether there is a CLIP to search by."""
    return any("clip" in kinds_of(card) for card in server_of(http).models.cards.values())


@router.get("/metrics", summary="Counters in the text format of Prometheus")
async def metrics(http: HttpRequest) -> Response:
    server = server_of(http)
    counts = server.jobs.store.counts()
    lines = ["# TYPE kalpana_jobs gauge"]
    for state in ("queued", "running", "done", "failed", "cancelled"):
        lines.append(f'kalpana_jobs{{state="{state}"}} {counts.get(state, 0)}')
    lines.append("# TYPE kalpana_outputs_total counter")
    lines.append(f"kalpana_outputs_total {server.jobs.finished_outputs}")
    lines.append("# TYPE kalpana_models_loaded gauge")
    lines.append(f"kalpana_models_loaded {len(server.models.loaded)}")
    lines.append("# TYPE kalpana_http_answers_total counter")
    for status, count in sorted(server.answers.items()):
        lines.append(f'kalpana_http_answers_total{{status="{status}"}} {count}')
    return PlainTextResponse("\n".join(lines) + "\n", media_type="text/plain; version=0.0.4")


def _known(server: Server, name: str) -> str:
    if name not in server.models.cards:
        known = ", ".join(server.models.cards)
        message = f"there is no model {name[:60]!r} here: the models are {known}"
        raise ApiError(404, message, "model_not_found", "model")
    return name


def _described(folder: Path) -> Path:
    """The file that describes the model in a folder: its card, or the index of a public one."""
    return next(path for name in (CARD, INDEX) if (path := folder / name).is_file())


def _model(server: Server, name: str) -> dict[str, Any]:
    card = server.models.cards[name]
    kinds: tuple[Kind, ...] = kinds_of(card)
    return {
        "id": name,
        "object": "model",
        "created": int(_described(server.models.folders[name]).stat().st_mtime),
        "owned_by": "kalpana",
        "family": card.family,
        "kinds": kinds,
        "licence": card.licence,
        "parameters": card.parameters,
    }
