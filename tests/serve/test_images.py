"""The image endpoints: their pictures equal those of the Python API, and errors name the field."""

from __future__ import annotations

import base64
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("fastapi", reason="the server needs fastapi: pip install 'kalpana[serve]'")

from fastapi.testclient import TestClient
from PIL import Image

from kalpana.media import read_picture, read_receipt
from kalpana.pipelines import last, load
from kalpana.pipelines.replay import again

from .conftest import photo

ASK = {"prompt": "a red apple", "seed": 3, "steps": 2, "response_format": "b64_json"}


def data_url(data: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(data).decode()


def pictures(answer: Any) -> list[bytes]:
    assert answer.status_code == 200, answer.text
    return [base64.b64decode(each["b64_json"]) for each in answer.json()["data"]]


def error(answer: Any) -> dict[str, Any]:
    """The error of an answer in OpenAI's shape."""
    body = answer.json()
    assert [*body] == ["error"] and {*body["error"]} == {"message", "type", "param", "code"}
    assert "\n" not in body["error"]["message"] and "Traceback" not in answer.text
    return body["error"]


def same_pixels(data: bytes, image: Image.Image) -> bool:
    return bool(np.array_equal(np.asarray(read_picture(data)), np.asarray(image)))


def test_pictures_are_those_of_the_python_api_with_consecutive_seeds(
    client: TestClient, folder: Path
) -> None:
    answer = client.post("/v1/images/generations", json=ASK | {"n": 2})
    found = pictures(answer)
    expected = last(load(str(folder)).generate("a red apple", seed=3, steps=2, n=2)).outputs
    assert [each["seed"] for each in answer.json()["data"]] == [3, 4]
    assert all(same_pixels(a, b.image) for a, b in zip(found, expected, strict=True))
    body = answer.json()
    assert (body["size"], body["output_format"]) == ("32x32", "png")
    assert body["usage"]["input_tokens"] == body["usage"]["total_tokens"] > 0


def test_a_receipt_from_the_server_replays_to_the_same_pixels(
    client: TestClient, folder: Path
) -> None:
    (data,) = pictures(client.post("/v1/images/generations", json=ASK))
    receipt = read_receipt(data)
    (output,) = last(again(load(str(folder)), receipt)).outputs
    assert same_pixels(data, output.image)
    assert str(folder) not in json.dumps(receipt)  # no path of the machine


def test_a_url_leads_to_the_same_file(client: TestClient) -> None:
    (data,) = pictures(client.post("/v1/images/generations", json=ASK))
    answer = client.post("/v1/images/generations", json=ASK | {"response_format": None})
    (picture,) = answer.json()["data"]
    file = client.get(picture["url"])
    assert file.headers["content-type"] == "image/png" and file.content == data


@pytest.mark.parametrize(("format", "name"), [("webp", "WEBP"), ("jpeg", "JPEG"), ("jpg", "JPEG")])
def test_output_format_is_the_format_of_the_file(
    client: TestClient, format: str, name: str
) -> None:
    (data,) = pictures(client.post("/v1/images/generations", json=ASK | {"output_format": format}))
    assert Image.open(io.BytesIO(data)).format == name


def events(text: str) -> list[tuple[str, Any]]:
    """The events of a stream, each with its JSON."""
    found = []
    for block in text.strip().split("\n\n"):
        lines = block.split("\n")
        if lines[-1] == "data: [DONE]":
            found.append(("[DONE]", None))
        else:
            name, data = lines
            found.append((name.removeprefix("event: "), json.loads(data.removeprefix("data: "))))
    return found


def test_a_stream_has_partial_images_and_ends_in_the_picture(client: TestClient) -> None:
    ask = ASK | {"steps": 6, "stream": True, "partial_images": 2}
    answer = client.post("/v1/images/generations", json=ask)
    assert answer.headers["content-type"].startswith("text/event-stream")
    found = events(answer.text)
    partial, completed = "image_generation.partial_image", "image_generation.completed"
    assert [name for name, _ in found] == [partial, partial, completed, "[DONE]"]
    assert [data["partial_image_index"] for name, data in found if name == partial] == [0, 1]
    shape = {"type", "b64_json", "created_at", "size", "quality", "background", "output_format"}
    assert all(data.keys() >= shape and data["type"] == name for name, data in found[:-1])
    assert read_picture(base64.b64decode(found[0][1]["b64_json"])).size[0] > 0
    (same,) = pictures(client.post("/v1/images/generations", json=ASK | {"steps": 6}))
    assert base64.b64decode(found[2][1]["b64_json"]) == same


def mask(transparent: bool) -> bytes:
    """A mask that edits the left half, by transparency or by white."""
    levels = np.zeros((32, 32), np.uint8)
    levels[:, :16] = 255
    image = Image.fromarray(levels)
    if transparent:
        image = Image.new("RGB", (32, 32))
        image.putalpha(Image.fromarray(255 - levels))
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


@pytest.mark.slow
@pytest.mark.parametrize("transparent", [True, False])
@pytest.mark.parametrize("name", ["image", "image[]"])
def test_an_edit_changes_what_the_mask_says_and_nothing_else(
    client: TestClient, transparent: bool, name: str
) -> None:
    files = {name: ("a.png", photo()), "mask": ("m.png", mask(transparent))}
    answer = client.post("/v1/images/edits", data=ASK | {"n": "1", "stream": "false"}, files=files)
    (data,) = pictures(answer)
    before, after = (np.asarray(read_picture(each)) for each in (photo(), data))
    assert np.array_equal(before[:, 17:], after[:, 17:])
    assert not np.array_equal(before[:, :15], after[:, :15])


def test_an_edit_by_json_equals_one_by_form(client: TestClient) -> None:
    images = [{"image_url": data_url(photo())}]
    by_json = client.post("/v1/images/edits", json=ASK | {"images": images})
    by_form = client.post("/v1/images/edits", data=ASK, files={"image": photo()})
    assert pictures(by_json) == pictures(by_form)


def test_variations_need_no_prompt_and_differ_by_seed(client: TestClient) -> None:
    fields = {name: value for name, value in ASK.items() if name != "prompt"} | {"n": 2}
    first, second = pictures(
        client.post("/v1/images/variations", data=fields, files={"image": photo()})
    )
    assert first != second
    refused = client.post("/v1/images/variations", data=ASK, files={"image": photo()})
    assert refused.status_code == 400 and error(refused)["param"] == "prompt"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("fields", "param", "code"),
    [
        ({"promt": "a"}, "promt", "unknown_field"),
        ({"size": "33x32"}, "size", "invalid_value"),
        ({"size": "40x40"}, "size", "invalid_value"),
        ({"n": 0}, "n", "invalid_value"),
        ({"n": 65}, "n", "too_many"),
        ({"n": True, "steps": "many"}, "steps", "invalid_value"),
        ({"prompt": "x" * 32_001}, "prompt", "prompt_too_long"),
        ({"prompt": " "}, "prompt", "invalid_value"),
        ({"prompt": {"a": 1}}, "prompt", "invalid_value"),
        ({"quality": "high"}, "quality", "invalid_value"),
        ({"response_format": "pdf"}, "response_format", "invalid_value"),
        ({"partial_images": 2}, "partial_images", "invalid_value"),
        ({"image": "/etc/passwd"}, "image", "no_upload"),
        ({"image": "../../etc/passwd"}, "image", "no_upload"),
        ({"image": "http://127.0.0.1/a.png"}, "image", "no_upload"),
        ({"image": "file:///etc/passwd"}, "image", "no_upload"),
        (
            {"image": {"name": "a", "sha256": "0" * 64, "path": "/etc/passwd"}},
            "image",
            "no_upload",
        ),
        ({"control": "edges=/etc/passwd"}, "control", "invalid_value"),
        ({"control": {"edges": "/etc/passwd"}}, "control", "no_upload"),
        ({"image": data_url(b"no picture")}, "image", "invalid_image"),
        ({"label": "cat"}, "label", "invalid_value"),
        ({"guidance": 31}, "guidance", "invalid_value"),
        ({"guide_model": "/etc"}, "guide_model", "model_not_found"),
        ({"guide_model": ["a"]}, "guide_model", "model_not_found"),
    ],
)
def test_a_wrong_field_is_an_error_that_names_it(
    client: TestClient, fields: dict[str, Any], param: str, code: str
) -> None:
    answer = client.post("/v1/images/generations", json=ASK | fields)
    assert answer.status_code == 400
    assert (error(answer)["param"], error(answer)["code"]) == (param, code)
    assert error(answer)["type"] == "invalid_request_error"


@pytest.mark.parametrize("model", ["gpt-image-1", "/etc", "..", "tiny-clip", ""])
def test_a_model_is_one_of_those_that_are_served(client: TestClient, model: str) -> None:
    answer = client.post("/v1/images/generations", json=ASK | {"model": model})
    assert answer.status_code in (400, 404) and error(answer)["param"] == "model"


def test_what_is_ignored_without_strict_is_in_the_warnings(client: TestClient) -> None:
    ask = ASK | {"quality": "high", "label": "cat", "strict": False}
    answer = client.post("/v1/images/generations", json=ask)
    warnings = " ".join(answer.json()["warnings"])
    assert "quality was ignored" in warnings and "label was ignored" in warnings


def test_best_of_ranks_by_the_clip_that_is_served(client: TestClient) -> None:
    (data,) = pictures(client.post("/v1/images/generations", json=ASK | {"best_of": 3}))
    assert len(read_receipt(data)["best_of"]["candidates"]) == 3
