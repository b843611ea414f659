"""The ``serve`` command: the HTTP server."""

from __future__ import annotations

import logging
import socket
from pathlib import Path
from typing import Annotated

import typer

from kalpana.cli.options import Device
from kalpana.types import KalpanaError

BACKLOG = 2048  # connections that wait to be accepted


def serve(
    host: Annotated[
        str, typer.Option(help="address to listen on; any but 127.0.0.1 needs an API key")
    ] = "127.0.0.1",
    port: Annotated[
        int, typer.Option(min=0, max=65535, help="port to listen on; 0 takes a free one")
    ] = 8000,
    folder: Annotated[
        Path, typer.Option(help="folder of the jobs and their pictures, created if missing")
    ] = Path("server"),
    model: Annotated[
        list[str] | None,
        typer.Option(
            help="a name from `kalpana models` or a folder of weights; can be given several times; "
            "by default all that come with Kalpana"
        ),
    ] = None,
    api_key: Annotated[
        list[str] | None,
        typer.Option(
            envvar="KALPANA_API_KEY",
            help="a key that clients have to send, at least 16 characters; can be given several "
            "times, one for each client; the variable keeps it out of the list of processes",
        ),
    ] = None,
    max_models: Annotated[
        int, typer.Option(min=1, help="how many models stay in memory; the least used one goes")
    ] = 2,
    memory: Annotated[
        int | None,
        typer.Option(min=1, help="MiB of the weights of models in memory, any number by default"),
    ] = None,
    adapters: Annotated[
        Path | None,
        typer.Option(help="folder of adapters (LoRA), which requests may use by their names"),
    ] = None,
    quota: Annotated[
        int | None,
        typer.Option(min=1, help="outputs of one client on a day (UTC), any number by default"),
    ] = None,
    replicas: Annotated[
        int,
        typer.Option(
            min=1, max=256, help="servers behind one address, by Ray Serve, without polled jobs"
        ),
    ] = 1,
    max_body: Annotated[int, typer.Option(min=1, help="MiB of a request")] = 64,
    max_n: Annotated[int, typer.Option(min=1, max=256, help="pictures of a request")] = 64,
    rate: Annotated[int, typer.Option(min=1, help="POST requests a minute of one client")] = 600,
    allow_origin: Annotated[
        list[str] | None,
        typer.Option(
            help="a web page of another host that may call the server, such as "
            "https://example.org; can be given several times"
        ),
    ] = None,
    device: Device = None,
) -> None:
    """Serve pictures over HTTP: OpenAI's API, jobs that survive a crash, and their pictures."""
    try:
        import python_multipart  # noqa: F401
        import uvicorn

        from kalpana.serve.app import create_app
        from kalpana.serve.connections import Connection, allow_many_files
        from kalpana.serve.gate import JsonLines
        from kalpana.serve.settings import LOOPBACK, Settings, hashed_keys
    except ModuleNotFoundError as error:
        raise KalpanaError(f"the server needs {error.name}: pip install 'kalpana[serve]'") from None
    keys = hashed_keys(api_key or [])
    if host not in LOOPBACK and not keys:
        raise KalpanaError(
            f"--host {host} can be reached from other machines: give a key by --api-key or the "
            "variable KALPANA_API_KEY"
        )
    settings = Settings(
        folder=folder,
        models=tuple(model or ()),
        device=device,
        max_models=max_models,
        memory=None if memory is None else memory << 20,
        adapters=adapters,
        quota=quota,
        api_keys=keys,
        hosts=LOOPBACK if host in LOOPBACK else (),
        origins=tuple(allow_origin or ()),
        rate=rate,
        max_body=max_body << 20,
        max_n=max_n,
    )
    allow_many_files()
    if replicas > 1:
        from kalpana.serve.scale import run

        run(settings, replicas, host, port)
        return
    with _bound(host, port) as listener:
        app = create_app(settings)
        name = f"[{host}]" if ":" in host else host
        print(f"http://{name}:{listener.getsockname()[1]}", flush=True)
        handler = logging.StreamHandler()
        handler.setFormatter(JsonLines())
        logging.basicConfig(level=logging.INFO, handlers=[handler])
        config = uvicorn.Config(
            app, http=Connection, log_config=None, access_log=False, server_header=False
        )
        config.timeout_graceful_shutdown = 5  # seconds that open streams get
        uvicorn.Server(config).run(sockets=[listener])


def _bound(host: str, port: int) -> socket.socket:
    """A socket that listens at an address. Raises KalpanaError if it is taken or not here."""
    listener = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        listener.listen(BACKLOG)
    except OSError as error:
        listener.close()
        raise KalpanaError(
            f"cannot listen on {host} port {port}: {error.strerror}; name another by --port, "
            "or 0 for a free one"
        ) from None
    return listener
