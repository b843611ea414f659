"""The training loop, for every family: read it downward in one go.

A run lives in one folder: checkpoint.safetensors to go on from, log.jsonl and TensorBoard files, sheets of pictures, and at
the end the averaged weights, named as in a model's folder, with where they come from. Start it again and it goes on exactly; Ctrl-C
or SIGTERM saves and leaves.
"""

from __future__ import annotations

import json
import math
import os
import platform
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from torch import Generator, Tensor, nn
from torch.optim import AdamW, Muon, Optimizer
from torch.utils.data import DataLoader, Dataset

from kalpana.hub.weights import files_of, find_device, fingerprint, read_weights, save_weights
from kalpana.media import grid, to_images
from kalpana.models import clip, dalle, dalle_mini, dit, vae, vqgan
from kalpana.train import checkpoint
from kalpana.train.recipe import Recipe
from kalpana.train.task import SORT, Metrics, Task, autocast, has_bf16, moved
from kalpana.train.tasks import TASKS
from kalpana.train.vqgan import AdversarialPair
from kalpana.types import KalpanaError
from kalpana.world.world import VERSION

# What ``compile`` compiles.
BLOCKS = (
    dit.Block,
    vae.Block,
    vqgan.Block,
    dalle.Block,
    dalle_mini.EncoderBlock,
    dalle_mini.DecoderBlock,
    clip.Block,
)
SHAPES = 64  # of blocks, that may be compiled; torch's 8 are too few for a convolutional net


def train(
    recipe: Recipe,
    out: Path,
    until: int | None = None,
    device: str | None = None,
    workers: int | None = None,
    echo: Any = print,
) -> Path | None:
    """Train (or go on training) into the folder ``out``; the path of the finished weights, or None if stopped before.

    ``until`` stops early, after that many steps, as Ctrl-C would. ``device`` is a GPU where there is one, unless named. So many ``workers``
    make batches ahead of it: for a GPU one on each core but one, unless said, and for a CPU, which has no time to spare, none; what is
    learned is the same. ``echo`` is given one line of text at a time.
    """
    out.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(recipe.seed)
    task = TASKS[recipe.family](recipe, find_device(device), _progress(echo))
    if recipe.compile:
        compile_blocks(task.model)
    saved = out / "checkpoint.safetensors"
    if recipe.init and not saved.exists():
        given, own = read_weights(recipe.init, recipe.family).tensors, shipped(task).state_dict()
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
                f"{recipe.name}: {', '.join(sorted(idle))} of {recipe.init} are left out, this recipe has no use for them"
            )
    if recipe.bf16 and not has_bf16(task.device):
        echo(
            f"{recipe.name}: this CPU has no bfloat16, so all is computed in fp32, some six times slower"
        )
    optimizers = make_optimizers(task.model, recipe)
    state = checkpoint.State(
        task.model, {k: v.clone() for k, v in task.model.state_dict().items()}, optimizers
    )
    if saved.exists():
        checkpoint.load(saved, state, recipe)
        echo(f"{recipe.name}: going on from step {state.step}")
    last = min(until or recipe.steps, recipe.steps)
    log = Log(out)
    if workers is None:
        workers = 0 if task.device.type == "cpu" else max(1, (os.cpu_count() or 1) - 1)
    made = batches(task, range(state.step, last), workers)
    with asked_to_stop() as stop:
        while state.step < last and not stop:
            began = time.perf_counter()
            metrics = train_step(task, state, recipe, next(made))
            state.step += 1
            state.seconds += time.perf_counter() - began
            if state.step % recipe.log_every == 0 or state.step == last:
                per_second = recipe.batch / (time.perf_counter() - began)
                metrics |= {
                    "seconds": state.seconds,
                    "samples": state.step * recipe.batch,
                    "samples_per_second": per_second,
                }
                log.write(state.step, metrics)
                left = (recipe.steps - state.step) * state.seconds / state.step / 60
                echo(
                    f"{recipe.name} {state.step}/{recipe.steps}  "
                    + "  ".join(f"{k} {v:.4g}" for k, v in metrics.items())
                    + f"  {left:.0f} min left"
                )
            if state.step % recipe.sample_every == 0 and state.step < recipe.steps:
                evaluate(task, state, recipe, out, log, echo)
            if state.step % recipe.save_every == 0:
                checkpoint.save(saved, state, recipe)
    checkpoint.save(saved, state, recipe)
    if state.step < recipe.steps:
        echo(f"{recipe.name}: stopped at step {state.step}; the same command goes on from here")
        return None
    return ship(task, state, recipe, out, evaluate(task, state, recipe, out, log, echo))


