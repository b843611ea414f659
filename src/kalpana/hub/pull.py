"""Fetching the weights of a model by name from a mirror: a local folder or a web address.

A mirror is laid out like the folder ``weights`` of a repository: NAME/card.json and NAME/FILE.
Every file must have the hash in the card. A stopped transfer resumes where it ended.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from contextlib import closing
from http.client import HTTPException
from pathlib import Path
from typing import IO
from urllib.error import HTTPError, URLError
from urllib.parse import quote
from urllib.request import Request, urlopen

from kalpana.hub.card import (
    CARD,
    WEIGHTS,
    Card,
    model_folders,
    own_weights_dir,
    parse_card,
    paths_of,
    read_card,
    write_card,
)
from kalpana.hub.weights import fingerprint, whole_of
from kalpana.media import locked
from kalpana.types import KalpanaError

URL = "KALPANA_WEIGHTS_URL"  # environment variable: the mirror used without --from
BLOCK = 1 << 20  # bytes read at a time
TIMEOUT = 60  # seconds without an answer
SHARED = ("vqgan", "clip")  # models whose weights other models use, see vqgan_of and clip_of
Progress = Callable[[int, int, str], None]  # bytes of a file that are here, of all, its place


def silent(done: int, total: int, place: str) -> None:
    """Progress callback that does nothing."""


def pull(
    name: str, source: str | None = None, to: Path | None = None, progress: Progress = silent
) -> Path:
    """Folder of a model, fetched from the mirror ``source`` unless its weights are here.

    ``source`` is a folder or an http(s) address; None: the one in KALPANA_WEIGHTS_URL. The model is
    written to ``to``/NAME; None: see ``own_weights_dir``. The card is the one that comes with
    Kalpana, or the mirror's for a model that Kalpana does not know. A VQGAN or CLIP that the model
    shares is fetched too. Raises KalpanaError if there is no mirror, the model is not there, a file
    differs from the card, or it cannot be read or written.
    """
    if not re.fullmatch(r"\w[\w.-]*", name):
        raise KalpanaError(f"{name!r} is no name of a model: write one from `kalpana models`")
    target, card = _target(to) / name, _known_card(name)
    here = None if card is None else _complete(name, card, target if to else None)
    if here is not None:
        return here
    mirror = source or os.environ.get(URL)
    if not mirror:
        raise KalpanaError(
            f"there is no mirror to pull {name} from: name a folder or an https address by "
            f"--from or {URL}, such as the folder weights of a clone of Kalpana"
        )
    if card is None:
        card = parse_card(_read_small(mirror, name), f"{mirror}/{name}/{CARD}")
        if card.name != name:
            raise KalpanaError(f"{mirror}/{name} holds a model called {card.name!r}, not {name!r}")
    try:
        with locked(target):
            for file in card.files:
                if file.endswith(".safetensors"):
                    _fetch(mirror, name, file, card, target, progress)
            write_card(target, card)  # last: a folder with a card is whole
    except OSError as error:
        raise KalpanaError(
            f"{target} cannot be written: {error.strerror or error}; name another folder by --to"
        ) from None
    return target


def _target(to: Path | None) -> Path:
    """The folder of model folders that is written to."""
    place = to or own_weights_dir()
    if to is None and os.environ.get(WEIGHTS):
        place.mkdir(parents=True, exist_ok=True)
    return place


def _known_card(name: str) -> Card | None:
    folder = model_folders().get(name)
    return None if folder is None else read_card(folder)


def _complete(name: str, card: Card, wanted: Path | None) -> Path | None:
    """The folder of a model whose weights are here, as its card says; None if they are not."""
    folder = wanted or model_folders()[name]
    if not (folder / CARD).is_file():
        return None
    paths = paths_of(folder, card)
    whole = all(
        name in paths and fingerprint(paths[name]) == card.files[name] for name in card.files
    )
    return folder if whole else None


def _fetch(mirror: str, name: str, file: str, card: Card, target: Path, progress: Progress) -> None:
    """Fetch one file of a model into its folder, unless it is there, or a shared model that has
    it."""
    if Path(file).name != file:
        raise KalpanaError(f"the card of {name} names {file!r}, which is no plain file name")
    sha256, shared = card.files[file], whole_of(Path(file)).stem
    here = paths_of(target, card).get(file)
    if here is not None and fingerprint(here) == sha256:
        return
    if _transfer(mirror, f"{name}/{file}", target / file, sha256, progress):
        return
    if shared not in SHARED or shared == name:
        raise KalpanaError(f"{mirror} has no {name}/{file}: name another mirror by --from")
    found = pull(shared, mirror, target.parent, progress) / file
    if not found.is_file() or fingerprint(found) != sha256:
        raise KalpanaError(f"{name} needs another {file} than that of {mirror}/{shared}")


def _transfer(mirror: str, place: str, path: Path, sha256: str, progress: Progress) -> bool:
    """Copy a file of the mirror to ``path``, from where an earlier transfer ended; False if the
    mirror has no such file."""
    part = path.with_name(f"{path.name}.part")
    for start in (part.stat().st_size if part.is_file() else 0, 0):
        stream = _open(mirror, place, start)
        if stream is None:
            return False
        source, start, size = stream
        with closing(source), part.open("ab" if start else "wb") as sink:
            while block := _block(source, mirror, place):
                sink.write(block)
                progress(sink.tell(), size, place)
        if part.stat().st_size < size:
            raise _broken(mirror, place, EOFError("the connection ended early"))
        if fingerprint(part) == sha256:
            part.replace(path)
            return True
        part.unlink()
        if not start:
            break
    raise KalpanaError(
        f"{mirror}/{place} is not the file that the card describes: name a mirror of this version "
        "of Kalpana"
    )


def _block(source: IO[bytes], mirror: str, place: str) -> bytes:
    """The next bytes of a file of the mirror."""
    try:
        return source.read(BLOCK)
    except (OSError, HTTPException) as error:
        raise _broken(mirror, place, error) from None


def _broken(mirror: str, place: str, error: Exception) -> KalpanaError:
    cause = getattr(error, "reason", error)
    reason = getattr(cause, "strerror", None) or cause
    return KalpanaError(
        f"{mirror}/{place} cannot be read: {reason}; the same command resumes the transfer"
    )


def _open(mirror: str, place: str, start: int) -> tuple[IO[bytes], int, int] | None:
    """A file of the mirror, open at byte ``start`` or, if the server cannot do so, at 0; that byte;
    and the size of the file, 0 if it is unknown. None if there is no such file."""
    try:
        if not re.match(r"https?://", mirror):
            if not Path(mirror).is_dir():
                raise KalpanaError(f"the mirror {mirror} is neither a folder nor an https address")
            file = (Path(mirror) / place).open("rb")
            size = os.fstat(file.fileno()).st_size
            start = start if start < size else 0
            file.seek(start)
            return file, start, size
        headers = {"Range": f"bytes={start}-"} if start else {}
        answer = urlopen(
            Request(f"{mirror.rstrip('/')}/{quote(place)}", headers=headers), timeout=TIMEOUT
        )
        start = start if answer.status == 206 else 0
        return answer, start, start + int(answer.headers.get("Content-Length") or 0)
    except FileNotFoundError:
        return None
    except HTTPError as error:
        if error.code == 416:  # the partial file is as long as the whole one, or longer
            return _open(mirror, place, 0)
        if error.code in (404, 410):
            return None
        raise _broken(mirror, place, error) from None
    except (URLError, HTTPException, OSError, ValueError) as error:
        raise _broken(mirror, place, error) from None


def _read_small(mirror: str, name: str) -> bytes:
    """The card of a model of the mirror."""
    stream = _open(mirror, f"{name}/{CARD}", 0)
    if stream is None:
        raise KalpanaError(f"{mirror} has no model {name!r}: `kalpana models` lists the names")
    with closing(stream[0]) as source:
        return _block(source, mirror, f"{name}/{CARD}")
