"""Cost of a model: its parameters, training FLOPs and peak memory when sampling."""

from __future__ import annotations

import resource
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from kalpana.hub.card import CARD, find_model, read_card, weights_of
from kalpana.hub.weights import provenance, whole_of
from kalpana.pipelines import last, load
from kalpana.train.data_cache import silent
from kalpana.train.loop import make_task
from kalpana.train.recipe import Recipe, saved_recipe
from kalpana.train.task import SORT
from kalpana.types import KalpanaError

BATCHES, BATCH = 8, 4  # spread over a run: the FLOPs of a training sample are their mean


@dataclass(frozen=True)
class Cost:
    """The cost of a model; None where a value is unknown.

    ``parameters`` counts all networks that it samples with; ``flops`` is the training arithmetic
    of all of these (a multiply-add is 2); ``memory`` is the peak in bytes of a process that loads
    it and generates one picture.
    """

    parameters: int | None
    flops: float | None
    memory: int | None

    @classmethod
    def of(cls, name: str, prompt: str) -> Cost:
        """The cost of a model, by its name or folder; memory is measured on this prompt."""
        folder, peak = find_model(name), memory(name, prompt)
        if not (folder / CARD).is_file():  # a public checkpoint
            return cls(None, None, peak)
        card = read_card(folder)
        # One shard of each file of weights is enough: all shards hold the same metadata.
        whole = {whole_of(path): path for path in weights_of(folder, card.family)}
        try:
            return cls(card.parameters, sum(map(training, whole.values())), peak)
        except KalpanaError:  # no recipe in the metadata, or files that it needs are missing
            return cls(card.parameters, None, peak)


def cells(cost: Cost) -> tuple[str, str, str]:
    """Table cells: memory, parameters and training arithmetic."""
    memory = "–" if cost.memory is None else f"{cost.memory / 2**30:.2f} GiB"
    parameters = "–" if cost.parameters is None else f"{cost.parameters / 1e6:.1f} M"
    return memory, parameters, "–" if cost.flops is None else f"{cost.flops / 1e15:.2f} PFLOP"


def training(weights: Path) -> float:
    """Training FLOPs of these weights in matrix products and convolutions (a multiply-add is 2).

    Sums the samples of all runs that led to the weights, each at the cost of the latest recipe.
    Raises KalpanaError if the metadata holds no recipe, or if what the recipe needs is missing.
    """
    latest: dict[str, Any] | None = provenance(weights)
    try:
        each = sample(saved_recipe(latest["recipe"]))  # type: ignore[index]
    except (KeyError, KalpanaError):
        raise KalpanaError(f"{weights} does not say how it was trained") from None
    samples, training_run = 0, latest
    while training_run:
        samples, training_run = (
            samples + training_run.get("samples", 0),
            training_run.get("init") or training_run.get("grown_from"),
        )
    return samples * each


def sample(recipe: Recipe) -> float:
    """FLOPs of one training sample, forward and backward (a multiply-add is 2)."""
    small = recipe.model_copy(
        update={"num_images": SORT * BATCH, "batch": BATCH, "grad_accum": 1, "compile": False}
    )
    task = make_task(small, torch.device("cpu"), silent)
    rng = torch.Generator().manual_seed(0)
    # The counter misses fused attention, so the unfused kernel is used.
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        for k in range(BATCHES):
            loss, _ = task.loss(task.batch(k * recipe.steps // BATCHES), rng, k / BATCHES)
            loss.backward()
    return counter.get_total_flops() / (BATCHES * BATCH)


def memory(name: str, prompt: str) -> int:
    """Peak memory in bytes of a separate process that generates one picture with this model."""
    code = "import sys; from kalpana.evaluate.cost import peak; print(peak(*sys.argv[1:]))"
    # In a session of its own, so that Ctrl-C reaches this process alone, which ends the other.
    done = subprocess.run(
        [sys.executable, "-c", code, name, prompt],
        capture_output=True,
        text=True,
        start_new_session=True,
    )
    if done.returncode:
        reason = done.stderr.strip().splitlines()[-1:] or ["it was killed"]
        raise KalpanaError(f"no picture of {name} could be drawn to measure memory: {reason[0]}")
    return int(done.stdout)


def peak(name: str, prompt: str) -> int:
    """Generate one picture in this process; returns its peak memory in bytes."""
    last(load(name).generate(prompt, model=name, seed=0))
    if sys.platform == "linux":  # getrusage there includes the memory of the parent at the start
        status = Path("/proc/self/status").read_text().splitlines()
        lines = dict(line.split(":", 1) for line in status)
        return int(lines["VmHWM"].split()[0]) * 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
