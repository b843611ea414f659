"""Text-to-image by image tokens: DALL-E, MaskGIT and DALL-E mini, including the public dalle-mini.

The models sample the tokens of a VQGAN, which decodes them to pixels. A DALL-E also captions
pictures.

Seeds: the random numbers of each picture come from its own generator, on the CPU, and the rows of a
batch are computed independently, so a picture is the same alone and in a batch. Matrix kernels that
depend on the number of rows may still round the last bits of a logit the other way. Where two
tokens are that close, another one is sampled, and others after it: on the CPUs measured (x86), in
less than one picture of ten thousand.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Generator, Tensor

from kalpana.capabilities import Capabilities
from kalpana.families import FAMILIES
from kalpana.hub import dalle_mini as public
from kalpana.hub import vqgan as public_vqgan
from kalpana.hub.card import Card, vqgan_of
from kalpana.hub.weights import files_of, find_device, fingerprint, load_module
from kalpana.media import rgb, to_pixels
from kalpana.models import dalle, dalle_mini
from kalpana.models.dalle import DALLE, MaskGIT
from kalpana.models.dalle_mini import DalleMini
from kalpana.models.vqgan import VQGAN
from kalpana.pipelines.editing import Edit
from kalpana.pipelines.pipeline import TOGETHER, Progress, answer
from kalpana.pipelines.rerank import Ranker
from kalpana.pipelines.tokens import TokenStep, caption, draw, masked, stream
from kalpana.request import Request, ask, clean
from kalpana.text.tokenizer import BPE, Tokenizer, Window
from kalpana.text.tokenizer import language as language_of
from kalpana.types import Cond, KalpanaError, Step, Tokens

Network = DALLE | MaskGIT | DalleMini
PREVIEWS = 0.1  # largest share of the time spent on previews; each decodes a batch of pictures


@dataclass(frozen=True)
class TextToTokens:
    """A loaded text-to-image model of image tokens and its VQGAN; ``files`` maps its file names to
    their SHA-256, and ``words`` tokenizes the prompt."""

    name: str
    family: str
    capabilities: Capabilities = field(repr=False)
    files: dict[str, str] = field(repr=False)
    words: Window | public.Words = field(repr=False)
    network: Network = field(repr=False)
    vqgan: VQGAN = field(repr=False)

    @classmethod
    def read(cls, folder: Path, card: Card, device: str | None = None) -> TextToTokens:
        """The model in a folder of weights: dalle.safetensors, maskgit.safetensors or
        dalle_mini.safetensors, and vqgan.safetensors, without which the VQGAN shipped with Kalpana
        is used.

        Raises KalpanaError if the network, the tokenizer and the VQGAN do not match, and as
        ``load_module`` and ``find_device``.
        """
        target, tokenizer, vqgan_path = find_device(device), Tokenizer.load(), vqgan_of(folder)
        name, capabilities = FAMILIES[card.family].file, card.usable()
        assert capabilities is not None
        if card.files.get(BPE.name) not in (None, fingerprint(BPE)):
            raise KalpanaError(
                f"model {card.name!r} learned to read with another tokenizer than {BPE}: "
                "take that one, or train it again"
            )
        shipped = () if vqgan_path.parent == folder else files_of(vqgan_path)
        if any(card.files.get(path.name) not in (None, fingerprint(path)) for path in shipped):
            raise KalpanaError(
                f"model {card.name!r} learned the tokens of another VQGAN than {vqgan_path}: "
                f"put its own {vqgan_path.name} into {folder}"
            )
        network = load_module(folder / name, card.family, card.files)
        if network.config.vocabulary != len(tokenizer):
            raise KalpanaError(
                f"model {card.name!r} reads {network.config.vocabulary} tokens, "
                f"not the {len(tokenizer)} of this version of Kalpana"
            )
        model = cls(
            name=card.name,
            family=card.family,
            capabilities=capabilities,
            network=network.to(target),
            vqgan=load_module(vqgan_path, "vqgan", card.files).to(target),
            files={
                path.name: card.files.get(path.name) or fingerprint(path)
                for path in (*files_of(folder / name), *files_of(vqgan_path), BPE)
            },
            words=Window(tokenizer, network.config.length),
        )
        return _with_sizes(model, vqgan_path, folder)

    @classmethod
    def read_public(cls, folder: Path, device: str | None = None) -> TextToTokens:
        """The public dalle-mini or dalle-mega in a folder, with the default parameters of
        min-dalle. Raises KalpanaError if network and VQGAN do not match, and as
        ``hub.dalle_mini.read`` and ``hub.vqgan.read``."""
        public.weights_of(folder)  # reports missing files before large ones are read
        target, vqgan_path = find_device(device), public.detokenizer_of(folder)
        checkpoint, decoder = public.read(folder), public_vqgan.read(vqgan_path)
        usual = FAMILIES["dalle-mini"].capabilities
        assert usual is not None
        defaults = usual.defaults.model_copy(update={"guidance": 16.0, "top_k": 256})
        model = cls(
            name=folder.name,
            family="dalle-mini",
            capabilities=usual.model_copy(update={"languages": ("en",), "defaults": defaults}),
            network=checkpoint.model.to(target),
            vqgan=decoder.model.to(target),
            files={folder.name: checkpoint.fingerprint, vqgan_path.name: decoder.fingerprint},
            words=checkpoint.words,
        )
        return _with_sizes(model, vqgan_path, folder)

    @property
    def device(self) -> torch.device:
        return next(self.network.parameters()).device

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of a picture of the network's own size, in tokens."""
        config = self.network.config
        if isinstance(config, dalle.Config):
            return config.rows, config.columns
        return math.isqrt(config.image_length), math.isqrt(config.image_length)

    @property
    def size(self) -> tuple[int, int]:
        """Width and height of a picture of the network's own size, in pixels."""
        rows, columns = self.grid
        return columns * self.vqgan.config.factor, rows * self.vqgan.config.factor

    def generate(
        self, request: Request | str, *, rank_by: Ranker | None = None, **fields: Any
    ) -> Iterator[Step]:
        """A stream of steps, one for each row of tokens or each decoding iteration, and one for
        each decoding to pixels; the last one carries the Result. Closing the iterator cancels.

        Previews show the tokens sampled so far, with missing rows in grey; ``PREVIEWS`` limits the
        time spent on them. Pictures larger than a DALL-E was trained on are sampled in a sliding
        window, see ``tokens.stream``. An image needs a mask: its other tokens are kept.

        Raises KalpanaError at the call, before the first Step, if the request needs a capability
        that the model lacks, has ``best_of`` above 1 without a ranker, or an image without a mask.
        """
        request = ask(request, **fields)
        if request.image is not None and request.mask is None and "image" in self.capabilities.uses:
            raise KalpanaError(
                f"image cannot be used by model {self.name!r} without a mask: mask the part that "
                "is to be generated anew (a diffusion model changes whole pictures)"
            )
        if request.image is not None and self.vqgan.encoder is None:
            raise KalpanaError(
                f"image cannot be used by model {self.name!r}: the weights of its VQGAN have no "
                "encoder, they turn tokens into pictures, not back"
            )
        return answer(self, self.words, request, partial(_sample, self), rank_by)

    @torch.no_grad()
    def caption(self, images: Sequence[Image.Image], language: str | None = None) -> list[str]:
        """Captions of pictures of any size and mode, by greedy decoding. ``language`` is en or hi;
        None: the model chooses one for each picture.

        Raises KalpanaError if the model cannot caption, or not in this language.
        """
        if not isinstance(self.network, DALLE) or not isinstance(self.words, Window):
            raise KalpanaError(
                f"model {self.name!r} is of family {self.family!r}, "
                "which says nothing of pictures: name a DALL-E"
            )
        check_language(self.name, language, self.capabilities.languages)
        first = (
            None
            if language is None
            else first_tokens(self.words.tokenizer, language).to(self.device)
        )
        texts = list[str]()
        for start in range(0, len(images), TOGETHER):
            resized = [
                rgb(image).resize(self.size, Image.Resampling.BICUBIC)
                for image in images[start : start + TOGETHER]
            ]
            ids = torch.cat(
                [self.vqgan.encode(pixels[None]) for pixels in to_pixels(resized).to(self.device)]
            )
            generators = [Generator() for _ in resized]  # unused at temperature 0
            tokens = caption(self.network, ids, generators, temperature=0, first=first)
            texts += [self.words.tokenizer.decode(row.tolist()) for row in tokens.ids]
        return texts


