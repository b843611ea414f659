"""Fidelity of a model: Fréchet distance and kernel MMD between sets of pictures.

FD-lite0 is the Fréchet distance (Heusel et al. 2017) over features of EfficientNet-Lite0. It is not
FID, which uses another network. MMD is the maximum mean discrepancy with a polynomial kernel (KID,
Binkowski et al. 2018), over the same features and over those of a verifier's detector.

    kalpana evaluate fidelity default

generates pictures for the captions of 5,000 test scenes and measures their distances from 5,000
other test scenes. Reference rows are the captions' own scenes, the least possible distance; these
scenes through the model's autoencoder, if it has one; and scenes of objects only, a distant set.
Features of generated pictures are saved, and a run that was stopped resumes.
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from kalpana.evaluate.run import claim
from kalpana.evaluate.verifiers.verifier import DetectorVerifier
from kalpana.hub.card import find_model
from kalpana.hub.weights import load_module
from kalpana.media import grid, locked, to_pixels, write
from kalpana.pipelines import last, load
from kalpana.pipelines.diffusion import DiffusionPipeline
from kalpana.train.losses import looks
from kalpana.types import Output
from kalpana.world.world import World

RESAMPLES = 20
PART = 50  # pictures whose features are saved in one file
Measure = Callable[[np.ndarray], float]  # distance of a set of features (n, d) from a fixed one


@dataclass(frozen=True)
class Distance:
    """Distance with its 95 % interval over resampled pictures."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Features:
    """Features of n pictures: ``lite0`` (n, 1280), and ``own`` (n, d) of a verifier's detector.

    ``own`` is the spatial mean of the detector's features at a quarter, an eighth and a sixteenth
    of the side.
    """

    lite0: np.ndarray
    own: np.ndarray

    @classmethod
    def join(cls, parts: Sequence[Features]) -> Features:
        """Features of all parts, concatenated."""
        return cls(
            np.concatenate([part.lite0 for part in parts]),
            np.concatenate([part.own for part in parts]),
        )


class FeatureExtractor:
    """Networks that compute features: EfficientNet-Lite0 and a verifier's detector."""

    def __init__(self, verifier: Path) -> None:
        """Load the networks; ``verifier`` is the verifier's folder."""
        self.lite0 = load_module(find_model("lite0") / "lite0.safetensors", "lite0")
        self.own = DetectorVerifier.load(verifier).net

    @torch.inference_mode()
    def __call__(self, pixels: Tensor) -> Features:
        """Features of pictures (b, 3, h, w) in [-1, 1]."""
        own = torch.cat([stage.mean((2, 3)) for stage in looks(self.own, pixels.float())], 1)
        return Features(
            self.lite0(pixels.float()).numpy().astype(np.float64), own.numpy().astype(np.float64)
        )


def frechet_from(b: np.ndarray) -> Measure:
    """Fréchet distance of a set a from the set b, as a function of a (Heusel et al. 2017, eq. 6).

        ||mean a - mean b||² + tr(A + B - 2 (A B)^(1/2)), where A and B are the covariances

    Terms of b alone are computed once. The trace of the root is computed from B^(1/2) A B^(1/2),
    which is symmetric and has the same eigenvalues as A B. With fewer pictures than features the
    covariances have low rank; the trace is then the sum of the singular values of A' B'^T, for
    covariances A'^T A' and B'^T B'.
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
    """Symmetric square root of a covariance."""
    values, vectors = np.linalg.eigh(b)
    return (vectors * np.sqrt(np.maximum(values, 0))) @ vectors.T


def mmd_from(b: np.ndarray) -> Measure:
    """Unbiased squared MMD of a set a from the set b, as a function of a.

    Source: Binkowski et al. 2018, eq. 4.
    """
    own = _within(b)

    def distance(a: np.ndarray) -> float:
        return _within(a) + own - 2 * float(_kernel(a, b).mean())

    return distance


def _kernel(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Polynomial kernel (x·y / d + 1)³ of each row x of a and y of b."""
    base = a @ b.T / a.shape[1] + 1
    return base * base * base  # numpy's power is far slower


def _within(a: np.ndarray) -> float:
    """Mean kernel of two different rows."""
    kernel = _kernel(a, a)
    return float((kernel.sum() - np.trace(kernel)) / (len(a) * (len(a) - 1)))


