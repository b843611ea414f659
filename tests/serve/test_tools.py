"""Receipts, control maps, traces, stars, search, events and inputs over HTTP."""

from __future__ import annotations

import base64
import io
import json
from typing import Any

import numpy as np
import pytest

pytest.importorskip("fastapi", reason="the server needs fastapi: pip install 'kalpana[serve]'")

from fastapi.testclient import TestClient
from PIL import Image

from kalpana import __version__
from kalpana.media import read_picture, save, to_images, to_pixels
from kalpana.understand import encoder
from kalpana.world.maps import edges
from kalpana.world.sheet import FONT

from .conftest import photo
from .test_images import data_url, error

ASK = {"prompt": "a red apple", "seed": 3, "steps": 2}


def job(client: TestClient, **fields: Any) -> dict[str, Any]:
    """A finished job."""
    answer = client.post("/v1/jobs", json=ASK | fields)
    made = answer.json()
    assert answer.status_code == 202, made
    events = client.get(f"/v1/jobs/{made['id']}/events").text  # ends with the job
    assert "event: done" in events
    return client.get(f"/v1/jobs/{made['id']}").json()


def content(client: TestClient, made: dict[str, Any], k: int = 0) -> bytes:
    return client.get(f"/v1/outputs/{made['outputs'][k]['file']}").content


def restored(client: TestClient, data: bytes) -> dict[str, Any]:
    return client.post("/v1/metadata", files={"file": data}).json()


def with_receipt(receipt: dict[str, Any], tmp_path: Any) -> bytes:
    return save(Image.new("RGB", (8, 8)), tmp_path / "a.png", receipt).read_bytes()


# ------------------------------------------------------------------------------------- receipts


@pytest.mark.slow
def test_the_settings_of_a_picture_draw_the_same_picture(client: TestClient) -> None:
    made = job(client, prompt="एक बिल्ली", seed=5, n=2, steps=2, guidance=2.5, sampler="euler")
    first = content(client, made, 1)
    answer = restored(client, first)
    assert answer["notes"] == [] and answer["receipt"]["seed"] == 6
    asked = {"prompt": "एक बिल्ली", "model": "tiny", "seed": 6, "steps": 2, "guidance": 2.5}
    usual = {"size": "32x32", "format": "png", "spacing": "uniform", "guidance_rescale": 0.0}
    assert answer["settings"] == asked | {"sampler": "euler"} | usual
    again = job(client, **answer["settings"])
    assert np.array_equal(read_picture(first), read_picture(content(client, again)))


def test_what_a_receipt_of_elsewhere_loses_is_named(client: TestClient, tmp_path: Any) -> None:
    request = {"prompt": "a cat", "model": "gone", "steps": 9999, "lucky": 1, "guidance": 2.0}
    inputs = {"image": {"name": "a.png", "sha256": "0" * 64, "path": "/etc/passwd"}}
    receipt = {"kalpana": "9.9", "request": request | inputs, "resolved": "nonsense"}
    answer = restored(client, with_receipt(receipt, tmp_path))
    notes = {note.pop("code"): note for note in answer["notes"]}
    assert answer["settings"] == {"prompt": "a cat", "guidance": 2.0}
    assert notes["other_version"] == {"was": "9.9", "now": __version__}
    assert notes["model_missing"] == {"model": "gone"}
    assert notes["fields_unknown"] == {"fields": ["lucky", "steps"]}
    assert notes["inputs_missing"] == {"fields": ["image"]}


def test_other_weights_of_a_model_are_noted(client: TestClient, tmp_path: Any) -> None:
    about = {"name": "tiny", "files": {"dit.safetensors": "0" * 64}}
    receipt = {"kalpana": __version__, "request": {"prompt": "a", "model": "tiny"}, "model": about}
    answer = restored(client, with_receipt(receipt, tmp_path))
    assert answer["notes"] == [{"code": "other_weights", "model": "tiny"}]


@pytest.mark.parametrize("data", [b"", b"words", photo(), photo()[:60]])
def test_a_file_without_a_receipt_is_an_error(client: TestClient, data: bytes) -> None:
    answer = client.post("/v1/metadata", files={"file": data})
    assert answer.status_code == 400 and "\n" not in error(answer)["message"]


# ----------------------------------------------------------------------------------------- maps


def test_edges_are_those_of_the_world(client: TestClient) -> None:
    answer = client.post("/v1/maps", json={"kind": "edges", "image": data_url(photo())}).json()
    found = read_picture(base64.b64decode(answer["image"].partition(",")[2]))
    wanted = edges(to_pixels([read_picture(photo())]), 0.15)[:, None].expand(-1, 3, -1, -1)
    assert np.array_equal(found, to_images(2.0 * wanted - 1)[0])


