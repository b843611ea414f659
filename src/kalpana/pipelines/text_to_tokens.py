"""Words to pictures by way of tokens: DALL-E, MaskGIT and DALL-E mini, ours and the public ones. They draw the tokens of a VQGAN, which
makes pixels of them; a DALL-E also says what a picture shows.

Seeds: a picture's luck comes from a generator of its own, on the CPU, and no row of a batch takes part in another's sums, so the same
picture comes alone and in a batch. Matrix kernels that depend on the number of rows may still round the last bits of a logit the other
way; where two tokens are as near to each other as that, another one is drawn, and others after it: on the CPUs we measured (x86), in less
than one picture of ten thousand.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Generator, Tensor

from kalpana.hub import dalle_mini as public
from kalpana.hub import vqgan as public_vqgan
from kalpana.hub.card import Card, vqgan_of
from kalpana.hub.weights import files_of, find_device, fingerprint, load_module
from kalpana.media import rgb, to_pixels
from kalpana.models import dalle, dalle_mini, vqgan
from kalpana.models.dalle import DALLE, MaskGIT
from kalpana.models.dalle_mini import DalleMini
from kalpana.models.vqgan import VQGAN
from kalpana.pipelines.pipeline import TOGETHER, Progress, answer
from kalpana.pipelines.rerank import Ranker
from kalpana.pipelines.tokens import TokenStep, caption, draw, masked, stream
from kalpana.request import USUAL, Capabilities, Request, ask, clean
from kalpana.text.tokenizer import BPE, Tokenizer, Window
from kalpana.text.tokenizer import language as language_of
from kalpana.types import Cond, KalpanaError, Step, Tokens

Network = DALLE | MaskGIT | DalleMini
Top = (
    Image.Image | Sequence[Sequence[int]]
)  # of a picture that is to be completed: itself, or rows of its tokens

NETWORKS: dict[
    str, tuple[str, Callable[..., Network]]
] = {  # the file of each family, and what is made of its config
    "dalle": ("dalle.safetensors", lambda **config: DALLE(dalle.Config(**config))),
    "maskgit": ("maskgit.safetensors", lambda **config: MaskGIT(dalle.Config(**config))),
    "dalle-mini": (
        "dalle_mini.safetensors",
        lambda **config: DalleMini(dalle_mini.Config(**config)),
    ),
}
PREVIEWS = 0.1  # the part of the time that previews may take: each of them is a picture decoded


@dataclass(frozen=True)
class TextToTokens:
    """A model that draws from words by way of tokens, whole and ready; ``files`` maps its files to their SHA-256."""

    name: str
    family: str
    capabilities: Capabilities
    files: dict[str, str]
    words: Window | public.Words
    network: Network
    vqgan: VQGAN

    @classmethod
    def read(cls, folder: Path, card: Card, device: str | None = None) -> TextToTokens:
        """The model in a folder of weights: dalle.safetensors, maskgit.safetensors or dalle_mini.safetensors, and vqgan.safetensors, or
        without it the VQGAN that comes with Kalpana. Raises KalpanaError as ``load_module`` and ``find_device``, and where they do not
        belong together."""
        place, tokenizer, pictures = find_device(device), Tokenizer.load(), vqgan_of(folder)
        name, build = NETWORKS[card.family]
        if card.files.get(BPE.name) not in (None, fingerprint(BPE)):
            raise KalpanaError(
                f"model {card.name!r} learned to read with another tokenizer than {BPE}: take that one, or train it again"
            )
        elsewhere = () if pictures.parent == folder else files_of(pictures)
        if any(card.files.get(path.name) not in (None, fingerprint(path)) for path in elsewhere):
            raise KalpanaError(
                f"model {card.name!r} learned the tokens of another VQGAN than {pictures}: put its own {pictures.name} into {folder}"
            )
        network = load_module(folder / name, card.family, build, card.files)
        if network.config.vocabulary != len(tokenizer):
            raise KalpanaError(
                f"model {card.name!r} reads {network.config.vocabulary} tokens, not the {len(tokenizer)} of this version of Kalpana"
            )
        model = cls(
            name=card.name,
            family=card.family,
            capabilities=card.capabilities or USUAL[card.family],
            network=network.to(place),
            vqgan=load_module(
                pictures, "vqgan", lambda **config: VQGAN(vqgan.Config(**config)), card.files
            ).to(place),
            files={
                path.name: card.files.get(path.name) or fingerprint(path)
                for path in (*files_of(folder / name), *files_of(pictures), BPE)
            },
            words=Window(tokenizer, network.config.length),
        )
        return _fitting(model, pictures, folder)

    @classmethod
    def read_public(cls, folder: Path, device: str | None = None) -> TextToTokens:
        """The public dalle-mini or dalle-mega in a folder, asked as min-dalle asks. Raises KalpanaError as ``hub.dalle_mini.read`` and
        ``hub.vqgan.read``, and where they do not belong together."""
        public.weights_of(folder)  # what is missing is told before what is large is read
        place, pictures = find_device(device), public.detokenizer_of(folder)
        checkpoint, decoder = public.read(folder), public_vqgan.read(pictures)
        usual = USUAL["dalle-mini"]
        defaults = usual.defaults.model_copy(update={"guidance": 16.0, "top_k": 256})
        model = cls(
            name=folder.name,
            family="dalle-mini",
            capabilities=usual.model_copy(update={"languages": ("en",), "defaults": defaults}),
            network=checkpoint.model.to(place),
            vqgan=decoder.model.to(place),
            files={folder.name: checkpoint.fingerprint, pictures.name: decoder.fingerprint},
            words=checkpoint.words,
        )
        return _fitting(model, pictures, folder)

    @property
    def device(self) -> torch.device:
        return next(self.network.parameters()).device

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of a picture, in tokens."""
        config = self.network.config
        if isinstance(config, dalle.Config):
            return config.rows, config.columns
        return math.isqrt(config.image_length), math.isqrt(config.image_length)

    @property
    def size(self) -> tuple[int, int]:
        """Width and height of a picture, in pixels."""
        rows, columns = self.grid
        return columns * self.vqgan.config.factor, rows * self.vqgan.config.factor

    def generate(
        self,
        request: Request | str,
        *,
        rank_by: Ranker | None = None,
        top: Top | None = None,
        **fields: Any,
    ) -> Iterator[Step]:
        """``text_to_tokens`` by this model, for a request, or for a prompt, and other fields of a request."""
        return text_to_tokens(self, ask(request, **fields), rank_by, top)

    @torch.no_grad()
    def caption(self, images: Sequence[Image.Image], language: str | None = None) -> list[str]:
        """What pictures of any size and mode show, in words, always the likeliest; ``language`` is en or hi, and where None the model
        chooses one for each picture.

        Raises KalpanaError where the model tells nothing of pictures, or not in this language.
        """
        if not isinstance(self.network, DALLE) or not isinstance(self.words, Window):
            raise KalpanaError(
                f"model {self.name!r} is of family {self.family!r}, which says nothing of pictures: name a DALL-E"
            )
        if language not in (None, *self.capabilities.languages):
            raise KalpanaError(
                f"model {self.name!r} does not speak {language!r}: write {' or '.join(self.capabilities.languages)}"
            )
        first = (
            None
            if language is None
            else _beginnings(self.words.tokenizer, language).to(self.device)
        )
        texts = list[str]()
        for start in range(0, len(images), TOGETHER):
            framed = [
                rgb(image).resize(self.size, Image.Resampling.BICUBIC)
                for image in images[start : start + TOGETHER]
            ]
            ids = torch.cat(
                [self.vqgan.encode(pixels[None]) for pixels in to_pixels(framed).to(self.device)]
            )
            told = caption(
                self.network, ids, [Generator() for _ in framed], temperature=0, first=first
            )
            texts += [self.words.tokenizer.decode(row.tolist()) for row in told.ids]
        return texts