def between(measure: Measure, a: np.ndarray, resamples: int = RESAMPLES) -> Distance:
    """Distance of a set of features by ``measure``, with a 95 % interval by resampling.

    The samples are halves of the set, without replacement, since repeated pictures would look like
    less variety. Halves differ from each other about as much as independent sets of full size.
    """
    value, rng = measure(a), np.random.default_rng(0)
    half = max(len(a) // 2, 2)
    values = np.array(
        [measure(a[rng.choice(len(a), half, replace=False)]) for _ in range(resamples)]
    )
    low, high = np.percentile(values - values.mean(), (2.5, 97.5))
    return Distance(value, value + float(low), value + float(high))


def of_scenes(
    extractor: FeatureExtractor,
    world: World,
    indices: range,
    through: Callable[[Tensor], Tensor] = lambda pixels: pixels,
) -> Features:
    """Features of the true renders of scenes, each batch passed ``through`` a function."""
    starts = range(indices.start, indices.stop, PART)
    return Features.join(
        [extractor(through(world.images(range(k, min(k + PART, indices.stop))))) for k in starts]
    )


def of_drawn(
    extractor: FeatureExtractor,
    draw: Callable[[int], Output],
    count: int,
    out: Path,
    progress: Callable[[int, int], None],
) -> Features:
    """Features of ``count`` generated pictures, saved in ``out`` in parts of PART.

    Parts found there are not generated again. A sheet of the pictures is saved with each part.
    """
    parts = []
    for start in range(0, count, PART):
        path = out / f"{start:06d}.npz"
        if not path.exists():
            images = [draw(i).image for i in range(start, min(start + PART, count))]
            features = extractor(to_pixels(images))
            grid(images).save(path.with_suffix(".png"))
            file = io.BytesIO()
            np.savez(file, **asdict(features))
            write(path, file.getvalue())
        with np.load(path) as saved:
            parts.append(Features(saved["lite0"], saved["own"]))
        progress(min(start + PART, count), count)
    return Features.join(parts)


@dataclass(frozen=True)
class Row:
    """Distances of one set of pictures from the true ones: FD-lite0, and MMD over both features."""

    name: str
    fd: Distance
    mmd: Distance
    own: Distance


def far_from(true: Features) -> Callable[[str, Features], Row]:
    """Function that makes the table row of a named set of pictures."""
    fd, lite0, own = frechet_from(true.lite0), mmd_from(true.lite0), mmd_from(true.own)
    return lambda name, features: Row(
        name,
        between(fd, features.lite0),
        between(lite0, features.lite0),
        between(own, features.own),
    )


def markdown(rows: Iterable[Row]) -> str:
    """Markdown table of the rows."""
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
    """Rows of a model's table. Raises KalpanaError if ``out`` holds a different run, or another
    process works in it."""
    with locked(out):
        yield from _measure(name, verifier, count, dev, out, progress)


def _measure(
    name: str,
    verifier: Path,
    count: int,
    dev: bool,
    out: Path,
    progress: Callable[[int, int], None],
) -> Iterator[Row]:
    model, extractor, split = load(name), FeatureExtractor(verifier), "dev" if dev else "test"
    about = {"model": model.name, "files": model.files, "split": split, "pictures": count}
    claim(out / "run.json", about)
    world, objects = World(0, split, kind="everything"), World(0, split)

    def draw(i: int) -> Output:
        return last(model.generate(world.describe(i)[0], model=name, seed=i)).outputs[0]

    row = far_from(of_scenes(extractor, world, range(count, 2 * count)))
    yield row("true: the captions' own scenes", of_scenes(extractor, world, range(count)))
    if isinstance(model, DiffusionPipeline):
        through = of_scenes(
            extractor,
            world,
            range(count),
            lambda pixels: model.codec.decode(model.codec.encode(pixels)).clamp(-1, 1),
        )
        yield row("the same through its autoencoder", through)
    yield row(f"drawn by {model.name}", of_drawn(extractor, draw, count, out, progress))
    yield row("true: scenes of objects only", of_scenes(extractor, objects, range(count)))


def save(rows: Sequence[Row], out: Path) -> None:
    """Write the rows into ``out`` as fidelity.md and fidelity.json."""
    write(out / "fidelity.md", markdown(rows).encode())
    write(out / "fidelity.json", json.dumps([asdict(row) for row in rows], indent=1).encode())
