"""What every test shares: one quiet setting of hypothesis, and a cache folder that is gone afterwards."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import settings

# No deadline, for a busy machine is not a bug; derandomised, so that a failure on one machine is a failure on all.
settings.register_profile("kalpana", deadline=None, derandomize=True, max_examples=50)
settings.load_profile("kalpana")


@pytest.fixture(scope="session", autouse=True)
def cache_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Pools of drawn pictures go to a folder of the tests, in processes that they start too."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield
