"""A recipe: everything a training run is made of, in one YAML file, checked before the run starts."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from kalpana.types import KalpanaError
from kalpana.world.world import KINDS

TOKENS = ("dalle", "maskgit", "dalle-mini")  # families that learn to say the tokens of a VQGAN


class Recipe(BaseModel):
    """One run. Shares are of the whole run; a sample is one picture seen once."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = Field(
        description="what the run is called; its folder and its weights carry the name"
    )
    family: Literal[
        "vae", "vqgan", "flow", "dalle", "maskgit", "dalle-mini", "clip", "detector", "reader"
    ] = Field(
        description="which network learns: the autoencoder, the one whose latents are tokens, the latent flow transformer, one of three "
        "that say a picture's tokens, the two towers of pictures and words, or the detector or reader of the verifiers"
    )
    model: dict[str, Any] = Field(
        default={}, description="fields of the network's Config that differ from its defaults"
    )
    vae: Path | None = Field(
        default=None,
        description="flow: the trained autoencoder's weights; detector, reader: pictures go through it at times",
    )
    vqgan: Path | None = Field(
        default=None,
        description="dalle, maskgit, dalle-mini: the trained VQGAN's weights, which turn pictures into tokens and back",
    )
    sdedit_model: Path | None = Field(
        default=None,
        description="detector, reader: a flow transformer that draws some pictures again from half-way noise",
    )
    held_out_styles: tuple[str, ...] = Field(
        default=(), description="clip: drawing styles it never sees in training"
    )
    object_augment_share: float = Field(
        default=0.0,
        ge=0,
        lt=1,
        description="clip: share of a batch that are things alone, warped, recoloured and inked as no style draws them",
    )
    downsampled_styles: tuple[str, ...] = Field(
        default=(), description="detector: drawing styles of which it sees a third of the pictures"
    )
    init: Path | None = Field(
        default=None,
        description="weights to start from, of the same network, instead of random ones",
    )
    kind: str = Field(
        default="objects",
        description="all but detector, reader: the kind of pictures of the world, or everything",
    )
    seed: int = 0
    num_images: int = Field(
        default=1,
        gt=0,
        description="all but detector, reader: distinct pictures, drawn once and kept on disk; captions are drawn anew each time round",
    )
    steps: int = Field(gt=0)
    batch: int = Field(gt=0, description="pictures a step")
    grad_accum: int = Field(
        default=1, gt=0, description="parts a batch is computed in, for small memories"
    )
    grad_cache_chunk: int = Field(
        default=0,
        ge=0,
        description="clip: pairs whose way through the towers is kept at a time, for small memories; 0: all",
    )
    optimizer: Literal["adamw", "muon"] = Field(
        default="adamw", description="muon: for matrices inside blocks, adamw for the rest"
    )
    lr: float = Field(gt=0)
    weight_decay: float = Field(default=0.01, ge=0)
    warmup: int = Field(default=200, ge=0, description="steps of linear warm-up")
    lr_decay_share: float = Field(
        default=0.4,
        ge=0,
        le=1,
        description="share of the run, at its end, over which the rate falls linearly to 0",
    )
    grad_clip: float = Field(default=1.0, gt=0, description="the gradient's norm is cut to this")
    ema_decay: float = Field(
        default=0.999,
        ge=0,
        lt=1,
        description="decay a step of the averaged weights, which are the ones shipped",
    )
    bf16: bool = Field(default=True, description="autocast to bfloat16; weights stay fp32")
    compile: bool = Field(
        default=False,
        description="vae, vqgan, flow, dalle, maskgit, dalle-mini, clip: compile the blocks: a quarter faster on two cores, needs a C++ "
        "compiler",
    )
    caption_dropout: float = Field(
        default=0.1,
        ge=0,
        le=1,
        description="flow, dalle, maskgit, dalle-mini: share of captions dropped, so that guidance has an unconditional side",
    )
    image_first_prob: float = Field(
        default=0.25,
        ge=0,
        le=1,
        description="dalle: share of pictures that come before their caption, so that captioning is learned too",
    )
    token_dropout: float = Field(
        default=0.0,
        ge=0,
        le=1,
        description="dalle, dalle-mini: share of pictures that are drawn with some of the cells so far hidden, from none to all, so that "
        "the words are needed; the share falls to 0 by the end",
    )
    oversample: int = Field(
        default=1,
        ge=1,
        description="flow, dalle, maskgit, dalle-mini: how many times as often pictures of several things come up, and that many times "
        "again where they are of two kinds and both in a colour that is said: what is learned last",
    )
    aux_weight: float = Field(
        default=0.0,
        ge=0,
        description="flow, dalle, maskgit, dalle-mini: weight, falling to 0 by the end, of saying for each patch or cell which thing "
        "it shows, where and in which colour",
    )
    posterior_std: float = Field(
        default=0.1,
        ge=0,
        description="vae: standard deviation of the posterior, the noise its decoder learns to bear",
    )
    self_train_dir: Path | None = Field(
        default=None,
        description="flow: a folder of the model's own pictures that a verifier found right, learned from beside the pool",
    )
    self_train_repeat: int = Field(
        default=1,
        ge=1,
        description="flow: how often a picture of the harvest comes up, where one of the pool does once",
    )
    latent_anchor_weight: float = Field(
        default=0.0,
        ge=0,
        description="vae: weight of staying near the latents of init, so that what has learned on those can go on",
    )
    perceptual_net: Path | None = Field(
        default=None,
        description="vqgan: a detector's weights; a picture drawn again should look to it as the true one does",
    )
    ocr_net: Path | None = Field(
        default=None,
        description="vqgan: a reader's weights; a sign drawn again should read to it as the true one does",
    )
    ocr_weight: float = Field(
        default=0.1, ge=0, description="vqgan: weight of that, where there is a reader"
    )
    sign_page_share: float = Field(
        default=0.0,
        ge=0,
        lt=1,
        description="vqgan: share of a batch that are sheets of signs, of a pool of their own half as large: letters are small, and what "
        "a code cannot say of them nobody reads",
    )
    freeze_encoder: bool = Field(
        default=False,
        description="vqgan: of init only the decoder goes on learning, so that tokens stay what they are for the models that draw them",
    )
    perceptual_weight: float = Field(
        default=0.5, ge=0, description="vqgan: weight of that likeness, where there are features"
    )
    gan_weight: float = Field(
        default=0.1,
        ge=0,
        description="vqgan: weight of fooling the discriminator; with 1 it moves the decoder's last layer as much as all else together, "
        "with 0 there is none",
    )
    gan_start: float = Field(
        default=0.5,
        ge=0,
        le=1,
        description="vqgan: share of the run after which the discriminator takes part",
    )
    lecam_weight: float = Field(
        default=0.001,
        ge=0,
        description="vqgan: weight of holding the discriminator back, lest it learn pictures by heart",
    )
    log_every: int = Field(default=20, gt=0)
    sample_every: int = Field(
        default=1000, gt=0, description="steps between held-out losses and sample sheets"
    )
    save_every: int = Field(default=500, gt=0, description="steps between checkpoints")


