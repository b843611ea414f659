"""Weights that speak the tokens of one VQGAN, as a beginning for another's: ``python -m kalpana.train.codebook_transfer WEIGHTS --old VQGAN
--new VQGAN --out FILE``.

What a token model knows of pictures and words is in its blocks; only its first and last layers know what a code looks like. Both VQGANs
turn the same pictures into tokens on the same grid, so a new code can begin as the mean of the old ones that stood in its cells.
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
from kalpana.models.vqgan import VQGAN, Config
from kalpana.train import data_cache
from kalpana.train.recipe import TOKENS
from kalpana.types import KalpanaError
from kalpana.world.world import World

PICTURES = 8192
ROWS = (
    "codes.weight",
    "show.weight",
    "head.weight",
)  # what the names of parameters end with that have a row for each code


def cooccurrence(before: np.ndarray, after: np.ndarray, size: int) -> Tensor:
    """How often each of ``size`` new codes stands where each old one does, (size, size), in the tokens (n, h, w) that the old VQGAN and the
    new make of the same pictures."""
    if before.shape != after.shape:
        raise KalpanaError(
            f"the grids of the old VQGAN, {before.shape[1:]}, and the new, {after.shape[1:]}, differ"
        )
    pairs = after.astype(np.int64) * size + before
    return torch.from_numpy(np.bincount(pairs.ravel(), minlength=size**2)).float().view(size, size)


def translated(tensors: dict[str, Tensor], counts: Tensor) -> dict[str, Tensor]:
    """The tensors of a token model, the row of each new code being the mean of the old codes' rows, as often as ``counts`` (new, old) says;
    a new code that never came up gets the mean of all. Rows behind those of the codes stay. Raises KalpanaError where no tensor fits."""
    size, found = counts.shape[1], 0
    never = counts.sum(1, keepdim=True) == 0
    shares = torch.where(never, 1.0, counts)
    shares = shares / shares.sum(1, keepdim=True)
    out = dict(tensors)
    for name, rows in tensors.items():
        if name.endswith(ROWS):
            if not size <= len(rows) <= size + 1:
                raise KalpanaError(
                    f"{name} has {len(rows)} rows, and the old VQGAN {size} codes: these weights do not speak its tokens"
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
        "--old", type=Path, required=True, help="the VQGAN whose tokens these speak"
    )
    parser.add_argument(
        "--new", type=Path, required=True, help="the VQGAN whose tokens they are to learn"
    )
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--pictures", type=int, default=PICTURES)
    asked = parser.parse_args()
    try:
        device = find_device(None)
        family = metadata(files_of(asked.weights)[0]).get("family", "")
        if family not in TOKENS:
            raise KalpanaError(
                f"{asked.weights} holds weights of family '{family}': give those of {', '.join(TOKENS)}"
            )
        given = read_weights(asked.weights, family)
        old, new = (
            load_module(path, "vqgan", lambda **config: VQGAN(Config(**config))).to(device)
            for path in (asked.old, asked.new)
        )
        if old.quantiser.size != new.quantiser.size:
            raise KalpanaError(
                f"the old VQGAN has {old.quantiser.size} codes and the new {new.quantiser.size}: they have to be as many"
            )
        world = World(1, kind="everything")
        before, after = (
            data_cache.codes(network, path, world, asked.pictures, device)
            for network, path in ((old, asked.old), (new, asked.new))
        )
        counts = cooccurrence(before, after, old.quantiser.size)
        said = {
            "init": given.provenance,
            "vqgan": {file.name: fingerprint(file) for file in files_of(asked.new)},
        }
        save_tensors(
            asked.out, replace(given, provenance=said, tensors=translated(given.tensors, counts))
        )
    except KalpanaError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
