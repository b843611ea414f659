"""Shared loaders of public checkpoints: JSON and tensors, with errors that name file and field."""

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
    """Object in a JSON file. Raises KalpanaError if there is none."""
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
    """Tensors in a safetensors file, by name. Raises KalpanaError if it is damaged."""
    try:
        with safetensors.safe_open(path, "pt") as file:
            names = file.keys()  # safe_open is no mapping
            return {name: file.get_tensor(name) for name in names}
    except (safetensors.SafetensorError, OSError) as error:
        raise KalpanaError(f"{path} is damaged or cut short ({error}): give a whole copy") from None


def misfit(path: Path, field: str, value: Any, hint: str) -> KalpanaError:
    """Error, to be raised, for a field of a file whose value is not supported."""
    shown = json.dumps(value, ensure_ascii=False, default=str)[:80]
    return KalpanaError(f"{path}: field {field} is {shown}: {hint}")


def hashed(files: Sequence[Path]) -> str:
    """SHA-256 of a checkpoint's weights.

    One file: its own hash. Several files: the hash of their concatenated hashes.
    """
    hashes = [fingerprint(file) for file in files]
    return hashes[0] if len(hashes) == 1 else hashlib.sha256("".join(hashes).encode()).hexdigest()
