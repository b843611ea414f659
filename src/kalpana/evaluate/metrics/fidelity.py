"""How alike two sets of pictures are, as sets: FD-lite0, a Fréchet distance (Heusel et al. 2017) over the features of EfficientNet-Lite0,
and the maximum mean discrepancy with a polynomial kernel (KID, Binkowski et al. 2018) over the same and over what a verifier of ours sees.
FD-lite0 is not FID: another network.

``python -m kalpana.evaluate.metrics.fidelity default`` draws the captions of 5,000 test scenes and measures how far the pictures are from 5,000
other test scenes. Beside them stand the same captions' own scenes, which are as near as can be; these through the model's autoencoder, if
it has one; and scenes of things alone, for a set that is far. What is drawn is kept, as features, and a run that was stopped goes on.
"""

from __future__ import annotations

import argparse
import io
import json
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from kalpana.evaluate.run import claim, progress_to_stderr
from kalpana.evaluate.verifiers.verifier import DetectorVerifier
from kalpana.hub.card import weights_dir
from kalpana.hub.weights import load_module
from kalpana.media import grid, to_pixels, write
from kalpana.models.lite0 import Lite0
from kalpana.pipelines import last, load
from kalpana.pipelines.text_to_image import TextToImage
from kalpana.train.vqgan import looks
from kalpana.types import KalpanaError, Picture
from kalpana.world.world import World

RESAMPLES = 20
PART = 50  # pictures whose features are kept together
Measure = Callable[[np.ndarray], float]  # how far a set of features (n, d) is from a certain other


@dataclass(frozen=True)
class Distance:
    """A distance with its 95 % interval over resampled pictures."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Features:
    """Of n pictures, by ``lite0`` (n, 1280), and by a detector of ours ``own`` (n, d): the mean over the picture of what it sees at a
    quarter, an eighth and a sixteenth of the side."""

    lite0: np.ndarray
    own: np.ndarray

    @classmethod
    def join(cls, parts: Sequence[Features]) -> Features:
        return cls(
            np.concatenate([part.lite0 for part in parts]),
            np.concatenate([part.own for part in parts]),
        )


class FeatureExtractor:
    """The networks that see features; the detector is that of a ``verifier``'s folder."""

    def __init__(self, verifier: Path) -> None:
        self.lite0 = load_module(weights_dir() / "lite0" / "lite0.safetensors", "lite0", Lite0)
        self.own = DetectorVerifier.load(verifier).net

    @torch.inference_mode()
    def __call__(self, pixels: Tensor) -> Features:
        """Of pictures (b, 3, h, w) in [-1, 1]."""
        own = torch.cat([stage.mean((2, 3)) for stage in looks(self.own, pixels.float())], 1)
        return Features(
            self.lite0(pixels.float()).numpy().astype(np.float64), own.numpy().astype(np.float64)
        )


def frechet_from(b: np.ndarray) -> Measure:
    """The Fréchet distance of sets from this one: ||mean a - mean b||² + tr(A + B - 2 (A B)^(1/2)), A and B the covariances (Heusel et
    al. 2017, eq. 6). What B alone decides is worked out once.

    The trace is that of the root of B^(1/2) A B^(1/2), which is symmetric. With fewer pictures than features the covariances have low rank,
    and it is taken where both live: the singular values of A' B'^T, for A = A'^T A' and B alike, sum to it.
    """
    mean, two = b.mean(0), (b - b.mean(0)) / np.sqrt(len(b) - 1)
    half = _root(two.T @ two) if len(b) >= b.shape[1] else None

    def distance(a: np.ndarray) -> float:
        one = (a - a.mean(0)) / np.sqrt(len(a) - 1)
        if half is None or len(a) < a.shape[1]:
            root = np.linalg.svd(one @ two.T, compute_uv=False).sum()
        else:
            across = one @ half
            root = np.sqrt(np.maximum(np.linalg.eigvalsh(across.T @ across), 0)).sum()
        return float(((a.mean(0) - mean) ** 2).sum() + (one**2).sum() + (two**2).sum() - 2 * root)

    return distance


def _root(b: np.ndarray) -> np.ndarray:
    """The symmetric root of a covariance."""
    values, vectors = np.linalg.eigh(b)
    return (vectors * np.sqrt(np.maximum(values, 0))) @ vectors.T


def mmd_from(b: np.ndarray) -> Measure:
    """The unbiased squared maximum mean discrepancy of sets from this one (Binkowski et al. 2018, eq. 4)."""
    own = _within(b)

    def distance(a: np.ndarray) -> float:
        return _within(a) + own - 2 * float(_kernel(a, b).mean())

    return distance


