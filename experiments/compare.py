"""Equal-compute comparisons: `python experiments/compare.py ARM --minutes 20`, one core each, judged on dev prompts.

Arms: base (latent, Muon, cached latents), adamw, dense (renderer supervision), pixel (64 px, 8x8 patches), conv (base with
convolutions around the patches)."""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import numpy as np
import plain
import torch
import torch.nn as nn
import torch.nn.functional as F
from judge import CORE, FILE, Judge, judge, prompts, summary

from kalpana.diffusion.denoiser import Denoiser
from kalpana.diffusion.guidance import guide
from kalpana.diffusion.samplers import SAMPLERS, sample
from kalpana.diffusion.schedule import times
from kalpana.generate.text_to_image import noise
from kalpana.media import grid, to_images
from kalpana.models import dit
from kalpana.train import pool
from kalpana.train.checkpoint import State
from kalpana.train.loop import average, averaged, compile_blocks, make_optimizers
from kalpana.train.recipe import Recipe
from kalpana.train.tasks import HELD_OUT, FlowMatch, noise_times
from kalpana.types import Cond
from kalpana.world import atlas
from kalpana.world.scene import COLORS
from kalpana.world.world import World

CELLS = 8  # of 16 px a side
CLASSES = len(CORE) + 2  # nothing, the core classes, something else


def sight(world: World, index: int) -> np.ndarray:
    """(4, 8, 8): class, colour, and the offset (in cells, x then y) to the centre of the thing whose box covers each cell's middle."""
    scene, art = world.scene(index), atlas.load().sprites
    out = np.zeros((4, CELLS, CELLS), np.float32)
    middle = (np.arange(CELLS) + 0.5) / CELLS
    for thing in scene.things:
        group, sprite = scene.groups[thing.group], art[thing.sprite]
        dx, dy = thing.x - middle[None, :], thing.y - middle[:, None]
        inside = (abs(dx) < thing.size * sprite.width / 2) & (abs(dy) < thing.size * sprite.height / 2)
        out[0][inside] = 1 + CORE.index(group.concept) if group.concept in CORE else CLASSES - 1
        out[1][inside] = 1 + COLORS.index(group.color) if group.color else 0
        out[2][inside], out[3][inside] = (np.broadcast_to(d, inside.shape)[inside] * CELLS for d in (dx, dy))
    return out


def half(pixels: torch.Tensor) -> torch.Tensor:
    """128 px in [0, 255] to 64 px in [-1, 1]."""
    return F.avg_pool2d(pixels, 2).div(127.5).sub(1)


class Arm(FlowMatch):
    def __init__(self, arm: str, recipe: Recipe) -> None:
        self.arm = arm
        super().__init__(recipe, torch.device("cpu"), pool.silent)
        torch.manual_seed(0)
        if arm != "conv":
            sizes = {"channels": 3, "patch": 8} if arm == "pixel" else {}
            self.model = plain.DiT(plain.Config(**sizes))
        if arm == "pixel":
            self.latents = pool.pictures(World(recipe.seed, "train"), recipe.pool, self.device)
            self.dev_latents = pool.pictures(World(recipe.seed, "dev"), HELD_OUT, self.device)
        if arm == "dense":
            self.heads = nn.Linear(self.model.config.width, CLASSES + 11 + 2)
            self.model.sight = self.heads
            self.seen: list[torch.Tensor] = []
            self.model.blocks[2].register_forward_hook(lambda m, i, o: self.seen.append(o))
            self.truth = np.stack([sight(self.world, i) for i in range(recipe.pool)])

    def batch(self, step: int):  # noqa: ANN201
        made = super().batch(step)
        if self.arm == "pixel":
            made = type(made)(half(made.latents), made.tokens)
        if self.arm == "dense":
            self.rows = [i for i, _ in self._captions(step)]
        return made

    def loss(self, batch, rng, share: float = 0.0):  # noqa: ANN001, ANN201
        loss, metrics = super().loss(batch, rng)
        if self.arm == "dense":
            x = self.seen.pop()[:, -CELLS * CELLS :]
            truth = torch.from_numpy(self.truth[self.rows]).flatten(2)  # b 4 64
            guess = self.heads(x).float().transpose(1, 2)
            there = (truth[:, 0] > 0).float()
            extra = F.cross_entropy(guess[:, :CLASSES], truth[:, 0].long()) + F.cross_entropy(guess[:, CLASSES:-2], truth[:, 1].long())
            extra = extra + 0.5 * ((guess[:, -2:] - truth[:, 2:]).abs().mean(1) * there).sum() / there.sum().clamp(min=1)
            metrics = {"extra": extra.item(), "flow": loss.item()}
            loss = loss + 0.3 * (1 - share) * extra
        return loss, metrics


