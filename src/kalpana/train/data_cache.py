"""Pictures, and what encoders make of them, kept on disk, so that a run pays for each of them once.

A pool is an array file in the cache folder, named after all that decides its content. It is written beside its place and
renamed when whole, so a pool that exists is complete.
"""

from __future__ import annotations

import json
import os
import random
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from kalpana.hub.weights import files_of, fingerprint
from kalpana.media import read_picture, to_pixels
from kalpana.models.vae import VAE
from kalpana.models.vqgan import VQGAN
from kalpana.train import sign_augmentation
from kalpana.train.recipe import Recipe
from kalpana.train.task import autocast
from kalpana.types import KalpanaError
from kalpana.world import sprites
from kalpana.world import world as worlds
from kalpana.world.render import render
from kalpana.world.scene import Group, Scene
from kalpana.world.world import World

CHUNK = 64
HARVEST = "harvest.jsonl"
PAGE = np.dtype(
    [
        ("pixels", np.uint8, (3, World.side, World.side)),
        ("boxes", np.float32, (sign_augmentation.MOST, 4)),
    ]
)
ALONE = 40  # chunks: fewer are drawn sooner than processes start
Progress = Callable[[int, int], None]


def silent(done: int, total: int) -> None:
    """The progress that nobody watches."""


def folder() -> Path:
    """Where pools are kept: ``kalpana`` in the user's cache folder."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "kalpana"


def pictures(world: World, count: int, progress: Progress = silent) -> np.memmap:
    """The first ``count`` pictures of the world, (count, 3, side, side) uint8. They are drawn on the CPU, and so are the same wherever a
    model learns from them; many by a process on each core."""
    path, shape = (
        folder() / f"pictures-{_name(world, count)}.npy",
        (count, 3, world.side, world.side),
    )
    return _array(
        path, shape, np.uint8, _chunks(partial(_drawn, world.scene, world.side), count), progress
    )


def pages(seed: int, count: int, progress: Progress = silent) -> tuple[np.ndarray, np.ndarray]:
    """Sheets of signs to learn letters from, see ``train/sign_augmentation.py``: pictures (count, 3, side, side) uint8, and where on each the signs
    are, (count, MOST, 4) float32, x0 y0 x1 y1 in the unit square, 0 where there is none."""
    path = folder() / f"pages-{_name(World(seed, kind='text'), count)}.npy"
    rows = _array(path, (count,), PAGE, _chunks(partial(_pages, seed), count), progress)
    return rows["pixels"], rows["boxes"]


def _chunks(make: Callable[[range], np.ndarray], count: int) -> Iterator[np.ndarray]:
    """What ``make`` makes of each CHUNK of ``count`` in turn; of many, a process on each core."""
    parts = [range(start, min(start + CHUNK, count)) for start in range(0, count, CHUNK)]
    if len(parts) < ALONE:
        yield from map(make, parts)
        return
    with ProcessPoolExecutor(
        mp_context=get_context("spawn"), initializer=torch.set_num_threads, initargs=(1,)
    ) as workers:
        yield from workers.map(make, parts)


def _drawn(scene: Callable[[int], Scene], side: int, rows: range) -> np.ndarray:
    return _bytes([scene(i) for i in rows], side)


def _pages(seed: int, rows: range) -> np.ndarray:
    scenes = [sign_augmentation.page(random.Random(f"{seed}/page/{i}")) for i in rows]
    out = np.zeros(len(rows), PAGE)
    out["pixels"] = _bytes(scenes, World.side)
    for boxes, scene in zip(out["boxes"], scenes, strict=True):
        boxes[: len(scene.objects)] = [sprites.box(item) for item in scene.objects]
    return out


def _bytes(scenes: Sequence[Scene], side: int) -> np.ndarray:
    return render(scenes, side).pixels.add(1).mul_(127.5).round_().to(torch.uint8).numpy()


def latents(
    vae: VAE,
    weights: Path,
    world: World,
    count: int,
    device: torch.device,
    progress: Progress = silent,
) -> np.memmap:
    """Their latents under this autoencoder, which is on ``device``: (count, channels, side/8, side/8) float16."""
    name = f"latents-{_name(world, count)}-{_mark(weights, device)}.npy"
    shape = (count, vae.config.latent, world.side // 8, world.side // 8)

    @torch.inference_mode()
    def encode() -> Iterator[np.ndarray]:
        source = pictures(world, count, progress)
        for start in range(0, count, CHUNK):
            with autocast(device):
                yield (
                    vae.encode(floats(source[start : start + CHUNK], device))
                    .to(torch.float16)
                    .cpu()
                    .numpy()
                )

    return _array(folder() / name, shape, np.float16, encode(), progress)


def codes(
    vqgan: VQGAN,
    weights: Path,
    world: World,
    count: int,
    device: torch.device,
    progress: Progress = silent,
) -> np.memmap:
    """Their tokens under this VQGAN, of 65,536 codes at most, which is on ``device``: (count, side/f, side/f) uint16."""
    name = f"codes-{_name(world, count)}-{_mark(weights, device)}.npy"
    shape = (count, *2 * (world.side // vqgan.config.factor,))

    @torch.inference_mode()
    def encode() -> Iterator[np.ndarray]:
        source = pictures(world, count, progress)
        for start in range(0, count, CHUNK):
            with autocast(device):
                yield (
                    vqgan.encode(floats(source[start : start + CHUNK], device))
                    .cpu()
                    .numpy()
                    .astype(np.uint16)
                )

    return _array(folder() / name, shape, np.uint16, encode(), progress)


def often(recipe: Recipe, world: World, harvested: int, progress: Progress = silent) -> np.ndarray:
    """How often each picture of a recipe's pool, and of a harvest behind it, comes up in a round, (pool + harvested,)."""

    def kinds() -> Iterator[np.ndarray]:
        for start in range(0, recipe.num_images, CHUNK):
            some = [
                world.scene(i).groups for i in range(start, min(start + CHUNK, recipe.num_images))
            ]
            yield np.array([_hardness(groups) for groups in some], dtype=np.uint8)

    times = np.ones(recipe.num_images, dtype=np.int64)
    if (
        recipe.oversample > 1
    ):  # what is hard about a picture is known to its scene, and looked up once
        name = f"hardness-{_name(world, recipe.num_images)}.npy"
        times = recipe.oversample ** _array(
            folder() / name, (recipe.num_images,), np.uint8, kinds(), progress
        ).astype(np.int64)
    return np.concatenate((times, np.full(harvested, recipe.self_train_repeat)))


