"""Search by meaning among the outputs of a client, by CLIP: words, or a picture like another."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from fastapi import APIRouter
from fastapi.responses import JSONResponse, Response
from PIL.Image import Image
from pydantic import Field
from starlette.requests import Request as HttpRequest

from kalpana.media import read_picture, read_video
from kalpana.serve.errors import not_found
from kalpana.serve.fields import Strict, invalid, only, read_fields
from kalpana.serve.job_api import job_json
from kalpana.serve.page import body_of
from kalpana.serve.settings import Server, client_of, server_of
from kalpana.types import KalpanaError

router = APIRouter(tags=["understanding"])
AT_ONCE = 64  # pictures embedded in one call, between which the worker takes other calls


class SearchFields(Strict):
    """The fields of /v1/search."""

    query: str | None = Field(None, min_length=1, max_length=1000, description="what they show")
    like: str | None = Field(None, description="the file name of an output: those that resemble it")
    n: int = Field(50, ge=1, le=500, description="how many, the best first")
    model: str | None = Field(None, description="a CLIP")


@router.post(
    "/v1/search",
    summary="Outputs of this client by what they show",
    openapi_extra=body_of(SearchFields, request=False),
)
async def search(http: HttpRequest) -> Response:
    server, client = server_of(http), client_of(http)
    wire = only(await read_fields(http, server.settings), SearchFields)
    if (wire.query is None) == (wire.like is None):
        raise invalid("query", "write either query, in words, or like, a file name")
    model = server.models.named(wire.model, "clip")
    files = server.jobs.store.finished_files(client)
    if wire.like is not None and wire.like not in files:
        raise not_found(f"output {wire.like[:60]!r}")
    fingerprint = await server.jobs.call(lambda: server.models.encoder(model).fingerprint)
    known = server.jobs.store.embeddings(fingerprint)
    new = [file for file in files if file not in known]
    for k in range(0, len(new), AT_ONCE):
        chunk = new[k : k + AT_ONCE]
        added = await server.jobs.call(partial(_embedded, server, model, chunk))
        server.jobs.store.add_embeddings(fingerprint, added)
        known |= added
    files = [file for file in files if file in known]
    if not files:
        return JSONResponse({"object": "list", "data": [], "model": model})
    table = np.stack([np.frombuffer(known[file], "<f4") for file in files])
    if wire.like is not None:
        asked = np.frombuffer(known[wire.like], "<f4") if wire.like in known else None
    else:
        asked = await server.jobs.call(
            lambda: server.models.encoder(model).texts([wire.query or ""])[0].numpy()
        )
    if asked is None:
        raise not_found(f"picture in {wire.like!r}")
    return JSONResponse({"object": "list", "data": _hits(http, files, table @ asked, wire.n)})


def _hits(http: HttpRequest, files: list[str], scores: Any, most: int) -> list[dict[str, Any]]:
    """The outputs with the highest scores, each with its job."""
    jobs, hits = server_of(http).jobs, []
    for k in np.argsort(-scores, kind="stable")[:most]:
        job = jobs.store.get(files[k].partition("-")[0])
        if job is not None:
            about = {"file": files[k], "score": round(float(scores[k]), 4)}
            hits.append(about | {"job": job_json(http, jobs.status(job))})
    return hits


def _embedded(server: Server, model: str, files: list[str]) -> dict[str, bytes]:
    """The embeddings of output files; of a video that of its middle frame. Files that were deleted
    or cannot be read are left out."""
    images = dict[str, Image]()
    for file in files:
        try:
            images[file] = _picture(server.jobs.store.outputs / file)
        except (KalpanaError, OSError):
            continue
    vectors = server.models.encoder(model).images([*images.values()]).numpy().astype("<f4")
    return {file: row.tobytes() for file, row in zip(images, vectors, strict=True)}


def _picture(path: Path) -> Image:
    if path.suffix not in (".mp4", ".gif"):
        return read_picture(path)
    frames = [*read_video(path)]
    return frames[len(frames) // 2]
