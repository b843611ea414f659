"""The models of the server: which it serves, and those in memory."""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Callable, Sequence
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from kalpana.capabilities import Capabilities
from kalpana.families import FAMILIES
from kalpana.hub.card import Card, find_model, list_models, missing_files, weights_dir
from kalpana.pipelines import card_of
from kalpana.request import Request
from kalpana.serve.adapters import Adapters
from kalpana.serve.errors import ApiError
from kalpana.types import KalpanaError

if TYPE_CHECKING:
    from kalpana.pipelines.pipeline import Pipeline
    from kalpana.understand.encoder import Encoder

log = logging.getLogger("kalpana.serve")
Kind = Literal["image", "video", "clip", "caption"]
WHAT = {
    "image": "generates pictures",
    "video": "generates videos",
    "clip": "embeds pictures and texts",
    "caption": "captions pictures",
}


def kinds_of(card: Card) -> tuple[Kind, ...]:
    """What a model can be asked for."""
    family = FAMILIES.get(card.family)
    if card.family == "clip":
        return ("clip",)
    if family is None or family.pipeline is None:
        return ()
    able = card.usable()
    first: Kind = "video" if able and "seconds" in able.uses else "image"
    return (first, "caption") if card.family == "dalle" else (first,)


class Models:
    """The models that a server serves, by name, and those in memory.

    At most ``most`` are in memory, and of at most ``memory`` bytes (None: any): the one that was
    used least recently is dropped. Loading and use belong to one thread; the cards may be read from
    any. Requests may use ``adapters``.
    """

    def __init__(
        self,
        names: Sequence[str] = (),
        device: str | None = None,
        most: int = 2,
        memory: int | None = None,
        adapters: Adapters | None = None,
    ) -> None:
        self._device, self._most, self._memory = device, most, memory
        self.adapters = adapters or Adapters()
        self._loaded: OrderedDict[str, Any] = OrderedDict()
        self._capabilities: dict[str, Capabilities] = {}
        self._bytes: dict[str, int] = {}
        self.folders: dict[str, Path] = {}
        self.cards: dict[str, Card] = {}
        for name in names or [card.name for card in list_models()]:
            self._add(name, strict=bool(names))
        if not self.cards:
            raise KalpanaError("there is no model to serve: name a folder of weights by --model")

    def _add(self, name: str, strict: bool) -> None:
        folder = find_model(name)
        card = card_of(folder)
        if not kinds_of(card) or missing_files(folder, card):
            if strict:
                what = ", ".join(missing_files(folder, card)) or "a family that can be served"
                raise KalpanaError(f"model {card.name!r} cannot be served: it lacks {what}")
            return
        known = folder.resolve().name if folder.parent == weights_dir() else card.name
        if known in self.cards:
            raise KalpanaError(f"two models are called {known!r}: rename one in its card")
        needed = weights_bytes(folder)
        if self._memory is not None and needed > self._memory:
            if strict:
                raise KalpanaError(
                    f"model {known!r} needs {_mib(needed)} of memory and --memory is "
                    f"{_mib(self._memory)}: raise it, or serve a smaller model"
                )
            return
        self.folders[known], self.cards[known] = folder.resolve(), card
        self._bytes[known] = needed

    def named(self, name: str | None, kind: Kind) -> str:
        """The model of a name, or the default one of a kind. Raises ApiError if there is none, or
        it is of another kind."""
        able = [each for each, card in self.cards.items() if kind in kinds_of(card)]
        if name is None:
            default = "clip" if kind == "clip" else Request.model_fields["model"].default
            name = default if default in able else next(iter(able), None)
            if name is None:
                raise ApiError(404, f"no model here {WHAT[kind]}", "model_not_found", "model")
        if name not in self.cards:
            known = ", ".join(self.cards)
            message = f"there is no model {name[:60]!r} here: the models are {known}"
            raise ApiError(404, message, "model_not_found", "model")
        if name not in able:
            message = f"model {name!r} is none that {WHAT[kind]}: try {', '.join(able) or 'none'}"
            raise ApiError(400, message, "invalid_value", "model")
        return name

    def known_capabilities(self, name: str) -> Capabilities | None:
        """The capabilities of a model that was loaded once; None for another."""
        return self._capabilities.get(name)

    def capabilities(self, name: str) -> Capabilities:
        """The capabilities of a model, which is loaded if it never was."""
        if name not in self._capabilities:
            self._capabilities[name] = self.pipeline(name).capabilities
        return self._capabilities[name]

    def pipeline(self, name: str) -> Pipeline:
        """A generating model, loaded if it is not in memory. Raises ApiError if it cannot be."""
        from kalpana import pipelines

        return self._in_memory(name, pipelines.load, pipelines.forget)

    def encoder(self, name: str) -> Encoder:
        """A CLIP, loaded if it is not in memory. Raises ApiError if it cannot be."""
        from kalpana.understand import encoder

        return self._in_memory(name, encoder.load, encoder.forget)

    def _in_memory(self, name: str, load: Callable[..., Any], forget: Callable[[], None]) -> Any:
        """A model, loaded if it is not in memory. Messages of a failure may hold paths of this
        machine, so they go to the log alone."""
        if name not in self._loaded:
            self._make_room(self._bytes[name])
            try:
                self._loaded[name] = load(str(self.folders[name]), self._device)
            except Exception as error:
                fields = {"model": name, "error": str(error)}
                defect = None if isinstance(error, KalpanaError) else error
                log.error("model_failed_to_load", exc_info=defect, extra={"fields": fields})
                message = f"model {name!r} cannot be loaded: the log of the server says why"
                raise ApiError(503, message, "model_unavailable", "model") from None
            finally:
                forget()
        self._loaded.move_to_end(name)
        return self._loaded[name]

    @property
    def loaded(self) -> tuple[str, ...]:
        """The models in memory, the least recently used first."""
        return tuple(self._loaded)

    def _make_room(self, needed: int) -> None:
        """Drop models until one of ``needed`` bytes has room."""
        most = float("inf") if self._memory is None else self._memory
        while self._loaded and (
            len(self._loaded) >= self._most
            or sum(self._bytes[name] for name in self._loaded) + needed > most
        ):
            self._loaded.popitem(last=False)


def weights_bytes(folder: Path) -> int:
    """The memory of the weights in a folder, in bytes, as 32-bit numbers."""
    from safetensors import SafetensorError, safe_open

    count = 0
    for path in folder.rglob("*.safetensors"):
        try:
            with safe_open(path, "pt") as file:
                names = file.keys()  # safe_open is no mapping
                count += sum(prod(file.get_slice(name).get_shape()) for name in names)
        except (OSError, SafetensorError):  # loading it says what is wrong
            continue
    return 4 * count


def _mib(size: int) -> str:
    return f"{size / 2**20:,.0f} MiB"
