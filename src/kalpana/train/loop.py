"""The training loop of every family.

A run has one folder: checkpoint.safetensors, log.jsonl and TensorBoard files, sample sheets, and at
the end the averaged weights with their provenance, named as in a model's folder. Started again, a
run resumes exactly; Ctrl-C, SIGTERM or SIGHUP saves a checkpoint and stops it.
"""

from __future__ import annotations

import math
import os
import platform
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import asdict
from itertools import chain, pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Generator, Tensor, nn
from torch.optim import AdamW, Muon, Optimizer
from torch.utils.data import DataLoader, Dataset

from kalpana.families import FAMILIES, find
from kalpana.hub.card import CHECKPOINT
from kalpana.hub.weights import files_of, find_device, fingerprint, read_weights, save_weights
from kalpana.hub.weights import provenance as provenance_of
from kalpana.media import grid, locked, to_images
from kalpana.train import checkpoint
from kalpana.train.recipe import Recipe, check_recipe, located
from kalpana.train.run import Log, asked_to_stop, one_line_errors
from kalpana.train.task import SORT, Metrics, Task, autocast, has_bf16, moved
from kalpana.train.vqgan import AdversarialPair
from kalpana.types import KalpanaError
from kalpana.world.world import VERSION

SHAPES = 64  # recompilation limit; torch's 8 is too low for a convolutional network


def train(
    recipe: Recipe,
    out: Path,
    until: int | None = None,
    device: str | None = None,
    workers: int | None = None,
    echo: Any = print,
    weights: bool = False,
) -> Path | None:
    """Train, or resume training, in the folder ``out``.

    Returns the path of the finished weights, or None if the run stopped before its last step.
    ``until`` stops it after that many steps, as Ctrl-C would; with ``weights`` the weights as they
    are then are written all the same. ``device`` defaults to a GPU where there is one.
    ``workers`` is the number of processes that prefetch batches: by default all cores but one for
    a GPU, and none for a CPU, whose cores are busy; the result is the same.
    ``echo`` is called with one line of text at a time.

    Raises KalpanaError if ``init`` does not fit the network or the checkpoint does not fit the
    recipe, if another process works in the folder, a file cannot be read or written, or a
    gradient is not finite; KeyboardInterrupt after a Ctrl-C, when the checkpoint is saved.
    """

    def tell(line: str) -> None:
        with suppress(OSError):  # a terminal that was closed must not end the run unsaved
            echo(line)

    with one_line_errors(out), locked(out):
        return _train(recipe, out, until, device, workers, tell, weights)


def _train(
    recipe: Recipe,
    out: Path,
    until: int | None,
    device: str | None,
    workers: int | None,
    echo: Any,
    weights: bool,
) -> Path | None:
    saved = out / CHECKPOINT
    torch.manual_seed(recipe.seed)
    task = make_task(recipe, find_device(device), _progress(echo))
    if recipe.compile:
        compile_blocks(task.model)
    if recipe.init:
        start_from(task, recipe, None if saved.exists() else echo)
    if recipe.bf16 and not has_bf16(task.device):
        echo(
            f"{recipe.name}: this CPU has no bfloat16, so training runs in fp32, "
            "about six times slower"
        )
    optimizers = make_optimizers(task.model, recipe)
    state = checkpoint.State(
        task.model, {k: v.clone() for k, v in task.model.state_dict().items()}, optimizers
    )
    if saved.exists():
        checkpoint.load(saved, state, recipe)
        echo(f"{recipe.name}: resuming from step {state.step}")
    last = min(until or recipe.steps, recipe.steps)
    log = Log(out, state.step)
    if workers is None:
        workers = 0 if task.device.type == "cpu" else max(1, (os.cpu_count() or 1) - 1)
    prefetched = batches(task, range(state.step, last), workers)
    with asked_to_stop() as stop:
        while state.step < last and not stop:
            began = time.perf_counter()
            metrics = train_step(task, state, recipe, next(prefetched))
            state.step += 1
            spent = time.perf_counter() - began
            state.seconds += spent
            if state.step % recipe.log_every == 0 or state.step == last:
                report(state, recipe, metrics, spent, log, echo)
            if state.step % recipe.sample_every == 0 and state.step < recipe.steps:
                evaluate(task, state, recipe, out, log, echo)
            if state.step % recipe.save_every == 0:
                checkpoint.save(saved, state, recipe)
    checkpoint.save(saved, state, recipe)
    if state.step < recipe.steps:
        echo(f"{recipe.name}: stopped at step {state.step}; the same command goes on from here")
        if not weights or stop:
            log.close()
            if signal.SIGINT in stop:
                raise KeyboardInterrupt
            return None
    scores = evaluate(task, state, recipe, out, log, echo)
    log.close()
    return ship(task, state, recipe, out, scores)


