"""The index of a folder: content after changes and failures, and no repeated embedding."""

from __future__ import annotations

import os
import shutil
import signal
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from filelock import FileLock
from PIL import ExifTags, Image

from kalpana.types import KalpanaError
from kalpana.understand import index as indexing
from kalpana.understand import store as stores
from kalpana.understand.database import table_name
from kalpana.understand.folder import File, Read, read_file, read_image, walk
from kalpana.understand.index import Report, index
from kalpana.understand.search import search
from kalpana.understand.store import open_store, writing

Paint = Callable[..., Path]


def listed(folder: Path, encoder: Any, at: Path | None = None) -> dict[str, np.ndarray]:
    """All rows of the index as {path: embedding}; asserts that no path occurs twice."""
    rows = [
        (os.fsdecode(row["path"]), vector)
        for block, vectors in open_store(folder, encoder, at).blocks(["path"])
        for row, vector in zip(block, vectors, strict=True)
    ]
    assert len({path for path, _ in rows}) == len(rows)
    return dict(rows)


def assert_whole(folder: Path, encoder: Any, at: Path | None = None) -> None:
    """Asserts that the index holds exactly the folder's pictures, with their present embeddings."""
    rows = listed(folder, encoder, at)
    assert sorted(rows) == [os.fsdecode(file.path) for file in walk(folder)[0]]
    for path, vector in rows.items():
        assert np.allclose(
            vector, encoder.images([read_image(folder / path)])[0].numpy(), atol=1e-6
        ), path


def contents(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.name != "lock"
    }


def overwrite(path: Path, data: bytes) -> None:
    """Replaces the content of a file by data of the same size, with its time of change kept."""
    before = path.stat()
    assert len(data) == before.st_size
    path.write_bytes(data)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


# ---------------------------------------------------------------------------------- files and links


@pytest.mark.slow
def test_every_common_format_at_any_depth_is_indexed_and_nothing_else(
    tmp_path: Path, paint: Paint, colours: Any
) -> None:
    names = [
        "a.jpg",
        "b.JPEG",
        "c.png",
        "d/e.webp",
        "d/f.gif",
        "d/e/g.bmp",
        "h.tiff",
        "i.tif",
        "j.avif",
        "k.jfif",
    ]
    for name in names:
        paint(tmp_path / name, "red", format="jpeg" if name.endswith("jfif") else None)
    for name in (".hidden.png", ".thumbs/l.png", "._a.jpg"):
        paint(tmp_path / name, "red")
    (tmp_path / "notes.txt").write_text("red")
    report = index(tmp_path, colours)
    assert sorted(listed(tmp_path, colours)) == sorted(names) and report.broken == ()
    assert (report.pictures, report.added, report.seen) == (10, 10, 10)


@pytest.mark.slow
def test_links_lead_neither_in_circles_nor_to_anything_twice(
    tmp_path: Path, paint: Paint, colours: Any
) -> None:
    folder, outside = tmp_path / "in", tmp_path / "out"
    one = paint(folder / "z" / "one.png", "red")
    paint(outside / "two.png", "blue")
    (folder / "a.png").symlink_to(one)  # sorts first, but the file itself is indexed
    (folder / "circle").symlink_to(folder)
    (folder / "z" / "up").symlink_to(folder / "z")
    (folder / "far").symlink_to(outside)
    (folder / "far2").symlink_to(outside)
    (folder / "b.png").hardlink_to(one)
    files, closed = walk(folder)
    assert [file.path for file in files] == [b"b.png", b"far/two.png"] and closed == []
    assert index(folder, colours).pictures == 2


def test_what_cannot_be_reached_now_stays_and_what_is_gone_goes(
    tmp_path: Path, paint: Paint, colours: Any
) -> None:
    folder, disk = tmp_path / "in", tmp_path / "disk"
    paint(folder / "a.png", "red")
    paint(disk / "b.png", "blue")
    (folder / "disk").symlink_to(disk)
    index(folder, colours)
    disk.rename(tmp_path / "away")
    report = index(folder, colours)
    assert [each.path for each in report.broken] == [b"disk"] and report.removed == 0
    assert sorted(listed(folder, colours)) == ["a.png", "disk/b.png"]
    (folder / "disk").unlink()
    assert index(folder, colours).removed == 1 and sorted(listed(folder, colours)) == ["a.png"]


