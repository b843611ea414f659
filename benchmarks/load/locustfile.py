"""The requests of one client of the load test: pictures, and in between what a page asks for."""

from __future__ import annotations

from itertools import count

from locust import FastHttpUser, constant, events, task
from locust.env import Environment

SEEDS = count()
ASK = {"prompt": "three red apples", "steps": 2, "response_format": "b64_json"}


class Client(FastHttpUser):
    """Asks for the next picture as soon as it has one."""

    wait_time = constant(0)
    connection_timeout = network_timeout = 300.0

    @task(8)
    def picture(self) -> None:
        self.client.post("/v1/images/generations", json=ASK | {"seed": next(SEEDS)})

    @task(1)
    def expansion(self) -> None:
        self.client.post("/v1/expand", json={"prompt": "a red apple"})

    @task(1)
    def models(self) -> None:
        self.client.get("/v1/models")


@events.init_command_line_parser.add_listener
def _most(parser: object) -> None:
    parser.add_argument("--requests", type=int, default=0, help="stop after so many; 0: never")  # type: ignore[attr-defined]


@events.init.add_listener
def _stop_after(environment: Environment, **_: object) -> None:
    most = environment.parsed_options.requests if environment.parsed_options else 0

    def counted(**_: object) -> None:
        if most and environment.runner and environment.stats.total.num_requests >= most:
            environment.runner.quit()

    environment.events.request.add_listener(counted)
