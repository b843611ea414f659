"""Making pictures, one task a file. The room itself is a function too: ``kalpana.generate("a red apple")`` gives back a Result."""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Callable, Iterator
from functools import lru_cache
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from kalpana.hub.card import (
    BY_CLIP,
    CARD,
    TOKENS,
    Card,
    find_model,
    list_models,
    read_card,
    weights_dir,
)
from kalpana.request import Request, ask
from kalpana.types import KalpanaError, Result, Step

if TYPE_CHECKING:
    from kalpana.pipelines.pipeline import Pipeline
    from kalpana.pipelines.rerank import Ranker


def load(name: str = "default", device: str | None = None) -> Pipeline:
    """The model of a name that ``kalpana.list_models()`` knows, of a folder of weights, or of a folder of the public dalle-mini or
    dalle-mega; kept, so that asking again costs nothing.

    ``device`` is a GPU where there is one, unless named. Raises KalpanaError where there is no such model or device, or its files
    are damaged, changed or of another family.
    """
    if name in FAMILIES and not (weights_dir() / name / CARD).is_file() and not Path(name).is_dir():
        learn = (
            f"train it by recipes/{name}.yaml"
            if name != BY_CLIP
            else "train the CLIP that it asks by recipes/clip.yaml"
        )
        raise KalpanaError(
            f"model {name!r} is not here: no weights of it come with this version of Kalpana, where what draws from words is "
            f"{_drawing()}; name one of these or a folder of weights, or {learn}"
        )
    folder = find_model(name).resolve()
    files = sorted((*folder.iterdir(), *folder.glob("vqgan/*")))
    return _load(folder, tuple((str(path), path.stat().st_mtime_ns) for path in files), device)


@lru_cache(maxsize=2)
def _load(folder: Path, changed: tuple[tuple[str, int], ...], device: str | None) -> Pipeline:
    if not (folder / CARD).is_file() and (public := _public(folder, device)):
        return public
    card = read_card(folder)
    if card.family not in FAMILIES:
        raise KalpanaError(
            f"model {card.name!r} is of family {card.family!r}, which draws nothing from words: try {_drawing()}"
        )
    return FAMILIES[card.family](folder, card, device)


def _drawing() -> str:
    """The names of the models here that draw from words."""
    return ", ".join(card.name for card in list_models() if card.family in FAMILIES) or "nothing"


def _flow(folder: Path, card: Card, device: str | None) -> Pipeline:
    from kalpana.pipelines.text_to_image import TextToImage

    return TextToImage.read(folder, card, device)


def _tokens(folder: Path, card: Card, device: str | None) -> Pipeline:
    from kalpana.pipelines.text_to_tokens import TextToTokens

    return TextToTokens.read(folder, card, device)


def _by_clip(folder: Path, card: Card, device: str | None) -> Pipeline:
    from kalpana.pipelines.clip_guided import TextByClip

    return TextByClip.read(folder, card, device)


def _public(folder: Path, device: str | None) -> Pipeline | None:
    """The public checkpoint in a folder, None where it is none. Raises KalpanaError where it is one that does not draw alone."""
    from kalpana.hub.dalle_mini import VQGAN, holds
    from kalpana.pipelines.text_to_tokens import TextToTokens

    if holds(folder):
        return TextToTokens.read_public(folder, device)
    if list(folder.glob("*.yaml")) and list(folder.glob("*.safetensors")):
        raise KalpanaError(
            f"{folder} is a VQGAN, which draws nothing from words: put it, as a folder {VQGAN}, into that of the public dalle-mini"
        )
    return None


def last(stream: Iterator[Step]) -> Result:
    """The result that a stream of steps ends with."""
    (step,) = deque(stream, maxlen=1)
    assert step.result is not None
    return step.result


FAMILIES: dict[str, Callable[[Path, Card, str | None], Pipeline]] = {
    "flow": _flow,
    **dict.fromkeys(TOKENS, _tokens),
    BY_CLIP: _by_clip,
}


class Generate(ModuleType):
    """The type of this module, so that the public name ``kalpana.generate`` can be both a room and the verb it is named after."""

    def __call__(
        self, prompt: str | Request, *, rank_by: Ranker | None = None, **fields: Any
    ) -> Result:
        request = ask(prompt, **fields)
        return last(load(request.model).generate(request, rank_by=rank_by))


sys.modules[__name__].__class__ = Generate
