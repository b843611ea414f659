"""The class-conditional pixel model: its data, its training, and requests to a trained folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from kalpana.families import FAMILIES
from kalpana.hub.card import read_card, write_hashes
from kalpana.hub.weights import read_process
from kalpana.media import read_receipt
from kalpana.pipelines import load
from kalpana.pipelines.diffusion import DiffusionPipeline
from kalpana.pipelines.replay import again
from kalpana.pipelines.trace import trace
from kalpana.request import ask
from kalpana.train.data_cache import silent
from kalpana.train.loop import train
from kalpana.train.pixels import ClassData, ClassScenes, PixelRecipe, PixelTask
from kalpana.train.recipe import check_recipe, read_recipe
from kalpana.types import KalpanaError, Output
from kalpana.understand import encoder
from kalpana.world.classes import CLASSES, class_of
from kalpana.world.lexicon import lexicon

MODEL: dict[str, Any] = {
    "block_out_channels": (16, 32), "norm_num_groups": 8, "attention_head_dim": 2,
    "layers_per_block": 1, "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
}  # fmt: skip
COMMON: dict[str, Any] = {
    "name": "p", "num_images": 80, "steps": 3, "batch": 8, "lr": 2e-3, "warmup": 1,
    "bf16": False, "model": MODEL,
}  # fmt: skip


@pytest.fixture(autouse=True)
def few_held_out(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("pixels", "diffusion"):
        monkeypatch.setattr(f"kalpana.train.{module}.HELD_OUT", 8)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> DiffusionPipeline:
    """A model trained for three steps, sealed and loaded."""
    folder = tmp_path_factory.mktemp("model")
    with pytest.MonkeyPatch.context() as patch:
        for module in ("pixels", "diffusion"):
            patch.setattr(f"kalpana.train.{module}.HELD_OUT", 8)
        run = train(PixelRecipe(**COMMON), folder / "run", device="cpu", echo=lambda line: None)
    assert run == folder / "run/pixel_unet.safetensors"
    path = run.rename(folder / run.name)
    assert read_process(path) == {"schedule": "linear", "prediction": "eps"}
    card = write_hashes(folder)
    assert card.family == "pixel-unet" and list(read_card(folder).files) == [path.name]
    loaded = load(str(folder), "cpu")
    assert isinstance(loaded, DiffusionPipeline)
    # The last layer starts at 0: a network of three steps hardly tells the classes apart.
    torch.manual_seed(0)
    torch.nn.init.normal_(loaded.network.class_embedding.weight, std=5.0)  # type: ignore[attr-defined]
    torch.nn.init.normal_(loaded.network.conv_out.weight, std=0.2)  # type: ignore[attr-defined]
    return loaded


def one(model: DiffusionPipeline, prompt: str = "", **fields: Any) -> Output:
    *_, last = model.generate(prompt, **{"seed": 3, "steps": 4} | fields)
    assert last.result is not None
    return last.result.outputs[0]


def test_the_classes_are_the_core_concepts() -> None:
    assert tuple(each.en for each in lexicon().values() if each.core) == CLASSES
    assert FAMILIES["pixel-unet"].capabilities.labels == CLASSES  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("text", "label"),
    [
        ("cat", "cat"), ("Cat ", "cat"), ("बिल्ली", "cat"), ("25", "cat"), ("tangerine", "orange"),
        ("०", "apple"), ("80", None), ("a cat", None), ("cats", None), ("", None), ("-1", None),
    ],
)  # fmt: skip
def test_a_class_has_several_names(text: str, label: str | None) -> None:
    assert class_of(text, CLASSES) == label
    assert class_of(text, ("dog",)) is None or text == "०"


def test_data_are_single_objects_of_their_class() -> None:
    scenes = [ClassScenes(0, "train")(i) for i in (25, 105, 24)]
    for scene, name in zip(scenes, ("cat", "cat", "dog"), strict=True):
        (group,), (item,) = scene.groups, scene.objects
        assert lexicon()[group.concept].en == name
        assert scene.style == "fluent-emoji-flat" and item.color == group.color
        assert abs(item.x - 0.5) <= 0.06 and 0.7 <= item.size <= 0.9
    assert scenes[0] != scenes[1] and ClassScenes(0, "train")(25) == scenes[0]
    assert ClassScenes(0, "dev")(25) != scenes[0] != ClassScenes(1, "train")(25)


def test_a_batch_holds_pictures_and_their_classes() -> None:
    data = ClassData(PixelRecipe(**COMMON), silent)
    batch = data.batch(0)
    assert batch.label is not None and batch.x0.shape == (8, 3, 32, 32)
    assert batch.x0.min() >= -1 and batch.x0.max() <= 1 and batch.x0.std() > 0.2
    for pixels, label in zip(batch.x0, batch.label, strict=True):
        assert np.array_equal(pixels, (torch.tensor(data.train[int(label)]) / 127.5 - 1).numpy())


@pytest.mark.slow
def test_it_learns_a_few_classes() -> None:
    """The error with the right class falls below that with another one and without."""
    recipe = PixelRecipe(**COMMON | {"num_images": 4, "batch": 16, "caption_dropout": 0.2})
    torch.manual_seed(0)
    task = PixelTask(recipe, torch.device("cpu"), silent)
    optimizer = torch.optim.Adam(task.model.parameters(), 4e-3)
    for step in range(150):
        value, _ = task.loss(task.batch(step), torch.Generator().manual_seed(step), 0.0)
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
    batch = task.batch(0)
    eps = torch.randn(batch.x0.shape, generator=torch.Generator().manual_seed(9))
    t = torch.full((16,), 0.3)

    @torch.no_grad()
    def error(shift: int, null: bool) -> float:
        cond = task.cond(batch, torch.full((16,), null))
        other = (batch.label + shift) % 4  # type: ignore[operator]
        cond = type(cond)(label=other, null=cond.null)
        return float(task._error(batch.x0, t, eps, cond)[0].mean())

    assert error(0, False) < 0.5
    assert error(0, False) < min(error(0, True), *(error(k, False) for k in (1, 2, 3)))


@pytest.mark.slow
def test_a_label_by_name_number_and_prompt_is_the_same_picture(model: DiffusionPipeline) -> None:
    cat = one(model, label="cat")
    assert cat.image.size == (32, 32)
    assert cat.receipt["resolved"]["label"] == "cat"
    for given in ({"label": "25"}, {"label": "बिल्ली"}, {"prompt": "cat"}, {"prompt": "बिल्ली"}):
        assert one(model, **given).image.tobytes() == cat.image.tobytes()
    assert one(model, label="dog").image.tobytes() != cat.image.tobytes()
    assert one(model, label="cat", guidance=4).image.tobytes() != cat.image.tobytes()


@pytest.mark.slow
def test_the_best_of_several_is_ranked_by_the_name_of_the_class(
    model: DiffusionPipeline, clip_folder: Path
) -> None:
    clip = encoder.load(str(clip_folder), "cpu")
    (text,) = clip.texts(["cat"])
    for label in ("25", "बिल्ली", "cat"):
        best = one(model, label=label, best_of=3, rank_by=clip)
        scores = [each["score"] for each in best.receipt["best_of"]["candidates"]]
        assert np.ptp(scores) > 0
        assert max(scores) == pytest.approx((clip.images([best.image])[0] @ text).item(), abs=1e-4)


@pytest.mark.slow
def test_pictures_are_the_same_in_a_batch_and_again(
    model: DiffusionPipeline, tmp_path: Path
) -> None:
    steps = list(model.generate("", label="cat", seed=2, n=2, steps=3))
    assert steps[0].preview is not None and steps[0].preview.shape == (2, 3, 32, 32)
    assert steps[-1].result is not None
    second = steps[-1].result.outputs[1]
    assert second.image.tobytes() == one(model, label="cat", steps=3).image.tobytes()
    path = second.save(tmp_path / "cat.png").path
    assert path is not None
    *_, last = again(model, read_receipt(path))
    assert last.result is not None
    assert last.result.outputs[0].image.tobytes() == second.image.tobytes()


@pytest.mark.slow
def test_a_picture_is_changed_with_a_label_and_without(model: DiffusionPipeline) -> None:
    source = one(model, label="sun").image
    for fields in ({"label": "moon"}, {}):
        weak, strong = (one(model, image=source, strength=s, **fields) for s in (0.25, 1.0))
        near, far = (
            np.abs(np.asarray(each.image, float) - np.asarray(source, float)).mean()
            for each in (weak, strong)
        )
        assert near < far


def test_a_trace_is_named_after_the_label(model: DiffusionPipeline) -> None:
    page = trace(model, ask("", label="cat", seed=1, steps=2))
    assert "<h1>cat</h1>" in page and page.count("<figure") == 1 + 8 + 2


@pytest.mark.parametrize(
    ("prompt", "fields", "message"),
    [
        ("", {"label": "kat"}, r"label 'kat' cannot .* 80 classes, by name or number from 0: "
                               r"did you mean hat or cat"),
        ("", {"label": "80"}, "label '80' cannot be used .* try apple, banana, orange"),
        ("a cat on a sofa", {}, "draws classes, and reads no text: .* did you mean cat or sofa"),
        ("cat", {"label": "dog"}, "prompt 'cat' cannot be used"),
        ("", {"label": "cat", "size": "64x64"}, "size '?64x64'? cannot be used .* 32x32"),
        ("", {"label": "cat", "negative_prompt": "a dog"}, "negative_prompt"),
    ],
)  # fmt: skip
def test_what_it_does_not_know_is_named(
    model: DiffusionPipeline, prompt: str, fields: dict[str, Any], message: str
) -> None:
    with pytest.raises(KalpanaError, match=message) as error:
        one(model, prompt, **fields)
    assert "\n" not in str(error.value) and len(str(error.value)) < 250


def test_the_shipped_recipe_is_checked_and_foreign_settings_are_refused() -> None:
    recipe = read_recipe("pixel-unet")
    assert isinstance(recipe, PixelRecipe)
    for field, value in (("kind", "hands"), ("oversample", 2), ("aux_weight", 0.1)):
        with pytest.raises(KalpanaError, match=f"'{field}': its data are single objects"):
            check_recipe(PixelRecipe(**COMMON | {field: value}))
    with torch.device("meta"):
        network = FAMILIES["pixel-unet"].build(
            **recipe.model, in_channels=3, out_channels=3, cross_attention_dim=None,
            num_class_embeds=80,
        )  # fmt: skip
    assert sum(p.numel() for p in network.parameters()) < 4e6
