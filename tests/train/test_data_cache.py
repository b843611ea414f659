"""The disk cache: a damaged pool is made anew, and what cannot be written is one line."""

from __future__ import annotations

import resource
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from kalpana.train import data_cache
from kalpana.types import KalpanaError
from kalpana.world.world import World

WORLD, COUNT = World(11), 5


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "kalpana"


def pool(cache: Path) -> Path:
    (path,) = cache.glob("pictures-*.npy")
    return path


def test_a_pool_holds_the_worlds_pictures_and_is_read_the_second_time(cache: Path) -> None:
    calls: list[tuple[int, int]] = []
    found = data_cache.pictures(WORLD, COUNT, lambda done, total: calls.append((done, total)))
    assert calls == [(COUNT, COUNT)] and found.shape == (COUNT, 3, 128, 128)
    drawn = WORLD.images(range(COUNT)).add(1).mul(127.5).round()
    assert np.abs(found.astype(np.float32) - drawn.numpy()).max() <= 1
    assert np.array_equal(np.load(pool(cache)), found)
    again = data_cache.pictures(WORLD, COUNT, lambda done, total: calls.append((done, total)))
    assert len(calls) == 1 and np.array_equal(again, found)


@pytest.mark.parametrize(
    "damage",
    [
        lambda path: path.write_bytes(path.read_bytes()[:5000]),
        lambda path: path.write_bytes(path.read_bytes()[:20]),
        lambda path: path.write_bytes(b""),
        lambda path: np.save(path, np.zeros((COUNT, 3, 64, 64), np.uint8)),
        lambda path: np.save(path, np.zeros((COUNT, 3, 128, 128), np.float32)),
    ],
    ids=["cut", "cut in its header", "empty", "another shape", "another type"],
)
def test_a_damaged_pool_is_made_anew(damage: Callable[[Path], object], cache: Path) -> None:
    before = np.array(data_cache.pictures(WORLD, COUNT))
    damage(pool(cache))
    assert np.array_equal(data_cache.pictures(WORLD, COUNT), before)
    assert np.array_equal(np.load(pool(cache)), before)


def test_a_folder_that_cannot_be_written_is_one_line(tmp_path: Path, cache: Path) -> None:
    cache.write_text("a file")
    with pytest.raises(KalpanaError, match=r"cannot write the cache .*XDG_CACHE_HOME") as error:
        data_cache.pictures(WORLD, COUNT)
    assert "\n" not in str(error.value) and cache.read_text() == "a file"


def test_a_full_disk_is_one_line_and_leaves_nothing(cache: Path) -> None:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, before[1]))
    try:
        with pytest.raises(KalpanaError, match="cannot write the cache"):
            data_cache.pictures(WORLD, COUNT)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert not list(cache.iterdir())
    assert data_cache.pictures(WORLD, COUNT).shape == (COUNT, 3, 128, 128)


def test_two_processes_write_under_names_of_their_own(cache: Path) -> None:
    """A pool that is begun while another of the same name is being made does not disturb it."""

    def chunks(value: int) -> Iterator[np.ndarray]:
        yield np.full((1, 2), value, np.uint8)
        if value == 1:
            data_cache.array(path, (2, 2), np.uint8, chunks(2), data_cache.silent)
            assert len(list(cache.glob(".*.part"))) == 1
        yield np.full((1, 2), value, np.uint8)

    path = cache / "pool.npy"
    found = data_cache.array(path, (2, 2), np.uint8, chunks(1), data_cache.silent)
    assert found.tolist() == [[1, 1], [1, 1]] and not list(cache.glob(".*.part"))