def compile_blocks(model: nn.Module) -> None:
    """Compile the residual blocks in place, one at a time: little to compile, and any caption length will do. A VQGAN's pictures are of one
    size, which is faster."""
    torch._dynamo.config.recompile_limit = SHAPES
    for module in model.modules():
        if isinstance(module, BLOCKS):
            module.compile(dynamic=not isinstance(module, vqgan.Block))


class PrefetchDataset(Dataset[list[Any]]):
    """The batches of ``steps``, SORT of them at a time, as captions are dealt."""

    def __init__(self, task: Task, steps: range) -> None:
        self.task, self.steps = task, steps
        self.blocks = range(steps.start // SORT, -(-steps.stop // SORT))

    def __len__(self) -> int:
        return len(self.blocks)

    def __getitem__(self, k: int) -> list[Any]:
        first = SORT * self.blocks[k]
        return [self.task.batch(step) for step in range(first, first + SORT) if step in self.steps]


def batches(task: Task, steps: range, workers: int) -> Iterator[Any]:
    """The batch of each step in turn, made by so many processes ahead of it, or, with none of them, when it is asked for."""
    if not workers or not task.ahead or not steps:
        return map(task.batch, steps)
    blocks = PrefetchDataset(task, steps)
    # Forked, they share the pool, and never touch the device. With a generator of its own the loader leaves the global one alone; one
    # block ahead each is enough, and keeps few files open.
    count = min(workers, len(blocks))
    loader = DataLoader(
        blocks,
        None,
        num_workers=count,
        prefetch_factor=1,
        multiprocessing_context="fork",
        worker_init_fn=_alone,
        generator=Generator(),
    )
    return chain.from_iterable(loader)


def _alone(worker: int) -> None:
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # threads do not survive a fork
    # Who stops a run by a signal stops all its processes, and this one's batches are asked for until the run ends.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)


def train_step(task: Task, state: checkpoint.State, recipe: Recipe, batch: Any) -> Metrics:
    """One step of gradient descent. Its batch and its noise depend on the recipe and the step's number alone."""
    rng = torch.Generator().manual_seed(recipe.seed * 1_000_003 + state.step)
    task.model.train()
    rate = recipe.lr * schedule(state.step, recipe)
    for optimizer in state.optimizers:
        optimizer.zero_grad(set_to_none=True)
        for group in optimizer.param_groups:
            group["lr"] = rate
    total, metrics = 0.0, dict[str, float]()
    for part in split(moved(batch, task.device), recipe.grad_accum):
        with autocast(task.device, recipe.bf16):
            loss, metrics = task.loss(part, rng)
        (loss / recipe.grad_accum).backward()
        total += loss.item() / recipe.grad_accum
    players = (
        list(task.model.children()) if isinstance(task.model, AdversarialPair) else [task.model]
    )
    norms = [
        nn.utils.clip_grad_norm_(player.parameters(), recipe.grad_clip).item() for player in players
    ]  # each by itself
    if not all(map(math.isfinite, norms)):
        raise FloatingPointError(
            f"the gradient is not finite at step {state.step}: lower lr ({recipe.lr}) or lengthen warmup"
        )
    for optimizer in state.optimizers:
        optimizer.step()
    average(state, recipe.ema_decay)
    return {"loss": total, **metrics, "grad": norms[0], "lr": rate}


def split(batch: Any, parts: int) -> Iterator[Any]:
    """The batch in equal parts, along the rows of every tensor in it."""
    if parts == 1:
        yield batch
    elif isinstance(batch, Tensor):
        yield from batch.chunk(parts)
    else:
        fields = {
            name: list(split(getattr(batch, name), parts)) for name in batch.__dataclass_fields__
        }
        for k in range(parts):
            yield type(batch)(**{name: values[k] for name, values in fields.items()})


def schedule(step: int, recipe: Recipe) -> float:
    """The share of the full learning rate: linear up, flat, linear down to 0 over the last ``decay`` of the run."""
    up = (step + 1) / max(recipe.warmup, 1)
    down = (recipe.steps - step) / max(recipe.lr_decay_share * recipe.steps, 1)
    return min(1.0, up, down)


def make_optimizers(model: nn.Module, recipe: Recipe) -> list[Optimizer]:
    """AdamW for everything, or Muon (Jordan 2024) for the matrices inside blocks with AdamW for the rest, both at AdamW's rate."""
    inside = [
        p
        for name, p in model.named_parameters()
        if p.ndim == 2 and ".weight" in name and ("blocks." in name or "text." in name)
    ]
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
    """Move the averaged weights towards the model's; young runs average over a tenth of their steps."""
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
    """Inside, the model has the averaged weights."""
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
    """Held-out scores of the averaged weights to the log, and a sheet of pictures to look at."""
    # Blocks that are compiled for whole batches would be compiled again for parts of one, and for single tokens.
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
    """Write the averaged weights, with their provenance."""
    provenance = {
        "recipe": recipe.model_dump(mode="json"),
        "data_version": VERSION,
        "samples": state.step * recipe.batch,
        "hardware": f"{hardware(task.device)}, {state.seconds / 3600:.2f} h",
        "scores": {name: round(value, 4) for name, value in scores.items()},
    }
    if recipe.init:
        provenance["init"] = read_weights(recipe.init, recipe.family).provenance
    if recipe.vqgan:  # whose codes these are
        provenance["vqgan"] = {file.name: fingerprint(file) for file in files_of(recipe.vqgan)}
    with averaged(state):
        task.finish()
        network = shipped(task)
        save_weights(out / task.file, network, recipe.family, network.config, provenance)  # type: ignore[arg-type]
    return out / task.file


def shipped(task: Task) -> nn.Module:
    """What weights begin with and end as: the model, without what it plays against while it learns."""
    return task.model.network if isinstance(task.model, AdversarialPair) else task.model


def hardware(device: torch.device) -> str:
    """What the run runs on, in words."""
    if device.type != "cpu":
        return torch.cuda.get_device_name(device)
    return f"{os.cpu_count()} x {platform.machine()} CPU, {'bf16' if has_bf16(device) else 'fp32 alone'}"


class Log:
    """log.jsonl, one line a report, and TensorBoard's files beside it where TensorBoard is installed."""

    def __init__(self, out: Path) -> None:
        self.path = out / "log.jsonl"
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            self.board = None
        else:
            self.board = SummaryWriter(str(out))

    def write(self, step: int, metrics: Metrics) -> None:
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"step": step, **metrics}) + "\n")
        if self.board:
            for name, value in metrics.items():
                self.board.add_scalar(name, value, step)


@contextmanager
def asked_to_stop() -> Iterator[list[int]]:
    """A list that is filled when SIGINT or SIGTERM comes; the loop then finishes its step, saves and leaves."""
    stop: list[int] = []
    before = {
        kind: signal.signal(kind, lambda number, frame: stop.append(number))
        for kind in (signal.SIGINT, signal.SIGTERM)
    }
    try:
        yield stop
    finally:
        for kind, handler in before.items():
            signal.signal(kind, handler)


def _progress(echo: Any) -> Any:
    def show(done: int, total: int) -> None:
        if done % 6400 == 0 or done == total:
            echo(f"drawing pictures {done}/{total}")

    return show
