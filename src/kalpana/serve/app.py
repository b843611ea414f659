"""The application: all routes, behind the gate, and the worker that starts and stops with it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI
from starlette.concurrency import run_in_threadpool
from starlette.middleware.cors import CORSMiddleware

from kalpana import __version__
from kalpana.serve import (
    about,
    images,
    job_api,
    page,
    sdapi,
    search,
    tools,
    understand,
    videos,
    web,
)
from kalpana.serve.adapters import Adapters
from kalpana.serve.errors import add_handlers
from kalpana.serve.gate import Gate
from kalpana.serve.jobs import Jobs
from kalpana.serve.models import Models
from kalpana.serve.settings import Server, Settings
from kalpana.serve.store import Store


def create_app(settings: Settings) -> FastAPI:
    """The application of a server, which can be started once: the worker runs, and the folder is
    locked, until it ends. A replica, which has peers, has only the routes that answer at once.
    Raises KalpanaError if a model is not here, or as ``Store``.
    """
    models = Models(
        settings.models,
        settings.device,
        settings.max_models,
        settings.memory,
        Adapters(settings.adapters),
    )
    jobs = Jobs(Store(settings.folder), models, settings.max_queue, settings.quota)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        jobs.start()
        try:
            yield
        finally:
            await run_in_threadpool(jobs.close)
            jobs.store.close()

    app = FastAPI(
        title="Kalpana", version=__version__, lifespan=lifespan, docs_url=None, redoc_url=None
    )
    server = Server(settings, models, jobs)
    app.state.server = server
    routers = [each.router for each in (images, understand, tools, about, page)]
    if settings.peers is None:
        routers += [each.router for each in (videos, search, job_api, sdapi, web)]
    for router in (*routers, job_api.files):
        app.include_router(router)
    add_handlers(app)
    app.add_middleware(Gate, server=server)
    if settings.origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=list(settings.origins),
            allow_methods=["GET", "POST", "DELETE"],
            allow_headers=["authorization", "content-type"],
        )
    return app
