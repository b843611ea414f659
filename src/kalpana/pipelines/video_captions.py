"""Captions of videos by a video captioner and the VQGAN whose tokens it learned with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Generator, Tensor

from kalpana.hub.card import CARD, find_model, model_folders, read_card, vqgan_of
from kalpana.hub.weights import find_device, load_module
from kalpana.media import Keyframes, to_pixels
from kalpana.models.video_captioner import VideoCaptioner
from kalpana.models.vqgan import VQGAN
from kalpana.pipelines.pipeline import TOGETHER
from kalpana.pipelines.text_to_tokens import check_language, first_tokens
from kalpana.pipelines.tokens import write
from kalpana.text.tokenizer import Tokenizer
from kalpana.types import KalpanaError

FAMILY = "video-captioner"
LANGUAGES = ("en", "hi")


@dataclass(frozen=True)
class VideoCaptions:
    """A loaded video captioner, its VQGAN and its tokenizer."""

    name: str
    network: VideoCaptioner = field(repr=False)
    vqgan: VQGAN = field(repr=False)
    tokenizer: Tokenizer = field(repr=False)

    @classmethod
    def read(cls, folder: Path, device: str | None = None) -> VideoCaptions:
        """The model in a folder of weights: video_captioner.safetensors, and vqgan.safetensors,
        without which the VQGAN shipped with Kalpana is used.

        Raises KalpanaError if the folder holds another model, or its parts do not match.
        """
        card, target, tokenizer = read_card(folder), find_device(device), Tokenizer.load()
        if card.family != FAMILY:
            raise KalpanaError(
                f"model {card.name!r} is of family {card.family!r}, which captions no videos: "
                f"name a folder of weights of family {FAMILY!r}"
            )
        network = load_module(folder / "video_captioner.safetensors", FAMILY, card.files)
        vqgan = load_module(vqgan_of(folder), "vqgan", card.files)
        found = network.config.codes, network.config.vocabulary
        if found != (vqgan.quantiser.size, len(tokenizer)):
            raise KalpanaError(
                f"model {card.name!r} reads {found[0]} image tokens and writes {found[1]} text "
                f"tokens, not {vqgan.quantiser.size} and {len(tokenizer)}: put the vqgan."
                f"safetensors that it learned with into {folder}, or train it again"
            )
        return cls(card.name, network.to(target), vqgan.to(target), tokenizer)

    @property
    def frames(self) -> int:
        """Number of keyframes of a video."""
        return self.network.config.frames

    @property
    def size(self) -> tuple[int, int]:
        """Width and height of a keyframe in pixels."""
        side = self.network.config.grid * self.vqgan.config.factor
        return side, side

    def caption(self, videos: Sequence[Keyframes], language: str | None = None) -> list[str]:
        """Captions of videos, from keyframes of ``size``, by greedy decoding. ``language`` is en or
        hi; None: the model chooses one for each video.

        Raises KalpanaError for another language.
        """
        pixels = [to_pixels(video.images) for video in videos]
        return self.caption_pixels(pixels, [video.seconds for video in videos], language)

    @torch.no_grad()
    def caption_pixels(
        self, videos: Sequence[Tensor], seconds: Sequence[float], language: str | None = None
    ) -> list[str]:
        """As ``caption``, from pixels (f, 3, height, width) in [-1, 1] of the keyframes and the
        durations of the videos."""
        check_language(self.name, language, LANGUAGES)
        device = self.network.moments.device
        first = None if language is None else first_tokens(self.tokenizer, language).to(device)
        texts = list[str]()
        for start in range(0, len(videos), TOGETHER):
            part = slice(start, start + TOGETHER)
            # One video at a time: the VQGAN's activations would be the peak of the memory.
            ids = torch.stack([self.vqgan.encode(video.to(device)) for video in videos[part]])
            cache = self.network.start_text(ids, torch.tensor(seconds[part], device=device))
            generators = [Generator() for _ in ids]  # unused at temperature 0
            tokens = write(self.network, cache, generators, temperature=0, first=first)
            texts += [self.tokenizer.decode(row.tolist()) for row in tokens.ids]
        return texts


def load(model: str = FAMILY, device: str | None = None) -> VideoCaptions:
    """The video captioner of a name or folder. Raises KalpanaError if its weights are not here, and
    as ``VideoCaptions.read``."""
    if model == FAMILY and model not in model_folders() and not Path(model).is_dir():
        raise KalpanaError(
            "captions of videos need the weights of a video captioner, which are not here: fetch "
            "them by `kalpana weights pull video-captioner --from MIRROR`, or name their folder by "
            "--video-model"
        )
    return VideoCaptions.read(find_model(model).resolve(), device)


def named(model: str) -> bool:
    """Whether a name or folder is that of a video captioner. Raises KalpanaError as ``read_card``,
    for a damaged card."""
    folder = model_folders().get(model, Path(model))
    return model == FAMILY or ((folder / CARD).is_file() and read_card(folder).family == FAMILY)


def files_of(model: str) -> list[Path]:
    """The files of weights of the video captioner of a name or folder."""
    folder = find_model(model).resolve()
    return [folder / "video_captioner.safetensors", vqgan_of(folder)]
