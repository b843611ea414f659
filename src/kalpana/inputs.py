"""Media inputs of a request: a picture, mask, map or video, known by the SHA-256 of its bytes.

A receipt keeps the name, the path and the hash of every input, and never its bytes. A request that
is read from a receipt opens the file where it was, and refuses one with another hash.
"""

from __future__ import annotations

import base64
import hashlib
import io
import re
from collections.abc import Sequence
from os import PathLike, fspath
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, model_validator

from kalpana.errors import KalpanaError

if TYPE_CHECKING:
    from PIL import Image

DATA_URL = re.compile(r"data:[\w.+-]*/?[\w.+-]*(?:;[\w=-]+)*;base64,", re.ASCII)


class Media(BaseModel):
    """One media input: its file ``name``, the ``sha256`` of its bytes, and its ``path`` on this
    machine, None for bytes.

    It is made from a path, from bytes, from a data URL in base64, from a PIL image, or from the
    fields that a receipt holds. Raises KalpanaError if a path cannot be read.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    sha256: str = Field(pattern="^[0-9a-f]{64}$")
    path: str | None = None
    _data: bytes | None = PrivateAttr(None)

    @model_validator(mode="wrap")
    @classmethod
    def _of(cls, value: Any, handler: Any) -> Media:
        if isinstance(value, cls):
            return value
        if isinstance(value, dict):
            return handler(value)
        data, path = _read(value), None
        if isinstance(value, PathLike) or (isinstance(value, str) and not DATA_URL.match(value)):
            path = Path(fspath(value)).expanduser().resolve()
        media: Media = handler(
            {
                "name": path.name if path else "data",
                "sha256": hashlib.sha256(data).hexdigest(),
                "path": str(path) if path else None,
            }
        )
        if path is None:
            media._data = data
        return media

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Media) and self._key() == other._key()

    def __hash__(self) -> int:
        return hash(self._key())

    def _key(self) -> tuple[str, str, str | None]:
        return self.name, self.sha256, self.path

    def read(self) -> bytes:
        """The bytes of the input. Raises KalpanaError if the file is not where it was, or is
        another one."""
        if self._data is not None:
            return self._data
        if self.path is None or not Path(self.path).is_file():
            where = f"at {self.path}" if self.path else "in the request, which came as bytes"
            raise KalpanaError(
                f"the input {self.name} (SHA-256 {self.sha256[:12]}…) is no longer {where}: "
                "give the file again, for a replay as --input FILE"
            )
        data = Path(self.path).read_bytes()
        if (found := hashlib.sha256(data).hexdigest()) != self.sha256:
            raise KalpanaError(
                f"{self.path} is another file than the input {self.name}: its SHA-256 is "
                f"{found[:12]}…, not {self.sha256[:12]}…; give the former one, "
                "for a replay as --input FILE"
            )
        return data

    def picture(self, shortest: int | None = None) -> Image.Image:
        """The picture, in RGB, as ``media.read_picture``. Raises KalpanaError, which names the
        input, if it cannot be read."""
        from kalpana.media import read_picture

        try:
            return read_picture(self.read(), shortest)
        except KalpanaError as error:
            raise KalpanaError(f"the input {self.name}: {error}") from None

    def found_in(self, files: Sequence[Path]) -> Media:
        """The same input, at the path of the first of these files that has its hash."""
        for file in files:
            if (media := Media.model_validate(file)).sha256 == self.sha256:
                return media
        return self


def _read(value: Any) -> bytes:
    """The bytes of a path, a data URL, bytes, or a PIL image (as PNG)."""
    from PIL import Image

    if isinstance(value, bytes | bytearray):
        return bytes(value)
    if isinstance(value, Image.Image):
        file = io.BytesIO()
        value.save(file, "PNG")
        return file.getvalue()
    if isinstance(value, str) and (prefix := DATA_URL.match(value)):
        try:
            return base64.b64decode(value[prefix.end() :], validate=True)
        except ValueError:
            raise ValueError("is no base64: write data:image/png;base64,… or a path") from None
    if not isinstance(value, str | PathLike):
        raise ValueError("should be a path, bytes, a data URL or a PIL image")
    path = Path(fspath(value)).expanduser()
    try:
        return path.read_bytes()
    except OSError as error:
        raise ValueError(f"cannot be read: {error.strerror}") from None


class Margins(BaseModel):
    """Margins of pixels by which a picture is widened, on each side."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    left: int = Field(0, ge=0, le=2048)
    top: int = Field(0, ge=0, le=2048)
    right: int = Field(0, ge=0, le=2048)
    bottom: int = Field(0, ge=0, le=2048)

    @model_validator(mode="after")
    def _widens(self) -> Margins:
        if not any((self.left, self.top, self.right, self.bottom)):
            raise ValueError("adds no pixel: write by how many, such as left=64,right=64")
        return self

    def __str__(self) -> str:
        sides = {side: getattr(self, side) for side in type(self).model_fields}
        return ",".join(f"{side}={pixels}" for side, pixels in sides.items() if pixels)

    def around(self, size: tuple[int, int]) -> tuple[int, int]:
        """The size (width, height) of a picture of ``size`` with the margins."""
        return size[0] + self.left + self.right, size[1] + self.top + self.bottom


class ControlMap(BaseModel):
    """One control map of a request: its ``kind`` (such as edges), the picture, its ``strength``,
    and the share of the denoising, from ``start`` to ``end``, in which it acts.

    As text: "KIND=FILE" or "KIND=FILE:STRENGTH".
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: str
    image: Media
    strength: float = Field(1.0, ge=0, le=2, allow_inf_nan=False)
    start: float = Field(0.0, ge=0, le=1)
    end: float = Field(1.0, ge=0, le=1)

    @model_validator(mode="before")
    @classmethod
    def _of_text(cls, value: Any) -> Any:
        if not isinstance(value, str):
            return value
        kind, equals, file = value.partition("=")
        if not equals or not kind or not file:
            raise ValueError("should be KIND=FILE or KIND=FILE:STRENGTH, such as edges=map.png:0.8")
        name, strength = _with_strength(file)
        return {"kind": kind, "image": name, "strength": strength}


class Adapter(BaseModel):
    """One adapter (LoRA) of a request: the file of its weights, and its ``strength``.

    As text: "FILE" or "FILE:STRENGTH"; for a folder, the lora.safetensors in it.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    file: Media
    strength: float = Field(1.0, ge=-2, le=2, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _of_text(cls, value: Any) -> Any:
        if not isinstance(value, str | PathLike):
            return value
        name, strength = _with_strength(fspath(value))
        path = Path(name).expanduser()
        if path.is_dir() and not (path / "lora.safetensors").is_file():
            unfinished = (path / "checkpoint.safetensors").is_file()
            raise ValueError(
                "its training has not finished: run the same kalpana train command again"
                if unfinished
                else "has no lora.safetensors: give an adapter's file, or the folder of its run"
            )
        if not path.exists():
            raise ValueError(
                "is no file: give an adapter's file or the folder of its run, perhaps with a "
                "strength, as runs/mug:0.8"
            )
        return {"file": path / "lora.safetensors" if path.is_dir() else path, "strength": strength}


def _with_strength(text: str) -> tuple[str, float]:
    """The file and the strength of "FILE:STRENGTH"; 1 without a strength."""
    name, _, strength = text.rpartition(":")
    try:
        return (name, float(strength)) if name else (text, 1.0)
    except ValueError:  # no strength; a colon belongs to the name
        return text, 1.0
