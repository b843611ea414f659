"""How alike two sets of pictures are, as sets: FD-lite0, a Fréchet distance (Heusel et al. 2017) over the features of EfficientNet-Lite0,
and the maximum mean discrepancy with a polynomial kernel (KID, Binkowski et al. 2018) over the same. FD-lite0 is not FID: another network.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from kalpana.hub.card import shelf
from kalpana.hub.weights import load_module
from kalpana.models.lite0 import Lite0

RESAMPLES = 20


@dataclass(frozen=True)
class Distance:
    """A distance with its 95 % interval over resampled pictures."""

    value: float
    low: float
    high: float


@torch.inference_mode()
def features(batches: Iterable[Tensor]) -> np.ndarray:
    """The features (n, 1280) of batches of pictures (b, 3, h, w) in [-1, 1]."""
    net = load_module(shelf() / "lite0" / "lite0.safetensors", "lite0", Lite0)
    return np.concatenate([net(batch.float()).numpy() for batch in batches]).astype(np.float64)


def frechet(a: np.ndarray, b: np.ndarray) -> float:
    """||mean a - mean b||² + tr(A + B - 2 (A B)^(1/2)), A and B the covariances (Heusel et al. 2017, eq. 6).

    With fewer pictures than features the covariances have low rank, and the trace of the root is taken where both live: the singular
    values of A' B'^T, for A = A'^T A' and B alike, sum to it.
    """
    one, two = ((x - x.mean(0)) / np.sqrt(len(x) - 1) for x in (a, b))
    root = np.linalg.svd(one @ two.T, compute_uv=False).sum() if min(len(a), len(b)) < a.shape[1] else _root(one.T @ one, two.T @ two)
    return float(((a.mean(0) - b.mean(0)) ** 2).sum() + (one**2).sum() + (two**2).sum() - 2 * root)


def _root(a: np.ndarray, b: np.ndarray) -> float:
    """The trace of (A B)^(1/2) for covariances A and B: the root of A^(1/2) B A^(1/2), which is symmetric."""
    values, vectors = np.linalg.eigh(a)
    half = (vectors * np.sqrt(np.maximum(values, 0))) @ vectors.T
    return float(np.sqrt(np.maximum(np.linalg.eigvalsh(half @ b @ half), 0)).sum())


def fd(a: np.ndarray, b: np.ndarray, resamples: int = RESAMPLES) -> Distance:
    """FD-lite0 of two sets of features, with an interval by resampling the pictures of ``a`` in halves (without replacement, since
    repeated pictures would look like less variety), scaled to the whole."""
    value, rng = frechet(a, b), np.random.default_rng(0)
    half = max(len(a) // 2, 2)
    draws = np.array([frechet(a[rng.choice(len(a), half, replace=False)], b) for _ in range(resamples)]) if resamples else np.array([value])
    spread = draws - draws.mean()  # of half the pictures: as large again as of all, sampled without replacement
    low, high = np.percentile(spread, (2.5, 97.5))
    return Distance(value, value + float(low), value + float(high))


def mmd(a: np.ndarray, b: np.ndarray) -> float:
    """The unbiased squared maximum mean discrepancy with the kernel (x·y / d + 1)³ (Binkowski et al. 2018, eq. 4)."""
    kernel_aa, kernel_bb, kernel_ab = ((x @ y.T / a.shape[1] + 1) ** 3 for x, y in ((a, a), (b, b), (a, b)))
    n, m = len(a), len(b)
    within = (kernel_aa.sum() - np.trace(kernel_aa)) / (n * (n - 1)) + (kernel_bb.sum() - np.trace(kernel_bb)) / (m * (m - 1))
    return float(within - 2 * kernel_ab.mean())
