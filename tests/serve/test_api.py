"""Models, capabilities, health, metrics, embeddings, classes, captions, expansion, and the API of
Stable Diffusion web interfaces."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("fastapi", reason="the server needs fastapi: pip install 'kalpana[serve]'")

from fastapi.testclient import TestClient
from PIL import Image

from kalpana.diffusion.samplers import SAMPLERS
from kalpana.media import read_picture
from kalpana.understand import encoder
from kalpana.understand.classify import classify
from kalpana.world.expansion import expand

from .conftest import photo
from .test_images import ASK, data_url, error, pictures


def test_models_and_their_capabilities(client: TestClient) -> None:
    data = client.get("/v1/models").json()
    assert data["object"] == "list" and [each["id"] for each in data["data"]] == [
        "tiny",
        "tiny-clip",
    ]
    assert all(each.keys() >= {"id", "object", "created", "owned_by"} for each in data["data"])
    able = client.get("/v1/models/tiny/capabilities").json()
    assert able["sizes"] == ["32x32", "64x32"] and able["defaults"]["steps"] == 4
    assert "steps" in able["uses"] and able["formats"] == ["png", "webp", "jpeg"]
    assert client.get("/v1/models/tiny-clip/capabilities").json()["kinds"] == ["clip"]
    assert error(client.get("/v1/models/none"))["code"] == "model_not_found"


def test_at_most_max_models_are_in_memory(client_with: Callable[..., Any]) -> None:
    with client_with(max_models=1) as client:
        loaded = client.app.state.server.models
        pictures(client.post("/v1/images/generations", json=ASK))
        assert loaded.loaded == ("tiny",)
        client.post("/v1/embeddings", json={"input": "a"})
        assert loaded.loaded == ("tiny-clip",)
        pictures(client.post("/v1/images/generations", json=ASK))
        assert loaded.loaded == ("tiny",)


def test_metrics_count_outputs_and_answers(client: TestClient) -> None:
    pictures(client.post("/v1/images/generations", json=ASK | {"n": 2}))
    client.get("/v1/nothing")
    text = client.get("/metrics").text
    values = dict(line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#"))
    assert values["kalpana_outputs_total"] == "2" and values['kalpana_jobs{state="done"}'] == "1"
    assert values['kalpana_http_answers_total{status="404"}'] == "1"


def test_the_openapi_page_shows_every_endpoint_and_loads_nothing(client: TestClient) -> None:
    paths = client.get("/openapi.json").json()["paths"]
    page = client.get("/docs").text
    assert "/v1/images/generations" in paths and all(path in page for path in paths)
    assert "negative_prompt" in page and "http://" not in page and "https://" not in page
    body = paths["/v1/images/edits"]["post"]["requestBody"]["content"]
    assert {*body} == {"application/json", "multipart/form-data"}


@pytest.mark.parametrize("format", ["float", "base64"])
def test_embeddings_are_those_of_the_encoder_in_order(
    client: TestClient, clip_folder: Path, format: str
) -> None:
    ask = {"input": ["a cat", data_url(photo()), "एक बिल्ली"], "encoding_format": format}
    answer = client.post("/v1/embeddings", json=ask).json()
    model = encoder.load(str(clip_folder))
    texts = model.texts(["a cat", "एक बिल्ली"]).numpy()
    (image,) = model.images([read_picture(photo())]).numpy()
    expected = [texts[0], image, texts[1]]
    for k, (each, vector) in enumerate(zip(answer["data"], expected, strict=True)):
        found = each["embedding"]
        if format == "base64":
            found = np.frombuffer(base64.b64decode(found), "<f4")
        assert each["index"] == k and np.allclose(found, vector, atol=1e-6)


def test_classes_are_those_of_the_python_api(client: TestClient, clip_folder: Path) -> None:
    labels = ["a cat", "a dog", "a car"]
    ask = {"image": [data_url(photo(0)), data_url(photo(1))], "labels": labels}
    answer = client.post("/v1/classify", json=ask).json()
    table = classify([read_picture(photo(k)) for k in (0, 1)], labels, str(clip_folder))
    for row, each in zip(table.tolist(), answer["data"], strict=True):
        found = {entry["label"]: entry["probability"] for entry in each["labels"]}
        assert found == pytest.approx(dict(zip(labels, row, strict=True)), abs=1e-6)
        shares = [entry["probability"] for entry in each["labels"]]
        assert shares == sorted(shares, reverse=True)
    form = {"labels": "a cat, a dog, a car"}
    by_form = client.post("/v1/classify", data=form, files={"image": photo()}).json()
    assert len(by_form["data"][0]["labels"]) == 3


@pytest.mark.parametrize(
    ("path", "ask", "param"),
    [
        ("embeddings", {"input": []}, "input"),
        ("embeddings", {"input": 3}, "input"),
        ("embeddings", {"input": "a", "model": "tiny"}, "model"),
        ("embeddings", {"input": "a", "dimensions": 3}, "dimensions"),
        ("embeddings", {}, "input"),
        ("classify", {"image": "/etc/passwd", "labels": ["a", "b"]}, "image"),
        ("classify", {"image": [], "labels": ["a", "b"]}, "image"),
        ("classify", {"labels": ["a", "b"], "image": "x", "top": 1}, "top"),
        ("captions", {"image": "x"}, "model"),
        ("expand", {"prompt": "a", "n": 65}, "n"),
        ("expand", {"prompt": ""}, "prompt"),
    ],
)
def test_wrong_fields_are_named(
    client: TestClient, path: str, ask: dict[str, Any], param: str
) -> None:
    answer = client.post(f"/v1/{path}", json=ask)
    assert answer.status_code in (400, 404) and error(answer)["param"] == param


def test_expansion_is_that_of_the_python_api(client: TestClient) -> None:
    ask = {"prompt": "three red apples", "n": 3, "seed": 5}
    data = client.post("/v1/expand", json=ask).json()["data"]
    assert [each["seed"] for each in data] == [5, 6, 7]
    expected = [expand("three red apples", seed, "en") for seed in (5, 6, 7)]
    assert [each["prompt"] for each in data] == expected


# ------------------------------------------------------------------------------------- /sdapi


SD = {
    "prompt": "a red apple",
    "negative_prompt": "",
    "seed": 3,
    "steps": 2,
    "cfg_scale": 3.0,
    "width": 32,
    "height": 32,
    "sampler_name": "Euler",
    "batch_size": 2,
    "restore_faces": False,
    "override_settings": {"sd_model_checkpoint": "tiny"},
}


def test_txt2img_draws_what_the_image_endpoint_draws(client: TestClient) -> None:
    body = client.post("/sdapi/v1/txt2img", json=SD).json()
    ask = ASK | {"sampler": "euler", "guidance": 3.0, "n": 2, "size": "32x32"}
    expected = pictures(client.post("/v1/images/generations", json=ask))
    for a, b in zip(body["images"], expected, strict=True):
        assert read_picture(base64.b64decode(a)).tobytes() == read_picture(b).tobytes()
    info = json.loads(body["info"])
    assert info["all_seeds"] == [3, 4] and info["seed"] == 3 and body["parameters"] == SD


def test_img2img_edits_where_the_mask_is_white(client: TestClient) -> None:
    levels = np.zeros((32, 32), np.uint8)
    levels[:, :16] = 255
    file = io.BytesIO()
    Image.fromarray(levels).save(file, "PNG")
    ask = SD | {
        "batch_size": 1,
        "init_images": [base64.b64encode(photo()).decode()],
        "mask": base64.b64encode(file.getvalue()).decode(),
        "denoising_strength": 1.0,
    }
    body = client.post("/sdapi/v1/img2img", json=ask).json()
    after = np.asarray(read_picture(base64.b64decode(body["images"][0])))
    before = np.asarray(read_picture(photo()))
    assert np.array_equal(before[:, 17:], after[:, 17:]) and (before != after).any()


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"enable_hr": True}, "enable_hr"),
        ({"restore_face": False}, "restore_face"),
        ({"sampler_name": "Restart"}, "sampler_name"),
        ({"override_settings": {"CLIP_stop_at_last_layers": 2}}, "CLIP_stop_at_last_layers"),
        ({"alwayson_scripts": {"controlnet": {}}}, "alwayson_scripts"),
    ],
)
def test_what_is_not_here_is_an_error(
    client: TestClient, change: dict[str, Any], param: str
) -> None:
    answer = client.post("/sdapi/v1/txt2img", json=SD | change)
    assert answer.status_code == 400 and error(answer)["param"] == param


def test_options_samplers_models_and_progress(client: TestClient) -> None:
    assert client.get("/sdapi/v1/options").json() == {"sd_model_checkpoint": "tiny"}
    chosen = {"sd_model_checkpoint": "tiny"}
    assert client.post("/sdapi/v1/options", json=chosen).status_code == 200
    wrong = client.post("/sdapi/v1/options", json={"sd_model_checkpoint": "other"})
    assert error(wrong)["code"] == "model_not_found"
    names = [each["name"] for each in client.get("/sdapi/v1/samplers").json()]
    assert names == list(SAMPLERS)
    assert [each["title"] for each in client.get("/sdapi/v1/sd-models").json()] == ["tiny"]
    body = client.get("/sdapi/v1/progress").json()
    assert body["progress"] == 0 and body["current_image"] is None