def _fitting(model: TextToTokens, pictures: Path, folder: Path) -> TextToTokens:
    """The model with capabilities as its weights have them. Raises KalpanaError where network and VQGAN do not belong together."""
    config, (rows, columns) = model.network.config, model.grid
    if config.codes != model.vqgan.quantiser.size:
        raise KalpanaError(
            f"model {model.name!r} draws {config.codes} tokens, and the codebook of {pictures} has {model.vqgan.quantiser.size}: "
            f"put the VQGAN that it learned with into {folder}"
        )
    if isinstance(config, dalle_mini.Config) and rows * columns != config.image_length:
        raise KalpanaError(
            f"model {model.name!r} draws {config.image_length} tokens a picture, which make no square"
        )
    (width, height), known = model.size, model.capabilities
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
        "defaults": known.defaults.model_copy(update={"size": size}),
    }
    return replace(model, capabilities=known.model_copy(update=changes))


def text_to_tokens(
    model: TextToTokens, request: Request, rank_by: Ranker | None = None, top: Top | None = None
) -> Iterator[Step]:
    """A Step after every row of tokens, or every look at all of them, and for each decoding; the last one carries the Result. Previews show
    what there is so far, rows to come in grey, and are drawn as often as there is time for them. Closing the iterator cancels. Of larger
    sizes than a DALL-E learned, each part is drawn as a picture of its own that has all around it in view.

    A picture whose ``top`` is given is completed: it is brought to the picture's width, on white where it is transparent, and as many whole
    rows of tokens as it has are kept; or it is rows of tokens, as the receipt has them. Raises KalpanaError at once, before the first
    Step, where the request asks for what the model cannot do, for the best of several without a ranker, or below a top that leaves
    nothing to draw.
    """
    rows = (
        None
        if top is None
        else _top(model, top, _shape(model, model.capabilities.resolve(request)[0]))
    )
    more = {} if rows is None else {"top": rows.tolist()}
    return answer(model, model.words, request, partial(_draw, model, rows), rank_by, more)


