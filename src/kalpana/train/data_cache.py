"""Disk cache of rendered pictures and of their latents and tokens, so that each is computed once.

A pool is an array file in the cache folder, whose name contains all that determines its content. It
is written under a temporary name and renamed when complete. One that is damaged is made anew.
"""

from __future__ import annotations

import json
import os
import random
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import suppress
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from kalpana.hub.weights import files_of, fingerprint
from kalpana.media import read_picture, to_pixels
from kalpana.models.clip import CLIP, unit
from kalpana.models.vae import VAE
from kalpana.models.vqgan import VQGAN
from kalpana.train import sign_augmentation
from kalpana.train.recipe import CaptionedRecipe
from kalpana.train.task import autocast
from kalpana.types import KalpanaError
from kalpana.world import sprites
from kalpana.world import world as worlds
from kalpana.world.render import render
from kalpana.world.scene import Group, Scene
from kalpana.world.world import World

CHUNK = 64  # pictures that are rendered or encoded at a time
HARVEST = "harvest.jsonl"
PAGE = np.dtype(
    [
        ("pixels", np.uint8, (3, World.side, World.side)),
        ("boxes", np.float32, (sign_augmentation.MOST, 4)),
    ]
)
ALONE = 40  # fewer chunks than this are rendered sooner than worker processes start
Progress = Callable[[int, int], None]


def silent(done: int, total: int) -> None:
    """Progress callback that does nothing."""


