"""Public models of diffusers behind the server, by the same endpoints as all others."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("fastapi", reason="the server needs fastapi: pip install 'kalpana[serve]'")
pytest.importorskip("av", reason="MP4 needs PyAV: pip install 'kalpana[video]'")
pytest.importorskip("diffusers", reason="needs diffusers: pip install 'kalpana[hub]'")
pytest.importorskip("transformers", reason="needs transformers: pip install 'kalpana[hub]'")

from kalpana.media import read_video
from kalpana.pipelines import last, load
from kalpana.types import Video

from .test_images import ASK, error, pictures, same_pixels
from .test_videos import finished

# Without accelerate, which Wan needs, a video model that does not.
VIDEO = "ltx" if find_spec("accelerate") is None else "wan"


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from toys import diffusers_models

        place = tmp_path_factory.mktemp("public")
        names = ("flux", VIDEO)
        return {name: diffusers_models.write(name, place / name) for name in names}


@pytest.mark.slow
def test_pictures_and_videos_of_public_models(
    client_with: Callable[..., Any], folders: dict[str, Path]
) -> None:
    with client_with(models=tuple(map(str, folders.values()))) as client:
        listed = client.get("/v1/models").json()["data"]
        assert {each["id"]: each["kinds"] for each in listed} == {
            "flux": ["image"], VIDEO: ["video"],
        }  # fmt: skip
        able = client.get("/v1/models/flux/capabilities").json()
        assert able["multiple"] == 16 and "mask" in able["uses"] and able["formats"][0] == "png"
        assert client.get("/v1/models/flux").json()["family"] == "diffusers"
        ask = ASK | {"model": "flux", "size": "32x32"}
        (data,) = pictures(client.post("/v1/images/generations", json=ask))
        model = load(str(folders["flux"]), "cpu")
        (output,) = last(model.generate(ASK["prompt"], seed=3, steps=2, size="32x32")).outputs
        assert same_pixels(data, output.image)
        refused = client.post("/v1/images/generations", json=ask | {"sampler": "euler"})
        assert refused.status_code == 400 and "no such setting" in error(refused)["message"]

        ask = {"model": VIDEO, "size": "32x32", "steps": 2, "seed": 3, "fps": 5, "format": "webp"}
        video = finished(client, ask | {"prompt": "a car", "seconds": "1"})
        assert video["status"] == "completed", video
        frames = [*read_video(client.get(f"/v1/videos/{video['id']}/content").content)]
        fields: dict[str, Any] = {"size": "32x32", "steps": 2, "seconds": 1, "fps": 5}
        (output,) = last(load(str(folders[VIDEO])).generate("a car", seed=3, **fields)).outputs
        assert isinstance(output.media, Video) and len(frames) == 5
        assert all(map(np.array_equal, frames, output.media.frames))
