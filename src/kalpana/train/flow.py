"""Training of latent diffusion networks, the flow transformer and the U-Net, on captioned
latents."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from kalpana.diffusion.denoiser import PREDICTIONS, Process
from kalpana.diffusion.schedule import SCHEDULES
from kalpana.families import FAMILIES
from kalpana.hub.weights import family_of, load_module, read_weights
from kalpana.models.vae import VAE
from kalpana.text.tokenizer import Tokenizer
from kalpana.train import data_cache
from kalpana.train.diffusion import DiffusionBatch, DiffusionRecipe, DiffusionTask
from kalpana.train.recipe import located
from kalpana.train.task import HELD_OUT, CaptionSampler, aux_outputs, auxiliary_targets, config_of
from kalpana.types import KalpanaError, Tokens
from kalpana.world.world import World


class LatentRecipe(DiffusionRecipe):
    """Recipe of a diffusion network of the latents of an autoencoder."""

    vae: Path = Field(
        description="weights of the trained autoencoder, such as weights/default/vae.safetensors"
    )
    self_train_dir: Path | None = Field(
        default=None,
        description="folder of the model's own pictures that a verifier found right (rejection "
        "sampling), trained on beside the pool",
    )
    self_train_repeat: int = Field(
        default=1,
        ge=1,
        description="times that a picture of self_train_dir comes up in an epoch, where one of the "
        "pool comes up once",
    )

    def problems(self) -> Iterator[tuple[str, str]]:
        yield from super().problems()
        if self.self_train_dir and self.aux_weight:
            yield "aux_weight", "pictures of self_train_dir have no patch labels: leave it out"


class WidenedRecipe(LatentRecipe):
    """Recipe of a network that starts from a trained image transformer, to which it adds inputs."""

    refuses: ClassVar = dict.fromkeys(
        ("self_train_dir", "aux_weight"), "the family is not trained on such data"
    )

    image_model: Path = Field(
        description="weights of the image transformer to start from, or of the family itself, such "
        "as weights/default/control_dit.safetensors"
    )


class FlowRecipe(LatentRecipe):
    """Recipe of a latent flow transformer."""

    family: Literal["flow"] = "flow"


class UNetRecipe(LatentRecipe):
    """Recipe of a latent U-Net."""

    refuses: ClassVar = {"aux_weight": "a U-Net has no auxiliary head"}

    family: Literal["unet"] = "unet"
    schedule: str = Field(default="cosine", description=f"noise schedule: {', '.join(SCHEDULES)}")
    prediction: str = Field(
        default="v", description=f"what the network predicts: {', '.join(PREDICTIONS)}"
    )
    text_encoder: Path | None = Field(
        default=None,
        description="weights of a flow transformer, whose word embedding and text blocks are the "
        "text encoder and stay as they are",
    )


class LatentData:
    """Latents and captions of a pool of pictures, and of self-training pictures behind it.

    ``length`` is the largest number of caption tokens, and ``patch`` the side of the patches that
    get labels, in latents.
    """

    def __init__(
        self,
        recipe: LatentRecipe,
        vae: VAE,
        length: int,
        patch: int,
        device: torch.device,
        progress: data_cache.Progress,
    ) -> None:
        self.recipe, self.vae, self.length, self.patch = recipe, vae, length, patch
        self.tokenizer, weights = Tokenizer.load(), located(recipe.vae)
        self.world, self.dev = (
            World(recipe.seed, split, kind=recipe.kind) for split in ("train", "dev")
        )
        self.latents, self.dev_latents = (
            data_cache.latents(vae, weights, world, count, device, progress)
            for world, count in ((self.world, recipe.num_images), (self.dev, HELD_OUT))
        )
        self.extra_latents, extra_captions = (  # of self-training
            data_cache.harvested(vae, recipe.self_train_dir, device)
            if recipe.self_train_dir
            else (self.latents[:0], [])
        )
        repeats = np.full(len(extra_captions), recipe.self_train_repeat)
        often = np.concatenate((data_cache.often(recipe, self.world, progress), repeats))
        self.captions = CaptionSampler(recipe, self.world, often, extra_captions)

    def batch(self, step: int) -> DiffusionBatch:
        rows, captions = zip(*self.captions(step), strict=True)
        pool = len(self.latents)  # rows from here on are self-training pictures
        latents = torch.from_numpy(
            np.stack([self.latents[i] if i < pool else self.extra_latents[i - pool] for i in rows])
        )
        layout = auxiliary_targets(self.recipe, self.world, rows, latents.shape[-1] // self.patch)
        return DiffusionBatch(latents, self._tokens(captions), layout=layout)

    def held_out(self, rows: range) -> DiffusionBatch:
        latents = torch.from_numpy(np.array(self.dev_latents[rows.start : rows.stop]))
        return DiffusionBatch(latents, self._tokens([self.dev.describe(i)[0] for i in rows]))

    def decode(self, x0: Tensor) -> Tensor:
        return self.vae.decode(x0)

    def _tokens(self, captions: list[str] | tuple[str, ...]) -> Tokens:
        return self.tokenizer.encode(captions, self.length)


class FlowTask(DiffusionTask):
    """Diffusion task on the latents of the recipe's autoencoder, for the network of its family."""

    data: LatentData

    def __init__(
        self, recipe: LatentRecipe, device: torch.device, progress: data_cache.Progress
    ) -> None:
        family = FAMILIES[recipe.family]
        assert family.codec is not None
        with torch.random.fork_rng(devices=[]):  # the network's own weights do not depend on it
            vae = load_module(located(recipe.vae), family.codec).to(device)
        given = {
            "channels": vae.config.latent,
            "in_channels": vae.config.latent,
            "out_channels": vae.config.latent,
            "aux_outputs": aux_outputs(recipe),
            "precision_weighted": recipe.process == Process("flow", "x0"),
        }
        known = {field.name for field in fields(family.config_class())}
        config = config_of(
            family.config_class(), recipe, {k: v for k, v in given.items() if k in known}
        )
        model = family.build(**vars(config)).to(device)
        data = LatentData(recipe, vae, config.length, getattr(config, "patch", 1), device, progress)
        super().__init__(recipe, device, model, data)


