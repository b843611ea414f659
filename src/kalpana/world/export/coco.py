"""COCO data set: images, ``instances.json``, ``captions.json``; depth, edges, outlines as PNG.

A video is a folder of frames, each an image of the data set with ``video_id`` and ``frame_index``;
``instance_id`` is the same for an object in all its frames. Objects of which nothing is visible
have no annotation. People have 14 keypoints, signs a ``text`` and hands ``fingers``. While the
export runs, the folder ``parts`` holds the entries of each complete shard.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import IO, Any

from torch import Tensor

from kalpana.media import to_images, write
from kalpana.world.export import files, rle
from kalpana.world.export.examples import BONES, JOINTS, NAMES, Example, names
from kalpana.world.export.settings import Settings
from kalpana.world.lexicon import lexicon

INSTANCES, CAPTIONS, PARTS = "instances.json", "captions.json", "parts"
OF_ART = ("color", "depth", "text", "fingers", "pose", "solid")  # facts that annotations repeat
Entry = dict[str, Any]


def shard_file(folder: Path, shard: int) -> Path:
    """The file whose presence says that the shard is complete: its part, or the whole export."""
    whole = folder / INSTANCES
    return whole if whole.exists() else folder / PARTS / f"{shard:06d}.jsonl"


def write_shard(settings: Settings, folder: Path, shard: int, examples: Iterable[Example]) -> None:
    """Write the pictures of a shard, and then its entries of the JSON files as its part."""
    lines = []
    for example in examples:
        _write_pictures(folder, example)
        lines.append(json.dumps(_entries(settings, example), ensure_ascii=False) + "\n")
    part = shard_file(folder, shard)
    part.parent.mkdir(exist_ok=True)
    write(part, "".join(lines).encode())


def finish(settings: Settings, folder: Path) -> list[Path]:
    """Join the parts of all shards to the two JSON files; the files of a complete export."""
    paths = [folder / CAPTIONS, folder / INSTANCES]  # the second says that both are complete
    if not paths[1].exists():
        _join(paths[0], settings, folder, {"images": _images, "annotations": _captions})
        sections = {"images": _images, "annotations": _instances, "categories": _categories}
        _join(paths[1], settings, folder, sections)
    shutil.rmtree(folder / PARTS, ignore_errors=True)
    return paths


def _join(
    path: Path,
    settings: Settings,
    folder: Path,
    sections: Mapping[str, Callable[[Iterator[Entry]], Iterator[Entry]]],
) -> None:
    """Write a JSON file of these lists of entries, one entry a line, without holding it in memory.

    Entries get their ``id`` by counting from 1 in the order of the examples.
    """
    with tempfile.NamedTemporaryFile(
        "w", encoding="utf-8", dir=folder, suffix=".part", prefix=".", delete=False
    ) as file:
        try:
            file.write(f'{{"info": {json.dumps(settings.to_json())}, "licenses": []')
            for name, entries in sections.items():
                file.write(f',\n"{name}": [')
                _write_list(file, entries(_examples(settings, folder)))
                file.write("]")
            file.write("}\n")
        except BaseException:
            Path(file.name).unlink(missing_ok=True)
            raise
    Path(file.name).chmod(0o644)
    Path(file.name).replace(path)


def _write_list(file: IO[str], entries: Iterator[Entry]) -> None:
    for number, entry in enumerate(entries, 1):
        comma = "\n" if number == 1 else ",\n"
        file.write(comma + json.dumps({"id": number} | entry, ensure_ascii=False))


def _examples(settings: Settings, folder: Path) -> Iterator[Entry]:
    """The entries of all examples, in order, from the parts."""
    for shard in settings.shards:
        with (folder / PARTS / f"{shard:06d}.jsonl").open(encoding="utf-8") as file:
            yield from map(json.loads, file)


def _images(examples: Iterator[Entry]) -> Iterator[Entry]:
    for example in examples:
        yield from example["images"]


def _instances(examples: Iterator[Entry]) -> Iterator[Entry]:
    before = instances = 0  # images and objects of the examples before
    for example in examples:
        for entry in example["instances"]:
            moved = {"image_id": entry["image_id"] + before}
            if "instance_id" in entry:
                moved["instance_id"] = entry["instance_id"] + instances
            yield entry | moved
        before, instances = before + len(example["images"]), instances + example["objects"]


def _captions(examples: Iterator[Entry]) -> Iterator[Entry]:
    """The captions; of a video they belong to its first frame."""
    before = 0
    for example in examples:
        for entry in example["captions"]:
            yield {"image_id": before + 1} | entry
        before += len(example["images"])


def _categories(examples: Iterator[Entry]) -> Iterator[Entry]:
    """All classes of the world, in an order that does not depend on the export."""
    for concept in _classes():
        entry: Entry = {"name": names(concept)[0], "name_hi": names(concept)[1], "concept": concept}
        entry["supercategory"] = lexicon()[concept].group if concept in lexicon() else concept
        if concept == "puppet":
            entry["keypoints"] = list(JOINTS)
            entry["skeleton"] = [[JOINTS.index(name) + 1 for name in bone] for bone in BONES]
        yield entry


@cache
def _classes() -> dict[str, int]:
    """The category id of each concept."""
    return {concept: number for number, concept in enumerate((*NAMES, *lexicon()), 1)}


def _frame_names(example: Example) -> list[str]:
    """The file name of each frame, without its suffix and folder."""
    if example.fps is None:
        return [example.name]
    return [f"{example.name}/{frame:03d}" for frame in range(len(example.frames))]


def _write_pictures(folder: Path, example: Example) -> None:
    images = [files.png(image) for image in to_images(example.frames)]
    for kind, pictures in ({"images": images} | files.maps_of(example)).items():
        for name, data in zip(_frame_names(example), pictures, strict=True):
            path = folder / kind / f"{name}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)


def _entries(settings: Settings, example: Example) -> Entry:
    """The entries of one example: images, instances and captions.

    ``image_id`` and ``instance_id`` count from 1 within the example.
    """
    scene = {k: v for k, v in example.facts.items() if k not in ("captions", "objects", "camera")}
    side = example.frames.shape[-1]
    images, instances = [], []
    for frame, name in enumerate(_frame_names(example)):
        entry: Entry = {"file_name": f"{name}.png", "width": side, "height": side}
        if example.fps is not None:
            camera = example.facts["camera"][frame]
            entry |= {"video_id": example.index + 1, "frame_index": frame, "camera": camera}
        images.append(entry | {"scene": scene})
        instances += [
            {"image_id": frame + 1} | _instance(example, k, frame)
            for k in range(example.masks.shape[1])
            if example.masks[frame, k].any()
        ]
    captions = [
        {"caption": text, "language": language, "form": form}
        for language, forms in example.captions.items()
        for form, text in forms.items()
    ]
    return {
        "images": images,
        "instances": instances,
        "captions": captions,
        "objects": example.masks.shape[1],
    }


def _instance(example: Example, k: int, frame: int) -> Entry:
    """The annotation of object k in a frame, without its id and its image."""
    facts, mask = example.facts["objects"][k], example.masks[frame, k]
    x0, y0, x1, y1 = facts["box"] if example.fps is None else facts["boxes"][frame]
    entry: Entry = {
        "category_id": _classes()[facts["concept"]],
        "bbox": [x0, y0, x1 - x0, y1 - y0],
        "segmentation": rle.encode(mask),
        "area": int(mask.sum()),
        "iscrowd": 0,
    }
    if example.fps is not None:
        entry |= {"instance_id": k + 1, "path": facts["path"][frame]}
    if example.whole is not None:
        x0, y0, x1, y1 = facts["whole_box"]
        entry |= {"amodal_bbox": [x0, y0, x1 - x0, y1 - y0]}
        entry |= {"amodal_segmentation": rle.encode(example.whole[k])}
    entry |= {name: facts[name] for name in OF_ART if facts.get(name) is not None}
    if "joints" in facts:
        entry |= {"keypoints": _keypoints(facts["joints"], mask), "num_keypoints": len(JOINTS)}
    return entry


def _keypoints(joints: dict[str, list[float]], mask: Tensor) -> list[float]:
    """x, y and v of each joint: v is 2 where its pixel shows the person, and 1 elsewhere."""
    out: list[float] = []
    for name in JOINTS:
        x, y = joints[name]
        column, row = int(x), int(y)
        inside = 0 <= row < mask.shape[0] and 0 <= column < mask.shape[1]
        out += [x, y, 2 if inside and bool(mask[row, column]) else 1]
    return out
