"""Image and text embeddings in one space, where matching pairs have a large cosine similarity.

    encoder = load("openai/clip-vit-base-patch32")
    encoder.images([Image.open("cat.jpg")]) @ encoder.texts(["a cat", "एक बिल्ली"]).T

The model is a CLIP of Kalpana or a public CLIP or SigLIP. Preprocessing for public models is that
of the PIL processors of 🤗 transformers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Protocol

import torch
from PIL import Image
from torch import Tensor

from kalpana.hub import clip as public
from kalpana.hub.card import CARD, find_model, model_folders, read_card
from kalpana.hub.clip import Framing
from kalpana.hub.public import hashed
from kalpana.hub.weights import files_of, find_device, load_module
from kalpana.media import rgb, to_pixels
from kalpana.models.clip import CLIP, unit
from kalpana.text.tokenizer import Tokenizer, Window
from kalpana.types import KalpanaError, Tokens

FILE, FAMILY = "clip.safetensors", "clip"
PICTURES, TEXTS = 32, 256  # batch sizes
# Largest aspect ratio: longer pictures are cropped before they are resized, since resizing the
# shorter side up would need gigabytes.
LONG = 256


class Words(Protocol):
    """A model's tokenizer: tokens, the truncated part of a text, and its unknown words."""

    def encode(self, texts: Sequence[str], /) -> Tokens: ...
    def cut(self, text: str, /) -> str: ...
    def unknown(self, text: str, /) -> tuple[str, ...]: ...


@dataclass(frozen=True)
class Encoder:
    """A loaded CLIP model that embeds pictures and texts in one space.

    ``fingerprint`` is the hash of its weights: embeddings of different weights are not comparable.
    ``words`` is its tokenizer. ``photographs`` tells whether it learned from photographs.
    """

    name: str
    fingerprint: str
    model: CLIP = field(repr=False)
    framing: Framing = field(repr=False)
    words: Words = field(repr=False)
    photographs: bool = field(default=True, repr=False)

    @property
    def size(self) -> int:
        """Dimension of the embeddings."""
        return self.model.config.features

    @torch.inference_mode()
    def images(self, images: Sequence[Image.Image]) -> Tensor:
        """Unit embeddings (n, size) of pictures of any size and mode, fp32, on the CPU."""
        device, rows = (
            self.model.logit_scale.device,
            [torch.zeros(0, self.size, dtype=torch.float32)],
        )
        for k in range(0, len(images), PICTURES):
            pixels = to_pixels([framed(image, self.framing) for image in images[k : k + PICTURES]])
            rows.append(unit(self.model.image(pixels.to(device)).float()).cpu())
        return torch.cat(rows)

    @torch.inference_mode()
    def texts(self, texts: Sequence[str]) -> Tensor:
        """Unit embeddings (n, size) of texts, fp32, on the CPU.

        A text that is too long is truncated: ``words.cut`` returns the lost part.
        """
        device, rows = (
            self.model.logit_scale.device,
            [torch.zeros(0, self.size, dtype=torch.float32)],
        )
        for k in range(0, len(texts), TEXTS):
            tokens = self.words.encode(texts[k : k + TEXTS])
            rows.append(unit(self.model.text(tokens.to(device)).float()).cpu())
        return torch.cat(rows)

    def unknown(self, text: str) -> tuple[str, ...]:
        """The words of a text that did not occur in the model's training texts."""
        return self.words.unknown(text)

    @torch.inference_mode()
    def probabilities(self, images: Tensor, texts: Tensor, sigmoid: bool | None = None) -> Tensor:
        """Probabilities (images, texts) of each text for each picture, from their embeddings.

        A softmax gives probabilities that sum to 1 over texts; a sigmoid gives each text an
        independent probability. None: the one that the model was trained with.
        Raises: KalpanaError where ``sigmoid`` is true for a model trained with a softmax, whose
        logits have no absolute meaning.
        """
        trained = self.model.config.loss == "sigmoid"
        if sigmoid and not trained:
            raise KalpanaError(
                f"model {self.name!r} learned by a softmax, and knows which label fits best but "
                "not whether any does: leave out the sigmoid, or take a SigLIP, such as "
                "google/siglip-base-patch16-224"
            )
        device = self.model.logit_scale.device
        logits = self.model.logits(images.to(device), texts.to(device)).cpu()
        return logits.sigmoid() if (trained if sigmoid is None else sigmoid) else logits.softmax(1)


