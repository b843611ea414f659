"""Weights in files: safetensors, with what it takes to build the module again in its metadata.

Metadata: ``format`` "kalpana", ``family`` (which network), ``config`` (its dataclass as JSON) and ``provenance`` (recipe, data,
samples, hardware, scores). Matrices are kept as bf16 and vectors, which are few and scale everything, as fp32; both are read as fp32.
``shrink`` keeps matrices as int8, with a scale for each row, in half the room.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from kalpana.types import KalpanaError

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

FORMAT = "kalpana"
SHARD = (
    16 * 2**20 - 2**16
)  # bytes of tensors in one file at most, so that with its header it stays under 16 MiB
SCALES = ":scales"  # after the name of an int8 tensor, that of the fp32 numbers that its rows are to be multiplied by
Module = TypeVar("Module", bound=nn.Module)


@dataclass(frozen=True)
class Weights:
    """A file of weights, read: fp32 ``tensors`` by name, the ``config`` its module is built with, and where it comes from."""

    family: str
    config: dict[str, Any]
    provenance: dict[str, Any]
    tensors: dict[str, Tensor]


def save_weights(
    path: Path,
    module: nn.Module,
    family: str,
    config: DataclassInstance,
    provenance: Mapping[str, Any],
) -> tuple[Path, ...]:
    """Write a module's parameters and buffers, whole or not at all: to ``path``, or, where they are more than SHARD bytes, to
    NAME-00001-of-00002.safetensors and so on beside it. Gives back the files written."""
    return save_tensors(
        path, Weights(family, asdict(config), dict(provenance), module.state_dict())
    )


def save_tensors(path: Path, weights: Weights) -> tuple[Path, ...]:
    """Write weights that no module holds, as ``save_weights`` does."""
    groups = [{name: _small(tensor.detach().cpu())} for name, tensor in weights.tensors.items()]
    return _write(path, groups, weights.family, weights.config, weights.provenance)


def shrink(path: Path, family: str) -> tuple[Path, ...]:
    """Write weights of ours anew with their matrices as int8, each row (of what is first, an output) scaled so that its largest number is
    127 or -127. Gives back the files written. Raises KalpanaError as ``read_weights``."""
    weights = read_weights(path, family)
    return _write(
        path,
        [_rows(name, tensor) for name, tensor in weights.tensors.items()],
        family,
        weights.config,
        weights.provenance,
    )


def _write(
    path: Path,
    groups: Sequence[dict[str, Tensor]],
    family: str,
    config: Mapping[str, Any],
    provenance: Mapping[str, Any],
) -> tuple[Path, ...]:
    """Write groups of tensors, each whole in one file."""
    about = {
        "format": FORMAT,
        "family": family,
        "config": json.dumps(config),
        "provenance": json.dumps(provenance, ensure_ascii=False),
    }
    parts: list[dict[str, Tensor]] = [{}]
    for group in groups:
        if (
            parts[-1]
            and sum(tensor.nbytes for tensor in (*parts[-1].values(), *group.values())) > SHARD
        ):
            parts.append({})
        parts[-1] |= {name: tensor.contiguous().clone() for name, tensor in group.items()}
    count = len(parts)
    paths = (
        [path]
        if count == 1
        else [
            path.with_name(f"{path.stem}-{k:05}-of-{count:05}{path.suffix}")
            for k in range(1, count + 1)
        ]
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = [each.with_name(f".{each.name}.{os.getpid()}.part") for each in paths]
    try:
        for temporary, part in zip(beside, parts, strict=True):
            safetensors.torch.save_file(part, temporary, about)
        stale = set(files_of(path)) - set(paths)
        for temporary, final in zip(beside, paths, strict=True):
            temporary.replace(final)
        for old in stale:
            old.unlink(missing_ok=True)
    finally:
        for temporary in beside:
            temporary.unlink(missing_ok=True)
    return tuple(paths)


def files_of(path: Path) -> tuple[Path, ...]:
    """The files that hold the weights called ``path``: itself, or its shards in order."""
    return (
        (path,)
        if path.exists()
        else tuple(sorted(path.parent.glob(f"{path.stem}-*-of-*{path.suffix}"))) or (path,)
    )


def whole_of(file: Path) -> Path:
    """What the weights are called of which a file holds all, or a shard: the other way from ``files_of``."""
    return file.with_name(re.sub(r"-\d{5}-of-\d{5}$", "", file.stem) + file.suffix)


def read_weights(path: Path, family: str, hashes: Mapping[str, str] | None = None) -> Weights:
    """The weights called ``path``, in one file or in shards, which must be of this family; a file that ``hashes`` (SHA-256 by
    file name) knows must have that hash.

    Raises KalpanaError where a file is missing, a pickle, cut short, another program's, another family's, or changed.
    """
    files = files_of(path)
    if files != (path,) and not files[0].stem.endswith(f"-of-{len(files):05}"):
        raise KalpanaError(
            f"{path} is in shards and {len(files)} are here, {', '.join(file.name for file in files)}: fetch the others"
        )
    parts = [_read(file, family, (hashes or {}).get(file.name)) for file in files]
    return Weights(
        family,
        parts[0].config,
        parts[0].provenance,
        {name: value for part in parts for name, value in part.tensors.items()},
    )


def provenance(path: Path) -> dict[str, Any]:
    """Where the weights in a file of ours come from; nothing where it does not say. Raises KalpanaError where it is damaged."""
    try:
        return json.loads(metadata(path).get("provenance", "{}"))
    except ValueError as error:
        raise KalpanaError(f"{path} is damaged ({error}): fetch it again") from None


def metadata(path: Path) -> dict[str, str]:
    """What a safetensors file says of itself. Raises KalpanaError where it cannot be read, or is damaged."""
    try:
        with safetensors.safe_open(path, "pt") as file:
            return file.metadata() or {}
    except FileNotFoundError:
        raise KalpanaError(f"weights {path} cannot be read: there is no such file") from None
    except (OSError, safetensors.SafetensorError) as error:
        raise KalpanaError(f"{path} is damaged or cut short ({error}): fetch it again") from None


def _read(path: Path, family: str, sha256: str | None) -> Weights:
    """One file of ``read_weights``, with the tensors that are in it."""
    try:
        with path.open("rb") as file:
            start = file.read(9)
    except OSError as error:
        raise KalpanaError(f"weights {path} cannot be read: {error.strerror}") from None
    # Safetensors begin with the length of their header, which may be any eight bytes, and the header with a brace.
    if (
        start[:2] in (b"PK", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")
        and start[8:] != b"{"
    ):
        raise KalpanaError(
            f"{path} is a pickle, which can run code when it is read: give a .safetensors file"
        )
    if sha256 is not None and (found := fingerprint(path)) != sha256:
        raise KalpanaError(
            f"{path} is not the file its card describes (sha256 {found[:12]}…, not {sha256[:12]}…): fetch it again, "
            f"or, if you changed it yourself, run `python -m kalpana.hub.card {path.parent}`"
        )
    try:
        with safetensors.safe_open(path, "pt") as file:
            about = file.metadata() or {}
            if about.get("format") != FORMAT:
                raise KalpanaError(
                    f"{path} was not written by Kalpana: its metadata has no format {FORMAT!r}"
                )
            if about["family"] != family:
                raise KalpanaError(
                    f"{path} holds weights of family {about['family']!r}, not {family!r}"
                )
            kept = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (it is no dict)
            tensors = {
                name: _wide(tensor, kept.get(name + SCALES))
                for name, tensor in kept.items()
                if not name.endswith(SCALES)
            }
            config = {
                name: tuple(value) if isinstance(value, list) else value
                for name, value in json.loads(about["config"]).items()
            }
            return Weights(family, config, json.loads(about["provenance"]), tensors)
    except (safetensors.SafetensorError, KeyError, ValueError) as error:
        raise KalpanaError(f"{path} is damaged or cut short ({error}): fetch it again") from None


def find_device(name: str | None = None) -> torch.device:
    """Where networks are to run: the device of this name ("cpu", "cuda", "cuda:1"), or a GPU where there is one.

    Raises KalpanaError where there is no such device.
    """
    if name is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        return torch.empty(0, device=name).device
    except (
        RuntimeError,
        AssertionError,
    ):  # torch raises the second where it was built without the device
        raise KalpanaError(
            f"there is no device {name!r} here: write cpu{', or cuda' if torch.cuda.is_available() else ''}"
        ) from None


def load_module(
    path: Path, family: str, build: Callable[..., Module], hashes: Mapping[str, str] | None = None
) -> Module:
    """The module in a file, as ``build(**config)`` makes it, ready to be asked and not to be trained.

    Raises KalpanaError as ``read_weights``, and where config and tensors do not belong together.
    """
    weights = read_weights(path, family, hashes)
    try:
        module = build(**weights.config)
        module.load_state_dict(weights.tensors)
    except (TypeError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise KalpanaError(
            f"{path} does not fit family {family!r} of this version of Kalpana: {reason}"
        ) from None
    return module.eval().requires_grad_(False)


def fingerprint(path: Path) -> str:
    """The SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _small(tensor: Tensor) -> Tensor:
    return tensor.bfloat16() if tensor.is_floating_point() and tensor.ndim > 1 else tensor


def _rows(name: str, tensor: Tensor) -> dict[str, Tensor]:
    """A tensor as int8 and the scales of its rows, where it is a matrix or more; as it is, where it is less."""
    if not tensor.is_floating_point() or tensor.ndim < 2:
        return {name: tensor}
    scales = (
        tensor.flatten(1).abs().amax(1).clamp(min=torch.finfo(torch.float32).tiny) / 127
    )  # rows
    return {name: (tensor / _along(scales, tensor)).round().to(torch.int8), name + SCALES: scales}


def _wide(tensor: Tensor, scales: Tensor | None) -> Tensor:
    if scales is not None:
        return tensor * _along(scales, tensor)
    return tensor.float() if tensor.is_floating_point() else tensor


def _along(scales: Tensor, tensor: Tensor) -> Tensor:
    return scales.view(-1, *[1] * (tensor.ndim - 1))
