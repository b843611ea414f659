"""The unmodified SDK of OpenAI against a server on a port."""

from __future__ import annotations

import base64
import io
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("fastapi", reason="the server needs fastapi: pip install 'kalpana[serve]'")


from kalpana.media import read_picture, read_video

from .conftest import Process, photo

openai = pytest.importorskip("openai", reason="the SDK is not installed: pip install openai")

KEY = "a-key-of-sixteen-characters"


@pytest.fixture(scope="module")
def server(
    folder: Path, clip_folder: Path, video_folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Process]:
    models = [
        each for path in (folder, clip_folder, video_folder) for each in ("--model", str(path))
    ]
    server = Process(tmp_path_factory.mktemp("sdk") / "server", *models, "--api-key", KEY)
    yield server
    server.end()


@pytest.fixture
def sdk(server: Process) -> Iterator[Any]:
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key=KEY, max_retries=0) as client:
        yield client


def test_models(sdk: Any) -> None:
    assert [model.id for model in sdk.models.list()] == ["tiny", "tiny-clip", "tiny-video"]
    assert sdk.models.retrieve("tiny").owned_by == "kalpana"


def test_generations_with_extra_fields(sdk: Any) -> None:
    extra = {"seed": 3, "steps": 2, "negative_prompt": "blue"}
    ask: Callable[..., Any] = sdk.images.generate
    answer = ask(prompt="a red apple", n=2, response_format="b64_json", extra_body=extra)
    assert [each.seed for each in answer.data] == [3, 4] and answer.usage.input_tokens > 0
    first = ask(prompt="a red apple", extra_body=extra)
    assert first.data[0].url.startswith("http://127.0.0.1:")
    assert read_picture(base64.b64decode(answer.data[0].b64_json)).size == (32, 32)


def test_a_stream(sdk: Any) -> None:
    stream = sdk.images.generate(
        prompt="a", stream=True, partial_images=2, extra_body={"steps": 6, "seed": 1}
    )
    kinds = [event.type for event in stream]
    partial, completed = "image_generation.partial_image", "image_generation.completed"
    assert kinds == [partial, partial, completed]


def test_edits_with_a_mask_and_variations(sdk: Any) -> None:
    mask = photo(1, mode="RGBA")
    extra = {"steps": 2, "seed": 1}
    for image in (photo(), [photo()]):
        answer = sdk.images.edit(
            image=image, mask=mask, prompt="a", response_format="b64_json", extra_body=extra
        )
        assert answer.data[0].b64_json
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        answer = sdk.images.create_variation(image=photo(), n=2, extra_body=extra)
    assert len(answer.data) == 2


def test_embeddings(sdk: Any) -> None:
    data = sdk.embeddings.create(model="tiny-clip", input=["a cat", "a dog"]).data
    assert [len(each.embedding) for each in data] == [24, 24]


def test_errors_have_their_classes_and_fields(sdk: Any, server: Process) -> None:
    with pytest.raises(openai.BadRequestError) as bad:
        sdk.images.generate(prompt="a", extra_body={"sede": 3})
    assert bad.value.param == "sede" and bad.value.code == "unknown_field"
    assert bad.value.request_id
    with pytest.raises(openai.NotFoundError):
        sdk.images.generate(prompt="a", model="dall-e-3")
    with (
        openai.OpenAI(base_url=f"{server.url}/v1", api_key="wrong", max_retries=0) as other,
        pytest.raises(openai.AuthenticationError),
    ):
        other.models.list()


def test_videos(sdk: Any) -> None:
    pytest.importorskip("av", reason="MP4 needs PyAV")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        video = sdk.videos.create_and_poll(
            prompt="a red car", seconds="1", input_reference=("a.png", io.BytesIO(photo()))
        )
        assert video.status == "completed" and video.progress == 100
        content = sdk.videos.download_content(video.id).read()
        assert len([*read_video(content)]) == 8
        assert [each.id for each in sdk.videos.list()] == [video.id]
        remix = sdk.videos.remix(video.id, prompt="a blue car")
        assert remix.remixed_from_video_id == video.id
        assert sdk.videos.poll(remix.id).status == "completed"
        by_id = {"video": openai.omit, "extra_body": {"video": {"id": video.id}}}
        edit = sdk.videos.poll(sdk.videos.edit(prompt="a dog", **by_id).id)
        assert edit.status == "completed"
        longer = sdk.videos.poll(
            sdk.videos.extend(prompt="a dog", seconds="4", video=("a.mp4", content)).id
        )
        assert (longer.status, longer.seconds) == ("completed", "5")
        assert sdk.videos.delete(video.id).deleted
