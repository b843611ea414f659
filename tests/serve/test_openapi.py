"""schemathesis over the OpenAPI description: no request that it can make is a defect (5xx)."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

pytest.importorskip("fastapi", reason="the server needs fastapi: pip install 'kalpana[serve]'")
pytest.importorskip("schemathesis", reason="not installed: pip install schemathesis")

import hypothesis
import schemathesis
from hypothesis import HealthCheck, Phase, given
from hypothesis import strategies as st

from kalpana.serve.settings import Settings

from .test_connections import running

pytestmark = pytest.mark.filterwarnings("ignore")  # of schemathesis


STREAMS = ("/v1/jobs/events",)  # never end
OPERATIONS = 40  # at least


@pytest.mark.slow
def test_no_request_of_the_description_is_a_defect(settings: Settings) -> None:
    small = replace(settings, max_pixels=1 << 14, max_n=2, rate=10**6)
    with running(small) as port:
        url = f"http://127.0.0.1:{port}"
        schema = schemathesis.openapi.from_url(f"{url}/openapi.json")
        found = [each.ok() for each in schema.get_all_operations()]
        found = [each for each in found if each.path not in STREAMS]
        assert len(found) >= OPERATIONS
        for operation in found:
            check(url, operation)


def check(url: str, operation: Any, examples: int = 8) -> None:
    """Send random valid and invalid requests of one operation."""
    valid, invalid = (
        operation.as_strategy(generation_mode=mode)
        for mode in (schemathesis.GenerationMode.POSITIVE, schemathesis.GenerationMode.NEGATIVE)
    )

    @hypothesis.settings(
        max_examples=examples,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
        database=None,
    )
    @given(st.one_of(valid, invalid))
    def send(case: Any) -> None:
        answer = case.call(base_url=url)
        assert answer.status_code < 500, f"{case.method} {case.path}: {answer.text[:300]}"

    send()
