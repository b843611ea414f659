"""Bulk generation by Ray Data: many prompts, by processes that each load the model once.

The picture of a prompt depends on its number and the settings alone, and is written all or nothing.
So a run that was stopped, or is begun again with more workers, generates what is missing.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kalpana.media import SUFFIX, ready_folder, write
from kalpana.pipelines import last, load
from kalpana.request import Request
from kalpana.types import KalpanaError

MANIFEST = "bulk.json"  # the settings of the run in a folder
IN_FOLDER = 1000  # prompts whose pictures share a folder
AT_ONCE = 16  # prompts that are handed to a worker at once


@dataclass(frozen=True)
class Done:
    """A prompt that was worked on: its number from 1, the files, and the error if it failed."""

    number: int
    paths: tuple[Path, ...]
    error: str | None


def generate_all(
    prompts: Sequence[str], fields: dict[str, Any], out: Path, workers: int, device: str | None
) -> Iterator[Done]:
    """Generate the pictures of prompts that are not in the folder ``out`` yet.

    Without a seed in ``fields`` it is 0; each prompt begins where the one before ends. Raises
    KalpanaError without Ray, or if the folder holds a run with other settings.
    """
    try:
        import ray
    except ModuleNotFoundError as error:
        raise KalpanaError(f"--workers needs {error.name}: pip install 'kalpana[scale]'") from None
    first = Request(prompt=prompts[0], **{"seed": 0, **fields})  # checks the settings
    if first.seeds is not None:
        raise KalpanaError("--seeds does not fit --workers: write --seed, from which they count up")
    out = out.resolve()
    ready_folder(out, 0)
    _check_manifest(out, first, prompts)
    here = Counter(path.name.partition("-")[0] for path in _pictures(out.glob("*/*-*")))
    rows = [
        {"number": number, "prompt": prompt}
        for number, prompt in enumerate(prompts, start=1)
        if here[_name(number)] < first.n
    ]
    if found := len(prompts) - len(rows):
        print(f"{found} of {len(prompts)} prompts are here already", file=sys.stderr)
    if not rows:
        return
    start_ray(workers)
    ray.data.DataContext.get_current().enable_progress_bars = False
    import pyarrow

    drawn = ray.data.from_arrow(pyarrow.Table.from_pylist(rows)).map_batches(
        Worker,
        fn_constructor_args=(str(first.model), fields, str(out), device),
        batch_size=AT_ONCE,
        compute=ray.data.ActorPoolStrategy(size=workers),
    )
    for row in drawn.iter_rows():
        paths = tuple(map(Path, json.loads(row["paths"])))
        yield Done(int(row["number"]), paths, row["error"] or None)


def start_ray(workers: int) -> None:
    """Start Ray for so many workers: on the cluster of RAY_ADDRESS, else on this machine."""
    import ray

    if not ray.is_initialized():
        cluster = "RAY_ADDRESS" in os.environ
        cpus = None if cluster else max(os.cpu_count() or 1, workers + 1)  # one for Ray's own tasks
        ray.init(num_cpus=cpus, include_dashboard=False, log_to_driver=False, logging_level="ERROR")


class Worker:
    """A process with the model in memory."""

    def __init__(
        self, model: str, fields: dict[str, Any], out: str, device: str | None = None
    ) -> None:
        self._pipeline = load(model, device)
        self._fields, self._out = fields, Path(out)

    def __call__(self, batch: dict[str, Any]) -> dict[str, list[Any]]:
        """The rows ``number``, ``paths`` (JSON) and ``error`` (or "") of a batch of prompts."""
        rows: dict[str, list[Any]] = {"number": [], "paths": [], "error": []}
        for number, prompt in zip(batch["number"], batch["prompt"], strict=True):
            paths, error = list[str](), ""
            try:
                paths = [str(path) for path in self._saved(int(number), str(prompt))]
            except (KalpanaError, OSError) as problem:
                error = str(problem)
            for name, value in (("number", number), ("paths", json.dumps(paths)), ("error", error)):
                rows[name].append(value)
        return rows

    def _saved(self, number: int, prompt: str) -> Iterator[Path]:
        request = Request(prompt=prompt, **self._fields)
        request = request.updated(seed=(request.seed or 0) + (number - 1) * request.n)
        folder = self._out / f"{(number - 1) // IN_FOLDER:04}"
        folder.mkdir(exist_ok=True)
        for old in _pictures(folder.glob(f"{_name(number)}-*")):  # of a run stopped between two
            old.unlink()
        for output in last(self._pipeline.generate(request)).outputs:
            format = output.receipt["resolved"]["format"]
            name = f"{_name(number)}-{output.seed}{SUFFIX.get(format, f'.{format}')}"
            written = output.save(folder / name)
            assert written.path is not None
            yield written.path


def _name(number: int) -> str:
    return f"{number:07}"


def _pictures(paths: Iterable[Path]) -> list[Path]:
    """The pictures and videos among files, without the receipts beside them."""
    return [path for path in paths if path.suffix != ".json"]


def _check_manifest(out: Path, request: Request, prompts: Sequence[str]) -> None:
    """Write the settings and the prompts of a run, or compare them with those of the run in the
    folder, whose prompts may have got more."""
    path = out / MANIFEST
    settings = {k: v for k, v in request.to_json().items() if k != "prompt"}
    if path.exists():
        try:
            before = json.loads(path.read_bytes())
            old, count, digest = before["request"], before["prompts"], before["sha256"]
        except (ValueError, KeyError, TypeError):
            raise KalpanaError(f"{path} is damaged: name another folder by --out") from None
        advice = "write the same, or name another folder by --out"
        for name in sorted({*old, *settings}):
            if old.get(name) != settings.get(name):
                raise KalpanaError(
                    f"{out} holds a run with other settings ({name} was {old.get(name)}): {advice}"
                )
        if _digest(prompts[:count]) != digest:
            raise KalpanaError(f"{out} holds a run with other prompts: {advice}")
    about = {"request": settings, "prompts": len(prompts), "sha256": _digest(prompts)}
    write(path, json.dumps(about, indent=1).encode())


def _digest(prompts: Sequence[str]) -> str:
    return hashlib.sha256("\n".join(prompts).encode()).hexdigest()
