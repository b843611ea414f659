"""Adapters (LoRA) by name, from the folder that the server was given.

A request names an adapter, and never a file. A job keeps its name and its SHA-256, so that a job
that was accepted is done with the same adapter or fails.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from kalpana.hub.weights import metadata
from kalpana.inputs import Adapter, Media
from kalpana.request import Request
from kalpana.serve.errors import ApiError
from kalpana.types import KalpanaError

HOW = "write a name, NAME:STRENGTH, or {name, strength}, or a list of them"


class Adapters:
    """The adapters in a folder: NAME.safetensors, and NAME/lora.safetensors, a training run.

    The folder is read at each use, so that adapters can be added while the server runs. Raises
    KalpanaError if it is no folder.
    """

    def __init__(self, folder: Path | None = None) -> None:
        if folder is not None and not folder.is_dir():
            raise KalpanaError(f"{folder} is no folder: give one of adapters by --adapters")
        self._folder = folder

    def files(self) -> dict[str, Path]:
        """The file of each adapter, by name; what is no adapter, or damaged, is left out."""
        found = dict[str, Path]()
        for path in sorted(self._folder.iterdir()) if self._folder else ():
            run = path / "lora.safetensors"
            file = run if run.is_file() else path
            if file.suffix == ".safetensors" and _family(file) is not None:
                found[path.name.removesuffix(".safetensors")] = file.resolve()
        return found

    def about(self) -> list[dict[str, Any]]:
        """Name, family of models, and taught words of each adapter."""
        from kalpana.hub.adapters import words_of
        from kalpana.hub.weights import provenance

        return [
            {
                "id": name,
                "object": "adapter",
                "family": _family(file),
                "words": sorted(words_of(provenance(file))),
            }
            for name, file in self.files().items()
        ]

    def named(self, value: Any, family: str) -> list[dict[str, Any]]:
        """The adapters that the field of a request names, as fields of ``Adapter`` without paths.
        Raises ApiError for one that is not here, or is for models of another family."""
        known = self.files()
        if not known:
            message = "adapter: this server has no adapters: see kalpana serve --adapters"
            raise ApiError(400, message, "adapter_not_found", "adapter")
        given = value if isinstance(value, list) else [value]
        return [self._named(each, known, family) for each in given]

    def _named(self, value: Any, known: dict[str, Path], family: str) -> dict[str, Any]:
        if isinstance(value, str) and value not in known:
            name, _, strength = value.rpartition(":")
            value = {"name": name, "strength": strength} if name in known else {"name": value}
        elif isinstance(value, str):
            value = {"name": value}
        if not isinstance(value, dict) or not {"name"} <= {*value} <= {"name", "strength"}:
            raise ApiError(400, f"adapter: {HOW}", "invalid_value", "adapter")
        name = str(value["name"])
        if name not in known:
            message = f"adapter: there is none called {name[:60]!r}: there are {', '.join(known)}"
            raise ApiError(400, message[:500], "adapter_not_found", "adapter")
        if (base := _family(known[name])) != family:
            message = f"adapter: {name!r} is for models of family {base!r}, not {family!r}"
            raise ApiError(400, message, "invalid_value", "adapter")
        file = Media.model_validate(known[name])
        fields = {"file": {"name": name, "sha256": file.sha256}}
        return fields | {k: v for k, v in value.items() if k == "strength"}

    def restored(self, given: Any, lost: list[str]) -> dict[str, Any]:
        """The field ``adapter`` for the adapters of a receipt; ``lost`` gets its name where one of
        them is not here."""
        known, found = self.files(), list[str]()
        for each in given or ():
            try:
                adapter = Adapter.model_validate(each)
            except ValueError:
                adapter = None
            if adapter is None or known.get(adapter.file.name) is None:
                lost.append("adapter")
                return {}
            found.append(f"{adapter.file.name}:{adapter.strength:g}")
        return {"adapter": found} if found else {}

    def located(self, request: Request) -> Request:
        """A request with the files of its adapters. Raises KalpanaError if one is no longer here,
        or is another."""
        if not request.adapter:
            return request
        known, found = self.files(), list[Adapter]()
        for each in request.adapter:
            name = each.file.name
            file = Media.model_validate(known[name]) if name in known else None
            if file is None or file.sha256 != each.file.sha256:
                lost = "no longer here" if file is None else "another file than it was"
                raise KalpanaError(f"adapter {name!r} is {lost}: ask again")
            file = file.model_copy(update={"name": name})
            found.append(each.model_copy(update={"file": file}))
        return request.updated(adapter=tuple(found))


def _family(file: Path) -> str | None:
    """The family of models that an adapter's file is for; None for a file that is no adapter."""
    try:
        about = metadata(file)
        return json.loads(about["config"])["base"] if about.get("family") == "lora" else None
    except (KalpanaError, KeyError, ValueError):
        return None
