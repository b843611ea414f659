"""Speed and peak memory of the video model by number of frames, each in a process of its own."""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from collections.abc import Iterator

import torch
from measure import Row, main

from kalpana.pipelines import load

FRAMES = 5, 17, 33, 65, 129
SIDES = 64, 128
STEPS = 30  # of a video by default
SAMPLED = 2  # steps of the measurement; the last one is timed, which guidance makes twice as long
MEMORY = "≤ 4 GiB"  # of 129 frames at 128 px


def sampled(side: int, frames: int) -> tuple[float, float]:
    """Seconds of a guided denoising step, and seconds of decoding and conversion."""
    model, marks = load("video", "cpu"), [time.perf_counter()]
    fields = {"seconds": frames / 8, "fps": 8, "size": f"{side}x{side}", "seed": 0}
    for _ in model.generate(
        "a red car moving to the right", model="video", steps=SAMPLED, **fields
    ):
        marks.append(time.perf_counter())
    return marks[SAMPLED] - marks[SAMPLED - 1], marks[-1] - marks[SAMPLED]


@torch.inference_mode()
def decoded(side: int, frames: int) -> tuple[float, float]:
    """Seconds of decoding random latents in chunks, each of which is dropped; the second is 0."""
    codec = load("video", "cpu").codec  # type: ignore[attr-defined]
    shape = codec.shape(side, side, frames)
    latents = (torch.randn(1, *shape[1:]) for _ in range(shape[0]))
    start = time.perf_counter()
    for chunk in codec.decode_chunks(latents):
        assert chunk.isfinite().all()
    return time.perf_counter() - start, 0.0


KINDS = {"sample": sampled, "decode": decoded}


def child(kind: str, side: int, frames: int) -> tuple[float, float, float]:
    """The measurement in a new process: its two times, and its peak resident memory in GiB."""
    command = [sys.executable, __file__, "--child", kind, str(side), str(frames)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    one, two, peak = json.loads(done.stdout)
    return one, two, peak


def measured(kind: str, side: int, frames: int) -> None:
    """Print a measurement and the peak memory of this process as JSON."""
    torch.manual_seed(0)
    times = KINDS[kind](side, frames)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(json.dumps([*times, peak / (2**30 if sys.platform == "darwin" else 2**20)]))


def rows(quick: bool) -> Iterator[Row]:
    for side in SIDES[:1] if quick else SIDES:
        for frames in FRAMES[:1] if quick else FRAMES:
            step, rest, peak = child("sample", side, frames)
            speed = frames / (STEPS * step + rest)
            yield Row(
                f"video: {frames} frames at {side} px",
                f"{speed:.2f} frames/s, {step:.2f} s a step, {peak:.2f} GiB",
                MEMORY if (side, frames) == (128, 129) else "–",
                f"{STEPS} guided steps, from one that is timed; resident memory of the process",
            )
            seconds, _, peak = child("decode", side, frames)
            yield Row(
                f"video: decoding {frames} frames at {side} px",
                f"{frames / seconds:.0f} frames/s, {peak:.2f} GiB",
                "–",
                "in chunks of a latent frame; resident memory of the process",
            )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("--child", nargs=3, metavar=("KIND", "SIDE", "FRAMES"))
    asked, _ = parser.parse_known_args()
    if asked.child:
        measured(asked.child[0], *map(int, asked.child[1:]))
    else:
        main(rows)
