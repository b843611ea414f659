"""Input pictures: what the model sees of them, and what comes back bit for bit."""

from __future__ import annotations

import hashlib
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import kalpana
from kalpana.families import FAMILIES
from kalpana.media import to_images, to_pixels
from kalpana.pipelines.diffusion import SOURCE_GUIDANCE, DiffusionPipeline, _known_cond
from kalpana.pipelines.editing import read_edit
from kalpana.pipelines.replay import again
from kalpana.request import Request
from kalpana.types import KalpanaError, Output


def photo(width: int, height: int) -> Image.Image:
    """A picture without uniform areas."""
    levels = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(levels)


def mask_of(size: tuple[int, int], box: tuple[int, int, int, int], value: int = 255) -> Image.Image:
    mask = Image.new("L", size)
    mask.paste(value, box)
    return mask


def edit(**fields: Any) -> Any:
    return read_edit(Request(prompt="a", **{"size": "32x32", **fields}))


def generated(model: DiffusionPipeline, **fields: Any) -> Output:
    *_, last = model.generate("a red cat", seed=3, **fields)
    assert last.result is not None
    (output,) = last.result.outputs
    return output


def test_an_image_of_another_shape_is_cropped_in_its_middle_and_that_is_said() -> None:
    image = Image.new("RGB", (96, 32), "blue")
    image.paste((255, 0, 0), (32, 0, 64, 32))
    wide = edit(image=image)
    red = torch.tensor([1.0, -1.0, -1.0])[:, None, None]
    assert wide.area == (32, 0, 64, 32) and torch.equal(wide.pixels[0], red.expand(3, 32, 32))
    assert "only its middle, 32x32 of 96x32 pixels" in wide.warnings[0]
    same = edit(image=photo(64, 64))
    assert same.area == (0, 0, 64, 64) and not same.warnings and same.pixels.shape == (1, 3, 32, 32)


def test_the_area_around_a_mask_holds_it_with_context() -> None:
    image = photo(400, 300)
    small = edit(image=image, mask=mask_of(image.size, (10, 280, 20, 290)))
    assert small.area == (0, 268, 32, 300)  # the size of the model, moved inside the picture
    large = edit(image=image, mask=mask_of(image.size, (100, 100, 200, 200)))
    assert large.area == (75, 75, 225, 225)  # one and a half times the mask
    whole = edit(image=image, mask=mask_of(image.size, (0, 0, 400, 300)))
    assert whole.area == (0, 0, 400, 300)
    assert torch.equal(whole.mask, torch.ones(1, 1, 32, 32)) and whole.cells(8).shape == (
        1,
        1,
        4,
        4,
    )


@pytest.mark.parametrize(("mode", "left"), [("white", True), ("black", False), ("auto", True)])
def test_the_part_that_is_masked(mode: str, left: bool) -> None:
    mask = mask_of((32, 32), (0, 0, 16, 32))
    cells = edit(image=photo(32, 32), mask=mask, mask_mode=mode).cells(8)[0, 0]
    assert cells[:, :2].bool().all() == left and cells[:, 2:].bool().any() == (not left)