def _kernel(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """(x·y / d + 1)³ of each row x of a and y of b."""
    base = a @ b.T / a.shape[1] + 1
    return base * base * base  # numpy's power takes far longer


def _within(a: np.ndarray) -> float:
    """The mean kernel of two different rows."""
    kernel = _kernel(a, a)
    return float((kernel.sum() - np.trace(kernel)) / (len(a) * (len(a) - 1)))


def between(measure: Measure, a: np.ndarray, resamples: int = RESAMPLES) -> Distance:
    """How far a set of features is by ``measure``, with an interval by resampling its pictures in halves (without replacement, since
    repeated pictures would look like less variety): those are as far apart again as wholes drawn anew."""
    value, rng = measure(a), np.random.default_rng(0)
    half = max(len(a) // 2, 2)
    draws = np.array(
        [measure(a[rng.choice(len(a), half, replace=False)]) for _ in range(resamples)]
    )
    low, high = np.percentile(draws - draws.mean(), (2.5, 97.5))
    return Distance(value, value + float(low), value + float(high))


def of_scenes(
    eyes: FeatureExtractor,
    world: World,
    indices: range,
    through: Callable[[Tensor], Tensor] = lambda pixels: pixels,
) -> Features:
    """The features of the true pictures of scenes, each batch seen ``through`` something."""
    starts = range(indices.start, indices.stop, PART)
    return Features.join(
        [eyes(through(world.images(range(k, min(k + PART, indices.stop))))) for k in starts]
    )


def of_drawn(
    eyes: FeatureExtractor,
    draw: Callable[[int], Picture],
    count: int,
    out: Path,
    progress: Callable[[int, int], None],
) -> Features:
    """The features of ``count`` pictures, PART by PART; those that are in ``out`` are not drawn again. Of each part there is a sheet."""
    parts = []
    for start in range(0, count, PART):
        path = out / f"{start:06d}.npz"
        if not path.exists():
            images = [draw(i).image for i in range(start, min(start + PART, count))]
            seen = eyes(to_pixels(images))
            grid(images).save(path.with_suffix(".png"))
            kept = io.BytesIO()
            np.savez(kept, **asdict(seen))
            write(path, kept.getvalue())
        with np.load(path) as kept:
            parts.append(Features(kept["lite0"], kept["own"]))
        progress(min(start + PART, count), count)
    return Features.join(parts)


@dataclass(frozen=True)
class Row:
    """How far one set of pictures is from the true ones: by FD-lite0, and by MMD over both kinds of features."""

    name: str
    fd: Distance
    mmd: Distance
    own: Distance


def far_from(true: Features) -> Callable[[str, Features], Row]:
    """What makes the row of a set of pictures."""
    fd, lite0, own = frechet_from(true.lite0), mmd_from(true.lite0), mmd_from(true.own)
    return lambda name, some: Row(
        name, between(fd, some.lite0), between(lite0, some.lite0), between(own, some.own)
    )


def markdown(rows: Iterable[Row]) -> str:
    lines = [
        "| pictures | FD-lite0 (95 %) | MMD x 1000, Lite0 (95 %) | MMD x 1000, ours (95 %) |",
        "|---|---:|---:|---:|",
    ]
    for row in rows:
        cells = [
            f"{k * d.value:.2f} ({k * d.low:.2f} to {k * d.high:.2f})"
            for k, d in ((1, row.fd), (1000, row.mmd), (1000, row.own))
        ]
        lines.append(f"| {row.name} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def measure(
    name: str,
    verifier: Path,
    count: int,
    dev: bool,
    out: Path,
    progress: Callable[[int, int], None],
) -> Iterator[Row]:
    """The rows of a model's table, see above. Raises KalpanaError where ``out`` is of something else."""
    model, eyes, split = load(name), FeatureExtractor(verifier), "dev" if dev else "test"
    about = {"model": model.name, "files": model.files, "split": split, "pictures": count}
    out.mkdir(parents=True, exist_ok=True)
    claim(out / "run.json", about)
    world, objects = World(0, split, kind="everything"), World(0, split)

    def draw(i: int) -> Picture:
        return last(model.generate(world.describe(i)[0], model=name, seed=i)).pictures[0]

    row = far_from(of_scenes(eyes, world, range(count, 2 * count)))
    yield row("true: the captions' own scenes", of_scenes(eyes, world, range(count)))
    if isinstance(model, TextToImage):
        through = of_scenes(
            eyes,
            world,
            range(count),
            lambda pixels: model.vae.decode(model.vae.encode(pixels)).clamp(-1, 1),
        )
        yield row("the same through its autoencoder", through)
    yield row(f"drawn by {model.name}", of_drawn(eyes, draw, count, out, progress))
    yield row("true: scenes of things alone", of_scenes(eyes, objects, range(count)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", help="a name from `kalpana models`, or a folder of weights")
    parser.add_argument("--pictures", type=int, default=5000)
    parser.add_argument(
        "--dev", action="store_true", help="scenes by which choices are made, seen by verifier-a"
    )
    parser.add_argument(
        "--out",
        type=Path,
        help="the run's folder, runs/fidelity-MODEL by default; a run found there goes on",
    )
    asked = parser.parse_args()
    verifier = weights_dir() / ("verifier-a" if asked.dev else "verifier-b")
    out = asked.out or Path("runs") / f"fidelity-{Path(asked.model).name}"

    try:
        rows = list(
            measure(
                asked.model,
                verifier,
                asked.pictures,
                asked.dev,
                out,
                progress_to_stderr("pictures"),
            )
        )
    except KalpanaError as error:
        sys.exit(f"error: {error}")
    write(out / "fidelity.md", markdown(rows).encode())
    write(out / "fidelity.json", json.dumps([asdict(row) for row in rows], indent=1).encode())
    print(markdown(rows), end="")


if __name__ == "__main__":
    main()
