"""Fixtures that load the tiny models of tests/conftest.py."""

from __future__ import annotations

from pathlib import Path

import pytest

from kalpana.pipelines import load
from kalpana.pipelines.diffusion import DiffusionPipeline
from kalpana.understand import encoder


@pytest.fixture
def model(folder: Path) -> DiffusionPipeline:
    return load(str(folder))


@pytest.fixture
def ranker(clip_folder: Path) -> encoder.Encoder:
    return encoder.load(str(clip_folder), "cpu")
