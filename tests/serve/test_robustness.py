"""Bad input, limits, keys and other sites: one-line errors, and the worker goes on."""

from __future__ import annotations

import base64
import io
import json
import re
import socket
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("fastapi", reason="the server needs fastapi: pip install 'kalpana[serve]'")

from fastapi.testclient import TestClient
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from kalpana.cli import app
from kalpana.request import Request
from kalpana.request_values import ALIASES
from kalpana.serve.gate import Rate
from kalpana.serve.images import ImageFields
from kalpana.serve.settings import hashed_keys
from kalpana.types import KalpanaError

from .conftest import photo
from .test_images import ASK, error, pictures

URL = "/v1/images/generations"
KEY = "a-key-of-sixteen-characters"


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"[" * 200_000, "too deep"),
        (b'{"a":' * 100_000, "too deep"),
        (b'{"prompt": "a", "guidance": NaN}', "NaN"),
        (b'{"prompt": "a", "guidance": Infinity}', "Infinity"),
        (b'{"prompt": "a", "seed": ' + b"9" * 5000 + b"}", "no JSON"),
        (b'{"prompt": "\\ud800"}', "half a character"),
        (b'{"prompt": "\xff"}', "no JSON"),
        (b"", "no JSON"),
        (b"null", "no object"),
        (b'"a"', "no object"),
    ],
)
def test_bad_json_is_one_line(client: TestClient, body: bytes, message: str) -> None:
    answer = client.post(URL, content=body, headers={"content-type": "application/json"})
    assert answer.status_code == 400 and error(answer)["code"] == "invalid_json"
    assert message in error(answer)["message"]


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", ""])
def test_other_content_types_are_refused(client: TestClient, kind: str) -> None:
    answer = client.post(URL, content=json.dumps(ASK), headers={"content-type": kind})
    assert answer.status_code == 415 and error(answer)["code"] == "unsupported_media_type"


def test_a_broken_form_is_one_line(client: TestClient) -> None:
    for kind in ("multipart/form-data", "multipart/form-data; boundary=x"):
        answer = client.post("/v1/images/edits", content=b"no form", headers={"content-type": kind})
        assert answer.status_code == 400 and error(answer)["message"]


def test_a_large_body_is_refused_with_and_without_a_stated_length(
    client_with: Callable[..., Any],
) -> None:
    with client_with(max_body=10_000) as client:
        body = json.dumps({"prompt": "x" * 20_000}).encode()
        for content in (body, iter([body[:8000], body[8000:]])):
            headers = {"content-type": "application/json"}
            answer = client.post(URL, content=content, headers=headers)
            assert answer.status_code == 413 and error(answer)["code"] == "request_too_large"


