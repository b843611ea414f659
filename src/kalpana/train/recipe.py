"""Training recipes: all settings of a run, read from a YAML file and checked beforehand.

``Recipe`` has the settings of every family. Each family has a subclass with its own, in the file of
its task; the registry names it. A setting of another family is an error.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import fields as fields_of
from difflib import get_close_matches
from pathlib import Path
from typing import Any, ClassVar, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from kalpana.errors import plain
from kalpana.families import FAMILIES, find
from kalpana.hub.card import model_folders
from kalpana.hub.weights import files_of
from kalpana.types import KalpanaError
from kalpana.world.world import KINDS

Place = tuple[str, ...]  # of a value in a recipe, such as ("model", "width")
Problem = tuple[Place, str]
# Weights in the metadata of older weights, and what took their place.
MOVED = dict.fromkeys(
    (
        "weights/control/control_dit.safetensors",
        "weights/default-next/dit.safetensors",
        "weights/default/dit.safetensors",
    ),
    "weights/default/control_dit.safetensors",
)
# Names of the fields in the metadata of older weights.
OLD_NAMES = {
    "drop": "caption_dropout",
    "swap": "image_first_prob",
    "blind": "token_dropout",
    "layout": "aux_weight",
    "cards": "object_augment_share",
    "without": "held_out_styles",
    "seldom": "downsampled_styles",
    "anchor": "latent_anchor_weight",
    "noise": "posterior_std",
    "features": "perceptual_net",
    "perceptual": "perceptual_weight",
    "reader": "ocr_net",
    "legible": "ocr_weight",
    "signs": "sign_page_share",
    "keep_codes": "freeze_encoder",
    "judge": "gan_weight",
    "judge_from": "gan_start",
    "lecam": "lecam_weight",
    "harvest": "self_train_dir",
    "harvest_often": "self_train_repeat",
    "redraw": "sdedit_model",
    "pool": "num_images",
    "chunk": "grad_cache_chunk",
    "accumulate": "grad_accum",
    "clip": "grad_clip",
    "decay": "lr_decay_share",
    "ema": "ema_decay",
    "sheet_every": "sample_every",
}


class Recipe(BaseModel):
    """Settings of one training run that every family has.

    Unless stated otherwise shares are of the whole run. A sample is one picture in one step.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)
    refuses: ClassVar[Mapping[str, str]] = {}  # inherited fields that must be left out, and why

    name: str = Field(
        pattern=r"^\w[\w.-]*$",
        description="plain name of the run, which its folder and its weights carry",
    )
    family: str = Field(description="family of networks to train, such as flow")
    model: dict[str, Any] = Field(
        default={}, description="fields of the network's Config that differ from its defaults"
    )
    init: Path | None = Field(
        default=None,
        description="weights of the same network to start from, instead of random ones",
    )
    seed: int = 0
    num_images: int = Field(
        default=1, gt=0, description="distinct pictures, the first of the world of this seed"
    )
    steps: int = Field(gt=0, description="optimizer steps of the whole run")
    batch: int = Field(gt=0, description="pictures per step")
    grad_accum: int = Field(
        default=1,
        gt=0,
        description="parts that a batch is split into, whose gradients are accumulated, weighted "
        "by their pictures: saves memory. Losses that are means over something else than pictures "
        "(text tokens, masked cells, objects) differ a little from those of the whole batch",
    )
    optimizer: Literal["adamw", "muon"] = Field(
        default="adamw", description="muon: Muon for matrices in blocks, AdamW for the rest"
    )
    lr: float = Field(gt=0, le=1, description="largest learning rate")
    weight_decay: float = Field(default=0.01, ge=0)
    warmup: int = Field(default=200, ge=0, description="steps of linear warm-up")
    lr_decay_share: float = Field(
        default=0.4,
        ge=0,
        le=1,
        description="share of the run, at its end, over which the learning rate falls linearly "
        "to 0",
    )
    grad_clip: float = Field(default=1.0, gt=0, description="largest norm of the gradient")
    ema_decay: float = Field(
        default=0.999,
        ge=0,
        lt=1,
        description="decay per step of the averaged weights, which are the ones saved",
    )
    bf16: bool = Field(default=True, description="autocast to bfloat16; weights stay fp32")
    compile: bool = Field(
        default=False,
        description="compile the blocks of the network, if it has any: a quarter faster on two "
        "cores, needs a C++ compiler",
    )
    log_every: int = Field(default=20, gt=0)
    sample_every: int = Field(
        default=1000, gt=0, description="steps between held-out losses and sample sheets"
    )
    save_every: int = Field(default=500, gt=0, description="steps between checkpoints")

    def problems(self) -> Iterator[tuple[str, str]]:
        """(field, message) of each setting that does not fit the others."""
        for field, reason in self.refuses.items():
            if getattr(self, field) != type(self).model_fields[field].default:
                yield field, f"{reason}: leave it out"

    @property
    def codec_weights(self) -> Path | None:
        """Weights of the autoencoder or VQGAN whose latents or tokens are the data, if any."""
        return getattr(self, "vae", None) or getattr(self, "vqgan", None)