@torch.inference_mode()
def examine(task: Arm, sheet: Path) -> dict[str, float]:
    rng, errors = torch.Generator().manual_seed(0), []
    for start in range(0, HELD_OUT, 64):
        x0 = torch.from_numpy(np.array(task.dev_latents[start : start + 64])).float()
        x0 = half(x0) if task.arm == "pixel" else x0
        t, eps = noise_times(64, rng), torch.randn(x0.shape, generator=rng)
        errors.append(task._velocity_error(x0, t, eps, Cond(task._words(range(start, start + 64)))))
    asked = prompts({"single": 64, "count": 32, "two": 32})
    dev, drawn = World(0, "dev"), []
    for start in range(0, len(asked), 16):
        part = asked[start : start + 16]
        cond = Cond(task.tokenizer.encode([dev.describe(i)[0] for i, _, _ in part], 64))
        x = noise([i for i, _, _ in part], (3, 64, 64) if task.arm == "pixel" else (16, 16, 16))
        for state in sample(guide(Denoiser(task.model, task.schedule), cond, 3.0), x, times(20), SAMPLERS["dpmpp-2m"]):
            x = state.x
        pixels = (x if task.arm == "pixel" else task.decoder.decode(x.float())).float().clamp(-1, 1)
        drawn.append(pixels)
    grid(to_images(torch.cat(drawn)[:128])).save(sheet)
    np.save(sheet.with_suffix(".npy"), torch.cat(drawn).numpy())
    return {"dev_loss": round(torch.cat(errors).mean().item(), 4)}


@torch.inference_mode()
def verdict(drawn: Path) -> dict[str, float]:
    """What the judge says of the pictures that an arm drew."""
    net, asked = Judge(), prompts({"single": 64, "count": 32, "two": 32})
    net.load_state_dict(torch.load(FILE))
    pixels = torch.from_numpy(np.load(drawn))
    return summary([(kind, v) for (_, kind, _), v in zip(asked, judge(net.eval(), pixels, [s for _, _, s in asked]), strict=True)])


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("arm", choices=("base", "adamw", "dense", "pixel", "conv", "judge"))
    parser.add_argument("--minutes", type=float, default=20)
    parser.add_argument("--vae", type=Path, default=Path("weights/default/vae.safetensors"))
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--pool", type=int, default=120_000)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.arm == "judge":
        for drawn in sorted(Path("/var/tmp/kalpana").glob("arm-*.npy")):
            print(drawn.stem, json.dumps(verdict(drawn)))
        return
    torch.manual_seed(0)
    adam = options.arm == "adamw"
    recipe = Recipe(
        name=options.arm, family="flow", vae=options.vae, pool=options.pool, steps=10**6, batch=64,
        optimizer="adamw" if adam else "muon", lr=1e-3 if adam else 2e-3, ema=0.995,
    )  # fmt: skip
    task = Arm(options.arm, recipe)
    for module in task.model.modules():
        if isinstance(module, dit.Block | plain.Block):
            module.compile(dynamic=True)
    state = State(task.model, {k: v.clone() for k, v in task.model.state_dict().items()}, make_optimizers(task.model, recipe))
    for step in (0, 8, 16):  # compile, uncounted
        with torch.autocast("cpu", torch.bfloat16):
            task.loss(task.batch(step), torch.Generator())[0].backward()
    began, losses = time.perf_counter(), []
    while (share := (time.perf_counter() - began) / 60 / options.minutes) < 1:
        rng = torch.Generator().manual_seed(state.step)
        for optimizer in state.optimizers:
            optimizer.zero_grad(set_to_none=True)
            for group in optimizer.param_groups:
                group["lr"] = recipe.lr * min(1.0, (state.step + 1) / 100, (1 - share) / 0.4)
        with torch.autocast("cpu", torch.bfloat16):
            loss, metrics = task.loss(task.batch(state.step), rng, share) if options.arm == "dense" else task.loss(task.batch(state.step), rng)
        loss.backward()
        nn.utils.clip_grad_norm_(task.model.parameters(), 1.0)
        for optimizer in state.optimizers:
            optimizer.step()
        average(state, recipe.ema)
        state.step += 1
        losses.append(metrics.get("flow", loss.item()))
        if state.step % 50 == 0:
            print(options.arm, state.step, f"{share:.0%}", f"{np.mean(losses[-50:]):.4f}", metrics, flush=True)
    with averaged(state), torch.autocast("cpu", torch.bfloat16):
        scores = examine(task, Path(f"/var/tmp/kalpana/arm-{options.arm}.png"))
    line = {"arm": options.arm, "minutes": options.minutes, "samples": state.step * 64, **scores}
    print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main()
