"""Replay of a picture file from its receipt."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image
from typer.testing import CliRunner

import kalpana
from kalpana.cli import app
from kalpana.media import SUFFIX, encode, read_receipt, save
from kalpana.pipelines.diffusion import DiffusionPipeline
from kalpana.pipelines.replay import compare, request_of
from kalpana.types import KalpanaError, Output


def draw(model: DiffusionPipeline, path: Path) -> Output:
    *_, last = model.generate(request_of(read_receipt(path)))
    assert last.result is not None
    return last.result.outputs[0]


@pytest.mark.slow
@pytest.mark.parametrize("format", sorted(SUFFIX))
def test_a_file_of_any_format_comes_again_byte_for_byte(
    model: DiffusionPipeline, folder: Path, tmp_path: Path, format: str
) -> None:
    *_, last = model.generate(
        "तीन लाल सेब", seed=3, n=3, format=format, model=str(folder), size="64x64", strict=False
    )
    assert last.result is not None
    for picture in last.result.outputs:
        path = save(picture.image, tmp_path / f"a{SUFFIX[format]}", picture.receipt)
        difference = compare(path, draw(model, path))
        assert (
            difference.pixels
            and difference.bytes
            and difference.changed == ()
            and str(difference) == "the same bytes"
        )


def test_another_picture_is_told_apart(model: DiffusionPipeline, tmp_path: Path) -> None:
    *_, last = model.generate("तीन लाल सेब", seed=3)
    assert last.result is not None
    picture = last.result.outputs[0]
    receipt = picture.receipt | {"torch": "1.0"}
    wrong = picture.image.copy()
    wrong.putpixel((0, 0), tuple(value ^ 8 for value in wrong.getpixel((0, 0))))  # type: ignore[union-attr, arg-type]
    path = save(wrong, tmp_path / "a.png", receipt)
    difference = compare(path, draw(model, path))
    assert (difference.bytes, difference.pixels, difference.largest, difference.changed) == (
        False,
        False,
        8,
        ("torch",),
    )
    assert str(difference) == "other pixels, by 8 of 255 at most; since then torch changed"


def test_a_file_another_program_has_packed_anew_has_the_same_pixels(
    model: DiffusionPipeline, tmp_path: Path
) -> None:
    *_, last = model.generate("तीन लाल सेब", seed=3)
    assert last.result is not None
    picture = last.result.outputs[0]
    path = tmp_path / "a.png"
    path.write_bytes(encode(picture.image, "png", picture.receipt) + b"trailing")
    assert str(compare(path, draw(model, path))) == "the same pixels, other bytes"


def test_a_receipt_that_cannot_be_replayed_says_why(tmp_path: Path) -> None:
    sheet = save(Image.new("RGB", (8, 8)), tmp_path / "a.png", {"sheet": []})
    with pytest.raises(KalpanaError, match="cannot be replayed"):
        request_of(read_receipt(sheet))


def test_an_input_that_is_none_of_the_receipts_is_refused(
    model: DiffusionPipeline, tmp_path: Path
) -> None:
    used, other = Image.new("RGB", (32, 32), "red"), tmp_path / "other.png"
    Image.new("RGB", (32, 32), "blue").save(other)
    *_, last = model.generate("a cat", image=used, seed=1, steps=1)
    assert last.result is not None
    receipt = last.result.outputs[0].receipt
    with pytest.raises(KalpanaError, match=r"other\.png is none of the receipt's"):
        request_of(receipt, [other])
    with pytest.raises(KalpanaError, match=r"nowhere\.png cannot be read"):
        request_of(receipt, [tmp_path / "nowhere.png"])


def test_of_several_files_an_input_may_belong_to_one(folder: Path, tmp_path: Path) -> None:
    inputs, files = [tmp_path / "red.png", tmp_path / "blue.png"], list[str]()
    for file in inputs:
        Image.new("RGB", (32, 32), file.stem).save(file)
        found = kalpana.generate("a cat", model=str(folder), image=file, seed=1, steps=1)
        files.append(str(found.outputs[0].save(tmp_path / f"made-{file.name}").path))
    for file in inputs:
        file.rename(tmp_path / f"moved-{file.name}")
    moved = [f"--input={tmp_path}/moved-{file.name}" for file in inputs]
    done = CliRunner().invoke(app, ["replay", *files, *moved])
    assert done.exit_code == 0 and done.stdout.count("the same bytes") == 2
    other = CliRunner().invoke(app, ["replay", *files, *moved, f"--input={files[0]}"])
    assert other.exit_code != 0 and "is none of the receipt's" in other.stderr
