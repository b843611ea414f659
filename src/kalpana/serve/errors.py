"""Errors of the server in OpenAI's shape: message, type, param and code."""

from __future__ import annotations

import logging
import re
import sqlite3
from typing import Any

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.requests import Request as HttpRequest

from kalpana.request import Request
from kalpana.request_values import ALIASES
from kalpana.types import KalpanaError

log = logging.getLogger("kalpana.serve")
TYPES = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}
# The field at fault comes first in the messages of a Request and of Capabilities.
FIELD = re.compile(r"(?:there is no field '(?P<unknown>[^']*)'|(?P<known>\w+))")


class ApiError(KalpanaError):
    """A KalpanaError with its HTTP status, and the code and field of OpenAI's error objects."""

    def __init__(
        self, status: int, message: str, code: str | None = None, param: str | None = None
    ) -> None:
        super().__init__(message)
        self.status, self.code, self.param = status, code, param


def not_found(what: str) -> ApiError:
    """The error for something that is not there, or belongs to another client."""
    return ApiError(404, f"there is no {what}", "not_found")


def error_body(
    status: int, message: str, code: str | None = None, param: str | None = None
) -> dict[str, Any]:
    """The JSON of an error."""
    kind = TYPES.get(status, "invalid_request_error" if status < 500 else "server_error")
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}


def field_at_fault(message: str) -> str | None:
    """The field that a message of a Request or of Capabilities is about; None if it names none."""
    found = FIELD.match(message)
    if found is None:
        return None
    known = {*Request.model_fields, *ALIASES, "width", "height"}
    return found["unknown"] or (found["known"] if found["known"] in known else None)


def describe(error: KalpanaError) -> tuple[int, dict[str, Any]]:
    """Status and JSON of an error; those without a status are the client's, 400."""
    message = str(error)
    if isinstance(error, ApiError):
        return error.status, error_body(error.status, message, error.code, error.param)
    param = field_at_fault(message)
    code = None if param is None else "unknown_field" if "no field" in message else "invalid_value"
    return 400, error_body(400, message, code, param)


def add_handlers(app: FastAPI) -> None:
    """Make an application answer errors in OpenAI's shape."""

    @app.exception_handler(KalpanaError)
    async def known(_: HttpRequest, error: KalpanaError) -> JSONResponse:
        status, body = describe(error)
        headers = {"retry-after": "5"} if status == 429 else None
        return JSONResponse(body, status, headers=headers)

    @app.exception_handler(sqlite3.Error)
    @app.exception_handler(OSError)
    async def storage(_: HttpRequest, error: OSError | sqlite3.Error) -> JSONResponse:
        log.error("storage_failed", exc_info=error)
        why = (isinstance(error, OSError) and error.strerror) or type(error).__name__
        message = f"the server can store nothing now ({why}): try again later"
        return JSONResponse(error_body(507, message, "storage_failed"), 507)

    @app.exception_handler(HTTPException)
    async def http(request: HttpRequest, error: HTTPException) -> JSONResponse:
        message = f"{request.method} {request.url.path}: {error.detail}"
        code = {404: "not_found", 405: "method_not_allowed"}.get(error.status_code)
        body = error_body(error.status_code, message, code)
        return JSONResponse(body, error.status_code, headers=error.headers)

    @app.exception_handler(RequestValidationError)
    async def invalid(_: HttpRequest, error: RequestValidationError) -> JSONResponse:
        problem = error.errors()[0]
        name = str(problem["loc"][-1])
        return JSONResponse(
            error_body(400, f"{name}: {problem['msg']}", "invalid_value", name), 400
        )
