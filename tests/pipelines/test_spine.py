"""Three toy families use the whole spine, each with one file (network, data, task and recipe), one
entry in the registry, and nothing else. A class-conditional network with v on a cosine schedule, a
network of videos, and one with a control map are trained by the one loop, sample through
DiffusionPipeline, stream previews, save and replay.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from kalpana.capabilities import Capabilities, Defaults
from kalpana.families import FAMILIES, Family
from kalpana.hub.card import Card, write_card, write_hashes
from kalpana.hub.weights import read_process, save_weights
from kalpana.media import read_receipt, to_pixels
from kalpana.pipelines import load
from kalpana.pipelines.pipeline import Pipeline
from kalpana.pipelines.replay import again, replay
from kalpana.train.loop import train
from kalpana.train.recipe import read_recipe
from kalpana.types import KalpanaError, Output, Step, Video

PIPELINE = "kalpana.pipelines.diffusion:DiffusionPipeline"
COMMON = ("steps", "guidance", "sampler", "size")
TOYS = (
    Family("toy-pixels", "toys.pixels:Pixels", "pixels.safetensors"),
    Family("toy-frames", "toys.frames:FrameCodec", "frames.safetensors"),
    Family(
        "toy-unet",
        "toys.unet:ToyUNet",
        "unet.safetensors",
        "toys.unet:ToyUNetTask",
        "toys.unet:ToyUNetRecipe",
        PIPELINE,
        capabilities=Capabilities(
            uses=(*COMMON, "label", "image", "mask", "strength"),
            sizes=("16x16",),
            tiles=8,
            labels=("cat", "dog", "car"),
            defaults=Defaults(steps=3, guidance=2, size="16x16", strength=0.5),
        ),
        codec="toy-pixels",
    ),
    Family(
        "toy-video",
        "toys.video:ToyVideo",
        "video.safetensors",
        "toys.video:ToyVideoTask",
        "toys.video:ToyVideoRecipe",
        PIPELINE,
        capabilities=Capabilities(
            uses=("prompt", "negative_prompt", *COMMON, "seconds", "fps"),
            sizes=("16x16",),
            defaults=Defaults(steps=3, guidance=2, size="16x16", seconds=0.5, fps=8),
        ),
        codec="toy-frames",
    ),
    Family(
        "toy-control",
        "toys.control:ToyControl",
        "control.safetensors",
        "toys.control:ToyControlTask",
        "toys.control:ToyControlRecipe",
        PIPELINE,
        capabilities=Capabilities(
            uses=("prompt", "negative_prompt", *COMMON, "control"),
            sizes=("16x16",),
            controls=("edges",),
            defaults=Defaults(steps=3, guidance=2, size="16x16"),
        ),
        codec="toy-pixels",
    ),
)
PROCESS = {
    "toy-unet": {"schedule": "cosine", "prediction": "v"},
    "toy-video": {"schedule": "flow", "prediction": "flow"},
    "toy-control": {"schedule": "cosine", "prediction": "eps"},
}


@pytest.fixture
def toys(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(Path(__file__).parents[1])
    for family in TOYS:
        monkeypatch.setitem(FAMILIES, family.name, family)


def make(name: str, folder: Path) -> Pipeline:
    """A model of a toy family with random weights, saved as a trained one and loaded."""
    family = FAMILIES[name]
    assert family.codec is not None
    torch.manual_seed(0)
    for each in (family, FAMILIES[family.codec]):
        network: nn.Module = each.build()
        for parameter in network.parameters():
            nn.init.normal_(parameter, std=0.1)
        config: Any = network.config
        save_weights(folder / each.file, network, each.name, config, {}, PROCESS.get(each.name))
    write_card(folder, Card(name=name, family=name, tasks=("text-to-image",)))
    write_hashes(folder)
    return load(str(folder), "cpu")


def trained(name: str, folder: Path, steps: int = 100) -> Pipeline:
    """A model of a toy family, trained from a recipe file, with its codec and card; loaded."""
    family = FAMILIES[name]
    assert family.codec is not None
    path = folder / "recipe.yaml"
    path.write_text(
        f"name: toy\nfamily: {name}\nsteps: {steps}\nbatch: 16\nlr: 0.01\nwarmup: 0\nbf16: false\n"
        "ema_decay: 0.9\nsave_every: 1000\n"
    )
    weights = train(read_recipe(path), folder, device="cpu", echo=lambda line: None)
    assert weights == folder / family.file and read_process(weights) == PROCESS[name]
    codec, file = FAMILIES[family.codec].build(), FAMILIES[family.codec].file
    save_weights(folder / file, codec, family.codec, codec.config, {})
    write_card(folder, Card(name=name, family=name, tasks=family.tasks))
    write_hashes(folder)
    return load(str(folder), "cpu")


@pytest.mark.slow
def test_a_class_conditional_network_learns_its_classes(toys: None, tmp_path: Path) -> None:
    model = trained("toy-unet", tmp_path)
    for k, label in enumerate(("cat", "dog", "car")):
        _, output = stream(model, tmp_path, label=label, steps=10)
        assert np.asarray(output.image).mean((0, 1)).argmax() == k
    path = output.save(tmp_path / "car.png").path
    assert path is not None and replay(path)[1].bytes


@pytest.mark.slow
def test_a_video_network_learns_its_captions(toys: None, tmp_path: Path) -> None:
    model = trained("toy-video", tmp_path)
    means = dict[str, float]()
    for word in ("day", "night"):
        *_, last = model.generate(word, model=str(tmp_path), seed=1, steps=10, guidance=1)
        assert last.result is not None and isinstance(last.result.outputs[0].media, Video)
        pixels = to_pixels(last.result.outputs[0].media.frames)
        codec: Any = model.codec  # type: ignore[attr-defined]
        means[word] = codec.encode(pixels[None]).mean().item()
    assert means["day"] > 0.1 > -0.1 > means["night"]
    path = last.result.outputs[0].save(tmp_path / "night.webp").path
    assert path is not None and replay(path)[1].pixels


@pytest.mark.slow
def test_a_network_with_a_control_map_learns_to_follow_it(toys: None, tmp_path: Path) -> None:
    model = trained("toy-control", tmp_path)
    edges = Image.new("RGB", (16, 16))
    edges.paste((255, 255, 255), (0, 0, 5, 16))
    edges.save(tmp_path / "edges.png")
    *_, last = model.generate(
        "a map", model=str(tmp_path), seed=1, control=f"edges={tmp_path / 'edges.png'}", steps=10
    )
    assert last.result is not None
    output = last.result.outputs[0]
    white, black = (np.asarray(output.image)[:, part].mean() for part in (slice(5), slice(5, 16)))
    assert white > black + 100
    path = output.save(tmp_path / "map.png").path
    assert path is not None and replay(path)[1].bytes


def stream(model: Pipeline, folder: Path, **fields: Any) -> tuple[list[Step], Output]:
    steps = list(model.generate("", model=str(folder), seed=1, **fields))
    assert steps[-1].result is not None
    (output,) = steps[-1].result.outputs
    return steps, output


def test_a_class_conditional_network_with_v_on_a_cosine_schedule(
    toys: None, tmp_path: Path
) -> None:
    model = make("toy-unet", tmp_path)
    steps, output = stream(model, tmp_path, label="dog")
    assert [step.index for step in steps] == [1, 2, 3, 4]
    assert all(
        step.preview is not None and step.preview.shape == (1, 3, 16, 16) for step in steps[:-1]
    )
    assert output.image.tobytes() != stream(model, tmp_path, label="cat")[1].image.tobytes()
    path = output.save(tmp_path / "dog.png").path
    assert path is not None
    *_, last = again(model, read_receipt(path))
    assert (
        last.result is not None and last.result.outputs[0].image.tobytes() == output.image.tobytes()
    )
    for fields, message in (
        ({"label": "cow"}, r"label 'cow' cannot be used .*: it knows cat, dog, car"),
        ({"label": "dog", "control": "edges=x.png"}, "control"),
        ({"label": "dog", "seconds": 1}, "seconds 1.0 cannot be used"),
    ):
        with pytest.raises(KalpanaError, match=message):
            model.generate("", model=str(tmp_path), **fields)
    with pytest.raises(KalpanaError, match="prompt 'a dog' cannot be used"):
        model.generate("a dog", model=str(tmp_path), label="dog")
    assert stream(model, tmp_path, label="dog", size="32x24")[1].image.size == (32, 24)


def test_a_video_network(toys: None, tmp_path: Path) -> None:
    model = make("toy-video", tmp_path)
    steps = list(model.generate("a car", model=str(tmp_path), seed=1, n=2))
    assert steps[0].preview is not None and steps[0].preview.shape == (2, 4, 3, 16, 16)
    assert steps[-1].result is not None
    first, second = steps[-1].result.outputs
    assert isinstance(first.media, Video) and isinstance(second.media, Video)
    assert (len(first.media.frames), first.media.fps) == (4, 8)
    alone = list(model.generate("a car", model=str(tmp_path), seed=2))[-1].result
    assert alone is not None and isinstance(alone.outputs[0].media, Video)
    frames = [frame.tobytes() for frame in alone.outputs[0].media.frames]
    assert frames == [frame.tobytes() for frame in second.media.frames]
    *_, last = again(model, second.receipt)
    assert last.result is not None and isinstance(last.result.outputs[0].media, Video)
    assert frames == [frame.tobytes() for frame in last.result.outputs[0].media.frames]
    longer = list(model.generate("a car", model=str(tmp_path), seconds=1, fps=6))[-1].result
    assert longer is not None and isinstance(longer.outputs[0].media, Video)
    assert (len(longer.outputs[0].media.frames), longer.outputs[0].media.fps) == (6, 6)


def test_a_network_with_a_control_map(toys: None, tmp_path: Path) -> None:
    model = make("toy-control", tmp_path)
    edges = Image.new("RGB", (16, 16))
    edges.paste((255, 255, 255), (0, 8, 16, 16))
    edges.save(tmp_path / "edges.png")

    def pixels(**fields: Any) -> np.ndarray:
        *_, last = model.generate("a car", model=str(tmp_path), seed=1, **fields)
        assert last.result is not None
        return np.asarray(last.result.outputs[0].image).astype(int)

    without, full = pixels(), pixels(control=f"edges={tmp_path / 'edges.png'}")
    half = pixels(control=f"edges={tmp_path / 'edges.png'}:0.5")
    assert not np.array_equal(without, full) and not np.array_equal(half, full)

    def window(**bounds: float) -> np.ndarray:
        return pixels(control=[{"kind": "edges", "image": tmp_path / "edges.png", **bounds}])

    assert np.array_equal(window(start=1.0), without)  # t is never 0 in the sampling
    first = window(end=0.5)
    assert not np.array_equal(first, without) and not np.array_equal(first, full)
    *_, last = model.generate(
        "a car", model=str(tmp_path), seed=1, control=f"edges={tmp_path / 'edges.png'}"
    )
    assert last.result is not None
    path = last.result.outputs[0].save(tmp_path / "car.png").path
    assert path is not None
    (tmp_path / "edges.png").rename(tmp_path / "moved.png")
    with pytest.raises(KalpanaError, match=r"edges\.png .* is no longer at"):
        list(again(model, read_receipt(path)))
    *_, last = again(model, read_receipt(path), [tmp_path / "moved.png"])
    assert last.result is not None and np.array_equal(
        np.asarray(last.result.outputs[0].image), full
    )
    with pytest.raises(
        KalpanaError, match=r"control pose cannot be used .*: it knows edges, not pose"
    ):
        model.generate("a car", model=str(tmp_path), control=f"pose={tmp_path / 'moved.png'}")
