"""Codebook transfer: converts a token model from one VQGAN's tokens to another's, to train on.

``python -m kalpana.train.codebook_transfer WEIGHTS --old VQGAN --new VQGAN --out FILE``

Only the first and last layers of a token model depend on the codebook. Both VQGANs encode the same
pictures on the same grid, so the rows of a new code start as the mean of the rows of the old codes
in the same cells.
"""

from __future__ import annotations

import argparse
import sys
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("weights", type=Path, help=f"of one of {', '.join(TOKENS)}")
    parser.add_argument(
        "--old", type=Path, required=True, help="the VQGAN whose tokens the weights use"
    )
    parser.add_argument(
        "--new", type=Path, required=True, help="the VQGAN whose tokens the new weights use"
    )
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--pictures", type=int, default=PICTURES)
    options = parser.parse_args()
    try:
        device = find_device(None)
        family = metadata(files_of(options.weights)[0]).get("family", "")
        if family not in TOKENS:
            raise KalpanaError(
                f"{options.weights} holds weights of family '{family}': "
                f"give those of {', '.join(TOKENS)}"
            )
        given = read_weights(options.weights, family)
        old, new = (load_module(path, "vqgan").to(device) for path in (options.old, options.new))
        if old.quantiser.size != new.quantiser.size:
            raise KalpanaError(
                f"the old VQGAN has {old.quantiser.size} codes and the new {new.quantiser.size}: "
                "their numbers must be equal"
            )
        world = World(1, kind="everything")
        before, after = (
            data_cache.codes(network, path, world, options.pictures, device)
            for network, path in ((old, options.old), (new, options.new))
        )
        counts = cooccurrence(before, after, old.quantiser.size)
        provenance = {
            "init": given.provenance,
            "vqgan": {file.name: fingerprint(file) for file in files_of(options.new)},
        }
        tensors = translated(given.tensors, counts)
        save_tensors(options.out, replace(given, provenance=provenance, tensors=tensors))
    except KalpanaError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
