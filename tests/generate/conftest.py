"""The tiny model of tests/conftest.py, loaded."""

from __future__ import annotations

from pathlib import Path

import pytest

from kalpana.generate import load
from kalpana.generate.text_to_image import TextToImage


@pytest.fixture
def model(folder: Path) -> TextToImage:
    return load(str(folder))
