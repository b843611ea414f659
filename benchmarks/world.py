"""Scenes a second on one core: sampling the scene, drawing it at 128 px, and saying it."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from measure import Row, duration, main

from kalpana.world.world import World


def rows(quick: bool) -> Iterator[Row]:
    torch.set_num_threads(1)
    world, batch, seconds = World(), 4 if quick else 256, 0 if quick else 20
    start = 0

    def draw() -> None:
        nonlocal start
        world.images(range(start, start + batch))
        start += batch

    def say() -> None:
        for i in range(batch):
            world.describe(i)

    drawn, said = batch / duration(draw, seconds), batch / duration(say, seconds / 2)
    yield Row("world: pictures", f"{drawn:.0f} scenes/s a core", "≥ 400", f"128 px, batches of {batch}, fresh scenes, one thread")
    yield Row("world: captions", f"{said:.0f} captions/s a core", "–", "scene sampled and described, nothing drawn")


if __name__ == "__main__":
    main(rows)
