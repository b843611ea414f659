"""Ablation of VQGAN+CLIP on dev prompts, as a sheet and a table: ``python docs/vqgan_clip.py``.

The prompts are the first captions of the dev split, and every picture is seed 0: no picture is
selected. The score is the cosine by the same CLIP that guided the optimisation, and is therefore
too high. The real scenes of the captions are given for comparison.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

from PIL import Image

from kalpana.media import to_images
from kalpana.pipelines import last
from kalpana.pipelines.image_parameters import Canvas, Codes, Palette, Pixels, load_canvas
from kalpana.pipelines.vqgan_clip import DifferentiableRanker, Settings, vqgan_clip
from kalpana.types import KalpanaError
from kalpana.understand.encoder import load
from kalpana.world.sheet import captioned
from kalpana.world.world import World

WITHOUT: dict[str, dict[str, float]] = {
    "cutouts": {"cutouts": 1, "least": 1},
    "mirroring": {"flip": 0},
    "turns and shifts": {"turn": 0, "shift": 0},
    "jitter": {"jitter": 0},
    "noise": {"noise": 0},
    "running mean": {"ema": 0},
    "total variation": {"tv": 0},
}


def variants(canvas: Codes, plain: Canvas, settings: Settings) -> dict[str, dict[str, Any]]:
    """The columns of the ablation: keyword arguments of ``vqgan_clip`` by name."""
    usual = {"canvas": canvas, "settings": settings}
    without = {
        f"without {name}": usual | {"settings": replace(settings, **fields)}
        for name, fields in WITHOUT.items()
    }
    others = {"an autoencoder's latents": plain, "pixels": Pixels(), "a palette": Palette()}
    return {
        "everything": usual,
        **without,
        "without straight-through codes": usual | {"canvas": replace(canvas, straight=False)},
        "begun with clouds": usual | {"start": "perlin"},
        **{name: usual | {"canvas": other} for name, other in others.items()},
    }


def ablate(
    clip: DifferentiableRanker, columns: dict[str, dict[str, Any]], count: int, side: int = 128
) -> tuple[Image.Image, dict[str, float]]:
    """A sheet with a prompt a row and a variant a column, and the mean cosine of each column.

    The first column holds the real scenes.
    """
    samples = [World(seed=0, split="dev")[k] for k in range(count)]
    images, captions, scores = [], [], dict.fromkeys(["real scenes", *columns], 0.0)
    size = (side, side)
    for sample in samples:
        row = to_images(sample.image[None])
        for variant in columns.values():
            steps = vqgan_clip(sample.caption, clip, seed=0, size=size, every=1000, **variant)
            row.append(last(steps).outputs[0].image)
        cosines = (clip.images(row) @ clip.texts([sample.caption])[0]).tolist()
        for name, cosine in zip(scores, cosines, strict=True):
            scores[name] += cosine / count
        images += row
        captions += [
            f"{sample.caption} ({cosines[0]:.3f})",
            *(f"{name} ({each:.3f})" for name, each in zip(columns, cosines[1:], strict=True)),
        ]
    return captioned(images, captions, columns=len(columns) + 1), scores


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--clip", default="clip", help="a name or a folder, as kalpana search takes them"
    )
    parser.add_argument("--vqgan", type=Path, help="a folder (default: the shipped weights)")
    parser.add_argument("--prompts", type=int, default=4)
    parser.add_argument("--steps", type=int, default=Settings.steps)
    options = parser.parse_args()
    canvas = load_canvas("vqgan", options.vqgan)
    assert isinstance(canvas, Codes)
    columns = variants(canvas, load_canvas("vae"), Settings(steps=options.steps))
    sheet, scores = ablate(load(options.clip), columns, options.prompts)
    path = Path(__file__).with_name("vqgan-clip.webp")
    sheet.save(path, quality=90)
    print("| | cosine |\n|---|---:|")
    for name, score in scores.items():
        print(f"| {name} | {score:.3f} |")
    print(path)


if __name__ == "__main__":
    try:
        main()
    except KalpanaError as error:
        sys.exit(f"error: {error}")