def test_any_name_that_a_file_can_have_is_fine(tmp_path: Path, paint: Paint, colours: Any) -> None:
    names = [
        "it's.png",
        'a "quote".png',
        "new\nline.png",
        "100%.png",
        "बिल्ली.png",
        "'; DROP TABLE x; --.png",
        "a\\b.png",
        "-.png",
    ]
    for name in names:
        paint(tmp_path / 'it\'s "here"\n' / name, "red")
    latin = os.fsdecode(b"caf\xe9.png")
    try:
        paint(tmp_path / latin, "blue")
    except OSError:  # this file system requires UTF-8
        latin = ""
    index(tmp_path, colours)
    assert_whole(tmp_path, colours)
    for name in names[:3]:
        (tmp_path / 'it\'s "here"\n' / name).unlink()
    index(tmp_path, colours)
    assert_whole(tmp_path, colours)
    assert not latin or search(tmp_path, "blue", colours, n=1)[0].path == tmp_path / latin


# ---------------------------------------------------------------------------------------- decoding


def test_pictures_are_seen_upright_on_white_and_in_all_their_depth(tmp_path: Path) -> None:
    base = Image.fromarray(np.random.default_rng(0).integers(0, 256, (6, 4, 3), dtype=np.uint8))
    diagonal: Callable[[np.ndarray], np.ndarray] = lambda a: a.transpose(1, 0, 2)  # noqa: E731
    upright = [
        lambda a: a,
        np.fliplr,
        lambda a: np.rot90(a, 2),
        np.flipud,
        diagonal,
        lambda a: np.rot90(a, -1),
        lambda a: diagonal(np.rot90(a, 2)),
        np.rot90,
    ]
    for turn, turned in enumerate(upright, start=1):
        exif = Image.Exif()
        exif[ExifTags.Base.Orientation] = turn
        base.save(tmp_path / "turned.png", exif=exif)
        assert np.array_equal(
            np.asarray(read_image(tmp_path / "turned.png")), turned(np.asarray(base))
        ), turn
    Image.new("RGBA", (2, 2), (255, 0, 0, 0)).save(tmp_path / "clear.png")
    assert read_image(tmp_path / "clear.png").getpixel((0, 0)) == (255, 255, 255)
    Image.fromarray(np.linspace(1000, 41000, 16).astype(np.uint16).reshape(4, 4)).save(
        tmp_path / "deep.png"
    )
    deep = np.asarray(read_image(tmp_path / "deep.png"))[..., 0].ravel().astype(int)
    assert np.abs(deep - np.linspace(1000, 41000, 16) / 257).max() <= 1


@pytest.mark.slow
@pytest.mark.parametrize("name", ["large.jpg", "large.png"])
def test_a_large_picture_is_seen_smaller_and_listed_as_it_is(
    name: str, tmp_path: Path, paint: Paint, colours: Any
) -> None:
    paint(tmp_path / name, "red", "blue", size=(4200, 2100))
    paint(tmp_path / "dot.png", "black", size=(1, 1))
    seen = read_image(tmp_path / name)
    assert seen.size == (2100, 1050)
    assert torch.allclose(colours.images([seen]), colours.texts(["red blue"]), atol=0.01)
    index(tmp_path, colours)
    assert [(hit.width, hit.height) for hit in search(tmp_path, "red blue", colours)] == [
        (4200, 2100),
        (1, 1),
    ]


def test_size_and_date_are_those_that_a_viewer_shows(
    tmp_path: Path, paint: Paint, colours: Any
) -> None:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    exif.get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.DateTimeOriginal] = "2019:05:04 03:02:01"
    paint(tmp_path / "camera.jpg", "red", size=(40, 30), exif=exif)
    os.utime(paint(tmp_path / "other.png", "blue", size=(40, 30)), (1e9, 1e9))
    index(tmp_path, colours)
    camera, other = search(tmp_path, "red", colours)
    assert (camera.width, camera.height, camera.date) == (30, 40, "2019-05-04T03:02:01")
    assert (other.width, other.height) == (40, 30) and other.date.startswith("2001-09-0")


# ------------------------------------------------------------------------------------ broken files


