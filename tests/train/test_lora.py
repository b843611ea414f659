"""Training of an adapter on a folder of pictures, and its use."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from kalpana import caption, generate, replay
from kalpana.cli import app
from kalpana.families import FAMILIES
from kalpana.hub.adapters import merge
from kalpana.hub.card import write_hashes
from kalpana.hub.weights import load_module, metadata, save_weights
from kalpana.media import to_images
from kalpana.models import dalle, vqgan
from kalpana.models.dalle import DALLE
from kalpana.models.dit import DiT
from kalpana.models.vqgan import VQGAN
from kalpana.pipelines import load
from kalpana.request import ask
from kalpana.train.loop import train
from kalpana.train.lora import LoRARecipe, LoRATask, pictures_of
from kalpana.train.recipe import make_recipe, read_recipe
from kalpana.types import KalpanaError


@pytest.fixture(autouse=True)
def few_held_out(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("flow", "diffusion"):
        monkeypatch.setattr(f"kalpana.train.{module}.HELD_OUT", 8)
    monkeypatch.setattr("kalpana.train.lora.CROPS", 4)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    folder = tmp_path / "data"
    folder.mkdir()
    for k, color in enumerate(("red", "orange")):
        Image.new("RGB", (150, 128), color).save(folder / f"IMG_{k}.png")
    return folder


@pytest.fixture
def fresh(folder: Path, tmp_path: Path) -> Path:
    """A tiny model whose network was not trained, and predicts about 0."""
    copy = tmp_path / "fresh"
    shutil.copytree(folder, copy)
    config = load_module(copy / "dit.safetensors", "flow").config
    torch.manual_seed(0)
    save_weights(copy / "dit.safetensors", DiT(config), "flow", config, {})
    write_hashes(copy)
    return copy


@pytest.fixture
def captioner_folder(tmp_path: Path) -> Path:
    """Folder of a tiny DALL-E with random weights."""
    torch.manual_seed(0)
    net = DALLE(dalle.Config(width=32, depth=1, heads=2, length=8, codes=20, rows=4, columns=4))
    codec = VQGAN(
        vqgan.Config(stem=4, widths=(8, 16), depth=1, groups=4, latent=8, codebook=(20, 4))
    )
    for parameter in net.parameters():  # the heads of an untrained one give equal logits
        torch.nn.init.normal_(parameter, std=0.3)
    place = tmp_path / "captioner"
    save_weights(place / "dalle.safetensors", net, "dalle", net.config, {})
    save_weights(place / "vqgan.safetensors", codec, "vqgan", codec.config, {})
    write_hashes(place)
    return place


def recipe(folder: Path, data: Path, **fields: Any) -> LoRARecipe:
    settings = {"name": "l", "family": "lora", "vae": folder / "vae.safetensors", "data": data}
    settings |= {"image_model": folder / "dit.safetensors", "word": "zorb", "num_images": 8}
    settings |= {"steps": 20, "batch": 4, "lr": 3e-2, "bf16": False, "warmup": 1}
    made = make_recipe(settings | fields)
    assert isinstance(made, LoRARecipe)
    return made


def test_captions_come_from_files_names_and_the_word(tmp_path: Path) -> None:
    names = {
        "IMG_2024-01-02.png": "zorb", "17.png": "zorb", "a zorb_on_a-sofa 2.png":
        "a zorb on a sofa", "on grass.JPG": "zorb, on grass", "photo (3).png": "zorb",
        "लाल सेब.png": "zorb, लाल सेब", "x.png": "two zorbs\u2014seen from above",
    }  # fmt: skip
    for name in names:
        Image.new("RGB", (8, 8)).save(tmp_path / name)
    (tmp_path / "x.txt").write_text("two zorbs\u2014seen\nfrom above\n", encoding="utf-8")
    (tmp_path / "notes.md").write_text("no picture")
    pictures, captions = pictures_of(tmp_path, "zorb")
    assert dict(zip(sorted(names), captions, strict=True)) == names
    assert len(pictures) == len(names)


@pytest.mark.slow
def test_a_captioner_writes_the_captions_that_are_missing(
    data: Path, captioner_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Image.new("RGB", (8, 8)).save(data / "a blue mug.png")
    (data / "IMG_1.txt").write_text("my own text")
    command = ["train", "lora", "--data", str(data), "--word", "zorb", "--out", str(tmp_path / "r")]
    command += ["--captioner", str(captioner_folder)]
    monkeypatch.setattr("kalpana.train.loop.train", lambda *_, **__: None)
    done = CliRunner().invoke(app, command)
    (wanted,) = caption(data / "IMG_0.png", "en", str(captioner_folder))
    assert wanted and done.stderr == f"{data / 'IMG_0.txt'}: {wanted}\n"
    assert done.exit_code == 0 and (data / "IMG_1.txt").read_text() == "my own text"
    assert sorted(path.name for path in data.glob("*.txt")) == ["IMG_0.txt", "IMG_1.txt"]
    assert pictures_of(data, "zorb")[1] == [
        f"zorb, {' '.join(wanted.split())}", "zorb, my own text", "zorb, a blue mug"
    ]  # fmt: skip
    again = CliRunner().invoke(app, command)
    assert again.stderr == "warning: --captioner: all pictures have captions\n"
    other = CliRunner().invoke(app, ["train", "flow", "--captioner", str(captioner_folder)])
    assert other.exit_code == 2 and "leave --captioner out" in other.stderr


def test_bad_folders_are_one_line(tmp_path: Path, data: Path, monkeypatch: Any) -> None:
    with pytest.raises(KalpanaError, match="is no folder"):
        pictures_of(tmp_path / "nowhere", "w")
    (tmp_path / "empty").mkdir()
    with pytest.raises(KalpanaError, match="no pictures in"):
        pictures_of(tmp_path / "empty", "w")
    with pytest.raises(KalpanaError, match=r"IMG_0.png has no caption: .*--word"):
        pictures_of(data, "")
    (data / "IMG_0.txt").write_bytes(b"\xff\xfe\x00caf")
    with pytest.raises(KalpanaError, match="no UTF-8"):
        pictures_of(data, "w")
    monkeypatch.setattr("kalpana.train.lora.MOST", 1)
    with pytest.raises(KalpanaError, match="at most 1"):
        pictures_of(data, "w")


def test_a_share_of_the_samples_are_pictures_of_the_world(folder: Path, data: Path) -> None:
    task = LoRATask(recipe(folder, data, prior_share=0.25), torch.device("cpu"), lambda *_: None)
    own, count = 0, 0
    for step in range(8):
        batch = task.batch(step)
        mine = [any((x == each).all() for each in torch.tensor(task.data.own)) for x in batch.x0]
        own, count = own + sum(mine), count + len(mine)
        assert batch.tokens is not None
        zorb = task.data.tokenizer.encode(["zorb"], 8).ids[0]
        assert [bool((row[: len(zorb)] == zorb).all()) for row in batch.tokens.ids] == mine
    assert 0.5 < own / count < 0.95


@pytest.mark.slow
def test_an_adapter_learns_its_pictures_and_steers_the_model(
    fresh: Path, data: Path, tmp_path: Path
) -> None:
    """It is trained, used from a file, scaled, added, replayed, merged, and refused elsewhere."""
    file = train(
        recipe(fresh, data, steps=40, prior_share=0.0), tmp_path / "run", echo=lambda line: None
    )
    assert file is not None and (tmp_path / "run" / "step-000040.png").is_file()
    settings: dict[str, Any] = {"model": str(fresh), "seed": 1, "steps": 4, "guidance": 1}
    plain = generate("zorb", **settings).outputs[0]
    found = generate("zorb", adapter=file, **settings).outputs[0]
    task = LoRATask(recipe(fresh, data), torch.device("cpu"), lambda *_: None)
    decoded = to_images(task.data.decode(torch.tensor(task.data.own).float()))
    colors = [color(picture) for picture in decoded]
    before, after = (
        min(np.abs(color(each.image) - own).max() for own in colors) for each in (plain, found)
    )
    assert after < 0.7 * before
    none = generate("zorb", adapter=f"{file}:0", **settings).outputs[0]
    assert none.image.tobytes() == plain.image.tobytes()
    half = generate("zorb", adapter=[f"{file}:0.5", f"{file.parent}:0.5"], **settings).outputs[0]
    assert distance(half.image, found.image) < 1

    written = found.save(tmp_path / "found.png")
    assert written.path is not None and replay(written.path)[1].bytes
    moved = shutil.move(file, tmp_path / "moved.safetensors")
    with pytest.raises(KalpanaError, match="no longer"):
        replay(written.path)
    assert replay(written.path, [Path(moved)])[1].bytes

    merge(str(fresh), ask("-", adapter=moved).adapter or (), tmp_path / "merged")
    with pytest.raises(KalpanaError, match="merged exists"):
        merge(str(fresh), ask("-", adapter=moved).adapter or (), tmp_path / "merged")
    merged = generate("zorb", **settings | {"model": str(tmp_path / "merged")}).outputs[0]
    assert distance(merged.image, found.image) < 4  # the merged weights are in bf16
    assert distance(plain.image, found.image) > 20


def color(image: Image.Image) -> np.ndarray:
    """The mean colour of a picture."""
    return np.asarray(image, float).mean((0, 1))


def distance(one: Image.Image, two: Image.Image) -> float:
    """Root mean square difference of the pixels."""
    return float(np.square(np.asarray(one, float) - np.asarray(two, float)).mean() ** 0.5)


def test_what_an_adapter_is_for_is_checked(folder: Path, data: Path, tmp_path: Path) -> None:
    file = train(recipe(folder, data, steps=1), tmp_path / "run", echo=lambda line: None)
    assert file is not None
    assert metadata(file)["family"] == "lora" and load_module(file, "lora").config.base == "flow"
    other = tmp_path / "other"
    shutil.copytree(folder, other)
    model = load(str(other))
    model.files["dit.safetensors"] = "0" * 64  # trained for other weights of the same shape
    steps = list(model.generate("zorb", adapter=file, seed=1, steps=1))
    assert steps[-1].result and "other weights" in steps[-1].result.warnings[0]
    for wrong in (folder / "dit.safetensors", data / "IMG_0.png"):
        with pytest.raises(
            KalpanaError, match=r"family 'flow', not 'lora'|damaged.*: give a whole copy"
        ):
            load(str(folder)).generate("zorb", adapter=wrong)
    other_family = FAMILIES["dalle"].capabilities
    assert other_family is not None
    with pytest.raises(KalpanaError, match=r"adapter .*cannot be used by model"):
        other_family.resolve(ask("zorb", adapter=file))
    with pytest.raises(KalpanaError, match=r"adapter\.0 '.*is no file"):
        load(str(folder)).generate("zorb", adapter=tmp_path / "nowhere.safetensors")


def test_an_unfinished_run_and_a_folder_without_an_adapter_say_so(
    folder: Path, data: Path, tmp_path: Path
) -> None:
    train(recipe(folder, data), tmp_path / "run", until=1, echo=lambda line: None)
    for place, message in ((tmp_path / "run", "has not finished"), (data, "no lora.safetensors")):
        with pytest.raises(KalpanaError, match=message):
            load(str(folder)).generate("zorb", adapter=place)


def test_a_word_that_an_adapter_taught_is_known(folder: Path, data: Path, tmp_path: Path) -> None:
    file = train(recipe(folder, data, steps=1), tmp_path / "run", echo=lambda line: None)
    for adapter, unknown in ((None, ["zorb", "flimx"]), (file, ["flimx"])):
        found = generate("a zorb flimx", model=str(folder), adapter=adapter, seed=1, steps=1)
        assert found.outputs[0].receipt["read"]["prompt"]["unknown"] == unknown


def test_the_shipped_recipe_takes_a_folder_and_a_word(data: Path) -> None:
    read = read_recipe("lora", data=data, word="zorb")
    assert isinstance(read, LoRARecipe) and (read.data, read.word) == (data, "zorb")
    with pytest.raises(KalpanaError, match="'word': a field of lora, not of flow"):
        read_recipe("flow", word="zorb")
    with pytest.raises(KalpanaError, match="of shapes: an adapter has a rank"):
        make_recipe(read.model_dump() | {"model": {"shapes": {}}})
