"""Training of an adapter (LoRA) on a folder of pictures, with pictures of the world beside them so
that the rest is not forgotten (prior preservation, Ruiz et al. 2023)."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from PIL import Image
from pydantic import Field
from torch import Generator, Tensor

from kalpana.hub.weights import family_of, files_of, fingerprint, load_module
from kalpana.media import read_picture, to_pixels, write
from kalpana.models.lora import LoRA, adapted
from kalpana.models.vae import VAE
from kalpana.train import data_cache
from kalpana.train.diffusion import DiffusionBatch, DiffusionTask
from kalpana.train.flow import LatentData, LatentRecipe
from kalpana.train.recipe import located
from kalpana.train.task import SORT, Metrics
from kalpana.types import KalpanaError
from kalpana.understand.folder import SUFFIXES

MOST = 500  # pictures of a folder
CROPS = 256  # at most, random crops that are coded in advance
SMALLEST = 0.8  # side of a crop, as a share of the picture's shorter side
SHOWN = 16  # pictures of a sheet
# Names that cameras and programs give to files, which say nothing of the picture.
CAMERA = re.compile(
    r"(img|dsc[nf]?|dscf|pxl|mvimg|image|photo|picture|pic|screenshot|whatsapp image|download|"
    r"unnamed|untitled|p|wa|vid|scan)?[\W_\d]*(am|pm|at|wa\d+|copy|edited|[\W_\d])*",
    re.IGNORECASE,
)


class LoRARecipe(LatentRecipe):
    """Recipe of an adapter."""

    refuses: ClassVar = dict.fromkeys(
        ("self_train_dir", "aux_weight"), "an adapter is not trained on such data"
    )

    family: Literal["lora"] = "lora"
    image_model: Path = Field(
        description="weights of the network that the adapter is for, such as "
        "weights/default/control_dit.safetensors"
    )
    data: Path = Field(
        description="folder of pictures, at best 5 to 20; NAME.txt beside a picture is its caption"
    )
    word: str = Field(
        default="",
        max_length=100,
        description="the word that stands for what the pictures show, in their captions and in "
        "later prompts",
    )
    prior_share: float = Field(
        default=0.3,
        ge=0,
        lt=1,
        description="share of the samples that are pictures of the world, which keep the network "
        "from forgetting",
    )

    def problems(self) -> Iterator[tuple[str, str]]:
        yield from super().problems()
        if other := self.model.keys() - {"rank", "alpha"}:
            yield "model", f"of {', '.join(sorted(other))}: an adapter has a rank and an alpha"


def pictures_of(folder: Path, word: str) -> tuple[list[Image.Image], list[str]]:
    """The pictures of a folder in the order of their names, each with its caption.

    The caption is the text of NAME.txt, or else the words of the file name unless a camera gave it,
    and begins with ``word`` where it does not hold it. Raises KalpanaError if there are no
    pictures, too many, or one has no caption.
    """
    files = _files(folder)
    captions = [_caption(file, word.strip()) for file in files]
    for file, caption in zip(files, captions, strict=True):
        if not caption:
            raise KalpanaError(
                f"data: {file} has no caption: give a word by --word, write a caption into "
                f"{file.with_suffix('.txt').name}, or name a captioner, such as --captioner dalle"
            )
    return [read_picture(file) for file in files], captions


def write_captions(folder: Path, tell: Callable[[list[Image.Image]], list[str]]) -> list[Path]:
    """Write NAME.txt beside each picture of a folder that has none, and whose file name says
    nothing, with its caption by ``tell``; the files that were written. Raises KalpanaError as
    ``pictures_of``, or if a file cannot be written."""
    bare = [file for file in _files(folder) if not _has_words(file)]
    written = [file.with_suffix(".txt") for file in bare]
    for path, text in zip(written, tell([read_picture(file) for file in bare]), strict=True):
        try:
            write(path, f"{text}\n".encode())
        except OSError as error:
            raise KalpanaError(f"data: {path} cannot be written: {error.strerror}") from None
    return written


def _files(folder: Path) -> list[Path]:
    """The files of the pictures in a folder, by name."""
    if not folder.is_dir():
        raise KalpanaError(f"data: {folder} is no folder: name one of pictures, by --data FOLDER")
    files = sorted(each for each in folder.iterdir() if each.suffix.lower() in SUFFIXES)
    if not files:
        raise KalpanaError(f"data: there are no pictures in {folder}: put 5 to 20 there")
    if len(files) > MOST:
        raise KalpanaError(
            f"data: {folder} has {len(files):,} pictures, and an adapter learns from at most "
            f"{MOST}: choose some, or train the whole network by another recipe"
        )
    return files


def _has_words(file: Path) -> bool:
    """Whether a picture has a text beside it, or a file name that says something of it."""
    return file.with_suffix(".txt").is_file() or not CAMERA.fullmatch(file.stem)


def _caption(file: Path, word: str) -> str:
    """The caption of a picture, empty if there is none."""
    beside = file.with_suffix(".txt")
    if beside.is_file():
        try:
            text = " ".join(beside.read_text(encoding="utf-8-sig").split())
        except UnicodeDecodeError:
            raise KalpanaError(f"data: {beside} is no UTF-8 text: save it as UTF-8") from None
    else:
        name = file.stem if _has_words(file) else ""
        text = " ".join(re.sub(r"[\s_.,;()\[\]#+-]+|\d+$", " ", name).split())
    if word.casefold() in text.casefold():
        return text
    return f"{word}, {text}" if text else word


class LoRAData(LatentData):
    """Latents and captions of a folder of pictures, and of a pool of the world's."""

    def __init__(self, recipe: LoRARecipe, *args: Any) -> None:
        pictures, self.own_captions = pictures_of(located(recipe.data), recipe.word)
        super().__init__(recipe, *args)
        self.recipe: LoRARecipe = recipe
        vae, _, _, device, _ = args
        side = self.latents.shape[-1] * vae.factor
        self.own, self.own_rows = crops(pictures, side, recipe.seed, vae, device)

    def batch(self, step: int) -> DiffusionBatch:
        rng = np.random.default_rng([self.recipe.seed, step])
        own = rng.random(self.recipe.batch) >= self.recipe.prior_share
        rows, captions = zip(*self.captions(step), strict=True)
        chosen = rng.integers(len(self.own), size=len(rows))
        x0 = np.stack(
            [
                self.own[k] if mine else self.latents[row]
                for row, k, mine in zip(rows, chosen, own, strict=True)
            ]
        )
        texts = [
            self.own_captions[self.own_rows[k]] if mine else caption
            for caption, k, mine in zip(captions, chosen, own, strict=True)
        ]
        return DiffusionBatch(torch.from_numpy(x0), self._tokens(texts))

    def sheet(self) -> DiffusionBatch:
        """The first of the own pictures."""
        rows = [self.own_rows.index(k) for k in range(min(SHOWN, len(self.own_captions)))]
        captions = self.own_captions[: len(rows)]
        return DiffusionBatch(torch.from_numpy(self.own[rows]), self._tokens(captions))


