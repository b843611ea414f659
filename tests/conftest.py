"""What every test shares: one quiet setting of hypothesis."""

from __future__ import annotations

from hypothesis import settings

# No deadline, for a busy machine is not a bug; derandomised, so that a failure on one machine is a failure on all.
settings.register_profile("kalpana", deadline=None, derandomize=True, max_examples=50)
settings.load_profile("kalpana")
