"""What a model costs beside its pictures: its parameters, the arithmetic of its training, and the memory it draws in."""

from __future__ import annotations

import resource
import sys
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from kalpana.hub.card import CARD, find_model, read_card, weights_of
from kalpana.hub.weights import provenance, whole_of
from kalpana.pipelines import last, load
from kalpana.train.data_cache import silent
from kalpana.train.recipe import Recipe
from kalpana.train.task import SORT
from kalpana.train.tasks import TASKS
from kalpana.types import KalpanaError

BATCHES, BATCH = 8, 4  # from all over a run, of which the arithmetic of a sample is the mean


@dataclass(frozen=True)
class Cost:
    """Of a model: ``parameters`` of all that it draws with; ``flops`` that its training took, products and sums apart, of all weights it
    draws with; ``memory``, the most bytes that a process has which loads it and draws a picture. None is not known."""

    parameters: int | None
    flops: float | None
    memory: int | None

    @classmethod
    def of(cls, name: str, prompt: str) -> Cost:
        """The cost of a model by its name or folder, drawing this prompt."""
        folder, peak = find_model(name), memory(name, prompt)
        if not (folder / CARD).is_file():  # a public checkpoint
            return cls(None, None, peak)
        card = read_card(folder)
        whole = {
            whole_of(path): path for path in weights_of(folder, card.family)
        }  # every shard says the same
        try:
            return cls(card.parameters, sum(map(training, whole.values())), peak)
        except KalpanaError:  # trained by something that is not here
            return cls(card.parameters, None, peak)


def training(weights: Path) -> float:
    """Products and sums, apart, of matrices and convolutions in the training of these weights: of the samples of all its sittings, each as
    the latest recipe has it. Raises KalpanaError where the weights do not say, or what that recipe needs is not here."""
    latest: dict[str, Any] | None = provenance(weights)
    try:
        each = sample(Recipe(**latest["recipe"]))  # type: ignore[index]
    except (KeyError, ValidationError):
        raise KalpanaError(f"{weights} does not say how it was trained") from None
    samples, sitting = 0, latest
    while sitting:
        samples, sitting = (
            samples + sitting.get("samples", 0),
            sitting.get("init") or sitting.get("grown_from"),
        )
    return samples * each


def sample(recipe: Recipe) -> float:
    """Products and sums, apart, that a sample takes there and back."""
    small = recipe.model_copy(
        update={"num_images": SORT * BATCH, "batch": BATCH, "grad_accum": 1, "compile": False}
    )
    task, rng = (
        TASKS[recipe.family](small, torch.device("cpu"), silent),
        torch.Generator().manual_seed(0),
    )
    with (
        sdpa_kernel(SDPBackend.MATH),
        FlopCounterMode(display=False) as counter,
    ):  # what is fused is not counted
        for k in range(BATCHES):
            loss, _ = task.loss(task.batch(k * recipe.steps // BATCHES), rng)
            loss.backward()
    return counter.get_total_flops() / (BATCHES * BATCH)


def memory(name: str, prompt: str) -> int:
    """The most bytes that a process of its own held which drew one picture by this model."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as alone:
        return alone.submit(_most, name, prompt).result()


def _most(name: str, prompt: str) -> int:
    last(load(name).generate(prompt, model=name, seed=0))
    if (
        sys.platform == "linux"
    ):  # where getrusage also counts what the process that began this one held then
        lines = dict(
            line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines()
        )
        return int(lines["VmHWM"].split()[0]) * 1024
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most * 1024
