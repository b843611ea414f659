"""Recipes: errors with their lines, fields by family, recipes and weights found by name."""

from __future__ import annotations

from pathlib import Path

import pytest

from kalpana.families import FAMILIES
from kalpana.hub.card import weights_dir
from kalpana.hub.weights import provenance
from kalpana.train.diffusion import DiffusionRecipe
from kalpana.train.recipe import (
    check_recipe,
    find_recipe,
    located,
    make_recipe,
    read_recipe,
    recipe_class,
    recipes_dir,
    saved_recipe,
    trained_families,
)
from kalpana.types import KalpanaError

FLOW = "name: x\nfamily: flow\nvae: v.safetensors\nsteps: 5\nbatch: 4\nlr: 1e-3\n"


def refusal(text: str, folder: Path) -> str:
    path = folder / "r.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(KalpanaError) as error:
        read_recipe(path)
    message = str(error.value)
    assert "\n" not in message and message.startswith(f"{path}: ")
    return message.removeprefix(f"{path}: ")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("bath: 3", "line 7: field 'bath': unknown field: did you mean 'batch'?"),
        ("image_first_prob: 0.5",
         "line 7: field 'image_first_prob': a field of dalle, not of flow: leave it out"),
        ("token_dropout: 0.5",
         "line 7: field 'token_dropout': a field of dalle, dalle-mini, not of flow: leave it out"),
        ("lr: 2e-3", "line 7: field 'lr': given twice, also in line 6"),
        ("model: {width: 8, width: 16}",
         "line 7: field 'model.width': given twice, also in line 7"),
        ("model: {witdh: 8}", "line 7: field 'model.witdh': unknown field: did you mean 'width'?"),
        ("schedule: cosin", "line 7: field 'schedule': 'cosin' is not one of flow, cosine"),
        ("prediction: x1", "line 7: field 'prediction': 'x1' is not one of x0, eps, v, flow"),
        ("kind: ghosts", "line 7: field 'kind': 'ghosts' is not one of objects"),
        ("ema_decay: .nan", "line 7: field 'ema_decay': should be a finite number"),
    ],
)  # fmt: skip
def test_a_fault_is_named_with_its_line(line: str, message: str, tmp_path: Path) -> None:
    assert refusal(FLOW + line, tmp_path).startswith(message)


@pytest.mark.parametrize(
    ("lr", "message"),
    [("1e30", "at most 1"), (".inf", "finite"), ("0", "more than 0")],
)
def test_a_learning_rate_is_bounded(lr: str, message: str, tmp_path: Path) -> None:
    found = refusal(FLOW.replace("1e-3", lr), tmp_path)
    assert found.startswith("line 6: field 'lr'") and message in found


@pytest.mark.parametrize("name", ["../../x", "/tmp/x", "a b", ".x", "''"])
def test_a_name_is_plain(name: str, tmp_path: Path) -> None:
    assert "line 1: field 'name'" in refusal(FLOW.replace("name: x", f"name: {name}"), tmp_path)


def test_all_faults_are_reported_together(tmp_path: Path) -> None:
    text = "name: x\nfamily: vqgan\nsteps: many\nbath: 3\nbatch: 4\nbatch: 4\nvae: v\n"
    found = refusal(text, tmp_path).split("; ")
    assert [each.split(":")[0] for each in found] == [
        "line 3", "line 4", "line 6", "line 7", "field 'lr'",
    ]  # fmt: skip
    assert "it is missing: largest learning rate" in found[4]


def test_faults_between_fields_are_reported_together(tmp_path: Path) -> None:
    text = (
        "name: x\nfamily: vqgan\nsteps: 1\nbatch: 4\nlr: 1e-3\nocr_net: r\nfreeze_encoder: true\n"
    )
    found = refusal(text, tmp_path)
    assert "line 6: field 'ocr_net'" in found and "line 7: field 'freeze_encoder'" in found
    recipe = make_recipe({"name": "x", "family": "vae", "steps": 1, "batch": 1, "lr": 1e-3})
    with pytest.raises(KalpanaError, match="recipe x: field 'latent_anchor_weight'"):
        check_recipe(recipe.model_copy(update={"latent_anchor_weight": 1.0}))


def test_a_family_that_is_none_is_named_and_what_can_be_checked_is(tmp_path: Path) -> None:
    found = refusal(FLOW.replace("family: flow", "family: flaw") + "bath: 3", tmp_path)
    assert "line 2: field 'family': 'flaw' is not trained: did you mean 'flow'?" in found
    assert "field 'bath'" in found and "field 'vae'" not in found
    assert "field 'family': it is missing" in refusal("name: x", tmp_path)


def test_every_family_that_is_trained_has_a_recipe_of_its_own() -> None:
    assert trained_families() == [name for name, family in FAMILIES.items() if family.task]
    kinds = [recipe_class(name) for name in trained_families()]
    assert len(set(kinds)) == len(kinds)
    for name, kind in zip(trained_families(), kinds, strict=True):
        assert kind is not None and kind.model_fields["family"].default == name
        assert all(field.description for name, field in kind.model_fields.items()
                   if name not in ("family", "seed", "weight_decay", "log_every"))  # fmt: skip
        codecs = [
            kind.model_fields[field] for field in ("vae", "vqgan") if field in kind.model_fields
        ]
        codec = FAMILIES[name].codec
        needs = codec is not None and FAMILIES[codec].file != ""
        assert not needs or [field.is_required() for field in codecs] == [True]
        if issubclass(kind, DiffusionRecipe):
            pipeline = "kalpana.pipelines.diffusion:DiffusionPipeline"
            others: dict[str, str | None] = dict.fromkeys(("unclip-prior", "lora"))
            others["unclip"] = "kalpana.pipelines.unclip:UnclipPipeline"
            assert FAMILIES[name].pipeline == others.get(name, pipeline)
    assert recipe_class("lite0") is None and recipe_class("ghost") is None


@pytest.mark.slow
def test_recipes_and_weights_are_found_from_any_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("flow", "flow.yaml", "recipes/flow.yaml"):
        assert find_recipe(name) == recipes_dir() / "flow.yaml"
    recipe = read_recipe("flow")
    assert getattr(recipe, "vae") == Path("weights/default/vae.safetensors")  # noqa: B009
    assert located(Path("weights/default/vae.safetensors")) == (
        weights_dir() / "default/vae.safetensors"
    )
    assert located(Path("elsewhere/vae.safetensors")) == Path("elsewhere/vae.safetensors")
    own = Path("weights/default/vae.safetensors")
    own.parent.mkdir(parents=True)
    own.touch()
    assert located(own) == own
    Path("flow").write_text(FLOW)
    assert find_recipe("flow") == Path("flow")
    for name, hint in (("flwo", "did you mean 'flow'"), ("other/flow.yaml", "did you mean 'flow'")):
        with pytest.raises(KalpanaError, match=hint):
            find_recipe(name)


@pytest.mark.slow
@pytest.mark.parametrize(
    "file",
    sorted(weights_dir().rglob("*.safetensors")),
    ids=lambda path: f"{path.parent.name}/{path.stem}",
)
def test_recipes_in_the_metadata_of_shipped_weights_can_be_read(file: Path) -> None:
    """Every recipe there has the fields of all families, some by their old names."""
    run = provenance(file)
    while run.get("recipe"):
        recipe = saved_recipe(run["recipe"])
        given = run["recipe"]
        assert recipe.num_images == given.get("num_images", given.get("pool"))
        assert recipe.lr == given["lr"] and recipe.steps == given["steps"]
        run = run.get("init") or run.get("grown_from") or {}
