"""Training of the video autoencoder and the video transformer."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from kalpana.diffusion.denoiser import Denoiser
from kalpana.diffusion.guidance import guide
from kalpana.diffusion.samplers import SAMPLERS, sample
from kalpana.diffusion.schedule import Flow, times
from kalpana.evaluate.verifiers.observations import Observation
from kalpana.evaluate.video.drawn import Drawing
from kalpana.evaluate.video.recaption import ablation, arms_of
from kalpana.evaluate.video.suite import VideoPrompt
from kalpana.hub.weights import load_module, read_process, save_weights
from kalpana.models import dit, vae, video_dit, video_vae
from kalpana.models.video_vae import VideoVAE
from kalpana.train import recaptions, video_autoencoder, video_flow
from kalpana.train.loop import train
from kalpana.train.video_autoencoder import (
    VideoAutoencoderRecipe,
    VideoAutoencoderTask,
    render_groups,
)
from kalpana.train.video_cache import Bucket, frames, pool
from kalpana.train.video_flow import GIVEN, REST, VideoFlowRecipe, VideoFlowTask, frame_times
from kalpana.types import Cond, KalpanaError, Tokens
from kalpana.world import sprites
from kalpana.world.video import Videos

IMAGE_VAE = vae.Config(latent=4, fine=8, coarse=8, encoder=(1, 1), decoder=(1, 1))
MOTION = {"motion_fine": 8, "motion_coarse": 8, "motion_encoder": [1, 1], "motion_decoder": [1, 1]}
SIZES = {"width": 32, "depth": 1, "heads": 2, "text_depth": 1, "channels": 4, "fine": 8}


def quiet(line: str) -> None:
    """No output."""


def silent(done: int, total: int) -> None:
    """No progress."""


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of tiny networks: vae, video_vae and dit."""
    folder = tmp_path_factory.mktemp("weights")
    torch.manual_seed(0)
    image = vae.VAE(IMAGE_VAE)
    codec = VideoVAE(video_vae.Config(**vars(IMAGE_VAE) | MOTION))
    codec.image.load_state_dict(image.state_dict())
    network = dit.DiT(dit.Config(**SIZES))
    save_weights(folder / "vae.safetensors", image, "vae", image.config, {})
    save_weights(folder / "video_vae.safetensors", codec, "video-vae", codec.config, {})
    save_weights(folder / "dit.safetensors", network, "flow", network.config, {})
    return folder


def vae_recipe(weights: Path, **fields: object) -> VideoAutoencoderRecipe:
    settings = {"name": "v", "family": "video-vae", "vae": weights / "vae.safetensors"}
    settings |= {"steps": 4, "batch": 4, "lr": 1e-3, "bf16": False, "warmup": 1}
    return VideoAutoencoderRecipe(**settings | {"model": vars(IMAGE_VAE) | MOTION} | fields)