def bomb() -> bytes:
    """A PNG whose header declares 20,000 x 20,000 pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", struct.pack(">IIBBBBB", 20_000, 20_000, 8, 2, 0, 0, 0))
        + chunk(b"IDAT", b"")
        + chunk(b"IEND", b"")
    )


def test_broken_files_are_listed_and_not_tried_again_until_they_change(
    tmp_path: Path, paint: Paint, colours: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = paint(tmp_path / "whole.png", "red", "blue").read_bytes()
    damaged = {
        "text.jpg": b"words",
        "empty.png": b"",
        "half.png": whole[: len(whole) // 2],
        "bomb.png": bomb(),
        "photo.heic": b"\0" * 64,
    }
    for name, data in damaged.items():
        (tmp_path / name).write_bytes(data)
    if hasattr(os, "mkfifo"):
        os.mkfifo(tmp_path / "pipe.jpg")  # reading it would block forever
    report = index(tmp_path, colours)
    reasons = {os.fsdecode(each.path): each.reason for each in report.broken}
    assert sorted(reasons) == sorted(damaged) and sorted(listed(tmp_path, colours)) == ["whole.png"]
    assert reasons["text.jpg"] == "it is no picture" and "pixels" in reasons["bomb.png"]

    text, tried = tmp_path / "text.jpg", list[bytes]()

    def counted(folder: Path, file: File, known: Any) -> Any:
        tried.append(file.path)
        return read_file(folder, file, known)

    monkeypatch.setattr(indexing, "read_file", counted)
    again = index(tmp_path, colours)
    assert again.broken == report.broken and (again.seen, again.removed, tried) == (0, 0, [])
    picture = paint(tmp_path / "x.bmp", "green", size=(1, 1)).read_bytes()
    (tmp_path / "x.bmp").unlink()
    text.write_bytes(b"x" * len(picture))
    index(tmp_path, colours)
    assert tried == [b"text.jpg"]
    overwrite(text, picture)  # of the same size and time
    mended = index(tmp_path, colours)
    assert (mended.seen, mended.added) == (1, 1) and sorted(reasons) == sorted(
        ["text.jpg", *(os.fsdecode(each.path) for each in mended.broken)]
    )
    text.write_bytes(b"words again")
    assert index(tmp_path, colours).removed == 1 and sorted(listed(tmp_path, colours)) == [
        "whole.png"
    ]


@pytest.mark.parametrize("wrong", ["shape", "length", "nan"])
def test_vectors_that_break_the_promise_are_refused(
    wrong: str, tmp_path: Path, paint: Paint, colours: Any
) -> None:
    class Wrong(type(colours)):  # type: ignore[misc]
        def images(self, pictures: list[Image.Image]) -> torch.Tensor:
            right = super().images(pictures)
            return {"shape": right[:, 1:], "length": right * 2, "nan": right * torch.nan}[wrong]

    paint(tmp_path / "a.png", "red")
    with pytest.raises(KalpanaError, match="model 'colours' gave vectors"):
        index(tmp_path, Wrong())


# ----------------------------------------------------------------------------------------- changes


def test_files_that_swap_names_swap_their_embeddings(
    tmp_path: Path, paint: Paint, colours: Any
) -> None:
    """Uncompressed pictures of one size, with one time of change."""
    one, two = (paint(tmp_path / f"{name}.bmp", name) for name in ("red", "blue"))
    for path in (one, two):
        os.utime(path, ns=(10**18, 10**18))
    index(tmp_path, colours)
    assert one.stat().st_size == two.stat().st_size
    one.rename(tmp_path / "x")
    two.rename(one)
    (tmp_path / "x").rename(two)
    report = index(tmp_path, colours)
    # The content hashes decide: both rows change, and no picture is embedded again.
    assert (report.changed, report.added, report.removed, report.seen) == (2, 0, 0, 0)
    assert_whole(tmp_path, colours)
    assert [hit.path for hit in search(tmp_path, "red", colours, n=1)] == [two]


def test_a_file_that_is_overwritten_with_its_time_kept_is_seen(
    tmp_path: Path, paint: Paint, colours: Any
) -> None:
    path = paint(tmp_path / "a.bmp", "red")
    index(tmp_path, colours)
    overwrite(path, paint(tmp_path / "b.bmp", "blue").read_bytes())
    (tmp_path / "b.bmp").unlink()
    report = index(tmp_path, colours)
    assert (report.changed, report.seen) == (1, 1)
    assert_whole(tmp_path, colours)


def test_a_file_with_the_same_content_keeps_its_embedding(
    tmp_path: Path, paint: Paint, colours: Any
) -> None:
    path = paint(tmp_path / "a.bmp", "red")
    index(tmp_path, colours)
    overwrite(path, path.read_bytes())
    copy = shutil.copy2(path, tmp_path / "copy")
    os.replace(copy, path)  # another inode
    report = index(tmp_path, colours)
    assert (report.changed, report.added, report.seen) == (0, 0, 0)
    assert_whole(tmp_path, colours)


def test_only_what_is_new_or_changed_is_looked_at(
    tmp_path: Path, paint: Paint, colours: Any
) -> None:
    def run() -> tuple[Report, int]:
        before = colours.looked
        report = index(tmp_path, colours)
        looked = colours.looked - before
        assert_whole(tmp_path, replace(colours))
        assert report.seen == looked and report.pictures == len(walk(tmp_path)[0])
        return report, looked

    for name in colours.named:
        paint(tmp_path / f"{name}.png", name)
    assert run()[1] == 8
    report, looked = run()
    assert looked == 0 and (report.added, report.changed, report.moved, report.removed) == (
        0,
        0,
        0,
        0,
    )
    os.utime(tmp_path / "red.png", (1e9, 1e9))  # a new time of change, the same bytes
    report, looked = run()
    assert looked == 0 and report.changed == 0
    (tmp_path / "blue.png").rename(tmp_path / "azure.png")
    (tmp_path / "new").mkdir()
    (tmp_path / "green.png").rename(tmp_path / "new" / "green.png")
    shutil.copy(tmp_path / "red.png", tmp_path / "copy.png")
    report, looked = run()
    assert looked == 0 and (report.added, report.moved, report.removed) == (1, 2, 0)
    paint(tmp_path / "white.png", "purple", "black")
    (tmp_path / "grey.png").unlink()
    report, looked = run()
    assert looked == 1 and (report.changed, report.removed) == (1, 1)


def test_pictures_that_change_names_with_each_other_keep_their_own_vectors(
    tmp_path: Path, paint: Paint, colours: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With COMMIT 1, the first overwrites the row of the second, which must be embedded again."""
    monkeypatch.setattr(indexing, "COMMIT", 1)
    monkeypatch.setattr(indexing, "BATCH", 1)
    for name in ("red", "blue", "green"):
        paint(tmp_path / f"{name}.png", name)
    index(tmp_path, colours)
    (tmp_path / "red.png").rename(tmp_path / "x")
    for old, new in (("blue", "red"), ("green", "blue")):
        (tmp_path / f"{old}.png").rename(tmp_path / f"{new}.png")
    (tmp_path / "x").rename(tmp_path / "green.png")
    for k, name in enumerate(("red", "blue", "green")):
        os.utime(tmp_path / f"{name}.png", (1e9 + k, 1e9 + k))
    index(tmp_path, colours)
    assert_whole(tmp_path, replace(colours))


