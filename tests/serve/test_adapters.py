"""Adapters (LoRA) by name, interpolations, and models within a budget of memory."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

pytest.importorskip("fastapi", reason="the server needs fastapi: pip install 'kalpana[serve]'")

from fastapi.testclient import TestClient

from kalpana.hub.weights import load_module, save_weights
from kalpana.media import read_receipt
from kalpana.models.lora import LoRA
from kalpana.pipelines import last, load
from kalpana.pipelines.replay import again
from kalpana.serve.models import Models, weights_bytes
from kalpana.types import KalpanaError

from .conftest import photo
from .test_images import ASK, data_url, error, pictures, same_pixels

URL = "/v1/images/generations"


@pytest.fixture
def adapters(folder: Path, tmp_path: Path) -> Path:
    """A folder of two adapters for the tiny model, one in a training run, and of other files."""
    torch.manual_seed(1)
    place = tmp_path / "adapters"
    network = load_module(folder / "dit.safetensors", "flow")
    for name, base in (("mug", "flow"), ("run/lora", "flow"), ("other", "unet")):
        lora = LoRA.of(network, base)
        for weight in lora.up.values():
            nn.init.normal_(weight, std=0.1)
        about = {"recipe": {"word": "Zorb"}}
        save_weights(place / f"{name}.safetensors", lora, "lora", lora.config, about)
    save_weights(place / "model.safetensors", network, "flow", network.config, {})
    (place / "damaged.safetensors").write_bytes(b"no tensors")
    (place / "notes.txt").write_text("no adapter")
    return place


@pytest.fixture
def able(client_with: Callable[..., Any], adapters: Path) -> Iterator[TestClient]:
    with client_with(adapters=adapters) as client:
        yield client


def test_adapters_are_listed_by_name(able: TestClient) -> None:
    listed = able.get("/v1/adapters").json()["data"]
    assert [(each["id"], each["family"]) for each in listed] == [
        ("mug", "flow"), ("other", "unet"), ("run", "flow"),
    ]  # fmt: skip
    assert listed[0]["words"] == ["zorb"]


@pytest.mark.slow
def test_an_adapter_by_name_gives_the_pixels_of_its_file(
    able: TestClient, adapters: Path, folder: Path
) -> None:
    plain = pictures(able.post(URL, json=ASK))
    names: list[Any] = ["mug", "mug:0.5", {"name": "run", "strength": -1}, ["mug:0.5", "run"]]
    run, mug = adapters / "run/lora.safetensors", adapters / "mug.safetensors"
    for given, files in zip(
        names, [[mug], [f"{mug}:0.5"], [f"{run}:-1"], [f"{mug}:0.5", run]], strict=True
    ):
        (data,) = pictures(able.post(URL, json=ASK | {"adapter": given}))
        model = load(str(folder))
        (output,) = last(model.generate("a red apple", seed=3, steps=2, adapter=files)).outputs
        assert same_pixels(data, output.image) and not same_pixels(plain[0], output.image)
        receipt = read_receipt(data)
        assert str(adapters) not in json.dumps(receipt)  # no path of the machine
        inputs = [Path(str(each).partition(":")[0]) for each in files]
        (replayed,) = last(again(model, receipt, inputs)).outputs
        assert same_pixels(data, replayed.image)
    jobs = able.get("/v1/jobs")
    assert str(adapters) not in jobs.text and '"mug"' in jobs.text


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("cup", "there are mug, other, run"),
        ("other", "family 'unet', not 'flow'"),
        ("mug:much", "there is none called 'mug:much'|number"),
        ("mug:3", "less than or equal to 2|at most 2"),
        ("../adapters/mug", "there is none called"),
        ("mug.safetensors", "there is none called"),
        ("damaged", "there is none called"),
        ("model", "there is none called"),
        ({"name": "mug", "file": "/etc/passwd"}, "write a name"),
        ({"file": {"name": "mug", "path": "/etc/passwd", "sha256": "0" * 64}}, "write a name"),
        (["mug"] * 9, "8"),
        (7, "write a name"),
    ],
)
def test_wrong_adapters_are_named(able: TestClient, given: Any, message: str) -> None:
    answer = able.post(URL, json=ASK | {"adapter": given})
    assert answer.status_code == 400, answer.text
    found = error(answer)
    assert any(each in found["message"] for each in message.split("|")), found
    assert found["param"] == "adapter"


def test_a_job_whose_adapter_was_replaced_fails(able: TestClient, adapters: Path) -> None:
    pictures(able.post(URL, json=ASK | {"adapter": "mug"}))
    jobs = able.app.state.server.jobs  # type: ignore[attr-defined]
    request = jobs.store.request_of(jobs.store.listed("testclient", 1)[0])
    (adapters / "mug.safetensors").write_bytes((adapters / "run/lora.safetensors").read_bytes())
    with pytest.raises(KalpanaError, match="another file than it was"):
        jobs.models.adapters.located(request)
    (adapters / "mug.safetensors").unlink()
    with pytest.raises(KalpanaError, match="no longer here"):
        jobs.models.adapters.located(request)


def test_a_server_without_adapters_says_so(client: TestClient) -> None:
    assert client.get("/v1/adapters").json()["data"] == []
    answer = client.post(URL, json=ASK | {"adapter": "mug"})
    assert error(answer)["code"] == "adapter_not_found"


def test_settings_of_a_receipt_name_the_adapter(able: TestClient, adapters: Path) -> None:
    (data,) = pictures(able.post(URL, json=ASK | {"adapter": "mug:0.5"}))
    body = able.post("/v1/metadata", files={"file": data}).json()
    assert body["settings"]["adapter"] == ["mug:0.5"]
    (adapters / "mug.safetensors").unlink()
    body = able.post("/v1/metadata", files={"file": data}).json()
    assert "adapter" not in body["settings"]
    assert {"code": "inputs_missing", "fields": ["adapter"]} in body["notes"]


def test_pictures_on_the_way_between_two(
    client_with: Callable[..., Any], unclip_folder: Path
) -> None:
    first, second = photo(1), photo(2)
    ask = ASK | {"prompt": "", "image": data_url(first), "last_image": data_url(second), "n": 3}
    with client_with(models=(str(unclip_folder),)) as client:
        answer = client.post(URL, json=ask)
        found = pictures(answer)
        fields: dict[str, Any] = {"image": first, "last_image": second, "seed": 3, "steps": 2}
        expected = last(load(str(unclip_folder)).generate("", n=3, **fields)).outputs
        assert all(same_pixels(a, b.image) for a, b in zip(found, expected, strict=True))
        assert [each["seed"] for each in answer.json()["data"]] == [3, 3, 3]
        receipts = [read_receipt(data)["request"] for data in found]
        assert receipts[0]["n"] == 3 and receipts[0] == receipts[2]
        wrong = client.post(URL, json=ask | {"strength": 0.5})
        assert wrong.status_code == 400 and "leave one out" in error(wrong)["message"]


def test_models_stay_within_a_budget_of_memory(
    folder: Path, clip_folder: Path, video_folder: Path
) -> None:
    names = [str(folder), str(clip_folder), str(video_folder)]
    network = load_module(folder / "dit.safetensors", "flow")
    decoder = load_module(folder / "vae.safetensors", "vae")
    count = sum(t.numel() for each in (network, decoder) for t in each.state_dict().values())
    assert weights_bytes(folder) == 4 * count
    budget = weights_bytes(folder) + weights_bytes(clip_folder)
    models = Models(names, most=9, memory=max(budget, weights_bytes(video_folder)))
    models.pipeline("tiny")
    models.encoder("tiny-clip")
    models.pipeline("tiny")
    assert models.loaded == ("tiny-clip", "tiny")
    models.pipeline("tiny-video")
    assert "tiny-clip" not in models.loaded  # the least recently used
    with pytest.raises(KalpanaError, match=r"needs .* MiB of memory and --memory is"):
        Models(names, memory=1000)


def test_a_model_that_fails_to_load_is_one_line_without_a_path(
    client_with: Callable[..., Any],
    folder: Path,
    clip_folder: Path,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(folder, broken)
    card = json.loads((broken / "card.json").read_text()) | {"name": "broken"}
    (broken / "card.json").write_text(json.dumps(card))
    data = (broken / "dit.safetensors").read_bytes()
    (broken / "dit.safetensors").write_bytes(data[: len(data) // 2])
    with client_with(models=(str(broken), str(folder))) as client:
        for _ in range(2):
            answer = client.post(URL, json=ASK | {"model": "broken"})
            assert answer.status_code == 503 and error(answer)["code"] == "model_unavailable"
            assert str(tmp_path) not in answer.text
        assert len(pictures(client.post(URL, json=ASK | {"model": "tiny"}))) == 1
        assert client.get("/healthz").status_code == 200
    record = next(each for each in caplog.records if each.message == "model_failed_to_load")
    assert str(broken) in record.fields["error"]  # type: ignore[attr-defined]