def report(
    state: checkpoint.State, recipe: Recipe, metrics: Metrics, spent: float, log: Log, echo: Any
) -> None:
    """Log the metrics of the last step, which took ``spent`` seconds, and the time that is left."""
    metrics |= {
        "seconds": state.seconds,
        "samples": state.step * recipe.batch,
        "samples_per_second": recipe.batch / spent,
    }
    log.write(state.step, metrics)
    echo(
        f"{recipe.name} {state.step}/{recipe.steps}  "
        + "  ".join(f"{k} {v:.4g}" for k, v in metrics.items())
        + f"  {seconds_left(state, recipe) / 60:.0f} min left"
    )


def seconds_left(state: checkpoint.State, recipe: Recipe) -> float:
    """Training time until the last step, at the mean speed so far."""
    return (recipe.steps - state.step) * state.seconds / state.step


def start_from(task: Task, recipe: Recipe, echo: Any) -> None:
    """Load the weights ``init`` into the network, and tell which of them do not fit it.

    With ``echo`` None, for a run that is resumed, they are only checked. Raises KalpanaError if the
    file cannot be read or a tensor has another shape.
    """
    assert recipe.init is not None
    given = read_weights(located(recipe.init), recipe.family).tensors
    if echo is None:
        return
    own = shipped(task).state_dict()
    try:
        shipped(task).load_state_dict(
            own | {name: value for name, value in given.items() if name in own}
        )
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:200]
        raise KalpanaError(
            f"recipe {recipe.name}: field 'init': {recipe.init} does not fit the network: {reason}"
        ) from None
    if fresh := own.keys() - given.keys():
        echo(f"{recipe.name}: {', '.join(sorted(fresh))} start afresh, {recipe.init} has none")
    if idle := given.keys() - own.keys():
        echo(
            f"{recipe.name}: {', '.join(sorted(idle))} of {recipe.init} are left out, "
            "this network does not have them"
        )


def make_task(recipe: Recipe, device: torch.device, progress: Callable[[int, int], None]) -> Task:
    """The training task of a recipe's family; ``progress(done, total)`` follows its rendering.

    Raises KalpanaError if settings of the recipe do not fit each other or its files.
    """
    check_recipe(recipe)
    reference = FAMILIES[recipe.family].task
    assert reference is not None
    return find(reference)(recipe, device, progress)


def compile_blocks(model: nn.Module) -> None:
    """Compile the blocks of a network in place, each by itself, which is quick.

    Blocks have the attribute ``compile_dynamic``: True for dynamic shapes, for captions of any
    length; False for static ones, which are faster, for pictures of one size.
    """
    torch._dynamo.config.recompile_limit = SHAPES
    for module in model.modules():
        dynamic = getattr(module, "compile_dynamic", None)
        if dynamic is not None:
            module.compile(dynamic=dynamic)


