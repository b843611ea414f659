"""Codebook transfer: converts a token model from one VQGAN's tokens to another's, to train on.

``kalpana weights transfer-codebook WEIGHTS --old VQGAN --new VQGAN --out FILE``

Only the first and last layers of a token model depend on the codebook. Both VQGANs encode the same
pictures on the same grid, so the rows of a new code start as the mean of the rows of the old codes
in the same cells.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from kalpana.hub.weights import (
    files_of,
    find_device,
    fingerprint,
    load_module,
    metadata,
    read_weights,
    save_tensors,
)
from kalpana.train import data_cache
from kalpana.types import KalpanaError
from kalpana.world.world import World

PICTURES = 8192  # encoded by both VQGANs
TOKENS = ("dalle", "maskgit", "dalle-mini")  # families that model the tokens of a VQGAN
# Suffixes of the names of parameters with one row per code.
ROWS = ("codes.weight", "show.weight", "head.weight")


def cooccurrence(before: np.ndarray, after: np.ndarray, size: int) -> Tensor:
    """Counts (new, old), both ``size``, of the cells in which a new code replaces an old one.

    ``before`` and ``after`` are the tokens (n, h, w) of the same pictures under the old and the new
    VQGAN. Raises KalpanaError if their shapes differ.
    """
    if before.shape != after.shape:
        raise KalpanaError(
            f"the grids of the old VQGAN, {before.shape[1:]}, "
            f"and the new, {after.shape[1:]}, differ"
        )
    pairs = after.astype(np.int64) * size + before
    return torch.from_numpy(np.bincount(pairs.ravel(), minlength=size**2)).float().view(size, size)


def translated(tensors: dict[str, Tensor], counts: Tensor) -> dict[str, Tensor]:
    """Tensors of a token model with the rows of its codes converted to the new codebook.

    A new code's row is the mean of the old codes' rows weighted by ``counts`` (new, old), and the
    mean of all rows if it never occurs. Rows after those of the codes are unchanged. Raises
    KalpanaError if a tensor does not fit or none has rows for codes.
    """
    size, found = counts.shape[1], 0
    never = counts.sum(1, keepdim=True) == 0
    shares = torch.where(never, 1.0, counts)
    shares = shares / shares.sum(1, keepdim=True)
    out = dict(tensors)
    for name, rows in tensors.items():
        if name.endswith(ROWS):
            if not size <= len(rows) <= size + 1:
                raise KalpanaError(
                    f"{name} has {len(rows)} rows, and the old VQGAN {size} codes: "
                    "these weights do not use its tokens"
                )
            out[name], found = torch.cat((shares.to(rows) @ rows[:size], rows[size:])), found + 1
    if not found:
        raise KalpanaError(
            f"none of the tensors has a row for each code: give weights of {', '.join(TOKENS)}"
        )
    return out


def transfer(
    weights: Path,
    old: Path,
    new: Path,
    out: Path,
    pictures: int = PICTURES,
    device: str | None = None,
) -> None:
    """Write to ``out`` a token model for the codes of ``new``, from one for those of ``old``.

    Raises KalpanaError if the weights are of no token model, or if the codebooks differ in size.
    """
    where = find_device(device)
    family = metadata(files_of(weights)[0]).get("family", "")
    if family not in TOKENS:
        raise KalpanaError(
            f"{weights} holds weights of family '{family}': give those of {', '.join(TOKENS)}"
        )
    given = read_weights(weights, family)
    before_net, after_net = (load_module(path, "vqgan").to(where) for path in (old, new))
    size = before_net.quantiser.size
    if size != after_net.quantiser.size:
        raise KalpanaError(
            f"the old VQGAN has {size} codes and the new {after_net.quantiser.size}: "
            "their numbers must be equal"
        )
    world = World(1, kind="everything")
    before, after = (
        data_cache.codes(network, path, world, pictures, where)
        for network, path in ((before_net, old), (after_net, new))
    )
    provenance = {
        "init": given.provenance,
        "vqgan": {file.name: fingerprint(file) for file in files_of(new)},
    }
    tensors = translated(given.tensors, cooccurrence(before, after, size))
    save_tensors(out, replace(given, provenance=provenance, tensors=tensors))
