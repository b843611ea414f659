"""Kalpana (कल्पना, "imagination"): text-to-image generation from English and Hindi prompts.

    import kalpana
    kalpana.generate("three red apples").outputs[0].save("apples.png")

Torch is imported only when a name that needs it is first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kalpana.hub.card import list_models as list_models
    from kalpana.pipelines import generate as generate
    from kalpana.pipelines import load as load
    from kalpana.pipelines.captions import caption as caption
    from kalpana.pipelines.grid import grid as grid
    from kalpana.pipelines.replay import replay as replay
    from kalpana.request import Request as Request
    from kalpana.understand.classify import classify as classify
    from kalpana.understand.indexed_search import search as search
    from kalpana.world.world import World as World


__all__ = [
    "Request",
    "World",
    "caption",
    "classify",
    "generate",
    "grid",
    "list_models",
    "load",
    "replay",
    "search",
]

HOMES = {
    "Request": "kalpana.request",
    "World": "kalpana.world.world",
    "caption": "kalpana.pipelines.captions",
    "classify": "kalpana.understand.classify",
    "generate": "kalpana.pipelines",
    "grid": "kalpana.pipelines.grid",
    "list_models": "kalpana.hub.card",
    "load": "kalpana.pipelines",
    "replay": "kalpana.pipelines.replay",
    "search": "kalpana.understand.indexed_search",
}


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version  # slow to import, and rarely needed

        return version("kalpana")
    if name in HOMES:
        return getattr(import_module(HOMES[name]), name)
    raise AttributeError(f"module 'kalpana' has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
