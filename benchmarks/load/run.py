"""Load table of the server with a tiny random model: requests a second, latency, errors, memory.

Needs locust: pip install locust. The model is tiny, so that the server is measured, not a network.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

import torch
from torch import nn

from kalpana.hub.card import Card, write_card, write_hashes
from kalpana.hub.weights import save_weights
from kalpana.models import dit, vae

CLIENTS = (1, 8, 64, 256)
HEADER = "| clients | requests | requests/s | p50 | p95 | errors | memory before | after |"


def tiny_model(folder: Path) -> Path:
    """The folder of a tiny flow model with random weights."""
    torch.manual_seed(0)
    network = dit.DiT(dit.Config(width=32, depth=2, heads=2, text_depth=1, fine=8))
    decoder = vae.VAE(vae.Config(fine=8, coarse=8, encoder=(1, 1), decoder=(1, 1)))
    for parameter in [*network.parameters(), *decoder.parameters()]:
        nn.init.normal_(parameter, std=0.2)
    save_weights(folder / "dit.safetensors", network, "flow", network.config, {})
    save_weights(folder / "vae.safetensors", decoder, "vae", decoder.config, {})
    able = {"sizes": ("32x32",), "defaults": {"steps": 2, "size": "32x32"}}
    write_card(folder, Card(name="tiny", family="flow", capabilities=able))
    write_hashes(folder)
    return folder


@contextmanager
def serving(place: Path) -> Iterator[tuple[str, int]]:
    """The address and the process id of a server of the tiny model."""
    command = [sys.executable, "-m", "kalpana", "serve", "--port", "0", "--rate", "1000000"]
    command += ["--model", str(tiny_model(place / "model")), "--folder", str(place / "server")]
    with (place / "log").open("wb") as log:
        server = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True)
        assert server.stdout is not None
        yield server.stdout.readline().strip(), server.pid
        server.terminate()
        server.wait()


def resident(pid: int) -> float:
    """MiB of memory of a process."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * 4096 / 2**20


def load(url: str, clients: int, seconds: int, requests: int) -> dict[str, Any]:
    """The statistics of locust over all requests of so many clients."""
    file = Path(__file__).with_name("locustfile.py")
    command = [sys.executable, "-m", "locust", "-f", str(file), "--headless", "--json"]
    command += ["--host", url, "-u", str(clients), "-r", str(clients), "-t", f"{seconds}s"]
    command += ["--requests", str(requests), "--loglevel", "ERROR", "--exit-code-on-error", "0"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    try:
        rows = json.loads(done.stdout)
    except ValueError:
        sys.exit(f"locust failed, perhaps pip install locust: {done.stderr[-500:]}")
    if not rows:
        sys.exit(f"no request of {clients} clients ended within {seconds} s: take more --seconds")
    times: dict[float, int] = {}
    for row in rows:
        for time, count in row["response_times"].items():
            times[float(time)] = times.get(float(time), 0) + count
    spent = max(row["last_request_timestamp"] for row in rows) - min(
        row["start_time"] for row in rows
    )
    count = sum(row["num_requests"] for row in rows)
    errors = sum(row["num_failures"] for row in rows)
    return {"requests": count, "rate": count / spent, "errors": errors, "times": times}


def warm(url: str) -> None:
    """Load the model and the grammar of the server."""
    for path in ("/v1/images/generations", "/v1/expand"):
        ask = Request(
            f"{url}{path}",
            b'{"prompt": "a red apple"}',
            headers={"content-type": "application/json"},
        )
        with urlopen(ask, timeout=600) as answer:
            answer.read()


def quantile(times: dict[float, int], share: float) -> float:
    """The time in ms that a share of the requests stayed within."""
    left = share * sum(times.values())
    for time, count in sorted(times.items()):
        left -= count
        if left <= 0:
            return time
    return 0.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=int, default=60, help="of each number of clients")
    parser.add_argument("--requests", type=int, default=0, help="of each; 0: as many as come")
    parser.add_argument("--clients", type=int, nargs="+", default=CLIENTS)
    asked = parser.parse_args()
    print(HEADER, "|---" * 8 + "|", sep="\n", flush=True)
    with tempfile.TemporaryDirectory() as place, serving(Path(place)) as (url, pid):
        warm(url)
        for clients in asked.clients:
            before = resident(pid)
            found = load(url, clients, asked.seconds, asked.requests)
            p50, p95 = (quantile(found["times"], share) for share in (0.5, 0.95))
            print(
                f"| {clients} | {found['requests']:,} | {found['rate']:.1f} | {p50:,.0f} ms "
                f"| {p95:,.0f} ms | {found['errors']} | {before:.0f} MiB "
                f"| {resident(pid):.0f} MiB |",
                flush=True,
            )


if __name__ == "__main__":
    main()
