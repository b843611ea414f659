"""Two replicas by Ray Serve on this machine."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx2
import pytest

pytest.importorskip("fastapi", reason="the server needs fastapi: pip install 'kalpana[serve]'")
pytest.importorskip("ray", reason="needs Ray: pip install 'kalpana[scale]'")

from kalpana.pipelines import last, load
from kalpana.serve import scale
from kalpana.serve.settings import Settings, hashed_keys
from kalpana.types import KalpanaError

from .test_images import ASK, error, pictures, same_pixels

pytestmark = pytest.mark.filterwarnings("ignore")  # Ray's own
KEY = "a-key-of-sixteen-characters"


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("replicas")


@pytest.fixture(scope="module")
def url(folder: Path, clip_folder: Path, place: Path) -> Iterator[str]:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    keys = hashed_keys([KEY])
    settings = Settings(place, models=(str(folder), str(clip_folder)), api_keys=keys)
    scale.start(settings, 2, "127.0.0.1", port)
    yield f"http://127.0.0.1:{port}"
    scale.stop()


def post(url: str, path: str, ask: dict[str, Any]) -> Any:
    headers = {"authorization": f"Bearer {KEY}"}
    return httpx2.post(f"{url}{path}", json=ask, headers=headers, timeout=300)


def test_two_replicas_share_the_requests_and_draw_the_same(
    url: str, place: Path, folder: Path
) -> None:
    with ThreadPoolExecutor(8) as pool:
        asks = [ASK | {"seed": k % 4, "steps": 8} for k in range(16)]
        answers = [*pool.map(lambda ask: post(url, "/v1/images/generations", ask), asks)]
    found = [pictures(answer)[0] for answer in answers]
    assert found[:4] * 4 == found
    for seed in range(4):
        (output,) = last(load(str(folder)).generate(ASK["prompt"], seed=seed, steps=8)).outputs
        assert same_pixels(found[seed], output.image)
    assert all([*(place / f"replica-{k}/outputs").iterdir()] for k in range(2))


def test_any_replica_serves_the_files_of_all(url: str) -> None:
    for seed in range(4):
        ask = ASK | {"response_format": "url", "seed": seed}
        link = post(url, "/v1/images/generations", ask).json()["data"][0]["url"]
        for _ in range(4):
            assert httpx2.get(link, timeout=60).status_code == 200
        assert httpx2.get(link.partition("?")[0], timeout=60).status_code == 404


def test_errors_and_the_gate_are_those_of_one_server(url: str) -> None:
    wrong = post(url, "/v1/images/generations", ASK | {"sede": 1})
    assert wrong.status_code == 400 and error(wrong)["param"] == "sede"
    assert httpx2.get(f"{url}/v1/models", timeout=60).status_code == 401
    assert httpx2.get(f"{url}/healthz", timeout=60).json()["status"] == "ok"
    assert len(post(url, "/v1/embeddings", {"input": ["a cat"]}).json()["data"]) == 1
    assert error(post(url, "/v1/jobs", ASK))["code"] == "not_found"  # jobs belong to one server


def test_a_quota_over_replicas_is_refused(tmp_path: Path) -> None:
    with pytest.raises(KalpanaError, match="--quota is counted by one server"):
        scale.start(Settings(tmp_path, quota=3), 2, "127.0.0.1", 0)
