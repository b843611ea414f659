"""Ray Serve: the handlers of the server as replicas behind one address.

Each replica is a whole server with its own folder, and its own models in memory. Behind one address
are the endpoints that answer at once; jobs that are polled belong to one server, so they are not
among them.
"""

from __future__ import annotations

import signal
import threading
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kalpana.pipelines.bulk import start_ray
from kalpana.serve.settings import Settings
from kalpana.types import KalpanaError

if TYPE_CHECKING:
    from fastapi import FastAPI

NAME = "kalpana"
MOST_REPLICAS = 256


def replica_app(settings: Settings) -> FastAPI:
    """The application of one replica, in the first free folder ``replica-K`` of the server's."""
    from kalpana.serve.app import create_app
    from kalpana.serve.store import InUse

    for k in range(MOST_REPLICAS):
        folder = settings.folder / f"replica-{k}"
        with suppress(InUse):
            return create_app(replace(settings, folder=folder, peers=settings.folder))
    raise KalpanaError(f"all {MOST_REPLICAS} folders of replicas in {settings.folder} are in use")


def start(settings: Settings, replicas: int, host: str, port: int) -> None:
    """Start Ray, and replicas of the server behind one address, in this process's session.

    Raises KalpanaError without Ray, or for a setting that counts over all requests.
    """
    try:
        from ray import serve
    except ModuleNotFoundError as error:
        raise KalpanaError(f"--replicas needs {error.name}: pip install 'kalpana[scale]'") from None
    if settings.quota is not None:
        raise KalpanaError("--quota is counted by one server: leave it or --replicas out")
    absolute = replace(settings, folder=Path(settings.folder).resolve())

    def build() -> Any:
        return replica_app(absolute)

    @serve.deployment(name=NAME, num_replicas=replicas, max_ongoing_requests=64)
    @serve.ingress(build)
    class Replica:
        pass

    deployment: Any = Replica

    start_ray(replicas)
    serve.start(http_options={"host": host, "port": port})
    serve.run(deployment.bind(), name=NAME, route_prefix="/")


def stop() -> None:
    """End the replicas and Ray; their folders stay."""
    import ray
    from ray import serve

    serve.shutdown()
    ray.shutdown()


def run(settings: Settings, replicas: int, host: str, port: int) -> None:
    """Serve by replicas until the process is told to stop."""
    ended = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: ended.set())
    start(settings, replicas, host, port)
    try:
        print(f"http://{host}:{port}", flush=True)
        ended.wait()
    finally:
        stop()
