"""Weight files: safetensors with all that is needed to rebuild the module in their metadata.

Metadata: ``format`` "kalpana", ``family`` (the kind of network), ``config`` (its dataclass as JSON)
and ``provenance`` (recipe, data, samples, hardware, scores); of diffusion networks also ``process``
(schedule and prediction). Matrices are stored as bf16, and
vectors, which are few and scale everything, as fp32; both are read as fp32. ``shrink`` stores
matrices as int8 with a scale for each row, in half the space.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from kalpana.families import FAMILIES
from kalpana.media import atomic
from kalpana.types import KalpanaError

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

FORMAT = "kalpana"
SHARD = 16 * 2**20 - 2**16  # most bytes of tensors in a file: with its header it is below 16 MiB
# Names in files of earlier versions, of config fields and of modules, and today's.
RENAMED = ({"aside": "aux_outputs"}, {"aside": "aux_head"})
SCALES = ":scales"  # suffix to an int8 tensor's name: the fp32 factors of its rows


@dataclass(frozen=True)
class Weights:
    """Contents of a weight file.

    ``tensors``: fp32, by name; ``config``: arguments that build the module; ``provenance``: origin;
    ``process``: fields of ``diffusion.denoiser.Process``, empty for those of no diffusion network.
    """

    family: str
    config: dict[str, Any]
    provenance: dict[str, Any]
    tensors: dict[str, Tensor]
    process: dict[str, str] = field(default_factory=dict)


def save_weights(
    path: Path,
    module: nn.Module,
    family: str,
    config: DataclassInstance,
    provenance: Mapping[str, Any],
    process: Mapping[str, str] | None = None,
) -> tuple[Path, ...]:
    """Write a module's parameters and buffers, all or nothing; returns the files written.

    The file is ``path`` or, for more than SHARD bytes, NAME-00001-of-00002.safetensors and so on
    beside it.
    """
    return save_tensors(
        path,
        Weights(family, asdict(config), dict(provenance), module.state_dict(), dict(process or {})),
    )


def save_tensors(path: Path, weights: Weights) -> tuple[Path, ...]:
    """Write weights without a module, as ``save_weights`` does."""
    groups = [{name: _small(tensor.detach().cpu())} for name, tensor in weights.tensors.items()]
    return _write(path, groups, weights)


def shrink(path: Path, family: str) -> tuple[Path, ...]:
    """Write weights again with their matrices as int8; returns the files written.

    Each row, which is an output, is scaled so that its number of largest magnitude is 127 or -127.
    Raises KalpanaError as ``read_weights``.
    """
    weights = read_weights(path, family)
    return _write(
        path,
        [_rows(name, tensor) for name, tensor in weights.tensors.items()],
        weights,
    )


def _write(
    path: Path,
    groups: Sequence[dict[str, Tensor]],
    weights: Weights,
) -> tuple[Path, ...]:
    """Write groups of tensors, no group split between files, with the metadata of ``weights``;
    returns the files written."""
    about = {
        "format": FORMAT,
        "family": weights.family,
        "config": json.dumps(weights.config),
        "provenance": json.dumps(weights.provenance, ensure_ascii=False),
    }
    if weights.process:
        about["process"] = json.dumps(weights.process)
    parts: list[dict[str, Tensor]] = [{}]
    for group in groups:
        size = sum(tensor.nbytes for tensor in (*parts[-1].values(), *group.values()))
        if parts[-1] and size > SHARD:
            parts.append({})
        parts[-1] |= {name: tensor.contiguous().clone() for name, tensor in group.items()}
    count = len(parts)
    paths = [path]
    if count > 1:
        shards = (f"{path.stem}-{k:05}-of-{count:05}{path.suffix}" for k in range(1, count + 1))
        paths = [path.with_name(shard) for shard in shards]
    path.parent.mkdir(parents=True, exist_ok=True)
    stale = set(files_of(path)) - set(paths)
    with ExitStack() as unfinished:  # all are written before the first is renamed
        for final, part in zip(paths, parts, strict=True):
            safetensors.torch.save_file(part, unfinished.enter_context(atomic(final)), about)
    for old in stale:
        old.unlink(missing_ok=True)
    return tuple(paths)


def files_of(path: Path) -> tuple[Path, ...]:
    """Files that hold the weights called ``path``: the path itself, or its shards in order."""
    if path.exists():
        return (path,)
    return tuple(sorted(path.parent.glob(f"{path.stem}-*-of-*{path.suffix}"))) or (path,)


def whole_of(file: Path) -> Path:
    """Name of the weights to which a file, perhaps a shard, belongs: inverse of ``files_of``."""
    return file.with_name(re.sub(r"-\d{5}-of-\d{5}$", "", file.stem) + file.suffix)


def read_weights(path: Path, family: str, hashes: Mapping[str, str] | None = None) -> Weights:
    """Weights called ``path``, in one file or in shards, of this family or of one that extends it.

    A file whose name is in ``hashes`` must have that SHA-256. Raises KalpanaError if a file is
    missing, a pickle, cut short, changed, or from another program or family.
    """
    files = files_of(path)
    if files != (path,) and not files[0].stem.endswith(f"-of-{len(files):05}"):
        names = ", ".join(file.name for file in files)
        raise KalpanaError(
            f"{path} is in shards and {len(files)} are here, {names}: fetch the others"
        )
    parts = [_read(file, family, (hashes or {}).get(file.name)) for file in files]
    tensors = {name: value for part in parts for name, value in part.tensors.items()}
    whole = replace(parts[0], tensors=tensors)
    return whole if whole.family == family else _restricted(whole, family)


def _restricted(weights: Weights, family: str) -> Weights:
    """Weights of an extended network as those of the family that it extends."""
    known = {each.name for each in fields(FAMILIES[family].config_class())}
    config = {name: value for name, value in weights.config.items() if name in known}
    with torch.device("meta"):
        names = FAMILIES[family].build(**config).state_dict()
    tensors = {name: value for name, value in weights.tensors.items() if name in names}
    return replace(weights, family=family, config=config, tensors=tensors)


def family_of(path: Path) -> str:
    """Family of the weights called ``path``, empty if they do not say. Raises KalpanaError as
    ``metadata``."""
    return metadata(files_of(path)[0]).get("family", "")


def provenance(path: Path) -> dict[str, Any]:
    """Provenance in a weight file, empty if it has none. Raises KalpanaError if it is damaged."""
    try:
        return json.loads(metadata(path).get("provenance", "{}"))
    except ValueError as error:
        raise KalpanaError(f"{path} is damaged ({error}): give a whole copy") from None


def read_process(path: Path) -> dict[str, str]:
    """Fields of the diffusion process that the weights called ``path`` were trained for, empty
    where their metadata has none. Raises KalpanaError as ``metadata``."""
    return json.loads(metadata(files_of(path)[0]).get("process", "{}"))


def metadata(path: Path) -> dict[str, str]:
    """Metadata of a safetensors file. Raises KalpanaError if it cannot be read or is damaged."""
    try:
        with safetensors.safe_open(path, "pt") as file:
            return file.metadata() or {}
    except FileNotFoundError:
        raise KalpanaError(f"weights {path} cannot be read: there is no such file") from None
    except (OSError, safetensors.SafetensorError) as error:
        raise KalpanaError(f"{path} is damaged or cut short ({error}): give a whole copy") from None


def _read(path: Path, family: str, sha256: str | None) -> Weights:
    """Weights in one file, with only the tensors of that file."""
    try:
        with path.open("rb") as file:
            start = file.read(9)
    except OSError as error:
        raise KalpanaError(f"weights {path} cannot be read: {error.strerror}") from None
    # Safetensors begin with the length of their header, perhaps the same bytes, and then a brace.
    pickles = (b"PK", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")
    if start[:2] in pickles and start[8:] != b"{":
        raise KalpanaError(
            f"{path} is a pickle, which can run code when it is read: give a .safetensors file"
        )
    if sha256 is not None and (found := fingerprint(path)) != sha256:
        raise KalpanaError(
            f"{path} is not the file its card describes (sha256 {found[:12]}…, "
            f"not {sha256[:12]}…): fetch it again, "
            f"or, if you changed it yourself, run `kalpana weights seal {path.parent}`"
        )
    try:
        with safetensors.safe_open(path, "pt") as file:
            about = file.metadata() or {}
            if about.get("format") != FORMAT:
                raise KalpanaError(
                    f"{path} was not written by Kalpana: its metadata has no format {FORMAT!r}"
                )
            given = about["family"]
            if given != family and (given not in FAMILIES or FAMILIES[given].extends != family):
                raise KalpanaError(f"{path} holds weights of family {given!r}, not {family!r}")
            names = file.keys()  # safe_open is no mapping
            stored = {name: file.get_tensor(name) for name in names}
            tensors = {
                current_name(name): _wide(tensor, stored.get(name + SCALES))
                for name, tensor in stored.items()
                if not name.endswith(SCALES)
            }
            config = {
                RENAMED[0].get(name, name): tuple(value) if isinstance(value, list) else value
                for name, value in json.loads(about["config"]).items()
            }
            process = json.loads(about.get("process", "{}"))
            return Weights(given, config, json.loads(about["provenance"]), tensors, process)
    except (safetensors.SafetensorError, KeyError, ValueError) as error:
        raise KalpanaError(f"{path} is damaged or cut short ({error}): give a whole copy") from None


def current_name(tensor: str) -> str:
    """Today's name of a tensor that an earlier version has saved under this name."""
    return ".".join(RENAMED[1].get(part, part) for part in tensor.split("."))


