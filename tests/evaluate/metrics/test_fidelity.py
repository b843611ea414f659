"""Distances between sets of pictures: closed forms, intervals, and a model's table."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import linalg

from kalpana.evaluate.metrics import fidelity
from kalpana.evaluate.metrics.fidelity import (
    FeatureExtractor,
    Features,
    Row,
    between,
    frechet_from,
    markdown,
    measure,
    mmd_from,
)
from kalpana.hub.card import weights_dir
from kalpana.types import KalpanaError
from kalpana.world.world import World

VERIFIER = weights_dir() / "verifier-a"


def test_the_frechet_distance_of_gaussians_is_the_closed_form() -> None:
    rng = np.random.default_rng(0)
    a = rng.normal(size=(4000, 6)) @ rng.normal(size=(6, 6)) + rng.normal(size=6)
    b = rng.normal(size=(3000, 6)) @ rng.normal(size=(6, 6))
    one, two = np.cov(a.T), np.cov(b.T)
    wanted = ((a.mean(0) - b.mean(0)) ** 2).sum() + np.trace(
        one + two - 2 * linalg.sqrtm(one @ two).real
    )
    assert frechet_from(b)(a) == pytest.approx(wanted, rel=1e-6)
    assert frechet_from(a)(a) == pytest.approx(0, abs=1e-8)
    # Fewer pictures than features: the trace comes from singular values.
    few_a, few_b = rng.normal(size=(20, 50)), rng.normal(size=(30, 50)) * 2
    one, two = np.cov(few_a.T), np.cov(few_b.T)
    root = np.sqrt(np.maximum(linalg.eigvals(one @ two).real, 0)).sum()
    wanted = ((few_a.mean(0) - few_b.mean(0)) ** 2).sum() + np.trace(one) + np.trace(two) - 2 * root
    assert frechet_from(few_b)(few_a) == pytest.approx(wanted, rel=1e-4)


def test_the_interval_is_as_wide_as_repetition_says() -> None:
    """One sample's interval is about as wide as the spread of the distance over fresh samples."""
    rng = np.random.default_rng(1)
    far = frechet_from(rng.normal(size=(3000, 3)))
    fresh = [far(rng.normal(size=(400, 3)) + 1.0) for _ in range(200)]
    promised = [between(far, rng.normal(size=(400, 3)) + 1.0, 60) for _ in range(20)]
    widths = [distance.high - distance.low for distance in promised]
    assert np.mean(widths) == pytest.approx(
        np.subtract(*np.percentile(fresh, (97.5, 2.5))), rel=0.25
    )


def test_mmd_is_unbiased_and_grows_with_distance() -> None:
    rng = np.random.default_rng(2)
    same = [mmd_from(rng.normal(size=(50, 4)))(rng.normal(size=(40, 4))) for _ in range(300)]
    assert abs(np.mean(same)) < 3 * np.std(same) / np.sqrt(300)
    near, far = (
        mmd_from(rng.normal(size=(80, 4)) + shift)(rng.normal(size=(80, 4))) for shift in (0.5, 2.0)
    )
    assert 0 < near < far


@pytest.mark.slow
def test_the_more_a_picture_is_blurred_the_farther_it_is() -> None:
    pixels = World(1).images(range(32))

    def blurred(k: int) -> torch.Tensor:
        return torch.nn.functional.avg_pool2d(
            torch.nn.functional.pad(pixels, (k // 2,) * 4, mode="replicate"), k, 1
        )

    eyes = FeatureExtractor(VERIFIER)
    real, little, much = (
        Features.join([eyes(part) for part in x.split(16)])
        for x in (pixels, blurred(3), blurred(7))
    )
    far = frechet_from(real.lite0)
    assert real.lite0.shape == (32, 1280) and 0 < far(little.lite0) < 0.7 * far(much.lite0)
    far = mmd_from(real.own)
    assert far(little.own) < 0.7 * far(much.own)


@pytest.mark.slow
def test_a_model_is_measured_between_what_is_near_and_what_is_far_and_a_stopped_run_goes_on(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fidelity, "PART", 20)
    seen: list[tuple[int, int]] = []

    def measured(count: int) -> list[Row]:
        return list(
            measure(
                str(folder),
                VERIFIER,
                count,
                True,
                tmp_path / "run",
                lambda done, of: seen.append((done, of)),
            )
        )

    rows = measured(30)
    near, through, drawn, far = rows
    assert [row.name for row in rows][2] == "drawn by tiny" and seen == [(20, 30), (30, 30)]
    for distance in ("fd", "mmd", "own"):
        # The model generates noise, and its autoencoder is untrained.
        assert (
            max(getattr(near, distance).value, getattr(far, distance).value)
            < getattr(drawn, distance).value
        )
        assert getattr(near, distance).value < getattr(through, distance).value
    assert len(list((tmp_path / "run").glob("*.png"))) == 2
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "run").glob("*.npz")}
    (tmp_path / "run" / "000020.npz").unlink()
    assert measured(30) == rows
    assert (tmp_path / "run" / "000000.npz").stat().st_mtime_ns == before[
        tmp_path / "run" / "000000.npz"
    ]
    assert markdown(rows).count("\n| ") == 4
    with pytest.raises(KalpanaError, match="holds a run with pictures 30, not 20"):
        measured(20)
