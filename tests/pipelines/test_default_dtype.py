"""A global default dtype, which other programs set, changes no picture."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from kalpana.pipelines import last, load
from kalpana.pipelines.pipeline import Pipeline

SHIPPED = ("default", "dalle", "vqgan-clip")


@pytest.fixture(autouse=True)
def restored() -> Iterator[None]:
    before = torch.get_default_dtype()
    yield
    torch.set_default_dtype(before)


def pixels(pipeline: Pipeline, **fields: object) -> bytes:
    return last(pipeline.generate("a cat", seed=1, **fields)).outputs[0].image.tobytes()


@pytest.mark.slow
def test_a_tiny_model_draws_the_same(folder: Path) -> None:
    model = load(str(folder))
    expected = [pixels(model, sampler=sampler) for sampler in ("euler", "heun", "dpmpp-2m")]
    wide = pixels(model, size="64x48", strict=False)
    image = last(model.generate("a dog", seed=2)).outputs[0].image
    changed = pixels(model, image=image)
    for dtype in (torch.float64, torch.bfloat16):
        torch.set_default_dtype(dtype)
        again = [pixels(model, sampler=sampler) for sampler in ("euler", "heun", "dpmpp-2m")]
        assert again == expected
        assert pixels(model, size="64x48", strict=False) == wide
        assert pixels(model, image=image) == changed


@pytest.mark.slow
@pytest.mark.parametrize("name", SHIPPED)
def test_a_shipped_model_draws_the_same(name: str) -> None:
    model = load(name, "cpu")
    fields = {} if name.startswith("dalle") else {"steps": 2}
    expected = pixels(model, **fields)
    torch.set_default_dtype(torch.float64)
    assert pixels(model, **fields) == expected
    load.__globals__["_load"].cache_clear()
    assert pixels(load(name, "cpu"), **fields) == expected
