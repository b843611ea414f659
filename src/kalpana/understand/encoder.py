"""Pictures and texts as vectors in one space, where those that belong together have a large cosine.

    encoder = load("openai/clip-vit-base-patch32")
    encoder.images([Image.open("cat.jpg")]) @ encoder.texts(["a cat", "एक बिल्ली"]).T

By a CLIP of our own or by a public CLIP or SigLIP, whose pictures are prepared here as 🤗 transformers' PIL processors prepare them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Protocol

import torch
from PIL import Image
from torch import Tensor

from kalpana.hub import clip as public
from kalpana.hub.card import CARD, read_card, weights_dir
from kalpana.hub.clip import Framing
from kalpana.hub.public import hashed
from kalpana.hub.weights import files_of, find_device, load_module
from kalpana.media import rgb, to_pixels
from kalpana.models.clip import CLIP, Config, unit
from kalpana.text.tokenizer import Tokenizer, Window
from kalpana.types import KalpanaError, Tokens

FILE, FAMILY = "clip.safetensors", "clip"
PICTURES, TEXTS = 32, 256  # that go through the model together
LONG = 256  # times as long as it is wide: what a picture has beyond that is cropped away first, before it is resized to gigabytes


class Words(Protocol):
    """A model's tokenizer: tokens of texts, what of a text it leaves out, and the words of a text that it never met."""

    def encode(self, texts: Sequence[str], /) -> Tokens: ...
    def cut(self, text: str, /) -> str: ...
    def unknown(self, text: str, /) -> tuple[str, ...]: ...


@dataclass(frozen=True)
class Encoder:
    """A model that puts pictures and texts into one space. ``fingerprint`` is the hash of its weights, as vectors of other weights
    cannot be compared; ``words`` tells what of a text it does not read."""

    name: str
    fingerprint: str
    model: CLIP
    framing: Framing
    words: Words

    @property
    def size(self) -> int:
        """Numbers in a vector."""
        return self.model.config.features

    @torch.inference_mode()
    def images(self, images: Sequence[Image.Image]) -> Tensor:
        """Vectors (n, size) of pictures of any size and mode, fp32, of length 1, on the CPU."""
        device, rows = self.model.logit_scale.device, [torch.zeros(0, self.size)]
        for k in range(0, len(images), PICTURES):
            pixels = to_pixels([framed(image, self.framing) for image in images[k : k + PICTURES]])
            rows.append(unit(self.model.image(pixels.to(device)).float()).cpu())
        return torch.cat(rows)

    @torch.inference_mode()
    def texts(self, texts: Sequence[str]) -> Tensor:
        """Vectors (n, size) of texts, fp32, of length 1, on the CPU. What is too long is cut: ``words.cut`` tells what."""
        device, rows = self.model.logit_scale.device, [torch.zeros(0, self.size)]
        for k in range(0, len(texts), TEXTS):
            tokens = self.words.encode(texts[k : k + TEXTS])
            rows.append(unit(self.model.text(tokens.to(device)).float()).cpu())
        return torch.cat(rows)

    def unknown(self, text: str) -> tuple[str, ...]:
        """The words of a text that the model never met."""
        return self.words.unknown(text)

    @torch.inference_mode()
    def probabilities(self, images: Tensor, texts: Tensor, sigmoid: bool | None = None) -> Tensor:
        """How likely each text is of each picture, (images, texts), by their vectors: which text it is, which adds up to 1 (a softmax),
        or for every text by itself (a sigmoid); as the model was trained where None.

        Raises KalpanaError where a sigmoid is asked of a model trained by a softmax, for which only differences mean anything.
        """
        trained = self.model.config.loss == "sigmoid"
        if sigmoid and not trained:
            raise KalpanaError(
                f"model {self.name!r} learned by a softmax, and knows which label fits best but not whether any does: "
                "leave out the sigmoid, or take a SigLIP, such as google/siglip-base-patch16-224"
            )
        device = self.model.logit_scale.device
        logits = self.model.logits(images.to(device), texts.to(device)).cpu()
        return logits.sigmoid() if (trained if sigmoid is None else sigmoid) else logits.softmax(1)


