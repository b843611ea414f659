"""Fields of an HTTP request: from JSON or a form to a Request, strictly.

Pictures and videos come as uploaded files or as data URLs. Paths of this machine and URLs are
refused: nothing that a request names is opened.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterable
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartParser
from starlette.requests import Request as HttpRequest

from kalpana.errors import explain, shorten
from kalpana.inputs import DATA_URL
from kalpana.media import open_picture, read_error, read_picture, read_video
from kalpana.media.receipts import is_mp4
from kalpana.request import INPUTS, Request
from kalpana.serve.errors import ApiError
from kalpana.serve.settings import Settings
from kalpana.types import KalpanaError

# The first bytes of WebM and MKV, GIF, WebP and PNG; MP4 and MOV by ``is_mp4``.
VIDEO_SIGNATURES = (b"\x1a\x45\xdf\xa3", b"GIF8", b"RIFF", b"\x89PNG")
SURROGATE = re.compile("[\ud800-\udfff]")
Fields = dict[str, Any]
Wire = TypeVar("Wire", bound=BaseModel)


PRIORITY: Any = Field(
    0,
    ge=-100,
    le=100,
    description="among your own jobs those of a higher one come first",
)


class Strict(BaseModel):
    """Base of the fields that an endpoint knows besides those of a Request."""

    model_config = ConfigDict(frozen=True, extra="forbid")


def invalid(name: str, message: str, code: str = "invalid_value") -> ApiError:
    """The error of one field."""
    return ApiError(400, f"{name}: {message}", code, name)


# ------------------------------------------------------------------------------------ the body


async def read_fields(request: HttpRequest, settings: Settings) -> Fields:
    """The fields of a JSON object or of a form; files as bytes, fields given twice as a list, and
    those that are null left out. Raises ApiError for another body."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind == "application/json":
        fields = _parsed(await request.body())
    elif kind == "multipart/form-data":
        fields = await _form(request, settings)
    else:
        message = "send application/json or multipart/form-data"
        raise ApiError(415, f"content type {kind[:60]!r}: {message}", "unsupported_media_type")
    return {name: value for name, value in fields.items() if value is not None}


def _parsed(body: bytes) -> Fields:
    """The JSON object of a body."""

    def refuse(name: str) -> None:
        raise ValueError(f"{name} is no number of JSON")

    try:
        fields = json.loads(body.decode("utf-8"), parse_constant=refuse)
        if not isinstance(fields, dict):
            raise ValueError("it is no object")
        if SURROGATE.search(json.dumps(fields, ensure_ascii=False)):
            raise ValueError("it has half a character (a lone surrogate)")
    except RecursionError:
        raise ApiError(400, "the body is too deep", "invalid_json") from None
    except ValueError as error:
        raise ApiError(400, f"the body is no JSON: {str(error)[:200]}", "invalid_json") from None
    return fields


async def _form(request: HttpRequest, settings: Settings) -> Fields:
    """The fields of a form; NAME[] is NAME."""
    fields: dict[str, list[Any]] = {}
    try:
        parser = MultiPartParser(
            request.headers,
            request.stream(),
            max_files=32,
            max_fields=128,
            max_part_size=settings.max_body,
        )
        form = await parser.parse()
    except ApiError:
        raise
    except Exception as error:  # the parser raises exceptions of many types
        raise ApiError(400, f"the form cannot be read: {error}"[:200], "invalid_form") from None
    try:
        for name, value in form.multi_items():
            read = await value.read() if isinstance(value, UploadFile) else value
            if isinstance(read, str) and SURROGATE.search(read):
                raise invalid(name, "is not UTF-8")
            fields.setdefault(name.removesuffix("[]"), []).append(read)
    finally:
        await form.close()
    return {name: values[0] if len(values) == 1 else values for name, values in fields.items()}


def take(fields: Fields, schema: type[Wire]) -> Wire:
    """The fields of a schema, taken out of ``fields``. Raises ApiError for a wrong one."""
    mine = {name: fields.pop(name) for name in schema.model_fields if name in fields}
    try:
        return schema(**mine)
    except ValidationError as error:
        name = str(error.errors()[0]["loc"][0])
        raise ApiError(400, str(explain(error, schema)), "invalid_value", name) from None


def only(fields: Fields, schema: type[Wire]) -> Wire:
    """All fields as those of a schema. Raises ApiError for a wrong or an unknown one."""
    wire = take(fields, schema)
    if fields:
        name = next(iter(fields))
        message = f"there is no field {name!r}: the fields are {', '.join(schema.model_fields)}"
        raise ApiError(400, message, "unknown_field", name)
    return wire


# ----------------------------------------------------------------------------------- the media


