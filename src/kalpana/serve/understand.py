"""Embeddings and classes of pictures by CLIP, captions, and prompt expansion."""

from __future__ import annotations

import base64
from typing import Any, Literal

from fastapi import APIRouter
from fastapi.responses import JSONResponse, Response
from PIL.Image import Image
from pydantic import Field
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request as HttpRequest

from kalpana.inputs import DATA_URL
from kalpana.media import read_picture
from kalpana.request import SEED_LIMIT
from kalpana.serve.fields import Strict, invalid, only, pictures, read_fields
from kalpana.serve.images import tokens
from kalpana.serve.page import body_of
from kalpana.serve.settings import Server, server_of

router = APIRouter(tags=["understanding"])
MOST_INPUTS = 256  # texts or labels of a request


class EmbeddingFields(Strict):
    """The fields of /v1/embeddings."""

    input: str | list[str] = Field(description="texts, and pictures as data URLs")
    model: str | None = Field(None, description="a CLIP")
    encoding_format: Literal["float", "base64"] = Field(
        "float", description="float: lists; base64: little-endian 32-bit numbers in base64"
    )
    dimensions: int | None = Field(None, description="only the model's own number")
    user: str = Field("", max_length=200, description="is not used")


class ClassifyFields(Strict):
    """The fields of /v1/classify."""

    image: Any = Field(description="one picture or several: uploads or data URLs")
    labels: str | list[str] = Field(description="what the pictures may show")
    model: str | None = Field(None, description="a CLIP")
    sigmoid: bool | None = Field(None, description="each label by itself")


class CaptionFields(Strict):
    """The fields of /v1/captions."""

    image: Any = Field(description="one picture or several: uploads or data URLs")
    language: Literal["en", "hi"] | None = Field(None, description="en or hi")
    model: str | None = Field(None, description="a DALL-E")


class ExpandFields(Strict):
    """The fields of /v1/expand."""

    prompt: str = Field(min_length=1, max_length=32_000, description="what is to be expanded")
    n: int = Field(1, ge=1, le=64, description="number of expansions, 1 to 64")
    seed: int = Field(
        0, ge=0, lt=SEED_LIMIT - 64, description="seed of the first, the others count up"
    )
    kind: Literal["picture", "video"] = Field("picture", description="picture or video")


@router.post(
    "/v1/embeddings",
    summary="CLIP embeddings of texts and pictures in one space",
    openapi_extra=body_of(EmbeddingFields, request=False),
)
async def embeddings(http: HttpRequest) -> Response:
    server = server_of(http)
    wire = only(await read_fields(http, server.settings), EmbeddingFields)
    given = [wire.input] if isinstance(wire.input, str) else wire.input
    if not 0 < len(given) <= MOST_INPUTS:
        raise invalid("input", f"are {len(given)} texts: send from 1 to {MOST_INPUTS}")
    if any(len(text) > server.settings.max_prompt and not DATA_URL.match(text) for text in given):
        raise invalid("input", f"a text is longer than {server.settings.max_prompt:,} characters")
    model = server.models.named(wire.model, "clip")
    places = [k for k, text in enumerate(given) if DATA_URL.match(text)]
    images = await _images([given[k] for k in places], server) if places else []
    texts = [text for text in given if not DATA_URL.match(text)]

    def embed() -> list[list[float]]:
        encoder = server.models.encoder(model)
        by_image = iter(encoder.images(images).tolist())
        by_text = iter(encoder.texts(texts).tolist())
        return [next(by_image if k in places else by_text) for k in range(len(given))]

    vectors = await server.jobs.call(embed)
    if wire.dimensions not in (None, len(vectors[0])):
        raise invalid("dimensions", f"{model!r} has {len(vectors[0])}: leave it out")
    data = [
        {"object": "embedding", "index": k, "embedding": _encoded(vector, wire.encoding_format)}
        for k, vector in enumerate(vectors)
    ]
    count = sum(tokens(text) for text in texts)
    usage = {"prompt_tokens": count, "total_tokens": count}
    return JSONResponse({"object": "list", "data": data, "model": model, "usage": usage})


@router.post(
    "/v1/classify",
    summary="Probabilities of labels for pictures",
    openapi_extra=body_of(ClassifyFields, request=False, upload=True),
)
async def classify(http: HttpRequest) -> Response:
    from kalpana.understand.classify import classify as probabilities

    server = server_of(http)
    wire = only(await read_fields(http, server.settings), ClassifyFields)
    labels = [wire.labels] if isinstance(wire.labels, str) else wire.labels
    if len(labels) == 1:  # one field of a form
        labels = [each for each in labels[0].split(",") if each.strip()]
    if len(labels) > MOST_INPUTS or any(len(each) > 1000 for each in labels):
        raise invalid("labels", f"send at most {MOST_INPUTS}, of at most 1,000 characters each")
    model = server.models.named(wire.model, "clip")
    images = await _images(wire.image, server)
    table = await server.jobs.call(
        lambda: probabilities(images, labels, server.models.encoder(model), sigmoid=wire.sigmoid)
    )
    data = [
        {
            "index": k,
            "labels": [
                {"label": label, "probability": p}
                for p, label in sorted(zip(row, labels, strict=True), key=lambda pair: -pair[0])
            ],
        }
        for k, row in enumerate(table.tolist())
    ]
    return JSONResponse({"object": "list", "data": data, "model": model})


@router.post(
    "/v1/captions",
    summary="Captions of pictures",
    openapi_extra=body_of(CaptionFields, request=False, upload=True),
)
async def captions(http: HttpRequest) -> Response:
    server = server_of(http)
    wire = only(await read_fields(http, server.settings), CaptionFields)
    model = server.models.named(wire.model, "caption")
    images = await _images(wire.image, server)

    def caption() -> list[str]:
        pipeline: Any = server.models.pipeline(model)
        return pipeline.caption(images, wire.language)

    texts = await server.jobs.call(caption)
    data = [{"index": k, "caption": text} for k, text in enumerate(texts)]
    return JSONResponse({"object": "list", "data": data, "model": model})


@router.post(
    "/v1/expand",
    summary="A prompt with what it leaves open stated",
    openapi_extra=body_of(ExpandFields, request=False),
)
async def expand(http: HttpRequest) -> Response:
    from kalpana.text.tokenizer import language
    from kalpana.world.expansion import expand as expanded

    server = server_of(http)
    wire = only(await read_fields(http, server.settings), ExpandFields)
    name = language(wire.prompt)

    def all_of_them() -> list[str]:
        seeds = range(wire.seed, wire.seed + wire.n)
        if name == "mixed":
            return [wire.prompt for _ in seeds]
        return [expanded(wire.prompt, seed, name, wire.kind) for seed in seeds]

    # In the thread of the models: the grammar is read once, and takes seconds and memory.
    prompts = await server.jobs.call(all_of_them)
    data = [{"seed": wire.seed + k, "prompt": text} for k, text in enumerate(prompts)]
    return JSONResponse({"object": "list", "data": data})


async def _images(value: Any, server: Server) -> list[Image]:
    """The pictures of a field."""
    return await run_in_threadpool(
        lambda: [read_picture(data) for data in pictures(value, "image", server.settings)]
    )


def _encoded(vector: list[float], format: str) -> list[float] | str:
    import numpy as np

    if format == "float":
        return vector
    return base64.b64encode(np.asarray(vector, dtype="<f4").tobytes()).decode()
