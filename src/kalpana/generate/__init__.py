"""Making pictures, one task a file. The room itself is a function too: ``kalpana.generate("a red apple")`` gives back a Result."""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from kalpana.hub.card import Card, find_model, read_card
from kalpana.request import Request
from kalpana.types import KalpanaError, Result, Step

if TYPE_CHECKING:
    from kalpana.generate.best import Ranker
    from kalpana.generate.text_to_image import TextToImage


def load(name: str = "default", device: str | None = None) -> TextToImage:
    """The model of a name that ``kalpana.list_models()`` knows, or of a folder of weights; kept, so that asking again costs nothing.

    ``device`` is a GPU where there is one, unless named. Raises KalpanaError where there is no such model or device, or its files
    are damaged, changed or of another family.
    """
    folder = find_model(name).resolve()
    return _load(folder, tuple((path.name, path.stat().st_mtime_ns) for path in sorted(folder.iterdir())), device)


@lru_cache(maxsize=2)
def _load(folder: Path, changed: tuple[tuple[str, int], ...], device: str | None) -> TextToImage:
    card = read_card(folder)
    if card.family not in FAMILIES:
        raise KalpanaError(f"model {card.name!r} is of family {card.family!r}, which draws nothing from words: try {', '.join(FAMILIES)}")
    return FAMILIES[card.family](folder, card, device)


def _flow(folder: Path, card: Card, device: str | None) -> TextToImage:
    from kalpana.generate.text_to_image import TextToImage

    return TextToImage.read(folder, card, device)


def last(stream: Iterator[Step]) -> Result:
    """The result that a stream of steps ends with."""
    (step,) = deque(stream, maxlen=1)
    assert step.result is not None
    return step.result


FAMILIES = {"flow": _flow}


class Generate(ModuleType):
    """The type of this module, so that the public name ``kalpana.generate`` can be both a room and the verb it is named after."""

    def __call__(self, prompt: str | Request, *, rank_by: Ranker | None = None, **fields: Any) -> Result:
        request = prompt.but(**fields) if isinstance(prompt, Request) else Request(prompt=prompt, **fields)
        return last(load(request.model).generate(request, rank_by=rank_by))


sys.modules[__name__].__class__ = Generate