def bomb(side: int) -> bytes:
    """A PNG of few bytes and many pixels."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        crc = zlib.crc32(kind + body)
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", crc)

    header = struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0)
    row = bytes(1 + side // 8)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(row * side, 9))
        + chunk(b"IEND", b"")
    )


@pytest.mark.slow
@pytest.mark.parametrize("side", [8_000, 30_000])
def test_a_picture_with_too_many_pixels_is_not_decoded(client: TestClient, side: int) -> None:
    answer = client.post("/v1/images/edits", data=ASK, files={"image": bomb(side)})
    assert answer.status_code == 400 and error(answer)["param"] == "image"
    assert "pixels" in error(answer)["message"]


def test_a_damaged_picture_is_refused_before_it_is_queued(client: TestClient) -> None:
    answer = client.post("/v1/images/edits", data=ASK, files={"image": photo()[:-100]})
    assert answer.status_code == 400 and client.get("/v1/jobs").json()["data"] == []


SCRIPT = b"""<svg xmlns="http://www.w3.org/2000/svg" width="8" height="8">
<script>alert(1)</script><image href="file:///etc/passwd"/></svg>"""


@pytest.mark.parametrize("field", ["image", "mask", "last_image", "style_image"])
def test_a_picture_with_scripts_is_refused(client: TestClient, field: str) -> None:
    files = {"image": ("a.png", photo(), "image/png"), field: ("a.svg", SCRIPT, "image/svg+xml")}
    answer = client.post("/v1/images/edits", data=ASK, files=files)
    assert answer.status_code == 400 and error(answer)["param"] == field
    assert error(answer)["code"] == "invalid_image" and "root:" not in answer.text


@pytest.mark.parametrize("name", ["../../escape.png", "/etc/cron.d/x", "..\\x.png", "\x00.png", ""])
def test_names_of_uploads_lead_nowhere(client: TestClient, name: str, tmp_path: Path) -> None:
    folder = tmp_path / "server"
    before = {path for path in tmp_path.rglob("*") if folder not in path.parents}
    answer = client.post(
        "/v1/images/edits", data=ASK, files={"image": (name, photo(), "image/png")}
    )
    assert answer.status_code in (200, 400), answer.text
    assert {p for p in tmp_path.rglob("*") if folder not in p.parents} == before
    assert all(re.fullmatch("[0-9a-f]{64}", p.name) for p in (folder / "inputs").iterdir())


def test_unknown_paths_and_methods_have_the_shape_of_errors(client: TestClient) -> None:
    assert error(client.get("/v1/nothing"))["code"] == "not_found"
    assert error(client.get(URL))["code"] == "method_not_allowed"
    assert error(client.get("/v1/jobs?limit=many"))["param"] == "limit"


@pytest.mark.parametrize(
    "file", ["jobs.sqlite", "..%2Fjobs.sqlite", "%2e%2e/jobs.sqlite", "../../etc/passwd", "a.png"]
)
def test_only_outputs_can_be_read(client: TestClient, file: str) -> None:
    answer = client.get(f"/v1/outputs/{file}")
    assert answer.status_code == 404 and error(answer)["code"] == "not_found"


def test_a_defect_is_one_line_and_the_worker_goes_on(
    client: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    from kalpana.pipelines.diffusion import DiffusionPipeline

    def defect(*_: Any, **__: Any) -> None:
        raise ZeroDivisionError("a defect")

    with monkeypatch.context() as patch:
        client.get("/v1/models/tiny/capabilities")  # loads the model
        patch.setattr(DiffusionPipeline, "generate", defect)
        answer = client.post(URL, json=ASK)
        assert error(answer)["code"] == "generation_failed"
        assert "ZeroDivisionError" not in answer.text
    assert len(pictures(client.post(URL, json=ASK))) == 1


def test_a_key_is_asked_for_and_separates_clients(client_with: Callable[..., Any]) -> None:
    keys = [KEY, KEY[::-1]]
    with client_with(api_keys=hashed_keys(keys)) as client:
        for headers in ({}, {"authorization": "Bearer wrong"}, {"authorization": KEY}):
            answer = client.post(URL, json=ASK, headers=headers)
            assert answer.status_code == 401 and error(answer)["code"] == "invalid_api_key"
        assert client.get("/healthz").json()["status"] == "ok"
        mine, other = ({"authorization": f"Bearer {key}"} for key in keys)
        answer = client.post(URL, json=ASK | {"response_format": "url"}, headers=mine).json()
        url, job = answer["data"][0]["url"], answer["job"]
        assert client.get(url).status_code == 200  # signed
        assert client.get(url.partition("?")[0]).status_code == 404
        assert client.get(url.replace("expires=", "expires=9")).status_code == 404
        assert client.get(url.partition("?")[0], headers=mine).status_code == 200
        assert client.get(url.partition("?")[0], headers=other).status_code == 404
        assert client.get(f"/v1/jobs/{job}", headers=mine).status_code == 200
        for method, path in (("GET", ""), ("POST", "/cancel"), ("DELETE", ""), ("GET", "/events")):
            answer = client.request(method, f"/v1/jobs/{job}{path}", headers=other)
            assert answer.status_code == 404
        assert client.get("/v1/jobs", headers=other).json()["data"] == []


def test_the_key_is_not_on_the_disk(client_with: Callable[..., Any], tmp_path: Path) -> None:
    headers = {"authorization": f"Bearer {KEY}"}
    with client_with(api_keys=hashed_keys([KEY]), headers=headers) as client:
        pictures(client.post(URL, json=ASK))
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert files and all(KEY.encode() not in path.read_bytes() for path in files)


def test_short_keys_and_open_addresses_without_a_key_are_refused() -> None:
    with pytest.raises(KalpanaError, match="at least 16 characters"):
        hashed_keys(["short"])
    done = CliRunner().invoke(app, ["serve", "--host", "0.0.0.0"])
    assert done.exit_code == 2 and "give a key by --api-key" in done.stderr
    assert done.stderr.count("\n") == 1


def test_a_taken_port_is_one_line() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        done = CliRunner().invoke(app, ["serve", "--port", str(taken.getsockname()[1])])
    assert done.exit_code == 2 and "Address already in use" in done.stderr
    assert done.stderr.count("\n") == 1


def test_other_sites_are_refused_unless_they_are_named(client_with: Callable[..., Any]) -> None:
    origin = {"origin": "https://example.org"}
    with client_with(hosts=("127.0.0.1",)) as client:
        for host in ("rebound.example.org", "[", ""):
            answer = client.get("/healthz", headers={"host": host})
            assert answer.status_code == 403 and error(answer)["code"] == "wrong_host"
    with client_with() as client:
        answer = client.post(URL, json=ASK, headers=origin)
        assert answer.status_code == 403 and error(answer)["code"] == "wrong_origin"
        assert "access-control-allow-origin" not in answer.headers
        same = client.get("/healthz", headers={"origin": "http://testserver"})
        assert same.status_code == 200
    with client_with(origins=("https://example.org",)) as client:
        answer = client.get("/healthz", headers=origin)
        assert answer.headers["access-control-allow-origin"] == "https://example.org"


def test_a_client_has_a_rate_of_requests() -> None:
    rate = Rate(60)
    assert [rate.allows("a", 0.0) for _ in range(61)] == [True] * 60 + [False]
    assert rate.allows("b", 0.0) and not rate.allows("a", 0.5) and rate.allows("a", 1.5)


def test_beyond_the_rate_is_429(client_with: Callable[..., Any]) -> None:
    with client_with(rate=1) as client:
        expand = {"prompt": "a red apple"}
        assert client.post("/v1/expand", json=expand).status_code == 200
        answer = client.post("/v1/expand", json=expand)
        assert answer.status_code == 429 and error(answer)["type"] == "rate_limit_error"
        assert "retry-after" in answer.headers


def test_request_ids_are_kept_or_made(client: TestClient) -> None:
    assert (
        client.get("/healthz", headers={"x-request-id": "my-1"}).headers["x-request-id"] == "my-1"
    )
    made = client.get("/healthz", headers={"x-request-id": "a b\t"}).headers["x-request-id"]
    assert made != "a b" and len(made) == 16


def test_a_second_server_on_one_folder_is_refused(
    client: TestClient, client_with: Callable[..., Any]
) -> None:
    with pytest.raises(KalpanaError, match="another server uses the folder"), client_with():
        pass
    assert client.get("/healthz").status_code == 200


def test_logs_are_json_without_prompts(
    client: TestClient, caplog: pytest.LogCaptureFixture
) -> None:
    from kalpana.serve.gate import JsonLines

    with caplog.at_level("INFO", "kalpana.serve"):
        pictures(client.post(URL, json=ASK | {"prompt": "a secret apple"}))
    lines = [json.loads(JsonLines().format(record)) for record in caplog.records]
    (line,) = [line for line in lines if line.get("path") == URL]
    assert line["status"] == 200 and line["event"] == "request" and line["id"]
    assert "secret" not in json.dumps(lines)


ODD = st.one_of(
    st.none(),
    st.booleans(),
    st.sampled_from([-1, 0, 1, 2, 2**63 - 1, 2**63, -(2**70), 1e308, -0.5, 0.1]),
    st.text(max_size=20),
    st.sampled_from(["2", "-1", "NaN", "1e400", "32x32", "0x0", "१", "data:image/png;base64,AA"]),
    st.lists(st.one_of(st.integers(0, 3), st.text(max_size=3)), max_size=3),
    st.dictionaries(st.text(max_size=5), st.integers(), max_size=2),
)
NAMES = sorted(
    {*Request.model_fields, *ALIASES, *ImageFields.model_fields, "width", "height", "images"}
)


@pytest.mark.slow
@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(name=st.sampled_from(NAMES), value=ODD, path=st.sampled_from(["generations", "edits"]))
def test_no_value_of_a_field_is_a_defect(
    client: TestClient, name: str, value: Any, path: str
) -> None:
    ask = {"prompt": "a", "steps": 1, "size": "32x32", name: value}
    answer = client.post(f"/v1/images/{path}", json=ask)
    if answer.status_code != 200:
        assert answer.status_code in (400, 404) and error(answer)["message"]


def test_base64_of_other_programs_is_read_strictly(client: TestClient) -> None:
    raw = base64.b64encode(photo()).decode()
    assert error(client.post(URL, json=ASK | {"image": raw}))["code"] == "no_upload"
    answer = client.post("/sdapi/v1/img2img", json={"prompt": "a", "init_images": ["%%%"]})
    assert error(answer)["param"] == "init_images"
    assert io.BytesIO(base64.b64decode(raw)).read(4) == b"\x89PNG"