def test_two_models_have_an_index_each_in_one_place(
    tmp_path: Path, paint: Paint, colours: Any
) -> None:
    other = replace(colours, name="weights/other one", fingerprint="f" * 64)
    paint(tmp_path / "a.png", "red")
    index(tmp_path, colours)
    with pytest.raises(
        KalpanaError,
        match=r"model 'weights/other one' has not seen the pictures in .*; "
        r"colours have: ask with --model",
    ):
        search(tmp_path, "red", other)
    index(tmp_path, other)
    for encoder in (colours, other):
        assert len(search(tmp_path, "red", encoder)) == 1
    with pytest.raises(KalpanaError, match="model 'colours' has changed since the index of"):
        search(tmp_path, "red", replace(colours, fingerprint="e" * 64))


def test_an_index_can_lie_elsewhere_and_belongs_to_one_folder(
    tmp_path: Path, paint: Paint, colours: Any
) -> None:
    for name in ("one", "two"):
        paint(tmp_path / name / f"{name}.png", "red")
    at = tmp_path / "kept" / "here"
    index(tmp_path / "one", colours, at=at)
    assert not (tmp_path / "one" / ".kalpana").exists()
    assert search(tmp_path / "one", "red", colours, at=at)[0].path == tmp_path / "one" / "one.png"
    for attempt in (
        lambda: index(tmp_path / "two", colours, at=at),
        lambda: search(tmp_path / "two", "red", colours, at=at),
    ):
        with pytest.raises(KalpanaError, match=r"holds the index of .*one, not of .*two"):
            attempt()
    (tmp_path / "one").rename(tmp_path / "moved")
    assert index(tmp_path / "moved", colours, at=at).seen == 0