def _draw(model: TextToTokens, top: Tensor | None, request: Request) -> Iterator[Progress]:
    began, spent = time.perf_counter(), 0.0
    generators = [Generator().manual_seed(seed) for seed in request.each_seed()]
    for drawn in _drawn(model, request, generators, top):
        preview, now = None, time.perf_counter()
        if drawn.index < drawn.total and spent <= PREVIEWS * (now - began):
            preview = _preview(model, drawn.ids, _shape(model, request)[0])
            spent += time.perf_counter() - now
        yield Progress("tokens", drawn.total + 1, preview)
    pixels = _decode(model, drawn.ids)
    yield Progress("decode", drawn.total + 1, pixels.clamp(-1, 1), pixels)


def _drawn(
    model: TextToTokens, request: Request, generators: Sequence[Generator], top: Tensor | None
) -> Iterator[TokenStep]:
    """The tokens of a request's pictures as they come, one picture a generator, each below a top (r, columns) where it is given."""
    assert (
        request.temperature is not None
        and request.top_p is not None
        and request.guidance is not None
    )  # settled
    tokens = model.words.encode([clean(request.prompt)] * len(generators)).to(model.device)
    how = request.temperature, request.top_k, request.top_p, request.guidance
    given = None if top is None else top.expand(len(generators), -1, -1)
    if isinstance(model.network, DALLE):
        return stream(
            model.network, Cond(tokens), generators, *how, given=given, shape=_shape(model, request)
        )
    if isinstance(model.network, DalleMini):
        return _spoken(model.network, tokens, generators, *how, given=given)
    assert request.steps  # settled
    if given is not None:
        given = F.pad(
            given, (0, 0, 0, model.grid[0] - given.shape[1]), value=model.network.config.codes
        )
    return masked(model.network, Cond(tokens), generators, request.steps, *how, given=given)


