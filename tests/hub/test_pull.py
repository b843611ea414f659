"""Weights are found in several folders, and pulled from a folder or over HTTP, with their hashes
checked."""

from __future__ import annotations

import threading
import tomllib
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from typer.testing import CliRunner

from kalpana.cli import app
from kalpana.hub import card as cards
from kalpana.hub.card import Card, find_model, model_folders, read_card, write_card, write_hashes
from kalpana.hub.pull import pull
from kalpana.hub.weights import fingerprint, save_weights
from kalpana.models.vae import Config
from kalpana.types import KalpanaError

ROOT = Path(__file__).parents[2]


def seal(folder: Path, family: str, file: str, seed: int = 0) -> Path:
    """A folder of weights: a card, and one file."""
    torch.manual_seed(seed)
    save_weights(folder / file, nn.Linear(30, 40), family, Config(), {})
    write_hashes(folder)
    return folder


@pytest.fixture
def shipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An installed package with the card of a model, without its weights, and a VQGAN."""
    inside = tmp_path / "inside"
    monkeypatch.setattr("kalpana.hub.card.weights_dir", lambda: inside)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("KALPANA_WEIGHTS", raising=False)
    monkeypatch.delenv("KALPANA_WEIGHTS_URL", raising=False)
    seal(inside / "vqgan", "vqgan", "vqgan.safetensors")
    return inside


@pytest.fixture
def mirror(shipped: Path, tmp_path: Path) -> Path:
    """A folder with the model "small" in full, whose card is in the package too."""
    folder = seal(tmp_path / "mirror/small", "vae", "vae.safetensors", seed=1)
    (shipped / "small").mkdir()
    write_card(shipped / "small", read_card(folder))
    return folder.parent


class WithRanges(SimpleHTTPRequestHandler):
    """A server that answers Range requests, and records them in ``asked``."""

    def __init__(self, *given: Any, asked: list[str | None], **more: Any) -> None:
        self.asked = asked
        super().__init__(*given, **more)

    def log_message(self, *given: Any) -> None:
        pass

    def do_GET(self) -> None:
        path, ranged = Path(self.translate_path(self.path)), self.headers["Range"]
        self.asked.append(ranged)
        if ranged is None or not path.is_file():
            return super().do_GET()
        data = path.read_bytes()[int(ranged.removeprefix("bytes=").rstrip("-")) :]
        self.send_response(206)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


@pytest.fixture
def server(mirror: Path) -> Iterator[tuple[str, list[str | None]]]:
    """The address of a server of the mirror, and the ranges that it was asked for."""
    asked: list[str | None] = []
    handler = partial(WithRanges, directory=str(mirror), asked=asked)
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as running:
        thread = threading.Thread(target=running.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{running.server_address[1]}", asked
        running.shutdown()
        thread.join()


def test_a_model_is_pulled_from_a_folder_and_then_found(mirror: Path, tmp_path: Path) -> None:
    with pytest.raises(KalpanaError, match="not here: run `kalpana weights pull small`"):
        find_model("small")
    folder = pull("small", str(mirror))
    assert folder == tmp_path / "cache/kalpana/weights/small" == find_model("small")
    names = sorted(path.name for path in folder.iterdir())
    assert names == [".lock", "card.json", "vae.safetensors"]
    assert fingerprint(folder / "vae.safetensors") == fingerprint(mirror / "small/vae.safetensors")
    assert pull("small") == folder  # no mirror is needed for what is here


def test_the_folder_of_the_environment_is_searched_first(
    mirror: Path, shipped: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KALPANA_WEIGHTS", str(tmp_path / "own"))
    with pytest.raises(KalpanaError, match="is no folder: create it"):
        model_folders()
    seal(tmp_path / "own/vqgan", "vqgan", "vqgan.safetensors", seed=5)
    assert find_model("vqgan") == tmp_path / "own/vqgan"
    assert cards.vqgan_of(tmp_path) == tmp_path / "own/vqgan/vqgan.safetensors"
    with pytest.raises(KalpanaError, match="not here"):
        find_model("small")
    (tmp_path / "own/small").mkdir()  # a card alone is no match for weights elsewhere
    write_card(tmp_path / "own/small", read_card(mirror / "small"))
    seal(shipped / "small", "vae", "vae.safetensors", seed=1)
    assert find_model("small") == shipped / "small"


def test_a_pull_over_http_resumes(
    mirror: Path, server: tuple[str, list[str | None]], tmp_path: Path
) -> None:
    address, asked = server
    data = (mirror / "small/vae.safetensors").read_bytes()
    part = tmp_path / "to/small/vae.safetensors.part"
    part.parent.mkdir(parents=True)
    part.write_bytes(data[:1000])
    folder = pull("small", address, tmp_path / "to")
    assert asked == ["bytes=1000-"]
    assert (folder / "vae.safetensors").read_bytes() == data and not part.exists()


def test_a_partial_file_of_other_weights_is_fetched_anew(
    mirror: Path, server: tuple[str, list[str | None]], tmp_path: Path
) -> None:
    address, asked = server
    data = (mirror / "small/vae.safetensors").read_bytes()
    for base in (address, str(mirror)):
        part = tmp_path / f"{len(base)}/small/vae.safetensors.part"
        part.parent.mkdir(parents=True)
        part.write_bytes(bytes(1000))
        folder = pull("small", base, part.parents[1])
        assert (folder / "vae.safetensors").read_bytes() == data
    assert asked == ["bytes=1000-", None]


def test_a_model_that_the_package_does_not_know_brings_its_card(
    mirror: Path, server: tuple[str, list[str | None]]
) -> None:
    seal(mirror / "new", "vae", "vae.safetensors", seed=3)
    assert read_card(pull("new", server[0])) == read_card(mirror / "new")
    assert find_model("new").name == "new"


def test_a_file_with_another_hash_is_refused(mirror: Path, tmp_path: Path) -> None:
    save_weights(mirror / "small/vae.safetensors", nn.Linear(2, 2), "vae", Config(), {})
    with pytest.raises(KalpanaError, match=r"vae\.safetensors is not the file that the card"):
        pull("small", str(mirror))
    assert not list((tmp_path / "cache/kalpana/weights").rglob("*.safetensors*"))


def test_a_shared_vqgan_is_used_or_pulled(shipped: Path, mirror: Path, tmp_path: Path) -> None:
    save_weights(mirror / "tokens/dalle.safetensors", nn.Linear(2, 2), "dalle", Config(), {})
    write_hashes(mirror / "tokens")  # its VQGAN is that of the package
    folder = pull("tokens", str(mirror))
    assert not (folder / "vqgan.safetensors").exists() and cards.differences(folder) == []
    (shipped / "vqgan").rename(mirror / "vqgan")
    folder = pull("tokens", str(mirror), tmp_path / "to")
    assert (folder.parent / "vqgan/vqgan.safetensors").is_file()


def test_mistakes_are_one_line(
    mirror: Path, server: tuple[str, list[str | None]], tmp_path: Path
) -> None:
    bad = Card(name="bad", family="vae", files={"../a.safetensors": "0" * 64})
    (mirror / "bad").mkdir()
    write_card(mirror / "bad", bad)
    for name, base, message in (
        ("small", None, "there is no mirror to pull small from"),
        ("small", str(tmp_path / "none"), "neither a folder nor an https address"),
        ("small", "http://127.0.0.1:1", "cannot be read"),
        ("small", "http://[", "cannot be read"),
        ("none", server[0], "has no model 'none'"),
        ("none", str(mirror), "has no model 'none'"),
        ("../small", str(mirror), "is no name of a model"),
        ("bad", str(mirror), "is no plain file name"),
    ):
        with pytest.raises(KalpanaError, match=message) as caught:
            pull(name, base)
        assert "\n" not in str(caught.value)


@pytest.mark.slow
def test_the_command_pulls_and_models_tells_where_they_are(
    mirror: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run(*arguments: str) -> str:
        done = CliRunner().invoke(app, arguments)
        assert done.exit_code == 0, done.stderr
        return done.stdout

    listed = run("models")
    assert "missing vae.safetensors: run `kalpana weights pull small`" in listed
    assert "vqgan: vqgan, 0.0 million parameters, unknown, inside" in listed
    monkeypatch.setenv("KALPANA_WEIGHTS", str(tmp_path / "own"))
    monkeypatch.setenv("KALPANA_WEIGHTS_URL", str(mirror))
    folder = str(tmp_path / "own/small")
    assert run("weights", "pull", "small") == f"{folder}\n"
    assert f"small: vae, 0.0 million parameters, unknown, {folder}" in run("models")
    assert run("weights", "verify") == "small: as its card says\nvqgan: as its card says\n"


def test_the_wheel_holds_a_core_set_and_stays_small() -> None:
    """Sizes without compression, which are an upper bound of those in the wheel."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    wheel = project["tool"]["hatch"]["build"]["targets"]["wheel"]
    core = [each.split("/")[1] for each in wheel["exclude"] if each.startswith("!")]
    assert {"default", "clip", "vqgan", "dalle", "upscale", "verifier-a"} <= set(core)
    total = sum(path.stat().st_size for path in (ROOT / "src").rglob("*") if path.is_file())
    for name in core:
        files = list((ROOT / "weights" / name).glob("*.safetensors"))
        assert files, name
        total += sum(path.stat().st_size for path in files)
    assert total < 105e6