def read_recipe(path: Path) -> Recipe:
    """The recipe in a YAML file. Raises KalpanaError that names the field at fault."""
    try:
        fields = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise KalpanaError(f"cannot read the recipe {path}: {error.strerror or error}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise KalpanaError(f"{path} is not YAML: {' '.join(str(error).split())}") from None
    if not isinstance(fields, dict):
        raise KalpanaError(f"{path} holds no fields: write lines such as 'family: flow'")
    try:
        recipe = Recipe(**fields)
    except ValidationError as error:
        first = error.errors()[0]
        known = (
            f"; the fields are {', '.join(Recipe.model_fields)}"
            if first["type"] == "extra_forbidden"
            else ""
        )
        raise KalpanaError(
            f"{path}: field '{'.'.join(map(str, first['loc']))}': {first['msg'].lower()}{known}"
        ) from None
    if recipe.kind not in KINDS:
        raise KalpanaError(
            f"{path}: field 'kind': {recipe.kind!r} is not one of {', '.join(KINDS)}"
        )
    if recipe.latent_anchor_weight and recipe.init is None:
        raise KalpanaError(
            f"{path}: field 'latent_anchor_weight': there is nothing to stay near to: name the autoencoder in init"
        )
    if recipe.family == "clip" and recipe.grad_accum > 1:
        raise KalpanaError(
            f"{path}: field 'grad_accum': pairs learn from the whole batch at once: write chunk instead"
        )
    if recipe.self_train_dir and recipe.aux_weight:
        raise KalpanaError(
            f"{path}: field 'aux_weight': nobody knows the layout of harvested pictures: leave it out"
        )
    if recipe.family == "flow" and recipe.vae is None:
        raise KalpanaError(
            f"{path}: field 'vae': a flow recipe names its autoencoder's weights, such as weights/default/vae.safetensors"
        )
    if recipe.family in TOKENS and recipe.vqgan is None:
        raise KalpanaError(
            f"{path}: field 'vqgan': a {recipe.family} recipe names the weights that turn pictures into tokens, such as "
            "weights/vqgan/vqgan.safetensors"
        )
    return recipe