# ---------------------------------------------------------------------------------------- failures

KILLED = """
import sys

sys.path.insert(0, sys.argv[1])
from pathlib import Path

from conftest import Colours

from kalpana.understand import index as indexing
from kalpana.understand.store import Store

indexing.BATCH, indexing.COMMIT = 2, 4


def printed(name):
    do = getattr(Store, name)

    def doing(*arguments, **options):
        print(name, flush=True)
        return do(*arguments, **options)

    return doing


for name in ("write", "remove", "tidy"):
    setattr(Store, name, printed(name))
indexing.index(Path(sys.argv[2]), Colours(), progress=lambda *step: print(*step, flush=True))
"""


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="Windows has no SIGKILL")
def test_a_killed_run_loses_nothing_that_was_written_and_the_next_goes_on(
    tmp_path: Path, paint: Paint, colours: Any
) -> None:
    """Runs on one folder are killed during a write, during a removal and while tidying."""
    names = [f"{k:02}.png" for k in range(18)]
    for k, name in enumerate(names):
        paint(tmp_path / name, *colours.named[k % 4 : k % 4 + 1 + k // 4], size=(32, 32 + k))
    command = [sys.executable, "-c", KILLED, str(Path(__file__).parent), str(tmp_path)]
    gone = paint(tmp_path / "gone.png", "grey")
    for last, count in (("write", 2), ("remove", 1), ("tidy", 1)):
        if last == "remove":
            gone.unlink()
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as run:
            assert run.stdout is not None
            for line in run.stdout:
                count -= line.split()[0] == last
                if count == 0:
                    run.kill()
                    break
            else:
                pytest.fail(f"it ended before its {last}")
        assert run.returncode == -signal.SIGKILL
        rows = listed(tmp_path, colours)
        assert (
            rows.keys() <= {*names, "gone.png"}
            and len(rows) >= {"write": 4, "remove": len(names), "tidy": len(names)}[last]
        )
    last_run = index(tmp_path, colours)
    assert last_run.seen == 0 and last_run.pictures == len(names)
    assert_whole(tmp_path, replace(colours))


def stopped_after_four(folder: Path, paint: Paint, colours: Any) -> None:
    """Saves a picture of every colour, and stops an index run after the fourth."""
    for name in colours.named:
        paint(folder / f"{name}.png", name)

    def stop(stage: str, done: int, total: int) -> None:
        if done == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        index(folder, colours, progress=stop)


def test_a_run_that_is_stopped_keeps_all_that_it_has_reported(
    tmp_path: Path, paint: Paint, colours: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(indexing, "BATCH", 2)
    stopped_after_four(tmp_path, paint, colours)
    assert len(listed(tmp_path, colours)) == 4
    assert index(tmp_path, colours).seen == 4
    assert_whole(tmp_path, colours)


@contextmanager
def small_disk(room: int) -> Iterator[None]:
    """Context in which files are limited to ``room`` bytes, like on a full disk."""
    resource = pytest.importorskip("resource", reason="Windows sets no limit on the size of files")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, before)


def test_a_full_disk_is_told_and_what_was_done_is_kept(
    tmp_path: Path, paint: Paint, colours: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(indexing, "BATCH", 1)
    monkeypatch.setattr(indexing, "COMMIT", 2)
    stopped_after_four(tmp_path, paint, colours)
    kept = listed(tmp_path, colours)
    assert len(kept) == 4
    with (
        small_disk(500),
        pytest.raises(
            KalpanaError,
            match=r"the disk is full at .*make room.*; 4 pictures are in the index and stay there",
        ),
    ):
        index(tmp_path, colours)
    assert listed(tmp_path, colours).keys() == kept.keys()
    assert index(tmp_path, colours).seen == 4
    assert_whole(tmp_path, colours)


@pytest.mark.skipif(
    not Path("/proc").is_dir(), reason="a folder that nobody may write to is only known on Linux"
)
def test_a_place_that_cannot_be_written_is_told(tmp_path: Path, paint: Paint, colours: Any) -> None:
    paint(tmp_path / "a.png", "red")
    with pytest.raises(KalpanaError, match="nothing can be written to /proc/kalpana"):
        index(tmp_path, colours, at=Path("/proc/kalpana"))


def test_one_run_writes_at_a_time(tmp_path: Path, paint: Paint, colours: Any) -> None:
    paint(tmp_path / "a.png", "red")
    index(tmp_path, colours)
    with (
        FileLock(tmp_path / ".kalpana" / "lock"),
        pytest.raises(KalpanaError, match="is being written by another program"),
    ):
        index(tmp_path, colours)
    assert len(search(tmp_path, "red", colours)) == 1


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("index.json", b'{"format": 1, "tuned": {}}', "made by another version of Kalpana"),
        ("index.json", b"{", "is damaged: its index.json"),
        (
            "index.json",
            b'{"format": 2, "tuned": {"x": {"probes": 1}}}',
            "is damaged: its index.json",
        ),
        ("index.json", None, "is damaged: it has tables but no index.json"),
        ("*/data/*.lance", b"", "is damaged"),
        ("*/data/*.lance", "half", "is damaged"),
        ("*/data/*.lance", "noise", "is damaged"),
        ("*/data/*.lance", None, "is damaged"),
        ("*/_versions/*.manifest", "half", "is damaged"),
        ("*/_versions/*.manifest", None, "is damaged"),
    ],
)  # fmt: skip
def test_a_damaged_index_is_told_and_left_alone(
    name: str,
    data: bytes | str | None,
    message: str,
    tmp_path: Path,
    paint: Paint,
    colours: Any,
    capfd: pytest.CaptureFixture[str],
) -> None:
    paint(tmp_path / "a.png", "red")
    index(tmp_path, colours)
    home = tmp_path / ".kalpana"
    files = sorted(path for path in home.glob(name) if not path.parts[-3].startswith("broken"))
    assert files
    for path in files:
        whole = path.read_bytes()
        path.unlink()
        if data is not None:
            damaged = whole[: len(whole) // 2] if data == "half" else whole[::-1]
            path.write_bytes(data if isinstance(data, bytes) else damaged)
    before = contents(home)
    paint(tmp_path / "b.png", "blue")
    for attempt in (lambda: search(tmp_path, "red", colours), lambda: index(tmp_path, colours)):
        with pytest.raises(KalpanaError, match=message) as raised:
            attempt()
        assert "\n" not in str(raised.value)
    assert contents(home) == before


def test_a_table_that_was_half_made_is_made_anew(
    tmp_path: Path, paint: Paint, colours: Any
) -> None:
    paint(tmp_path / "a.png", "red")
    half = tmp_path / ".kalpana" / f"{table_name(colours)}.lance"
    (half / "_versions").mkdir(parents=True)
    (tmp_path / ".kalpana" / "index.json").write_text('{"tuned": {}, "format": 2, "folder": null}')
    with pytest.raises(KalpanaError, match="has not seen the pictures"):
        search(tmp_path, "red", colours)
    index(tmp_path, colours)
    assert_whole(tmp_path, colours)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda folder: folder.joinpath("notes.txt").write_text("x"), "there are no pictures in"),
        (lambda folder: folder.rmdir(), "there is no folder"),
    ],
)
def test_a_folder_with_nothing_to_look_at_is_told(
    make: Callable[[Path], object], message: str, tmp_path: Path, colours: Any
) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    make(folder)
    with pytest.raises(KalpanaError, match=message):
        index(folder, colours)
    assert not (folder / ".kalpana").exists()
    with pytest.raises(KalpanaError, match=r"there is no index of|there is no folder"):
        search(folder, "red", colours)


