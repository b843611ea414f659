"""What every HTTP request passes first: request id, Host and Origin, API key, rate, size of the
body; and what every answer passes last: counters and the log."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
import logging
import re
import secrets
import time
from typing import Any
from urllib.parse import urlsplit

from fastapi.responses import JSONResponse
from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from kalpana.serve.errors import ApiError, describe, error_body
from kalpana.serve.settings import Server

log = logging.getLogger("kalpana.serve")
REQUEST_ID = re.compile(r"[\w.-]{1,64}", re.ASCII)
# Answered without a key: health, and the files of the web page, which asks for it.
OPEN_PATHS, OPEN_FOLDERS = ("/", "/healthz"), ("/studio/", "/v1/outputs/")
SLOWEST = 8192  # bytes a second of a body
MOST_CLIENTS = 10_000  # of which the rate is remembered


class JsonLines(logging.Formatter):
    """Log records as JSON, one a line; ``extra={"fields": …}`` adds fields."""

    def format(self, record: logging.LogRecord) -> str:
        fields: dict[str, Any] = {
            "time": round(record.created, 3),
            "level": record.levelname.lower(),
            "event": record.getMessage(),
        }
        fields |= getattr(record, "fields", {})
        if record.exc_info:
            fields["traceback"] = self.formatException(record.exc_info)
        return json.dumps(fields, ensure_ascii=False)


class Rate:
    """Token bucket of each client: ``a_minute`` requests, of which that many may come at once."""

    def __init__(self, a_minute: int) -> None:
        self.a_minute = a_minute
        self._left: dict[str, tuple[float, float]] = {}  # requests left, at a time

    def allows(self, client: str, now: float) -> bool:
        """Whether a client may send one more request now, which counts."""
        left, before = self._left.get(client, (float(self.a_minute), now))
        left = min(left + (now - before) * self.a_minute / 60, self.a_minute)
        if len(self._left) >= MOST_CLIENTS:
            self._left.clear()
        self._left[client] = (max(left - 1, 0.0) if left >= 1 else left, now)
        return left >= 1


class Gate:
    """ASGI middleware around the application."""

    def __init__(self, app: ASGIApp, server: Server) -> None:
        self.app, self.server = app, server
        self.rate = Rate(server.settings.rate)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers, began, status = Headers(scope=scope), time.perf_counter(), 0
        given = headers.get("x-request-id", "")
        id = given if REQUEST_ID.fullmatch(given) else secrets.token_hex(8)

        async def answer(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                added = MutableHeaders(scope=message)
                added["x-request-id"] = id
                added["x-content-type-options"] = "nosniff"
            await send(message)

        scope["request_id"] = id
        try:
            scope["client_name"] = self._client(scope, headers)
            self._check(scope, headers)
            await self.app(scope, self._limited(receive), answer)
        except ApiError as error:
            code, body = describe(error)
            extra = {401: {"www-authenticate": "Bearer"}, 429: {"retry-after": "5"}}.get(code)
            if not status:
                await JSONResponse(body, code, headers=extra)(scope, receive, answer)
        except ClientDisconnect:  # while it sent its body
            status = 499
        except Exception:
            log.exception("defect", extra={"fields": {"id": id, "path": scope["path"]}})
            if not status:
                body = error_body(500, f"the server failed; its log has request {id}", "defect")
                await JSONResponse(body, 500)(scope, receive, answer)
        finally:
            answers = self.server.answers
            answers[status] = answers.get(status, 0) + 1
            fields = {
                "id": id,
                "client": scope.get("client_name"),
                "method": scope["method"],
                "path": scope["path"],
                "status": status,
                "seconds": round(time.perf_counter() - began, 4),
            }
            log.info("request", extra={"fields": fields})

    def _client(self, scope: Scope, headers: Headers) -> str:
        """The name of the client. Raises ApiError without the key that is asked for."""
        settings = self.server.settings
        if not settings.api_keys:
            return scope["client"][0] if scope.get("client") else "local"
        kind, _, key = headers.get("authorization", "").partition(" ")
        digest = hashlib.sha256(key.strip().encode()).hexdigest()
        same = [hmac.compare_digest(digest, each) for each in settings.api_keys]
        if kind.lower() == "bearer" and any(same):
            return f"key-{digest[:12]}"
        is_open = scope["path"] in OPEN_PATHS or scope["path"].startswith(OPEN_FOLDERS)
        if scope["method"] in ("GET", "HEAD") and is_open:
            return "anyone"  # outputs check the signature of their links
        message = "no valid API key: send the header Authorization: Bearer KEY"
        raise ApiError(401, message, "invalid_api_key")

    def _check(self, scope: Scope, headers: Headers) -> None:
        """Raises ApiError for a request of another site, too many requests, or a large body."""
        settings = self.server.settings
        try:
            host = urlsplit(f"//{headers.get('host', '')}").hostname or ""
        except ValueError:
            host = ""
        if settings.hosts and host not in settings.hosts:
            raise ApiError(403, f"this server is not called {host[:60]!r}", "wrong_host")
        origin = headers.get("origin")
        if origin is not None and origin not in settings.origins:
            target = f"{scope['scheme']}://{headers.get('host', '')}"
            if origin != target:
                message = f"pages of {origin[:80]} may not call this server: see --allow-origin"
                raise ApiError(403, message, "wrong_origin")
        if scope["method"] == "POST":
            if not self.rate.allows(scope["client_name"], time.monotonic()):
                message = f"more than {settings.rate} requests a minute: wait a little"
                raise ApiError(429, message, "rate_limit_exceeded")
            length = headers.get("content-length", "0")
            if length.isdecimal() and int(length) > settings.max_body:
                raise self._too_large()

    def _limited(self, receive: Receive) -> Receive:
        """``receive`` that raises ApiError once the body is too large, or comes too slowly."""
        size, more, settings = 0, True, self.server.settings
        began = asyncio.get_running_loop().time()

        async def limited() -> Message:
            nonlocal size, more
            if not more:  # the body is here, and the next message is that the client has left
                return await receive()
            try:
                async with asyncio.timeout_at(began + settings.patience + size / SLOWEST):
                    message = await receive()
            except TimeoutError:
                error = "the body came too slowly: send it at once"
                raise ApiError(408, error, "request_timeout") from None
            size, more = size + len(message.get("body", b"")), message.get("more_body", False)
            if size > settings.max_body:
                raise self._too_large()
            return message

        return limited

    def _too_large(self) -> ApiError:
        most = self.server.settings.max_body
        return ApiError(413, f"the request is larger than {most:,} bytes", "request_too_large")
