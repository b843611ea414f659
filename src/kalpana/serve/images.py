"""OpenAI's image endpoints: generations, edits and variations, whole or as server-sent events.

Fields of a Request (seed, steps, negative_prompt, guidance …) stand beside OpenAI's.
"""

from __future__ import annotations

import base64
from collections.abc import AsyncIterator
from functools import lru_cache
from typing import Any, Literal

from fastapi import APIRouter
from fastapi.responses import JSONResponse, Response
from pydantic import Field
from starlette.requests import Request as HttpRequest

from kalpana.serve.accept import accept, done, event, link, read_output, stream
from kalpana.serve.errors import error_body
from kalpana.serve.fields import PRIORITY, Fields, Strict, invalid, read_fields, take
from kalpana.serve.page import body_of
from kalpana.serve.settings import Server, server_of
from kalpana.serve.store import Job

router = APIRouter(tags=["images"])

# OpenAI's settings that no model here has, with the values that ask for nothing.
NEUTRAL: dict[str, tuple[Any, ...]] = {
    "quality": ("auto", "standard"),
    "background": ("auto", "opaque"),
    "moderation": ("auto", "low"),
    "output_compression": (100,),
    "input_fidelity": ("low",),
    "style": (),
}


class ImageFields(Strict):
    """OpenAI's fields that are no fields of a Request."""

    response_format: Literal["url", "b64_json"] = Field(
        "url", description="url: links to the files; b64_json: the files in base64"
    )
    stream: bool = Field(False, description="answer by server-sent events")
    partial_images: int = Field(
        0, ge=0, le=3, description="previews of the first picture in a stream, 0 to 3"
    )
    user: str = Field("", max_length=200, description="whose turn in the queue it is")
    priority: int = PRIORITY
    quality: str | None = Field(None, description="auto or standard: see steps")
    background: str | None = Field(None, description="auto or opaque")
    moderation: str | None = Field(None, description="auto or low: nothing is moderated")
    output_compression: int | None = Field(None, description="100: see output_format")
    input_fidelity: str | None = Field(None, description="low: see strength")
    style: str | None = Field(None, description="no values: write the style in the prompt")


@router.post(
    "/v1/images/generations",
    summary="Pictures from a prompt",
    openapi_extra=body_of(ImageFields),
)
async def generations(http: HttpRequest) -> Response:
    return await _answer(http, await read_fields(http, server_of(http).settings), "generation")


@router.post(
    "/v1/images/edits",
    summary="Pictures from a picture, with a mask or without",
    openapi_extra=body_of(ImageFields, upload=True),
)
async def edits(http: HttpRequest) -> Response:
    fields = await read_fields(http, server_of(http).settings)
    if "images" in fields:
        images = fields.pop("images")
        if "image" in fields:
            raise invalid("images", "image and images are both given: leave one out")
        fields["image"] = images[0] if isinstance(images, list) and len(images) == 1 else images
    _needs(fields, "image")
    _needs(fields, "prompt")
    return await _answer(http, fields, "edit")


@router.post(
    "/v1/images/variations",
    summary="Pictures like a picture, without a prompt",
    openapi_extra=body_of(ImageFields, upload=True),
)
async def variations(http: HttpRequest) -> Response:
    fields = await read_fields(http, server_of(http).settings)
    _needs(fields, "image")
    if "prompt" in fields:
        raise invalid("prompt", "variations have none: use /v1/images/edits", "unknown_field")
    return await _answer(http, fields, "variation")


def _needs(fields: Fields, name: str) -> None:
    if name not in fields:
        raise invalid(name, "is missing", "missing_field")


async def _answer(http: HttpRequest, fields: Fields, kind: str) -> Response:
    """The answer of an endpoint: the pictures, or a stream of events."""
    wire, server = take(fields, ImageFields), server_of(http)
    if wire.partial_images and not wire.stream:
        raise invalid("partial_images", "needs stream: write stream=true, or leave it out")
    warnings = _unused(wire, strict=str(fields.get("strict", True)).lower() != "false")
    job = await accept(
        http,
        fields,
        user=wire.user,
        previews=wire.partial_images,
        warnings=warnings,
        priority=wire.priority,
    )
    if wire.stream:
        return stream(_events(server, job, f"image_{kind}"), job)
    job = await done(server, job)
    data = [
        {
            "seed": output.seed,
            **({"revised_prompt": output.revised_prompt} if output.revised_prompt else {}),
            **(
                {"url": link(http, output)}
                if wire.response_format == "url"
                else {"b64_json": _base64(read_output(server, output))}
            ),
        }
        for output in job.outputs
    ]
    body = {
        "created": int(job.created),
        "data": data,
        "warnings": list(job.warnings),
        "job": job.id,
        **_about(job),
        "usage": usage(job),
    }
    return JSONResponse(body, headers={"x-job-id": job.id})


def _unused(wire: ImageFields, strict: bool) -> tuple[str, ...]:
    """Warnings about settings that no model has. Raises ApiError if the request is strict."""
    warnings = []
    for name, values in NEUTRAL.items():
        value = getattr(wire, name)
        if value is None or value in values:
            continue
        allowed = " or ".join(map(str, values)) or "nothing"
        reason = f"no model here has it: write {allowed}, or leave it out"
        if strict:
            raise invalid(name, reason)
        warnings.append(f"{name} was ignored: {reason}")
    return tuple(warnings)


async def _events(server: Server, job: Job, kind: str) -> AsyncIterator[bytes]:
    """The stream of a job in OpenAI's shape: partial images, then one event for each picture, or an
    error."""
    sent = 0
    about = _about(job) | {"created_at": int(job.created)}
    async for status in server.jobs.follow(job.id):
        for preview in status.previews[sent:]:
            name = f"{kind}.partial_image"
            data = {"type": name, "b64_json": _base64(preview), "partial_image_index": sent}
            yield event(name, data | about | {"output_format": "png"})
            sent += 1
        job = status.job
    if job.state == "done":
        for output in job.outputs:
            name = f"{kind}.completed"
            data = {"type": name, "b64_json": _base64(read_output(server, output))}
            yield event(name, data | about | {"seed": output.seed, "usage": usage(job)})
    else:
        message = job.error or f"job {job.id} is {job.state}"
        status_code = 400 if job.state == "failed" else 503
        body = error_body(status_code, message, f"generation_{job.state}")
        yield event("error", {"type": "error", **body})
    yield b"data: [DONE]\n\n"


def _about(job: Job) -> dict[str, Any]:
    """The settings of a job that OpenAI's answers repeat."""
    format = job.request.get("format") or "png"
    return {
        "size": job.size,
        "quality": "auto",
        "background": "opaque",
        "output_format": format,
    }


def usage(job: Job) -> dict[str, Any]:
    """Number of text tokens of the prompt, in OpenAI's shape; outputs are not counted in tokens."""
    count = tokens(job.request.get("prompt", ""))
    details = {"text_tokens": count, "image_tokens": 0}
    return {
        "input_tokens": count,
        "output_tokens": 0,
        "total_tokens": count,
        "input_tokens_details": details,
    }


@lru_cache(maxsize=256)
def tokens(text: str) -> int:
    """Number of tokens of a text."""
    from kalpana.request import clean
    from kalpana.text.tokenizer import Tokenizer

    return int(Tokenizer.load().encode([clean(text)]).mask.sum()) if text else 0


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode()