class PoolRecipe(Recipe):
    """Recipe of a family that is trained on a pool of pictures, rendered once and kept on disk."""

    kind: str = Field(
        default="objects", description="a kind of pictures of the world, or everything"
    )

    def problems(self) -> Iterator[tuple[str, str]]:
        yield from super().problems()
        if self.kind not in KINDS:
            yield "kind", f"{self.kind!r} is not one of {', '.join(KINDS)}"


class ConditionalRecipe(PoolRecipe):
    """Recipe of a family that generates pictures or videos from captions."""

    caption_dropout: float = Field(
        default=0.1,
        ge=0,
        le=1,
        description="share of captions dropped, so that guidance has an unconditional prediction",
    )


class CaptionedRecipe(ConditionalRecipe):
    """Recipe of a family that generates pictures from captions, which are worded anew each
    epoch."""

    oversample: int = Field(
        default=1,
        ge=1,
        description="factor by which pictures of several objects come up more often, squared where "
        "these are of two kinds and both have a named colour: such pictures are learned last",
    )
    aux_weight: float = Field(
        default=0.0,
        ge=0,
        description="weight, falling linearly to 0, of the auxiliary loss: for each patch or cell "
        "the class, colour and position of its object",
    )


class VideosRecipe(Recipe):
    """Recipe of a family that is trained on a pool of videos."""

    num_videos: int = Field(
        default=1,
        gt=0,
        description="distinct videos, rendered and encoded once and kept on disk",
    )


def recipe_class(family: str) -> type[Recipe] | None:
    """Class of a family's recipes, None if there is no such family or it is not trained."""
    reference = FAMILIES[family].recipe if family in FAMILIES else None
    return None if reference is None else find(reference)


def trained_families() -> list[str]:
    """Names of the families that have recipes."""
    return [name for name, family in FAMILIES.items() if family.recipe]


def recipes_dir() -> Path:
    """Folder of the recipes that come with Kalpana, in an installed package or a repository."""
    package = Path(__file__).parents[1]
    return package / "recipes" if (package / "recipes").is_dir() else package.parents[1] / "recipes"


def find_recipe(name: str | Path) -> Path:
    """File of a recipe: a path, or the name of one that comes with Kalpana, also as
    recipes/NAME.yaml from any folder. Raises KalpanaError if there is none."""
    path = Path(name)
    if path.is_file():
        return path
    shipped = recipes_dir() / f"{path.stem if path.suffix == '.yaml' else path.name}.yaml"
    if str(path.parent) in (".", "recipes") and shipped.is_file():
        return shipped
    known = sorted(each.stem for each in recipes_dir().glob("*.yaml"))
    close = get_close_matches(path.stem, known, n=1)
    hint = f"did you mean {close[0]!r}?" if close else f"give a file or one of {', '.join(known)}"
    raise KalpanaError(f"there is no recipe {str(name)!r}: {hint}")


def located(path: Path) -> Path:
    """File that a recipe names: as given or, below ``weights/``, of the weights that come with
    Kalpana."""
    if path.parts[:1] != ("weights",) or len(path.parts) < 2 or files_of(path)[0].exists():
        return path
    folder = model_folders().get(path.parts[1])
    return path if folder is None else folder.joinpath(*path.parts[2:])


