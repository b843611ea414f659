"""Clients that are idle, slow, or leave in the middle, on a server with sockets."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import Any

import httpx2
import pytest

pytest.importorskip("fastapi", reason="the server needs fastapi: pip install 'kalpana[serve]'")

import uvicorn

from kalpana.serve.app import create_app
from kalpana.serve.connections import Connection, allow_many_files
from kalpana.serve.settings import Settings

from .test_images import ASK

HEAD = (
    "POST /v1/images/generations HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: application/json\r\n"
)


@contextmanager
def running(settings: Settings, head: float = 20.0) -> Iterator[int]:
    """The port of a server in a thread, which waits ``head`` seconds for the head of a request."""

    class Patient(Connection):
        timeout_head = head

    with socket.create_server(("127.0.0.1", 0), backlog=2048) as listener:
        config = uvicorn.Config(create_app(settings), http=Patient, log_config=None)
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        yield listener.getsockname()[1]
        server.should_exit = True
        thread.join()


def health(port: int) -> int:
    return httpx2.get(f"http://127.0.0.1:{port}/healthz", timeout=60).status_code


def closed(client: socket.socket) -> bytes:
    """What a client has received once the server has closed its connection."""
    client.settimeout(60)
    received = b""
    while part := client.recv(65536):
        received += part
    return received


@pytest.mark.slow
def test_a_thousand_idle_connections_do_not_stop_the_others(settings: Settings) -> None:
    allow_many_files()
    with ExitStack() as stack, running(settings) as port:
        for _ in range(1000):
            stack.enter_context(socket.create_connection(("127.0.0.1", port)))
        assert health(port) == 200


def test_connections_without_a_request_are_closed(settings: Settings) -> None:
    with running(settings, head=0.2) as port:
        for start in (b"", b"GET /healthz HT"):
            with socket.create_connection(("127.0.0.1", port)) as client:
                client.sendall(start)
                assert closed(client) == b""
        assert health(port) == 200


@pytest.mark.slow
def test_a_body_that_comes_too_slowly_is_given_up(settings: Settings) -> None:
    with (
        running(replace(settings, patience=0.2)) as port,
        socket.create_connection(("127.0.0.1", port)) as client,
    ):
        client.sendall(f"{HEAD}content-length: 50000\r\n\r\n{{".encode())
        answer = closed(client)
        assert answer.startswith(b"HTTP/1.1 408") and b"request_timeout" in answer
        assert health(port) == 200


@pytest.mark.slow
def test_a_long_job_is_not_taken_for_an_idle_connection(settings: Settings) -> None:
    with running(settings, head=0.05) as port:
        url = f"http://127.0.0.1:{port}/v1/images/generations"
        answer = httpx2.post(url, json=ASK | {"steps": 40, "n": 4}, timeout=300)
        assert answer.status_code == 200 and len(answer.json()["data"]) == 4


@pytest.mark.parametrize("half", ["body", "form"])
def test_a_client_that_leaves_while_it_sends_is_no_defect(
    settings: Settings, half: str, caplog: pytest.LogCaptureFixture
) -> None:
    form = HEAD.replace("application/json", "multipart/form-data; boundary=x")
    head = HEAD if half == "body" else form.replace("generations", "edits")
    with caplog.at_level("INFO", "kalpana.serve"), running(settings) as port:
        with socket.create_connection(("127.0.0.1", port)) as client:
            client.sendall(f"{head}content-length: 50000\r\n\r\n--x\r\n".encode())
        body: Any = None
        while body is None:  # until the server has noticed
            health(port)
            body = next((r for r in caplog.records if "/v1/images" in str(vars(r))), None)
    assert not [record for record in caplog.records if record.exc_info], json.dumps(str(body))