def video_recipe(weights: Path, **fields: object) -> VideoFlowRecipe:
    settings = {"name": "v", "family": "video", "vae": weights / "video_vae.safetensors"}
    settings |= {"image_model": weights / "dit.safetensors", "num_images": 8, "num_videos": 6}
    settings |= {"steps": 4, "batch": 2, "lr": 1e-3, "bf16": False, "warmup": 1}
    return VideoFlowRecipe(**settings | fields)


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small videos, few of them."""
    monkeypatch.setattr(video_autoencoder, "SMALL", 16)
    monkeypatch.setattr(video_autoencoder, "LARGE", 32)
    monkeypatch.setattr(video_autoencoder, "DEV_GROUPS", 16)
    buckets = {Bucket(16, 16, 5): 0.5, Bucket(16, 32, 3): 0.5}
    monkeypatch.setattr(video_flow, "BUCKETS", buckets)
    monkeypatch.setattr(video_flow, "DEV", Bucket(16, 16, 5))
    monkeypatch.setattr(video_flow, "DEV_VIDEOS", 8)


# ------------------------------------------------------------------------------------ autoencoder


def test_a_group_is_five_consecutive_frames_of_a_video() -> None:
    groups = render_groups(0, "dev", range(3), 16)
    assert groups.shape == (3, 5, 3, 16, 16)
    for i, group in enumerate(groups):
        whole = Videos(0, "dev", 16).frames(i)
        starts = [k for k in range(len(whole) - 4) if torch.equal(whole[k : k + 5], group)]
        assert starts, i


@pytest.mark.usefixtures("small")
def test_batches_have_as_many_pixels_of_each_size(weights: Path) -> None:
    task = VideoAutoencoderTask(vae_recipe(weights), torch.device("cpu"), silent)
    assert task.batch(0).shape == (4, 5, 3, 16, 16) and task.batch(1).shape == (1, 5, 3, 32, 32)
    assert torch.equal(task.batch(1), task.batch(1))


@pytest.mark.slow
@pytest.mark.usefixtures("small")
def test_the_autoencoder_starts_at_the_cross_fade_and_gets_better(
    weights: Path, tmp_path: Path
) -> None:
    task = VideoAutoencoderTask(vae_recipe(weights), torch.device("cpu"), silent)
    with torch.inference_mode():
        task.model.eval()
        metrics, sheet = task.evaluate()
    assert sheet.shape[1:] == (3, 32, 32)
    for side in (16, 32):
        assert abs(metrics[f"dev_psnr_between_{side}"] - metrics[f"dev_psnr_fade_{side}"]) < 1e-3
    path = train(
        vae_recipe(weights, steps=40, batch=8, lr=3e-3, ema_decay=0.9), tmp_path, echo=quiet
    )
    assert path is not None
    trained = load_module(path, "video-vae")
    image = load_module(weights / "vae.safetensors", "vae")
    for name, value in image.state_dict().items():
        assert torch.equal(trained.image.state_dict()[name], value), name
    task.model.load_state_dict(trained.state_dict())
    with torch.inference_mode():
        after, _ = task.evaluate()
    assert after["dev_psnr_between_16"] > metrics["dev_psnr_between_16"] + 0.1


# -------------------------------------------------------------------------------------- pools


def test_a_video_of_a_pool_covers_the_whole_duration_at_a_usual_rate(weights: Path) -> None:
    codec = load_module(weights / "video_vae.safetensors", "video-vae")
    clips, bucket = Videos(0, "dev"), Bucket(16, 32, 3)
    path = weights / "video_vae.safetensors"
    found = pool(codec, path, clips, bucket, 6, torch.device("cpu"))
    assert found.latents.shape == (6, 3, 12, 2, 4) and found.latents.dtype == np.float16
    for row in range(6):
        clip = clips.video(int(found.index["video"][row]))
        seconds = found.seconds(row)
        assert seconds[0] == 0 and seconds[-1] == pytest.approx(clip.seconds)
        assert 5 <= 8 / clip.seconds <= 25
        camera = found.camera(row)
        assert camera[0, :2].tolist() == [0.5, 0.5] and camera[0, 2:].abs().max() < 1e-6
        x, y, zoom, angle = clip.camera.at(1.0)
        assert camera[-1].tolist() == pytest.approx([x, y, np.log(zoom), np.radians(angle)])
        top, left = float(found.index["top"][row]), float(found.index["left"][row])
        assert left == 0 and 0 <= top <= 0.5
        for t in (0.0, 0.5, 1.0):  # all objects are in the window's height
            for item in clip.at(t).objects:
                half = sprites.half(item)[1]
                assert top - 0.04 <= item.y - half and item.y + half <= top + 0.54
        # The last keyframe is the picture at the end.
        pixels = frames(clip, bucket, top, left)
        assert pixels.shape == (9, 3, 16, 32)
        with torch.inference_mode():
            z = codec.image.encode(pixels[-1:])[0]
        assert torch.allclose(torch.tensor(found.latents[row, -1, :4]).float(), z, atol=0.1)
    again = pool(codec, path, clips, bucket, 6, torch.device("cpu"))
    assert (again.latents == found.latents).all()


# --------------------------------------------------------------------------------- transformer


def test_given_frames_have_no_loss_and_almost_no_noise() -> None:
    t, given = frame_times(4000, 5, torch.Generator().manual_seed(0))
    assert t.shape == given.shape == (4000, 5, 2)
    assert t[given].max() <= REST and (t[given] == 0).float().mean() > 0.3
    assert t[~given].min() > 0 and t.max() < 1
    assert (~given).flatten(1).any(1).all(), "something is left to learn"
    some = given.flatten(1).any(1)
    assert 0.27 < some.float().mean() < 0.33
    one = (t == t[:, :1, :1]).flatten(1).all(1)
    assert 0.47 < one.float().mean() < 0.53
    first = given[some][:, 0].all(1) & ~given[some][:, 1:].flatten(1).any(1)
    assert abs(first.float().mean() - GIVEN["first"] / sum(GIVEN.values())) < 0.06
    assert not frame_times(100, 1, torch.Generator())[1].any(), "a picture is never given"


@pytest.mark.slow
@pytest.mark.usefixtures("small")
def test_a_batch_is_a_function_of_the_step_and_of_one_bucket(weights: Path) -> None:
    task = VideoFlowTask(video_recipe(weights), torch.device("cpu"), silent)
    shapes = set()
    for step in range(12):
        batch, again = task.batch(step), task.batch(step)
        assert torch.equal(batch.latents, again.latents)
        assert torch.equal(batch.tokens.ids, again.tokens.ids)
        b, f = batch.latents.shape[:2]
        assert batch.seconds.shape == (b, f) and batch.camera.shape == (b, f, 4)
        shapes.add(tuple(batch.latents.shape[1:]))
        loss, metrics = task.loss(batch, torch.Generator().manual_seed(step), 0.0)
        assert loss.isfinite() and metrics.keys() == {"pictures" if f == 1 else "videos"}
    assert shapes == {(5, 12, 2, 2), (3, 12, 2, 4), (1, 12, 16, 16)}


@pytest.mark.slow
@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("family", ["video-vae", "video"])
def test_two_and_two_steps_equal_four_bit_for_bit(
    family: str, weights: Path, tmp_path: Path
) -> None:
    recipe = {"video-vae": vae_recipe, "video": video_recipe}[family](weights)
    assert train(recipe, tmp_path / "parts", until=2, echo=quiet) is None
    parts = train(recipe, tmp_path / "parts", echo=quiet)
    whole = train(recipe, tmp_path / "whole", echo=quiet)
    assert parts is not None and whole is not None and parts.read_bytes() and whole.exists()
    one, two = (load_module(path, family).state_dict() for path in (parts, whole))
    for name, value in one.items():
        assert torch.equal(value, two[name]), name
    if family == "video":
        assert read_process(whole) == {"schedule": "flow", "prediction": "x0"}


@pytest.mark.slow
def test_it_overfits_two_videos() -> None:
    """A dot that goes right or left, by its caption; samples end at the right one."""
    torch.manual_seed(0)
    x0 = torch.zeros(2, 3, 6, 4, 4)
    for k in range(3):
        x0[0, k, :, 1, k] = 2.0
        x0[1, k, :, 1, 3 - k] = 2.0
    sizes = SIZES | {"width": 64, "depth": 2, "fine": 32, "channels": 4}
    net = video_dit.VideoDiT(video_dit.Config(**sizes, motion=2))
    ids = torch.tensor([[11, 12], [11, 13]])
    tokens = Tokens(ids.repeat(8, 1), torch.ones(16, 2, dtype=torch.bool))
    optimizer = torch.optim.AdamW(net.parameters(), 3e-3, weight_decay=0.0)
    rng = torch.Generator().manual_seed(0)
    for step in range(250):
        optimizer.param_groups[0]["lr"] = 3e-3 * min(1, (250 - step) / 100)
        t, given = frame_times(16, 3, rng)
        time = t.repeat_interleave(torch.tensor([4, 2]), -1)[..., None, None]
        batch = x0.repeat(8, 1, 1, 1, 1)
        x_t = (1 - time) * batch + time * torch.randn(batch.shape, generator=rng)
        error = (net(x_t, t, Cond(tokens)) - batch).square() * (
            1 - given.float()
        ).repeat_interleave(torch.tensor([4, 2]), -1)[..., None, None]
        optimizer.zero_grad()
        (error / time.clamp(min=0.05) ** 2).mean().backward()
        optimizer.step()
    cond = Cond(Tokens(ids, torch.ones(2, 2, dtype=torch.bool)))
    denoise = guide(Denoiser(net, Flow()), cond)
    x = torch.randn(x0.shape, generator=rng)
    with torch.no_grad():
        for state in sample(denoise, x, times(12), SAMPLERS["euler"]):
            x = state.x
    assert (x - x0).square().mean() < 0.1 * (x0[0] - x0[1]).square().mean()


# ----------------------------------------------------------------------------- recaption ablation


class Blind:
    """A verifier that detects nothing."""

    def look(self, pixels: torch.Tensor) -> list[Observation]:
        return [Observation(())] * len(pixels)


@pytest.mark.slow
def test_the_ablation_trains_each_arm_on_its_captions_and_scores_it_on_both_kinds_of_prompts(
    weights: Path, small: None, tmp_path: Path
) -> None:
    start = video_dit.VideoDiT.inflate(load_module(weights / "dit.safetensors", "flow"))
    half = tmp_path / "half.safetensors"
    save_weights(half, start, "video", start.config, {})
    recipe = video_recipe(weights, seed=7)
    captions, world = tmp_path / "captions.jsonl", Videos(7)
    texts = [json.dumps({"en": f"told {i}", "hi": f"told {i}"}) for i in range(400)]
    captions.write_text("\n".join([json.dumps(recaptions.about(world, {})), *texts, ""]))
    with pytest.raises(KalpanaError, match="arm 'loud' is not one of noisy, short"):
        arms_of(recipe, half, captions, ["loud"], 1)
    with pytest.raises(KalpanaError, match="captioner needs captions_file"):
        arms_of(recipe, half, None, ["captioner"], 1)
    recipes = arms_of(recipe, half, captions, ["captioner", "true"], 1)
    for arm, each in recipes.items():
        task = VideoFlowTask(each, torch.device("cpu"), silent)
        assert task.describe(3, 0) == ("told 3" if arm == "captioner" else world.describe(3, 0)[0])
    prompts = [
        VideoPrompt(*world.describe(i)[:2], world.video(i).event, world.video(i), "", i)
        for i in range(60)
        if world.video(i).event == "bounce"
    ][:2]
    out, drawing = tmp_path / "out", Drawing("16x16", fps=5, steps=1)
    quietly = lambda label: silent  # noqa: E731
    table = ablation(recipes, prompts, Blind(), drawing, out, quietly, "cpu", quiet)
    rows = [line.split(" | ")[:2] for line in table.splitlines()[2:]]
    arms = ("captioner", "true")
    assert rows == [[f"| {arm}", kind] for arm in arms for kind in ("short", "expanded")]
    assert (out / "report.md").read_text() == table and "| 0.0" in table
    videos = sorted((out / "true" / "short").glob("*.webp"))
    assert len(videos) == 2
    written = [video.stat().st_mtime_ns for video in videos]
    trained = (out / "true" / "run" / "log.jsonl").read_bytes()
    assert ablation(recipes, prompts, Blind(), drawing, out, quietly, "cpu", quiet) == table
    assert [video.stat().st_mtime_ns for video in videos] == written, "finished videos are kept"
    assert (out / "true" / "run" / "log.jsonl").read_bytes() == trained, "finished arms are kept"
