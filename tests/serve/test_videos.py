"""The video endpoints: create, poll, list, content and delete."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("fastapi", reason="the server needs fastapi: pip install 'kalpana[serve]'")

from fastapi.testclient import TestClient
from PIL import Image

from kalpana.media import read_video
from kalpana.pipelines import last, load
from kalpana.types import Video

from .conftest import photo
from .test_images import data_url, error, events

pytest.importorskip("av", reason="MP4 needs PyAV: pip install 'kalpana[video]'")

ASK = {"prompt": "a red car", "seed": 3, "seconds": "1"}
PLAYLIST = b"#EXTM3U\n#EXTINF:1,\nfile:///etc/passwd\n#EXT-X-ENDLIST\n"
KEYS = {
    *("id", "object", "model", "status", "progress", "created_at", "completed_at", "expires_at"),
    *("prompt", "size", "seconds", "remixed_from_video_id", "error"),
}


@pytest.fixture
def client(
    client_with: Callable[..., Any], folder: Path, video_folder: Path
) -> Iterator[TestClient]:
    with client_with(models=(str(folder), str(video_folder))) as client:
        yield client


def finished(client: TestClient, ask: dict[str, Any], **more: Any) -> dict[str, Any]:
    """A video once it is completed."""
    video = client.post("/v1/videos", **({"data": ask, **more} if more else {"json": ask})).json()
    assert video.keys() >= KEYS and video["status"] in ("queued", "in_progress"), video
    client.get(f"/v1/jobs/{video['id'].removeprefix('video_')}/events")
    return client.get(f"/v1/videos/{video['id']}").json()


def test_a_video_is_that_of_the_python_api(client: TestClient, video_folder: Path) -> None:
    video = finished(client, ASK | {"format": "webp"})
    assert (video["status"], video["progress"], video["seconds"]) == ("completed", 100, "1")
    assert (video["size"], video["model"], video["error"]) == ("16x16", "tiny-video", None)
    data = client.get(f"/v1/videos/{video['id']}/content").content
    (output,) = last(load(str(video_folder)).generate("a red car", seed=3, seconds=1)).outputs
    assert isinstance(output.media, Video)
    found = [np.asarray(frame) for frame in read_video(data)]
    assert np.array_equal(found, [np.asarray(frame) for frame in output.media.frames])


def test_content_has_variants_and_is_never_partial(client: TestClient) -> None:
    video = finished(client, ASK)
    url = f"/v1/videos/{video['id']}/content"
    whole = client.get(url)
    assert whole.headers["content-type"] == "video/mp4" and len([*read_video(whole.content)]) == 8
    still = Image.open(io.BytesIO(client.get(f"{url}?variant=thumbnail").content))
    sheet = Image.open(io.BytesIO(client.get(f"{url}?variant=spritesheet").content))
    assert (still.format, still.size) == ("WEBP", (16, 16)) and sheet.size > still.size
    assert error(client.get(f"{url}?variant=audio"))["param"] == "variant"


@pytest.mark.parametrize("form", [True, False])
def test_an_input_reference_is_the_first_picture(client: TestClient, form: bool) -> None:
    reference = photo(size=(16, 16))
    if form:
        video = finished(client, ASK, files={"input_reference": reference})
    else:
        video = finished(client, ASK | {"input_reference": {"image_url": data_url(reference)}})
    job = client.get(f"/v1/jobs/{video['id'].removeprefix('video_')}").json()
    assert video["status"] == "completed" and job["request"]["image"]["sha256"]


def test_videos_are_listed_in_pages_and_deleted(client: TestClient) -> None:
    ids = [finished(client, ASK | {"seed": k})["id"] for k in range(3)]
    page = client.get("/v1/videos?limit=2").json()
    assert [each["id"] for each in page["data"]] == ids[:0:-1] and page["has_more"]
    rest = client.get(f"/v1/videos?after={page['last_id']}").json()
    assert [each["id"] for each in rest["data"]] == ids[:1] and not rest["has_more"]
    assert client.get("/v1/videos?order=asc").json()["first_id"] == ids[0]
    assert client.delete(f"/v1/videos/{ids[0]}").json() == {
        "id": ids[0],
        "object": "video.deleted",
        "deleted": True,
    }
    assert error(client.get(f"/v1/videos/{ids[0]}"))["code"] == "not_found"


def test_a_cancelled_video_has_failed(client: TestClient) -> None:
    id = client.post("/v1/videos", json=ASK | {"seconds": 60, "fps": 8}).json()["id"]
    client.post(f"/v1/jobs/{id.removeprefix('video_')}/cancel")
    video = client.get(f"/v1/videos/{id}").json()
    assert video["status"] == "failed" and video["error"]["code"] == "cancelled"
    assert error(client.get(f"/v1/videos/{id}/content"))["code"] == "not_ready"


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"seconds": "long"}, "seconds"),
        ({"model": "tiny"}, "model"),
        ({"n": 2}, "n"),
        ({"input_reference": {"file_id": "file-1"}}, "image"),
        ({"video": "/etc/passwd"}, "video"),
        ({"video": data_url(PLAYLIST)}, "video"),
        ({"video": data_url(b"ffconcat version 1.0\nfile /etc/passwd\n")}, "video"),
        (
            {"seconds": 60, "fps": 60, "size": "32x16", "upscale": 4, "prompt": "a" * 32_001},
            "prompt",
        ),
    ],
)
def test_wrong_fields_are_named(client: TestClient, fields: dict[str, Any], param: str) -> None:
    answer = client.post("/v1/videos", json=ASK | fields)
    assert answer.status_code == 400 and error(answer)["param"] == param


def source(client: TestClient) -> dict[str, Any]:
    return finished(client, ASK | {"size": "32x16", "fps": 4})


def changed(client: TestClient, path: str, **ask: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """A video once it is completed, and its job."""
    answer = client.post(f"/v1/videos/{path}", **ask)
    assert answer.status_code == 200, answer.text
    id = answer.json()["id"]
    client.get(f"/v1/jobs/{id.removeprefix('video_')}/events")
    job = client.get(f"/v1/jobs/{id.removeprefix('video_')}").json()
    return client.get(f"/v1/videos/{id}").json(), job


def test_a_remix_changes_a_finished_video(client: TestClient) -> None:
    first = source(client)
    content = client.get(f"/v1/videos/{first['id']}/content").content
    ask = {"prompt": "a blue car", "strength": 0.5}
    video, job = changed(client, f"{first['id']}/remix", json=ask)
    assert video["status"] == "completed", video
    assert video["remixed_from_video_id"] == first["id"] and video["prompt"] == "a blue car"
    assert (video["size"], video["seconds"]) == ("32x16", "1")  # those of the first
    assert job["request"]["video"]["sha256"] == hashlib.sha256(content).hexdigest()
    assert first["remixed_from_video_id"] is None
    frames = [*read_video(client.get(f"/v1/videos/{video['id']}/content").content)]
    assert len(frames) == 4 and frames[0].size == (32, 16)


@pytest.mark.parametrize("how", ["id", "form", "file"])
def test_edits_and_extensions_take_an_id_or_a_file(client: TestClient, how: str) -> None:
    first = source(client)
    content = client.get(f"/v1/videos/{first['id']}/content").content
    ask: dict[str, Any] = {"prompt": "a dog", "steps": 2, "seed": 1}

    def sent(**fields: Any) -> dict[str, Any]:
        fields = ask | fields
        if how == "file":
            sizes = {"size": "32x16", "fps": 4}
            return {"data": fields | sizes, "files": {"video": content}}
        if how == "id":
            return {"json": fields | {"video": {"id": first["id"]}}}
        parts = [(name, (None, str(value))) for name, value in fields.items()]
        return {"files": [*parts, ("video[id]", (None, first["id"]))]}  # as the SDK of OpenAI

    video, _ = changed(client, "edits", **sent(strength=0.5))
    assert (video["status"], video["seconds"]) == ("completed", "1"), video
    assert video["remixed_from_video_id"] is None
    video, job = changed(client, "extensions", **sent(seconds="1"))
    assert (video["status"], video["seconds"]) == ("completed", "2"), video  # the whole of it
    assert job["request"]["extend"] == 1 and "seconds" not in job["request"]
    frames = [*read_video(client.get(f"/v1/videos/{video['id']}/content").content)]
    assert len(frames) == 8


@pytest.mark.slow
@pytest.mark.parametrize(
    ("path", "fields", "param"),
    [
        ("edits", {"prompt": "a"}, "video"),
        ("extensions", {"prompt": "a", "video": {"id": "ID"}}, "seconds"),
        (
            "extensions",
            {"prompt": "a", "video": {"id": "ID"}, "seconds": 1, "extend": 1},
            "seconds",
        ),
        ("edits", {"video": {"id": "ID"}}, "prompt"),
        ("ID/remix", {}, "prompt"),
        ("ID/remix", {"prompt": "a", "video": {"id": "ID"}}, "video"),
        ("edits", {"prompt": "a", "video": {"id": "ID"}, "priority": 101}, "priority"),
        ("edits", {"prompt": "a", "video": "/etc/passwd"}, "video"),
        ("edits", {"prompt": "a", "video": {"id": "video_none"}}, None),
        ("video_none/remix", {"prompt": "a"}, None),
    ],
)
def test_wrong_changes_are_named(
    client: TestClient, path: str, fields: dict[str, Any], param: str | None
) -> None:
    id = source(client)["id"]
    if (fields.get("video") or {}) == {"id": "ID"}:
        fields = fields | {"video": {"id": id}}
    answer = client.post(f"/v1/videos/{path.replace('ID', id)}", json=fields)
    assert answer.status_code == (404 if param is None else 400), answer.text
    assert error(answer)["param"] == param


def test_an_unfinished_video_cannot_be_changed(client: TestClient) -> None:
    id = client.post("/v1/videos", json=ASK | {"seconds": 60, "fps": 8}).json()["id"]
    answer = client.post(f"/v1/videos/{id}/remix", json={"prompt": "a"})
    assert answer.status_code == 409 and error(answer)["code"] == "not_ready"
    client.delete(f"/v1/videos/{id}")


def test_a_job_of_a_video_model_has_events(client: TestClient) -> None:
    ask = {"prompt": "a", "model": "tiny-video", "seconds": 1, "previews": 1}
    id = client.post("/v1/jobs", json=ask).json()["id"]
    assert events(client.get(f"/v1/jobs/{id}/events").text)[-1][0] == "done"
