"""unCLIP: pictures from a prompt, variations, the way between two pictures, text differences."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from kalpana.pipelines import load
from kalpana.pipelines.replay import again, compare
from kalpana.pipelines.unclip import UnclipPipeline, slerp
from kalpana.types import KalpanaError, Result


@pytest.fixture
def model(unclip_folder: Path) -> UnclipPipeline:
    found = load(str(unclip_folder))
    assert isinstance(found, UnclipPipeline)
    return found


def picture(color: tuple[int, int, int]) -> Image.Image:
    rows = np.linspace(0, 255, 32).astype(np.uint8)[:, None, None]
    return Image.fromarray(np.broadcast_to(rows // 2, (32, 32, 3)) + np.array(color, np.uint8))


RED, BLUE = picture((120, 10, 10)), picture((10, 10, 120))


def result(pipeline: UnclipPipeline, prompt: str = "", **fields: Any) -> Result:
    *_, last = pipeline.generate(prompt, **fields)
    assert last.result is not None
    return last.result


def images(model: UnclipPipeline, prompt: str = "", **fields: Any) -> list[bytes]:
    return [each.image.tobytes() for each in result(model, prompt, **fields).outputs]


def test_a_prompt_counts_the_prior_as_a_step(model: UnclipPipeline) -> None:
    steps = list(model.generate("a red car", n=2, seed=0, steps=3))
    assert [step.stage for step in steps] == ["prior", *3 * ["denoise"], "decode"]
    assert [step.index for step in steps] == [1, 2, 3, 4, 5] and {s.total for s in steps} == {5}
    assert steps[1].preview is not None and steps[-1].result is not None


@pytest.mark.parametrize(
    ("prompt", "fields"),
    [
        ("a red car", {}),
        ("", {"image": RED}),
        ("a red car", {"image": RED}),
        ("a blue car", {"image": RED, "source_prompt": "a red car"}),
    ],
)
def test_pictures_of_a_batch_are_those_alone_bit_for_bit(
    model: UnclipPipeline, prompt: str, fields: dict[str, Any]
) -> None:
    together = images(model, prompt, seeds=(3, 1, 4), **fields)
    assert len(set(together)) == 3
    for seed, one in zip((3, 1, 4), together, strict=True):
        assert images(model, prompt, seed=seed, **fields) == [one]


@pytest.mark.parametrize(
    ("prompt", "fields", "changed"),
    [
        ("a red car", {}, {"guidance": 1}),
        ("a red car", {}, {"seed": 6}),
        ("a red car", {}, {"steps": 3}),
        ("a red car", {}, {"image": RED}),
        ("", {"image": RED}, {"image": BLUE}),
        ("", {"image": RED}, {"strength": 0.4}),
        ("", {"image": RED}, {"prompt": "a red car"}),
        ("", {"image": RED}, {"last_image": BLUE}),
        ("", {"image": RED, "last_image": BLUE}, {"strength": 0.2}),
        ("a blue car", {"image": RED}, {"source_prompt": "a red car"}),
        ("a blue car", {"image": RED, "source_prompt": "a red car"}, {"strength": 0.9}),
        ("a blue car", {"image": RED, "source_prompt": "a red car"}, {"source_prompt": "a dog"}),
    ],
)
def test_every_setting_draws_another_picture(
    model: UnclipPipeline, prompt: str, fields: dict[str, Any], changed: dict[str, Any]
) -> None:
    fields = {"seed": 5, "prompt": prompt, "guidance": 3} | fields

    def draw(prompt: str, **fields: Any) -> list[bytes]:
        return images(model, prompt, **fields)

    assert draw(**fields) != draw(**fields | changed)


@pytest.mark.parametrize(
    ("prompt", "fields"),
    [
        ("a red car", {"n": 2}),
        ("", {"image": RED, "n": 2}),
        ("", {"image": RED, "last_image": BLUE, "n": 3}),
        ("", {"image": RED, "last_image": BLUE}),
        ("a blue car", {"image": RED, "source_prompt": "a red car"}),
    ],
)
def test_every_receipt_draws_its_picture_again(
    model: UnclipPipeline, unclip_folder: Path, tmp_path: Path, prompt: str, fields: dict[str, Any]
) -> None:
    for name, image in fields.items():
        if isinstance(image, Image.Image):
            image.save(tmp_path / f"{name}.png")
            fields = fields | {name: str(tmp_path / f"{name}.png")}
    outputs = result(model, prompt, seed=5, model=str(unclip_folder), **fields).outputs
    for k, output in enumerate(outputs):
        path = output.save(tmp_path / f"out-{k}.png").path
        assert path is not None
        *_, last = again(model, output.receipt)
        assert last.result is not None and compare(path, last.result.outputs[0]).bytes


def test_the_receipt_names_all_weights_and_the_source_prompt(model: UnclipPipeline) -> None:
    fields = {"image": RED, "source_prompt": "a zzyzx car"}
    found = result(model, "a blue car", seed=1, **fields)
    receipt = found.outputs[0].receipt
    assert {"unclip.safetensors", "unclip_prior.safetensors", "clip.safetensors"} <= receipt[
        "model"
    ]["files"].keys()
    assert receipt["resolved"]["source_prompt"] == "a zzyzx car"
    assert receipt["resolved"]["strength"] == 0.35
    assert any("source_prompt: no training caption held zzyzx" in each for each in found.warnings)


def test_the_way_between_two_pictures_has_even_places_and_one_seed(model: UnclipPipeline) -> None:
    found = result(model, image=RED, last_image=BLUE, n=5, seed=7)
    places = [each.receipt["resolved"]["strength"] for each in found.outputs]
    assert places == [0.0, 0.25, 0.5, 0.75, 1.0] and {each.seed for each in found.outputs} == {7}
    assert all(each.receipt["request"]["n"] == 5 for each in found.outputs)
    way = [each.image.tobytes() for each in found.outputs]
    assert len(set(way)) == 5
    # One alone is in the middle; the start is the variation of the first picture without noise.
    assert images(model, image=RED, last_image=BLUE, seed=7) == [way[2]]
    assert images(model, image=RED, strength=0, seed=7) == [way[0]]
    many = result(model, image=RED, last_image=BLUE, n=9, seed=7, steps=1).outputs
    assert len(many) == 9  # more than a batch


def test_steps_of_the_way_are_counted_on(model: UnclipPipeline) -> None:
    steps = list(model.generate("", image=RED, last_image=BLUE, n=3, seed=7, steps=2))
    assert [step.index for step in steps] == list(range(1, 10)) and {s.total for s in steps} == {9}
    assert [step.result is not None for step in steps] == [*8 * [False], True]


@pytest.mark.parametrize("angle", [0.3, 1.0, 2.5])
@pytest.mark.parametrize("share", [0.0, 0.2, 0.5, 1.0])
def test_slerp_goes_along_the_arc(angle: float, share: float) -> None:
    def at(angle: float) -> Tensor:
        return 3 * torch.tensor([[math.cos(angle), math.sin(angle), 0.0]])

    torch.testing.assert_close(slerp(at(0), at(angle), share), at(share * angle))


def test_slerp_of_equal_rows_is_the_row_and_lengths_are_between() -> None:
    row = torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(slerp(row, row, 0.3), row)
    torch.testing.assert_close(slerp(row, 2 * row, 0.5), 1.5 * row)


@pytest.mark.parametrize(
    ("prompt", "fields", "error"),
    [
        ("", {}, "there is no prompt"),
        ("a cat", {"last_image": BLUE}, "last_image needs an image"),
        ("a cat", {"source_prompt": "a dog"}, "source_prompt needs an image"),
        ("", {"image": RED, "source_prompt": "a dog"}, "source_prompt needs a prompt"),
        ("a cat", {"image": RED, "source_prompt": " "}, "source_prompt.* has no words"),
        ("a cat", {"image": RED, "source_prompt": "a  Cat"}, "say the same"),
        ("a cat", {"image": RED, "last_image": BLUE, "source_prompt": "a"}, "leave one out"),
        ("", {"image": RED, "last_image": BLUE, "n": 2, "strength": 0.5}, "leave one out"),
        ("", {"image": RED, "last_image": BLUE, "seeds": (1, 2)}, "share one seed"),
        ("a", {"image": RED, "last_image": BLUE, "best_of": 2}, "best_of does not fit"),
        ("", {"image": RED, "strength": 0.6}, "write at most 0.5"),
        ("", {"image": RED, "mask": RED}, "mask.* cannot be used"),
        ("a cat", {"negative_prompt": "a dog"}, "negative_prompt .*cannot be used"),
        ("a cat", {"label": "cat"}, "label .*cannot be used"),
        ("a cat", {"size": "64x64"}, "size '64x64' cannot be used"),
    ],
)
def test_inputs_that_do_not_fit_are_refused(
    model: UnclipPipeline, prompt: str, fields: dict[str, Any], error: str
) -> None:
    seed = {} if "seeds" in fields else {"seed": 1}
    with pytest.raises(KalpanaError, match=error):
        list(model.generate(prompt, **fields, **seed))


def test_other_families_refuse_a_source_prompt() -> None:
    with pytest.raises(KalpanaError, match=r"source_prompt .*cannot be used"):
        load("vqgan-clip").generate("a cat", image=RED, source_prompt="a dog")


def test_a_model_without_its_prior_names_the_file(unclip_folder: Path, tmp_path: Path) -> None:
    import shutil

    shutil.copytree(unclip_folder, tmp_path / "part")
    (tmp_path / "part" / "unclip_prior.safetensors").unlink()
    with pytest.raises(KalpanaError, match=r"unclip_prior\.safetensors cannot be read"):
        load(str(tmp_path / "part"))
