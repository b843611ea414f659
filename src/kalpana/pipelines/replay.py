"""Replay: generates a picture again from its receipt, and compares it with the file."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from os import PathLike
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from kalpana.media import read_picture, read_receipt, read_video
from kalpana.pipelines.pipeline import Pipeline
from kalpana.request import INPUTS, Request
from kalpana.types import KalpanaError, Output, Step, Video


@dataclass(frozen=True)
class ReplayDiff:
    """The comparison of a picture file with its replay: whether ``bytes`` and ``pixels`` are equal,
    the ``largest`` difference of an 8-bit value (255 if the sizes differ), and ``changed``, the
    receipt entries that differ and may be the reason: versions, device, weights."""

    bytes: bool
    pixels: bool
    largest: int
    changed: tuple[str, ...]

    def __str__(self) -> str:
        if self.bytes:
            return "the same bytes"
        text = (
            "the same pixels, other bytes"
            if self.pixels
            else f"other pixels, by {self.largest} of 255 at most"
        )
        return text + (f"; since then {', '.join(self.changed)} changed" if self.changed else "")


def request_of(receipt: dict[str, Any], files: Sequence[Path] = ()) -> Request:
    """The request that generates the picture of a receipt again, alone. Inputs that are not where
    the receipt says are looked for, by their hash, among ``files``. Raises KalpanaError if the
    receipt cannot be replayed."""
    try:
        request = Request(prompt=receipt["request"].get("prompt", ""), **receipt["resolved"])
    except (KeyError, TypeError):
        raise KalpanaError(
            "this receipt cannot be replayed: it is not of one picture "
            "(replay the pictures of a sheet one by one)"
        ) from None
    check_inputs(files, [request])
    media = {name: getattr(request, name) for name in INPUTS}
    found: dict[str, Any] = {name: each.found_in(files) for name, each in media.items() if each}
    if request.control:
        found["control"] = [
            each.model_copy(update={"image": each.image.found_in(files)})
            for each in request.control
        ]
    if request.adapter:
        found["adapter"] = [
            each.model_copy(update={"file": each.file.found_in(files)}) for each in request.adapter
        ]
    return request.updated(**found)


def load_options(receipt: dict[str, Any]) -> dict[str, Any]:
    """Options with which ``load`` reads the model of a receipt as it was, on the same device."""
    about = receipt.get("diffusers") or {}
    return {name: about[name] for name in ("dtype", "tiling") if about.get(name)}


def check_inputs(files: Sequence[Path], requests: Sequence[Request]) -> None:
    """Raises KalpanaError where a file cannot be read, or is an input of none of the requests."""
    hashes = {media.sha256 for request in requests for media in request.media()}
    for file in files:
        try:
            data = Path(file).read_bytes()
        except OSError as error:
            raise KalpanaError(f"input {file} cannot be read: {error.strerror}") from None
        if hashlib.sha256(data).hexdigest() not in hashes:
            raise KalpanaError(
                f"input {file} is none of the receipt's: no input there has its SHA-256"
            )


def again(model: Pipeline, receipt: dict[str, Any], files: Sequence[Path] = ()) -> Iterator[Step]:
    """The stream that generates the picture of a receipt again. Raises KalpanaError as
    ``request_of`` and ``Pipeline.generate``."""
    return model.generate(request_of(receipt, files))


def compare(path: Path, again: Output) -> ReplayDiff:
    """The comparison of the picture or video file at ``path`` with ``again``, its replay, which is
    encoded in the same format."""
    receipt, data = read_receipt(path), path.read_bytes()
    with TemporaryDirectory() as folder:
        # Encoded with the receipt of the file, so that only the pixels can differ.
        copy = replace(again, receipt=receipt).save(Path(folder) / path.name).path
        assert copy is not None
        file = copy.read_bytes()
    before, after = (_pixels(each, again) for each in (data, file))
    largest = int(np.abs(before - after).max()) if before.shape == after.shape else 255
    changed = tuple(
        name
        for name in ("kalpana", "torch", "device", "model", "guide", "diffusers")
        if receipt.get(name) != again.receipt.get(name)
    )
    return ReplayDiff(bytes=file == data, pixels=largest == 0, largest=largest, changed=changed)


def _pixels(data: bytes, output: Output) -> np.ndarray:
    """The 8-bit pixels of a file that holds such an output: (h, w, 3), or (f, h, w, 3)."""
    if not isinstance(output.media, Video):
        return np.asarray(read_picture(data)).astype(int)
    return np.stack([np.asarray(frame) for frame in read_video(data)]).astype(int)


def replay(path: str | PathLike[str], inputs: Sequence[Path] = ()) -> tuple[Output, ReplayDiff]:
    """The output generated again from the receipt in a file, and its comparison with the file.

    ``inputs`` are input files that are not where the receipt says. Raises KalpanaError if there is
    no receipt, the model or an input is not here, or as ``Pipeline.generate``.
    """
    from kalpana.pipelines import last, load

    receipt = read_receipt(Path(path))
    model = load(request_of(receipt).model, **load_options(receipt))
    (output,) = last(again(model, receipt, inputs)).outputs
    return output, compare(Path(path), output)