def load(name: str = FAMILY, device: str | None = None, bf16: bool = False) -> Encoder:
    """Loads an encoder by name; the two most recent ones are cached.

    ``name`` is a CLIP that comes with Kalpana, a folder of weights, a folder of a public
    checkpoint, or such a checkpoint's name (openai/clip-vit-base-patch32). ``device`` None is a GPU
    if there is one. ``bf16`` halves the memory and takes less time; its embeddings have a cosine of
    about 0.9999 to those in fp32.
    Raises: KalpanaError where there is no such model or device, the CPU does not compute in
    bfloat16, or the files are damaged, changed or of another family.
    """
    folder = find_model(name) if name in model_folders() else Path(name)
    if not (name and (folder / CARD).is_file()):
        if name == FAMILY and not folder.is_dir():
            raise KalpanaError(
                "no weights of a CLIP come with this version of Kalpana: name a public one, such "
                "as openai/clip-vit-base-patch32, or a folder with one in it; or train one by "
                "recipes/clip.yaml"
            )
        folder = public.find(name)
    folder = folder.resolve()
    named = name if "/" in name and not Path(name).is_dir() else folder.name
    changed = tuple((path.name, path.stat().st_mtime_ns) for path in sorted(folder.iterdir()))
    return _load(folder, named, changed, device, bf16)


@lru_cache(maxsize=2)
def _load(
    folder: Path, name: str, changed: tuple[tuple[str, int], ...], device: str | None, bf16: bool
) -> Encoder:
    """The cached part of ``load``; ``changed`` is in the cache key: changed files are reloaded."""
    where = find_device(device)
    if bf16 and where.type == "cpu" and not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        raise KalpanaError("this CPU does not compute in bfloat16: leave out bf16")
    if not (folder / CARD).is_file():
        checkpoint = public.read(folder)
        model, framing = placed(checkpoint.model, where, bf16), checkpoint.framing
        return Encoder(name, checkpoint.fingerprint, model, framing, checkpoint.words)
    card, tokenizer = read_card(folder), Tokenizer.load()
    if card.family != FAMILY:
        raise KalpanaError(
            f"model {card.name!r} is of family {card.family!r}, which does not compare pictures "
            "with words: name a CLIP"
        )
    model = load_module(folder / FILE, FAMILY, card.files)
    if model.config.vocabulary != len(tokenizer):
        raise KalpanaError(
            f"model {card.name!r} reads {model.config.vocabulary} tokens, not the "
            f"{len(tokenizer)} of this version of Kalpana"
        )
    # Resized without regard to the aspect ratio, not cropped, so that the edges remain visible.
    framing = Framing((model.config.side, model.config.side), None)
    fingerprint = hashed(files_of(folder / FILE))
    words = Window(tokenizer, model.config.length)
    model = placed(model, where, bf16)
    return Encoder(card.name, fingerprint, model, framing, words, photographs=False)


def forget() -> None:
    """Empties the cache of ``load``."""
    _load.cache_clear()


def placed(model: CLIP, device: torch.device, bf16: bool) -> CLIP:
    """The model on a device; ``bf16`` converts only its towers: a scale of 100 would become 99."""
    for tower in (model.see, model.read) if bf16 else ():
        tower.to(torch.bfloat16)
    return model.to(device)


def framed(image: Image.Image, framing: Framing) -> Image.Image:
    """The picture as RGB, resized and cropped as ``framing`` says."""
    image = rgb(image)
    if isinstance(framing.resize, int):
        short, long = sorted(image.size)
        if long > LONG * short:
            image = cropped(image, min(image.height, LONG * short), min(image.width, LONG * short))
            short, long = sorted(image.size)
        sides = framing.resize, framing.resize * long // short
        size = sides if image.width <= image.height else sides[::-1]
        image = image.resize(size, framing.resample)
    elif framing.resize:
        image = image.resize(framing.resize[::-1], framing.resample)
    return cropped(image, *framing.crop) if framing.crop else image


def cropped(image: Image.Image, height: int, width: int) -> Image.Image:
    """Centre crop of a picture, padded with black; an odd remainder moves it to the upper left."""
    left, top = (image.width - width) // 2, (image.height - height) // 2
    return image.crop((left, top, left + width, top + height))
