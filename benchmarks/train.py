"""Training speed of the flow transformer: samples a second, share of the peak, and a profile.

Peak and training are in bf16 if the CPU computes in it, else in fp32. The peak is the fastest of
many large square products in the same process. The arithmetic of a step is torch's count of its
matrix products, forward and backward; a step also has captions, an optimizer, casts and elementwise
work.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable, Iterator

import torch
from measure import Row, duration, main
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode

from kalpana.train.checkpoint import State
from kalpana.train.data_cache import silent
from kalpana.train.flow import FlowTask
from kalpana.train.loop import compile_blocks, make_optimizers, train_step
from kalpana.train.recipe import read_recipe
from kalpana.train.task import SORT, autocast, has_bf16

KINDS = {
    "matrix products": ("aten::mm", "aten::addmm", "aten::bmm", "aten::baddbmm"),
    "convolutions": ("aten::mkldnn_convolution", "aten::convolution_backward"),
    "casts and copies": ("aten::copy_", "aten::cat", "aten::fill_"),
}


def peak(side: int, seconds: float, precision: torch.dtype) -> float:
    """The highest rate of ``side`` x ``side`` matrix products, in operations a second.

    The products together fill ``seconds``.
    """
    a, b = torch.randn(2, side, side).to(precision)
    best, until = float("inf"), time.perf_counter() + seconds
    while best == float("inf") or time.perf_counter() < until:
        start = time.perf_counter()
        a @ b
        best = min(best, time.perf_counter() - start)
    return 2 * side**3 / best


def rows(quick: bool) -> Iterator[Row]:
    with tempfile.TemporaryDirectory() as cache:
        os.environ["XDG_CACHE_HOME"] = cache  # the cached pictures are deleted at the end
        yield from _rows(quick)


def _rows(quick: bool) -> Iterator[Row]:
    side, seconds, steps = (256, 0, 2) if quick else (2048, 30, SORT)
    recipe = read_recipe("flow")
    sizes = {"num_images": 2048, "batch": 64}
    if quick:
        sizes = {"num_images": 16, "batch": 2, "compile": False}
    recipe = recipe.model_copy(update=sizes)
    task = FlowTask(recipe, torch.device("cpu"), silent)
    state = State(
        task.model,
        {name: value.clone() for name, value in task.model.state_dict().items()},
        make_optimizers(task.model, recipe),
    )

    def learn() -> None:
        with autocast(task.device, recipe.bf16):
            progress = state.step / recipe.steps
            loss, _ = task.loss(task.batch(state.step), torch.Generator().manual_seed(0), progress)
        loss.backward()

    def optimize() -> None:
        for optimizer in state.optimizers:
            optimizer.step()

    def block(work: Callable[[], object]) -> None:
        # The steps whose captions are sorted by length together: shorter ones and longer ones.
        for _ in range(steps):
            work()
            state.step += 1

    with FlopCounterMode(display=False) as counter:
        block(learn)
    if recipe.compile:  # only now, because the counter cannot see compiled operations
        compile_blocks(task.model)
    halves = recipe.bf16 and has_bf16(task.device)
    precision, name = (torch.bfloat16, "bf16") if halves else (torch.float32, "fp32")
    limit = peak(side, seconds / 6, precision)
    taken = duration(
        lambda: block(lambda: train_step(task, state, recipe, task.batch(state.step))), seconds
    )
    samples, arithmetic = steps * recipe.batch, counter.get_total_flops()
    size = sum(parameter.numel() for parameter in task.model.parameters()) / 1e6
    how = (
        f"{size:.1f} M parameters, batch {recipe.batch}, cached latents, "
        f"captions drawn anew, {torch.get_num_threads()} threads"
    )
    yield Row("training: samples", f"{samples / taken:.0f} samples/s", "–", how)
    yield Row(
        "training: peak",
        f"{limit / 1e9:.0f} GFLOP/s",
        "–",
        f"{name} product of {side} x {side} matrices, the best of many, same process",
    )
    yield Row(
        "training: share of the peak",
        f"{arithmetic / taken / limit:.0%}",
        "≥ 50 %",
        f"{arithmetic / samples / 1e9:.1f} GFLOP a sample",
    )

    optimizing = duration(optimize, seconds / 5) * steps / taken
    with profile(activities=[ProfilerActivity.CPU]) as record:
        block(learn)
    spent = {event.key: event.self_cpu_time_total for event in record.key_averages()}
    parts = {
        kind: sum(v for key, v in spent.items() if key.startswith(names))
        for kind, names in KINDS.items()
    }
    parts = {kind: (1 - optimizing) * part / sum(spent.values()) for kind, part in parts.items()}
    parts |= {
        "optimizer": optimizing,
        "elementwise, captions and the rest": 1 - optimizing - sum(parts.values()),
    }
    where = ", ".join(f"{kind} {part:.0%}" for kind, part in parts.items())
    yield Row(
        "training: where a step goes",
        where,
        "–",
        "torch profiler, forward and backward; the optimizer timed alone",
    )


if __name__ == "__main__":
    main(rows)