def _spoken(
    network: DalleMini,
    tokens: Tokens,
    generators: Sequence[Generator],
    temperature: float,
    top_k: int | None,
    top_p: float,
    guidance: float,
    given: Tensor | None,
) -> Iterator[TokenStep]:
    """As ``tokens.stream``, by a DALL-E mini, whose pictures are square. What is given is read token by token too."""
    side, ids = math.isqrt(network.config.image_length), list[Tensor]()
    upper = tokens.ids.new_empty(len(generators), 0) if given is None else given.flatten(1)  # b k

    def choose(logits: Tensor) -> Tensor:
        place = len(ids)
        return (
            upper[:, place]
            if place < upper.shape[1]
            else draw(logits, temperature, top_k, top_p, generators)
        )

    rows = upper.shape[1] // side
    for each in network.generate(tokens, choose, guidance):
        ids.append(each)
        row, column = divmod(len(ids), side)
        if not column and row > rows:
            yield TokenStep(row - rows, side - rows, torch.stack(ids, 1).unflatten(1, (row, side)))


def _decode(model: TextToTokens, ids: Tensor) -> Tensor:
    """Pixels (b, 3, h, w) of tokens (b, r, columns); picture by picture, as the widest layers set the peak of memory."""
    return torch.cat([model.vqgan.decode(each[None]) for each in ids])


def _shape(model: TextToTokens, request: Request) -> tuple[int, int]:
    """Rows and columns of a settled request's pictures, in tokens."""
    assert request.width and request.height  # settled
    return request.height // model.vqgan.config.factor, request.width // model.vqgan.config.factor


def _preview(model: TextToTokens, ids: Tensor, rows: int) -> Tensor:
    """Whole pictures (b, 3, h, w) of the upper rows of tokens (b, r, columns), of so many, grey below them."""
    pixels = _decode(model, ids).clamp(-1, 1)
    return F.pad(pixels, (0, 0, 0, rows * model.vqgan.config.factor - pixels.shape[2]))


@torch.no_grad()
def _top(model: TextToTokens, top: Top, shape: tuple[int, int]) -> Tensor:
    """The upper rows of tokens (r, columns) of a picture of so many rows and columns. Raises KalpanaError where it leaves nothing to draw,
    or is none."""
    (rows, columns), f = shape, model.vqgan.config.factor
    width, height = columns * f, rows * f
    if isinstance(top, Image.Image):
        image = rgb(top)
        scaled = round(image.height * width / image.width)
        if not f <= scaled <= height - f:
            raise KalpanaError(
                f"the top of the picture is {image.width}x{image.height}, which is {width}x{scaled} at the picture's width: "
                f"give one of {width}x{f} to {width}x{height - f}, such as the upper part of a picture that is to be drawn on from there"
            )
        image = image.resize((width, scaled), Image.Resampling.BICUBIC).crop(
            (0, 0, width, scaled // f * f)
        )
        return model.vqgan.encode(to_pixels([image]).to(model.device))[0]
    try:
        ids = torch.tensor(top, device=model.device)
    except (TypeError, ValueError):
        ids = torch.empty(0)
    if (
        ids.dtype != torch.int64
        or ids.ndim != 2
        or ids.shape[1] != columns
        or not 0 < len(ids) < rows
    ):
        raise KalpanaError(
            f"the top of the picture is neither a picture nor 1 to {rows - 1} rows of {columns} tokens: give one of these"
        )
    if int(ids.min()) < 0 or int(ids.max()) >= model.network.config.codes:
        raise KalpanaError(
            f"the top of the picture has tokens of another codebook: give tokens from 0 to {model.network.config.codes - 1}"
        )
    return ids


def _beginnings(tokenizer: Tokenizer, language: str) -> Tensor:
    """Which tokens a caption in this language may begin with (vocabulary,): those of whole letters of its script."""
    texts = [tokenizer.decode([i]) for i in range(len(tokenizer))]
    return torch.tensor(
        [
            any(letter.isalpha() for letter in text) and language_of(text) == language
            for text in texts
        ]
    )
