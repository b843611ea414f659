"""Accuracy of unCLIP by the source of its vectors."""

from __future__ import annotations

from pathlib import Path

import pytest
from torch import Tensor

from kalpana.evaluate.prompts import Prompt
from kalpana.evaluate.run import first
from kalpana.evaluate.suites import spriteeval
from kalpana.evaluate.unclip import ROADS, markdown, measure
from kalpana.evaluate.verifiers.observations import Observation, truth
from kalpana.pipelines import load
from kalpana.pipelines.unclip import UnclipPipeline


class Knowing:
    """A verifier that sees in every picture what the first prompt asks for."""

    title = "knowing"

    def __init__(self, prompt: Prompt) -> None:
        import random

        self.seen = truth(prompt.scene(random.Random(0)))

    def look(self, pixels: Tensor) -> list[Observation]:
        assert pixels.shape[1] == 3 and pixels.abs().max() <= 1
        return [self.seen for _ in pixels]


@pytest.mark.slow
def test_every_source_is_measured_on_the_same_prompts(unclip_folder: Path) -> None:
    model, prompts = load(str(unclip_folder)), first(spriteeval(dev=True), 1)[:2]
    assert isinstance(model, UnclipPipeline)
    calls: list[tuple[int, int]] = []
    rows = measure(model, Knowing(prompts[0]), prompts, lambda *each: calls.append(each), steps=1)
    assert calls[-1] == (2 * len(ROADS), 2 * len(ROADS))
    assert [(row.vector, row.with_text) for row in rows[:-1]] == list(ROADS)
    assert all(row.count == 2 and row.right >= 0.5 for row in rows)  # the first prompt always is
    cosines = {row.vector: row.cosine for row in rows}
    assert cosines["true picture"] == pytest.approx(1, abs=1e-4)
    assert abs(cosines["prior"]) < 1 and abs(cosines["text vector"]) < 1
    assert markdown(rows).count("\n|") == len(rows) + 1
