"""Atomic writing of files, names that no other file has, and folders with one writer at a time."""

from __future__ import annotations

import os
import secrets
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from kalpana.errors import KalpanaError


@contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """A temporary file beside ``path`` that replaces it at the end of the block.

    Its name is unique, and it is synced to disk first. Its mode is 0666 & ~umask, also where the
    block replaces the temporary file by one of another mode. If the block raises, ``path`` is left
    as it was and the temporary file is removed.
    """
    temporary = path.with_name(f".{secrets.token_hex(8)}.part")
    try:
        with temporary.open("xb") as file:
            mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
        yield temporary
        temporary.chmod(mode)
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def write(path: Path, data: bytes) -> None:
    """Write a file atomically."""
    with atomic(path) as temporary:
        temporary.write_bytes(data)


def ready_folder(folder: Path, room: int) -> None:
    """Create the folder and check that ``room`` bytes can be written there, by writing them to a
    temporary file. Raises KalpanaError if they cannot."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as file:
            for start in range(0, room, 1 << 20):
                file.write(bytes(min(1 << 20, room - start)))
    except OSError as error:
        raise KalpanaError(
            f"nothing can be written to the folder {folder}: {error.strerror or error}; "
            "name another with --out"
        ) from None


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Context in which no other process works in the folder, which is created; the lock ends with
    the process. Raises KalpanaError if another process does."""
    import fcntl  # Windows has none

    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("a") as file:
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError):
            raise KalpanaError(
                f"another process works in {folder}: wait until it ends, or name another folder"
            ) from None
        yield


def sidecar(path: Path) -> Path:
    """The path of the receipt of a JPEG that has no room for it."""
    return path.with_name(path.name + ".json")


@contextmanager
def claimed(path: Path, has_sidecar: bool = False) -> Iterator[Path]:
    """An unused path, PATH, PATH-2, PATH-3 …, reserved by an empty file, so that two processes
    never use the same one; the reservation is removed if the block raises.

    A path whose sidecar exists is in use too: the sidecar would describe the wrong picture. With
    ``has_sidecar`` the sidecar is reserved in the same way.
    """
    reserved = list[Path]()
    try:
        for number in range(1, 10_000):
            candidate = path if number == 1 else path.with_stem(f"{path.stem}-{number}")
            if not _reserve(candidate):
                continue
            reserved = [candidate]
            beside = sidecar(candidate)
            if beside.exists() or (has_sidecar and not _reserve(beside)):
                candidate.unlink()
                reserved = []
                continue
            reserved += [beside] if has_sidecar else []
            break
        else:
            raise KalpanaError(
                f"{path.parent} holds 9,999 files named like {path.name}: "
                "name another folder with --out"
            )
        yield candidate
    except BaseException:
        for each in reserved:
            each.unlink(missing_ok=True)
        raise


def _reserve(path: Path) -> bool:
    """Whether an empty file was created at ``path``; False if a file is there."""
    try:
        path.open("xb").close()
    except FileExistsError:
        return False
    return True
