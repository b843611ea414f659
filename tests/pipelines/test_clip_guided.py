"""VQGAN+CLIP behind the Pipeline interface: a request gives the same picture as a direct call of
``vqgan_clip``."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch

from kalpana.hub.card import Card, read_card, write_card, write_hashes
from kalpana.hub.weights import save_weights
from kalpana.media import save
from kalpana.models import vqgan
from kalpana.pipelines import last, load
from kalpana.pipelines.clip_guided import TextByClip
from kalpana.pipelines.image_parameters import load_canvas
from kalpana.pipelines.replay import again, compare
from kalpana.pipelines.vqgan_clip import Prompt, Settings, vqgan_clip
from kalpana.types import KalpanaError
from kalpana.understand.encoder import Encoder


@pytest.fixture
def by_clip(tmp_path: Path, clip_folder: Path) -> Path:
    """The folder of a model with its own CLIP and VQGAN."""
    folder = tmp_path / "asker"
    torch.manual_seed(0)
    network = vqgan.VQGAN(
        vqgan.Config(widths=(8, 16), depth=1, groups=4, latent=8, codebook=(32, 4))
    )
    save_weights(folder / "vqgan.safetensors", network, "vqgan", network.config, {})
    shutil.copytree(clip_folder, folder / "clip")
    write_card(folder, Card(name="asker", family="vqgan-clip", tasks=("text-to-image",)))
    write_hashes(folder)
    return folder


@pytest.mark.slow
def test_a_request_is_drawn_as_by_vqgan_clip_and_again_from_its_receipt(
    by_clip: Path, ranker: Encoder, tmp_path: Path
) -> None:
    pipeline = load(str(by_clip))
    assert isinstance(pipeline, TextByClip)
    fields = {"steps": 3, "seeds": (5, 9), "negative_prompt": "fog", "model": str(by_clip)}
    steps = list(pipeline.generate("a red castle | a moon:0.5", **fields))
    assert [step.index for step in steps] == list(range(1, 7)) and {
        step.total for step in steps
    } == {6}
    result = last(iter(steps))
    prompts = Prompt("a red castle"), Prompt("a moon", 0.5), Prompt("fog", -1)
    canvas = load_canvas("vqgan", by_clip)
    for picture in result.outputs:
        direct = last(
            vqgan_clip(prompts, ranker, canvas, Settings(steps=3, flip=0), picture.seed)
        ).outputs[0]
        assert picture.image.tobytes() == direct.image.tobytes()
        assert picture.image.size == (128, 128)
    assert result.outputs[0].image.tobytes() != result.outputs[1].image.tobytes()
    path = save(result.outputs[1].image, tmp_path / "castle.png", result.outputs[1].receipt)
    replayed = last(again(pipeline, result.outputs[1].receipt)).outputs[0]
    assert compare(path, replayed).pixels


def test_its_card_counts_and_hashes_what_it_draws_with(by_clip: Path, clip_folder: Path) -> None:
    card, clip_card = read_card(by_clip), read_card(clip_folder)
    assert set(card.files) == {"vqgan.safetensors", "clip.safetensors"}
    assert (
        card.files["clip.safetensors"] == clip_card.files["clip.safetensors"]
        and card.parameters > clip_card.parameters
    )


def test_what_it_cannot_do_and_what_is_missing_is_said(
    by_clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipeline = load(str(by_clip))
    for fields, message in (
        ({"guidance": 3.0}, "guidance 3.0 cannot be used"),
        ({"temperature": 2.0}, "temperature 2.0 cannot be used"),
        ({"size": "64x64"}, "it knows 128x128"),
        ({"best_of": 2}, "needs a CLIP to rank by"),
    ):
        with pytest.raises(KalpanaError, match=message):
            pipeline.generate("a castle", **fields)
    with pytest.raises(KalpanaError, match="ends in a colon"):
        last(pipeline.generate("a castle:", steps=1))
    shutil.rmtree(by_clip / "clip")
    monkeypatch.setattr("kalpana.hub.card.weights_dir", lambda: tmp_path)
    with pytest.raises(KalpanaError, match="asks a CLIP, and none comes with"):
        load(str(by_clip))
