"""Estimates with 95 % intervals from few samples, and their tables."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

Z = 1.959964  # of the normal distribution: 95 % lie within
RESAMPLES = 1000


@dataclass(frozen=True)
class Estimate:
    """A mean with its 95 % interval ``low`` to ``high``."""

    value: float
    low: float
    high: float

    def text(self, scale: float = 1.0, digits: int = 0) -> str:
        """Such as "75 (41 to 93)", times ``scale``; "–" for an infinite value."""
        if not math.isfinite(self.value):
            return "–"
        value, low, high = (
            f"{scale * each:.{digits}f}" for each in (self.value, self.low, self.high)
        )
        return f"{value} ({low} to {high})"


def share(holds: Sequence[bool]) -> Estimate:
    """Share of true values, with the score interval (Wilson 1927), which suits few samples."""
    n, p = len(holds), sum(holds) / len(holds)
    middle, spread = p + Z**2 / (2 * n), Z * math.sqrt(p * (1 - p) / n + Z**2 / (4 * n**2))
    scale = 1 + Z**2 / n
    return Estimate(p, max((middle - spread) / scale, 0.0), min((middle + spread) / scale, 1.0))


def mean(values: Sequence[float]) -> Estimate:
    """Mean with the 2.5th and 97.5th percentiles of the means of 1,000 bootstrap samples."""
    each = np.array(values, dtype=float)
    if not np.isfinite(each).all():
        return Estimate(math.inf, math.inf, math.inf)
    rng = np.random.default_rng(0)
    means = each[rng.integers(len(each), size=(RESAMPLES, len(each)))].mean(1)
    low, high = map(float, np.percentile(means, (2.5, 97.5)))
    return Estimate(float(each.mean()), low, high)


def table(head: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """A Markdown table; all columns but the first are aligned to the right."""
    rule = ["---"] + ["---:"] * (len(head) - 1)
    return "".join(f"| {' | '.join(cells)} |\n" for cells in (head, rule, *lines))
