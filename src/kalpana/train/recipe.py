"""Training recipes: all settings of a run, read from a YAML file and validated beforehand."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from kalpana.types import KalpanaError
from kalpana.world.world import KINDS

TOKENS = ("dalle", "maskgit", "dalle-mini")  # families that model the tokens of a VQGAN


class Recipe(BaseModel):
    """Settings of one training run.

    Unless stated otherwise shares are of the whole run. A sample is one picture in one step.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = Field(description="name of the run, which its folder and its weights carry")
    family: Literal[
        "vae",
        "vqgan",
        "flow",
        "dalle",
        "maskgit",
        "dalle-mini",
        "clip",
        "detector",
        "reader",
        "video-vae",
        "video",
    ] = Field(
        description="network to train: the autoencoder, the VQGAN, the latent flow transformer, "
        "one of three token models, CLIP, or the detector or reader of a verifier"
    )
    model: dict[str, Any] = Field(
        default={}, description="fields of the network's Config that differ from its defaults"
    )
    vae: Path | None = Field(
        default=None,
        description="flow: weights of the trained autoencoder; detector, reader: the same, to "
        "encode and decode a share of the pictures",
    )
    vqgan: Path | None = Field(
        default=None,
        description="dalle, maskgit, dalle-mini: weights of the trained VQGAN, which turns "
        "pictures into tokens and back",
    )
    sdedit_model: Path | None = Field(
        default=None,
        description="detector, reader: weights of a flow transformer that noises a share of the "
        "pictures part of the way and denoises them (SDEdit)",
    )
    image_model: Path | None = Field(
        default=None,
        description="video: weights of the image transformer to start from; the network then has "
        "its config",
    )
    num_videos: int = Field(
        default=1,
        gt=0,
        description="video: distinct videos over all sizes, rendered and encoded once and kept on "
        "disk",
    )
    held_out_styles: tuple[str, ...] = Field(
        default=(), description="clip: drawing styles kept out of training"
    )
    object_augment_share: float = Field(
        default=0.0,
        ge=0,
        lt=1,
        description="clip: share of a batch that are single objects, randomly warped, recoloured "
        "and inked (domain randomisation)",
    )
    downsampled_styles: tuple[str, ...] = Field(
        default=(),
        description="detector: drawing styles of which only a third of the pictures are trained on",
    )
    init: Path | None = Field(
        default=None,
        description="weights of the same network to start from, instead of random ones",
    )
    kind: str = Field(
        default="objects",
        description="all but detector, reader: a kind of pictures of the world, or everything",
    )
    seed: int = 0
    num_images: int = Field(
        default=1,
        gt=0,
        description="all but detector, reader: distinct pictures, rendered once and kept on disk; "
        "captions are worded anew each epoch",
    )
    steps: int = Field(gt=0)
    batch: int = Field(gt=0, description="pictures per step")
    grad_accum: int = Field(
        default=1,
        gt=0,
        description="parts that a batch is split into, whose gradients are accumulated: saves "
        "memory",
    )
    grad_cache_chunk: int = Field(
        default=0,
        ge=0,
        description="clip: pairs whose activations are kept at a time (gradient caching): saves "
        "memory; 0: all",
    )
    optimizer: Literal["adamw", "muon"] = Field(
        default="adamw", description="muon: Muon for matrices in blocks, AdamW for the rest"
    )
    lr: float = Field(gt=0)
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
        description="vae, vqgan, flow, dalle, maskgit, dalle-mini, clip: compile the blocks: a "
        "quarter faster on two cores, needs a C++ compiler",
    )
    caption_dropout: float = Field(
        default=0.1,
        ge=0,
        le=1,
        description="flow, dalle, maskgit, dalle-mini: share of captions dropped, so that guidance "
        "has an unconditional prediction",
    )
    image_first_prob: float = Field(
        default=0.25,
        ge=0,
        le=1,
        description="dalle: share of pictures that come before their caption, so that captioning "
        "is learned too",
    )
    token_dropout: float = Field(
        default=0.0,
        ge=0,
        le=1,
        description="dalle, dalle-mini: share of pictures in which some of the preceding image "
        "tokens are hidden, from none to all, so that the caption is needed; falls linearly to 0",
    )
    oversample: int = Field(
        default=1,
        ge=1,
        description="flow, dalle, maskgit, dalle-mini: factor by which pictures of several objects "
        "come up more often, squared where these are of two kinds and both have a named colour: "
        "such pictures are learned last",
    )
    aux_weight: float = Field(
        default=0.0,
        ge=0,
        description="flow, dalle, maskgit, dalle-mini: weight, falling linearly to 0, of the "
        "auxiliary loss: for each patch or cell the class, colour and position of its object",
    )
    posterior_std: float = Field(
        default=0.1,
        ge=0,
        description="vae: standard deviation of the posterior: the noise added to latents before "
        "they are decoded",
    )
    self_train_dir: Path | None = Field(
        default=None,
        description="flow: folder of the model's own pictures that a verifier found right "
        "(rejection sampling), trained on beside the pool",
    )
    self_train_repeat: int = Field(
        default=1,
        ge=1,
        description="flow: times that a picture of self_train_dir comes up in an epoch, where one "
        "of the pool comes up once",
    )
    latent_anchor_weight: float = Field(
        default=0.0,
        ge=0,
        description="vae: weight of the squared distance from the latents of init, so that models "
        "trained on those latents keep working",
    )
    perceptual_net: Path | None = Field(
        default=None,
        description="vqgan: weights of a detector, whose features give the perceptual loss",
    )
    ocr_net: Path | None = Field(
        default=None,
        description="vqgan: weights of a reader, whose features and predictions on signs give the "
        "OCR loss",
    )
    ocr_weight: float = Field(
        default=0.1, ge=0, description="vqgan: weight of the OCR loss, where ocr_net is given"
    )
    sign_page_share: float = Field(
        default=0.0,
        ge=0,
        lt=1,
        description="vqgan: share of a batch that are sheets of signs, from a pool of their own "
        "half as large: letters are small and need codes of their own",
    )
    freeze_encoder: bool = Field(
        default=False,
        description="vqgan: train only the decoder of init, so that tokens keep their meaning for "
        "the models that generate them",
    )
    perceptual_weight: float = Field(
        default=0.5,
        ge=0,
        description="vqgan: weight of the perceptual loss, where perceptual_net is given",
    )
    gan_weight: float = Field(
        default=0.1,
        ge=0,
        description="vqgan: weight of the generator loss; with 1 its gradient on the decoder's "
        "last layer is as large as that of the reconstruction loss, with 0 there is none",
    )
    gan_start: float = Field(
        default=0.5,
        ge=0,
        le=1,
        description="vqgan: share of the run after which the discriminator is used",
    )
    lecam_weight: float = Field(
        default=0.001,
        ge=0,
        description="vqgan: weight of the LeCam regulariser, which keeps the discriminator from "
        "memorising pictures",
    )
    log_every: int = Field(default=20, gt=0)
    sample_every: int = Field(
        default=1000, gt=0, description="steps between held-out losses and sample sheets"
    )
    save_every: int = Field(default=500, gt=0, description="steps between checkpoints")


def read_recipe(path: Path) -> Recipe:
    """Recipe read from a YAML file. Raises a KalpanaError that names the field at fault."""
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
            f"{path}: field 'latent_anchor_weight': there is nothing to stay near to: "
            "name the autoencoder in init"
        )
    if recipe.family == "clip" and recipe.grad_accum > 1:
        raise KalpanaError(
            f"{path}: field 'grad_accum': the contrastive loss needs the whole batch at once: "
            "write grad_cache_chunk instead"
        )
    if recipe.self_train_dir and recipe.aux_weight:
        raise KalpanaError(
            f"{path}: field 'aux_weight': pictures of self_train_dir have no patch labels: "
            "leave it out"
        )
    if recipe.family in ("flow", "video-vae", "video") and recipe.vae is None:
        raise KalpanaError(
            f"{path}: field 'vae': a {recipe.family} recipe names its autoencoder's weights, "
            "such as weights/default/vae.safetensors"
        )
    if recipe.family in TOKENS and recipe.vqgan is None:
        raise KalpanaError(
            f"{path}: field 'vqgan': a {recipe.family} recipe names the weights that turn "
            "pictures into tokens, such as weights/vqgan/vqgan.safetensors"
        )
    return recipe
