"""Seconds a picture with the model in memory, at batch sizes 1 and 8."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator

import torch
from measure import Row, duration, main

import kalpana

PROMPT = "three red apples to the left of a blue car"


def rows(quick: bool) -> Iterator[Row]:
    model, steps, seconds = kalpana.load(), 2 if quick else 20, 0 if quick else 30

    def draw(n: int) -> None:
        deque(model.generate(PROMPT, n=n, seed=0, steps=steps), maxlen=0)

    for n, target in ((1, "–"), (8, "≤ 0.5 s")):
        taken = duration(lambda n=n: draw(n), seconds) / n
        how = (
            f"{steps} steps, guidance and sampler by default, {torch.get_num_threads()} threads, "
            "decoding and receipts included"
        )
        yield Row(f"generate: warm, batch {n}", f"{taken:.2f} s a picture", target, how)


if __name__ == "__main__":
    main(rows)