def test_glyphs_need_one_quoted_word(client: TestClient) -> None:
    ask = {"kind": "glyphs", "prompt": 'a sign that says "OPEN"', "side": 64}
    answer = client.post("/v1/maps", json=ask).json()
    image = read_picture(base64.b64decode(answer["image"].partition(",")[2]))
    left, top, right, bottom = (64 * each for each in answer["box"])
    ys, xs = np.nonzero(np.asarray(image.convert("L")) > 127)
    assert answer["word"] == "OPEN" and image.size == (64, 64) and len(xs)
    assert left - 1 <= xs.min() and xs.max() <= right + 1
    assert top - 1 <= ys.min() and ys.max() <= bottom + 1
    assert error(client.post("/v1/maps", json=ask | {"prompt": "no word"}))["param"] == "prompt"
    assert error(client.post("/v1/maps", json={"kind": "edges"}))["param"] == "image"


def test_boxes_are_those_that_a_prompt_counts(client: TestClient) -> None:
    ask = {"kind": "boxes", "prompt": "three cats", "side": 64, "seed": 2}
    answer = client.post("/v1/maps", json=ask).json()
    image = np.asarray(read_picture(base64.b64decode(answer["image"].partition(",")[2])))
    inside = np.zeros((64, 64), bool)
    for each in answer["boxes"]:
        x0, y0, x1, y1 = (round(64 * side) for side in each["box"])
        inside[y0:y1, x0:x1] = True
    assert [each["object"] for each in answer["boxes"]] == ["cat"] * 3
    assert np.array_equal(image[..., 0] > 0, inside)
    found = error(client.post("/v1/maps", json=ask | {"prompt": "cats"}))
    assert found["param"] == "prompt" and "with their number" in found["message"]


def test_the_plan_of_an_older_receipt_is_restored(client: TestClient, tmp_path: Any) -> None:
    for old, new in ((False, {"plan": "none"}), (True, {}), ("layout", {"plan": "layout"})):
        receipt = {"kalpana": __version__, "request": {"prompt": "a", "plan": old}}
        assert (
            restored(client, with_receipt(receipt, tmp_path))["settings"] == {"prompt": "a"} | new
        )


# --------------------------------------------------------------------------------------- traces


def test_a_trace_shows_each_step_and_the_picture_of_the_job(client: TestClient) -> None:
    page = client.post("/v1/trace", json=ASK | {"seed": 3, "steps": 3}).text
    (final,) = [part for part in page.split("<figure") if part.startswith(' class="final"')]
    picture = base64.b64decode(final.partition("base64,")[2].partition('"')[0])
    made = content(client, job(client, seed=3, steps=3))
    assert np.array_equal(Image.open(io.BytesIO(picture)), read_picture(made))
    assert all(f"step {k}<" in page for k in (1, 2, 3)) and "step 4<" not in page


def test_a_streamed_trace_ends_with_the_page_or_an_error(client: TestClient) -> None:
    text = client.post("/v1/trace", json=ASK | {"steps": 2, "stream": True}).text
    names = [part.partition("\n")[0] for part in text.split("event: ")[1:]]
    assert names[-1] == "done" and set(names[:-1]) == {"progress"}
    html = json.loads(text.rpartition("data: ")[2])["html"]
    assert html.startswith("<!doctype html>")
    text = client.post("/v1/trace", json=ASK | {"n": 2, "stream": True}).text
    assert text.startswith("event: error") and "one picture" in text


# ------------------------------------------------------------------------------ stars and search


def test_stars_stay_and_filter_the_list(client: TestClient) -> None:
    one, two = job(client, prompt="a cat"), job(client, prompt="100% cotton_wool")
    (file,) = [each["file"] for each in one["outputs"]]
    assert client.post(f"/v1/outputs/{file}/star", json={}).json()["starred"] is True
    listed = client.get("/v1/jobs?starred=true").json()["data"]
    assert [each["id"] for each in listed] == [one["id"]]
    assert listed[0]["outputs"][0]["starred"] is True
    client.post(f"/v1/outputs/{file}/star", json={"starred": False})
    assert client.get("/v1/jobs?starred=true").json()["data"] == []
    found = client.get("/v1/jobs", params={"query": "% COTTON_"}).json()["data"]
    assert [each["id"] for each in found] == [two["id"]]
    assert error(client.post("/v1/outputs/none.png/star", json={}))["code"] == "not_found"