def test_a_transparent_mask_is_generated_where_it_is_clear() -> None:
    mask = Image.new("RGBA", (32, 32), "white")
    mask.paste((0, 0, 0, 0), (0, 0, 16, 32))
    for mode in ("auto", "alpha"):
        cells = edit(image=photo(32, 32), mask=mask, mask_mode=mode).cells(8)[0, 0]
        assert cells[:, :2].bool().all() and not cells[:, 2:].bool().any()


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"mask": mask_of((16, 24), (0, 0, 8, 8))}, "16x24 and the picture 32x32: give a mask"),
        ({"mask": mask_of((32, 32), (0, 0, 0, 0))}, "edits nothing"),
        ({"mask": mask_of((32, 32), (0, 0, 8, 8)), "mask_mode": "alpha"}, "has no transparency"),
        ({"mask": b"no picture"}, "the input data: "),
        ({"image": b"no picture"}, "the input data: "),
    ],
)
def test_bad_inputs_are_one_line(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(KalpanaError, match=message) as caught:
        edit(**{"image": photo(32, 32), **fields})
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("size", [(32, 32), (70, 50)])
@pytest.mark.parametrize("strength", [1.0, 0.5])
def test_unmasked_pixels_come_back_bit_for_bit(
    model: DiffusionPipeline, size: tuple[int, int], strength: float, tmp_path: Path
) -> None:
    image, mask = photo(*size), mask_of(size, (8, 8, 20, 30))
    image.save(tmp_path / "photo.png")
    mask.save(tmp_path / "mask.png")
    files = {"image": tmp_path / "photo.png", "mask": tmp_path / "mask.png"}
    output = generated(model, strength=strength, **files)
    before, after, kept = np.array(image), np.array(output.image), np.array(mask) == 0
    assert after.shape == before.shape and np.array_equal(after[kept], before[kept])
    assert not np.array_equal(after[~kept], before[~kept])
    *_, last = again(model, output.receipt)
    assert last.result is not None
    assert last.result.outputs[0].image.tobytes() == output.image.tobytes()


@pytest.mark.slow
def test_the_known_latents_of_the_default_model_are_those_of_its_training() -> None:
    """Training masks the latents of whole pictures; those of a picture that is grey where it is
    masked differ beside the mask, and a seam is seen there."""
    default = kalpana.load("default")
    assert isinstance(default, DiffusionPipeline)
    image, mask = photo(128, 128), mask_of((128, 128), (64, 0, 128, 128))
    request = Request(prompt="a cat", image=image, mask=mask)
    resolved = default.capabilities.resolve(request)[0]
    whole = default.codec.encode(to_pixels([image]))
    known = _known_cond(default, read_edit(resolved), whole, resolved, 1).known
    assert known is not None
    given = known[:, -1:]
    assert given[..., :8].min() == 1 and given[..., 8:].max() == 0
    assert torch.equal(known[:, :-1] * given, whole * given)


def test_soft_masks_blend(model: DiffusionPipeline) -> None:
    image = Image.new("RGB", (32, 32), "white")
    hard = generated(model, image=image, mask=mask_of((32, 32), (0, 0, 32, 32)))
    soft = generated(model, image=image, mask=mask_of((32, 32), (0, 0, 32, 32), 128))
    mean = (255 * 127 + np.array(hard.image).astype(float) * 128) / 255
    assert np.abs(np.array(soft.image) - mean).max() <= 1


def test_strength_goes_from_the_picture_itself_to_no_trace(model: DiffusionPipeline) -> None:
    """At 0 the picture itself; at 1 what there is without a picture;
    between, a larger strength needs more steps."""
    image = photo(32, 32)
    free = generated(model, steps=10)
    assert (
        generated(model, steps=10, image=image, strength=1).image.tobytes() == free.image.tobytes()
    )
    steps = list(model.generate("a red cat", seed=3, steps=10, image=image, strength=0))
    assert len(steps) == 1 and steps[0].result is not None
    assert steps[0].result.outputs[0].image.tobytes() == image.tobytes()
    counts = [
        len(list(model.generate("a", seed=3, steps=10, image=image, strength=strength)))
        for strength in (0.25, 0.5, 0.75)
    ]
    assert counts == [
        4,
        6,
        9,
    ]  # the steps below the strength, the first one shortened, and decoding


@pytest.mark.parametrize(
    ("margins", "size"),
    [
        ({"left": 16, "right": 16}, (64, 32)),
        ("right=32", (64, 32)),
        ("top=16,bottom=32,left=16", (48, 80)),
    ],
)
def test_outpainting_keeps_the_picture_and_replays(
    model: DiffusionPipeline, margins: Any, size: tuple[int, int], tmp_path: Path
) -> None:
    photo(32, 32).save(tmp_path / "photo.png")
    output = generated(model, image=tmp_path / "photo.png", outpaint=margins)
    sides = output.receipt["resolved"]["outpaint"]
    assert output.image.size == size and output.receipt["resolved"]["strength"] == 1
    kept = output.image.crop((x := sides["left"], y := sides["top"], x + 32, y + 32))
    assert kept.tobytes() == photo(32, 32).tobytes()
    assert np.array(output.image)[:, -1].std() > 1  # the margin holds a picture
    *_, last = again(model, output.receipt)
    assert last.result is not None
    assert last.result.outputs[0].image.tobytes() == output.image.tobytes()


def test_outpainting_sees_the_picture(model: DiffusionPipeline) -> None:
    """What is new depends on what is given, and below strength 1 it starts from its edges."""
    new = [
        np.array(generated(model, image=image, outpaint="right=32", **fields).image)[:, 48:]
        for image in (photo(32, 32), Image.new("RGB", (32, 32), "red"))
        for fields in ({}, {"strength": 0.5})
    ]
    assert all(not np.array_equal(one, other) for one, other in combinations(new, 2))
    same = generated(model, image=photo(32, 32), outpaint="right=32", strength=0)
    edges = np.array(same.image)
    assert (edges[:, 32:] == edges[:, 31:32]).all()


@pytest.mark.parametrize(
    ("size", "margins", "message"),
    [
        ((32, 32), "right=30", "would be 62x32, and its sides are multiples of 16.*try right=32$"),
        ((40, 32), "left=8,top=18", "would be 48x50.*: try left=8,top=32$"),
        ((40, 30), "left=16", "would be 56x30.*: try left=24,bottom=2$"),
        ((32, 32), "left=2040", "would be 2072x32, and sides are at most 2048"),
    ],
)
def test_margins_that_the_windows_do_not_allow_are_refused_with_some_that_they_do(
    model: DiffusionPipeline, size: tuple[int, int], margins: str, message: str
) -> None:
    def ask(margins: str) -> Any:
        return model.generate("a", image=photo(*size), outpaint=margins, seed=1)

    with pytest.raises(KalpanaError, match=message) as caught:
        ask(margins)
    if "try" in message:
        assert ask(str(caught.value).rpartition("try ")[2])


def test_outpainting_sets_the_size(model: DiffusionPipeline) -> None:
    fields: dict[str, Any] = {"image": photo(32, 32), "outpaint": "right=32", "seed": 3}
    with pytest.raises(KalpanaError, match="outpaint sets it, to 64x32: leave size out"):
        model.generate("a red cat", size="32x32", **fields)
    lenient = generated(model, size="32x32", strict=False, image=photo(32, 32), outpaint="right=32")
    assert lenient.image.size == (64, 32) and set(lenient.receipt["ignored"]) == {"size"}
    bad = generated(model, strict=False, image=photo(32, 32), outpaint="right=30")
    plain = generated(model, image=photo(32, 32))
    assert bad.image.tobytes() == plain.image.tobytes()
    assert set(bad.receipt["ignored"]) == {"outpaint"}


def test_an_edit_to_what_the_picture_shows_gives_its_reconstruction(
    model: DiffusionPipeline,
) -> None:
    image = photo(32, 32)
    same = generated(model, image=image, source_prompt="a red cat", guidance=SOURCE_GUIDANCE)
    with torch.no_grad():
        expected = to_images(model.codec.decode(model.codec.encode(to_pixels([image]))))[0]
    levels = np.array(same.image).astype(int) - np.array(expected)
    assert np.abs(levels).max() <= 1  # rounding
    for fields in ({"source_prompt": "a blue dog"}, {"guidance": 20}):
        given = {"source_prompt": "a red cat", "guidance": SOURCE_GUIDANCE} | fields
        other = generated(model, image=image, **given)
        assert np.abs(np.array(other.image).astype(int) - np.array(expected)).max() > 1


@pytest.mark.slow
def test_an_edit_has_its_own_defaults_and_replays(model: DiffusionPipeline, tmp_path: Path) -> None:
    photo(32, 32).save(tmp_path / "photo.png")
    fields: dict[str, Any] = {"image": tmp_path / "photo.png", "source_prompt": "a blue dog"}
    stream = list(model.generate("a red cat", seeds=(7, 3), **fields))
    assert len(stream) == 24 + 1 and all(step.preview is not None for step in stream[:-1])
    assert stream[-1].result is not None
    for output in stream[-1].result.outputs:
        resolved = output.receipt["resolved"]
        assert (resolved["steps"], resolved["sampler"], resolved["strength"]) == (30, "euler", 0.8)
        assert output.receipt["read"]["source_prompt"]["language"] == "en"
        *_, last = again(model, output.receipt)  # alone: the same as in the batch
        assert last.result is not None
        assert last.result.outputs[0].image.tobytes() == output.image.tobytes()
    changed = {
        generated(model, **fields, **more).image.tobytes()
        for more in ({}, {"strength": 0.5}, {"sampler": "heun"}, {"steps": 9})
    }
    assert len(changed) == 4
    untouched = generated(model, **fields, strength=0)
    assert untouched.image.tobytes() == photo(32, 32).tobytes()


def test_an_edit_keeps_what_is_not_masked(model: DiffusionPipeline) -> None:
    image, mask = photo(32, 32), mask_of((32, 32), (8, 8, 20, 30))
    output = generated(model, image=image, mask=mask, source_prompt="a blue dog")
    before, after, kept = np.array(image), np.array(output.image), np.array(mask) == 0
    assert np.array_equal(after[kept], before[kept])
    assert not np.array_equal(after[~kept], before[~kept])


def test_an_edit_takes_samplers_of_one_step(model: DiffusionPipeline) -> None:
    fields: dict[str, Any] = {"image": photo(32, 32), "source_prompt": "a blue dog"}
    with pytest.raises(KalpanaError, match="with a source_prompt it knows euler, heun, dpm2"):
        model.generate("a red cat", sampler="dpmpp-2m", **fields)
    lenient = generated(model, sampler="ddim", eta=0.5, strict=False, **fields)
    assert set(lenient.receipt["ignored"]) == {"sampler"} or set(lenient.receipt["ignored"]) == {
        "sampler",
        "eta",
    }
    assert lenient.image.tobytes() == generated(model, **fields).image.tobytes()


def test_a_source_prompt_in_latin_hindi_is_read_as_hindi(model: DiffusionPipeline) -> None:
    output = generated(model, image=photo(32, 32), source_prompt="ek laal billi", steps=2)
    assert output.receipt["read"]["source_prompt"]["language"] == "hi"


def test_a_style_changes_the_picture_by_its_strength_and_is_in_the_receipt(
    model: DiffusionPipeline, tmp_path: Path
) -> None:
    photo(48, 32).save(tmp_path / "style.png")
    fields: dict[str, Any] = {"style_image": tmp_path / "style.png"}
    plain, none = generated(model), generated(model, **fields, style_strength=0)
    assert none.image.tobytes() == plain.image.tobytes()
    *_, last = model.generate("a red cat", seeds=(3, 8), **fields)
    assert last.result is not None
    styled = last.result.outputs[0]
    assert styled.image.tobytes() not in {plain.image.tobytes()}
    resolved = styled.receipt["resolved"]
    digest = hashlib.sha256((tmp_path / "style.png").read_bytes()).hexdigest()
    assert resolved["style_image"]["sha256"] == digest and resolved["style_strength"] == 0.4
    *_, last = again(model, styled.receipt)  # alone
    assert last.result is not None
    assert last.result.outputs[0].image.tobytes() == styled.image.tobytes()
    strong = generated(model, **fields, style_strength=1)
    assert strong.image.tobytes() != styled.image.tobytes()


@pytest.mark.parametrize("more", [{"size": "64x48"}, {"image": photo(32, 32)}, {"guidance": 1}])
def test_a_style_goes_with_other_inputs(model: DiffusionPipeline, more: dict[str, Any]) -> None:
    huge = Image.new("RGB", (8000, 100), "green")
    styled = generated(model, style_image=huge, style_strength=0.8, **more)
    assert styled.image.tobytes() != generated(model, **more).image.tobytes()


@pytest.mark.parametrize("family", ["unet", "video", "dalle", "vqgan-clip"])
def test_families_without_shared_attention_refuse_a_style(family: str) -> None:
    able = FAMILIES[family].capabilities
    assert able is not None
    with pytest.raises(
        KalpanaError, match=r"style_image cannot be used .* no such setting"
    ) as error:
        able.resolve(Request(prompt="a", style_image=photo(8, 8), style_strength=0.5))
    assert "\n" not in str(error.value)


def test_a_larger_picture_is_made_of_windows(model: DiffusionPipeline) -> None:
    output = generated(model, size="96x48")
    assert output.image.size == (96, 48)
    with pytest.raises(KalpanaError, match=r"size '40x32' cannot be used .*: try (32x32|48x32)"):
        model.generate("a red cat", size="40x32")