def folder() -> Path:
    """Folder of the pools: ``kalpana`` in the user's cache folder."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "kalpana"


def pictures(world: World, count: int, progress: Progress = silent) -> np.memmap:
    """The first ``count`` pictures of the world, (count, 3, side, side) uint8.

    They are rendered on the CPU, so that they are the same for every training device. Large pools
    are rendered by one process per core.
    """
    path = folder() / f"pictures-{_name(world, count)}.npy"
    shape = (count, 3, world.side, world.side)
    chunks = _chunks(partial(_render_rows, world.scene, world.side), count)
    return array(path, shape, np.uint8, chunks, progress)


def scenes(
    name: str, scene: Callable[[int], Scene], side: int, count: int, progress: Progress = silent
) -> np.memmap:
    """Pictures (count, 3, side, side) uint8 of scenes 0, 1, ... of other data than a World;
    ``name`` determines the scenes."""
    path = folder() / f"pictures-v{worlds.VERSION}-{name}-{side}-{count}.npy"
    chunks = _chunks(partial(_render_rows, scene, side), count)
    return array(path, (count, 3, side, side), np.uint8, chunks, progress)


def pages(seed: int, count: int, progress: Progress = silent) -> tuple[np.ndarray, np.ndarray]:
    """Sheets of signs, see ``train/sign_augmentation.py``.

    Returns pictures (count, 3, side, side) uint8 and the boxes of their signs (count, MOST, 4)
    float32, as x0 y0 x1 y1 in the unit square, 0 for no sign.
    """
    path = folder() / f"pages-{_name(World(seed, kind='text'), count)}.npy"
    rows = array(path, (count,), PAGE, _chunks(partial(_pages, seed), count), progress)
    return rows["pixels"], rows["boxes"]


def _chunks(make: Callable[[range], np.ndarray], count: int) -> Iterator[np.ndarray]:
    """Results of ``make`` for each CHUNK of ``count`` rows in turn; many are computed by one
    process per core."""
    parts = [range(start, min(start + CHUNK, count)) for start in range(0, count, CHUNK)]
    if len(parts) < ALONE:
        yield from map(make, parts)
        return
    with ProcessPoolExecutor(
        mp_context=get_context("spawn"), initializer=torch.set_num_threads, initargs=(1,)
    ) as workers:
        yield from workers.map(make, parts)


def _render_rows(scene: Callable[[int], Scene], side: int, rows: range) -> np.ndarray:
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
    """Latents of the first ``count`` pictures, (count, channels, side/8, side/8) float16.

    ``vae`` is the autoencoder of the file ``weights`` and is on ``device``.
    """
    name = f"latents-{_name(world, count)}-{mark(weights, device)}.npy"
    shape = (count, vae.config.latent, world.side // 8, world.side // 8)

    @torch.inference_mode()
    def encode() -> Iterator[np.ndarray]:
        source = pictures(world, count, progress)
        for start in range(0, count, CHUNK):
            with autocast(device):
                z = vae.encode(floats(source[start : start + CHUNK], device))
                yield z.to(torch.float16).cpu().numpy()

    return array(folder() / name, shape, np.float16, encode(), progress)


def codes(
    vqgan: VQGAN,
    weights: Path,
    world: World,
    count: int,
    device: torch.device,
    progress: Progress = silent,
) -> np.memmap:
    """Tokens of the first ``count`` pictures, (count, side/factor, side/factor) uint16.

    ``vqgan`` is the network of the file ``weights``, has at most 65,536 codes and is on ``device``.
    """
    name = f"codes-{_name(world, count)}-{mark(weights, device)}.npy"
    shape = (count, *2 * (world.side // vqgan.config.factor,))

    @torch.inference_mode()
    def encode() -> Iterator[np.ndarray]:
        source = pictures(world, count, progress)
        for start in range(0, count, CHUNK):
            with autocast(device):
                tokens = vqgan.encode(floats(source[start : start + CHUNK], device))
                yield tokens.cpu().numpy().astype(np.uint16)

    return array(folder() / name, shape, np.uint16, encode(), progress)


def vectors(
    clip: CLIP,
    weights: Path,
    world: World,
    count: int,
    device: torch.device,
    progress: Progress = silent,
) -> np.memmap:
    """Unit CLIP vectors of the first ``count`` pictures, (count, features) float16.

    ``clip`` is the network of the file ``weights``, and is on ``device``. Pictures are resized to
    its input.
    """
    name = f"vectors-{_name(world, count)}-{mark(weights, device)}.npy"
    shape, size = (count, clip.config.features), [clip.config.side] * 2

    @torch.inference_mode()
    def encode() -> Iterator[np.ndarray]:
        source = pictures(world, count, progress)
        for start in range(0, count, CHUNK):
            pixels = floats(source[start : start + CHUNK], device)
            pixels = F.interpolate(pixels, size, mode="bicubic", antialias=True).clamp(-1, 1)
            with autocast(device):
                features = clip.image(pixels)
            yield unit(features.float()).to(torch.float16).cpu().numpy()

    return array(folder() / name, shape, np.float16, encode(), progress)


def often(recipe: CaptionedRecipe, world: World, progress: Progress = silent) -> np.ndarray:
    """Occurrences of each picture of the pool in an epoch, (pool,) int64:
    ``oversample ** hardness``, see ``_hardness``."""
    count = recipe.num_images

    def hardness() -> Iterator[np.ndarray]:
        for start in range(0, count, CHUNK):
            rows = range(start, min(start + CHUNK, count))
            yield np.array([_hardness(world.scene(i).groups) for i in rows], dtype=np.uint8)

    times = np.ones(count, dtype=np.int64)
    if recipe.oversample > 1:  # only the scene tells how hard a picture is, so this is cached too
        path = folder() / f"hardness-{_name(world, count)}.npy"
        levels = array(path, (count,), np.uint8, hardness(), progress)
        times = recipe.oversample ** levels.astype(np.int64)
    return times


def _hardness(groups: Sequence[Group]) -> int:
    """0 for at most one object, 1 for several, 2 for several in two groups that all have a named
    colour."""
    several = sum(group.count for group in groups) > 1
    return several + (len(groups) > 1 and all(group.color for group in groups))


def harvest_lines(folder: Path) -> list[dict[str, Any]]:
    """Parsed lines of a folder's harvest.jsonl, see ``evaluate/rejection_sampling.py``.

    An incomplete last line, left by an interrupted run, is removed from the file.
    """
    path = folder / HARVEST
    text = path.read_text(encoding="utf-8") if path.exists() else ""
    whole = text[: text.rfind("\n") + 1]
    if whole != text:
        path.write_text(whole, encoding="utf-8")
    return [json.loads(line) for line in whole.splitlines()]


@torch.inference_mode()
def harvested(vae: VAE, folder: Path, device: torch.device) -> tuple[np.ndarray, list[str]]:
    """Latents (n, channels, h, w) float16 and captions of a folder's rejection-sampled pictures.

    Raises KalpanaError if there are none.
    """
    found = [
        (folder / name, line["caption"]) for line in harvest_lines(folder) for name in line["kept"]
    ]
    if not found:
        raise KalpanaError(
            f"there is no harvest in {folder}: "
            f"make one with kalpana evaluate rejection-sampling --out {folder}"
        )
    encoded = []
    for start in range(0, len(found), CHUNK):
        images = [read_picture(path) for path, _ in found[start : start + CHUNK]]
        pixels = to_pixels(images).to(device)
        with autocast(device):
            encoded.append(vae.encode(pixels).to(torch.float16).cpu().numpy())
    return np.concatenate(encoded), [caption for _, caption in found]


def floats(pixels: np.ndarray | Tensor, device: torch.device | None = None) -> Tensor:
    """uint8 pictures as float in [-1, 1], on ``device`` or, if None, on their own device."""
    tensor = pixels if isinstance(pixels, Tensor) else torch.from_numpy(np.array(pixels))
    return tensor.to(device).float().div_(127.5).sub_(1)


def _name(world: World, count: int) -> str:
    """Part of a file name that determines the pictures of a pool."""
    kind = "" if world.kind == "objects" else f"-{world.kind}"
    return f"v{worlds.VERSION}{kind}-{world.split}-{world.seed}-{world.side}-{count}"


def mark(weights: Path, device: torch.device) -> str:
    """Part of a file name that identifies weights and device type; devices round differently."""
    kind = [] if device.type == "cpu" else [device.type]
    return "-".join([*kind, *(fingerprint(file)[:12] for file in files_of(weights))])


def array(
    path: Path,
    shape: tuple[int, ...],
    dtype: type | np.dtype,
    rows: Iterator[np.ndarray],
    progress: Progress,
) -> np.memmap:
    """The array of a file, which is first made of the chunks in ``rows`` if it does not exist or is
    damaged. Raises KalpanaError if it cannot be written."""
    found = _open(path, shape, dtype)
    if found is not None:
        return found
    partial_file, header = (
        path.with_name(f".{path.name}.{uuid4().hex}.part"),
        {
            "descr": np.lib.format.dtype_to_descr(np.dtype(dtype)),
            "fortran_order": False,
            "shape": shape,
        },
    )
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # Written as a file: with a memory map, a full disk would kill the process.
        with partial_file.open("wb") as file:
            np.lib.format.write_array_header_1_0(file, header)
            done = 0
            for chunk in rows:
                file.write(np.ascontiguousarray(chunk, dtype).tobytes())
                done += len(chunk)
                progress(done, shape[0])
        partial_file.replace(path)
    except OSError as error:
        raise KalpanaError(
            f"cannot write the cache of pictures {path}: {error.strerror or error}: make room, or "
            "set XDG_CACHE_HOME to another folder"
        ) from None
    finally:
        with suppress(OSError):
            partial_file.unlink(missing_ok=True)
    array = _open(path, shape, dtype)
    assert array is not None
    return array


def _open(path: Path, shape: tuple[int, ...], dtype: type | np.dtype) -> np.memmap | None:
    """The array of a file, None if there is none of this shape and type or it is damaged."""
    try:
        array = np.lib.format.open_memmap(path, mode="r")
    except (OSError, ValueError):  # absent or unreadable; cut short or no array
        return None
    return array if array.shape == shape and array.dtype == np.dtype(dtype) else None
