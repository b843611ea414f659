"""What the readers of public checkpoints share: their JSON and their tensors, read with errors that say where and what."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import safetensors
from torch import Tensor

from kalpana.hub.weights import fingerprint
from kalpana.types import KalpanaError


def read_object(path: Path) -> dict[str, Any]:
    """The object in a JSON file. Raises KalpanaError where there is none."""
    try:
        given = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise KalpanaError(f"{path} cannot be read: {error.strerror}") from None
    except ValueError as error:
        raise KalpanaError(f"{path} is no JSON: {error}") from None
    if not isinstance(given, dict):
        raise KalpanaError(f"{path} should hold an object, as {{...}}")
    return given


def read_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors in a file of safetensors, by name. Raises KalpanaError where it is damaged."""
    try:
        with safetensors.safe_open(path, "pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (it is no dict)
    except (safetensors.SafetensorError, OSError) as error:
        raise KalpanaError(f"{path} is damaged or cut short ({error}): fetch it again") from None


def misfit(path: Path, field: str, value: Any, hint: str) -> KalpanaError:
    """The error that a field of a file cannot be followed, to be raised."""
    return KalpanaError(
        f"{path}: field {field} is {json.dumps(value, ensure_ascii=False, default=str)[:80]}: {hint}"
    )


def hashed(files: Sequence[Path]) -> str:
    """The SHA-256 of weights: that of their file or, where they are in several, of these files' own."""
    hashes = [fingerprint(file) for file in files]
    return hashes[0] if len(hashes) == 1 else hashlib.sha256("".join(hashes).encode()).hexdigest()