def read_recipe(name: str | Path, **changes: Any) -> Recipe:
    """Recipe read from a YAML file, see ``find_recipe``, with some fields replaced.

    Raises a KalpanaError that names all fields at fault with their lines.
    """
    path = find_recipe(name)
    try:
        loader = yaml.SafeLoader(path.read_text(encoding="utf-8"))
        node = loader.get_single_node()
        fields = loader.construct_document(node) if node else None
    except OSError as error:
        raise KalpanaError(f"cannot read the recipe {path}: {error.strerror or error}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise KalpanaError(f"{path} is not YAML: {' '.join(str(error).split())}") from None
    if not isinstance(fields, dict):
        raise KalpanaError(f"{path} holds no fields: write lines such as 'family: flow'")
    lines: dict[Place, int] = {}
    problems = list(_duplicates(node, lines))
    recipe, found = _validate({str(key): value for key, value in fields.items()} | changes)
    if recipe is None or problems or found:
        raise KalpanaError(f"{path}: {_told([*problems, *found], lines)}")
    return recipe


def make_recipe(fields: Mapping[str, Any]) -> Recipe:
    """Recipe of the class of its family. Raises a KalpanaError that names all fields at fault."""
    recipe, problems = _validate(fields)
    if recipe is None or problems:
        raise KalpanaError(f"recipe {fields.get('name', '')}: {_told(problems, {})}")
    return recipe


def check_recipe(recipe: Recipe) -> None:
    """Raises a KalpanaError that names all settings of a recipe that do not fit the others."""
    problems: list[Problem] = [((name,), message) for name, message in recipe.problems()]
    if problems:
        raise KalpanaError(f"recipe {recipe.name}: {_told(problems, {})}")


def saved_recipe(fields: Mapping[str, Any]) -> Recipe:
    """Recipe in the metadata of weights or of a checkpoint, perhaps of an earlier version.

    There every recipe had the fields of all families: those of other families are dropped. Weights
    that have moved are those that took their place. Raises KalpanaError if the family is unknown or
    a field does not fit.
    """
    named = {
        OLD_NAMES.get(name, name): MOVED.get(value, value) if isinstance(value, str) else value
        for name, value in fields.items()
    }
    kind = recipe_class(str(named.get("family")))
    known = {} if kind is None else kind.model_fields
    return make_recipe({name: value for name, value in named.items() if name in known} or named)


def config_problems(kind: type, model: Mapping[str, Any]) -> Iterator[Problem]:
    """Fields of ``model`` that the Config dataclass ``kind`` does not have or whose values do not
    fit."""
    known = [field.name for field in fields_of(kind)]
    unknown = [name for name in model if name not in known]
    for name in unknown:
        yield ("model", name), f"unknown field{_nearest(name, known)}"
    try:
        TypeAdapter(kind).validate_python({k: v for k, v in model.items() if k not in unknown})
    except ValidationError as error:
        for each in error.errors():
            yield ("model", *map(str, each["loc"])), plain(each)


def _validate(fields: Mapping[str, Any]) -> tuple[Recipe | None, list[Problem]]:
    """The recipe, None if a field does not fit its type, and all problems."""
    family, families = str(fields.get("family")), trained_families()
    kind, problems = recipe_class(family) or Recipe, list[Problem]()
    if kind is Recipe:  # then only the fields that every family has can be checked
        if "family" in fields:
            problems.append((("family",), f"{family!r} is not trained{_nearest(family, families)}"))
        special = {name for each in families for name in _class(each).model_fields}
        special -= Recipe.model_fields.keys()
        fields = {name: value for name, value in fields.items() if name not in special}
    try:
        recipe = kind.model_validate(dict(fields))
    except ValidationError as error:
        return None, problems + [_problem(each, kind, family) for each in error.errors()]
    if kind is Recipe:
        return None, problems
    problems += config_problems(FAMILIES[family].config_class(), recipe.model)
    return recipe, problems + [((name,), message) for name, message in recipe.problems()]


def _class(family: str) -> type[Recipe]:
    kind = recipe_class(family)
    assert kind is not None
    return kind


def _problem(error: Any, kind: type[Recipe], family: str) -> Problem:
    """A validation error of pydantic in our words."""
    place, known = tuple(map(str, error["loc"])), kind.model_fields
    name = place[0]
    if error["type"] == "missing":
        return place, f"it is missing: {known[name].description}"
    if error["type"] == "extra_forbidden":
        others = [each for each in trained_families() if name in _class(each).model_fields]
        if others:
            return place, f"a field of {', '.join(others)}, not of {family}: leave it out"
        return place, f"unknown field{_nearest(name, list(known))}"
    if name == "name" and error["type"] == "string_pattern_mismatch":
        return place, f"{error['input']!r} is not a plain name: write letters, digits, '-' and '_'"
    return place, plain(error)


def _nearest(name: str, known: list[str]) -> str:
    close = get_close_matches(name, known, n=1)
    return f": did you mean {close[0]!r}?" if close else f": write one of {', '.join(known)}"


def _duplicates(node: yaml.Node, lines: dict[Place, int], place: Place = ()) -> Iterator[Problem]:
    """Keys given twice; ``lines`` gets the line of each key, from 1."""
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            here, line = (*place, str(key.value)), key.start_mark.line + 1
            if here in lines:
                yield here, f"given twice, also in line {lines[here]}"
            lines[here] = line
            yield from _duplicates(value, lines, here)


def _told(problems: list[Problem], lines: Mapping[Place, int]) -> str:
    """All problems in one line, each with the line of the file where it is, in their order."""
    parts = []
    for place, message in problems:
        line = next((lines[place[:k]] for k in range(len(place), 0, -1) if place[:k] in lines), 0)
        start = f"line {line}: " if line else ""
        parts.append((line or math.inf, f"{start}field '{'.'.join(place)}': {message}"))
    return "; ".join(text for _, text in sorted(parts, key=lambda part: part[0]))
