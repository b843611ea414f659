"""The OpenAPI description of the request bodies, and the page that shows all endpoints."""

from __future__ import annotations

from html import escape
from typing import Any

from fastapi import APIRouter
from fastapi.responses import HTMLResponse
from pydantic import BaseModel
from starlette.requests import Request as HttpRequest

from kalpana.request import Request

router = APIRouter()
UPLOADS = ("image", "mask", "style_image", "last_image", "video")
STYLE = "body{font:16px/1.5 sans-serif;max-width:60em;margin:2em auto;padding:0 1em}"


def body_of(
    *schemas: type[BaseModel], request: bool = True, upload: bool = False
) -> dict[str, Any]:
    """The ``requestBody`` of an endpoint: the fields of schemas and, with ``request``, those of a
    Request; with ``upload`` also as a form."""
    properties: dict[str, Any] = {}
    if request:
        properties |= _inline(Request)
        for name in UPLOADS:
            about = Request.model_fields[name].description
            properties[name] = {"type": "string", "description": f"{about}: a data URL"}
        properties["control"] = {"type": "array", "items": {"type": "object"}}
        about = "names from /v1/adapters, such as mug or mug:0.8"
        properties["adapter"] = {"type": "array", "items": {"type": "string"}, "description": about}
    for schema in schemas:
        properties |= _inline(schema)
    json_schema = {"type": "object", "properties": properties, "additionalProperties": False}
    content: dict[str, Any] = {"application/json": {"schema": json_schema}}
    if upload:
        files = {"type": "string", "format": "binary"}
        form = {k: files if k in UPLOADS else v for k, v in properties.items()}
        content["multipart/form-data"] = {"schema": json_schema | {"properties": form}}
    return {"requestBody": {"required": True, "content": content}}


def _inline(schema: type[BaseModel]) -> dict[str, Any]:
    """The properties of a schema, without those that refer to others."""
    properties = schema.model_json_schema()["properties"]
    return {name: each for name, each in properties.items() if "$ref" not in str(each)}


@router.get("/docs", include_in_schema=False)
async def docs(http: HttpRequest) -> HTMLResponse:
    """All endpoints with their fields, on one page that loads nothing else."""
    parts = []
    for path, methods in http.app.openapi()["paths"].items():
        for method, about in methods.items():
            parts.append(
                f"<h2><code>{method.upper()} {escape(path)}</code></h2>"
                f"<p>{escape(about.get('summary', ''))}</p>{_fields(about)}"
            )
    return HTMLResponse(
        f"<!doctype html><meta charset=utf-8><title>Kalpana</title><style>{STYLE}</style>"
        f"<h1>Kalpana: HTTP API</h1><p>As JSON: <a href=/openapi.json>openapi.json</a></p>"
        + "".join(parts)
    )


def _fields(about: dict[str, Any]) -> str:
    """The fields of an endpoint's body as a folded list."""
    content: dict[str, Any] = about.get("requestBody", {}).get("content", {})
    schema: dict[str, Any] = next(iter(content.values()))["schema"] if content else {}
    rows = "".join(
        f"<li><code>{escape(name)}</code> {escape(str(field.get('description', '')))}"
        for name, field in schema.get("properties", {}).items()
    )
    kinds = " or ".join(content)
    return f"<details><summary>{kinds}</summary><ul>{rows}</ul></details>" if rows else ""
