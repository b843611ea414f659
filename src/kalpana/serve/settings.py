"""Settings of the server, and the objects that its routes share."""

from __future__ import annotations

import hashlib
import secrets
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from kalpana.types import KalpanaError

if TYPE_CHECKING:
    from starlette.requests import Request as HttpRequest

    from kalpana.serve.jobs import Jobs
    from kalpana.serve.models import Models

LOOPBACK = ("127.0.0.1", "localhost", "::1")
SHORTEST_KEY = 16  # characters


@dataclass(frozen=True)
class Settings:
    """Settings of the server.

    - ``folder``: of the jobs, their inputs and their outputs
    - ``models``: names or folders of weights; empty: all models that come with Kalpana
    - ``max_models``: number of models in memory; the least recently used one is dropped
    - ``memory``: bytes of the models in memory; None: any number
    - ``adapters``: folder of adapters (LoRA) that requests may name; None: there are none
    - ``api_keys``: SHA-256 of the keys; empty: no key is asked for
    - ``hosts``: accepted values of the Host header, without the port; empty: any
    - ``origins``: web pages of other hosts that may call the server (CORS)
    - ``rate``: POST requests a minute of one client
    - ``max_body``: bytes of a request; ``max_input_pixels``: of an uploaded picture
    - ``max_pixels``: of one output, over all frames; ``max_n``: outputs of a request
    - ``max_prompt``: characters; ``max_queue``: waiting jobs of one client
    - ``quota``: outputs of one client on a day (UTC); None: any number
    - ``peers``: folder whose folders belong to the replicas behind the same address; None: alone
    - ``link_key``: signs links; the same for all replicas
    - ``patience``: seconds without a byte of a request's body after which it is given up
    """

    folder: Path
    models: tuple[str, ...] = ()
    device: str | None = None
    max_models: int = 2
    memory: int | None = None
    adapters: Path | None = None
    api_keys: tuple[str, ...] = ()
    hosts: tuple[str, ...] = ()
    origins: tuple[str, ...] = ()
    rate: int = 600
    max_body: int = 64 << 20
    max_input_pixels: int = 40_000_000
    max_pixels: int = 64 << 20
    max_n: int = 64
    max_prompt: int = 32_000
    max_queue: int = 256
    quota: int | None = None
    peers: Path | None = None
    link_key: bytes = field(default_factory=lambda: secrets.token_bytes(32), repr=False)
    patience: float = 30.0


def hashed_keys(keys: list[str]) -> tuple[str, ...]:
    """SHA-256 of API keys. Raises KalpanaError for a key that is too short."""
    if any(len(key) < SHORTEST_KEY for key in keys):
        raise KalpanaError(f"an API key has at least {SHORTEST_KEY} characters: write a longer one")
    return tuple(hashlib.sha256(key.encode()).hexdigest() for key in keys)


@dataclass
class Server:
    """What the routes share: settings, models, jobs, and counters of HTTP answers by status."""

    settings: Settings
    models: Models
    jobs: Jobs
    answers: dict[int, int] = field(default_factory=dict)
    sd_model: str | None = None  # the checkpoint chosen by /sdapi/v1/options


def server_of(request: HttpRequest) -> Server:
    """The server that answers an HTTP request."""
    return request.app.state.server


def client_of(request: HttpRequest) -> str:
    """The client of an HTTP request: by its API key, or its address where there are no keys."""
    return request.scope["client_name"]