def test_the_list_goes_on_after_a_job(client: TestClient) -> None:
    ids = [job(client)["id"] for _ in range(3)][::-1]
    first = client.get("/v1/jobs?limit=2").json()
    rest = client.get(f"/v1/jobs?limit=2&after={first['data'][-1]['id']}").json()
    pages = [[each["id"] for each in page["data"]] for page in (first, rest)]
    assert pages == [ids[:2], ids[2:]] and first["has_more"] and not rest["has_more"]


def test_search_ranks_by_the_cosine_of_clip(client: TestClient, clip_folder: Any) -> None:
    made = job(client, prompt="a dog", n=3, seed=1)
    files = [each["file"] for each in made["outputs"]]
    model = encoder.load(str(clip_folder))
    images = model.images([read_picture(content(client, made, k)) for k in range(3)])
    scores = (images @ model.texts(["a red cat"])[0]).tolist()
    for _ in range(2):  # computed, then as they were kept
        data = client.post("/v1/search", json={"query": "a red cat"}).json()["data"]
        assert {each["file"]: each["score"] for each in data} == pytest.approx(
            dict(zip(files, scores, strict=True)), abs=1e-3
        )
        assert [each["score"] for each in data] == sorted(
            (each["score"] for each in data), reverse=True
        )
    like = client.post("/v1/search", json={"like": files[1], "n": 1}).json()["data"]
    assert like[0]["file"] == files[1] and like[0]["score"] == pytest.approx(1, abs=1e-3)
    assert like[0]["job"]["id"] == made["id"]
    client.delete(f"/v1/jobs/{made['id']}")
    assert client.post("/v1/search", json={"query": "a"}).json()["data"] == []


@pytest.mark.parametrize("ask", [{}, {"query": "a", "like": "b"}, {"like": "b.png"}])
def test_search_takes_one_question(client: TestClient, ask: dict[str, str]) -> None:
    assert error(client.post("/v1/search", json=ask))["message"]


# ----------------------------------------------------------------------------- inputs and events


def test_inputs_come_back_to_their_job_only(client: TestClient) -> None:
    made, other = job(client, image=data_url(photo(1)), strength=0.5), job(client)
    sha256 = made["request"]["image"]["sha256"]
    assert client.get(f"/v1/jobs/{made['id']}/inputs/{sha256}").content == photo(1)
    assert client.get(f"/v1/jobs/{other['id']}/inputs/{sha256}").status_code == 404


async def read_changes(client: TestClient, count: int, start: Any) -> list[Any]:
    """The first pictures of the stream of all jobs, while ``start`` runs after the first."""
    jobs, seen = client.app.state.server.jobs, []
    async for statuses, gone in jobs.watch("testclient"):
        seen.append((statuses, gone))
        if len(seen) == 1:
            start()
        done = [s.job.id for each, _ in seen for s in each if s.job.ended]
        if len(done) >= count:
            break
    return seen


def test_the_stream_of_all_jobs_tells_of_each_until_it_ended(client: TestClient) -> None:
    import asyncio

    earlier = job(client)["id"]
    made: list[str] = []

    def start() -> None:
        for seed in (1, 2):
            made.append(client.post("/v1/jobs", json=ASK | {"seed": seed}).json()["id"])

    seen = asyncio.run(read_changes(client, 2, start))
    ended = [s.job.id for each, _ in seen for s in each if s.job.ended]
    assert sorted(ended) == sorted(made) and earlier not in ended


def test_the_files_of_the_page_are_open_and_nothing_else_is(client_with: Any) -> None:
    from kalpana.serve.settings import hashed_keys

    with client_with(api_keys=hashed_keys(["0123456789abcdef"])) as client:
        page = client.get("/")
        assert page.status_code == 200 and "unsafe" not in page.headers["content-security-policy"]
        assert client.get("/studio/main.js").headers["content-type"].startswith("text/javascript")
        assert client.post("/").status_code == 401
        for path in ("/v1/jobs", "/v1/jobs/events", "/v1/limits", "/studio", "/docs"):
            assert client.get(path).status_code == 401
        font = client.get("/studio/mukta.ttf")
        assert font.headers["content-type"] == "font/ttf" and font.content == FONT.read_bytes()
        assert "font-src 'self'" in font.headers["content-security-policy"]
        assert 'url("mukta.ttf")' in client.get("/studio/studio.css").text
        for path in ("/studio/../app.py", "/studio/%2e%2e%2fapp.py", "/studio/none.js"):
            assert client.get(path).status_code in (401, 404)
