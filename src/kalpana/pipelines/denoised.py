"""Denoised latents in files: a generation that is killed while it decodes goes on from them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from kalpana import __version__
from kalpana.media import write
from kalpana.request import Request
from kalpana.types import KalpanaError

FORMAT = "kalpana-latents"  # identifies a file


@dataclass(frozen=True)
class DenoisedLatents:
    """Denoised latents of requests to one model, a safetensors file each in ``folder``.

    A file has the hash of all that the latents depend on: the resolved request with the hashes of
    its inputs, the weights by ``files``, the versions, and the ``device``. The caller removes the
    folder.
    """

    folder: Path
    files: Mapping[str, str]
    device: str

    def read(self, request: Request) -> Tensor | None:
        """The latents of a resolved request, None if there are none. Raises KalpanaError for a
        damaged file."""
        path, key = self._file(request)
        if not path.exists():
            return None
        try:
            with safetensors.safe_open(path, "pt") as file:
                if (file.metadata() or {}) == {"format": FORMAT, "request": key}:
                    return file.get_tensor("latents")
        except (OSError, safetensors.SafetensorError) as error:
            raise KalpanaError(
                f"the saved latents {path} are damaged ({error}): delete the file to begin again"
            ) from None
        raise KalpanaError(f"{path} are no latents of this request: delete the file to begin again")

    def write(self, request: Request, latents: Tensor) -> None:
        """Write the latents of a resolved request atomically."""
        path, key = self._file(request)
        self.folder.mkdir(parents=True, exist_ok=True)
        tensors = {"latents": latents.detach().cpu().contiguous()}
        write(path, safetensors.torch.save(tensors, {"format": FORMAT, "request": key}))

    def _file(self, request: Request) -> tuple[Path, str]:
        """The file of a resolved request, and its whole hash."""
        key = _hash(
            {
                "request": request.model_dump(mode="json"),
                "files": dict(self.files),
                "versions": [__version__, torch.__version__],
                "device": self.device,
            }
        )
        return self.folder / f"{key[:16]}.safetensors", key


def folder_of(out: Path, request: Request) -> Path:
    """Folder below ``out`` for the denoised latents of a request with its seeds."""
    return out / f".latents-{_hash(request.to_json())[:16]}"


def _hash(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