def _hardness(groups: Sequence[Group]) -> int:
    """0 where there is one thing or none, 1 where there are several, 2 where they are of two kinds and each in a colour that is said."""
    return (sum(group.count for group in groups) > 1) + (
        len(groups) > 1 and all(group.color for group in groups)
    )


def harvest_lines(folder: Path) -> list[dict[str, Any]]:
    """The list of a harvest, see ``train/rejection_sampling.py``; a last line that was cut off is taken away."""
    path = folder / HARVEST
    text = path.read_text(encoding="utf-8") if path.exists() else ""
    whole = text[: text.rfind("\n") + 1]
    if whole != text:
        path.write_text(whole, encoding="utf-8")
    return [json.loads(line) for line in whole.splitlines()]


@torch.inference_mode()
def harvested(vae: VAE, folder: Path, device: torch.device) -> tuple[np.ndarray, list[str]]:
    """The latents (n, channels, h, w) float16 and the captions of a harvest's pictures. Raises KalpanaError where there are none."""
    found = [
        (folder / name, line["caption"]) for line in harvest_lines(folder) for name in line["kept"]
    ]
    if not found:
        raise KalpanaError(
            f"there is no harvest in {folder}: make one with python -m kalpana.train.rejection_sampling --out {folder}"
        )
    coded = []
    for start in range(0, len(found), CHUNK):
        pixels = to_pixels([read_picture(path) for path, _ in found[start : start + CHUNK]]).to(
            device
        )
        with autocast(device):
            coded.append(vae.encode(pixels).to(torch.float16).cpu().numpy())
    return np.concatenate(coded), [caption for _, caption in found]


def floats(pixels: np.ndarray | Tensor, device: torch.device | None = None) -> Tensor:
    """uint8 pictures as float in [-1, 1], on a device, or where they are."""
    given = pixels if isinstance(pixels, Tensor) else torch.from_numpy(np.array(pixels))
    return given.to(device).float().div_(127.5).sub_(1)


def _name(world: World, count: int) -> str:
    """All that decides what the pictures are."""
    kind = "" if world.kind == "objects" else f"-{world.kind}"
    return f"v{worlds.VERSION}{kind}-{world.split}-{world.seed}-{world.side}-{count}"


def _mark(weights: Path, device: torch.device) -> str:
    """What tells what these weights make of them on this device from all else; devices round differently."""
    return "-".join(
        [
            *([] if device.type == "cpu" else [device.type]),
            *(fingerprint(file)[:12] for file in files_of(weights)),
        ]
    )


def _array(
    path: Path,
    shape: tuple[int, ...],
    dtype: type | np.dtype,
    rows: Iterator[np.ndarray],
    progress: Progress,
) -> np.memmap:
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        beside = path.with_name(f".{path.name}.{os.getpid()}.part")
        array = np.lib.format.open_memmap(beside, "w+", dtype, shape)
        done = 0
        for chunk in rows:
            array[done : done + len(chunk)] = chunk
            done += len(chunk)
            progress(done, shape[0])
        array.flush()
        del array
        beside.replace(path)
    return np.lib.format.open_memmap(path, "r")
