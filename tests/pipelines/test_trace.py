"""The trace page: its pictures are those of the pipeline, and it needs nothing from outside."""

from __future__ import annotations

import base64
import io
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from kalpana.cli import app
from kalpana.media import to_images
from kalpana.pipelines.diffusion import DiffusionPipeline, noise
from kalpana.pipelines.trace import MOST, trace
from kalpana.types import KalpanaError

PROMPT = "a <red> apple & a car"


class Page(HTMLParser):
    """The elements of a page, each with its attributes, and its visible text."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, Any]]] = []
        self.words: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.words.append(data)

    def of(self, tag: str) -> list[dict[str, Any]]:
        return [attributes for name, attributes in self.elements if name == tag]

    def images(self) -> list[Image.Image]:
        data = [each["src"].removeprefix("data:image/png;base64,") for each in self.of("img")]
        return [Image.open(io.BytesIO(base64.b64decode(each))) for each in data]


def test_the_pictures_are_those_of_the_pipeline(model: DiffusionPipeline) -> None:
    """The finished picture, it noised at eight times, and an estimate for each of five steps."""
    *_, last = model.generate(PROMPT, seed=3, steps=5, spacing="karras")
    assert last.result is not None
    (output,) = last.result.outputs
    page = Page(trace(model, PROMPT, seed=3, steps=5, spacing="karras"))
    images = page.images()
    assert len(images) == 1 + 8 + 5 and {image.size for image in images} == {(32, 32)}
    assert images[0].tobytes() == output.image.tobytes()
    with torch.no_grad():
        pure = model.codec.decode(noise([3], model.codec.shape(32, 32, 1)))
    assert images[1].tobytes() == to_images(pure)[0].tobytes()
    # The last step ends at its estimate.
    assert images[-1].tobytes() == output.image.tobytes() != images[-2].tobytes()


def test_the_curves_and_timesteps_are_drawn(model: DiffusionPipeline) -> None:
    page = Page(trace(model, PROMPT, seed=3, steps=5))
    x = [float(line["x1"]) for line in page.of("line")]
    assert x == [20, 140, 260, 380, 500, 620]
    (alpha, sigma) = (
        [tuple(map(float, point.split(","))) for point in curve["points"].split()]
        for curve in page.of("polyline")
    )
    assert alpha[0] == (20, 190) and alpha[-1] == (620, 20)  # 0 at noise, 1 at data
    assert sigma[0] == (20, 20) and sigma[-1] == (620, 190)


def test_the_page_stands_alone_and_escapes_the_prompt(model: DiffusionPipeline) -> None:
    html = trace(model, PROMPT, seed=3, steps=2)
    page = Page(html)
    assert PROMPT in "".join(page.words) and "<red>" not in html
    assert not re.search(r"""(src|href)=["'](?!data:)|url\(|@import|<script""", html)
    assert page.of("html") == [{"lang": "en"}] and "Noise schedule" in html


def test_a_hindi_prompt_gets_a_hindi_page(model: DiffusionPipeline) -> None:
    page = Page(trace(model, "एक लाल सेब", seed=3, steps=2))
    assert page.of("html") == [{"lang": "hi"}] and "शोर की अनुसूची" in " ".join(page.words)


@pytest.mark.slow
def test_many_steps_are_thinned_out_with_first_and_last(model: DiffusionPipeline) -> None:
    page = Page(trace(model, PROMPT, seed=3, steps=100, guidance=1))
    assert len(page.images()) == 1 + 8 + MOST
    text = "".join(page.words)
    assert "step 1step" in text.replace("\n", "") and "step 100" in text


def test_a_trace_of_several_pictures_is_refused(model: DiffusionPipeline) -> None:
    for fields in ({"n": 2}, {"seeds": (1, 2)}, {"best_of": 2}):
        with pytest.raises(KalpanaError, match="one picture"):
            trace(model, PROMPT, **fields)


def test_the_command_writes_the_page(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "new" / "page.html"
    arguments = [PROMPT, "--model", str(folder), "--steps", "2", "--out", str(out)]
    done = CliRunner().invoke(app, ["trace", *arguments])
    assert done.exit_code == 0 and done.stdout.strip() == str(out)
    assert out.read_text(encoding="utf-8").startswith("<!doctype html>")
