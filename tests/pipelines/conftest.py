"""Fixtures that load the tiny models of tests/conftest.py."""

from __future__ import annotations

import itertools
from pathlib import Path
from types import SimpleNamespace

import pytest

from kalpana.pipelines import load, pipeline, rerank, vqgan_clip
from kalpana.pipelines.diffusion import DiffusionPipeline
from kalpana.understand import encoder


@pytest.fixture
def model(folder: Path) -> DiffusionPipeline:
    return load(str(folder))


@pytest.fixture
def ranker(clip_folder: Path) -> encoder.Encoder:
    return encoder.load(str(clip_folder), "cpu")


@pytest.fixture
def second_a_step(monkeypatch: pytest.MonkeyPatch) -> None:
    """Clocks by which each step of a stream takes one second: the remaining time is known."""
    for module in (pipeline, rerank, vqgan_clip):
        clock = SimpleNamespace(perf_counter=itertools.count().__next__)
        monkeypatch.setattr(module, "time", clock)