def find_device(name: str | None = None) -> torch.device:
    """Device of this name ("cpu", "cuda", "cuda:1"); without a name, a GPU if there is one.

    Raises KalpanaError if there is no such device.
    """
    if name is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        return torch.empty(0, device=name).device
    except (RuntimeError, AssertionError):  # the second if torch was built without the device
        hint = f"write cpu{', or cuda' if torch.cuda.is_available() else ''}"
        raise KalpanaError(f"there is no device {name!r} here: {hint}") from None


def load_module(path: Path, family: str, hashes: Mapping[str, str] | None = None) -> Any:
    """Network of a family in a weight file, in evaluation mode without gradients.

    Raises KalpanaError as ``read_weights``, and if config and tensors do not fit each other.
    """
    weights = read_weights(path, family, hashes)
    try:
        module = FAMILIES[family].build(**weights.config).float()
        module.load_state_dict(weights.tensors)
    except (TypeError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise KalpanaError(
            f"{path} does not fit family {family!r} of this version of Kalpana: {reason}"
        ) from None
    return module.eval().requires_grad_(False)


def fingerprint(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _small(tensor: Tensor) -> Tensor:
    """Tensor as it is stored: bf16 for matrices."""
    return tensor.bfloat16() if tensor.is_floating_point() and tensor.ndim > 1 else tensor


def _rows(name: str, tensor: Tensor) -> dict[str, Tensor]:
    """Matrix as int8 and the scales of its rows; tensors of fewer dimensions unchanged."""
    if not tensor.is_floating_point() or tensor.ndim < 2:
        return {name: tensor}
    largest = tensor.flatten(1).abs().amax(1)  # rows
    scales = largest.clamp(min=torch.finfo(torch.float32).tiny) / 127
    return {name: (tensor / _along(scales, tensor)).round().to(torch.int8), name + SCALES: scales}


def _wide(tensor: Tensor, scales: Tensor | None) -> Tensor:
    """Tensor as it is read: fp32, rows multiplied by their scales if there are any."""
    if scales is not None:
        return tensor * _along(scales, tensor)
    return tensor.float() if tensor.is_floating_point() else tensor


def _along(scales: Tensor, tensor: Tensor) -> Tensor:
    """Row scales in a shape that broadcasts against the tensor."""
    return scales.view(-1, *[1] * (tensor.ndim - 1))
