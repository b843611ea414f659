"""Tables of guidance and samplers: measures by hand, and a tiny model."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import Tensor

from kalpana.evaluate import sampling
from kalpana.evaluate.run import first
from kalpana.evaluate.suites import spriteeval
from kalpana.evaluate.verifiers.observations import Observation, truth
from kalpana.pipelines import last, load
from kalpana.pipelines.diffusion import DiffusionPipeline
from kalpana.types import KalpanaError
from kalpana.understand import encoder

PROMPTS = first(spriteeval(dev=True), 1)[:2]


class Knowing:
    """A verifier that sees in every picture what the first prompt asks for."""

    title = "knowing"

    def look(self, pixels: Tensor) -> list[Observation]:
        import random

        return [truth(PROMPTS[0].scene(random.Random(0))) for _ in pixels]


@pytest.fixture
def model(folder: Path) -> DiffusionPipeline:
    return sampling.check(load(str(folder), "cpu"), "tiny")


def silent(done: int, total: int) -> None:
    assert 0 < done <= total


def test_diversity_is_the_mean_distance_of_pairs() -> None:
    a, b = torch.tensor([1.0, 0.0]), torch.tensor([0.6, 0.8])
    assert sampling.diversity([torch.stack((a, a))]) == 0
    assert sampling.diversity([torch.stack((a, -a)), torch.stack((a, b))]) == pytest.approx(1.2)
    assert sampling.diversity([torch.stack((a, a, b))]) == pytest.approx(0.8 / 3)
    assert sampling.diversity([a[None]]) is None


def test_the_guidance_table_has_its_settings_and_bounds(
    model: DiffusionPipeline, folder: Path, clip_folder: Path
) -> None:
    settings = sampling.guidance_settings(str(folder))
    chosen = [settings[0], settings[2], settings[4], settings[-1]]
    ranker = encoder.load(str(clip_folder), "cpu")
    rows = sampling.guidance_table(model, Knowing(), ranker, PROMPTS, chosen, silent, 2, 1)
    assert [row.name for row in rows] == [
        *(each.name for each in chosen), "pictures of other prompts", "true pictures",
    ]  # fmt: skip
    assert all(row.count == 4 and row.right >= 0.5 for row in rows)  # the first prompt always is
    assert all(row.diversity is not None and 0 <= row.diversity <= 2 for row in rows)
    # Guided by itself, a model is as without guidance.
    assert (rows[3].right, rows[3].diversity) == (rows[0].right, pytest.approx(rows[0].diversity))
    table = sampling.guidance_markdown(rows)
    assert table.count("\n") == len(rows) + 2 and "| none | " in table


def test_an_interval_is_that_of_the_guidance(model: DiffusionPipeline) -> None:
    """Nothing is guided where the interval is empty; everything by default in the tiny model."""

    def drawn(used: DiffusionPipeline, guidance: float) -> bytes:
        asked = used.generate("a red ball", seed=0, steps=2, guidance=guidance)
        return last(asked).outputs[0].image.tobytes()

    plain, guided = drawn(model, 1.0), drawn(model, 5.0)
    assert drawn(sampling.with_interval(model, (0.0, 0.0)), 5.0) == plain != guided
    assert drawn(sampling.with_interval(model, (0.0, 1.0)), 5.0) == guided


@pytest.mark.slow
def test_the_reference_has_no_error_and_coarser_steps_have_more(
    model: DiffusionPipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sampling, "REFERENCE", ("heun", 6))
    rows = sampling.sampler_table(
        model, Knowing(), PROMPTS, ("heun", "euler", "ddpm"), (2, 6), silent
    )
    reference, heun, euler, ddpm = rows
    assert reference.error == (0.0, 0.0) and heun.error[1] == pytest.approx(0, abs=1e-6)
    assert heun.contrast == pytest.approx(1)
    for row in (heun, euler):
        assert row.error[0] is not None and row.error[1] is not None
        assert row.error[0] > row.error[1]
    assert ddpm.error == (None, None)
    lines = sampling.sampler_markdown(rows, (2, 6), 2).splitlines()
    assert lines[0] == "| sampler | calls a step | 2 steps | 6 steps | contrast |"
    assert lines[3].startswith("| heun | 2 | ") and lines[5].count(" · –") == 2


def test_latents_are_those_of_the_pipeline(model: DiffusionPipeline) -> None:
    asked = model.capabilities.resolve(
        sampling.ask("a red ball", seed=4, steps=2, sampler="euler-a")
    )[0]
    x = sampling.final_latents(model, asked)
    (image,) = sampling.to_images(model.codec.decode(x).clamp(-1, 1))
    drawn = last(model.generate("a red ball", seed=4, steps=2, sampler="euler-a")).outputs[0].image
    assert isinstance(image, Image.Image) and image.tobytes() == drawn.tobytes()


def test_other_models_are_refused(model: DiffusionPipeline) -> None:
    able = model.capabilities.model_copy(update={"uses": ("label", "sampler")})
    with pytest.raises(KalpanaError, match="no diffusion model that draws pictures from text"):
        sampling.check(replace(model, capabilities=able), "other")