def widened(kind: Any, recipe: WidenedRecipe, **fields: Any) -> Any:
    """Network of the class ``kind``, for training: the recipe's image transformer, widened, or a
    network of the family as it is. ``fields`` are those of its config that the recipe does not
    set."""
    path = located(recipe.image_model)
    image = load_module(path, recipe.family if family_of(path) == recipe.family else "flow")
    # The mean with x_t / (1 - t) holds for this process alone.
    weighted = recipe.process == Process("flow", "x0")
    given = {"aux_outputs": 0, "precision_weighted": weighted} | recipe.model | fields
    return kind.widen(image, **given).requires_grad_(True)


class UNetTask(FlowTask):
    """Diffusion task of a U-Net, whose text encoder may be that of a trained flow transformer."""

    def __init__(
        self, recipe: UNetRecipe, device: torch.device, progress: data_cache.Progress
    ) -> None:
        super().__init__(recipe, device, progress)
        if recipe.text_encoder is None:
            return
        tensors, text = read_weights(located(recipe.text_encoder), "flow").tensors, self.model.text
        wanted = text.state_dict()
        for name, like in wanted.items():
            if name not in tensors or tensors[name].shape != like.shape:
                found = tuple(tensors[name].shape) if name in tensors else "not there"
                raise KalpanaError(
                    f"recipe {recipe.name}: field 'text_encoder': {name} in {recipe.text_encoder} "
                    f"is {found}, and the fields 'model' ask for {tuple(like.shape)}"
                )
        text.load_state_dict({name: tensors[name] for name in wanted})
        text.requires_grad_(False)