def media(value: Any, name: str, raw: bool = False) -> bytes:
    """The bytes of an uploaded file, a data URL, or an object with an ``image_url`` that is one;
    with ``raw`` also of base64 alone. Raises ApiError for anything else."""
    if isinstance(value, dict) and [*value] == ["image_url"]:
        value = value["image_url"]
    if isinstance(value, bytes):
        return value
    if isinstance(value, str) and (prefix := DATA_URL.match(value)):
        value, raw = value[prefix.end() :], True
    if isinstance(value, str) and raw:
        try:
            return base64.b64decode(value, validate=True)
        except ValueError:
            raise invalid(name, "is no base64") from None
    raise invalid(
        name,
        f"{shorten(value)} is no upload: send the file, or a data URL "
        "(data:image/png;base64,…); paths and URLs are not opened",
        "no_upload",
    )


def picture(value: Any, name: str, settings: Settings, raw: bool = False) -> bytes:
    """The bytes of a picture that can be read. Raises ApiError for another, or one that is too
    large, which is not decoded."""
    data = media(value, name, raw)
    try:
        with open_picture(data) as image:
            pixels = image.width * image.height
    except Exception as error:  # for a damaged file Pillow raises exceptions of many types
        raise invalid(name, f"cannot be read: {read_error(error)}", "invalid_image") from None
    if pixels > settings.max_input_pixels:
        message = f"has {pixels:,} pixels, more than {settings.max_input_pixels:,}"
        raise invalid(name, message, "image_too_large")
    read_picture(data)
    return data


def video(value: Any, name: str, settings: Settings) -> bytes:
    """The bytes of a video, as MP4, MOV, WebM, MKV, GIF, WebP or PNG. Others are refused: some,
    such as playlists, name files and URLs that FFmpeg would open."""
    data = media(value, name)
    if not (is_mp4(data) or data.startswith(VIDEO_SIGNATURES)):
        raise invalid(name, "is no MP4, WebM, GIF, WebP or PNG", "invalid_video")
    try:
        width, height = read_video(data).size
    except KalpanaError as error:
        raise invalid(name, str(error), "invalid_video") from None
    if width * height > settings.max_input_pixels:
        message = f"has {width * height:,} pixels a frame, more than {settings.max_input_pixels:,}"
        raise invalid(name, message, "video_too_large")
    return data


def pictures(value: Any, name: str, settings: Settings) -> list[bytes]:
    """The bytes of one picture or several."""
    values = value if isinstance(value, list) else [value]
    if not 0 < len(values) <= settings.max_n:
        raise invalid(name, f"are {len(values)} pictures: send from 1 to {settings.max_n}")
    return [picture(each, name, settings) for each in values]


# ---------------------------------------------------------------------------------- the request


def to_request(fields: Fields, settings: Settings) -> Request:
    """The Request of the fields that are left. Raises ApiError or KalpanaError for a wrong one,
    and one beyond the limits of the server."""
    fields = dict(fields)
    if fields.get("size") == "auto":
        del fields["size"]
    for name in INPUTS:
        if name in fields:
            if isinstance(fields[name], list):
                raise invalid(name, "the model takes one: send one")
            read = video if name == "video" else picture
            fields[name] = read(fields[name], name, settings)
    if "control" in fields:
        fields["control"] = [_control(each, settings) for each in _maps(fields["control"])]
    request = Request(**fields)
    texts = request.prompt, request.negative_prompt, request.source_prompt
    longest = max(len(text or "") for text in texts)
    if longest > settings.max_prompt:
        message = f"has {longest:,} characters, more than {settings.max_prompt:,}"
        raise invalid("prompt", message, "prompt_too_long")
    count = len(request.seeds or ()) or request.n
    if count > settings.max_n:
        raise invalid("n", f"{count} outputs are more than {settings.max_n}", "too_many")
    return request


def _maps(value: Any) -> Iterable[Any]:
    """The control maps of {kind: picture}, or of a list of them with their settings."""
    if isinstance(value, str):
        raise invalid("control", "write a list of {kind, image}, each image a data URL")
    if isinstance(value, dict) and "kind" not in value:
        return [{"kind": kind, "image": image} for kind, image in value.items()]
    return value if isinstance(value, list) else [value]


def _control(value: Any, settings: Settings) -> Any:
    if not isinstance(value, dict) or "image" not in value:
        raise invalid("control", "write a list of {kind, image}, each image a data URL")
    return value | {"image": picture(value["image"], "control", settings)}


def check_pixels(resolved: Request, settings: Settings, seconds: float | None) -> None:
    """Raises ApiError if an output of a resolved request, a video of so many seconds or a picture
    (None), has too many pixels."""
    assert resolved.width and resolved.height
    pixels = resolved.width * resolved.height * resolved.upscale**2
    if seconds is not None:
        pixels *= max(round(seconds * (resolved.fps or 1)), 1)
    if pixels > settings.max_pixels:
        message = f"an output of {pixels:,} pixels is more than {settings.max_pixels:,}"
        raise invalid("size", message, "output_too_large")
