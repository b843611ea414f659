"""Training of the video captioner on four videos until it knows their captions, and then captions
of video files by Python and by the command line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import Generator
from typer.testing import CliRunner, Result

import kalpana
from kalpana import media
from kalpana.cli.main import app
from kalpana.hub.card import write_hashes
from kalpana.hub.weights import load_module, save_weights
from kalpana.media import to_images
from kalpana.models.vqgan import VQGAN, Config
from kalpana.pipelines import video_captions
from kalpana.text.tokenizer import Tokenizer
from kalpana.train import data_cache, recaptions
from kalpana.train.loop import train
from kalpana.train.recipe import make_recipe
from kalpana.train.video_captioner import keyframes
from kalpana.types import KalpanaError
from kalpana.world.video import Videos
from kalpana.world.world import World

SIDE, FRAMES, COUNT = 64, 3, 4
WORLD = Videos(3, "train", SIDE)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sealed folder of a captioner that was trained on four videos, each with one caption."""
    folder = tmp_path_factory.mktemp("teller")
    torch.manual_seed(5)
    vqgan = VQGAN(Config(widths=(8, 8), depth=1, groups=4, latent=8, codebook=(32, 4)))
    pictures = data_cache.floats(data_cache.pictures(World(0), 32), torch.device("cpu"))
    with torch.no_grad():
        vqgan.quantiser.start(vqgan.encode_latents(pictures), Generator().manual_seed(0))  # type: ignore[operator]
    save_weights(folder / "vqgan.safetensors", vqgan, "vqgan", vqgan.config, {})
    grid = SIDE // vqgan.config.factor
    recipe = make_recipe(
        {
            "name": "t", "family": "video-captioner", "vqgan": folder / "vqgan.safetensors",
            "model": {"width": 64, "depth": 2, "heads": 2, "frames": FRAMES, "grid": grid,
                      "patch": grid // 2},
            "seed": 3, "num_videos": COUNT, "steps": 120, "batch": COUNT, "lr": 5e-3, "warmup": 5,
            "ema_decay": 0.8, "optimizer": "muon", "sample_every": 1000,
        }
    )  # fmt: skip
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("kalpana.train.video_captioner.HELD_OUT", COUNT)
        plain = Videos.describe
        patch.setattr(Videos, "describe", lambda self, i, take=0: plain(self, i))
        weights = train(recipe, folder / "run", echo=lambda line: None)
    assert weights is not None
    network = load_module(weights, "video-captioner")
    save_weights(
        folder / "video_captioner.safetensors", network, "video-captioner", network.config, {}
    )
    card = write_hashes(folder)
    assert (card.family, card.tasks) == ("video-captioner", ("caption",))
    return folder


def said(index: int) -> tuple[str, str]:
    """The caption of a video, as the tokenizer spells it, and its language."""
    (text, language, _), words = WORLD.describe(index), Tokenizer.load()
    return words.decode(words.encode([text]).ids[0].tolist()), language


@pytest.fixture
def clips(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the keyframes of video 0 as a lossless WebP, of the video's own duration."""
    monkeypatch.chdir(tmp_path)
    images = to_images(keyframes(WORLD, 0, FRAMES))
    rate = (FRAMES - 1) / WORLD.video(0).seconds
    (tmp_path / "a.webp").write_bytes(media.encode_animation(images, rate, {}, "webp"))
    return tmp_path


def kalpana_(*arguments: str) -> Result:
    return CliRunner().invoke(app, list(arguments))


@pytest.mark.slow
def test_a_captioner_learns_the_captions_of_four_videos_word_for_word(folder: Path) -> None:
    model = video_captions.load(str(folder), "cpu")
    assert model.frames == FRAMES and model.size == (SIDE, SIDE)
    videos = [keyframes(WORLD, i, FRAMES) for i in range(COUNT)]
    captions = [said(i) for i in range(COUNT)]
    seconds = [WORLD.video(i).seconds for i in range(COUNT)]
    assert {language for _, language in captions} == {"en", "hi"}
    assert model.caption_pixels(videos, seconds) == [text for text, _ in captions]
    for video, length, (text, language) in zip(videos, seconds, captions, strict=True):
        assert model.caption_pixels([video], [length], language) == [text]
    assert model.caption([]) == []


@pytest.mark.slow
def test_a_video_file_is_captioned_in_both_languages(folder: Path, clips: Path) -> None:
    own, language = said(0)
    assert kalpana.caption("a.webp", video_model=str(folder)) == [own]
    assert kalpana.caption((clips / "a.webp").read_bytes(), language, video_model=str(folder)) == [
        own
    ]
    done = kalpana_("caption", "a.webp", "--video-model", str(folder))
    lines = done.stdout.splitlines()
    assert done.exit_code == 0 and len(lines) == 2 and f"a.webp: {own}" in lines
    done = kalpana_(
        "caption", "a.webp", "a.webp", "--video-model", str(folder), "--language", language
    )
    assert done.stdout == f"a.webp: {own}\n" * 2
    done = kalpana_("caption", "a.webp", "--video-model", str(folder), "--json")
    (found,) = json.loads(done.stdout)
    assert found["path"] == "a.webp" and [*found["captions"]] == ["en", "hi"]
    assert found["captions"][language] == own


@pytest.mark.slow
def test_what_cannot_be_captioned_is_told_in_a_line(
    folder: Path, clips: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (clips / "bad.mp4").write_bytes(b"no video")
    teller = ("--video-model", str(folder))
    done = kalpana_("caption", "a.webp", "bad.mp4", "gone.mp4", *teller)
    assert done.exit_code == 1 and len(done.stdout.splitlines()) == 2
    bad, gone = done.stderr.splitlines()
    assert bad.startswith("not read: bad.mp4: it is no video, or a damaged one")
    assert gone == "not read: gone.mp4: No such file or directory"
    for arguments, message in (
        (("a.webp", *teller, "--language", "fr"), "does not speak 'fr': write en or hi"),
        (("a.webp", "--video-model", "dalle"), "is of family 'dalle', which captions no videos"),
        (("a.webp", "--video-model", "ghost"), "there is no model 'ghost'"),
        (("a.webp",), "captions of videos need the weights of a video captioner"),
    ):
        if arguments == ("a.webp",):  # an installation without the captioner
            monkeypatch.setattr("kalpana.pipelines.video_captions.model_folders", dict)
        done = kalpana_("caption", *arguments)
        assert done.exit_code == 2 and done.stdout == "" and message in done.stderr
        assert len(done.stderr.splitlines()) == 1
    with pytest.raises(KalpanaError, match="weights pull video-captioner"):
        kalpana.caption("a.webp")


@pytest.mark.slow
def test_caption_accuracy_of_a_captioner_is_a_table(folder: Path) -> None:
    done = kalpana_("evaluate", "captions", str(folder), "--limit", "2", "--dev")
    assert done.exit_code == 0 and "| en | the model |" in done.stdout
    assert done.stdout.splitlines()[0].endswith("| things | colours | event | direction | camera |")


@pytest.mark.slow
def test_training_videos_are_captioned_into_a_file_that_training_reads(
    folder: Path, tmp_path: Path
) -> None:
    path = tmp_path / "captions.jsonl"
    asked = ["world", "recaption", "--out", str(path), "--seed", "3", "--device", "cpu"]
    for count in (2, COUNT):  # the second time it goes on
        done = kalpana_(*asked, "--videos", str(count), "--video-model", str(folder))
        assert done.exit_code == 0 and done.stdout == f"{path}\n", done.stderr
    found = recaptions.read(path)
    assert len(found.texts) == COUNT and set(found.about["model"]) == {
        "name", "video_captioner.safetensors", "vqgan.safetensors",
    }  # fmt: skip
    for i, texts in enumerate(found.texts):
        text, language = said(i)
        assert texts[language] == text
    recaptions.check(found, path, Videos(3), range(COUNT))