class PrefetchDataset(Dataset[list[Any]]):
    """The batches of ``steps``; an item is a list of SORT batches, as captions are sorted."""

    def __init__(self, task: Task, steps: range) -> None:
        self.task, self.steps = task, steps
        self.blocks = range(steps.start // SORT, -(-steps.stop // SORT))

    def __len__(self) -> int:
        return len(self.blocks)

    def __getitem__(self, k: int) -> list[Any]:
        first = SORT * self.blocks[k]
        return [self.task.batch(step) for step in range(first, first + SORT) if step in self.steps]


def batches(task: Task, steps: range, workers: int) -> Iterator[Any]:
    """Iterates over the batches of ``steps``, prefetched by ``workers`` processes unless 0."""
    if not workers or not task.ahead or not steps:
        return map(task.batch, steps)
    blocks = PrefetchDataset(task, steps)
    # Forked workers share the memory-mapped pool and never use the device. A generator of its own
    # keeps the loader off the global one. One prefetched block per worker is enough, and keeps the
    # number of open files low.
    count = min(workers, len(blocks))
    loader = DataLoader(
        blocks,
        None,
        num_workers=count,
        prefetch_factor=1,
        multiprocessing_context="fork",
        worker_init_fn=_init_worker,
        generator=Generator(),
    )
    return chain.from_iterable(loader)


def _init_worker(worker: int) -> None:
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # threads do not survive a fork
    # A signal that stops a run goes to all its processes, but the loop needs batches until it ends.
    for kind in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(kind, signal.SIG_IGN)


def train_step(task: Task, state: checkpoint.State, recipe: Recipe, batch: Any) -> Metrics:
    """One optimizer step; returns its metrics.

    Its random numbers depend on the recipe's seed and the step alone. Raises FloatingPointError if
    a gradient is not finite.
    """
    rng = torch.Generator().manual_seed(recipe.seed * 1_000_003 + state.step)
    task.model.train()
    rate = recipe.lr * schedule(state.step, recipe)
    for optimizer in state.optimizers:
        optimizer.zero_grad(set_to_none=True)
        for group in optimizer.param_groups:
            group["lr"] = rate
    metrics: Metrics = {}
    for part, share in split(moved(batch, task.device), recipe.grad_accum):
        with autocast(task.device, recipe.bf16):
            loss, found = task.loss(part, rng, state.step / recipe.steps)
        (share * loss).backward()
        for name, value in {"loss": loss.item(), **found}.items():
            metrics[name] = metrics.get(name, 0.0) + share * value
    adversarial = isinstance(task.model, AdversarialPair)
    # Generator and discriminator are clipped separately, so that neither scales the other down.
    networks = list(task.model.children()) if adversarial else [task.model]
    norms = [nn.utils.clip_grad_norm_(n.parameters(), recipe.grad_clip).item() for n in networks]
    if not all(map(math.isfinite, norms)):
        raise FloatingPointError(
            f"the gradient is not finite at step {state.step}: "
            f"lower lr ({recipe.lr}) or lengthen warmup"
        )
    for optimizer in state.optimizers:
        optimizer.step()
    average(state, recipe.ema_decay)
    return {**metrics, "grad": norms[0], "lr": rate}


def split(batch: Any, parts: int) -> Iterator[tuple[Any, float]]:
    """At most ``parts`` parts of a batch, of nearly equal size, each with its share of the rows."""
    b = _count(batch)
    parts = min(parts, b)
    edges = [b * k // parts for k in range(parts + 1)]
    for start, stop in pairwise(edges):
        yield (batch if parts == 1 else _rows(batch, range(start, stop))), (stop - start) / b


def _count(batch: Any) -> int:
    """Number of rows of a batch: of its first tensor."""
    return len(batch) if isinstance(batch, Tensor) else _count(next(iter(vars(batch).values())))


def _rows(batch: Any, part: range) -> Any:
    """Rows of a batch, see ``task.Task``. A batch whose tensors do not all have one row a picture
    has a method ``rows``."""
    if batch is None or isinstance(batch, Tensor):
        return None if batch is None else batch[part.start : part.stop]
    if isinstance(batch, dict):
        return {name: _rows(value, part) for name, value in batch.items()}
    if hasattr(batch, "rows"):
        return batch.rows(part)
    return type(batch)(**{name: _rows(value, part) for name, value in vars(batch).items()})


def schedule(step: int, recipe: Recipe) -> float:
    """Learning rate at a step, as a share of ``lr``.

    Linear warm-up, constant, then a linear fall to 0 over the last ``lr_decay_share`` of the run.
    """
    up = (step + 1) / max(recipe.warmup, 1)
    down = (recipe.steps - step) / max(recipe.lr_decay_share * recipe.steps, 1)
    return min(1.0, up, down)


def make_optimizers(model: nn.Module, recipe: Recipe) -> list[Optimizer]:
    """AdamW for all parameters; or Muon (Jordan 2024) for the matrices inside blocks and AdamW for
    the rest, both with AdamW's learning rate. Raises KalpanaError if there are no such
    matrices."""
    inside = [
        p
        for name, p in model.named_parameters()
        if p.ndim == 2 and ".weight" in name and ("blocks." in name or "text." in name)
    ]
    if recipe.optimizer == "muon" and not inside:
        raise KalpanaError(
            f"recipe {recipe.name}: field 'optimizer': muon is for matrices in blocks, and this "
            "network has none: leave it out"
        )
    chosen = {id(p) for p in inside} if recipe.optimizer == "muon" else set()
    rest = [p for p in model.parameters() if id(p) not in chosen]
    adamw = AdamW(rest, recipe.lr, betas=(0.9, 0.95), weight_decay=recipe.weight_decay, fused=True)
    if not chosen:
        return [adamw]
    return [
        Muon(inside, recipe.lr, weight_decay=recipe.weight_decay, adjust_lr_fn="match_rms_adamw"),
        adamw,
    ]


@torch.no_grad()
def average(state: checkpoint.State, decay: float) -> None:
    """EMA update of the averaged weights.

    Early in a run the decay is at most (1 + step) / (10 + step), which averages over about a tenth
    of the steps so far. Integer buffers are copied.
    """
    decay = min(decay, (1 + state.step) / (10 + state.step))
    now = state.model.state_dict()
    floats = [name for name in now if now[name].is_floating_point()]
    torch._foreach_lerp_(
        [state.ema[name] for name in floats], [now[name] for name in floats], 1 - decay
    )
    for name in now.keys() - set(floats):
        state.ema[name].copy_(now[name])


@contextmanager
def averaged(state: checkpoint.State) -> Iterator[None]:
    """Context in which the model has the averaged weights and is in evaluation mode."""
    own = {name: value.clone() for name, value in state.model.state_dict().items()}
    state.model.load_state_dict(state.ema)
    state.model.eval()
    try:
        yield
    finally:
        state.model.load_state_dict(own)


def evaluate(
    task: Task, state: checkpoint.State, recipe: Recipe, out: Path, log: Log, echo: Any
) -> Metrics:
    """Held-out scores of the averaged weights; also logs them and saves a sample sheet."""
    # Blocks compiled for whole batches would be recompiled for smaller ones and for single tokens.
    plain = torch.compiler.set_stance("force_eager") if recipe.compile else nullcontext()
    with averaged(state), torch.inference_mode(), autocast(task.device, recipe.bf16), plain:
        metrics, pixels = task.evaluate()
    log.write(state.step, metrics)
    grid(to_images(pixels.clamp(-1, 1))).save(out / f"step-{state.step:06d}.png")
    echo(
        f"{recipe.name} {state.step}  "
        + "  ".join(f"{name} {value:.4g}" for name, value in metrics.items())
    )
    return metrics


def ship(task: Task, state: checkpoint.State, recipe: Recipe, out: Path, scores: Metrics) -> Path:
    """Save the averaged weights with their provenance; returns the path of the file."""
    provenance = {
        "recipe": recipe.model_dump(mode="json"),
        "data_version": VERSION,
        "samples": state.step * recipe.batch,
        "hardware": f"{hardware(task.device)}, {state.seconds / 3600:.2f} h",
        "scores": {name: round(value, 4) for name, value in scores.items()},
        **getattr(task, "provenance", {}),
    }
    if recipe.init:
        provenance["init"] = read_weights(located(recipe.init), recipe.family).provenance
    elif start := getattr(recipe, "image_model", None):
        provenance["grown_from"] = provenance_of(files_of(located(start))[0])
    codec = FAMILIES[recipe.family].codec
    if codec and recipe.codec_weights:  # the data have a meaning for this autoencoder only
        files = files_of(located(recipe.codec_weights))
        provenance[codec] = {file.name: fingerprint(file) for file in files}
    process = getattr(recipe, "process", None)  # of a diffusion network
    with averaged(state):
        task.finish()
        network = shipped(task)
        path = out / FAMILIES[recipe.family].file
        config: Any = network.config
        save_weights(path, network, recipe.family, config, provenance, process and asdict(process))
    return path


def shipped(task: Task) -> nn.Module:
    """The network whose weights are loaded and saved: the model without its discriminator."""
    return task.model.network if isinstance(task.model, AdversarialPair) else task.model


def hardware(device: torch.device) -> str:
    """Description of the device: the GPU's name, or the number, kind and precision of CPU cores."""
    if device.type != "cpu":
        return torch.cuda.get_device_name(device)
    precision = "bf16" if has_bf16(device) else "fp32 alone"
    return f"{os.cpu_count()} x {platform.machine()} CPU, {precision}"


def _progress(echo: Any) -> Any:
    def show(done: int, total: int) -> None:
        if done % 6400 == 0 or done == total:
            echo(f"rendering pictures {done}/{total}")

    return show