def load(name: str = FAMILY, device: str | None = None, bf16: bool = False) -> Encoder:
    """The encoder of a name: of a CLIP that comes with Kalpana, a folder of weights, a folder of a public checkpoint, or such a checkpoint
    by its name, as openai/clip-vit-base-patch32. ClampWithGrad, so that asking again costs nothing.

    ``device`` is a GPU where there is one, unless named. In ``bf16`` the model takes half the memory and less time, and vectors have a
    cosine of about 0.9999 to those in fp32. Raises KalpanaError where there is no such model or device, a CPU does not compute in
    bfloat16, or the files are damaged, changed or of another family.
    """
    folder = (
        weights_dir() / name if name and (weights_dir() / name / CARD).is_file() else Path(name)
    )
    if not (name and (folder / CARD).is_file()):
        if name == FAMILY and not folder.is_dir():
            raise KalpanaError(
                "no weights of a CLIP come with this version of Kalpana: name a public one, such as openai/clip-vit-base-patch32, "
                "or a folder with one in it; or train one by recipes/clip.yaml"
            )
        folder = public.find(name)
    folder = folder.resolve()
    named = name if "/" in name and not Path(name).is_dir() else folder.name
    return _load(
        folder,
        named,
        tuple((path.name, path.stat().st_mtime_ns) for path in sorted(folder.iterdir())),
        device,
        bf16,
    )


@lru_cache(maxsize=2)
def _load(
    folder: Path, name: str, changed: tuple[tuple[str, int], ...], device: str | None, bf16: bool
) -> Encoder:
    where = find_device(device)
    if bf16 and where.type == "cpu" and not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        raise KalpanaError("this CPU does not compute in bfloat16: leave out bf16")
    if not (folder / CARD).is_file():
        checkpoint = public.read(folder)
        return Encoder(
            name,
            checkpoint.fingerprint,
            placed(checkpoint.model, where, bf16),
            checkpoint.framing,
            checkpoint.words,
        )
    card, tokenizer = read_card(folder), Tokenizer.load()
    if card.family != FAMILY:
        raise KalpanaError(
            f"model {card.name!r} is of family {card.family!r}, which does not compare pictures with words: name a CLIP"
        )
    model = load_module(folder / FILE, FAMILY, lambda **config: CLIP(Config(**config)), card.files)
    if model.config.vocabulary != len(tokenizer):
        raise KalpanaError(
            f"model {card.name!r} reads {model.config.vocabulary} tokens, not the {len(tokenizer)} of this version of Kalpana"
        )
    framing = Framing(
        (model.config.side, model.config.side), None
    )  # squeezed rather than cropped: what is at the edge is seen too
    return Encoder(
        card.name,
        hashed(files_of(folder / FILE)),
        placed(model, where, bf16),
        framing,
        Window(tokenizer, model.config.length),
    )


def placed(model: CLIP, device: torch.device, bf16: bool) -> CLIP:
    """The model on the device; in bf16 its towers alone, as a scale of 100 would come out as 99."""
    for tower in (model.see, model.read) if bf16 else ():
        tower.to(torch.bfloat16)
    return model.to(device)


def framed(image: Image.Image, framing: Framing) -> Image.Image:
    """The picture, RGB, as the framing says."""
    image = rgb(image)
    if isinstance(framing.resize, int):
        short, long = sorted(image.size)
        if long > LONG * short:
            image = cropped(image, min(image.height, LONG * short), min(image.width, LONG * short))
            short, long = sorted(image.size)
        sides = framing.resize, framing.resize * long // short
        image = image.resize(
            sides if image.width <= image.height else sides[::-1], framing.resample
        )
    elif framing.resize:
        image = image.resize(framing.resize[::-1], framing.resample)
    return cropped(image, *framing.crop) if framing.crop else image


def cropped(image: Image.Image, height: int, width: int) -> Image.Image:
    """The middle of the picture, black beyond its edges; of a middle between two pixels the upper and left one."""
    left, top = (image.width - width) // 2, (image.height - height) // 2
    return image.crop((left, top, left + width, top + height))
