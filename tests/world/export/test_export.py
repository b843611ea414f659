"""Tests of exports: the same bytes however they are made, and truth that fits the pixels."""

from __future__ import annotations

import gc
import io
import json
import os
import subprocess
import sys
import tarfile
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from kalpana.media import decode_video
from kalpana.types import KalpanaError
from kalpana.world.export.examples import BONES, JOINTS
from kalpana.world.export.export import cores, export
from kalpana.world.export.settings import FORMATS, Settings
from kalpana.world.world import World

SIDE = 64


def settings(format: str = "webdataset", kind: str = "everything", n: int = 5, **more: Any) -> Any:
    return Settings(format, kind, n, side=SIDE, shard=2, **more)


def contents(folder: Path) -> dict[str, bytes]:
    """All files of a folder and their bytes."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def samples(folder: Path) -> dict[str, dict[str, bytes]]:
    """The samples of all shards, grouped as by WebDataset: by the name up to its first dot."""
    out: dict[str, dict[str, bytes]] = defaultdict(dict)
    order = []
    for shard in sorted(folder.glob("*.tar")):
        with tarfile.open(shard) as tar:
            for member in tar:
                key, _, ending = member.name.partition(".")
                file = tar.extractfile(member)
                assert file is not None and ending not in out[key]
                out[key][ending] = file.read()
                order.append(key)
    assert order == sorted(order), "the files of a sample must follow each other"
    return out


def facts(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(sample["json"]) for sample in samples(folder).values()]


def tight(mask: np.ndarray) -> list[int]:
    """Bounding box of a mask, computed from its pixels."""
    rows, columns = np.nonzero(mask)
    if not len(rows):
        return [0, 0, 0, 0]
    return [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("format", "kind"),
    [*((format, "everything") for format in FORMATS), ("webdataset", "video"), ("coco", "video")],
)
def test_bytes_do_not_depend_on_processes_or_interruptions(
    format: str, kind: str, tmp_path: Path
) -> None:
    """Two processes, a run that stopped after a shard, and a finished run: all equal."""
    if format == "parquet":
        pytest.importorskip("pyarrow", reason="parquet needs pyarrow: kalpana[export]")
    if kind == "video" and format != "coco":
        pytest.importorskip("av", reason="MP4 needs PyAV: kalpana[video]")
    n = 3 if kind == "video" else 5
    plan = settings(format, kind, n)
    export(plan, tmp_path / "one", workers=1)
    whole = contents(tmp_path / "one")

    class Stop(Exception):
        pass

    def stop(done: int, total: int) -> None:
        assert total == n
        if done >= 2:
            raise Stop

    with pytest.raises(Stop):
        export(plan, tmp_path / "two", workers=1, progress=stop)
    (tmp_path / "two" / ".0123456789abcdef.part").write_bytes(b"of a process that was killed")
    assert contents(tmp_path / "two") != whole
    seen: list[int] = []
    export(plan, tmp_path / "two", workers=2, progress=lambda done, _: seen.append(done))
    assert contents(tmp_path / "two") == whole
    assert seen[0] == 2 and seen[-1] == n and seen == sorted(seen)  # what was there is kept
    export(plan, tmp_path / "two", workers=1)
    assert contents(tmp_path / "two") == whole


def test_an_example_does_not_depend_on_how_many_there_are(tmp_path: Path) -> None:
    export(settings(n=4), tmp_path / "four", workers=1)
    export(settings(n=2), tmp_path / "two", workers=1)
    two = samples(tmp_path / "two")
    assert len(two) == 2 and two.items() <= samples(tmp_path / "four").items()
    export(settings(n=2, seed=1), tmp_path / "other", workers=1)
    assert samples(tmp_path / "other") != two


@pytest.mark.parametrize("kind", ["objects", "depth", "paintings"])
def test_images_and_truth_are_those_of_the_world(kind: str, tmp_path: Path) -> None:
    """Boxes are tight around masks, masks lie in whole masks, depth is that of the objects."""
    export(settings(kind=kind, n=4), tmp_path / "e", workers=1)
    world = World(0, side=SIDE, kind=kind)
    for index, sample in enumerate(samples(tmp_path / "e").values()):
        image = np.asarray(Image.open(io.BytesIO(sample["png"])))
        pixels = world[index].image.permute(1, 2, 0).numpy()
        assert np.abs(image / 127.5 - 1 - pixels).max() <= 0.5 / 127.5 + 1e-6
        told = json.loads(sample["json"])
        arrays = np.load(io.BytesIO(sample["npz"]))
        assert len(told["objects"]) == len(arrays["masks"]) == len(arrays["whole"])
        assert (arrays["masks"] <= arrays["whole"]).all() and arrays["masks"].sum(0).max() <= 1
        depth = np.ones((SIDE, SIDE))
        for item, mask, whole in zip(
            told["objects"], arrays["masks"], arrays["whole"], strict=True
        ):
            assert item["box"] == tight(mask) and item["whole_box"] == tight(whole)
            assert item["visible"] == pytest.approx(mask.sum() / whole.sum(), abs=1e-3)
            depth[mask] = item["depth"]
        assert np.abs(arrays["depth"] - depth).max() < 1e-3
        assert not (arrays["outlines"] & ~arrays["masks"].any(0)).any()
        assert arrays["edges"].shape == (SIDE, SIDE)


def test_captions_are_there_in_all_forms_and_the_languages_asked_for(tmp_path: Path) -> None:
    export(settings(n=4, languages=("hi",)), tmp_path / "hi", workers=1)
    export(settings(n=4), tmp_path / "both", workers=1)
    for sample, other in zip(
        samples(tmp_path / "hi").values(), samples(tmp_path / "both").values(), strict=True
    ):
        told, both = json.loads(sample["json"]), json.loads(other["json"])
        assert list(told["captions"]) == ["hi"] and told["language"] == "hi"
        assert told["captions"]["hi"] == both["captions"]["hi"]
        assert both["captions"].keys() == {"en", "hi"}
        assert both["captions"]["en"].keys() == {"short", "natural", "dense"}
        assert sample["txt"].decode() == told["caption"]
        assert any("\u0900" <= letter <= "\u097f" for letter in told["caption"])
        assert sample["png"] == other["png"] and sample["npz"] == other["npz"]


def test_words_fingers_and_joints_are_in_the_facts(tmp_path: Path) -> None:
    for kind in ("text", "hands", "puppets"):
        export(settings(kind=kind, n=4), tmp_path / kind, workers=1)
    for told in facts(tmp_path / "text"):
        (sign,) = (item for item in told["objects"] if item["concept"] == "sign")
        assert f'"{sign["text"]}"' in told["captions"]["en"]["dense"]
    for told in facts(tmp_path / "hands"):
        assert all(item["fingers"] == sum(item["raised"]) for item in told["objects"])
    for sample in samples(tmp_path / "puppets").values():
        masks = np.load(io.BytesIO(sample["npz"]))["whole"]
        for item, mask in zip(json.loads(sample["json"])["objects"], masks, strict=True):
            assert tuple(item["joints"]) == JOINTS
            x0, y0, x1, y1 = tight(mask)
            assert all(x0 <= x <= x1 and y0 <= y <= y1 for x, y in item["joints"].values())
    assert {name for bone in BONES for name in bone} == set(JOINTS) and len(JOINTS) == 14


@pytest.mark.slow
def test_videos_have_paths_of_objects_and_camera(tmp_path: Path) -> None:
    """Where an object does not turn or leave the image, its path is the centre of its box."""
    pytest.importorskip("av", reason="MP4 needs PyAV: kalpana[video]")
    export(settings(kind="video", n=6), tmp_path / "v", workers=1)
    checked = 0
    for sample in samples(tmp_path / "v").values():
        told, arrays = json.loads(sample["json"]), np.load(io.BytesIO(sample["npz"]))
        frames, fps, _ = decode_video(sample["mp4"])
        assert len(frames) == told["frames"] == len(told["camera"]) == len(arrays["masks"])
        assert fps == told["fps"] and "whole" not in arrays
        assert arrays["depth"].shape == arrays["edges"].shape == (told["frames"], SIDE, SIDE)
        for k, item in enumerate(told["objects"]):
            assert item["boxes"] == [tight(mask[k]) for mask in arrays["masks"]]
            if told["event"] in ("move", "arc", "bounce", "grow", "shrink"):
                boxes, path = np.array(item["boxes"]), np.array(item["path"]) * SIDE
                middle = (boxes[:, :2] + boxes[:, 2:]) / 2
                assert np.abs(middle - path[:, :2]).max() < 2
                checked += 1
    assert checked


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
@pytest.mark.parametrize("kind", ["everything", "puppets", "video"])
def test_coco_loads_in_pycocotools(kind: str, tmp_path: Path) -> None:
    """Masks, boxes, areas, keypoints and captions as the reference library reads them."""
    reference = pytest.importorskip(
        "pycocotools.coco", reason="the reference: pip install pycocotools"
    )
    n = 2 if kind == "video" else 5
    captions, instances = export(settings("coco", kind, n), tmp_path / "c", workers=1)
    coco, words = reference.COCO(str(instances)), reference.COCO(str(captions))
    assert len(words.anns) == 6 * n and words.imgs.keys() == coco.imgs.keys()
    for annotation in coco.loadAnns(coco.getAnnIds()):
        mask = coco.annToMask(annotation)
        x, y, w, h = annotation["bbox"]
        assert mask.shape == (SIDE, SIDE) and mask.sum() == annotation["area"]
        assert [x, y, x + w, y + h] == tight(mask)
        (image,) = coco.loadImgs(annotation["image_id"])
        for folder in ("images", "depth", "edges", "outlines"):
            with Image.open(tmp_path / "c" / folder / image["file_name"]) as picture:
                assert picture.size == (SIDE, SIDE)
        if kind == "puppets":
            xs, ys, seen = np.array(annotation["keypoints"]).reshape(14, 3).T
            assert {1, 2} >= set(seen) and (seen == 2).sum() > 7
            assert (mask[ys[seen == 2].astype(int), xs[seen == 2].astype(int)] == 1).all()


@pytest.mark.slow
def test_coco_entries_have_unique_ids_and_refer_to_each_other(tmp_path: Path) -> None:
    captions, instances = export(settings("coco", "video", 3), tmp_path / "c", workers=1)
    told, words = json.loads(instances.read_bytes()), json.loads(captions.read_bytes())
    images = {image["id"]: image for image in told["images"]}
    assert len(images) == len(told["images"]) and len(told["categories"]) > 1600
    assert [a["id"] for a in told["annotations"]] == [*range(1, len(told["annotations"]) + 1)]
    videos = defaultdict(set)
    for annotation in told["annotations"]:
        videos[annotation["instance_id"]].add(images[annotation["image_id"]]["video_id"])
    assert all(len(of) == 1 for of in videos.values())  # an object is of one video
    assert {images[a["image_id"]]["frame_index"] for a in words["annotations"]} == {0}
    assert len({a["image_id"] for a in words["annotations"]}) == 3
    assert not (tmp_path / "c" / "parts").exists()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_webdataset_reads_the_shards(tmp_path: Path) -> None:
    reader = pytest.importorskip("webdataset", reason="the reference: pip install webdataset")
    export(settings(n=4), tmp_path / "w", workers=1)
    urls = sorted(str(path) for path in (tmp_path / "w").glob("*.tar"))
    read = list(reader.WebDataset(urls, shardshuffle=False).decode("rgb8"))
    gc.collect()  # the reader leaves its files open
    assert [sample["__key__"] for sample in read] == [f"{k:08d}" for k in range(4)]
    assert all(sample["json"]["caption"] == sample["txt"] for sample in read)
    assert all(sample["png"].shape == (SIDE, SIDE, 3) for sample in read)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["everything", "video"])
def test_parquet_tables_hold_images_captions_and_truth(kind: str, tmp_path: Path) -> None:
    parquet = pytest.importorskip(
        "pyarrow.parquet", reason="parquet needs pyarrow: kalpana[export]"
    )
    if kind == "video":
        pytest.importorskip("av", reason="MP4 needs PyAV: kalpana[video]")
    export(settings("parquet", kind, 3), tmp_path / "p", workers=1)
    rows = parquet.read_table(tmp_path / "p" / "data").to_pylist()
    assert [row["index"] for row in rows] == [0, 1, 2]
    for row in rows:
        told = json.loads(row["facts"])
        assert row["caption_hi_dense"] == told["captions"]["hi"]["dense"]
        assert len(row["objects"]) == len(told["objects"])
        if kind == "video":
            assert len(row["depth"]) == len(row["objects"][0]["masks"]) == told["frames"]
            assert len(decode_video(row["mp4"])[0]) == told["frames"]
        else:
            depth = np.asarray(Image.open(io.BytesIO(row["depth"])))
            assert depth.dtype == np.uint16 and depth.max() == 65535
            assert row["objects"][0]["box"] == told["objects"][0]["box"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format": "zip"}, "format 'zip' is not one of webdataset, coco, parquet"),
        ({"kind": "ghosts"}, "kind 'ghosts' is not one of objects, .*, video"),
        ({"split": "exam"}, "split 'exam' is not one of train, dev, test, unseen"),
        ({"languages": ("en", "fr")}, "language 'fr' is not one of en, hi"),
        ({"languages": ("en", "en")}, "write en, hi or en,hi"),
        ({"n": 0}, "n 0: write 1 or more"),
        ({"shard": 0}, "shard 0: write 1 or more"),
        ({"side": 100}, "side 100 is not a multiple of 8 from 32 to 1024"),
    ],
)
def test_settings_that_are_not_allowed_are_named(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(KalpanaError, match=message):
        Settings(**{"format": "coco", "kind": "objects", "n": 1} | changes)


@pytest.mark.parametrize(
    ("changes", "field"), [({"seed": 1}, "seed"), ({"n": 2}, "n"), ({"split": "dev"}, "split")]
)
def test_a_folder_with_another_export_is_not_touched(
    changes: dict[str, Any], field: str, tmp_path: Path
) -> None:
    export(settings(n=1), tmp_path / "e", workers=1)
    before = contents(tmp_path / "e")
    with pytest.raises(KalpanaError, match=f"holds another export: {field} is .* there and"):
        export(settings(**{"n": 1} | changes), tmp_path / "e", workers=1)
    assert contents(tmp_path / "e") == before


def test_a_folder_with_other_files_is_not_touched(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("words")
    with pytest.raises(KalpanaError, match="not empty and holds no export"):
        export(settings(n=1), tmp_path, workers=1)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


@pytest.mark.parametrize(
    ("package", "format", "kind", "extra"),
    [("av", "webdataset", "video", "video"), ("pyarrow", "parquet", "objects", "export")],
)
def test_a_missing_package_is_found_before_any_work(
    package: str,
    format: str,
    kind: str,
    extra: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(KalpanaError, match=rf"pip install 'kalpana\[{extra}\]'"):
        export(settings(format, kind), tmp_path / "e")
    assert not (tmp_path / "e").exists()


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no limit on the size of files")
def test_a_file_that_cannot_be_written_ends_the_export_in_one_line(tmp_path: Path) -> None:
    """Files are limited to 70 kB, as by a full disk; without the limit, the export goes on."""
    command = [sys.executable, "-m", "kalpana", "world", "export", "--format", "webdataset"]
    command += ["-n", "12", "--shard", "12", "--workers", "1", "--out", "e"]
    limit = (
        "import resource, subprocess, sys\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (70_000, 70_000))\n"
        "sys.exit(subprocess.call(sys.argv[1:]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", limit, *command], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 2 and done.stderr.count("\n") == 1, done.stderr
    assert "stopped after 0 of 12 examples" in done.stderr and "goes on" in done.stderr
    assert {path.name for path in (tmp_path / "e").iterdir()} == {"export.json", ".lock"}
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0 and len(samples(tmp_path / "e")) == 12, done.stderr


def test_all_cores_are_at_least_one_and_threads_are_restored(tmp_path: Path) -> None:
    assert 1 <= cores() <= (os.cpu_count() or 1)
    before = torch.get_num_threads()
    export(settings(n=1), tmp_path / "e", workers=1)
    assert torch.get_num_threads() == before


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="Windows closes pipes in another way")
def test_processes_end_with_a_parent_that_was_killed_and_the_export_goes_on(tmp_path: Path) -> None:
    """The pipe of stdout closes only when the last process ends."""
    script = (
        "from pathlib import Path\n"
        "from kalpana.world.export.export import export\n"
        "from kalpana.world.export.settings import Settings\n"
        'if __name__ == "__main__":\n'
        "    plan = Settings('webdataset', 'objects', 60, side=64, shard=2)\n"
        "    export(plan, Path('e'), 2, lambda done, total: print(done, flush=True))\n"
    )
    (tmp_path / "script.py").write_text(script)
    with subprocess.Popen(
        [sys.executable, "script.py"], cwd=tmp_path, stdout=subprocess.PIPE, text=True
    ) as parent:
        assert parent.stdout is not None
        assert parent.stdout.readline() == "0\n" and int(parent.stdout.readline()) > 0
        parent.kill()
        parent.communicate(timeout=120)
    assert 0 < len(samples(tmp_path / "e")) < 60
    export(Settings("webdataset", "objects", 60, side=SIDE, shard=2), tmp_path / "e", workers=1)
    assert len(samples(tmp_path / "e")) == 60
    assert [path.name for path in (tmp_path / "e").glob(".*")] == [".lock"]
