"""Intervals against values of the literature and closed forms."""

from __future__ import annotations

import math

import pytest

from kalpana.evaluate.editing.estimate import Estimate, mean, share, table


@pytest.mark.parametrize(
    ("right", "n", "low", "high"),
    # 0 of n: 0 to z² / (n + z²). 81 of 263: Newcombe 1998, table I, method 3.
    [(0, 10, 0.0, 3.8415 / 13.8415), (10, 10, 10 / 13.8415, 1.0), (81, 263, 0.2553, 0.3662)],
)
def test_shares_have_the_score_interval(right: int, n: int, low: float, high: float) -> None:
    found = share([True] * right + [False] * (n - right))
    assert found.value == right / n
    assert found.low == pytest.approx(low, abs=1e-4)
    assert found.high == pytest.approx(high, abs=1e-4)


def test_means_are_resampled() -> None:
    found = mean([0.0] * 50 + [1.0] * 50)
    assert found.value == 0.5
    half = 1.96 * 0.5 / 10  # of a mean of 100 with a deviation of a half
    assert found.low == pytest.approx(0.5 - half, abs=0.02)
    assert found.high == pytest.approx(0.5 + half, abs=0.02)
    assert mean([3.0, 3.0]) == Estimate(3.0, 3.0, 3.0)
    assert math.isinf(mean([1.0, math.inf]).value)


def test_texts_are_scaled() -> None:
    assert Estimate(0.75, 0.41, 0.929).text(100) == "75 (41 to 93)"
    assert Estimate(30.04, 29, 31).text(digits=1) == "30.0 (29.0 to 31.0)"
    assert mean([math.inf]).text() == "–"
    assert table(("a", "b"), [["x", "1"]]) == "| a | b |\n| --- | ---: |\n| x | 1 |\n"