def _with_sizes(model: TextToTokens, vqgan_path: Path, folder: Path) -> TextToTokens:
    """The model with the picture sizes and the codebook size of its weights in its capabilities. A
    DALL-E also has sizes half as wide or half as tall again, and twice both. Raises KalpanaError if
    network and VQGAN do not match."""
    config, (rows, columns) = model.network.config, model.grid
    if config.codes != model.vqgan.quantiser.size:
        raise KalpanaError(
            f"model {model.name!r} draws {config.codes} tokens, "
            f"and the codebook of {vqgan_path} has {model.vqgan.quantiser.size}: "
            f"put the VQGAN that it learned with into {folder}"
        )
    if isinstance(config, dalle_mini.Config) and rows * columns != config.image_length:
        raise KalpanaError(
            f"model {model.name!r} draws {config.image_length} tokens a picture, "
            "which make no square"
        )
    (width, height), capabilities = model.size, model.capabilities
    wide, tall = (
        side + n // 2 * model.vqgan.config.factor for side, n in ((width, columns), (height, rows))
    )
    larger = (
        ((wide, height), (width, tall), (2 * width, 2 * height))
        if isinstance(model.network, DALLE)
        else ()
    )
    size, *others = (f"{w}x{h}" for w, h in ((width, height), *larger))
    changes = {
        "sizes": (size, *others),
        "tokens": config.codes,
        "defaults": capabilities.defaults.model_copy(update={"size": size}),
    }
    return replace(model, capabilities=capabilities.model_copy(update=changes))