def test_an_emptied_folder_does_not_empty_its_index(
    tmp_path: Path, paint: Paint, colours: Any
) -> None:
    """An unmounted disk looks like an empty folder."""
    at = tmp_path / "kept"
    picture = paint(tmp_path / "in" / "a.png", "red")
    index(tmp_path / "in", colours, at=at)
    picture.unlink()
    with pytest.raises(KalpanaError, match="there are no pictures"):
        index(tmp_path / "in", colours, at=at)
    assert len(listed(tmp_path / "in", colours, at)) == 1


def test_a_folder_whose_name_is_no_plain_text_needs_an_index_elsewhere(
    tmp_path: Path, paint: Paint, colours: Any
) -> None:
    folder = tmp_path / "new\nline"
    paint(folder / "a.png", "red")
    with pytest.raises(KalpanaError, match="name another folder with --index"):
        index(folder, colours)
    assert index(folder, colours, at=tmp_path / "kept").pictures == 1
    assert_whole(folder, colours, tmp_path / "kept")


@pytest.mark.parametrize("name", ["it's", "a b", "50%20#x?", "बिल्ली", "s3:"])
def test_an_index_can_lie_in_folders_of_most_names(
    name: str, tmp_path: Path, paint: Paint, colours: Any
) -> None:
    paint(tmp_path / name / "a.png", "red")
    index(tmp_path / name, colours)
    assert_whole(tmp_path / name, colours)


