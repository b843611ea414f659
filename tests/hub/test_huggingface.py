"""The Hugging Face cache: models by ORG/NAME, which files are fetched, and a hub on loopback."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from typer.testing import CliRunner

from kalpana.cli import app
from kalpana.hub import huggingface
from kalpana.hub.card import find_model
from kalpana.types import KalpanaError

COMMIT = "0123456789abcdef0123456789abcdef01234567"
INDEX = {
    "_class_name": "FluxPipeline",
    "transformer": ["diffusers", "FluxTransformer2DModel"],
    "scheduler": ["diffusers", "FlowMatchEulerDiscreteScheduler"],
}
FILES = {
    "model_index.json": json.dumps(INDEX).encode(),
    "transformer/config.json": b"{}",
    "transformer/diffusion_pytorch_model.safetensors": b"weights" * 1000,
    "transformer/diffusion_pytorch_model.fp16.safetensors": b"w" * 1000,
    "transformer/diffusion_pytorch_model.bin": b"pickle",
    "scheduler/scheduler_config.json": b"{}",
    "pipeline.py": b"raise SystemExit",
    "flux.safetensors": b"all in one file",
}
WANTED = [
    *("model_index.json", "scheduler/scheduler_config.json", "transformer/config.json"),
    "transformer/diffusion_pytorch_model.safetensors",
]


@pytest.fixture
def hub_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path / "hub"


def cached(cache: Path, name: str, files: dict[str, bytes]) -> Path:
    """A model in the cache, in the layout of huggingface_hub."""
    repo = cache / f"models--{name.replace('/', '--')}"
    (repo / "refs").mkdir(parents=True)
    (repo / "blobs").mkdir()
    (repo / "refs/main").write_text(COMMIT)
    for file, data in files.items():
        path, blob = repo / "snapshots" / COMMIT / file, hashlib.sha256(data).hexdigest()
        path.parent.mkdir(parents=True, exist_ok=True)
        (repo / "blobs" / blob).write_bytes(data)
        path.symlink_to(repo / "blobs" / blob)
    return repo / "snapshots" / COMMIT


def test_a_name_is_found_in_the_cache_without_a_connection(hub_cache: Path) -> None:
    folder = cached(hub_cache, "org/tiny-flux", {name: FILES[name] for name in WANTED})
    assert find_model("org/tiny-flux") == folder
    assert huggingface.name_of(folder.resolve()) == "org/tiny-flux"
    assert huggingface.name_of(hub_cache) == "hub"
    with pytest.raises(KalpanaError, match="`kalpana weights pull org/other` fetches it") as error:
        find_model("org/other")
    assert str(hub_cache) in str(error.value)


@pytest.mark.slow
def test_the_models_in_the_cache_are_listed(hub_cache: Path) -> None:
    assert "no models" in CliRunner().invoke(app, ["models", "--hub"]).stdout
    cached(hub_cache, "org/whole", {name: FILES[name] for name in WANTED})
    cached(hub_cache, "org/partial", {name: FILES[name] for name in WANTED[:2]})
    cached(hub_cache, "org/text", {"config.json": b"{}"})
    lines = CliRunner().invoke(app, ["models", "--hub"]).stdout.splitlines()
    assert [line.split(":")[0].strip() for line in lines[1:]] == ["org/partial", "org/whole"]
    assert "FluxPipeline" in lines[2] and COMMIT in lines[2]
    assert "cannot be loaded" in lines[1] and "transformer/config.json" in lines[1]
    found = json.loads(CliRunner().invoke(app, ["models", "--hub", "--json"]).stdout)
    assert found[1]["size"] == sum(len(FILES[name]) for name in set(WANTED)) - 2  # {} is one blob


def test_only_safe_files_of_one_variant_are_fetched() -> None:
    assert huggingface.wanted_files(FILES) == WANTED
    half = [name for name in FILES if not name.endswith("_model.safetensors")]
    assert huggingface.wanted_files(half)[-1].endswith(".fp16.safetensors")
    clip = ["config.json", "model.safetensors", "pytorch_model.bin", "a.py", "onnx/m.safetensors"]
    assert huggingface.wanted_files(clip) == ["config.json", "model.safetensors"]


class Down(BaseHTTPRequestHandler):
    """A hub that is out of order, and counts its requests."""

    asked = 0

    def do_GET(self) -> None:
        Down.asked += 1
        self.send_error(503)

    def log_message(self, *arguments: object) -> None:
        pass


class Hub(BaseHTTPRequestHandler):
    """The part of the API of Hugging Face that a transfer needs, for one model."""

    def do_HEAD(self) -> None:
        self.answer(body=False)

    def do_GET(self) -> None:
        self.answer(body=True)

    def answer(self, body: bool) -> None:
        path, _, prefix = self.path.partition("?")[0], "", "/org/tiny/resolve/"
        data, headers = None, dict[str, str]()
        if path.startswith("/api/models/org/tiny"):
            siblings = [{"rfilename": name} for name in FILES]
            about = {"id": "org/tiny", "modelId": "org/tiny", "sha": COMMIT, "siblings": siblings}
            if "/tree/" in path:
                about = [  # type: ignore[assignment]
                    {"type": "file", "path": name, "size": len(each), "oid": "0" * 40}
                    for name, each in FILES.items()
                ]
            data = json.dumps(about).encode()
        elif path.startswith(prefix):
            data = FILES.get(path.removeprefix(prefix).partition("/")[2])
            if data is not None:
                etag = hashlib.sha256(data).hexdigest()
                headers = {"ETag": f'"{etag}"', "X-Repo-Commit": COMMIT}
        self.send_response(404 if data is None else 200)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(data or b"")))
        self.end_headers()
        if body:
            self.wfile.write(data or b"")

    def log_message(self, *arguments: object) -> None:
        pass


@pytest.fixture
def endpoint(request: pytest.FixtureRequest) -> Iterator[str]:
    """The address of a hub; of another class where the test says so."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), getattr(request, "param", Hub))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.mark.filterwarnings("ignore")
def test_a_model_is_pulled_into_the_cache(
    hub_cache: Path, endpoint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    folder = huggingface.pull("org/tiny", endpoint)
    found = {str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file()}
    assert found == set(WANTED) and find_model("org/tiny") == folder
    assert all((folder / name).read_bytes() == FILES[name] for name in WANTED)
    with pytest.raises(KalpanaError, match="org/none cannot be fetched: ") as error:
        huggingface.pull("org/none", endpoint)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("endpoint", [Down], indirect=True)
def test_a_hub_that_does_not_answer_is_reported_at_once(hub_cache: Path, endpoint: str) -> None:
    Down.asked = 0
    with pytest.raises(KalpanaError, match=r"org/tiny cannot be fetched: .*503") as error:
        huggingface.pull("org/tiny", endpoint)
    assert Down.asked == 1 and "\n" not in str(error.value)
    assert not hub_cache.exists()


def test_a_public_name_takes_no_mirror() -> None:
    done = CliRunner().invoke(app, ["weights", "pull", "org/name", "--from", "x"])
    assert done.exit_code == 2 and "leave --from and --to out" in done.stderr