def crops(
    pictures: list[Image.Image], side: int, seed: int, vae: VAE, device: torch.device
) -> tuple[np.ndarray, list[int]]:
    """Latents (n, channels, h, w) float16 of random crops of pictures, ``side`` pixels wide, and
    the picture of each; the first of each picture is the largest square in its middle."""
    rng = np.random.default_rng([seed, len(pictures)])
    each = max(CROPS // len(pictures), 1)
    found, rows = [], []
    for row, picture in enumerate(pictures):
        shorter = min(picture.size)
        for k in range(each):
            size = shorter if k == 0 else round(shorter * rng.uniform(SMALLEST, 1))
            left, top = (
                (whole - size) / 2 if k == 0 else rng.uniform(0, whole - size)
                for whole in picture.size
            )
            box = (left, top, left + size, top + size)
            found.append(picture.resize((side, side), Image.Resampling.LANCZOS, box))
            rows.append(row)
    coded = []
    with torch.no_grad():
        for start in range(0, len(found), SORT):
            pixels = to_pixels(found[start : start + SORT]).to(device)
            coded.append(vae.encode(pixels).to(torch.float16).cpu().numpy())
    return np.concatenate(coded), rows


class LoRATask(DiffusionTask):
    """Diffusion task of an adapter; the network that it changes stays as it is."""

    data: LoRAData

    def __init__(
        self, recipe: LoRARecipe, device: torch.device, progress: data_cache.Progress
    ) -> None:
        path = located(recipe.image_model)
        files = files_of(path)
        family = family_of(path)
        self.base = load_module(path, family).to(device)
        self.base_files = {file.name: fingerprint(file) for file in files}
        vae = load_module(located(recipe.vae), "vae").to(device)
        config = self.base.config
        data = LoRAData(recipe, vae, config.length, getattr(config, "patch", 1), device, progress)
        model = LoRA.of(self.base, family, **recipe.model)
        super().__init__(recipe, device, model, data)

    @property
    def network(self) -> Any:
        return adapted(self.base, [(self.model, 1.0)])

    @property
    def provenance(self) -> dict[str, Any]:
        """What the weights say of the network that they are for."""
        return {"base": self.base_files}

    def evaluate(self) -> tuple[Metrics, Tensor]:
        """Error on dev data of the world, which rises where the network forgets; the sheet has
        samples for the captions of the folder."""
        rng: Generator = torch.Generator().manual_seed(0)
        return {"dev_loss": self.dev_error(rng)}, self.samples(self.data.sheet(), rng)
