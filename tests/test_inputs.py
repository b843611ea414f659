"""Media inputs: one hash however they are given, and no file but the one that was given."""

from __future__ import annotations

import base64
import hashlib
import io
from pathlib import Path

import pytest
from PIL import Image

from kalpana.inputs import ControlMap, Media
from kalpana.request import Request
from kalpana.types import KalpanaError


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "red.png"
    Image.new("RGB", (4, 4), "red").save(path)
    return path


def test_one_hash_for_a_path_its_bytes_and_a_data_url(file: Path) -> None:
    data = file.read_bytes()
    url = "data:image/png;base64," + base64.b64encode(data).decode()
    each = [Media.model_validate(value) for value in (str(file), file, data, url)]
    assert {media.sha256 for media in each} == {hashlib.sha256(data).hexdigest()}
    assert all(media.read() == data for media in each)
    assert [media.name for media in each] == ["red.png", "red.png", "data", "data"]


def test_a_pil_image_keeps_its_pixels() -> None:
    image = Image.new("RGBA", (3, 2), (1, 2, 3, 4))
    stored = Image.open(io.BytesIO(Media.model_validate(image).read()))
    assert stored.mode == "RGBA" and stored.tobytes() == image.tobytes()


def test_a_receipt_opens_the_file_and_refuses_another(file: Path, tmp_path: Path) -> None:
    data = file.read_bytes()
    request = Request(**Request(prompt="a", image=file).to_json())
    assert request.image is not None and request.image.read() == data
    file.write_bytes(data + b"x")
    with pytest.raises(KalpanaError, match="is another file than the input red"):
        request.image.read()
    file.unlink()
    with pytest.raises(KalpanaError, match=r"is no longer at .*: give the file again"):
        request.image.read()
    (tmp_path / "moved.png").write_bytes(data)
    (tmp_path / "other.png").write_bytes(b"other")
    found = request.image.found_in([tmp_path / "other.png", tmp_path / "moved.png"])
    assert found.read() == data


def test_bytes_are_kept_by_a_copy_and_missed_after_a_receipt(file: Path) -> None:
    request = Request(prompt="a", image=file.read_bytes())
    assert request.updated(steps=3).image.read() == file.read_bytes()  # type: ignore[union-attr]
    read = Request(**request.to_json())
    assert read == request
    with pytest.raises(KalpanaError, match="which came as bytes"):
        read.image.read()  # type: ignore[union-attr]


def test_a_control_map_is_written_as_text(file: Path, tmp_path: Path) -> None:
    read = ControlMap.model_validate
    assert read(f"edges={file}").strength == 1
    assert read(f"edges={file}:0.8").strength == 0.8
    odd = tmp_path / "a=b:c.png"
    odd.write_bytes(file.read_bytes())
    assert read(f"pose={odd}").image.name == "a=b:c.png"
    (one,) = Request(prompt="a", control={"pose": file}).control or ()
    assert (one.kind, one.image.name) == ("pose", "red.png")
    assert Request(prompt="a", control=f"pose={file}") == Request(
        prompt="a", control={"pose": file}
    )
