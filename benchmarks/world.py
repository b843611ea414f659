"""Speed of the world on one core: scenes a second of every kind, and video frames a second.

A scene is sampled, rendered at 128 px and captioned. Videos are rendered at 64 px.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from measure import Row, duration, main

from kalpana.world.video import Videos
from kalpana.world.world import MIX, World


def rows(quick: bool) -> Iterator[Row]:
    torch.set_num_threads(1)
    batch, seconds = 4 if quick else 256, 0 if quick else 20
    for kind in (*MIX, "everything"):
        target = "≥ 400" if kind in ("objects", "everything") else "–"
        how = f"128 px, batches of {batch}, fresh scenes, one thread"
        rate = _rate(kind, batch, seconds if target != "–" else seconds / 3)
        yield Row(f"world: {kind}", f"{rate:.0f} scenes/s a core", target, how)

    def describe() -> None:
        for i in range(batch):
            World().describe(i)

    yield Row(
        "world: captions",
        f"{batch / duration(describe, seconds / 2):.0f} captions/s a core",
        "–",
        "scene sampled and described, nothing drawn",
    )
    clips, taken, frames = Videos(), 0, 0

    def frames_of_videos() -> None:
        nonlocal taken, frames
        for _ in range(1 if quick else 16):
            frames += len(clips.frames(taken))
            taken += 1

    each = duration(frames_of_videos, seconds / 2)
    yield Row(
        "world: clips",
        f"{frames / taken * (1 if quick else 16) / each:.0f} frames/s a core",
        "≥ 400",
        "64 px, fresh clips of 8 to 64 frames",
    )


def _rate(kind: str, batch: int, seconds: float) -> float:
    """Rendered pictures a second of a kind of scene."""
    world, start = World(kind=kind), 0

    def draw() -> None:
        nonlocal start
        world.images(range(start, start + batch))
        start += batch

    return batch / duration(draw, seconds)


if __name__ == "__main__":
    main(rows)
