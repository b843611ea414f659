"""Fixtures of a server of the tiny models, in process and as a process of its own."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image

if TYPE_CHECKING:
    from fastapi.testclient import TestClient

    from kalpana.serve.settings import Settings


def photo(seed: int = 0, size: tuple[int, int] = (32, 32), mode: str = "RGB") -> bytes:
    """A PNG of noise."""
    shape = (size[1], size[0], len(mode))
    levels = np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(levels, mode).save(file, "PNG")
    return file.getvalue()


@pytest.fixture
def settings(folder: Path, clip_folder: Path, tmp_path: Path) -> Settings:
    from kalpana.serve.settings import Settings

    return Settings(tmp_path / "server", models=(str(folder), str(clip_folder)))


@pytest.fixture
def client(settings: Settings) -> Iterator[TestClient]:
    from fastapi.testclient import TestClient

    from kalpana.serve.app import create_app

    with TestClient(create_app(settings)) as client:
        yield client


@pytest.fixture
def client_with(settings: Settings) -> Callable[..., Any]:
    """A context with a client of a server with other settings."""
    from fastapi.testclient import TestClient

    from kalpana.serve.app import create_app

    @contextmanager
    def serve(**changes: Any) -> Iterator[TestClient]:
        headers = changes.pop("headers", {})
        with TestClient(create_app(replace(settings, **changes)), headers=headers) as client:
            yield client

    return serve


class Process:
    """A server in a process of its own; ``url`` once it listens."""

    def __init__(self, server_folder: Path, *arguments: str) -> None:
        self.log = server_folder.with_suffix(".log").open("ab")
        command = [sys.executable, "-m", "kalpana", "serve", "--port", "0"]
        self.process = subprocess.Popen(
            [*command, "--folder", str(server_folder), *arguments],
            stdout=subprocess.PIPE,
            stderr=self.log,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
            text=True,
        )
        assert self.process.stdout is not None
        self.url = self.process.stdout.readline().strip()

    def end(self, kill: bool = False) -> None:
        if self.process.poll() is None:
            self.process.kill() if kill else self.process.terminate()
        self.process.wait()
        assert self.process.stdout is not None
        self.process.stdout.close()
        self.log.close()


@pytest.fixture
def start(folder: Path, clip_folder: Path, tmp_path: Path) -> Iterator[Callable[..., Process]]:
    """Starts a server process of the tiny models in a folder."""
    started: list[Process] = []

    def start(*arguments: str) -> Process:
        models = ["--model", str(folder), "--model", str(clip_folder)]
        started.append(Process(tmp_path / "server", *models, *arguments))
        return started[-1]

    yield start
    for each in started:
        each.end(kill=True)
