"""Videos from words, pictures and videos, by a tiny network with random weights."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from kalpana.media import read_receipt, to_pixels
from kalpana.pipelines import load
from kalpana.pipelines.diffusion import DiffusionPipeline
from kalpana.pipelines.replay import again, compare
from kalpana.pipelines.video_inputs import camera_path
from kalpana.types import KalpanaError, Output, Video


@pytest.fixture
def model(video_folder: Path) -> DiffusionPipeline:
    return load(str(video_folder), "cpu")  # type: ignore[return-value]


def photo(seed: int = 0) -> Image.Image:
    levels = np.random.default_rng(seed).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    return Image.fromarray(levels)


def generated(model: DiffusionPipeline, prompt: str = "a red car", **fields: Any) -> Output:
    *_, last = model.generate(prompt, seed=3, **fields)
    assert last.result is not None
    (output,) = last.result.outputs
    return output


def frames(output: Output) -> np.ndarray:
    """The frames (f, h, w, 3) of a video."""
    assert isinstance(output.media, Video)
    return np.stack([np.asarray(frame) for frame in output.media.frames]).astype(int)


def through_codec(model: DiffusionPipeline, image: Image.Image) -> np.ndarray:
    """A picture (h, w, 3) through the image autoencoder."""
    codec: Any = model.codec
    pixels = codec.image.decode(codec.image.encode(to_pixels([image]))).clamp(-1, 1)
    return ((pixels[0] + 1) * 127.5).round().permute(1, 2, 0).detach().numpy().astype(int)


@pytest.mark.parametrize(("seconds", "fps", "count"), [(2, 8, 16), (1, 5, 5), (0.1, 8, 1)])
def test_a_video_has_the_frames_that_were_asked_for(
    model: DiffusionPipeline, seconds: float, fps: int, count: int
) -> None:
    output = generated(model, seconds=seconds, fps=fps)
    assert frames(output).shape == (count, 16, 16, 3) and output.media.fps == fps  # type: ignore[union-attr]


def test_previews_are_keyframes_and_the_default_is_two_seconds(model: DiffusionPipeline) -> None:
    steps = list(model.generate("a red car", seed=3))
    assert steps[0].preview is not None and steps[0].preview.shape == (1, 5, 3, 2, 2)
    assert steps[-1].result is not None
    assert len(frames(steps[-1].result.outputs[0])) == 16


def test_given_pictures_are_the_first_and_the_last_frame(model: DiffusionPipeline) -> None:
    first, last = photo(0), photo(1)
    both = frames(generated(model, seconds=2, fps=8, image=first, last_image=last))
    assert len(both) == 17  # the last one is a keyframe
    assert np.abs(both[0] - through_codec(model, first)).max() <= 1
    assert np.abs(both[-1] - through_codec(model, last)).max() <= 1
    alone = frames(generated(model, seconds=2, fps=8, image=first))
    assert np.abs(alone[0] - through_codec(model, first)).max() <= 1
    assert not np.array_equal(alone[-1], both[-1])


def test_a_video_goes_on_where_it_ends(model: DiffusionPipeline, tmp_path: Path) -> None:
    start = generated(model, seconds=1, fps=8)
    path = start.save(tmp_path / "start.webp").path  # lossless
    longer = generated(model, video=path, extend=0.75, fps=8)
    assert len(frames(longer)) == 8 + 6
    assert np.array_equal(frames(longer)[:8], frames(start))


def test_a_long_continuation_is_sampled_in_windows_that_see_only_what_was_before(
    model: DiffusionPipeline, tmp_path: Path
) -> None:
    path = generated(model, seconds=1.25, fps=8).save(tmp_path / "start.webp").path
    # 10 frames: the last 9 of them are 3 latent frames, and 24 more frames are 6, one window.
    stages = [step.stage for step in model.generate("a", seed=3, video=path, extend=6, fps=8)]
    assert stages == ["denoise"] * 6 + ["decode"], "two windows of three steps"
    one, two = (generated(model, video=path, extend=extend, fps=8) for extend in (3, 6))
    assert len(frames(one)) == 10 + 24 and len(frames(two)) == 10 + 48
    assert np.array_equal(frames(two)[:34], frames(one))
    assert not np.array_equal(frames(two)[-24:], frames(one)[-24:])


def test_a_video_is_changed_by_its_strength(model: DiffusionPipeline, tmp_path: Path) -> None:
    path = generated(model, seconds=1, fps=8).save(tmp_path / "v.webp").path
    same, less, more = (
        frames(generated(model, "a blue dog", video=path, strength=strength))
        for strength in (0.0, 0.3, 1.0)
    )
    free = frames(generated(model, "a blue dog", seconds=1, fps=8))
    assert len(same) == len(more) == 8
    assert np.array_equal(more, free)  # no trace of the video is left
    assert np.abs(less - same).mean() < np.abs(more - same).mean()


def test_the_camera_and_every_other_setting_change_the_video(model: DiffusionPipeline) -> None:
    plain = frames(generated(model, seconds=1))
    for fields in (
        {"camera": "pan left"},
        {"camera": "zoom in"},
        {"guidance": 1},
        {"steps": 4},
        {"negative_prompt": "a blue dog"},
    ):
        assert not np.array_equal(frames(generated(model, seconds=1, **fields)), plain), fields
    assert generated(model, size="32x16").media.frames[0].size == (32, 16)  # type: ignore[union-attr]


def test_the_path_of_the_camera_is_that_of_the_world() -> None:
    right, out = camera_path("pan right", 5), camera_path("zoom out", 5)
    assert torch.all(right[:, 0].diff() > 0) and torch.equal(right[:, 2:], torch.zeros(5, 2))
    torch.testing.assert_close(out[-1, 2].exp(), torch.tensor(1 / 1.6))
    assert torch.equal(camera_path("still", 3).diff(dim=0), torch.zeros(2, 4))


@pytest.mark.parametrize("suffix", [".webp", ".mp4"])
def test_a_video_replays_from_its_file(
    model: DiffusionPipeline, tmp_path: Path, suffix: str
) -> None:
    if suffix == ".mp4":
        pytest.importorskip("av", reason="MP4 needs PyAV: kalpana[video]")
    photo().save(tmp_path / "photo.png")
    path = generated(model, image=tmp_path / "photo.png").save(tmp_path / f"v{suffix}").path
    assert path is not None
    *_, last = again(model, read_receipt(path))
    assert last.result is not None
    assert str(compare(path, last.result.outputs[0])) == "the same bytes"


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"camera": "dolly"}, "camera 'dolly' cannot be used .*: it knows still, pan left"),
        ({"image": b"", "strength": 0.5}, "it starts from an image, and changes videos only"),
        ({"mask": b"x", "image": b"x"}, "mask cannot be used"),
        ({"video": b"no video", "strength": 0.5}, "the input data: "),
        ({"size": "48x48"}, "size '48x48' cannot be used"),
        ({"upscale": 3}, "upscale 3"),
        ({"extend": 1.0}, "extend needs a video"),
        ({"video": b"x", "image": b"x"}, "video and image are both given"),
    ],
)
def test_what_a_video_model_cannot_do_is_one_line(
    model: DiffusionPipeline, fields: dict[str, Any], message: str
) -> None:
    with pytest.raises(KalpanaError, match=message) as caught:
        model.generate("a red car", **fields)
    assert "\n" not in str(caught.value)


# ----------------------------------------------------------------- killed before it was decoded

KILLED = """
import os, signal, sys
from kalpana.models.video_vae import VideoVAE
VideoVAE.decode = lambda codec, latents: os.kill(os.getpid(), signal.SIGKILL)
from kalpana.cli.main import app
app(sys.argv[1:])
"""
NOT_DENOISED = """
import sys
from kalpana.models.video_dit import VideoDiT
VideoDiT.forward = None
from kalpana.cli.main import app
app(sys.argv[1:])
"""


def run(code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, timeout=500
    )


@pytest.mark.slow
def test_a_video_that_was_killed_before_its_decoding_goes_on_with_the_same_bytes(
    video_folder: Path, tmp_path: Path
) -> None:
    asked = ["generate", "a red car", "--model", str(video_folder), "--seed", "3", "--format"]
    asked += ["webp", "--device", "cpu", "--n", "2", "--seconds", "1", "--out"]
    killed = run(KILLED, *asked, str(tmp_path / "a"))
    assert killed.returncode == -signal.SIGKILL and not [*(tmp_path / "a").glob("*.webp")]
    assert len([*(tmp_path / "a").glob(".latents-*/*.safetensors")]) == 1
    other = run(NOT_DENOISED, *asked, str(tmp_path / "a"), "--steps", "2")
    assert other.returncode == 1, "other steps need other latents"
    done = run(NOT_DENOISED, *asked, str(tmp_path / "a"))
    assert done.returncode == 0, done.stderr
    assert "going on from the denoised latents" in done.stderr
    whole = run("import sys; from kalpana.cli.main import app; app(sys.argv[1:])", *asked,
                str(tmp_path / "b"))  # fmt: skip
    assert whole.returncode == 0 and "going on" not in whole.stderr
    one, two = (sorted((tmp_path / name).glob("*.webp")) for name in "ab")
    assert [file.name for file in one] == [file.name for file in two] and len(one) == 2
    assert [file.read_bytes() for file in one] == [file.read_bytes() for file in two]
    assert not [*(tmp_path / "b").glob(".latents-*")], "they are removed when the file is written"
    assert not [*(tmp_path / "a").glob(".latents-*")]


def test_damaged_latents_are_one_line(model: DiffusionPipeline, tmp_path: Path) -> None:
    list(model.generate("a red car", seed=3, seconds=0.5, latents=tmp_path))
    (file,) = tmp_path.iterdir()
    file.write_bytes(file.read_bytes()[:-9])
    with pytest.raises(KalpanaError, match=r"latents .* are damaged .*: delete the file"):
        list(model.generate("a red car", seed=3, seconds=0.5, latents=tmp_path))