def _sample(model: TextToTokens, request: Request, edit: Edit | None) -> Iterator[Progress]:
    """Sample one batch, the pictures of a resolved request."""
    began, spent = time.perf_counter(), 0.0
    generators = [Generator().manual_seed(seed) for seed in request.each_seed()]
    for step in _sample_tokens(model, request, generators, edit):
        preview, now = None, time.perf_counter()
        if step.index < step.total and spent <= PREVIEWS * (now - began):
            preview = _preview(model, step.ids, _shape(model, request)[0])
            spent += time.perf_counter() - now
        yield Progress("tokens", step.total + 1, preview)
    pixels = _decode(model, step.ids)
    yield Progress("decode", step.total + 1, pixels.clamp(-1, 1), pixels)


def _sample_tokens(
    model: TextToTokens, request: Request, generators: Sequence[Generator], edit: Edit | None
) -> Iterator[TokenStep]:
    """A stream of the tokens of a resolved request's pictures, one picture for each generator."""
    assert (
        request.temperature is not None
        and request.top_p is not None
        and request.guidance is not None
    )  # resolved
    tokens = model.words.encode([clean(request.prompt)] * len(generators)).to(model.device)
    settings = request.temperature, request.top_k, request.top_p, request.guidance
    given = None if edit is None else _given(model, edit).expand(len(generators), -1, -1)
    if isinstance(model.network, DALLE):
        cond, shape = Cond(tokens), _shape(model, request)
        return stream(model.network, cond, generators, *settings, given=given, shape=shape)
    if isinstance(model.network, DalleMini):
        return _stream_mini(model.network, tokens, generators, *settings, given=given)
    assert request.steps  # resolved
    return masked(model.network, Cond(tokens), generators, request.steps, *settings, given=given)


def _stream_mini(
    network: DalleMini,
    tokens: Tokens,
    generators: Sequence[Generator],
    temperature: float,
    top_k: int | None,
    top_p: float,
    guidance: float,
    given: Tensor | None,
) -> Iterator[TokenStep]:
    """Autoregressive sampling by a DALL-E mini, as ``tokens.stream``; its pictures are square.
    Given tokens are passed through the network one by one too."""
    side, codes = math.isqrt(network.config.image_length), network.config.codes
    ids = list[Tensor]()

    def choose(logits: Tensor) -> Tensor:
        new = draw(logits, temperature, top_k, top_p, generators)
        if given is None:
            return new
        known = given.flatten(1)[:, len(ids)]
        return torch.where(known == codes, new, known)

    for each in network.generate(tokens, choose, guidance):
        ids.append(each)
        row, column = divmod(len(ids), side)
        if not column:
            yield TokenStep(row, side, torch.stack(ids, 1).unflatten(1, (row, side)))


def _decode(model: TextToTokens, ids: Tensor) -> Tensor:
    """Pixels (b, 3, h, w) of tokens (b, r, columns); one picture at a time, as the activations of
    the widest layers set the peak memory."""
    return torch.cat([model.vqgan.decode(each[None]) for each in ids])


def _shape(model: TextToTokens, request: Request) -> tuple[int, int]:
    """Rows and columns of a resolved request's pictures, in tokens."""
    assert request.width and request.height  # resolved
    return request.height // model.vqgan.config.factor, request.width // model.vqgan.config.factor


def _preview(model: TextToTokens, ids: Tensor, rows: int) -> Tensor:
    """Pixels (b, 3, h, w) of tokens (b, r, columns), the upper r of ``rows`` rows; grey below."""
    pixels = _decode(model, ids).clamp(-1, 1)
    return F.pad(pixels, (0, 0, 0, rows * model.vqgan.config.factor - pixels.shape[2]))


@torch.no_grad()
def _given(model: TextToTokens, edit: Edit) -> Tensor:
    """The tokens (1, rows, columns) of an input picture, with id ``codes`` where it is masked."""
    cells = edit.cells(model.vqgan.config.factor)
    assert cells is not None
    ids = model.vqgan.encode(edit.pixels.to(model.device))
    return torch.where(cells[:, 0].to(model.device) > 0, model.network.config.codes, ids)


def check_language(model: str, language: str | None, known: Sequence[str]) -> None:
    """Raises KalpanaError if a model does not write captions in a language; None is any."""
    if language not in (None, *known):
        raise KalpanaError(
            f"model {model!r} does not speak {language!r}: write {' or '.join(known)}"
        )


def first_tokens(tokenizer: Tokenizer, language: str) -> Tensor:
    """Mask (vocabulary,) of the tokens that may begin a caption in a language: those that contain a
    letter and decode to text in its script."""
    texts = [tokenizer.decode([i]) for i in range(len(tokenizer))]
    return torch.tensor(
        [
            any(letter.isalpha() for letter in text) and language_of(text) == language
            for text in texts
        ]
    )
