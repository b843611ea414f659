"""WebDataset shards: tar files in which the files of an example share a name and follow each other.

An example has NAME.png or NAME.mp4; NAME.txt, its caption; NAME.json, its facts; and NAME.npz with
the arrays masks, whole, depth, edges and outlines (of a video with a leading axis of frames, and
without whole).
"""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from kalpana.media import write
from kalpana.world.export import files
from kalpana.world.export.examples import Example
from kalpana.world.export.settings import Settings


def shard_file(folder: Path, shard: int) -> Path:
    """The file whose presence says that the shard is complete."""
    return folder / f"shard-{shard:06d}.tar"


def write_shard(settings: Settings, folder: Path, shard: int, examples: Iterable[Example]) -> None:
    """Write one shard; its bytes depend on the examples alone."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for example in examples:
            suffix, data = files.media(example)
            facts = json.dumps(example.facts, ensure_ascii=False)
            for ending, content in (
                (suffix, data),
                ("txt", example.caption.encode()),
                ("json", facts.encode()),
                ("npz", _arrays(example)),
            ):
                member = tarfile.TarInfo(f"{example.name}.{ending}")  # dated 1970, of no user
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
    write(shard_file(folder, shard), file.getvalue())


def finish(settings: Settings, folder: Path) -> list[Path]:
    """The files of a complete export."""
    return [shard_file(folder, shard) for shard in settings.shards]


def _arrays(example: Example) -> bytes:
    """The bytes of an npz with the example's arrays, without the axis of frames for an image."""
    arrays = {
        name: getattr(example, name).numpy() for name in ("masks", "depth", "edges", "outlines")
    }
    if example.fps is None:
        arrays = {name: array[0] for name, array in arrays.items()}
    if example.whole is not None:
        arrays["whole"] = example.whole.numpy()
    file = io.BytesIO()
    np.savez_compressed(file, allow_pickle=False, **arrays)
    return file.getvalue()
