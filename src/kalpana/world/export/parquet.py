"""Parquet tables, one file a shard: an example a row, with its image, captions and truth.

Masks are strings of COCO run lengths. The maps are PNGs in columns of bytes, of a video a list with
one for each frame. ``facts`` is JSON with everything else.
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kalpana.media import write
from kalpana.world.export import files, rle
from kalpana.world.export.examples import JOINTS, VIDEO, Example
from kalpana.world.export.settings import Settings
from kalpana.world.grammar import FORMS

if TYPE_CHECKING:
    import pyarrow as pa


def shard_file(folder: Path, shard: int) -> Path:
    """The file whose presence says that the shard is complete."""
    return folder / "data" / f"shard-{shard:06d}.parquet"


def write_shard(settings: Settings, folder: Path, shard: int, examples: Iterable[Example]) -> None:
    """Write one shard as a table."""
    import pyarrow as pa
    import pyarrow.parquet as parquet

    table = pa.Table.from_pylist([_row(example) for example in examples], schema(settings))
    file = io.BytesIO()
    parquet.write_table(table, file, compression="zstd")
    path = shard_file(folder, shard)
    path.parent.mkdir(exist_ok=True)
    write(path, file.getvalue())


def finish(settings: Settings, folder: Path) -> list[Path]:
    """The files of a complete export."""
    return [shard_file(folder, shard) for shard in settings.shards]


def schema(settings: Settings) -> pa.Schema:
    """Columns of the tables of an export."""
    import pyarrow as pa

    video, text, number = settings.kind == VIDEO, pa.string(), pa.float32()
    box = pa.list_(pa.int32())
    map_type = pa.list_(pa.binary()) if video else pa.binary()
    of_kind = (
        {"boxes": pa.list_(box), "masks": pa.list_(text), "path": pa.list_(pa.list_(number))}
        if video
        else {"box": box, "mask": text, "whole_box": box, "whole_mask": text, "visible": number}
    )
    objects = {
        "concept": text,
        "name": text,
        "group": pa.int32(),
        "color": text,
        "depth": number,
        "text": text,
        "fingers": pa.int32(),
        "pose": text,
        "joints": pa.list_(pa.list_(number)),  # (x, y) in pixels, in the order of JOINTS
        **of_kind,
    }
    columns = {
        "index": pa.int64(),
        "kind": text,
        "caption": text,
        "language": text,
        "form": text,
        **{f"caption_{lang}_{form}": text for lang in settings.languages for form in FORMS},
        "mp4" if video else "png": pa.binary(),
        **(
            {"fps": pa.int32(), "event": text, "camera": pa.list_(pa.list_(number))}
            if video
            else {}
        ),
        "depth": map_type,
        "edges": map_type,
        "outlines": map_type,
        "objects": pa.list_(pa.struct(objects)),
        "facts": text,
    }
    return pa.schema(columns)


def _row(example: Example) -> dict[str, Any]:
    suffix, data = files.media(example)
    facts, video = example.facts, example.fps is not None
    return {
        **{name: facts.get(name) for name in ("index", "kind", "caption", "language", "form")},
        **{name: facts.get(name) for name in ("fps", "event", "camera")},
        **{
            f"caption_{language}_{form}": text
            for language, forms in example.captions.items()
            for form, text in forms.items()
        },
        suffix: data,
        **{name: pngs if video else pngs[0] for name, pngs in files.maps_of(example).items()},
        "objects": [_object(example, k) for k in range(len(facts["objects"]))],
        "facts": json.dumps(facts, ensure_ascii=False),
    }


def _object(example: Example, k: int) -> dict[str, Any]:
    """One entry of the column ``objects``: the facts, and the masks as run lengths."""
    facts = example.facts["objects"][k]
    masks = [rle.encode(frame[k])["counts"] for frame in example.masks]
    joints = facts.get("joints")
    return facts | {
        "name": facts["name"]["en"],
        "joints": joints and [joints[name] for name in JOINTS],
        "masks": masks,
        "mask": masks[0],
        "whole_mask": None if example.whole is None else rle.encode(example.whole[k])["counts"],
    }