# ------------------------------------------------------------------------------- approximate index


@dataclass(frozen=True)
class Scattered:
    """Encoder of texts as random points on a sphere: the hardest case for an inverted file."""

    name: str = "scattered"
    fingerprint: str = "0" * 64
    size: int = 24

    def images(self, pictures: list[Image.Image]) -> torch.Tensor:
        raise AssertionError("there are none here")

    def texts(self, texts: list[str]) -> torch.Tensor:
        seeds = [zlib.crc32(text.encode()) for text in texts]
        generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        rows = [torch.randn(self.size, generator=generator) for generator in generators]
        return F.normalize(torch.stack(rows), dim=1)


def rows_of(vectors: np.ndarray, start: int) -> list[tuple[Read, np.ndarray]]:
    facts = {
        "width": 1,
        "height": 1,
        "date": "2026-01-01T00:00:00",
        "prompt": None,
        "words": None,
        "model": None,
        "seed": None,
    }
    return [
        (Read(File(b"%d.png" % k, 1, 1), b"%d" % k, facts, None), vector)
        for k, vector in enumerate(vectors, start)
    ]


@pytest.mark.slow
def test_many_pictures_get_an_approximate_index_tuned_until_it_finds_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(stores, "EXACT", 1500)
    encoder, rng = Scattered(), np.random.default_rng(0)
    vectors = rng.standard_normal((2000, encoder.size), dtype=np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    with writing(tmp_path, encoder, None) as store:
        store.write(rows_of(vectors[:1400], 0), replace=False)
        store.approximate(encoder)
        assert store.tuned is None
        store.write(rows_of(vectors[1400:1900], 1400), replace=False)
        store.approximate(encoder)
        tuned = store.tuned
        assert tuned and (tuned.rows, tuned.made, tuned.part) == (1900, 1900, 44)
        # The initial 8 probes are not enough here.
        assert min(tuned.pictures, tuned.words) >= 0.99 and 8 < tuned.probes <= 64
        store.write(rows_of(vectors[1900:1910], 1900), replace=False)
        store.approximate(encoder)
        assert store.tuned == tuned  # too few new rows
        store.write(rows_of(vectors[1910:], 1910), replace=False)
        store.approximate(encoder)
        assert store.tuned and (store.tuned.rows, store.tuned.made) == (2000, 1900)
        store.tidy()
    store = open_store(tmp_path, encoder)
    tuned = store.tuned
    assert tuned is not None
    queries = encoder.texts([f"query {k}" for k in range(100)]).numpy()
    best = np.argsort(-queries @ vectors.T, axis=1)[:, :10]
    found = [
        {int(row["path"][:-4]) for row in store.nearest(query, 10, ["path"], tuned=tuned)}
        for query in queries
    ]
    assert (
        np.mean(
            [len(some & set(true)) / 10 for some, true in zip(found, best.tolist(), strict=True)]
        )
        >= 0.98
    )
    exact = [
        [int(row["path"][:-4]) for row in store.nearest(query, 10, ["path"])] for query in queries
    ]
    assert exact == best.tolist()
    scores = [row["score"] for row in store.nearest(queries[0], 10)]
    assert np.allclose(scores, np.sort(queries[0] @ vectors.T)[::-1][:10], atol=1e-5)
    everything = store.nearest(queries[0], 5000, ["path"], tuned=replace(tuned, probes=1000))
    # The updates of the approximate index have lost no row.
    assert sorted(int(row["path"][:-4]) for row in everything) == list(range(2000))
    assert capfd.readouterr() == ("", "")
